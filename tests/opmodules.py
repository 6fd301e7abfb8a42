"""Small modules and functions along time, for the records of opinfos.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Op(nn.Module):
    """A function of a video, and the modules that it calls; one window for the oracles."""

    temporal = True

    def __init__(self, function: Callable[..., Any], *modules: nn.Module) -> None:
        super().__init__()
        self.function, self.inner = function, nn.ModuleList(modules)

    def forward(self, x: Tensor) -> Any:
        return self.function(x, *self.inner)


class Local(Op):
    """A function of single frames."""

    temporal = False


class Parameters(nn.Module):
    """A learned value without time, or with it."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.randn(*shape))

    def forward(self) -> Tensor:
        return self.value


class Join(nn.Module):
    """Operands of different delays, element by element."""

    temporal_join = True

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *operands: Tensor) -> Tensor:
        return self.function(*operands)


class Branches(nn.Module):
    """Convolutions of unequal kernels, joined."""

    def __init__(self, function: Callable[..., Tensor], *kernels: int, stride: int = 1) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            [nn.Conv1d(3, 4, k, stride, padding=(k - 1) // 2) for k in kernels]
        )
        self.join = Join(function)

    def forward(self, x: Tensor) -> Tensor:
        return self.join(*[conv(x) for conv in self.convs])


class SqueezeExcitation(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Conv1d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.fc(x.mean(2, keepdim=True)))


class Attention(nn.Module):
    """Self-attention over the frames of (N, C, T)."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(3, 3, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.transpose(1, 2)
        return self.attention(tokens, tokens, tokens, need_weights=False)[0].transpose(1, 2)


class TwoPlusOne(nn.Module):
    """A convolution of every frame, then one of every pixel's sequence."""

    temporal = True

    def __init__(self) -> None:
        super().__init__()
        self.space, self.time = nn.Conv2d(3, 4, 3, padding=1), nn.Conv1d(4, 5, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        n, _, t, h, w = x.shape
        y = self.space(x.transpose(1, 2).reshape(n * t, 3, h, w))
        y = y.reshape(n, t, 4, h, w).permute(0, 3, 4, 2, 1).reshape(n * h * w, 4, t)
        return self.time(y).reshape(n, h, w, 5, t).permute(0, 3, 4, 1, 2)


class Merged(nn.Module):
    """Frames merged with the batch around a module; NCTHW."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        n, t = x.shape[0], x.shape[2]
        y = self.inner(x.transpose(1, 2).flatten(0, 1))
        return y.unflatten(0, (n, t)).transpose(1, 2)


class Framewise(nn.Module):
    """(N, T, C, H, W): frames merged with the batch, then a convolution along time."""

    def __init__(self) -> None:
        super().__init__()
        self.space, self.time = nn.Conv2d(3, 4, 3, padding=1), nn.Conv3d(4, 4, (3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        n, t, c, h, w = x.shape
        y = self.space(x.view(n * t, c, h, w)).view(n, t, 4, h, w)
        return self.time(y.permute(0, 2, 1, 3, 4)).permute(0, 2, 1, 3, 4)


def shift(x: Tensor) -> Tensor:
    """Temporal shift: one channel from the past, one from the future."""
    back = torch.cat([x[:, :1, 1:], torch.zeros_like(x[:, :1, :1])], 2)
    ahead = torch.cat([torch.zeros_like(x[:, :1, :1]), x[:, 1:2, :-1]], 2)
    return torch.cat([back, ahead, x[:, 2:]], 1)


def attention(x: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(x, x, x)


@torch.library.custom_op("pgt_tests::mystery", mutates_args=())
def mystery(x: Tensor) -> Tensor:
    return x.clone()


@mystery.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)
