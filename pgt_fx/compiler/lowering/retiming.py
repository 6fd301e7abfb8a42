"""Retiming: place the delays so that the state is smallest (DESIGN §12), as for circuits.

At a join the operand that comes early waits, at the join or anywhere on its way there: an operator
that mixes no time gives the same whether its operand waits or its result. Where to wait is a choice
of bytes: before a projection that widens, after one that narrows, and for free where a window
carries those very elements. A value is held once for all of its readers, as long as the latest of
them needs it. Least bytes under these rules is the dual of a min-cost flow (C. E. Leiserson and
J. B. Saxe, "Retiming synchronous circuitry", 1991, §8), which networkx solves exactly.

Windows, joins, reductions and operators that depend on which frames come together in a step are not
moved. An operator whose joins need it at different times waits for the first of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import networkx as nx
from torch import Tensor, fx

from pgt_fx.compiler.analysis.stream_phases import phases
from pgt_fx.compiler.analysis.timed_graph import Analysis, Value
from pgt_fx.compiler.lowering.fold_modules import Region
from pgt_fx.compiler.lowering.state_bytes import element_bytes, example_sizes
from pgt_fx.core.clock_equality import same, samples
from pgt_fx.core.clocks import Clock
from pgt_fx.core.law import Law
from pgt_fx.core.layout import LayoutError
from pgt_fx.rules import Kind

#: Bytes of what can't wait, if there is any other way.
_NEVER = 1 << 48
_NOW = "now"  # the node of the flow network that stands for all that is not moved


def early(clock: Clock, joined: Clock, ratio: tuple[int, ...]) -> int:
    """Elements by which an operand is ahead of its join, at most, once a stream is under way.

    0 where it lags: a join emits what the step has of such an operand so far.
    """
    return max(0, *(a - b for a, b in _counts(clock, joined, ratio)))


def carried(kind: Kind, source: Clock, out: Clock, ratio: tuple[int, ...]) -> int:
    """Elements of its operand that an operator carries at most, once a stream is under way."""
    law = kind.sliding()
    windows = [] if law is None else [(law, source)]
    return max(kind.carries(seen, outs) for seen, outs in _counts(source, out, ratio, windows))


def _counts(
    a: Clock, b: Clock, ratio: tuple[int, ...], windows: Sequence[tuple[Law, Clock]] = ()
) -> list[tuple[int, int]]:
    times = [tuple(n * r for r in ratio) for n in phases((a, b), ratio, windows)]
    return [(a.at(t, False).sure, b.at(t, False).sure) for t in times]


@dataclass
class _Reader:
    """One reader of a value.

    Attributes:
        node: what reads it, where it can be made late.
        slack: elements that the value may come late for the reader.
        held: elements of the value that the reader holds, when it is not late.
        clock: what the reader asks for.
    """

    node: fx.Node | None
    slack: int
    held: int
    clock: Clock


@dataclass
class _Network:
    """Values and their readers; ``bytes`` of one element of each value."""

    readers: dict[fx.Node, list[_Reader]] = field(default_factory=dict)
    bytes: dict[fx.Node, int] = field(default_factory=dict)


def late(
    analysis: Analysis, regions: Mapping[fx.Node, Region], local: Callable[[fx.Node], bool]
) -> dict[fx.Node, Clock]:
    """Operators to be run late, each with the clock that its operand and its result then have.

    Args:
        regions: node -> module call that is emitted whole.
        local: whether a captured node can be run frame by frame.
    """
    network = _readers(analysis, regions, local)
    movable = {r.node for readers in network.readers.values() for r in readers if r.node}
    wanted = _ways_to_joins(network, movable)
    if not wanted & movable:
        return {}
    by = _least(network, wanted, movable)
    out: dict[fx.Node, Clock] = {}
    for node in reversed(list(network.readers)):
        if by.get(node, 0) <= 0:
            continue
        clocks = [out.get(r.node, r.clock) if r.node else r.clock for r in network.readers[node]]
        first = _first(clocks, analysis.spec.ratio)
        if first is not None:
            out[node] = first
    return out


def _first(clocks: list[Clock], ratio: tuple[int, ...]) -> Clock | None:
    """The clock that never lags behind another; None where which one is may change."""
    found = list(dict.fromkeys(clocks))
    if len(found) == 1:
        return found[0]
    if any(c.paths != found[0].paths or len(c.paths) > 1 for c in found):
        return None  # paths may be fed unevenly
    clocks, looked_at = samples(ratio, *found)
    times = [(m, last) for m in looked_at for last in (False, True)]
    for number, one in enumerate(clocks):
        if times and all(one.at(*t).sure >= other.at(*t).sure for other in clocks for t in times):
            return found[number]
    return None


def _readers(
    analysis: Analysis, regions: Mapping[fx.Node, Region], local: Callable[[fx.Node], bool]
) -> _Network:
    """Every value with time, and who reads it how; values in topological order."""
    out, sizes = _Network(), example_sizes(analysis)
    for node in analysis.captured.graph.nodes:
        if isinstance(known := analysis.values.get(node.name), Value) and known.timed:
            region = regions.get(node)
            if region is None or region.result is node:
                out.readers[node] = []
                out.bytes[node] = element_bytes(analysis, node, sizes)
                if not _distinguishable(analysis, node):
                    out.bytes[node] = _NEVER
    for node in analysis.captured.graph.nodes:
        region = regions.get(node)
        if region is not None and region.result is not node:
            continue
        operands = [region.source] if region else node.all_input_nodes
        for operand in operands:
            if operand in out.readers:
                out.readers[operand].append(_reader(analysis, operand, node, region, local))
    return out


def _reader(
    analysis: Analysis,
    operand: fx.Node,
    node: fx.Node,
    region: Region | None,
    local: Callable[[fx.Node], bool],
) -> _Reader:
    clock, ratio = analysis.value(operand).clock, analysis.spec.ratio
    if clock is None:
        raise AssertionError("a value without time")
    operation = analysis.operations.get(node.name)
    if operation is None:
        return _Reader(None, 0, 0, clock)
    if operation.joined is not None and operand in operation.joins:
        ahead = early(clock, operation.joined, ratio)
        return _Reader(None, ahead, ahead, operation.joined)
    value = operation.value
    if isinstance(value, Value) and value.clock and not operation.outcome.may_wait:
        return _Reader(None, 0, carried(operation.outcome, clock, value.clock, ratio), clock)
    if _moves(analysis, operand, node, region, local):
        return _Reader(node, 0, 0, clock)
    return _Reader(None, 0, 0, clock)


def _moves(
    analysis: Analysis,
    operand: fx.Node,
    node: fx.Node,
    region: Region | None,
    local: Callable[[fx.Node], bool],
) -> bool:
    """Whether an operator can be run late: frame by frame, with nothing else that has time."""
    value, clock = analysis.values.get(node.name), analysis.value(operand).clock
    if not isinstance(value, Value) or value.clock is None or clock is None:
        return False
    members = region.nodes if region else (node,)
    for member in members:
        operation = analysis.operations.get(member.name)
        if operation is not None and not operation.outcome.may_wait:
            return False
        if operation is not None and (operation.joins or operation.tables):
            return False
    if region is None:
        others = [n for n in node.all_input_nodes if n is not operand]
        if not _distinguishable(
            analysis, node
        ):  # it must be able to, so that others may wait for it
            others = [n for n in others if not _size_of_clip(analysis, n)]
        if not local(node) or any(n.name not in analysis.captured.tensors for n in others):
            return False
    return value.clock is clock or same(value.clock, clock, analysis.spec.ratio)


def _distinguishable(analysis: Analysis, node: fx.Node) -> bool:
    """Whether a value's elements along time can be taken one by one, so that some may wait."""
    try:
        analysis.axis(node)
    except LayoutError:
        return False
    return True


def _size_of_clip(analysis: Analysis, node: fx.Node) -> bool:
    """Whether a node is a number calculated from the sizes of the inputs, which every step has."""
    if isinstance(node.meta.get("val"), Tensor):
        return node.name in analysis.captured.inputs
    return all(_size_of_clip(analysis, n) for n in node.all_input_nodes)


def _ways_to_joins(network: _Network, movable: set[fx.Node]) -> set[fx.Node]:
    """The values that wait at a join, and those from which only movable operators lead there."""
    wanted: set[fx.Node] = set()
    for node in reversed(list(network.readers)):
        for reader in network.readers[node]:
            waits = reader.node is None and reader.slack > 0
            if waits or (reader.node in wanted and reader.node in movable):
                wanted.add(node)
    return wanted


def _least(network: _Network, wanted: set[fx.Node], movable: set[fx.Node]) -> dict[fx.Node, int]:
    """By how many elements each operator is late when the bytes held are least.

    With r(v) the lateness of v, a value u of b bytes is held for max over its readers v of
    ``held + r(v) − r(u)`` elements. Written with a variable m(u) for the moment until which u is
    held, ``sum b(u) (m(u) − r(u))`` is to be least under differences bounded from below: the dual
    of a flow in which u sends b(u) units to m(u) along the bounds, at most profit.
    """
    flow = nx.DiGraph()

    def bound(later: object, sooner: object, least: int) -> None:
        """``later − sooner >= least``."""
        if not flow.has_edge(sooner, later) or -flow[sooner][later]["weight"] < least:
            flow.add_edge(sooner, later, weight=-least)

    flow.add_node(_NOW)
    moved = wanted & movable
    for node in wanted:
        here, until = (node if node in moved else _NOW), ("until", node)
        bound(here, _NOW, 0)
        bound(until, here, 0)
        for reader in network.readers[node]:
            then = reader.node if reader.node in moved else _NOW
            bound(then, here, -reader.slack)
            bound(until, then, reader.held)
        for end, sign in ((until, 1), (here, -1)):
            demand = flow.nodes[end].get("demand", 0)
            flow.nodes[end]["demand"] = demand + sign * network.bytes[node]
    flow.remove_edges_from(list(nx.selfloop_edges(flow)))
    _, sent = nx.network_simplex(flow)
    # The duals are the distances in what is left of the network: every bound, and back along
    # those that are used, which must hold with equality.
    rest = nx.DiGraph()
    for sooner, later, data in flow.edges(data=True):
        rest.add_edge(sooner, later, weight=min(data["weight"], _weight(rest, sooner, later)))
        if sent[sooner][later]:
            back = min(-data["weight"], _weight(rest, later, sooner))
            rest.add_edge(later, sooner, weight=back)
    far = nx.single_source_bellman_ford_path_length(rest, _NOW)
    return {node: -far[node] for node in moved}


def _weight(graph: nx.DiGraph, a: object, b: object) -> float:
    return graph[a][b]["weight"] if graph.has_edge(a, b) else float("inf")
