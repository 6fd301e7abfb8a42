"""Blocks under ``torch.no_grad()`` and ``torch.autocast(enabled=False)``, which the capture sets
apart, back in the graph.

Statistics and last frames are written into buffers without gradients. Such a block is given its
operands without theirs: so nothing that it makes has any.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, fx

from pgt_fx.capture.captured import Captured
from pgt_fx.capture.passes.alias_analysis import storages, written_by

_GRADIENTS, _AUTOCAST = "wrap_with_set_grad_enabled", "wrap_with_autocast"
#: What a graph with a block without autocast in it rests on.
AUTOCAST_IS_OFF = "torch.is_autocast_enabled"


def inline_blocks(captured: Captured, _: int) -> None:
    """Every block without gradients becomes its operators, and so does one without autocast where
    there is none around it either; others stay.

    Before::

        %mean = wrap_with_set_grad_enabled(False, %block, %x)   # block: y = relu(x); return mean(y)

    After::

        %relu = aten.relu(%x)
        %mean = aten.mean(%relu)
    """
    if _inline_all(captured, captured.graph):
        captured.surroundings |= {AUTOCAST_IS_OFF}


def _inline_all(captured: Captured, graph: fx.Graph) -> bool:
    """Whether one of the blocks was without autocast."""
    without_autocast = False
    for node in list(graph.nodes):
        name = getattr(node.target, "__name__", "")
        if node.op != "call_function" or name not in (_GRADIENTS, _AUTOCAST):
            continue
        found = _block(captured, node, name)
        if found is not None:
            body, given = found
            without_autocast |= _inline_all(captured, body) or name == _AUTOCAST
            if _is_plain(captured, node, body):
                _inline(graph, node, body, given, detached=name == _GRADIENTS)
    for node in list(graph.nodes):
        if node.op == "get_attr" and not node.users and graph is not captured.graph:
            graph.erase_node(node)  # of a block inside this one
    return without_autocast


def _block(captured: Captured, node: fx.Node, name: str) -> tuple[fx.Graph, Any] | None:
    """The graph of a block that may be inlined, and what it is given."""
    at = 2 if name == _GRADIENTS else 5
    *how, block = node.args[:at]
    enabled = how[0] if name == _GRADIENTS else how[2]
    owner = node.graph.owning_module
    if enabled is not False or not isinstance(block, fx.Node) or owner is None:
        return None
    if name == _AUTOCAST and torch.is_autocast_enabled(str(how[0])):
        return None
    return getattr(owner, str(block.target)).graph, node.args[at:]


def _is_plain(captured: Captured, node: fx.Node, body: fx.Graph) -> bool:
    plain = all(n.op in ("placeholder", "call_function", "output") for n in body.nodes)
    taken = all(user.target is operator.getitem for user in node.users)
    # What is written into besides buffers would lose its gradient, which there it keeps.
    others = [n for n in node.all_input_nodes if n.name not in captured.tensors]
    outside = set[int]().union(*(storages(n) for n in others))
    inside = {s for n in body.nodes for target in written_by(n) for s in storages(target)}
    return plain and taken and not inside & outside


def _inline(graph: fx.Graph, node: fx.Node, body: fx.Graph, operands: Any, detached: bool) -> None:
    given = iter(operands)
    env: dict[fx.Node, Any] = {}
    results: Any = ()
    with graph.inserting_before(node):
        for one in body.nodes:
            if one.op == "placeholder":
                env[one] = operand = next(given)
                tensor = isinstance(operand, fx.Node) and isinstance(
                    operand.meta.get("val"), Tensor
                )
                if tensor and detached:
                    env[one] = graph.call_function(torch.ops.aten.detach.default, (operand,))
                    env[one].meta = {**node.meta, "val": operand.meta["val"]}
            elif one.op == "output":
                results = one.args[0]
            else:
                env[one] = graph.node_copy(one, env.__getitem__)
    for user in list(node.users):
        user.replace_all_uses_with(env[results[user.args[1]]])
        graph.erase_node(user)
    graph.erase_node(node)
