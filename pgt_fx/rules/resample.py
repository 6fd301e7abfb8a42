"""Resizing along time by a whole factor, up or down: nearest and linear."""

from __future__ import annotations

import math
from typing import Any

from torch import fx

from pgt_fx.core.law import Law
from pgt_fx.core.laws import Interpolate, Repeat, Window
from pgt_fx.core.layout import Dim, has_time, plain, relabel, time_dims
from pgt_fx.core.lengths.functions import QuasiLinear
from pgt_fx.core.lengths.questions import at_most, equal, same
from pgt_fx.core.lengths.sets import NotQuasiLinear
from pgt_fx.rules.registry import (
    Local,
    OpView,
    Outcome,
    Refusal,
    SizeAtHand,
    Windowed,
    alone,
    rule,
    wrap,
)
from pgt_fx.rules.resizing import Factor, Resize

FINITE = "only whole factors, up or down, have a finite state"
STRETCHED = (
    "resizes time to a length that is no whole multiple of its own, nor a whole part: where an "
    "element comes from depends on where the video ends"
)
CORNERS = (
    "align_corners=True stretches time by the length of the whole video",
    "use align_corners=False",
)
#: Square of the most elements, times the factor, of which single precision picks the nearest right
#: where the lengths are not in a whole ratio.
ROUNDED = 2**21


def _resample(op: OpView, rank: int, mode: str) -> Outcome:
    source = op.layout(op.tensors[0])
    sizes = op.out_sizes
    at = [i for i in range(rank) if has_time(source[len(source) - rank + i])]
    tail: list[Dim] = []
    for i in range(rank):
        dim = source[len(source) - rank + i]
        if i in at:
            tail.append(relabel((dim,), None, sizes[len(sizes) - rank + i])[0])
        else:
            tail.append(plain([sizes[len(sizes) - rank + i]])[0])
    layout = source[:-rank] + tuple(tail)
    if not at:
        return Local(layout)
    (here,) = at
    sized = op.arg.get("output_size") is not None and op.arg.get("scale_factors") is None
    if _stays(op, rank, here):
        if not sized:
            return Local(layout)
        wanted = list(op.arg["output_size"])
        wanted[here] = SizeAtHand((len(source) - rank + here,))
        return Local(layout, {"output_size": wanted})
    alone(op, op.tensors[0], len(source) - rank + here, "resizes an axis")
    if op.arg.get("align_corners"):
        raise Refusal(*CORNERS)
    factor = _factor(op, rank, here, mode)
    law, picks = _law(mode, factor)
    args: dict[str, Any] = {}
    if sized:  # the size along time is that of the operand at hand
        args["output_size"] = [0 if i == here else s for i, s in enumerate(op.arg["output_size"])]
    elif factor.down > 1:
        args |= _one_along_time(op, rank, here)
    elif "output_size" in op.arg:
        args["output_size"] = None
    position = [a.name for a in op.schema.arguments].index("output_size")
    call = Resize(op.node.target, here - rank, (position, here) if sized else None, factor, picks)
    kind = "linear" if mode == "linear" else "nearest"
    what = f"{kind} upsample x{factor.up}" if factor.down == 1 else f"{kind}, one of {factor.down}"
    return Windowed(
        law,
        layout,
        op.schema.arguments[0].name,
        args,
        call=call,
        what=what,
        whole=factor.whole,
    )


def _scales(op: OpView, rank: int) -> list[float | None]:
    """The factors that the operator is given; None where it is given sizes."""
    scales = op.arg.get("scale_factors")
    if scales is None:
        names = ["scales"] if rank == 1 else ["scales_d", "scales_h", "scales_w"][-rank:]
        return [op.arg.get(name) for name in names]
    return list(scales)


def _one_along_time(op: OpView, rank: int, at: int) -> dict[str, Any]:
    """The factors with 1 along time."""
    scales = [1.0 if i == at else s for i, s in enumerate(_scales(op, rank))]
    if op.arg.get("scale_factors") is not None:
        return {"scale_factors": scales}
    raise Refusal(FINITE)


def _lengths(op: OpView, rank: int, at: int) -> tuple[Any, Any]:
    """Sizes along time of the operand and of the result."""
    before, after = op.tensors[0].meta["val"].shape, op.node.meta["val"].shape
    return before[at - rank], after[at - rank]


def _stays(op: OpView, rank: int, at: int) -> bool:
    """Whether there are as many elements as before, each at its own place."""
    scale = _scales(op, rank)[at]
    if scale is not None:
        return not isinstance(scale, fx.Node) and float(scale) == 1
    before, after = _lengths(op, rank, at)
    return op.known is not None and op.known.same(before, after)


def _factor(op: OpView, rank: int, at: int, mode: str) -> Factor:
    """The factor along time, up or down.

    Raises:
        Refusal: when there is none.
    """
    scale = _scales(op, rank)[at]
    before, after = _lengths(op, rank, at)
    if isinstance(scale, fx.Node) or op.known is None:
        raise Refusal(STRETCHED, "give scale_factor instead of size")
    if scale is not None and float(scale) >= 1:
        if float(scale) != int(scale):
            raise Refusal(f"resizes time by {scale}; {FINITE}")
        return Factor(up=int(scale))
    try:
        n, outs = op.known.function(before), op.known.function(after)
        if scale is not None:
            down = round(1 / scale)
            if 1 / scale != down or not equal(outs, n // down, op.known.lengths):
                raise Refusal(f"resizes time by {scale}; {FINITE}")
            return Factor(down=down, whole=outs)
        return _by_size(op, n, outs, mode)
    except NotQuasiLinear as error:
        raise Refusal(f"{STRETCHED} ({error})", "give scale_factor instead of size") from error


def _by_size(op: OpView, n: QuasiLinear, outs: QuasiLinear, mode: str) -> Factor:
    """The factor of a resizing to a length: of two that are in a whole ratio, at the lengths of
    video at which they are.

    Where one element is missing to it, or is too many, nearest picks the same ones: the place of
    element j among the operand's is floor(j * n / outs). With k * n = outs + 1 that is
    floor((j + j / outs) / k) = j // k, and with n = k * outs + 1 it is floor(k * j + j / outs)
    = k * j, as j < outs.
    """
    remedy = "give scale_factor instead of size"
    if op.known is None or op.clip is None:
        raise Refusal(STRETCHED, remedy)
    here, there = n(op.clip), outs(op.clip)
    if not here or not there:
        raise Refusal(STRETCHED, remedy)
    up, down = (-int(-there // here), 1) if there >= here else (1, int(here // there))
    rest = n * up - outs * down  # elements too many
    held = same(rest, 0)
    if mode == "nearest":
        few = math.isqrt(ROUNDED // max(up, down))
        held |= same(rest, 1) & at_most(outs, few)
    factor = f"{up}" if down == 1 else f"1/{down}"
    op.only(held, f"resizes time by {factor}", STRETCHED, remedy)
    return Factor(up, down, None if down == 1 and equal(rest, 0, op.known.lengths) else outs)


def _law(mode: str, factor: Factor) -> tuple[Law, int]:
    """How the result reads its operand, and of how many neighbours an element is the mean."""
    down = factor.down
    if down == 1:
        return (Interpolate if mode == "linear" else Repeat)(factor.up), 1
    if mode == "linear" and down % 2 == 0:  # half way between the two in the middle
        return Window(2, down, 1, 1 - down // 2), 2
    first = {"nearest": 0, "exact": down // 2, "linear": (down - 1) // 2}[mode]
    return Window(1, down, 1, -first), 1


@rule("upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d")
def nearest(op: OpView) -> Outcome:
    """out[j] = x[j // scale]."""
    return _resample(op, int(op.schema.name[-2]), "nearest")


@rule("_upsample_nearest_exact1d", "_upsample_nearest_exact2d", "_upsample_nearest_exact3d")
def nearest_exact(op: OpView) -> Outcome:
    """out[j] = x[floor((j + 1/2) / scale)], which for whole factors is x[j // scale]."""
    return _resample(op, int(op.schema.name[-2]), "exact")


@rule("upsample_linear1d", "upsample_bilinear2d", "upsample_trilinear3d")
def linear(op: OpView) -> Outcome:
    """out[j] between two elements around (j + 1/2)/scale - 1/2."""
    rank = {"linear1d": 1, "bilinear2d": 2, "trilinear3d": 3}[op.schema.name.split("upsample_")[1]]
    return _resample(op, rank, "linear")


@rule("upsample_bicubic2d", "_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa")
def space_only(op: OpView) -> Outcome:
    source = op.layout(op.tensors[0])
    if any(has_time(dim) for dim in source[-2:]):
        raise Refusal("no rule for bicubic or antialiased resizing along time")
    return Local(source[:-2] + plain(op.out_sizes[-2:]))


@rule("repeat_interleave")
def repeat_interleave(op: OpView) -> Outcome:
    """Each element several times: nearest upsampling."""
    if op.schema.overload_name != "self_int":
        raise Refusal("repeats by counts that are data")
    source = op.layout(op.arg["self"])
    if op.arg["dim"] is None:
        raise Refusal("flattens before it repeats", "give dim")
    dim = wrap(op.static(op.arg["dim"], "dim"), len(source))
    times = op.static(op.arg["repeats"], "repeats")
    sizes = op.out_sizes
    if dim not in time_dims(source):
        return Local(source[:dim] + plain([sizes[dim]]) + source[dim + 1 :])
    alone(op, op.arg["self"], dim, "repeats an axis")
    layout = source[:dim] + relabel(source[dim : dim + 1], None, sizes[dim]) + source[dim + 1 :]
    return Windowed(
        Repeat(times), layout, "self", {"output_size": None}, what=f"nearest upsample x{times}"
    )
