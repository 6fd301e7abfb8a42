"""Blocks under ``torch.no_grad()`` and ``torch.autocast()``, which the capture sets apart, back in
the graph.

Statistics and last frames are written into buffers without gradients. Such a block is given its
operands without theirs: so nothing that it makes has any. What autocast casts in a block is written
into the graph (:mod:`pgt_fx.capture.passes.autocast_casts`).
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, fx

from pgt_fx.capture.captured import Captured
from pgt_fx.capture.observe.failing_line import DEVICES, TYPES
from pgt_fx.capture.observe.module_calls import call_stack
from pgt_fx.capture.passes.alias_analysis import storages, written_by
from pgt_fx.capture.passes.autocast_casts import Autocast, write_casts

_GRADIENTS, _AUTOCAST = "wrap_with_set_grad_enabled", "wrap_with_autocast"
#: What a graph with a block of autocast in it rests on: around the block there is none.
AUTOCAST_IS_OFF = "torch.is_autocast_enabled"


def inline_blocks(captured: Captured, _: int) -> None:
    """Every block without gradients becomes its operators, and so does one of autocast where there
    is none around the model; others stay.

    Before::

        %mean = wrap_with_set_grad_enabled(False, %block, %x)   # block: y = relu(x); return mean(y)
        %y = wrap_with_autocast("cpu", bfloat16, True, None, %other, %mean)   # y = linear(mean, w)

    After::

        %relu = aten.relu(%x)
        %mean = aten.mean(%relu)
        %a = aten.to(%mean, bfloat16)
        %b = aten.to(%w, bfloat16)
        %y = aten.linear(%a, %b)
    """
    _inline_all(captured, captured.graph, {})


def _inline_all(captured: Captured, graph: fx.Graph, around: Autocast) -> bool:
    """Inline the blocks of a graph, innermost first.

    Args:
        around: autocast as it is where the graph's operators run.

    Returns:
        False where one has to stay.
    """
    whole = True
    for node in list(graph.nodes):
        name = getattr(node.target, "__name__", "")
        if node.op != "call_function" or name not in (_GRADIENTS, _AUTOCAST):
            continue
        found = _block(node, name, around)
        if found is None:
            whole = False
            continue
        body, given, inside = found
        if (
            _casts_written(captured, node, body, inside)
            and _inline_all(captured, body, inside)
            and _is_plain(captured, node, body)
        ):
            _inline(graph, node, body, given, detached=name == _GRADIENTS)
        else:
            whole = False
    for node in list(graph.nodes):
        if node.op == "get_attr" and not node.users and graph is not captured.graph:
            graph.erase_node(node)  # of a block inside this one
    return whole


def _block(node: fx.Node, name: str, around: Autocast) -> tuple[fx.Graph, Any, Autocast] | None:
    """The graph of a block that may be inlined, what it is given, and autocast inside it."""
    at = 2 if name == _GRADIENTS else 5
    *how, block = node.args[:at]
    owner = node.graph.owning_module
    if not isinstance(block, fx.Node) or owner is None:
        return None
    if name == _GRADIENTS:
        if how[0] is not False:
            return None
        inside = around
    else:
        device, dtype, enabled = str(how[0]), how[1], how[2]
        if torch.is_autocast_enabled(device):
            return None
        inside = {of: to for of, to in around.items() if of != device}
        if enabled is True:
            own = dtype if isinstance(dtype, torch.dtype) else torch.get_autocast_dtype(device)
            inside[device] = own
    return getattr(owner, str(block.target)).graph, node.args[at:], inside


def _casts_written(captured: Captured, node: fx.Node, body: fx.Graph, autocast: Autocast) -> bool:
    """Whether all that autocast does in a block could be written into its graph."""
    if getattr(node.target, "__name__", "") == _AUTOCAST:
        captured.surroundings |= {AUTOCAST_IS_OFF}
    if not autocast:
        return True
    captured.surroundings |= {TYPES, DEVICES}
    captured.typed = True
    # A module that the block calls can't be called whole: it would be called without autocast.
    outside = set(call_stack(node))
    captured.opened |= {key for one in body.nodes for key in call_stack(one)} - outside
    operators = [n for n in body.nodes if n.op == "call_function" and not _is_block(n)]
    return all(write_casts(n, autocast) for n in operators)


def _is_block(node: fx.Node) -> bool:
    return getattr(node.target, "__name__", "") in (_GRADIENTS, _AUTOCAST)


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
