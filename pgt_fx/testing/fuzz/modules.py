"""The modules that random graphs are made of, for (N, C, T) or (N, C, T, H, W).

Those that mix time as one operator say so by ``temporal = True``, joins by ``temporal_join =
True``: :mod:`pgt_fx.testing.fuzz.cutmask` asks.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Node = dict[str, Any]
#: Rows of the tables that a model keeps: more than any video of a random case has elements.
ROWS = 1024


def triple(dims: int, time: int, space: int) -> Any:
    return time if dims == 1 else (time, space, space)


class PaddedConv(nn.Module):
    """``F.pad`` along time in any mode, then a convolution that pads no time.

    Mode "first" spells replicate padding on the left as a ``cat`` of the first
    frame, as causal video autoencoders do. (N, C, T, …) -> (N, C', T', …).
    """

    temporal = True

    def __init__(self, conv: nn.Module, node: Node, dims: int) -> None:
        super().__init__()
        self.conv = conv
        self.left, self.right = node["pad"]
        self.mode, self.value = node["mode"], node["value"]
        self.space = (0, 0) * (dims - 1)

    def forward(self, x: Tensor) -> Tensor:
        if self.mode == "first":
            x = torch.cat([x[:, :, :1]] * self.left + [x], dim=2)
        elif self.mode == "constant":
            x = F.pad(x, (*self.space, self.left, self.right), value=self.value)
        else:
            x = F.pad(x, (*self.space, self.left, self.right), mode=self.mode)
        return self.conv(x)


class Slice(nn.Module):
    """``x[:, :, start::step]``. (N, C, T, …) -> (N, C, ceil((T - start) / step), …)."""

    temporal = True

    def __init__(self, start: int, step: int) -> None:
        super().__init__()
        self.start, self.step = start, step

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, self.start :: self.step]


class Shift(nn.Module):
    """Temporal shift by ``cat`` of slices: some channels look back, some ahead.

    What has no neighbour is zero or, with ``fill`` "edge", the end frame again.
    (N, C, T, …) -> the same shape.
    """

    temporal = True

    def __init__(self, back: int, ahead: int, fill: str) -> None:
        super().__init__()
        self.back, self.ahead, self.fill = back, ahead, fill

    def forward(self, x: Tensor) -> Tensor:
        first, last = x[:, :, :1], x[:, :, -1:]
        if self.fill == "zeros":
            first, last = torch.zeros_like(first), torch.zeros_like(last)
        b, a = self.back, self.back + self.ahead
        pieces = []
        if self.back:
            pieces.append(torch.cat([first[:, :b], x[:, :b, :-1]], dim=2))
        if self.ahead:
            pieces.append(torch.cat([x[:, b:a, 1:], last[:, b:a]], dim=2))
        if a < x.shape[1]:
            pieces.append(x[:, a:])
        return torch.cat(pieces, dim=1)


class Scan(nn.Module):
    """A cumulative sum along time, or a recurrent layer. Shape in = shape out."""

    temporal = True

    def __init__(self, how: str, channels: int) -> None:
        super().__init__()
        kind = {"gru": nn.GRU, "lstm": nn.LSTM}.get(how)
        self.rnn = kind(channels, channels, batch_first=True) if kind else None

    def forward(self, x: Tensor) -> Tensor:
        if self.rnn is None:
            return x.cumsum(2) / 8
        if x.dim() == 3:
            return self.rnn(x.transpose(1, 2))[0].transpose(1, 2)
        n, c, t, h, w = x.shape
        rows = x.permute(0, 3, 4, 2, 1).reshape(n * h * w, t, c)
        return self.rnn(rows)[0].reshape(n, h, w, t, c).permute(0, 4, 3, 1, 2)


class Resample(nn.Module):
    """Upsampling along time alone. (N, C, T, …) -> (N, C, scale * T, …)."""

    temporal = True

    def __init__(self, dims: int, scale: int, mode: str) -> None:
        super().__init__()
        self.scale: Any = float(scale) if dims == 1 else (float(scale), 1.0, 1.0)
        self.mode = mode if mode == "nearest" else {1: "linear", 3: "trilinear"}[dims]

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=self.scale, mode=self.mode)


class Scale(nn.Module):
    """One learned factor per channel. Shape in = shape out."""

    def __init__(self, dims: int, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels, *[1] * dims))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight


class Join(nn.Module):
    """add, mul or cat (channels) of values of equal length. Shapes as torch has them."""

    temporal_join = True

    def __init__(self, op: str) -> None:
        super().__init__()
        self.op = op

    def forward(self, *values: Tensor) -> Tensor:
        if self.op == "cat":
            return torch.cat(values, dim=1)
        result = values[0]
        for value in values[1:]:
            result = result + value if self.op == "add" else result * value
        return result


class Branch(nn.Module):
    """Python asks for the number of elements, and goes one of two ways. Shape in = shape out.

    Args:
        ask: ``["<", n]``, ``["==", n]``, ``["%", m, r]`` or ``["//", m, r]``: whether the quotient
            is even (r = 0) or odd (r = 1).
    """

    def __init__(self, ask: list[Any]) -> None:
        super().__init__()
        self.ask = ask

    def forward(self, x: Tensor) -> Tensor:
        return 1.5 * x if asked(self.ask, x.shape[2]) else 0.25 - x


def asked(ask: list[Any], n: Any) -> Any:
    """The answer to the question of a :class:`Branch` at ``n`` elements."""
    how, *numbers = ask
    if how == "<":
        return n < numbers[0]
    if how == "==":
        return n == numbers[0]
    if how == "%":
        return n % numbers[0] == numbers[1]
    return n // numbers[0] % 2 == numbers[1]


class Positions(nn.Module):
    """Adds or multiplies by what depends on the position along time. Shape in = shape out.

    Args:
        how: "rows" (of a learned table, looked up by ``arange``), "cos" or "decay" (made of it).
    """

    def __init__(self, how: str, channels: int, dims: int) -> None:
        super().__init__()
        self.how, self.channels, self.space = how, channels, (1,) * (dims - 1)
        self.rows = nn.Embedding(ROWS, channels) if how == "rows" else None

    def forward(self, x: Tensor) -> Tensor:
        at = torch.arange(x.shape[2])
        if self.rows is not None:
            return x + self.rows(at).t().reshape(self.channels, x.shape[2], *self.space)
        if self.how == "cos":
            return x * torch.cos(0.3 * at.to(x.dtype)).view(-1, *self.space)
        return x / (1 + at).to(x.dtype).view(-1, *self.space)


class Attention(nn.Module):
    """Attention of every element to itself and what came before. Shape in = shape out.

    Args:
        how: the mask: "tril", "window" (of 3 elements), "buffer" (cut from a table), "alibi" (a
            bias that falls with the distance), "flag" (torch's ``is_causal``).
    """

    temporal = True

    def __init__(self, how: str, channels: int) -> None:
        super().__init__()
        self.how = how
        self.mix = nn.Linear(channels, 3 * channels)
        if how == "buffer":
            self.seen: Tensor
            self.register_buffer("seen", torch.ones(ROWS // 2, ROWS // 2, dtype=torch.bool).tril())

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() == 3:
            return self.rows(x.transpose(1, 2)).transpose(1, 2)
        n, c, t, h, w = x.shape
        rows = self.rows(x.permute(0, 3, 4, 2, 1).reshape(n * h * w, t, c))
        return rows.reshape(n, h, w, t, c).permute(0, 4, 3, 1, 2)

    def rows(self, x: Tensor) -> Tensor:
        q, k, v = self.mix(x).chunk(3, -1)
        t = x.shape[1]
        if self.how == "flag":
            return F.scaled_dot_product_attention(q, k, v, is_causal=True)
        scores = q @ k.transpose(1, 2) / q.shape[-1] ** 0.5
        if self.how == "buffer":
            seen = self.seen[:t, :t]
        else:
            seen = torch.ones(t, t, dtype=torch.bool).tril()
        if self.how == "window":
            seen = seen & torch.ones(t, t, dtype=torch.bool).triu(-2)
        if self.how == "alibi":
            at = torch.arange(t)
            scores = scores + 0.25 * (at[None] - at[:, None]).to(x.dtype)
        return scores.masked_fill(~seen, float("-inf")).softmax(-1) @ v
