"""Convolutions over time made of those of an image model."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .temporal import InflationError, Temporal


class TemporalConv(nn.Conv3d):
    """A convolution that keeps the number of frames.

    Attributes:
        ends: what stands before the first frame and after the last, "replicate" or "zeros".
    """

    ends: str = "replicate"

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, T, H, W) to (N, C', T, H', W')."""
        edge = self.kernel_size[0] // 2
        # Not by padding_mode: that one would do the same in space.
        mode = "replicate" if self.ends == "replicate" else "constant"
        return super().forward(F.pad(x, (0, 0, 0, 0, edge, edge), mode=mode))


class SamePad(nn.Module):
    """Zeros around a map, as many as TensorFlow's "same" puts there: more at the end.

    Attributes:
        kernel, stride, dilation: of the convolution that follows.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.kernel, self.stride = list(conv.kernel_size), list(conv.stride)
        self.dilation = list(conv.dilation)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W), padded."""
        from timm.layers import pad_same

        return pad_same(x, self.kernel, self.stride, self.dilation)


def over_time(name: str, conv: nn.Conv2d, kernel: int, temporal: Temporal) -> nn.Module:
    """What takes the place of ``conv``: a module whose TemporalConv wants the time axis.

    Args:
        name: of the convolution in the image model, for errors.
        conv: is part of what is returned where ``temporal.factorised``; else its weights are
            copied.
        kernel: frames.
        temporal: how weights and ends are made.

    Raises:
        InflationError: a convolution that does not use its weights as they are.
    """
    if temporal.factorised:
        return nn.Sequential(
            OrderedDict(spatial=conv, temporal=_identity(conv, kernel, temporal)),
        )
    same = _is_same(conv)
    if (type(conv) is not nn.Conv2d and not same) or conv._forward_hooks or conv._forward_pre_hooks:
        raise InflationError(
            f"{name} is a {type(conv).__name__} that does more than convolve by its weights, which "
            "can't be spread over time; temporal='r2plus1d', or factorised=True, leaves it whole"
        )
    made = _spread(name, conv, kernel, temporal, same)
    return nn.Sequential(OrderedDict(pad=SamePad(conv), conv=made)) if same else made


def _is_same(conv: nn.Conv2d) -> bool:
    from timm.layers import Conv2dSame

    return type(conv) is Conv2dSame


def _spread(
    name: str, conv: nn.Conv2d, kernel: int, temporal: Temporal, same: bool
) -> TemporalConv:
    edge = (0, 0) if same else _edges(name, conv)
    made = _undrawn(
        conv,
        conv.in_channels,
        conv.out_channels,
        (kernel, conv.kernel_size[0], conv.kernel_size[1]),
        (1, conv.stride[0], conv.stride[1]),
        (0, edge[0], edge[1]),
        (1, conv.dilation[0], conv.dilation[1]),
        conv.groups,
        conv.bias is not None,
    )
    made.ends = temporal.ends
    with torch.no_grad():
        made.weight.copy_(_taps(conv.weight, kernel, temporal))
        if conv.bias is not None and made.bias is not None:
            made.bias.copy_(conv.bias)
    return _as_trainable(made, conv)


def _undrawn(like: nn.Conv2d, *args: Any, **options: Any) -> TemporalConv:
    """Without initial weights, which would be drawn from the caller's random state."""
    place = {"device": like.weight.device, "dtype": like.weight.dtype}
    return nn.utils.skip_init(TemporalConv, *args, **options, **place)


def _identity(conv: nn.Conv2d, kernel: int, temporal: Temporal) -> TemporalConv:
    """Over time alone; the same on every channel, and a still video passes unchanged."""
    channels, inside = conv.out_channels, conv.out_channels // conv.groups
    made = _undrawn(conv, channels, channels, (kernel, 1, 1), groups=conv.groups, bias=False)
    made.ends = temporal.ends
    same = torch.eye(inside).repeat(conv.groups, 1)[:, :, None, None]
    with torch.no_grad():
        made.weight.copy_(_taps(same.to(made.weight), kernel, temporal))
    return made


def _taps(weight: Tensor, kernel: int, temporal: Temporal) -> Tensor:
    """(O, I, h, w) spread over (O, I, kernel, h, w), with the same sum over time."""
    taps = weight.new_zeros(kernel)
    if temporal.weights == "mean":
        taps.fill_(1 / kernel)
    else:
        taps[kernel // 2] = 1
    return weight.unsqueeze(2) * taps[:, None, None]


def _edges(name: str, conv: nn.Conv2d) -> tuple[int, int]:
    """Zeros on either side of a map, in H and W."""
    if conv.padding_mode != "zeros":
        raise InflationError(
            f"{name} pads its maps by {conv.padding_mode!r}, and would pad time with them; "
            "temporal='r2plus1d', or factorised=True, leaves it whole"
        )
    if not isinstance(conv.padding, str):
        return conv.padding[0], conv.padding[1]
    if conv.padding == "valid":
        return 0, 0
    spans = [d * (k - 1) for d, k in zip(conv.dilation, conv.kernel_size, strict=True)]
    if any(span % 2 for span in spans):
        raise InflationError(
            f"{name} pads one side of its maps by more than the other; "
            "temporal='r2plus1d', or factorised=True, leaves it whole"
        )
    return spans[0] // 2, spans[1] // 2


def _as_trainable(made: TemporalConv, conv: nn.Conv2d) -> TemporalConv:
    made.weight.requires_grad_(conv.weight.requires_grad)
    if conv.bias is not None and made.bias is not None:
        made.bias.requires_grad_(conv.bias.requires_grad)
    return made
