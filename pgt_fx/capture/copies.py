"""Copies that are none at some sizes: ``y.transpose(1, 2).contiguous()`` of one frame is ``y``.

A model that writes into such a copy, and reads ``y`` again, is another one at these sizes.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import sympy
import torch
from torch import Tensor, fx

from pgt_fx.capture.export import Captured
from pgt_fx.capture.lengths import known_sizes


def hold_to_copies(captured: Captured, nodes: list[fx.Node], clip: int) -> bool:
    """Limit the lengths of videos to those at which all ``nodes`` copy.

    Returns:
        whether there are such, the clip's among them, for all other sizes.
    """
    found = [_copies_from(captured, node) for node in nodes]
    lengths = captured.lengths
    least = lengths.fit(max(f or 0 for f in found))
    if None in found or least > clip:
        return False
    captured.lengths = dataclasses.replace(lengths, least=max(least, lengths.least))
    return True


def _copies_from(captured: Captured, node: fx.Node) -> int | None:
    """The number of frames from which on a node copies; None where other sizes matter as well."""
    sizes = [s for n in (node, *node.all_input_nodes) for s in _symbolic(n)]
    if len(captured.time_symbols) != 1 or not sizes:
        return None
    (time,) = captured.time_symbols
    table = known_sizes(sizes[0])
    ones = {s: v if s == time else 1 for s, v in table.items()}
    others = [ones, table, *({**table, s: 1} for s in table if s != time)]
    shared = [
        n
        for n in range(1, table[time] + 1)
        if any(_is_shared(node, {**o, time: n}) for o in others)
    ]
    last = max(shared, default=0)
    return None if last == table[time] else last + 1


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
        made.add(tensor.untyped_storage()._cdata)
        kept.append(tensor)
        return tensor

    made: set[int] = set()
    kept: list[Tensor] = []
    args, kwargs = fx.map_arg((node.args, node.kwargs), given)
    try:
        result = node.target(*args, **kwargs)  # type: ignore[operator]
    except (RuntimeError, ValueError, TypeError):
        return False  # there is no such size
    return not isinstance(result, Tensor) or result.untyped_storage()._cdata in made
