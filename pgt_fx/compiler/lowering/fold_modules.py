"""Fold: the nodes of a module call that mix no time become one call of the user's own module.

So batch norm, dropout, hooks, frozen layers and adapters keep working, and the emitted code reads
like the model (DESIGN §4).
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from torch import Tensor, fx

from pgt_fx.capture.captured import Captured
from pgt_fx.capture.observe.module_calls import Whole, call_stack


@dataclass(frozen=True)
class Region:
    """A module call to be called whole.

    Attributes:
        path: of the module in the user's model.
        source: the node that it is given.
        result: the node that it returns.
        nodes: all nodes of the call.
    """

    path: str
    source: fx.Node
    result: fx.Node
    nodes: frozenset[fx.Node]


def fold(
    captured: Captured, local: Callable[[fx.Node], bool], opened: Collection[fx.Node] = ()
) -> dict[fx.Node, Region]:
    """The coarsest module calls all of whose nodes are ``local``.

    Args:
        opened: nodes whose values are read from outside, which are in no call but as its result.

    Returns:
        node -> region, for every node of every region.
    """
    members: dict[str, list[fx.Node]] = {}
    for node in captured.graph.nodes:
        if node.op == "call_function":
            for key in call_stack(node):
                members.setdefault(key, []).append(node)
    regions: dict[fx.Node, Region] = {}
    # Outer calls come first: a call's nodes are a subset of its caller's.
    for key, nodes in sorted(members.items(), key=lambda item: (-len(item[1]), item[0])):
        call = captured.calls.get(key)
        if call is None or not call.one_to_one or any(node in regions for node in nodes):
            continue
        if not all(local(node) for node in nodes):
            continue
        if captured.branches is not None and key in captured.branches.calls:
            continue  # it would decide anew for each chunk
        if key in captured.opened:
            continue
        region = _region(captured, call.path, nodes, opened)
        if region is not None:
            for node in nodes:
                regions[node] = region
    return regions


def called_whole(captured: Captured, regions: dict[fx.Node, Region]) -> Whole:
    """The modules of which every operator is in a region."""
    rest = (n for n in captured.graph.nodes if n.op == "call_function" and n not in regions)
    return Whole(
        frozenset(region.path for region in regions.values()),
        frozenset(key.partition("@")[0] for node in rest for key in call_stack(node)),
    )


def _region(
    captured: Captured, path: str, nodes: list[fx.Node], opened: Collection[fx.Node]
) -> Region | None:
    """The call as one tensor in, one tensor out; None where it has other ties."""
    if any("pgt_constant" in node.meta for node in nodes):
        return None  # of a step's frames it would calculate another number
    inside = frozenset(nodes)
    sources: list[fx.Node] = []
    for node in nodes:
        for operand in node.all_input_nodes:
            if operand in inside or operand in sources or _own(captured, operand):
                continue
            if isinstance(operand.meta.get("val"), Tensor):
                sources.append(operand)
            elif isinstance(operand.meta.get("val"), (tuple, list)):
                return None
    results = [n for n in nodes if any(user not in inside for user in n.users)]
    if len(sources) != 1 or len(results) != 1:
        return None
    if not isinstance(results[0].meta.get("val"), Tensor):
        return None
    if any(n in opened and n is not results[0] for n in nodes):
        return None
    return Region(path, sources[0], results[0], inside)


def _own(captured: Captured, node: fx.Node) -> bool:
    """Whether the module reaches the operand by itself: a parameter, buffer or constant."""
    return node.op == "placeholder" and node.name not in captured.inputs
