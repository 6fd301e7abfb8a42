"""One record per operator: a module that is this operator along time, and what is promised of it.

What each verdict promises is tested in test_rules.py:

- ``exact``: the outputs of any chunking, one after the other, are the model's own;
- ``running``: all of time becomes one answer; the last step's is the model's own;
- ``step``: no bounded state is enough; refused under ``future="wait"``, within a step if accepted;
- ``training``: the same, but it is what training does, and nobody is refused;
- ``refused``: an error that names the operator, the line, the reason and a remedy.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from opmodules import (
    Attention,
    Branches,
    Framewise,
    Local,
    Merged,
    Op,
    Parameters,
    SqueezeExcitation,
    TwoPlusOne,
    attention,
    mystery,
    shift,
)
from torch import nn
from torchvision.ops import StochasticDepth

SEQUENCE, VIDEO, FRAMEWISE = (2, 3, 17), (2, 3, 11, 6, 6), (2, 11, 3, 6, 6)


@dataclass(frozen=True)
class OpInfo:
    """An operator along time.

    Attributes:
        name: of the record, shown by pytest.
        make: builds the module.
        verdict: see the module.
        words: what the error of a refused operator must say.
        shape: of the example and the video.
        time, out: where time lies in input and output.
        mask: whether the cut mask of the oracles applies to it as one window.
        tight: whether a frame that reads a wrong one is wrong itself (not so of a maximum).
        training: whether the module is in training mode.
        first: shortest first chunk: fewer frames the module itself refuses.
    """

    name: str
    make: Callable[[], nn.Module]
    verdict: str = "exact"
    words: tuple[str, ...] = ()
    shape: tuple[int, ...] = SEQUENCE
    time: int = 2
    out: int = 2
    mask: bool = True
    tight: bool = True
    training: bool = False
    first: int = 1

    def __str__(self) -> str:
        return self.name


def modules(
    verdict: str, shape: tuple[int, ...], *makes: Callable[[], nn.Module], **more: Any
) -> list[OpInfo]:
    """Records of modules, named by what they print."""
    out = []
    for make in makes:
        text = " ".join(str(make()).split())
        out.append(OpInfo(text, make, verdict, shape=shape, **more))
    return out


def functions(
    verdict: str, shape: tuple[int, ...], calls: dict[str, Any], **more: Any
) -> list[OpInfo]:
    """Records of functions of one video."""
    return [
        OpInfo(name, lambda call=call: Op(call), verdict, shape=shape, **more)
        for name, call in calls.items()
    ]


CONVS = [
    *modules(
        "exact",
        SEQUENCE,
        lambda: nn.Conv1d(3, 4, 3, padding=1),
        lambda: nn.Conv1d(3, 4, 1),
        lambda: nn.Conv1d(3, 4, 5),
        lambda: nn.Conv1d(3, 4, 3, stride=2, padding=1),
        lambda: nn.Conv1d(3, 4, 2, stride=3),
        lambda: nn.Conv1d(3, 4, 1, stride=2),
        lambda: nn.Conv1d(3, 4, 3, stride=2, padding=4, dilation=3),
        lambda: nn.Conv1d(3, 6, 3, padding=2, dilation=2, groups=3),
        lambda: nn.Conv1d(3, 4, 4, padding="same"),
        lambda: nn.Conv1d(3, 4, 3, padding="same", dilation=2),
        lambda: nn.Conv1d(3, 4, 3, padding="valid"),
        lambda: nn.Conv1d(3, 4, 3, padding=2, padding_mode="reflect"),
        lambda: nn.Conv1d(3, 4, 4, stride=2, padding=2, padding_mode="replicate"),
        lambda: nn.ConvTranspose1d(3, 4, 3, stride=2, padding=1, output_padding=1),
        lambda: nn.ConvTranspose1d(3, 4, 3, dilation=2),
        lambda: nn.ConvTranspose1d(3, 4, 2, stride=3),
        lambda: nn.ConvTranspose1d(3, 3, 5, stride=2, padding=2, groups=3),
    ),
    *modules(
        "exact",
        VIDEO,
        lambda: nn.Conv3d(3, 4, 3, padding=1),
        lambda: nn.Conv3d(3, 4, (3, 1, 1), stride=(2, 1, 1), padding=(1, 0, 0)),
        lambda: nn.Conv3d(3, 4, (1, 3, 3), padding=(0, 1, 1)),
        lambda: nn.Conv3d(3, 3, (5, 3, 3), stride=(3, 2, 2), padding=(2, 1, 1), groups=3),
        lambda: nn.Conv3d(3, 4, (4, 3, 3), padding="same"),
        lambda: nn.Conv3d(3, 4, (2, 2, 2), padding="same"),
        lambda: nn.Conv3d(3, 4, 3, padding=(2, 1, 1), padding_mode="reflect"),
        lambda: nn.Conv3d(3, 4, 3, padding=1, padding_mode="replicate"),
        lambda: nn.Conv3d(3, 4, 3, padding=1, padding_mode="zeros", dilation=(2, 1, 1)),
        lambda: nn.ConvTranspose3d(3, 4, (3, 2, 2), (2, 2, 2), (1, 0, 0), (1, 0, 0)),
        lambda: nn.ConvTranspose3d(3, 4, (2, 1, 1), dilation=(3, 1, 1)),
    ),
    OpInfo(
        "Conv2d over time and frequency",
        lambda: nn.Sequential(Op(lambda x, conv: conv(x), nn.Conv2d(3, 4, 3, (2, 1), (1, 0)))),
        shape=(2, 3, 14, 8),
    ),
]

POOLS = [
    *modules(
        "exact",
        SEQUENCE,
        lambda: nn.MaxPool1d(3, 2, 1),
        lambda: nn.MaxPool1d(2),
        lambda: nn.MaxPool1d(3, 2, ceil_mode=True),
        lambda: nn.MaxPool1d(2, 3, 1, dilation=2, ceil_mode=True),
        tight=False,
    ),
    *modules(
        "exact",
        SEQUENCE,
        lambda: nn.AvgPool1d(3, 1, 1),
        lambda: nn.AvgPool1d(3, 2, 1, ceil_mode=True, count_include_pad=False),
        lambda: nn.AvgPool1d(4, 3, 2, ceil_mode=True),
        lambda: nn.LPPool1d(2, 3, 2, ceil_mode=True),
        lambda: nn.LPPool1d(3, 2),
    ),
    *modules(
        "exact",
        VIDEO,
        lambda: nn.MaxPool3d((3, 1, 1), (2, 1, 1), (1, 0, 0), ceil_mode=True),
        lambda: nn.MaxPool3d((2, 3, 3), 2, (1, 1, 1)),
        tight=False,
    ),
    *modules(
        "exact",
        VIDEO,
        lambda: nn.AvgPool3d((3, 2, 2), (1, 2, 2), (1, 0, 0), count_include_pad=False),
        lambda: nn.AvgPool3d((3, 2, 2), (2, 2, 2), (1, 1, 1), divisor_override=5),
        lambda: nn.AvgPool3d((2, 1, 1), ceil_mode=True),
        lambda: nn.LPPool3d(2, (3, 2, 2), (2, 1, 1)),
        first=3,
    ),
    *modules(
        "running",
        VIDEO,
        lambda: nn.AdaptiveAvgPool3d(1),
        lambda: nn.AdaptiveAvgPool3d((1, 2, 3)),
        lambda: nn.AdaptiveMaxPool3d((1, None, None)),
    ),
    *modules("running", SEQUENCE, lambda: nn.AdaptiveAvgPool1d(1), lambda: nn.AdaptiveMaxPool1d(1)),
]

PADS = [
    *functions(
        "exact",
        SEQUENCE,
        {
            "pad zeros": lambda x: F.pad(x, (2, 1)),
            "pad a value": lambda x: F.pad(x, (1, 2), value=0.5),
            "pad causal": lambda x: F.pad(x, (3, 0)),
            "pad ahead": lambda x: F.pad(x, (0, 3)),
            "pad replicate": lambda x: F.pad(x, (2, 3), mode="replicate"),
            "pad reflect": lambda x: F.pad(x, (2, 3), mode="reflect"),
            "pad negative": lambda x: F.pad(x, (-1, -2)),
            "pad by a crop and a value": lambda x: F.pad(x, (-1, 2), value=1.0),
            "slice from a start": lambda x: x[:, :, 2:],
            "slice to a negative stop": lambda x: x[:, :, :-2],
            "slice to a constant": lambda x: x[:, :, 1:9],
            "slice by a step": lambda x: x[:, :, 1::3],
            "shift": shift,
            "upsample nearest": lambda x: F.interpolate(x, scale_factor=2, mode="nearest"),
            "upsample linear": lambda x: F.interpolate(x, scale_factor=3, mode="linear"),
            "repeat_interleave": lambda x: x.repeat_interleave(2, dim=2),
            "unfold": lambda x: x.unfold(2, 3, 2),
        },
    ),
    *functions(
        "exact",
        VIDEO,
        {
            "pad time and space": lambda x: F.pad(x, (1, 1, 0, 1, 2, 0), value=0.25),
            "pad replicate in 3-D": lambda x: F.pad(x, (1, 1, 0, 1, 2, 1), mode="replicate"),
            "upsample nearest in 3-D": lambda x: F.interpolate(x, scale_factor=2),
            "upsample trilinear": lambda x: F.interpolate(
                x, scale_factor=(2, 1, 1), mode="trilinear"
            ),
        },
    ),
    *[
        OpInfo(
            f"{name} then conv",
            lambda pad=pad: Op(lambda x, conv: conv(pad(x)), nn.Conv1d(3, 4, 3)),
        )
        for name, pad in {
            "causal pad": lambda x: F.pad(x, (2, 0)),
            "valued pad": lambda x: F.pad(x, (1, 1), value=-2.0),
            "replicated pad": lambda x: F.pad(x, (2, 2), mode="replicate"),
            "reflected pad": lambda x: F.pad(x, (1, 1), mode="reflect"),
        }.items()
    ],
]

JOINS = [
    OpInfo("add of three kernels", lambda: Branches(lambda a, b, c: a + b + c, 1, 3, 7)),
    OpInfo("cat of three kernels", lambda: Branches(lambda *x: torch.cat(x, 1), 5, 3, 1)),
    OpInfo("mul of two strided", lambda: Branches(torch.mul, 5, 3, stride=2)),
    OpInfo("stack of two kernels", lambda: Branches(lambda *x: torch.stack(x, 1), 1, 5), out=3),
    OpInfo("where", lambda: Branches(lambda *x: x[0].where(x[1] > 0, x[2]), 1, 3, 5), tight=False),
    OpInfo("residual", lambda: Branches(lambda a, b: F.relu(a + b), 1, 3), tight=False),
    OpInfo("broadcast learned", lambda: Op(lambda x, p: x * p() + 1, Parameters(3, 1))),
    OpInfo("learned token", lambda: Op(lambda x, p: x + p()[None, :, None], Parameters(3))),
]

REDUCTIONS = [
    *functions(
        "running",
        VIDEO,
        {
            "mean over time": lambda x: x.mean(2),
            "mean, time kept": lambda x: x.mean(dim=2, keepdim=True),
            "mean over time and space": lambda x: x.mean((2, 3, 4)),
            "mean over merged tokens": lambda x: x.flatten(2).mean(2),
            "sum": lambda x: x.sum(2),
            "amax": lambda x: x.amax(2),
            "amin over time and space": lambda x: x.amin((2, 3, 4), keepdim=True),
            "var": lambda x: x.var(2),
            "var over time and space": lambda x: x.var((2, 3, 4), correction=0),
            "std, time kept": lambda x: x.std(2, keepdim=True),
            "any": lambda x: (x > 2).any(2),
            "first": lambda x: x[:, :, 0],
            "last": lambda x: x[:, :, -1],
            "last, time kept": lambda x: x[:, :, -1:],
        },
    ),
    OpInfo("conv, mean, linear", lambda: nn.Sequential(
        nn.Conv1d(3, 4, 3, padding=1), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(4, 2)
    ), "running"),
]  # fmt: skip

POINTWISE = [
    OpInfo(name, lambda call=call: nn.Sequential(nn.Conv1d(3, 3, 3, padding=1), Local(call)))
    for name, call in {
        "relu": F.relu,
        "silu in place": lambda x: F.silu(x, inplace=True),
        "gelu, clamp": lambda x: F.gelu(x).clamp(-1, 1),
        "dropout": lambda x: F.dropout(x, 0.5, training=False),
        "glu": lambda x: F.glu(torch.cat([x, x], 1), 1),
        "softmax over channels": lambda x: x.softmax(1),
        "normalize": lambda x: F.normalize(x, dim=1),
        "arithmetic": lambda x: (x.abs() + 1).log().pow(2) / 3 - x.exp().sqrt(),
        "masked_fill": lambda x: x.masked_fill(x > 0, 0.5),
        "cumsum over channels": lambda x: x.cumsum(1),
        "flip channels": lambda x: x.flip(1),
        "chunk channels": lambda x: x.chunk(3, 1)[1] * x,
        "einsum over channels": lambda x: torch.einsum("nct,nct->nt", x, x)[:, None],
        "unsqueeze": lambda x: x.unsqueeze(1).expand(-1, 2, -1, -1).flatten(1, 2),
        "in place": lambda x: x.clone().add_(1).mul_(x),
    }.items()
]

NORMS = [
    *modules(
        "exact",
        VIDEO,
        lambda: nn.BatchNorm3d(3),
        lambda: Merged(nn.GroupNorm(1, 3)),
        lambda: Merged(nn.InstanceNorm2d(3)),
        lambda: Op(lambda x, n: n(x.movedim(1, -1)).movedim(-1, 1), nn.LayerNorm(3)),
    ),
    *modules("training", VIDEO, lambda: nn.BatchNorm3d(3), training=True),
    *modules(
        "step",
        VIDEO,
        lambda: nn.GroupNorm(1, 3),
        lambda: nn.InstanceNorm3d(3),
        lambda: nn.BatchNorm3d(3, track_running_stats=False),
    ),
]

VIEWS = [
    OpInfo("2+1D", TwoPlusOne, shape=VIDEO),
    OpInfo("frames in the batch", lambda: Merged(nn.Conv2d(3, 4, 3)), shape=VIDEO),
    OpInfo("NTCHW", Framewise, shape=FRAMEWISE, time=1, out=1, mask=False),
    OpInfo("attention over space", lambda: Op(
        lambda x: attention(x.permute(0, 2, 3, 4, 1).flatten(2, 3)).movedim(3, 1)
    ), shape=VIDEO),
    OpInfo("tokens", lambda: Op(
        lambda x, f: f(x.flatten(2).transpose(1, 2)).transpose(1, 2).unflatten(
            2, (x.shape[2], x.shape[3], x.shape[4])), nn.Linear(3, 5)
    ), shape=VIDEO),
    OpInfo("stochastic depth", lambda: StochasticDepth(0.5, "row")),
]  # fmt: skip

WITHIN_A_STEP = [
    OpInfo("attention over time", Attention, "step"),
    OpInfo("sdpa over time", lambda: Op(lambda x: attention(x.transpose(1, 2))), "step", out=1),
    OpInfo("softmax over time", lambda: Op(lambda x: x.softmax(2)), "step"),
    OpInfo("squeeze-excitation", SqueezeExcitation, "step"),
    OpInfo("stochastic depth", lambda: StochasticDepth(0.5, "row"), "training", training=True),
    OpInfo("dropout", lambda: nn.Dropout(0.5), "training", training=True),
]


def refused(
    name: str, call: Any, *words: str, inner: Callable[[], nn.Module] | None = None, **more: Any
) -> OpInfo:
    """A record of an operator that can't be made progressive."""
    return OpInfo(
        name, lambda: Op(call, *([inner()] if inner else [])), "refused", words, mask=False, **more
    )


REFUSED = [
    refused("circular conv", lambda x, conv: conv(x), "start of the video",
            inner=lambda: nn.Conv1d(3, 4, 3, padding=1, padding_mode="circular")),
    refused("circular pad", lambda x: F.pad(x, (1, 1), mode="circular"), "pad", "replicate"),
    refused("adaptive bins", lambda x: F.adaptive_avg_pool1d(x, 4), "4 bins"),
    refused("resize to a size", lambda x: F.interpolate(x, size=30), "upsample", "scale_factor"),
    refused("flip", lambda x: x.flip(2), "aten.flip", "reverses time"),
    refused("sort", lambda x: x.sort(2)[0], "aten.sort"),
    refused("roll", lambda x: x.roll(1, 2), "aten.roll"),
    refused("topk", lambda x: x.topk(2, 2)[0], "aten.topk"),
    refused("argmax", lambda x: x.argmax(2), "aten.argmax"),
    refused("max with indices", lambda x: x.max(2)[0], "aten.max", "amax"),
    refused("median", lambda x: x.median(2)[0], "aten.median"),
    refused("cummax", lambda x: x.cummax(2)[1], "aten.cummax"),
    refused("index by data", lambda x: x[:, :, x[0, 0].long().abs() % 2], "aten.index"),
    refused("fft", lambda x: torch.fft.rfft(x, dim=2).abs(), "fft"),
    refused("custom operator", mystery, "pgt_tests", "mystery"),
    refused("frame 3", lambda x: x[:, :, 3], "aten.select"),
    refused("last frames", lambda x: x[:, :, -3:], "aten.slice"),
    refused("mean over the batch", lambda x: x - x.mean((0, 2), keepdim=True), "batch"),
    refused("align_corners", lambda x: F.interpolate(
        x, scale_factor=2, mode="linear", align_corners=True), "align_corners"),
    refused("time as channels", lambda x, conv: conv(x.transpose(1, 2)), inner=lambda: nn.Conv1d(
        17, 4, 3, padding=1)),
    refused("linear over time", lambda x, fc: fc(x), inner=lambda: nn.Linear(17, 4)),
    refused("norm over time", lambda x, norm: norm(x), inner=lambda: nn.LayerNorm([3, 17])),
    refused("branch on a square", lambda x: x.flip(1) if x.shape[2] ** 2 > 1600 else x, "branch"),
    refused("branch on a root", lambda x: x * 2 if x.shape[2] ** 0.5 > 7 else x, "branch"),
    refused("pooled value in front", lambda x: torch.cat([x.mean(2, keepdim=True), x * 2], 2),
            "aten.cat"),
    refused("stream behind a stream", lambda x: torch.cat([x, x * 2], 2), "aten.cat"),
]  # fmt: skip

#: A first frame apart, frames in groups, and several elements of a frame in a row.
FOLDED = [
    *functions(
        "exact",
        SEQUENCE,
        {
            "first frame apart": lambda x: torch.cat(
                [x[:, :, :1], F.avg_pool1d(x[:, :, 1:], 2)], 2
            ),
            "first frame apart by select": lambda x: torch.cat(
                [(x[:, :, 0] * 3).unsqueeze(2), x[:, :, 1:].repeat_interleave(2, 2)], 2
            ),
            "two first frames apart, late": lambda x: torch.cat(
                [F.avg_pool1d(x, 5, 1)[:, :, :2], x[:, :, 2:] * 2], 2
            ),
            "three parts": lambda x: torch.cat(
                [x[:, :, 1:2] * 2, x[:, :, :3], F.max_pool1d(x, 3, 1)], 2
            ),
            "groups of two frames": lambda x: (
                x[:, :, 1:].reshape(2, 3, (x.shape[2] - 1) // 2, 2).transpose(2, 3).flatten(1, 2)
            ),
            "upsampled to a size": lambda x: (
                F.interpolate(x, size=x.repeat_interleave(3, 2).shape[2]) * 2
            ),
            "nearest-exact": lambda x: F.interpolate(x, scale_factor=2, mode="nearest-exact"),
        },
        mask=False,
    ),
    OpInfo(
        "a constant in front",
        lambda: Op(
            lambda x, p: F.avg_pool1d(torch.cat([p().expand(2, -1, -1), x * 2], 2), 3, 1),
            Parameters(1, 3, 2),
        ),
        mask=False,
    ),
    OpInfo(
        "two elements of a frame in a row, then a conv",
        lambda: Op(
            lambda x, conv: conv(torch.stack([x, x * 2], 3).reshape(2, 3, -1)),
            nn.Conv1d(3, 4, 3, padding=1),
        ),
        mask=False,
    ),
    OpInfo(
        "two elements of a frame in a row, the first left out",
        lambda: Op(lambda x: torch.stack([x, x.exp()], 3).flatten(2)[:, :, 1:].relu()),
        mask=False,
    ),
]

OPINFOS = [
    *CONVS, *POOLS, *PADS, *JOINS, *REDUCTIONS, *POINTWISE, *NORMS, *VIEWS, *WITHIN_A_STEP,
    *FOLDED, *REFUSED,
]  # fmt: skip


def by(verdict: str) -> list[OpInfo]:
    """All records of a verdict."""
    return [info for info in OPINFOS if info.verdict == verdict]
