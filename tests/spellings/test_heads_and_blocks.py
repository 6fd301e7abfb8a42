"""Heads and blocks as research code has them."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from spelled import Call, Net, Spelling, cases, hold
from torch import Tensor, nn

LENGTH = "weight|length|frames|clip"
EVEN = {"only": lambda frames: frames % 2 == 0}
FOURS = {"only": lambda frames: frames % 4 == 0}
SEQUENCE: dict[str, Any] = {"sizes": (2, 4, 8)}
#: Skeletons: joints in place of space.
JOINTS: dict[str, Any] = {"sizes": (2, 4, 8, 5), "options": {"time_dim": 2}}
FAST: dict[str, Any] = {"sizes": ((2, 4, 4, 4, 4), (2, 4, 16, 4, 4)), "frames": (1, 2, 3, 4, 7)}


def after(call: Call, **more: Any) -> Spelling:
    """Of a convolution along time."""
    return Spelling(lambda m, x: call(m, m.conv(x)), **more)


def _linear(features: int) -> Any:
    return lambda: {"fc": nn.Linear(features, 3)}


# ------------------------------------------------------------------------------------- heads

HEADS: dict[str, Spelling] = {
    "mean": after(lambda m, y: m.fc(y.mean((2, 3, 4))), parts=_linear(4)),
    "mean one after the other": after(
        lambda m, y: m.fc(y.mean(4).mean(3).mean(2)), parts=_linear(4)),
    "mean of what is flat": after(
        lambda m, y: m.fc(y.flatten(2).mean(2)), parts=_linear(4)),
    "mean of what is flat, by a view": after(
        lambda m, y: m.fc(y.view(y.size(0), y.size(1), -1).mean(2)), parts=_linear(4)),
    "maximum of what is flat": after(
        lambda m, y: m.fc(y.view(y.size(0), y.size(1), -1).amax(-1)), parts=_linear(4)),
    "pool as long as what is left": after(
        lambda m, y: m.fc(F.avg_pool3d(y, (y.size(2), 4, 4)).flatten(1)), parts=_linear(4)),
    "pool as long as the clip over a stride": Spelling(
        lambda m, x: m.fc(F.avg_pool3d(m.down(x), (math.ceil(x.size(2) / 2), 4, 4)).flatten(1)),
        parts=_linear(4)),
    "global pool, squeezed": after(
        lambda m, y: m.fc(F.adaptive_avg_pool3d(y, 1).squeeze(-1).squeeze(-1).squeeze(-1)),
        parts=_linear(4)),
    "global pool, squeezed at once": after(
        lambda m, y: m.fc(F.adaptive_avg_pool3d(y, 1).squeeze()), parts=_linear(4)),
    "global pool, viewed": after(
        lambda m, y: m.fc(F.adaptive_avg_pool3d(y, (1, 1, 1)).view(y.shape[0], -1)),
        parts=_linear(4)),
    "global maximum": after(
        lambda m, y: m.fc(F.adaptive_max_pool3d(y, 1).flatten(1)), parts=_linear(4)),
    "mean and maximum": after(
        lambda m, y: m.fc(torch.cat([y.mean((2, 3, 4)), y.amax((2, 3, 4))], 1)), parts=_linear(8)),
    "sum over the number of frames": after(
        lambda m, y: m.fc(y.mean((3, 4)).sum(2) / y.shape[2]), parts=_linear(4)),
    "sum over the number of elements": after(
        lambda m, y: m.fc(y.sum((2, 3, 4)) / (y.shape[2] * y.shape[3] * y.shape[4])),
        parts=_linear(4)),
    "sum over one more": Spelling(
        lambda m, x: m.fc(m.conv(x).mean((3, 4)).sum(2) / (x.shape[2] + 1)),
        "calculates with the number of frames", parts=_linear(4)),
    "scores of frames, averaged": after(
        lambda m, y: m.fc(y.mean((3, 4)).transpose(1, 2)).mean(1), parts=_linear(4)),
    "scores of frames, by (batch * time)": after(
        lambda m, y: m.fc(y.mean((3, 4)).transpose(1, 2).reshape(-1, 4)).view(
            y.shape[0], y.shape[2], -1).mean(1), parts=_linear(4)),
    "scores of frames, time inferred": after(
        lambda m, y: m.fc(y.mean((3, 4)).transpose(1, 2).flatten(0, 1)).view(
            y.shape[0], -1, 3).mean(1), parts=_linear(4)),
    "softmax of scores, averaged": after(
        lambda m, y: m.fc(y.permute(0, 2, 3, 4, 1)).softmax(-1).mean((1, 2, 3)), parts=_linear(4)),
    "convolution over the clip": Spelling(
        lambda m, x: m.head(m.conv(x)).mean((3, 4)), frames=(8, 9, 12, 17),
        parts=lambda: {"head": nn.Conv3d(4, 3, (8, 1, 1))}),
    "1x1 convolution, pooled": Spelling(
        lambda m, x: F.adaptive_avg_pool3d(m.one(m.conv(x)), (1, 1, 1)).flatten(1)),
    "1x1 convolution, pooled over space": Spelling(
        lambda m, x: F.adaptive_avg_pool3d(
            m.one(m.conv(x)), (None, 1, 1)).squeeze(-1).squeeze(-1)),
    "I3D's: pool, logits, mean over time": Spelling(
        lambda m, x: m.one(F.avg_pool3d(m.conv(x), (2, 4, 4), stride=1)).squeeze(3).squeeze(3
            ).mean(2), frames=(2, 3, 5, 8, 9)),
    "the last frame": after(lambda m, y: m.fc(y.mean((3, 4))[:, :, -1]), parts=_linear(4)),
    "the last frame by its number": after(
        lambda m, y: m.fc(y.mean((3, 4))[:, :, y.shape[2] - 1]), parts=_linear(4)),
    "the first frame": after(lambda m, y: m.fc(y.mean((3, 4))[:, :, 0]), parts=_linear(4)),
    "the frame in the middle": Spelling(
        lambda m, x: m.fc(m.conv(x).mean((3, 4))[:, :, x.shape[2] // 2]), "only at its end",
        parts=_linear(4)),
    "flat": Spelling(
        lambda m, x: m.fc(m.conv(x).flatten(1)), LENGTH, parts=_linear(4 * 8 * 16)),
    "flat over time": Spelling(
        lambda m, x: m.fc(m.conv(x).mean((3, 4)).flatten(1)), LENGTH, parts=_linear(4 * 8)),
    "scores up to the clip's length": Spelling(
        lambda m, x: F.interpolate(
            m.fc(m.down(x).mean((3, 4)).transpose(1, 2)).transpose(1, 2), size=x.shape[2],
            mode="linear"), parts=_linear(4), **EVEN),
    "scores up to the clip's length, nearest": Spelling(
        lambda m, x: F.interpolate(
            m.fc(m.down(x).mean((3, 4)).transpose(1, 2)).transpose(1, 2), size=x.shape[2]),
        parts=_linear(4)),
    "standard deviation over time": after(
        lambda m, y: m.fc(torch.cat([y.mean((2, 3, 4)), y.std((2, 3, 4))], 1)), parts=_linear(8)),
    "a mean of the head, and the frames": after(lambda m, y: (y.mean((2, 3, 4)), y)),
}  # fmt: skip

# --------------------------------------------------------------------------------- two paths


def _slowfast(m: Net, x: list[Tensor]) -> Tensor:
    slow, fast = m.conv(x[0]), m.conv(x[1])
    slow = torch.cat([slow, m.lateral(fast)], 1)
    return m.fc(torch.cat([slow.mean((2, 3, 4)), fast.mean((2, 3, 4))], 1))


def _one_input(m: Net, x: Tensor) -> Tensor:
    slow, fast = m.conv(x[:, :, ::4]), m.conv(x)
    return torch.cat([slow, m.lateral(fast)], 1)


def _both_ways(m: Net, x: list[Tensor]) -> tuple[Tensor, Tensor]:
    slow, fast = m.conv(x[0]), m.conv(x[1])
    down = m.lateral(fast)
    up = F.interpolate(slow, scale_factor=(4, 1, 1))
    return m.conv(torch.cat([slow, down[:, :4]], 1)[:, 2:6]), m.conv(fast + up)


LATERAL = lambda: {"lateral": nn.Conv3d(4, 8, (5, 1, 1), (4, 1, 1), (2, 0, 0))}
PATHS: dict[str, Spelling] = {
    "fast to slow": Spelling(_slowfast, parts=lambda: LATERAL() | _linear(16)(), **FAST),
    "fast to slow and back": Spelling(_both_ways, parts=LATERAL, **FAST),
    "fast to slow of one input": Spelling(_one_input, parts=LATERAL),
    "fast to slow by a pool": Spelling(
        lambda m, x: torch.cat(
            [m.conv(x[0]), F.max_pool3d(m.conv(x[1]), (4, 1, 1), (4, 1, 1))], 1), **FAST),
    "fast to slow by a stride": Spelling(
        lambda m, x: torch.cat([m.conv(x[0]), m.conv(x[1])[:, :, ::4]], 1), **FAST),
    "fast to slow, frames into channels": Spelling(
        lambda m, x: m.conv(x[0]) + (y := m.conv(x[1])).view(
            y.shape[0], 4, y.shape[2] // 4, 4, 4, 4).mean(3), **FAST),
    "fast to slow by the ratio of lengths": Spelling(
        lambda m, x: m.conv(x[0]) + (y := m.conv(x[1])).view(
            y.shape[0], 4, x[0].shape[2], y.shape[2] // x[0].shape[2], 4, 4).mean(3), **FAST),
    "fast to slow by an adaptive pool": Spelling(
        lambda m, x: m.conv(x[0]) + F.adaptive_avg_pool3d(m.conv(x[1]), x[0].shape[2:]), **FAST),
    "fast to slow by interpolation": Spelling(
        lambda m, x: m.conv(x[0]) + F.interpolate(m.conv(x[1]), size=x[0].shape[2:]), **FAST),
    "slow to fast by repeat_interleave": Spelling(
        lambda m, x: m.conv(x[0]).repeat_interleave(4, 2) + m.conv(x[1]), **FAST),
    "slow to fast by interpolation to its length": Spelling(
        lambda m, x: F.interpolate(m.conv(x[0]), size=x[1].shape[2:]) + m.conv(x[1]), **FAST),
    "slow to fast, linear": Spelling(
        lambda m, x: F.interpolate(
            m.conv(x[0]), size=x[1].shape[2:], mode="trilinear") + m.conv(x[1]), **FAST),
    "slow to fast by a transposed convolution": Spelling(
        lambda m, x: m.up(m.up(m.conv(x[0]))) + m.conv(x[1]), **FAST),
    "slow to fast by the mean": Spelling(
        lambda m, x: m.conv(x[0]).mean(2, keepdim=True) * m.conv(x[1]), "all of time", **FAST),
    "slow cropped to its own length": Spelling(
        lambda m, x: m.up(m.down(x[0]))[:, :, : x[0].shape[2]] + m.conv(x[1])[:, :, ::4], **FAST),
    "fast cropped to four times the slow": Spelling(
        lambda m, x: m.up(m.up(m.down(m.down(m.conv(x[1])))))[:, :, : 4 * x[0].shape[2]] + x[1],
        **FAST),
    "two heads, added": Spelling(
        lambda m, x: m.fc(m.conv(x[0]).mean((2, 3, 4))) + m.fc(m.conv(x[1]).mean((2, 3, 4))),
        parts=_linear(4), **FAST),
    "two rates of one input, by pools": Spelling(
        lambda m, x: m.up(m.conv(F.avg_pool3d(x, (2, 1, 1)))) + m.conv(x), **EVEN),
    "uniform frames by index": Spelling(
        lambda m, x: m.conv(x.index_select(
            2, torch.linspace(0, x.shape[2] - 1, x.shape[2] // 4).long())), "frames by number|"
        "number of frames"),
}  # fmt: skip

# ------------------------------------------------------------------------------------ gates


def _so_far(m: Net, x: Tensor) -> Tensor:
    y = m.conv(x)
    count = torch.arange(1, y.shape[2] + 1, dtype=y.dtype, device=y.device)
    return y * torch.sigmoid(
        m.one(y.mean((3, 4), keepdim=True).cumsum(2) / count.view(1, 1, -1, 1, 1))
    )


def _so_far_of_ones(m: Net, x: Tensor) -> Tensor:
    y = m.conv(x).mean((3, 4))
    return m.fc((y.cumsum(2) / torch.ones_like(y).cumsum(2)).transpose(1, 2))


GATES: dict[str, Spelling] = {
    "mean so far": Spelling(_so_far),
    "mean so far, by a sum of ones": Spelling(_so_far_of_ones, parts=_linear(4)),
    "mean so far by positions from one": Spelling(
        lambda m, x: (y := m.conv(x)) * (
            y.cumsum(2) / (torch.arange(y.shape[2]) + 1)[:, None, None]).sigmoid()),
    "mean so far of frames in front": Spelling(
        lambda m, x: (y := m.conv(x)).mT.movedim(2, -1).cumsum(-1).movedim(-1, 2).mT * 0.1 + y),
    "maximum so far": Spelling(
        lambda m, x: (y := m.conv(x)) * y.amax((3, 4), keepdim=True).cummax(2).values.sigmoid()),
    "squeeze over space": after(
        lambda m, y: y * m.one(y.mean((3, 4), keepdim=True)).sigmoid()),
    "squeeze over space by a pool": after(
        lambda m, y: y * m.one(F.adaptive_avg_pool3d(y, (None, 1, 1))).sigmoid()),
    "squeeze over space by a pool to the frames": after(
        lambda m, y: y * m.one(F.adaptive_avg_pool3d(y, (y.shape[2], 1, 1))).sigmoid()),
    "squeeze over space by a pool as large": after(
        lambda m, y: y * m.one(F.avg_pool3d(y, (1, *y.shape[3:]))).sigmoid()),
    "squeeze over everything": Spelling(
        lambda m, x: (y := m.conv(x)) * m.one(y.mean((2, 3, 4), keepdim=True)).sigmoid(),
        "all of time"),
    "squeeze over everything by a pool": Spelling(
        lambda m, x: (y := m.conv(x)) * m.one(F.adaptive_avg_pool3d(y, 1)).sigmoid(),
        "all of time"),
    "a window's mean": after(
        lambda m, y: y * F.avg_pool3d(F.pad(y, (0, 0, 0, 0, 3, 0)), (4, 1, 1), 1).sigmoid()),
}  # fmt: skip

# ----------------------------------------------------------------------------------- graphs


class Joints(nn.Module):
    """Layers of skeleton networks: (N, C, T, V)."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.register_buffer("adjacency", torch.rand(3, 5, 5))
        self.edges = nn.Parameter(torch.rand(3, 5, 5))
        self.split = nn.Conv2d(4, 12, 1)
        self.temporal = nn.Conv2d(4, 4, (3, 1), padding=(1, 0))
        self.strided = nn.Conv2d(4, 4, (3, 1), (2, 1), (1, 0))
        self.norm = nn.BatchNorm1d(20)


def _stgcn(m: Net, x: Tensor) -> Tensor:
    y = m.g.split(x)
    n, kc, t, v = y.size()
    y = y.view(n, 3, kc // 3, t, v)
    y = torch.einsum("nkctv,kvw->nctw", (y, m.g.adjacency * m.g.edges))
    return m.g.temporal(y.contiguous())


def _normed(m: Net, x: Tensor) -> Tensor:
    """ST-GCN's: all joints and channels of a frame in one."""
    n, c, t, v = x.size()
    y = x.permute(0, 3, 1, 2).contiguous().view(n, v * c, t)
    y = m.g.norm(y)
    y = y.view(n, v, c, t).permute(0, 2, 3, 1).contiguous()
    return m.g.temporal(y)


def _persons(m: Net, x: Tensor) -> Tensor:
    """ST-GCN's input: (N, C, T, V, M), persons in the batch, averaged at the head."""
    n, c, t, v, p = x.size()
    y = x.permute(0, 4, 3, 1, 2).contiguous().view(n * p, v * c, t)
    y = m.g.norm(y).view(n, p, v, c, t).permute(0, 1, 3, 4, 2).contiguous().view(n * p, c, t, v)
    y = m.g.temporal(torch.einsum("nctv,vw->nctw", y, m.g.adjacency[0]))
    y = F.avg_pool2d(y, y.size()[2:])
    return m.fc(y.view(n, p, -1, 1, 1).mean(dim=1).flatten(1))


def _agcn(m: Net, x: Tensor) -> Tensor:
    n, c, t, v = x.size()
    y = torch.matmul(x.view(n, c * t, v), m.g.adjacency[0]).view(n, c, t, v)
    return m.g.temporal(y)


def _attention_of_joints(m: Net, x: Tensor) -> Tensor:
    """2s-AGCN's: joints beside joints, over all frames."""
    n, c, t, v = x.size()
    a = x.permute(0, 3, 1, 2).contiguous().view(n, v, c * t)
    b = m.g.temporal(x).view(n, c * t, v)
    graph = torch.softmax(torch.matmul(a, b) / a.size(-1), -2)
    return torch.matmul(x.view(n, c * t, v), graph).view(n, c, t, v)


def _ctr(m: Net, x: Tensor) -> Tensor:
    """CTR-GCN's: relations from the mean over time."""
    a = x.mean(-2)
    relation = (a.unsqueeze(-1) - a.unsqueeze(-2)).tanh()
    return torch.einsum("ncuv,nctv->nctu", relation, m.g.temporal(x))


def _shift_joints(m: Net, x: Tensor) -> Tensor:
    n, c, t, v = x.size()
    y = x.permute(0, 2, 3, 1).contiguous().view(n * t, v * c)
    order = (torch.arange(v * c) * 7) % (v * c)
    y = torch.index_select(y, 1, order).view(n * t, v, c)
    y = m.fc(y).view(n, t, v, -1).permute(0, 3, 1, 2)
    return y.cumsum(2)


def _g(call: Call, refused: str = "", **more: Any) -> Spelling:
    return Spelling(
        call, refused, parts=lambda: {"g": Joints(), "fc": nn.Linear(4, 3)}, **(JOINTS | more)
    )


GRAPHS: dict[str, Spelling] = {
    "einsum with a matrix": _g(
        lambda m, x: torch.einsum("nctv,vw->nctw", m.g.temporal(x), m.g.adjacency[0])),
    "einsum with partitions": _g(_stgcn),
    "einsum, strided": _g(
        lambda m, x: m.g.strided(torch.einsum("nctv,vw->nctw", x, m.g.adjacency[0]))),
    "matmul with a matrix": _g(lambda m, x: torch.matmul(m.g.temporal(x), m.g.adjacency[0])),
    "matmul of channels and time in one": _g(_agcn),
    "matmul with partitions, summed": _g(
        lambda m, x: sum(m.g.temporal(torch.matmul(x, m.g.adjacency[k])) for k in range(3))),
    "norm of all joints of a frame": _g(_normed),
    "persons": _g(_persons, sizes=(2, 4, 8, 5, 2)),
    "joints beside joints over all frames": _g(_attention_of_joints, "time"),
    "relations of the mean": _g(_ctr, "all of time"),
    "joints shifted": _g(_shift_joints),
    "head over what is left": _g(
        lambda m, x: m.fc(F.avg_pool2d(y := m.g.strided(x), y.size()[2:]).view(y.size(0), -1))),
    "head by mean of flat": _g(
        lambda m, x: m.fc((y := m.g.strided(x)).view(y.size(0), 4, -1).mean(2))),
    "residual by a strided 1x1": _g(
        lambda m, x: m.g.strided(x) + x[:, :, ::2]),
    "einsum of frames": _g(
        lambda m, x: torch.einsum("nctv,ncsv->nts", m.g.temporal(x), x), "time|frames"),
}  # fmt: skip

# -------------------------------------------------------------------------------- sequences


class Poses(nn.Module):
    """Layers of VideoPose3D's: a window that grows, or is halved, and a residual cropped to it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.pad, self.shift = [1, 3], [0, 0]
        self.expand = nn.Conv1d(4, 4, 3)
        self.wide = nn.Conv1d(4, 4, 3, dilation=3)
        self.strided = nn.Conv1d(4, 4, 3, stride=3)
        self.one = nn.Conv1d(4, 4, 1)


def _videopose(m: Net, x: Tensor) -> Tensor:
    x = m.p.expand(x)
    pad, shift = m.p.pad[1], m.p.shift[1]
    res = x[:, :, pad + shift : x.shape[2] - pad + shift]
    return res + m.p.one(m.p.wide(x).relu())


def _videopose_causal(m: Net, x: Tensor) -> Tensor:
    x = m.p.expand(x)
    pad, shift = m.p.pad[1], 3
    res = x[:, :, pad + shift : x.shape[2] - pad + shift]
    return res + m.p.one(m.p.wide(x).relu())


def _videopose_strided(m: Net, x: Tensor) -> Tensor:
    x = m.p.strided(x)
    res = x[:, :, 0 + 3 // 2 :: 3]
    return res + m.p.one(m.p.strided(x).relu())


def _p(call: Call, refused: str = "", **more: Any) -> Spelling:
    usual = {
        "frames": (9, 10, 11, 12, 17, 20),
        "sizes": (2, 4, 18),
        "parts": lambda: {"p": Poses()},
    }
    return Spelling(call, refused, **(usual | more))


POSES: dict[str, Spelling] = {
    "cropped residual": _p(_videopose),
    "cropped residual, causal": _p(_videopose_causal),
    "strided residual": _p(_videopose_strided, frames=(9, 18, 27), only=lambda t: t % 9 == 0),
    "frames and coordinates": _p(
        lambda m, x: (y := m.p.expand(x.view(x.shape[0], x.shape[1], -1).permute(0, 2, 1))).permute(
            0, 2, 1).view(y.shape[0], -1, 2, 2), sizes=(2, 18, 4), dim=1),
    "chomp": _p(
        lambda m, x: F.conv1d(x, m.p.wide.weight, padding=6, dilation=3)[:, :, :-6].contiguous(),
        frames=(1, 2, 8, 9, 17)),
    "chomp to the input": _p(
        lambda m, x: F.conv1d(x, m.p.wide.weight, padding=6, dilation=3)[..., : x.size(-1)] + x,
        frames=(1, 2, 8, 9, 17)),
    "MS-TCN's dilated residual": _p(
        lambda m, x: x + m.p.one(F.conv1d(x, m.p.wide.weight, padding=4, dilation=4).relu()),
        frames=(1, 2, 8, 9, 17)),
    "halves and back": _p(
        lambda m, x: F.interpolate(F.max_pool1d(m.p.one(x), 2), scale_factor=2) + F.conv1d(
            x, m.p.expand.weight, padding=1), frames=(2, 3, 8, 9, 17), **EVEN),
    "gated, halves of the channels": _p(
        lambda m, x: torch.tanh((y := m.p.expand(x)).chunk(2, 1)[0]) * y.chunk(2, 1)[1].sigmoid()),
}  # fmt: skip

# ------------------------------------------------------------------------------------ shifts


def _shift(m: Net, x: Tensor, fold: int = 1) -> Tensor:
    """TSM's, on (N, T, C, H, W)."""
    x = m.conv(x).transpose(1, 2)
    out = torch.zeros_like(x)
    out[:, :-1, :fold] = x[:, 1:, :fold]
    out[:, 1:, fold : 2 * fold] = x[:, :-1, fold : 2 * fold]
    out[:, :, 2 * fold :] = x[:, :, 2 * fold :]
    return out.transpose(1, 2)


def _shift_of_frames(m: Net, x: Tensor) -> Tensor:
    """TSM's, on (N * T, C, H, W) with T of the clip at hand."""
    n, c, t, h, w = x.shape
    y = m.conv(x).transpose(1, 2).reshape(n * t, c, h, w)
    y = y.view(n, t, c, h, w)
    out = torch.zeros_like(y)
    out[:, :-1, :1] = y[:, 1:, :1]
    out[:, 1:, 1:2] = y[:, :-1, 1:2]
    out[:, :, 2:] = y[:, :, 2:]
    return out.view(n * t, c, h, w).relu().view(n, t, c, h, w).transpose(1, 2)


def _shift_in_place(m: Net, x: Tensor) -> Tensor:
    y = m.conv(x).clone()
    y[:, :1, :-1] = y[:, :1, 1:].clone()
    y[:, :1, -1:] = 0
    return y + 0


def _written(y: Tensor, at: Any, value: Any) -> Tensor:
    y[:, :, at] = value
    return y


def _shift_of_segments(m: Net, x: Tensor) -> Tensor:
    """TSM's own, with n_segment fixed."""
    n, c, t, h, w = x.shape
    y = m.conv(x).transpose(1, 2).reshape(n * t, c, h, w)
    batch = y.shape[0] // 8
    y = y.view(batch, 8, c, h, w)
    out = torch.zeros_like(y)
    out[:, :-1, :1] = y[:, 1:, :1]
    out[:, 1:, 1:2] = y[:, :-1, 1:2]
    out[:, :, 2:] = y[:, :, 2:]
    return out.view(n, t, c, h, w).transpose(1, 2)


def _consensus(m: Net, x: Tensor) -> Tensor:
    """TSN's: scores of frames, averaged over n_segment."""
    n, c, t, h, w = x.shape
    y = m.conv(x).transpose(1, 2).reshape(n * t, c, h, w)
    return m.fc(y.mean((2, 3))).view(-1, 8, 3).mean(1)


SHIFTS: dict[str, Spelling] = {
    "into a copy": Spelling(_shift),
    "into a copy, frames in the batch": Spelling(_shift_of_frames),
    "in place": Spelling(_shift_in_place, only=lambda t: t > 1),
    "zeros written into the first frame": after(
        lambda m, y: _written(y.clone(), slice(0, 1), 0.0) + y),
    "a number written into the first frame": after(
        lambda m, y: _written(y.clone(), 0, 1.5) + y),
    "a number written into the last frame": after(
        lambda m, y: _written(y.clone(), -1, 1.5) + y),
    "differences written behind the first": after(
        lambda m, y: _written(torch.zeros_like(y), slice(1, None), y[:, :, 1:] - y[:, :, :-1]),
        only=lambda t: t > 1),
    "the future written in front of the last": after(
        lambda m, y: _written(y.clone(), slice(None, -1), y[:, :, 1:] * 0.5), only=lambda t: t > 1),
    "what is two frames before": after(
        lambda m, y: _written(torch.zeros_like(y), slice(2, None), y[:, :, :-2]),
        only=lambda t: t > 1),
    "up to a length written out": after(
        lambda m, y: _written(torch.zeros_like(y), slice(1, y.shape[2]), y[:, :, : y.shape[2] - 1]),
        only=lambda t: t > 1),
    "by roll, which wraps": Spelling(
        lambda m, x: torch.cat([m.conv(x)[:, :2].roll(1, 2), x[:, 2:]], 1), "end|roll|last"),
    "by padding and a slice": after(
        lambda m, y: torch.cat(
            [F.pad(y[:, :2], (0, 0, 0, 0, 1, 0))[:, :, :-1], y[:, 2:]], 1)),
    "by padding and a slice to the length": after(
        lambda m, y: torch.cat(
            [F.pad(y[:, :2], (0, 0, 0, 0, 1, 0))[:, :, : y.shape[2]], y[:, 2:]], 1)),
    "by zeros and a slice": after(
        lambda m, y: torch.cat([torch.zeros_like(y[:, :, :1]), y[:, :, :-1]], 2) + y),
    "difference of frames, padded": after(
        lambda m, y: F.pad(y[:, :, 1:] - y[:, :, :-1], (0, 0, 0, 0, 0, 1)),
        frames=(2, 3, 8, 9, 17)),
    "segments of eight": Spelling(
        _shift_of_segments, only=lambda t: t % 8 == 0, frames=(8, 16, 24)),
    "consensus of eight": Spelling(_consensus, "in another order", parts=_linear(4)),
}  # fmt: skip

TABLES = {
    "head": HEADS,
    "paths": PATHS,
    "gate": GATES,
    "graph": GRAPHS,
    "poses": POSES,
    "shift": SHIFTS,
}
SLOW = ("segments of eight",)


@pytest.mark.parametrize("spelling", cases(TABLES, SLOW))
def test_it_is_exact_or_refused_for_what_it_computes(spelling: Spelling) -> None:
    hold(spelling)
