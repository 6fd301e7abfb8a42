"""Elementwise operators and joins: element i of the result depends on element i of each operand."""

from __future__ import annotations

import torch

from pgt_fx.core.layout import Layout, LayoutError, broadcast, has_time, plain, time_dims
from pgt_fx.rules.registry import Local, OpView, Outcome, Refusal, StepOnly, rule, wrap

UNARY = """
relu relu6 hardtanh hardswish hardsigmoid sigmoid silu gelu tanh elu leaky_relu celu selu softplus
mish log_sigmoid threshold exp expm1 log log1p log2 sqrt rsqrt abs neg sign sin cos tan
atan square reciprocal clamp clamp_min clamp_max erf round floor ceil trunc frac nan_to_num
logical_not bitwise_not isnan isinf isfinite dropout alpha_dropout hardshrink softshrink
clone contiguous detach alias lift_fresh lift_fresh_copy to _to_copy
zeros_like ones_like full_like empty_like rand_like randn_like bernoulli positive zero
real imag angle conj resolve_conj
"""

BROADCAST = """
add sub rsub mul div true_divide floor_divide remainder fmod pow maximum minimum fmax fmin atan2
where lerp addcmul addcdiv eq ne lt le gt ge logical_and logical_or logical_xor bitwise_and
bitwise_or bitwise_xor masked_fill logaddexp heaviside hypot copysign xlogy copy fill
complex polar
"""


CLIP_TABLE = "reads a table with one row per frame of a clip, in each step from its first row"
LENGTH_TABLE = "reads a table that is made anew from the number of frames of each step"


@rule(*UNARY.split())
def unary(op: OpView) -> Outcome:
    """f(x)[i] = f(x[i]); ``clamp`` may be given its bounds as tensors."""
    layouts = [op.layout(n) for n in op.tensors]
    return Local(broadcast(layouts) if len(layouts) > 1 else layouts[0])


@rule("view_as_real")
def two_parts(op: OpView) -> Outcome:
    """A new last axis, of the real and the imaginary part."""
    return Local((*op.layout(op.tensors[0]), *plain([2])))


@rule("type_as")
def type_as(op: OpView) -> Outcome:
    """Of the other tensor it reads the type alone."""
    return Local(op.layout(op.arg["self"]))


@rule(*BROADCAST.split())
def elementwise(op: OpView) -> Outcome:
    """Operands are broadcast; those with time must have it in the same place (a join)."""
    return Local(broadcast([op.layout(n) for n in op.tensors]))


@rule("feature_dropout", "feature_alpha_dropout")
def feature_dropout(op: OpView) -> Outcome:
    """Drops whole channels: in training one mask per (N, C) is drawn for all of a step's time."""
    layout = op.layout(op.arg["input"])
    if not op.arg["train"]:
        return Local(layout)
    if has_time(layout[0]) or has_time(layout[1]):
        return Local(layout)  # frames are merged into the batch: one mask per frame
    return StepOnly(layout, "draws one mask for all frames of a step", training=True)


@rule("native_dropout")
def native_dropout(op: OpView) -> Outcome:
    layout = op.layout(op.arg["input"])
    return Local([layout, layout])


@rule("prelu")
def prelu(op: OpView) -> Outcome:
    """One slope per channel (dimension 1), which must not be time."""
    layout = op.layout(op.arg["self"])
    op.only_source("self")
    if len(layout) > 1 and has_time(layout[1]):
        raise Refusal("its slopes are one per channel and time stands in the channel's place")
    return Local(layout)


@rule("linear")
def linear(op: OpView) -> Outcome:
    """Mixes the last axis, which must not be time."""
    op.only_source("input")
    layout = op.layout(op.arg["input"])
    if has_time(layout[-1]):
        raise Refusal(
            "a fully connected layer over time has one weight per frame: it fixes the length",
            "use a convolution or a pooling along time",
        )
    return Local(layout[:-1] + plain(op.out_sizes[-1:]))


@rule("embedding")
def embedding(op: OpView) -> Outcome:
    """One row per index."""
    op.only_source("indices")
    return Local(op.layout(op.arg["indices"]) + plain(op.out_sizes[-1:]))


@rule("pgt_fx::clip_table")
def clip_table(op: OpView) -> Outcome:
    """A table with one row per frame of the clip: its first rows, as many as are at hand."""
    table, like = op.layout(op.arg["table"]), op.layout(op.arg["like"])
    dims = {d % len(table) for d in op.arg["dims"]}
    rank = len(like) - len(table)
    layout = tuple(like[d + rank] if d in dims else dim for d, dim in enumerate(table))
    return StepOnly(layout, CLIP_TABLE, restarts=True)


@rule("pgt_fx::expand_rows")
def expand_rows(op: OpView) -> Outcome:
    """One row of a value without time for each of another one's."""
    layout, like = op.layout(op.arg["x"]), op.layout(op.arg["like"])
    dim = op.static(op.arg["dim"], "dim")
    return Local((*layout[:dim], like[dim], *layout[dim + 1 :]))


@rule("pgt_fx::marks")
def marks(op: OpView) -> Outcome:
    """True for each element along time."""
    layout, dim = op.layout(op.arg["x"]), op.static(op.arg["dim"], "dim")
    return Local(tuple(d if at == dim else () for at, d in enumerate(layout)))


@rule("glu")
def glu(op: OpView) -> Outcome:
    layout = op.layout(op.arg["self"])
    return Local(_along(layout, op.static(op.arg["dim"], "dim"), op.out_sizes, "halves"))


def _along(layout: Layout, dim: int, sizes: list[int], verb: str) -> Layout:
    dim = wrap(dim, len(layout))
    if has_time(layout[dim]):
        raise Refusal(f"{verb} the time axis")
    return layout[:dim] + plain([sizes[dim]]) + layout[dim + 1 :]


@rule("renorm")
def renorm(op: OpView) -> Outcome:
    """The norm of each slice ``x.select(dim, i)``: it is taken over all *other* axes."""
    layout = op.layout(op.arg["self"])
    dim = wrap(op.static(op.arg["dim"], "dim"), len(layout))
    if any(d != dim for d in time_dims(layout)):
        raise Refusal(
            "takes a norm over all axes but one, and time is among them",
            "renormalise each frame: move time to the axis that renorm is given",
        )
    return Local(layout)


@rule("cummax", "cummin")
def along_other_axis(op: OpView) -> Outcome:
    """Fine along another axis than time."""
    layout = op.layout(op.arg["self"])
    if wrap(op.static(op.arg["dim"], "dim"), len(layout)) in time_dims(layout):
        raise Refusal(
            "returns positions in the video, which a step doesn't know",
            "use the values alone: x.cummax(dim).values",
        )
    values = op.node.meta["val"]
    return Local(layout if isinstance(values, torch.Tensor) else [layout] * len(values))


@rule(
    "flip",
    "sort",
    "argsort",
    "roll",
    "topk",
    "fft_fft",
    "fft_rfft",
    "fft_fft2",
    "fft_rfft2",
    "fft_irfft",
    "fft_ifft",
)
def along_axes(op: OpView) -> Outcome:
    """Fine along other axes; along time the answer needs frames that are not there yet."""
    layout = op.layout(op.tensors[0])
    given = op.arg.get("dims", op.arg.get("dim"))
    given = list(given) if isinstance(given, (list, tuple)) else [given]
    if op.schema.name == "aten::roll" and not given:
        given = time_dims(layout)
    dims = [wrap(int(d), len(layout)) for d in given if d is not None]
    if any(d in time_dims(layout) for d in dims):
        name = op.schema.name.removeprefix("aten::")
        why = {
            "flip": "reverses time: its first output is the last frame of the video",
            "roll": "rolls time around: what leaves at the end of the video comes in at its start",
        }.get(name, f"{name} along time needs all frames of the video at once")
        raise Refusal(why, "move it out of the model, or replace it by a convolution or shift")
    results = op.node.meta["val"]
    tensors = [results] if isinstance(results, torch.Tensor) else list(results)
    layouts: list[Layout | None] = []
    for result in tensors:
        new = op.dims_of(result)
        layouts.append(tuple(a if has_time(a) else b for a, b in zip(layout, new, strict=True)))
    if isinstance(results, torch.Tensor):
        first = layouts[0]
        if first is None:
            raise LayoutError("no result")
        return Local(first)
    return Local(layouts)
