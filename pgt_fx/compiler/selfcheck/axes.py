"""Elements of time and videos of a batch, apart from what else is merged into their dimension.

A tensor ``(T * H * W, C)`` has H * W numbers along its first dimension for each of its T elements,
``(N * T, C)`` those of N videos one after the other. What is claimed is claimed of elements and of
videos, whatever they are merged with.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, fx

from pgt_fx.core.layout import Dim, Factor, Layout, LayoutError, axis_of
from pgt_fx.runtime.progressive import Progressive


def count_of(prog: Progressive, node: fx.Node, frames: int) -> int | None:
    """How many elements a value has of a whole video; None for one without time.

    Args:
        node: of the captured graph.
        frames: in the path with the fewest.
    """
    analysis = prog.inspect.analysis
    clock = analysis.value(node).clock
    ratio = analysis.spec.ratio
    return None if clock is None else clock.at(tuple(frames * r for r in ratio), True).total


def output_of(prog: Progressive) -> fx.Node | None:
    """The first tensor that the model returns; None where it returns none."""
    outputs = prog.inspect.analysis.outputs
    return next((o for o in outputs if isinstance(o, fx.Node)), None)


def elements(x: Tensor, layout: Layout | None, count: int) -> Tensor | None:
    """``(count, …)``: a tensor by its elements along time; None where they can't be told apart."""
    try:
        dim = axis_of(layout or ()).dim
    except LayoutError:
        return None
    return _apart(x, dim, (layout or ())[dim], lambda f: f.time == 1, count)


def videos(x: Tensor, layout: Layout | None, rows: int) -> Tensor | None:
    """``(rows, …)``: a tensor by the videos of its batch; None where they can't be told apart."""
    dims = [d for d, dim in enumerate(layout or ()) if any(f.batch for f in dim)]
    if len(dims) != 1:
        return None
    return _apart(x, dims[0], (layout or ())[dims[0]], lambda f: f.batch, rows)


def _apart(
    x: Tensor, dim: int, factors: Dim, wanted: Callable[[Factor], Any], size: int
) -> Tensor | None:
    """The tensor with one factor of a dimension, of this size, in front of all others."""
    at = next(n for n, factor in enumerate(factors) if wanted(factor))
    outer, inner = _known(factors[:at]), _known(factors[at + 1 :])
    whole = x.shape[dim]
    if outer is None and inner is not None:
        outer = whole // max(size * inner, 1)
    elif outer is not None and inner is None:
        inner = whole // max(size * outer, 1)
    if outer is None or inner is None or outer * size * inner != whole:
        return None
    return x.unflatten(dim, (outer, size, inner)).movedim(dim + 1, 0)


def _known(factors: Dim) -> int | None:
    """The product of sizes that are the same for all videos; None where one is not."""
    size = 1
    for factor in factors:
        if factor.symbolic or factor.time:
            return None
        size *= factor.size
    return size
