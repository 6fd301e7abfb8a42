"""Tables with exactly as many rows as the clip has frames: learned positions, masks.

Such a model runs at the clip's length and at no other. In a step the operator stands for the
table's first rows, as many as the step has elements (DESIGN §9).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pgt_fx.core.counts import counted
from pgt_fx.core.errors import ClipError

#: Elementwise functions of two tensors, as an active torch function mode sees them.
JOINS = frozenset(
    f"{left}{name}{right}"
    for name in ("add", "mul", "sub")
    for left, right in (("", ""), ("", "_"), ("__", "__"), ("__r", "__"), ("__i", "__"))
)


@dataclass(frozen=True)
class JoinCall:
    """Sizes of the two operands of one elementwise call; None where one is no tensor."""

    left: tuple[int, ...] | None
    right: tuple[int, ...] | None


@dataclass(frozen=True)
class ClipTable:
    """A call one of whose operands has one row per frame of the clip.

    Attributes:
        call: number of the call among those of :data:`JOINS`.
        operand: 0 or 1: which one is the table.
        dims: its dimensions along time, counted from the last one.
    """

    call: int
    operand: int
    dims: tuple[int, ...]


def is_join(func: Any) -> bool:
    return getattr(func, "__name__", "") in JOINS


def join_call(args: Sequence[Any]) -> JoinCall:
    """The sizes of a call's operands."""
    shapes = [tuple(int(s) for s in a.shape) if isinstance(a, Tensor) else None for a in args[:2]]
    return JoinCall(shapes[0], shapes[1]) if len(shapes) == 2 else JoinCall(None, None)


def find_table(at_clip: Sequence[JoinCall], longer: Sequence[JoinCall]) -> ClipTable | None:
    """The table at the last call of a run that failed: the operand that did not grow.

    Args:
        at_clip: calls of the run on the clip.
        longer: those of a run on a longer clip, up to the one that failed.
    """
    number = len(longer) - 1
    if number < 0 or number >= len(at_clip):
        return None
    short, long = at_clip[number], longer[number]
    if long.left is None or long.right is None or short.left is None or short.right is None:
        return None
    rank = min(len(long.left), len(long.right))
    sizes = [(d, long.left[d], long.right[d]) for d in range(-rank, 0)]
    wrong = tuple(d for d, a, b in sizes if a != b and 1 not in (a, b))
    # One row per frame of the clip: what is broadcast along an axis there is no table of it.
    wrong = wrong if all(short.left[d] == short.right[d] for d in wrong) else ()
    for operand, (before, after) in enumerate(((short.left, long.left), (short.right, long.right))):
        if wrong and all(before[d] == after[d] for d in wrong):
            return ClipTable(number, operand, wrong)
    return None


def put(args: Sequence[Any], table: ClipTable) -> list[Any]:
    """Arguments of a call with the table as long as the other operand."""
    out = list(args)
    like = out[1 - table.operand]
    out[table.operand] = clip_table(out[table.operand], like, list(table.dims))
    return out


@torch.library.custom_op("pgt_fx::clip_table", mutates_args=())
def clip_table(table: Tensor, like: Tensor, dims: Sequence[int]) -> Tensor:
    """See :func:`clip_rows`."""
    return clip_rows(table, like, dims).clone()


@clip_table.register_fake
def _shape(table: Tensor, like: Tensor, dims: Sequence[int]) -> Tensor:
    sizes = list(table.shape)
    for d in dims:
        sizes[d] = like.shape[d]
    return table.new_empty(sizes)


def clip_rows(table: Tensor, like: Tensor, dims: Sequence[int]) -> Tensor:
    """The first rows of a table, as many along ``dims`` as ``like`` has.

    Raises:
        ClipError: when the table has fewer.
    """
    for d in dims:
        if table.shape[d] < like.shape[d]:
            raise ClipError(
                f"the model adds a table with {counted(table.shape[d], 'row')}, one for each "
                "element of a "
                f"clip, and this step has {like.shape[d]}; feed steps no longer than the clip"
            )
        table = table.narrow(d, 0, like.shape[d])
    return table
