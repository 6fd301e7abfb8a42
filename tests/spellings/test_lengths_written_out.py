"""Lengths written out in forward: bounds of slices, kernels of pools, targets, pads and views."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from spelled import Call, Net, Spelling, cases, hold
from torch import Tensor, nn

import pgt_fx

EVEN = {"only": lambda frames: frames % 2 == 0}
EIGHTS: dict[str, Any] = {"only": lambda frames: frames % 8 == 0, "frames": (7, 8, 12, 16, 24)}
#: A clip without space, and one of which time is the third of four dimensions.
SEQUENCE: dict[str, Any] = {"sizes": (2, 4, 8)}
JOINTS: dict[str, Any] = {"sizes": (2, 4, 8, 5), "options": {"time_dim": 2}}


def after(call: Call) -> Spelling:
    """Of a convolution along time."""
    return Spelling(lambda m, x: call(m, m.conv(x)))


def padded(x: Tensor, left: int, right: int, mode: str = "constant") -> Tensor:
    return F.pad(x, (0, 0, 0, 0, left, right), mode=mode)


def _cut_to(x: Tensor, like: Tensor) -> Tensor:
    """The middle of a longer one."""
    more = (x.shape[2] - like.shape[2]) // 2
    return x[:, :, more : more + like.shape[2]]


# ------------------------------------------------------------------------------------ slices

SLICES: dict[str, Spelling] = {
    "all but the last": after(lambda m, y: y[:, :, : y.shape[2] - 1]),
    "its own length": after(lambda m, y: y[:, :, : y.shape[2]]),
    "the last as many": after(lambda m, y: y[:, :, -y.shape[2] :]),
    "from no frame on": after(lambda m, y: y[:, :, y.shape[2] - y.shape[2] :]),
    "the clip's length of a longer one": Spelling(
        lambda m, x: m.conv(padded(x, 2, 2))[:, :, : x.shape[2]]),
    "the last as many as the clip has": Spelling(
        lambda m, x: m.conv(padded(x, 2, 2))[:, :, -x.shape[2] :]),
    "the clip's length from an offset on": Spelling(
        lambda m, x: m.conv(padded(x, 2, 2))[:, :, 1 : x.shape[2] + 1]),
    "without as many as the kernel adds": Spelling(
        lambda m, x: m.bare(padded(x, 4, 4))[:, :, : -(2 * 3)]),
    "cropped on both sides": after(lambda m, y: y[:, :, 2 : y.shape[2] - 2]),
    "cropped on both sides, shifted": after(lambda m, y: y[:, :, 2 + 1 : y.shape[2] - 2 + 1]),
    "shifted beyond the end": after(lambda m, y: y[:, :, 2 + 3 : y.shape[2] - 2 + 3]),
    "cropped to the skip": Spelling(
        lambda m, x: _cut_to(padded(x, 3, 3), x) + m.conv(x)),
    "skip cropped to the valid": Spelling(
        lambda m, x: _cut_to(x, y := m.bare(m.bare(x))) + y),
    "last axis by ellipsis": Spelling(
        lambda m, x: F.conv1d(F.pad(x, (2, 2)), m.conv.weight.flatten(2))[..., : x.shape[-1]],
        **SEQUENCE),
    "narrow to the clip's": Spelling(
        lambda m, x: m.conv(padded(x, 2, 2)).narrow(2, 0, x.shape[2])),
    "narrow to the clip's, the last": Spelling(
        lambda m, x: (y := m.conv(padded(x, 2, 2))).narrow(2, y.shape[2] - x.shape[2], x.shape[2])),
    "narrow to one frame less": after(lambda m, y: y.narrow(2, 1, y.shape[2] - 1)),
    "every other, to the end": after(lambda m, y: y[:, :, 0 : y.shape[2] : 2]),
    "every other, to the last but one": after(lambda m, y: y[:, :, 0 : y.shape[2] - 1 : 2]),
    "up again and cropped to the skip": Spelling(
        lambda m, x: m.up(m.down(x))[:, :, : x.shape[2]] + m.conv(x)),
    "up twice and cropped to the skip": Spelling(
        lambda m, x: m.up(m.up(m.down(m.down(x))))[:, :, : x.shape[2]] + m.conv(x)),
    "a skip cropped to what goes up": Spelling(
        lambda m, x: (y := m.up(F.avg_pool3d(m.conv(x), (2, 1, 1)))) + x[:, :, : y.shape[2]]),
    "the shorter of two": Spelling(
        lambda m, x: (
            (y := m.up(m.down(x)))[:, :, : min(y.shape[2], x.shape[2])] + m.conv(x)),
        ),
    "to a multiple of two": after(lambda m, y: y[:, :, : y.shape[2] // 2 * 2]),
    "to a multiple of four, then strided": after(
        lambda m, y: F.avg_pool3d(y[:, :, : y.shape[2] - y.shape[2] % 4], (4, 1, 1))),
    "zero frames off the end": Spelling(lambda m, x: (y := m.conv(x))[
        :, :, : y.shape[2] - (y.shape[2] - x.shape[2])]),
    "the first half": Spelling(
        lambda m, x: m.conv(x)[:, :, : x.shape[2] // 2], r"the first half|half of"),
    "the second half": Spelling(
        lambda m, x: m.conv(x)[:, :, x.shape[2] // 2 :], "known only at the end"),
    "the last three": Spelling(lambda m, x: m.conv(x)[:, :, x.shape[2] - 3 :], "last 3 frames"),
    "the last frame, kept": after(lambda m, y: y[:, :, y.shape[2] - 1 :]),
    "the last frame by its number": after(lambda m, y: y[:, :, y.shape[2] - 1]),
    "the frame in the middle": Spelling(
        lambda m, x: m.conv(x)[:, :, x.shape[2] // 2], "picks frame|picks a frame"),
    "the middle by a slice": Spelling(
        lambda m, x: (y := m.conv(x))[:, :, y.shape[2] // 2 : y.shape[2] // 2 + 1],
        "known only at the end"),
}  # fmt: skip

# ------------------------------------------------------------------------------------- pools

POOLS: dict[str, Spelling] = {
    "avg_pool2d over all that is left": Spelling(
        lambda m, x: F.avg_pool2d(y := m.conv(x[..., None])[..., 0], y.size()[2:]), **JOINTS),
    "avg_pool1d over all that is left": Spelling(
        lambda m, x: F.avg_pool1d(
            y := F.conv1d(x, m.conv.weight.flatten(2)), y.shape[-1]).squeeze(-1) * 2,
        frames=(3, 4, 5, 8, 9, 17), **SEQUENCE),
    "avg_pool3d over time": after(lambda m, y: F.avg_pool3d(y, (y.shape[2], 1, 1)).cumsum(1)),
    "avg_pool3d over everything": after(lambda m, y: F.avg_pool3d(y, y.shape[2:]).flatten(1)),
    "avg_pool3d over time, stride one": after(
        lambda m, y: F.avg_pool3d(y, (y.shape[2], 2, 2), stride=1)),
    "max_pool3d over time": after(lambda m, y: F.max_pool3d(y, (y.shape[2], 1, 1))),
    "max_pool3d over the clip's frames": Spelling(
        lambda m, x: F.max_pool3d(m.conv(x), (x.size(2), 4, 4)).view(x.shape[0], -1)),
    "avg_pool3d over all but one": Spelling(
        lambda m, x: F.avg_pool3d(m.conv(x), (x.shape[2] - 1, 1, 1)), "as long as the video|whole"),
    "adaptive None": Spelling(
        lambda m, x: m.pool(m.conv(x)), parts=lambda: {"pool": nn.AdaptiveAvgPool3d((None, 1, 1))}),
    "adaptive to the clip's frames": after(
        lambda m, y: F.adaptive_avg_pool3d(y, (y.shape[2], 1, 1))),
    "adaptive max to the clip's frames": after(
        lambda m, y: F.adaptive_max_pool3d(y, (y.shape[2], 2, 2))),
    "adaptive max None": Spelling(
        lambda m, x: m.pool(m.conv(x)), parts=lambda: {"pool": nn.AdaptiveMaxPool3d((None, 1, 1))}),
    "adaptive to another's frames": Spelling(
        lambda m, x: F.adaptive_avg_pool3d(m.conv(x), (x.shape[2], 2, 2))),
    "adaptive 1d to its own": Spelling(
        lambda m, x: F.adaptive_avg_pool1d(F.conv1d(x, m.conv.weight.flatten(2)), x.shape[2] - 2),
        frames=(3, 4, 5, 8, 9, 17), **SEQUENCE),
    "adaptive 2d over joints": Spelling(
        lambda m, x: F.adaptive_avg_pool2d(m.conv(x[..., None])[..., 0], (x.shape[2], 1)),
        **JOINTS),
    "adaptive to one": Spelling(
        lambda m, x: m.pool(m.conv(x)), parts=lambda: {"pool": nn.AdaptiveAvgPool3d(1)}),
    "adaptive to half of it": Spelling(
        lambda m, x: F.adaptive_avg_pool3d(m.conv(x), (x.shape[2] // 2, 4, 4)), **EVEN),
    "adaptive to eight": Spelling(
        lambda m, x: F.adaptive_avg_pool3d(m.conv(x), (4, 1, 1)), "into 4 bins"),
    "adaptive to the skip": Spelling(
        lambda m, x: F.adaptive_avg_pool3d(x, (y := m.down(x)).shape[2:]) + y, **EVEN),
    "area to half of it": Spelling(
        lambda m, x: F.interpolate(m.conv(x), size=(x.shape[2] // 2, 2, 2), mode="area"), **EVEN),
    "area where time stays": Spelling(
        lambda m, x: F.interpolate(m.conv(x), size=(x.shape[2], 2, 2), mode="area")),
}  # fmt: skip

# ----------------------------------------------------------------------------------- resizing


def resized(mode: str, **more: Any) -> Call:
    return lambda m, x: F.interpolate(m.down(x), size=x.shape[2:], mode=mode, **more) + m.conv(x)


RESIZED: dict[str, Spelling] = {
    "nearest to the skip": Spelling(resized("nearest")),
    "nearest-exact to the skip": Spelling(resized("nearest-exact"), **EVEN),
    "nearest to the skip's time": Spelling(
        lambda m, x: F.interpolate(m.down(x), size=(x.shape[2], 4, 4)) + x),
    "trilinear to the skip": Spelling(resized("trilinear"), **EVEN),
    "trilinear to the skip, corners aligned": Spelling(
        resized("trilinear", align_corners=True), "align_corners"),
    "trilinear where time stays": after(
        lambda m, y: F.interpolate(y, size=(y.shape[2], 8, 8), mode="trilinear")),
    "trilinear where time stays, corners aligned": after(
        lambda m, y: F.interpolate(
            y, size=(y.shape[2], 8, 8), mode="trilinear", align_corners=True)),
    "trilinear by scale where time stays, corners aligned": after(
        lambda m, y: F.interpolate(
            y, scale_factor=(1, 2, 2), mode="trilinear", align_corners=True)),
    "to the size of a skip of the same length, corners aligned": Spelling(
        lambda m, x: F.interpolate(
            F.avg_pool3d(m.conv(x), (1, 2, 2)), size=x.size()[2:], mode="trilinear",
            align_corners=True) + x),
    "linear to twice": Spelling(
        lambda m, x: F.interpolate(
            F.conv1d(x, m.conv.weight.flatten(2), padding=1), size=2 * x.shape[2], mode="linear"),
        **SEQUENCE),
    "bilinear over joints where time stays": Spelling(
        lambda m, x: F.interpolate(
            m.conv(x[..., None])[..., 0], size=(x.shape[2], 10), mode="bilinear"), **JOINTS),
    "nearest down by scale": after(lambda m, y: F.interpolate(y, scale_factor=(0.5, 1, 1))),
    "nearest down by scale of a quarter": after(
        lambda m, y: F.interpolate(y, scale_factor=(0.25, 0.5, 0.5))),
    "nearest-exact down by scale": after(
        lambda m, y: F.interpolate(y, scale_factor=(0.5, 1, 1), mode="nearest-exact")),
    "trilinear down by scale": after(
        lambda m, y: F.interpolate(y, scale_factor=(0.5, 0.5, 0.5), mode="trilinear")),
    "trilinear down by a third, which is rounded": Spelling(
        lambda m, x: F.interpolate(m.conv(x), scale_factor=(1 / 3, 1, 1), mode="trilinear"),
        "rounded"),
    "nearest down by half, size": after(
        lambda m, y: F.interpolate(y, size=(y.shape[2] // 2, 4, 4))),
    "nearest down by half, size rounded up": Spelling(
        lambda m, x: F.interpolate(m.conv(x), size=((x.shape[2] + 1) // 2, 4, 4)), **EVEN),
    "trilinear down by half, size": Spelling(
        lambda m, x: F.interpolate(m.conv(x), size=(x.shape[2] // 2, 4, 4), mode="trilinear"),
        **EVEN),
    "a mask to the features": Spelling(
        lambda m, x: (y := m.down(x)) * F.interpolate(
            x[:, :1].mean((3, 4), keepdim=True).relu(), size=(y.shape[2], 1, 1)), **EVEN),
    "a mask down by size, up again": Spelling(
        lambda m, x: (y := F.avg_pool3d(m.conv(x), (2, 1, 1))) * F.interpolate(
            x[:, :1, :, 0, 0].relu(), size=y.shape[2])[..., None, None]),
    "recomputed scale": after(
        lambda m, y: F.interpolate(y, scale_factor=(2, 1, 1), recompute_scale_factor=True)),
    "repeat_interleave to the skip": Spelling(
        lambda m, x: m.down(x).repeat_interleave(2, 2)[:, :, : x.shape[2]] + m.conv(x)),
    "to an odd skip": Spelling(
        lambda m, x: (d := m.conv(x[:, :, 1:] - x[:, :, :-1])) + F.interpolate(
            F.avg_pool3d(d, (2, 1, 1)), size=d.shape[2:]), sizes=(2, 4, 9, 4, 4),
        only=lambda frames: frames % 2 == 1),
    "to a third more": Spelling(
        lambda m, x: F.interpolate(m.conv(x), size=(x.shape[2] * 4 // 3, 4, 4)), "resizes time"),
    "to sixteen": Spelling(
        lambda m, x: F.interpolate(m.conv(x), size=(16, 4, 4)), "resizes time"),
}  # fmt: skip

# -------------------------------------------------------------------------------------- pads


def _same(m: Net, x: Tensor, k: int, s: int, d: int = 1) -> Tensor:
    """TensorFlow's "same"."""
    more = max((math.ceil(x.shape[2] / s) - 1) * s + (k - 1) * d + 1 - x.shape[2], 0)
    x = padded(x, more // 2, more - more // 2)
    return F.conv3d(x, m.conv.weight[:, :, :k], stride=(s, 1, 1), dilation=(d, 1, 1))


def _codec(m: Net, x: Tensor, k: int = 3, s: int = 2, left: bool = False) -> Tensor:
    """EnCodec's: causal, and filled up so that the last window is whole."""
    more = k - s
    windows = (x.shape[2] - k + more) / s + 1
    ideal = (math.ceil(windows) - 1) * s + (k - more)
    x = padded(x, more, ideal - x.shape[2])
    return F.conv3d(x, m.conv.weight[:, :, :k], stride=(s, 1, 1))


PADS: dict[str, Spelling] = {
    "to a multiple of four": Spelling(
        lambda m, x: F.avg_pool3d(padded(m.conv(x), 0, -x.shape[2] % 4), (4, 1, 1))),
    "to a multiple of four by a modulo of a modulo": Spelling(
        lambda m, x: F.avg_pool3d(padded(m.conv(x), 0, (4 - x.shape[2] % 4) % 4), (4, 1, 1))),
    "to a multiple of four by ceil": Spelling(
        lambda m, x: F.avg_pool3d(
            padded(m.conv(x), 0, math.ceil(x.shape[2] / 4) * 4 - x.shape[2]), (4, 1, 1))),
    "to a multiple of two, if there is a rest": Spelling(
        lambda m, x: m.up(F.avg_pool3d(
            padded(y, 0, 1) if (y := m.conv(x)).shape[2] % 2 else y, (2, 1, 1)))[
                :, :, : x.shape[2]], **EVEN),
    "to a multiple, down, up and cropped": Spelling(
        lambda m, x: m.up(F.avg_pool3d(padded(m.conv(x), 0, x.shape[2] % 2), (2, 1, 1)))[
            :, :, : x.shape[2]]),
    "to a multiple, by the last frame": Spelling(
        lambda m, x: F.max_pool3d(
            padded(m.conv(x), 0, -x.shape[2] % 4, "replicate"), (4, 1, 1))),
    "to a multiple, by zeros behind": Spelling(
        lambda m, x: F.avg_pool3d(torch.cat(
            [y := m.conv(x), y.new_zeros(*y.shape[:2], -x.shape[2] % 2, *y.shape[3:])], 2),
            (2, 1, 1))),
    "to a multiple, in front": Spelling(
        lambda m, x: F.avg_pool3d(padded(m.conv(x), -x.shape[2] % 4, 0), (4, 1, 1)),
        only=lambda frames: frames % 4 == 0),
    "same, stride one": Spelling(lambda m, x: _same(m, x, 3, 1)),
    "same, stride one, dilated": Spelling(lambda m, x: _same(m, x, 3, 1, 2)),
    "same, stride two": Spelling(lambda m, x: _same(m, x, 3, 2), **EVEN),
    "same, stride two, two wide": Spelling(lambda m, x: _same(m, x, 2, 2)),
    "codec": Spelling(lambda m, x: _codec(m, x)),
    "codec, as wide as its stride": Spelling(lambda m, x: _codec(m, x, 2, 2)),
    "codec, reflected at the end": Spelling(
        lambda m, x: F.max_pool3d(padded(m.conv(x), 0, x.shape[2] % 2, "reflect"), (2, 1, 1)),
        frames=(2, 3, 5, 8, 9, 12, 17)),
    "to the skip": Spelling(
        lambda m, x: padded(
            y := m.up(F.avg_pool3d(x, (2, 1, 1))), 0, x.shape[2] - y.shape[2]) + m.conv(x)),
    "half of the difference on each side": Spelling(
        lambda m, x: padded(
            y := m.bare(x), (x.shape[2] - y.shape[2]) // 2,
            x.shape[2] - y.shape[2] - (x.shape[2] - y.shape[2]) // 2) + x,
        frames=(3, 4, 5, 8, 9, 17)),
    "torchvision's swin, before windows": Spelling(
        lambda m, x: F.pad(
            m.conv(x).movedim(1, -1), (0, 0, 0, -4 % 4, 0, -4 % 4, 0, (2 - x.shape[2] % 2) % 2)
            ).movedim(-1, 1).unflatten(2, (-1, 2)).amax(3)),
    "to 32 frames": Spelling(
        lambda m, x: padded(m.conv(x), 0, 32 - x.shape[2]), frames=(1, 3, 8, 9, 32, 33, 40)),
}  # fmt: skip

# ----------------------------------------------------------------------------- unused numbers


def _unused(make: Any) -> Spelling:
    def call(m: Net, x: Tensor) -> Tensor:
        make(x.shape[2])
        return m.conv(x)

    return Spelling(call)


UNUSED: dict[str, Spelling] = {
    "float": _unused(lambda t: 1.0 + float(t)),
    "int of a half": _unused(lambda t: int(t / 2)),
    "int of a ceil": _unused(lambda t: int(np.ceil(t / 4.0))),
    "math.ceil": _unused(lambda t: math.ceil(t / 4)),
    "math.floor": _unused(lambda t: math.floor(t / 4)),
    "np.ceil": _unused(lambda t: np.ceil(t / 4)),
    "np.floor": _unused(lambda t: np.floor(t / 4)),
    "round": _unused(lambda t: round(t / 3)),
    "a tensor": _unused(lambda t: torch.tensor(t)),
    "a tensor of it": _unused(lambda t: torch.tensor([t, t]).float()),
    "an arange": _unused(lambda t: torch.arange(t)),
    "divmod": _unused(lambda t: divmod(t, 4)),
    "max of it and one": _unused(lambda t: max(t, 1)),
    "np.prod of the shape": _unused(lambda t: np.prod([t, 4])),
}
#: Numbers that are used after all, as sizes.
USED: dict[str, Spelling] = {
    "int of a half": Spelling(
        lambda m, x: m.up(m.down(x))[:, :, : 2 * int(x.shape[2] / 2)], frames=(2, 3, 8, 9, 17)),
    "int of a ceil": Spelling(
        lambda m, x: F.avg_pool3d(
            padded(m.conv(x), 0, int(np.ceil(x.shape[2] / 4.0)) * 4 - x.shape[2]), (4, 1, 1))),
    "the quotient of divmod": Spelling(
        lambda m, x: F.avg_pool3d(
            m.conv(x)[:, :, : divmod(x.shape[2], 4)[0] * 4], (4, 1, 1)), frames=(4, 5, 8, 9, 17)),
    "float as a factor": Spelling(
        lambda m, x: m.conv(x) * float(x.shape[2]), "length of the video"),
}  # fmt: skip

# -------------------------------------------------------------------------------------- views


def _in_channels(m: Net, x: Tensor) -> Tensor:
    """Two frames in the channels of one, and back."""
    n, c, t, h, w = x.shape
    y = m.conv(x).transpose(1, 2).reshape(n * t, c, h, w)
    y = y.reshape(n * t // 2, 2 * c, h, w)
    y = torch.cat([y[:, c:], y[:, :c]], 1) + y.relu()
    return y.reshape(n, t, c, h, w).transpose(1, 2)


def _per_frame(call: Call, **more: Any) -> Spelling:
    """Of frames in the batch."""

    def forward(m: Net, x: Tensor) -> Tensor:
        n, c, t, h, w = x.shape
        return call(m.conv(x).transpose(1, 2).reshape(n * t, c, h, w), (n, t, c, h, w))

    return Spelling(forward, **more)


VIEWS: dict[str, Spelling] = {
    "pairs": Spelling(
        lambda m, x: m.conv(x).view(x.shape[0], 4, x.shape[2] // 2, 2, 4, 4).amax(3), **EVEN),
    "pairs by unflatten": Spelling(
        lambda m, x: m.conv(x).unflatten(2, (x.shape[2] // 2, 2)).amax(3), **EVEN),
    "pairs by unflatten, inferred": Spelling(
        lambda m, x: m.conv(x).unflatten(2, (-1, 2)).amax(3), **EVEN),
    "pairs by reshape, inferred": Spelling(
        lambda m, x: m.conv(x).reshape(x.shape[0], 4, -1, 2, *x.shape[3:]).amax(3), **EVEN),
    "pairs of joints": Spelling(
        lambda m, x: m.conv(x[..., None])[..., 0].reshape(
            x.shape[0], 4, x.shape[2] // 2, 2 * 5).relu(), **JOINTS, **EVEN),
    "frames into channels and back": Spelling(_in_channels, **EVEN),
    "frames into channels": _per_frame(
        lambda y, s: y.reshape(s[0] * s[1] // 2, 2 * s[2], *s[3:]).amax(1).view(
            s[0], s[1] // 2, *s[3:]) * 2, **EVEN),
    "frames into channels, beside batch": Spelling(
        lambda m, x: m.conv(x).transpose(1, 2).reshape(
            x.shape[0], x.shape[2] // 2, 2 * 4, 4, 4).amax(2), **EVEN),
    "groups of the batch by a fixed size": _per_frame(
        lambda y, s: y.view(-1, 8, *s[2:]).flip(1).reshape(s[0], s[1], *s[2:]), **EIGHTS),
    "groups of the batch by a fixed size, divided": _per_frame(
        lambda y, s: (y.view(y.shape[0] // 8, 8, *s[2:]) * 2).view(s).relu(), **EIGHTS),
    "frames to the batch and back": _per_frame(
        lambda y, s: y.view(s[0], s[1], *s[2:]).transpose(1, 2)),
    "frames to the batch and back, inferred": _per_frame(
        lambda y, s: y.view(-1, s[1], *s[2:]).transpose(1, 2)),
    "frames to the batch and back by division": _per_frame(
        lambda y, s: y.view(y.shape[0] // s[1], s[1], *s[2:]).transpose(1, 2)),
    "frames to the batch and back, frames by division": _per_frame(
        lambda y, s: y.view(s[0], y.shape[0] // s[0], *s[2:]).transpose(1, 2)),
    "frames to the batch and back by unflatten": _per_frame(
        lambda y, s: y.unflatten(0, (s[0], s[1])).transpose(1, 2)),
    "space into the batch": Spelling(
        lambda m, x: m.conv(x).permute(0, 3, 4, 1, 2).reshape(
            x.shape[0] * 16, 4, x.shape[2]).relu().view(x.shape[0], 4, 4, 4, x.shape[2])),
    "channels and time in one": Spelling(
        lambda m, x: m.conv(x).reshape(x.shape[0], 4 * x.shape[2], 4, 4).relu().view(
            x.shape[0], 4, x.shape[2], 4, 4)),
    "time and space in one": after(
        lambda m, y: y.flatten(2).softmax(1).view(*y.shape[:2], y.shape[2], 4, 4)),
    "time and space in one, by numel": after(
        lambda m, y: y.view(*y.shape[:2], y[0, 0].numel()).relu().view(y.shape)),
    "up by channels": Spelling(
        lambda m, x: m.conv(x).view(x.shape[0], 2, 2, x.shape[2], 4, 4).permute(
            0, 1, 3, 2, 4, 5).reshape(x.shape[0], 2, 2 * x.shape[2], 4, 4)),
    "a head that flattens the clip": Spelling(
        lambda m, x: m.fc(m.conv(x).flatten(1)), "weight|length|frames",
        parts=lambda: {"fc": nn.Linear(4 * 8 * 16, 3)}),
    "a head that flattens the clip by view": Spelling(
        lambda m, x: m.fc(m.conv(x).mean((3, 4)).view(x.shape[0], -1)), "weight|length|frames",
        parts=lambda: {"fc": nn.Linear(4 * 8, 3)}),
    "a head over all frames": Spelling(
        lambda m, x: m.fc(m.conv(x).movedim(2, -1)), "weight|length|frames",
        parts=lambda: {"fc": nn.Linear(8, 3)}),
}  # fmt: skip

# ------------------------------------------------------------------------------------- pieces


def _first_apart(m: Net, x: Tensor) -> Tensor:
    first, rest = m.conv(x).split((1, x.shape[2] - 1), dim=2)
    return torch.cat([first, m.one(rest)], 2)


def _last_apart(m: Net, x: Tensor) -> Tensor:
    rest, _ = m.conv(x).split([x.shape[2] - 1, 1], 2)
    return rest


def _of_each_video(cut: Any) -> Call:
    def call(m: Net, x: Tensor) -> Tensor:
        n, c, t, h, w = x.shape
        y = m.conv(x).transpose(1, 2).reshape(n * t, c, h, w)
        return torch.stack([video.relu() for video in cut(y, n, t)]).transpose(1, 2)

    return call


PIECES: dict[str, Spelling] = {
    "the first apart": Spelling(_first_apart, frames=(2, 3, 5, 8, 9, 17)),
    "the last apart": Spelling(_last_apart),
    "the first apart by tensor_split": Spelling(
        lambda m, x: torch.cat(
            [p if i else m.one(p) for i, p in enumerate(torch.tensor_split(m.conv(x), [1], 2))],
            2), frames=(2, 3, 5, 8, 9, 17)),
    "channels in pieces": Spelling(
        lambda m, x: torch.cat(m.conv(x).split([1, 3], 1)[::-1], 1)),
    "each video of the batch": Spelling(_of_each_video(lambda y, n, t: y.split(t))),
    "each video of the batch by chunk": Spelling(_of_each_video(lambda y, n, t: y.chunk(n))),
    "each video of the batch by tensor_split": Spelling(
        _of_each_video(lambda y, n, t: y.tensor_split(n))),
    "halves of the video": Spelling(
        lambda m, x: torch.cat(m.conv(x).chunk(2, 2)[::-1], 2), "pieces|length"),
    "halves of the video as channels": Spelling(
        lambda m, x: torch.cat(m.conv(x).chunk(2, 2), 1), "pieces|length"),
}  # fmt: skip

TABLES = {
    "slices": SLICES,
    "pools": POOLS,
    "resized": RESIZED,
    "pads": PADS,
    "unused": UNUSED,
    "used": USED,
    "views": VIEWS,
    "pieces": PIECES,
}
SLOW = ("frames into channels and back",)


@pytest.mark.parametrize("spelling", cases(TABLES, SLOW))
def test_it_is_exact_or_refused_for_what_it_computes(spelling: Spelling) -> None:
    hold(spelling)


ENDS = ("up again and cropped to the skip", "to a multiple of four", "nearest to the skip", "codec")


@pytest.mark.parametrize("name", ENDS)
def test_every_step_answers_at_once_as_is_claimed_of_it(name: str) -> None:
    """Under ``future="zero"`` a step takes its end for that of the video."""
    spelling = next(table[name] for table in TABLES.values() if name in table)
    model = Net(spelling.call).double().eval()
    torch.manual_seed(1)
    prog = pgt_fx.transform(model, spelling.clip(), future="zero")
    pgt_fx.verify(prog).raise_if_failed()
    for frames in (8, 9, 11):
        video, chunks = spelling.clip(frames), [3, 2, frames - 5]
        prog.reset()
        with torch.no_grad():
            outs = [prog(chunk) for chunk in video.split(chunks, 2)]
            outs.append(prog.flush())
            whole, found = model(video), torch.cat([out for out in outs if out is not None], 2)
        named = prog.exact_frames(chunks)
        assert found.shape == whole.shape and len(named) == whole.shape[2]
        for at, exact in enumerate(named):
            error = (found[:, :, at] - whole[:, :, at]).abs().max()
            assert (error < 1e-9) == exact, (frames, at)
