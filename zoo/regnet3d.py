"""RegNet3D-0.4G: a RegNetX-400MF whose last two stages look at time.

Source: "Designing Network Design Spaces", Radosavovic et al., CVPR 2020, for the 2D net; the PGT
paper for the temporal one. Its code has 1, 2, 7 and 12 blocks of 32, 64, 160 and 384 channels,
3x3 convolutions in 16 groups (where RegNetX-400MF has groups of 16 channels, and 400 channels in
its last stage), and a temporal kernel of 3 in the first convolution of the 19 blocks of the last
two stages. That is a temporal receptive field of 39 frames and, at 8 x 256 x 256, the 6.59 GFLOPs
that the paper prints; other choices give neither (groups of 16 channels: 6.79; 400 channels: 6.94;
3x3x3 in place of 3x1x1: 5.31).
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

STEM, DEPTHS, WIDTHS, GROUPS = 24, (1, 2, 7, 12), (32, 64, 160, 384), 16


def _conv(
    inside: int, out: int, kernel: tuple[int, int, int], stride: int = 1, groups: int = 1
) -> nn.Sequential:
    """Convolution that keeps the frames, and norm."""
    edge = (kernel[0] // 2, kernel[1] // 2, kernel[2] // 2)
    conv = nn.Conv3d(inside, out, kernel, (1, stride, stride), edge, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm3d(out))


class XBlock(nn.Module):
    """Bottleneck block with grouped 3x3 convolution and no bottleneck.

    Args:
        inside, out: channels before and after it.
        stride: spatial.
        time: temporal kernel of the first convolution.
    """

    def __init__(self, inside: int, out: int, stride: int, time: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            _conv(inside, out, (time, 1, 1)),
            nn.ReLU(),
            _conv(out, out, (1, 3, 3), stride, GROUPS),
            nn.ReLU(),
            _conv(out, out, (1, 1, 1)),
        )
        same = inside == out and stride == 1
        self.shortcut = nn.Identity() if same else _conv(inside, out, (1, 1, 1), stride)
        # As in the paper's code: a block is born as its shortcut.
        nn.init.zeros_(self.branch[-1][-1].weight)  # type: ignore[index]

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, T, H, W) to (N, C', T, H', W')."""
        return F.relu(self.branch(x) + self.shortcut(x))


class RegNet3D(nn.Module):
    """RegNet3D-0.4G.

    Args:
        classes: scores per clip.

    Attributes:
        features: stem and stages, (N, 3, T, H, W) to (N, 384, T, H/32, W/32).
    """

    def __init__(self, classes: int = 400) -> None:
        super().__init__()
        layers: list[nn.Module] = [_conv(3, STEM, (1, 3, 3), 2), nn.ReLU()]
        channels = STEM
        for stage, (depth, width) in enumerate(zip(DEPTHS, WIDTHS, strict=True)):
            for i in range(depth):
                layers.append(XBlock(channels, width, 1 if i else 2, 3 if stage >= 2 else 1))
                channels = width
        self.features = nn.Sequential(*layers)
        self.dropout = nn.Dropout(0.5)
        self.classifier = nn.Linear(channels, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, clip: Tensor) -> Tensor:
        """Scores (N, classes) of clips (N, 3, T, H, W)."""
        pooled = self.features(clip).mean((2, 3, 4))
        return self.classifier(self.dropout(pooled))
