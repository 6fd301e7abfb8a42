"""Two small backbones, built as the paper's are: SlowOnly-like and SlowFast-like."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Block(nn.Module):
    """Residual block: temporal convolution, then spatial, as in SlowOnly's late stages."""

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__()
        self.temporal = nn.Conv3d(
            channels, channels, (kernel, 1, 1), padding=(kernel // 2, 0, 0), bias=False
        )
        self.norm1 = nn.BatchNorm3d(channels)
        self.spatial = nn.Conv3d(channels, channels, (1, 3, 3), padding=(0, 1, 1), bias=False)
        self.norm2 = nn.BatchNorm3d(channels)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.norm1(self.temporal(x)))
        return self.relu(x + self.norm2(self.spatial(y)))


def stem(channels: int, out: int) -> nn.Sequential:
    """Two spatial convolutions: a quarter of the height and width."""
    return nn.Sequential(
        nn.Conv3d(3, channels, (1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1), bias=False),
        nn.BatchNorm3d(channels),
        nn.ReLU(inplace=True),
        nn.Conv3d(channels, out, (1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1), bias=False),
        nn.BatchNorm3d(out),
        nn.ReLU(inplace=True),
    )


class SlowOnly(nn.Module):
    """2-D stem, temporal residual blocks, mean over time and space, linear classifier.

    Args:
        width: channels of the blocks.
        blocks: their number; the temporal receptive field is 1 + blocks·(kernel - 1).
    """

    def __init__(self, classes: int, width: int = 24, blocks: int = 4, kernel: int = 7) -> None:
        super().__init__()
        self.stem = stem(width // 2, width)
        self.blocks = nn.Sequential(*[Block(width, kernel) for _ in range(blocks)])
        self.head = nn.Linear(width, classes)

    def forward(self, video: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(video)).mean((2, 3, 4)))


class SlowFast(nn.Module):
    """Two paths: every frame (fast, thin), every second frame (slow), lateral convolutions.

    The slow path is fed ``[slow, fast]`` as pytorchvideo's SlowFast is; alpha is 2.
    """

    def __init__(
        self, classes: int, width: int = 24, thin: int = 8, blocks: int = 3, kernel: int = 5
    ) -> None:
        super().__init__()
        self.slow_stem, self.fast_stem = stem(width // 2, width), stem(thin, thin)
        self.lateral = nn.ModuleList()
        self.slow, self.fast = nn.ModuleList(), nn.ModuleList()
        for _ in range(blocks):
            self.lateral.append(
                nn.Conv3d(thin, width, (5, 1, 1), (2, 1, 1), padding=(2, 0, 0), bias=False)
            )
            self.slow.append(Block(width, kernel))
            self.fast.append(Block(thin, kernel))
        self.head = nn.Linear(width + thin, classes)

    def forward(self, paths: list[Tensor]) -> Tensor:
        slow, fast = self.slow_stem(paths[0]), self.fast_stem(paths[1])
        for lateral, a, b in zip(self.lateral, self.slow, self.fast, strict=True):
            slow = a(slow + lateral(fast))
            fast = b(fast)
        pooled = [slow.mean((2, 3, 4)), fast.mean((2, 3, 4))]
        return self.head(torch.cat(pooled, 1))
