"""Temporal models on what an image model says of the frames.

Sources: "An Empirical Evaluation of Generic Convolutional and Recurrent Networks for Sequence
Modeling", Bai et al., 2018 (TCN); "MS-TCN: Multi-Stage Temporal Convolutional Network for Action
Segmentation", Farha & Gall, CVPR 2019; recurrent layers and encoders are torch's own.

Temporal models take the frames' features (N, D, T).  All but the mean give (N, width, T), and say
with ``bounded`` whether an element of that looks a bounded number of frames ahead.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm


class Mean(nn.Module):
    """The mean over the frames: (N, D, T) to (N, D)."""

    bounded = False

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(2)


class _CausalBlock(nn.Module):
    """Two dilated convolutions that look back only, and a residual around them."""

    def __init__(self, features: int, width: int, dilation: int, dropout: float) -> None:
        super().__init__()
        self.first = weight_norm(nn.Conv1d(features, width, 3, dilation=dilation))
        self.second = weight_norm(nn.Conv1d(width, width, 3, dilation=dilation))
        self.shortcut = nn.Identity() if features == width else nn.Conv1d(features, width, 1)
        self.dropout, self.past = nn.Dropout(dropout), 2 * dilation

    def forward(self, x: Tensor) -> Tensor:
        y = self.dropout(F.relu(self.first(F.pad(x, (self.past, 0)))))
        y = self.dropout(F.relu(self.second(F.pad(y, (self.past, 0)))))
        return F.relu(y + self.shortcut(x))


class CausalTCN(nn.Module):
    """The TCN of Bai et al.: blocks of dilation 1, 2, 4, …; no frame sees a later one."""

    bounded = True

    def __init__(self, features: int, width: int, layers: int, dropout: float) -> None:
        super().__init__()
        sizes = [features] + [width] * layers
        self.blocks = nn.Sequential(
            *(_CausalBlock(sizes[i], width, 2**i, dropout) for i in range(layers))
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(x)


class _Layer(nn.Module):
    """A dilated convolution that looks both ways, a pointwise one, and a residual around them."""

    def __init__(self, width: int, dilation: int, dropout: float) -> None:
        super().__init__()
        self.dilated = nn.Conv1d(width, width, 3, padding=dilation, dilation=dilation)
        self.pointwise, self.dropout = nn.Conv1d(width, width, 1), nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.dropout(self.pointwise(F.relu(self.dilated(x))))


class MultiStageTCN(nn.Module):
    """MS-TCN: each stage refines the scores of the one before; frames see as far ahead as back.

    The last stage is without its scores, which are those of the classifier after it.

    Attributes:
        scores: of the stages before the last, one pointwise convolution each.
    """

    bounded = True

    def __init__(
        self, features: int, width: int, layers: int, dropout: float, stages: int, classes: int
    ) -> None:
        super().__init__()
        sizes = [features] + [classes] * (stages - 1)
        self.stages = nn.ModuleList(
            nn.Sequential(
                nn.Conv1d(size, width, 1), *(_Layer(width, 2**i, dropout) for i in range(layers))
            )
            for size in sizes
        )
        self.scores = nn.ModuleList(nn.Conv1d(width, classes, 1) for _ in sizes[1:])

    def forward(self, x: Tensor) -> Tensor:
        x = self.stages[0](x)
        for score, stage in zip(self.scores, list(self.stages)[1:], strict=True):
            x = stage(score(x).softmax(1))
        return x


class Recurrent(nn.Module):
    """A layer of ``nn.GRU`` or ``nn.LSTM``; of both directions, each has half of the width."""

    def __init__(
        self, kind: type[nn.GRU | nn.LSTM], features: int, width: int, both_ways: bool = False
    ) -> None:
        super().__init__()
        hidden = width // 2 if both_ways else width
        self.rnn = kind(features, hidden, batch_first=True, bidirectional=both_ways)
        self.bounded = not both_ways

    def forward(self, x: Tensor) -> Tensor:
        return self.rnn(x.transpose(1, 2))[0].transpose(1, 2)


class Encoder(nn.Module):
    """``nn.TransformerEncoder`` on the frames, and their positions added.

    Args:
        causal: with a mask of as many frames as there are, so that none sees a later one.
        rows: of a learned table of positions, and the most frames that it then takes; 0: the
            positions are sinusoids, for any number of frames.
    """

    def __init__(
        self, features: int, width: int, layers: int, dropout: float, causal: bool, rows: int = 0
    ) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(width, 4, 2 * width, dropout, batch_first=True)
        self.project = nn.Linear(features, width)
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.table = nn.Parameter(0.5 * torch.randn(1, rows, width)) if rows else None
        self.causal, self.bounded = causal, causal and not rows

    def forward(self, x: Tensor) -> Tensor:
        x = self.project(x.transpose(1, 2))
        frames = x.shape[1]
        x = x + (sinusoids(frames, x) if self.table is None else self.table[:, :frames])
        mask = None
        if self.causal:
            mask = nn.Transformer.generate_square_subsequent_mask(
                frames, device=x.device, dtype=x.dtype
            )
        return self.encoder(x, mask=mask, is_causal=self.causal).transpose(1, 2)


def sinusoids(frames: int, like: Tensor) -> Tensor:
    """Positions (T, width) of frames 0 … T - 1: sines, then cosines, of falling frequency."""
    half = like.shape[-1] // 2
    rate = torch.exp(torch.arange(half, device=like.device) * (-math.log(10000.0) / half))
    at = torch.arange(frames, device=like.device)[:, None] * rate
    return torch.cat([at.sin(), at.cos()], -1).to(like)
