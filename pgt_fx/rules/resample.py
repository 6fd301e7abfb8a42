"""Upsampling along time by an integer factor: nearest and linear."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from torch import Tensor

from pgt_fx.core.law import Law
from pgt_fx.core.laws import Interpolate, Repeat, Window
from pgt_fx.core.layout import Dim, has_time, plain, relabel, time_dims
from pgt_fx.rules.registry import (
    Local,
    OpView,
    Outcome,
    Refusal,
    Windowed,
    alone,
    rule,
    whole_ratio,
    wrap,
)


def _scale(op: OpView, rank: int, at: int) -> int | Fraction:
    """The factor along time: a whole number, or one by a whole number.

    Raises:
        Refusal: when the factor is neither.
    """
    scales = op.arg.get("scale_factors")
    if scales is None:
        names = ["scales"] if rank == 1 else ["scales_d", "scales_h", "scales_w"][-rank:]
        scales = [op.arg.get(name) for name in names]
    value = scales[at] if scales else None
    if value is None:
        source = op.tensors[0].meta["val"].shape
        ratio = whole_ratio(op, op.node.meta["val"].shape[at - rank], source[at - rank])
        if ratio is None:
            raise Refusal(
                "resizes time to a length that is no whole multiple of its own at every length of "
                "the video",
                "give scale_factor instead of size",
            )
        return ratio
    part = Fraction(value)
    if part.numerator == 1 and part < 1:  # a power of two: of others torch rounds the count
        return part
    if float(value) != int(value) or value < 1:
        raise Refusal(
            f"resizes time by {value}; "
            "only whole factors, and 1/2, 1/4, 1/8 …, have the same elements in a step"
        )
    return int(value)


class Resize:
    """Resizing by a whole factor along time, to the model's sizes along space.

    Args:
        call: the model's operator.
        sizes: position of its ``output_size`` among its arguments.
        at: time among the resized axes.
        scale: its factor.
    """

    def __init__(self, call: Any, sizes: int, at: int, rank: int, scale: int) -> None:
        self.call, self.sizes, self.at, self.rank, self.scale = call, sizes, at, rank, scale

    def __call__(self, *args: Any) -> Tensor:
        given = list(args)
        size = list(given[self.sizes])
        size[self.at] = given[0].shape[self.at - self.rank] * self.scale
        given[self.sizes] = size
        out: Tensor = self.call(*given)
        return out


def _resample(op: OpView, rank: int, linear: bool) -> Outcome:
    source = op.layout(op.tensors[0])
    sizes = op.out_sizes
    at = [i for i in range(rank) if has_time(source[len(source) - rank + i])]
    if at:
        alone(op, op.tensors[0], len(source) - rank + at[0], "resizes an axis")
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
    scale = _scale(op, rank, at[0])
    if linear and op.arg.get("align_corners"):
        raise Refusal(
            "align_corners=True stretches time by the length of the whole video",
            "use align_corners=False",
        )
    if isinstance(scale, Fraction):
        # Each element is made of those of its own group, of which there are whole ones only.
        if op.arg.get("output_size") is not None:
            raise Refusal("resizes time to a size beside a factor", "give scale_factor alone")
        group = scale.denominator
        law: Law = Window(group, group)
        what = f"{'linear' if linear else 'nearest'} downsample by {group}"
        whole: dict[str, Any] = {"output_size": None} if "output_size" in op.arg else {}
        return Windowed(law, layout, op.schema.arguments[0].name, whole, what=what)
    law = Interpolate(scale) if linear else Repeat(scale)
    args: dict[str, Any] = {}
    call = None
    given = op.arg.get("output_size")
    if given is not None and op.arg.get("scale_factors") is None:
        # The size along time is that of the operand at hand.
        args["output_size"] = [0 if i in at else s for i, s in enumerate(given)]
        position = [a.name for a in op.schema.arguments].index("output_size")
        call = Resize(op.node.target, position, at[0], rank, scale)
    elif "output_size" in op.arg:
        args["output_size"] = None
    kind = "linear" if linear else "nearest"
    what = f"{kind} upsample x{scale}"
    return Windowed(law, layout, op.schema.arguments[0].name, args, call=call, what=what)


@rule("upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d")
def nearest(op: OpView) -> Outcome:
    """out[j] = x[j // scale]."""
    return _resample(op, int(op.schema.name[-2]), False)


@rule("_upsample_nearest_exact1d", "_upsample_nearest_exact2d", "_upsample_nearest_exact3d")
def nearest_exact(op: OpView) -> Outcome:
    """out[j] = x[floor((j + 1/2) / scale)], which for whole factors is x[j // scale]."""
    return _resample(op, int(op.schema.name[-2]), False)


@rule("upsample_linear1d", "upsample_bilinear2d", "upsample_trilinear3d")
def linear(op: OpView) -> Outcome:
    """out[j] between two elements around (j + 1/2)/scale - 1/2."""
    rank = {"linear1d": 1, "bilinear2d": 2, "trilinear3d": 3}[op.schema.name.split("upsample_")[1]]
    return _resample(op, rank, True)


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
