"""Windows along time: convolutions, transposed convolutions, pools, unfold (DESIGN §5)."""

from __future__ import annotations

import math
from typing import Any

import torch

from pgt_fx.core.law import Law
from pgt_fx.core.laws import Transposed, Window
from pgt_fx.core.layout import Dim, Layout, has_time, plain, relabel, time_dims
from pgt_fx.rules.registry import Local, OpView, Outcome, Refusal, Windowed, alone, rule, wrap


def windowed(op: OpView, law: Law, layout: Layout, source: str, **kwargs: Any) -> Outcome:
    """A window, or a local operator where the window is one element wide and nothing else."""
    if law.identity:
        return Local(layout)
    return Windowed(law, layout, source, **kwargs)


def spatial_layout(op: OpView, source: Layout, rank: int) -> tuple[Layout, int | None]:
    """Layout of a convolution or pool over the last ``rank`` axes, and which of them is time.

    Raises:
        Refusal: when another axis is merged with time.
    """
    at = None
    for axis, dim in enumerate(source[-rank:]):
        if not has_time(dim):
            continue
        alone(op, op.tensors[0], len(source) - rank + axis, "slides along an axis")
        at = axis
    sizes = op.out_sizes
    out: list[Dim] = list(source[:-rank])
    for axis in range(rank):
        new = sizes[len(sizes) - rank + axis]
        if axis == at:
            out.append(relabel((source[len(source) - rank + axis],), None, new)[0])
        else:
            old = source[len(source) - rank + axis]
            symbolic = any(f.symbolic for f in old)
            out.append(tuple(type(f)(new, symbolic) for f in old[:1]) or op.out_dims[axis - rank])
    return tuple(out), at


@rule("conv1d", "conv2d", "conv3d")
def conv(op: OpView) -> Outcome:
    """out[j] = sum_t w[t] x[j*s - p + t*d]; "same" pads (k-1)*d, the larger half on the right."""
    op.only_source("input")
    rank = int(op.schema.name[-2])
    source = op.layout(op.arg["input"])
    weight = op.arg["weight"].meta["val"]
    layout, at = spatial_layout(op, source, rank)
    channel = len(source) - rank - 1
    if has_time(source[channel]):
        raise Refusal(
            "time stands in the place of the channels: the weight has one slice per frame",
            "move time to an axis that the convolution slides along",
        )
    layout = layout[:channel] + plain(op.out_sizes[channel : channel + 1]) + layout[channel + 1 :]
    if at is None:
        return Local(layout)
    stride, dilation = op.ints("stride", rank, 1), op.ints("dilation", rank, 1)
    kernel = int(weight.shape[2 + at])
    padding: list[int] | str = op.arg["padding"]
    args: dict[str, Any] = {}
    if isinstance(padding, str):
        total = (kernel - 1) * dilation[at] if padding == "same" else 0
        left, right = total // 2, total - total // 2
        # "same" on the other axes may be uneven; F.pad around the call would hide the model's
        # own line, so it is written as numbers where it is even, which it is for odd kernels.
        spread = [
            (int(weight.shape[2 + i]) - 1) * dilation[i] if padding == "same" else 0
            for i in range(rank)
        ]
        if any(s % 2 for i, s in enumerate(spread) if i != at):
            raise Refusal('padding="same" with an even kernel along space pads unevenly')
        numbers = [s // 2 for s in spread]
    else:
        numbers = op.ints("padding", rank, 0)
        left = right = numbers[at]
    law = Window(kernel, stride[at], dilation[at], left, right)
    if law.identity:
        return Local(layout)
    numbers[at] = 0
    args["padding"] = numbers
    what = f"conv k={kernel} s={stride[at]}" + (f" d={dilation[at]}" if dilation[at] > 1 else "")
    # The packet, not the overload: the padding may have been a string and is numbers now.
    call = getattr(torch.ops.aten, op.schema.name.removeprefix("aten::"))
    return Windowed(law, layout, "input", args, call=call, what=f"{what} p={_ends(left, right)}")


def _ends(left: int, right: int) -> str:
    return str(left) if left == right else f"{left},{right}"


@rule("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
def conv_transpose(op: OpView) -> Outcome:
    """x[i] adds w[t] x[i] to out[i*s - p + t*d]; output_padding adds outputs at the end."""
    op.only_source("input")
    rank = int(op.schema.name[-2])
    source = op.layout(op.arg["input"])
    weight = op.arg["weight"].meta["val"]
    layout, at = spatial_layout(op, source, rank)
    channel = len(source) - rank - 1
    if has_time(source[channel]):
        raise Refusal("time stands in the place of the channels")
    layout = layout[:channel] + plain(op.out_sizes[channel : channel + 1]) + layout[channel + 1 :]
    if at is None:
        return Local(layout)
    stride, dilation = op.ints("stride", rank, 1), op.ints("dilation", rank, 1)
    padding, extra = op.ints("padding", rank, 0), op.ints("output_padding", rank, 0)
    kernel = int(weight.shape[2 + at])
    law = Transposed(kernel, stride[at], dilation[at], padding[at], extra[at])
    if law.identity:
        return Local(layout)
    padding[at], extra[at] = 0, 0
    args = {"padding": padding, "output_padding": extra}
    what = f"transposed conv k={kernel} s={stride[at]} p={law.padding}"
    return Windowed(law, layout, "input", args, what=what)


@rule("max_pool1d", "max_pool2d", "max_pool3d")
def max_pool(op: OpView) -> Outcome:
    """Maximum of a window; the padding is minus infinity."""
    rank = int(op.schema.name[-2])
    source = op.layout(op.arg["self"])
    layout, at = spatial_layout(op, source, rank)
    if at is None:
        return Local(layout)
    kernel, padding = op.ints("kernel_size", rank), op.ints("padding", rank, 0)
    stride = op.ints("stride", rank) if op.arg["stride"] else list(kernel)
    dilation = op.ints("dilation", rank, 1)
    law = Window(
        kernel[at], stride[at], dilation[at], padding[at], padding[at], bool(op.arg["ceil_mode"])
    )
    if Window(law.kernel, law.stride, law.dilation, law.left, law.right).identity:
        return Local(layout)
    padding[at] = 0
    args = {"stride": stride, "padding": padding}
    what = f"max pool k={law.kernel} s={law.stride} p={law.left}"
    return Windowed(law, layout, "self", args, fill=-math.inf, what=what)


@rule("max_pool1d_with_indices", "max_pool2d_with_indices", "max_pool3d_with_indices")
def max_pool_indices(op: OpView) -> Outcome:
    """Along space only: an index along time counts from the start of the step."""
    rank = 1 if "1d" in op.schema.name else 2 if "2d" in op.schema.name else 3
    source = op.layout(op.arg["self"])
    if any(has_time(dim) for dim in source[-rank:]):
        raise Refusal(
            "returns indices of a window that may lie along time",
            "use max pooling without return_indices",
        )
    layout = source[:-rank] + op.dims_of(op.node.meta["val"][0])[-rank:]
    return Local([layout, layout])


@rule("avg_pool1d", "avg_pool2d", "avg_pool3d")
def avg_pool(op: OpView) -> Outcome:
    """Mean of a window; whether padding counts is the model's choice (count_include_pad)."""
    rank = int(op.schema.name[-2])
    source = op.layout(op.arg["self"])
    layout, at = spatial_layout(op, source, rank)
    if at is None:
        return Local(layout)
    kernel, padding = op.ints("kernel_size", rank), op.ints("padding", rank, 0)
    stride = op.ints("stride", rank) if op.arg["stride"] else list(kernel)
    law = Window(kernel[at], stride[at], 1, padding[at], padding[at], bool(op.arg["ceil_mode"]))
    if Window(law.kernel, law.stride, 1, law.left, law.right).identity:
        return Local(layout)
    padding[at] = 0
    args = {"stride": stride, "padding": padding}
    mean = "include" if op.arg["count_include_pad"] else "exclude"
    if op.arg.get("divisor_override"):
        mean = ""
    what = f"avg pool k={law.kernel} s={law.stride} p={law.left}"
    return Windowed(law, layout, "self", args, mean=mean, what=what)


@rule("unfold")
def unfold(op: OpView) -> Outcome:
    """Windows laid out along a new last axis."""
    source = op.layout(op.arg["self"])
    dim = wrap(op.static(op.arg["dimension"], "dimension"), len(source))
    sizes = op.out_sizes
    if not has_time(source[dim]):
        return Local(
            source[:dim] + op.out_dims[dim : dim + 1] + source[dim + 1 :] + plain(sizes[-1:])
        )
    alone(op, op.arg["self"], dim, "unfolds an axis")
    law = Window(op.static(op.arg["size"], "size"), op.static(op.arg["step"], "step"))
    layout = relabel(source, None, sizes[dim]) + plain(sizes[-1:])
    return Windowed(law, layout, "self", what=f"unfold k={law.kernel} s={law.stride}")


#: Rank of an input without a batch.
UNBATCHED = {"im2col": 3, "col2im": 2}


@rule("im2col", "grid_sampler", "col2im")
def needs_frames(op: OpView) -> Outcome:
    """Frame by frame (time merged with the batch) these are local; without a batch, the first
    dimension is that of the channels."""
    name = op.schema.name.removeprefix("aten::")
    for operand in op.tensors:
        layout = op.layout(operand)
        if any(d != 0 for d in time_dims(layout)):
            raise Refusal("runs over an axis that holds time")
        if time_dims(layout) and len(layout) == UNBATCHED.get(name):
            raise Refusal(
                "time stands in the place of the channels: this operator puts each channel's "
                "windows into rows of their own",
                "give each frame a channel axis: x.unsqueeze(1)",
            )
    return Local(op.layout(op.tensors[0])[:1] + op.out_dims[1:])
