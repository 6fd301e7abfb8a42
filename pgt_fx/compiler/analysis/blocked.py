"""Values after an operator that can't be converted: guessed, so that all blockers are found."""

from __future__ import annotations

from typing import Any

from torch import Tensor, fx

from pgt_fx.compiler.analysis.timed_graph import Analysis, Value
from pgt_fx.core.layout import Factor, time_dims
from pgt_fx.rules import Refusal
from pgt_fx.rules.registry import hint

#: What to do about an operator of which nothing better is known.
REMEDY = "replace it by an operator with a finite window, or leave it outside the model"


def follows_a_blocker(analysis: Analysis, node: fx.Node) -> bool:
    """Layouts that don't fit together after a blocker say nothing about the model."""
    found = (analysis.values[n.name] for n in node.all_input_nodes)
    flat = (v for one in found for v in (one if isinstance(one, list) else [one]))
    return any(v.guessed for v in flat)


def after_refusal(analysis: Analysis, node: fx.Node) -> Value | list[Value]:
    """Go on after a blocker as if it were local."""
    operands = [
        v
        for n in node.all_input_nodes
        if not isinstance(v := analysis.values[n.name], list) and v.timed
    ]
    result = node.meta.get("val")
    tensors = list(result) if isinstance(result, (list, tuple)) else [result]
    values = []
    for tensor in tensors:
        if not isinstance(tensor, Tensor):
            values.append(Value(None))
            continue
        at = [d for d, s in enumerate(tensor.shape) if analysis.captured.has_time(s)]
        dims = tuple(
            (Factor(guessed_size(s), True, min(2, 1 + at.index(d)) if d in at else 0),)
            for d, s in enumerate(tensor.shape)
        )
        timed = operands and len(time_dims(dims, 1)) == 1
        values.append(Value(dims, operands[0].clock if timed else None, guessed=True))
    return values if isinstance(result, (list, tuple)) else values[0]


def guessed_size(size: Any) -> int:
    """A size after a blocker, which may depend on the data."""
    try:
        return hint(size)
    except Refusal:
        return 2
