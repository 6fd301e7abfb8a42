"""Which axes of a tensor are time, through views, permutes and merges.

A layout lists, for each dimension, the ordered factors that it is the product of, outermost
first: ``(N*T, C, H, W)`` made by merging batch and time is ``((N, T), (C,), (H,), (W,))`` with
T marked. Sizes are those of the capture (concrete), beside the symbolic expression.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from pgt_fx.core.counts import counted


@dataclass(frozen=True)
class Factor:
    """One factor of a dimension's size.

    Attributes:
        size: its size in the capture.
        symbolic: whether the size may be another one at run time.
        time: 0 no time; 1 the time axis; 2 a second one (the keys of an attention map).
        batch: whether this is the batch axis of the input.
    """

    size: int
    symbolic: bool = False
    time: int = 0
    batch: bool = False


Dim = tuple[Factor, ...]
Layout = tuple[Dim, ...]


class LayoutError(Exception):
    """A layout can't be followed; the message is the reason shown to the user."""


@dataclass(frozen=True)
class Axis:
    """Where the time axis of a tensor is, for the executors.

    Attributes:
        dim: the dimension; ``outer`` and ``inner`` tell whether other factors are merged before
            and after time in it; ``inner_size`` is the static product of the inner ones if known.
    """

    dim: int
    outer: bool = False
    inner: bool = False
    inner_size: int | None = None

    @property
    def merged(self) -> bool:
        return self.outer or self.inner


def size(dim: Dim) -> int:
    """Size of a dimension in the capture."""
    product = 1
    for factor in dim:
        product *= factor.size
    return product


def has_time(dim: Dim) -> bool:
    return any(f.time for f in dim)


def time_dims(layout: Layout, which: int | None = None) -> list[int]:
    """Dimensions that contain time (``which``: 1 the first time axis, 2 the second)."""
    return [
        d for d, dim in enumerate(layout) if any(f.time == which if which else f.time for f in dim)
    ]


def axis_of(layout: Layout) -> Axis:
    """The time axis of a layout.

    Raises:
        LayoutError: when time is in no dimension or is merged on both sides with unknown sizes.
    """
    dims = time_dims(layout, 1)
    if len(dims) != 1:
        raise LayoutError(f"time is in {len(dims)} dimensions here, expected one")
    dim = layout[dims[0]]
    at = next(i for i, f in enumerate(dim) if f.time == 1)
    outer, inner = dim[:at], dim[at + 1 :]
    static = None if any(f.symbolic for f in inner) else size(inner)
    if outer and inner and static is None:
        raise LayoutError(
            "time is merged between two axes of unknown size; the elements can't be told apart"
        )
    return Axis(dims[0], bool(outer), bool(inner), static)


def relabel(layout: Layout, old_size: int | None, new_size: int, *, time: int = 1) -> Layout:
    """The layout with the time factor's size replaced (after an operator along time)."""
    return tuple(
        tuple(
            Factor(new_size, True, f.time, f.batch) if f.time == time and old_size != 0 else f
            for f in dim
        )
        for dim in layout
    )


def broadcast(layouts: Sequence[Layout]) -> Layout:
    """Layout of an elementwise operator's result, NumPy broadcasting, time against time.

    Raises:
        LayoutError: when time of one operand meets another axis of the second.
    """
    rank = max(len(layout) for layout in layouts)
    out: list[Dim] = []
    for d in range(rank):
        dims = [layout[d - rank + len(layout)] for layout in layouts if d - rank + len(layout) >= 0]
        wide = [dim for dim in dims if size(dim) != 1 or has_time(dim)]
        timed = [dim for dim in wide if has_time(dim)]
        if not wide:
            out.append(())
        elif timed:
            if any(_shape(dim) != _shape(timed[0]) for dim in wide):
                raise LayoutError(
                    f"dimension {d} is time in one operand and something else in another"
                )
            out.append(timed[0])
        else:
            out.append(max(wide, key=len))
    return tuple(out)


def _shape(dim: Dim) -> list[tuple[int, int]]:
    """Factors that matter for alignment: runs of factors without time count as one."""
    runs: list[tuple[int, int]] = []
    for factor in dim:
        if factor.size == 1 and not factor.time:
            continue
        if runs and not factor.time and not runs[-1][1]:
            runs[-1] = (runs[-1][0] * factor.size, 0)
        else:
            runs.append((factor.size, factor.time))
    return runs


def regroup(layout: Layout, sizes: Sequence[int]) -> Layout:
    """Layout after a view to ``sizes``: the factors in order, cut into new dimensions.

    Raises:
        LayoutError: when the view cuts through the time axis.
    """
    queue = [f for dim in layout for f in dim if f.size != 1 or f.time]
    out: list[Dim] = []
    for want in sizes:
        got: list[Factor] = []
        left = want
        while left != 1 or (queue and queue[0].time and queue[0].size == 1):
            if not queue:
                raise LayoutError("the view's sizes can't be matched with the operand's")
            factor = queue.pop(0)
            if left % factor.size == 0:
                got.append(factor)
                left //= factor.size
                continue
            if factor.time:
                raise LayoutError(
                    f"the view splits the time axis ({counted(factor.size, 'element')} in the "
                    "capture) "
                    f"to make a dimension of {want}"
                )
            if factor.size % left:
                raise LayoutError(f"the view regroups an axis of {factor.size} into {want}")
            got.append(Factor(left, factor.symbolic, 0, False))
            queue.insert(0, Factor(factor.size // left, factor.symbolic, 0, False))
            left = 1
        out.append(tuple(got))
    if queue:
        raise LayoutError("the view's sizes can't be matched with the operand's")
    return tuple(out)


def plain(sizes: Iterable[Any]) -> Layout:
    """Layout of a tensor without time."""
    return tuple((Factor(int(s)),) if int(s) != 1 else () for s in sizes)


def open_sizes(layout: Layout, sizes: Sequence[Any]) -> Layout:
    """The layout with every factor open that a rule took from an open size for a fixed one.

    Args:
        sizes: of the same tensor in the capture, symbolic where they are open.
    """
    out = list(layout)
    for d, dim in enumerate(layout):
        if not isinstance(sizes[d], int) and not any(f.symbolic or f.time for f in dim):
            out[d] = tuple(Factor(f.size, True, 0, f.batch) for f in dim)
    return tuple(out)
