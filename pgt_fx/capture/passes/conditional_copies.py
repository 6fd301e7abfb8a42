"""Calls that copy at some sizes only: ``y.transpose(1, 2).contiguous()`` of one frame is ``y``.

A model that writes into the result, and reads ``y`` again, computes something else at those sizes.
"""

from __future__ import annotations

from typing import Any

import sympy
import torch
from torch import Tensor, fx

from pgt_fx.capture.captured import Captured
from pgt_fx.capture.guards.length_guard import Condition
from pgt_fx.capture.observe.module_calls import place
from pgt_fx.core.lengths.questions import at_most
from pgt_fx.core.lengths.sets import LengthSet, NotQuasiLinear
from pgt_fx.core.node_arguments import function_of
from pgt_fx.core.torch_private import storage_of

#: Lengths at which an axis along time has one entry or none: more are not looked at one by one.
MOST_LOOKED_AT = 256


def hold_to_copies(captured: Captured, nodes: list[fx.Node], clip: int) -> bool:
    """Limit the lengths of videos to those at which all ``nodes`` copy.

    Returns:
        whether there are such, the clip's among them, for all other sizes.
    """
    lengths = captured.lengths
    for node in nodes:
        copies = _copies_at(captured, node)
        if copies is None or clip not in copies:
            return False
        where = place(node)
        text = "contiguous() and reshape() copy there"
        lengths = lengths.within(Condition(copies, where.source, where.line, text))
    captured.lengths = lengths
    return True


def _copies_at(captured: Captured, node: fx.Node) -> LengthSet | None:
    """The numbers of frames at which a node copies; None where they can't be found, or other sizes
    matter as well.

    Whether it does depends on the order of its axes, and on which of them have one entry or none.
    So it is looked at for all lengths at which an axis along time has, and for one at which none.
    """
    sizes = [s for n in (node, *node.all_input_nodes) for s in _symbolic(n)]
    if len(captured.time_symbols) != 1 or not sizes:
        return None
    (time,) = captured.time_symbols
    table = captured.sizes.known
    ones = {s: v if s == time else 1 for s, v in table.items()}
    others = [ones, table, *({**table, s: 1} for s in table if s != time)]
    short = LengthSet.of([])
    try:
        for size in sizes:
            if captured.sizes.reader.of_length(size.node.expr):
                for c in captured.sizes.reader.polynomial(size.node.expr).values():
                    short |= at_most(c, 1)
    except NotQuasiLinear:
        return None
    if not short.is_finite or (short.most or 0) > MOST_LOOKED_AT or table[time] in short:
        return None

    def shared(frames: int) -> bool:
        return any(_is_shared(node, {**o, time: frames}) for o in others)

    if shared(table[time]):
        return None
    return ~LengthSet.of([n for n in short if shared(n)])


def _symbolic(node: fx.Node) -> list[Any]:
    value = node.meta.get("val")
    shape = value.shape if isinstance(value, Tensor) else [value]
    return [s for s in shape if isinstance(s, torch.SymInt)]


def _is_shared(node: fx.Node, table: dict[Any, int]) -> bool:
    """Whether a node's result shares memory with an operand, at sizes of the given symbols."""

    def number(size: Any) -> Any:
        if not isinstance(size, torch.SymInt):
            return size
        return int(size.node.expr.xreplace({s: sympy.Integer(n) for s, n in table.items()}))

    def given(one: fx.Node) -> Any:
        value = one.meta["val"]
        if not isinstance(value, Tensor):
            return number(value)
        shape, strides = ([number(s) for s in x] for x in (value.shape, value.stride()))
        tensor = torch.empty_strided(shape, strides, dtype=value.dtype, device="meta")
        made.add(storage_of(tensor))
        kept.append(tensor)
        return tensor

    made: set[int] = set()
    kept: list[Tensor] = []
    args, kwargs = fx.map_arg((node.args, node.kwargs), given)
    try:
        result = function_of(node)(*args, **kwargs)
    except (RuntimeError, ValueError, TypeError):
        return False  # there is no such size
    return not isinstance(result, Tensor) or storage_of(result) in made
