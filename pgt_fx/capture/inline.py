"""Blocks under ``torch.no_grad()``, which the capture sets apart, back in the graph.

Statistics and last frames are written into buffers there. The block is given its operands without
their gradients: so nothing that it makes has any.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, fx

from pgt_fx.capture.aliases import storages, written_by
from pgt_fx.capture.export import Captured


def inline_no_grad(captured: Captured) -> None:
    """Every block without gradients becomes its operators; those with blocks in them stay."""
    for node in list(captured.graph.nodes):
        name = getattr(node.target, "__name__", "")
        if node.op == "call_function" and name == "wrap_with_set_grad_enabled":
            body = _body(captured, node)
            if body is not None:
                _inline(captured.graph, node, body)


def _body(captured: Captured, node: fx.Node) -> fx.Graph | None:
    enabled, block = node.args[:2]
    owner = captured.graph.owning_module
    if enabled is not False or not isinstance(block, fx.Node) or owner is None:
        return None
    body: fx.Graph = getattr(owner, str(block.target)).graph
    plain = all(n.op in ("placeholder", "call_function", "output") for n in body.nodes)
    taken = all(user.target is operator.getitem for user in node.users)
    # What is written into besides buffers would lose its gradient, which there it keeps.
    others = [n for n in node.all_input_nodes if n.name not in captured.tensors]
    outside = set[int]().union(*(storages(n) for n in others))
    inside = {s for n in body.nodes for target in written_by(n) for s in storages(target)}
    return body if plain and taken and not inside & outside else None


def _inline(graph: fx.Graph, node: fx.Node, body: fx.Graph) -> None:
    given = iter(node.args[2:])
    env: dict[fx.Node, Any] = {}
    results: Any = ()
    with graph.inserting_before(node):
        for one in body.nodes:
            if one.op == "placeholder":
                env[one] = operand = next(given)
                if isinstance(operand, fx.Node) and isinstance(operand.meta.get("val"), Tensor):
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
