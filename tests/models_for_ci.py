"""Small models that the tests of the command line, of the plugin and of the workflow check."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import pgt_fx

CLIP = torch.zeros(1, 3, 8)


class Net(nn.Module):
    """A convolution that looks one frame each way, or two back."""

    def __init__(self, pad: tuple[int, int]) -> None:
        super().__init__()
        self.conv, self.norm, self.drop = nn.Conv1d(3, 4, 3), nn.BatchNorm1d(4), nn.Dropout(0.2)
        self.pad = pad

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(self.norm(self.conv(F.pad(x, self.pad)))).tanh()


class Leaky(nn.Module):
    """Causal but for one line."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.first, self.last = nn.Conv1d(3, 4, 3), nn.Conv1d(4, 4, 3, stride=2)
        self.norm, self.kind = nn.GroupNorm(2, 4), kind

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(F.pad(x, (2, 0))).tanh()
        if self.kind == "pad":
            x = self.first(F.pad(x[:, :3], (1, 1)))
        if self.kind == "norm":
            x = self.norm(x)
        if self.kind == "gate":
            gate = x.mean(2, keepdim=True).sigmoid()
            x = x * gate
        if self.kind == "flip":
            x = x + x.flip(2)
        if self.kind == "roll":
            x = x + torch.roll(x, -1, 2)
        return self.last(F.pad(x, (2, 0)))


class Flip(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flip(2)


def both_ways() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    return Net((1, 1)), CLIP


def causal() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    return Net((2, 0)), CLIP


def refused() -> tuple[nn.Module, Tensor]:
    return nn.Sequential(nn.Conv1d(3, 3, 1), Flip()), CLIP


def blind() -> tuple[nn.Module, Tensor]:
    return nn.Sequential(nn.Conv1d(3, 4, 1), nn.AdaptiveAvgPool1d(1)), CLIP


def whole() -> tuple[nn.Module, Tensor]:
    return nn.Sequential(nn.Conv1d(3, 4, 3), nn.AdaptiveAvgPool1d(1), nn.Flatten()), CLIP


def transformed() -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Conv1d(3, 4, 3, padding=1), nn.Tanh(), nn.Conv1d(4, 4, 3, padding=1)
    return pgt_fx.transform(nn.Sequential(*layers), CLIP, operator="pmco")


def channels_last() -> tuple[nn.Module, Tensor]:
    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = both_ways()[0]

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x.transpose(1, 2)).transpose(1, 2)

    return Last(), torch.zeros(1, 8, 3)


class Stream(nn.Module):
    """A causal net, and what a change may make of it.

    Args:
        change: "" for none; "norm": statistics over time; "ahead": a convolution made symmetric;
            "wide": one that keeps more of the past.
    """

    def __init__(self, change: str = "") -> None:
        super().__init__()
        size = 5 if change == "wide" else 3
        self.first, self.last = nn.Conv1d(3, 4, size), nn.Conv1d(4, 4, 3)
        self.norm = nn.GroupNorm(2, 4) if change == "norm" else None
        self.pad = (1, 1) if change == "ahead" else (2, 0)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(F.pad(x, (self.first.kernel_size[0] - 1, 0))).tanh()
        if self.norm is not None:
            x = self.norm(x)
        return self.last(F.pad(x, self.pad))


def stream(change: str = "") -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    return Stream(change), CLIP


def stream_norm() -> tuple[nn.Module, Tensor]:
    return stream("norm")


def stream_ahead() -> tuple[nn.Module, Tensor]:
    return stream("ahead")


def stream_wide() -> tuple[nn.Module, Tensor]:
    return stream("wide")


def promised() -> nn.Module:
    return pgt_fx.transform(*stream(), future="wait")


def promised_norm() -> nn.Module:
    return pgt_fx.transform(*stream("norm"), future="wait")


def promised_loosely() -> nn.Module:
    return pgt_fx.transform(*stream("norm"), future="wait", strict=False)


def weightless() -> nn.Module:
    """Exact and causal, and without a parameter to have gradients of."""
    layers = nn.ConstantPad1d((2, 0), 0.0), nn.AvgPool1d(3, 1)
    return pgt_fx.transform(nn.Sequential(*layers), CLIP, time_dim=2)
