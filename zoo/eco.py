"""ECO-lite: 2D convolutions on every frame, then a 3D ResNet-18 on all of them.

Source: "ECO: Efficient Convolutional Network for Online Video Understanding", Zolfaghari et al.,
ECCV 2018: BN-Inception up to the 96 channels of inception-3c for each frame, then the stages of
128, 256 and 512 channels of a 3D ResNet-18, the last two with stride 2 in time and space. The 3D
blocks are torchvision's (convolution, norm, ReLU), where the authors' code puts norms first.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .tsn import FrameWiseMaps


def _conv(inside: int, out: int, kernel: int, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(inside, out, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out), nn.ReLU())


class Inception(nn.Module):
    """Four branches side by side, as in BN-Inception.

    Args:
        inside: channels of the input.
        widths: of 1x1; of 3x3, reduced and out; of two 3x3, reduced and out; of the pooled one.
    """

    def __init__(self, inside: int, widths: tuple[int, int, int, int, int, int]) -> None:
        super().__init__()
        one, three_in, three, double_in, double, pooled = widths
        self.one = _conv(inside, one, 1)
        self.three = nn.Sequential(_conv(inside, three_in, 1), _conv(three_in, three, 3))
        self.twice = nn.Sequential(
            _conv(inside, double_in, 1), _conv(double_in, double, 3), _conv(double, double, 3)
        )
        self.pooled = nn.Sequential(nn.AvgPool2d(3, 1, 1), _conv(inside, pooled, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C', H, W)."""
        return torch.cat([self.one(x), self.three(x), self.twice(x), self.pooled(x)], dim=1)


class ECOLite(nn.Module):
    """ECO-lite.

    Args:
        classes: scores per clip.

    Attributes:
        features: both parts, (N, 3, T, H, W) to (N, 512, T/4, H/32, W/32).
    """

    def __init__(self, classes: int = 400) -> None:
        from torchvision.models.video.resnet import BasicBlock, Conv3DSimple

        super().__init__()
        frames = nn.Sequential(
            _conv(3, 64, 7, 2),
            nn.MaxPool2d(3, 2, 1),
            _conv(64, 64, 1),
            _conv(64, 192, 3),
            nn.MaxPool2d(3, 2, 1),
            Inception(192, (64, 64, 64, 64, 96, 32)),
            Inception(256, (64, 64, 96, 64, 96, 64)),
            # Of inception-3c only the branch of two 3x3 convolutions, before its stride.
            _conv(320, 64, 1),
            _conv(64, 96, 3),
        )

        def stage(inside: int, out: int, stride: int) -> nn.Sequential:
            shortcut = nn.Sequential(
                nn.Conv3d(inside, out, 1, stride, bias=False), nn.BatchNorm3d(out)
            )
            return nn.Sequential(
                BasicBlock(inside, out, Conv3DSimple, stride, shortcut),
                BasicBlock(out, out, Conv3DSimple),
            )

        self.features = nn.Sequential(
            FrameWiseMaps(frames), stage(96, 128, 1), stage(128, 256, 2), stage(256, 512, 2)
        )
        self.dropout = nn.Dropout(0.5)
        self.classifier = nn.Linear(512, classes)

    def forward(self, clip: Tensor) -> Tensor:
        """Scores (N, classes) of clips (N, 3, T, H, W)."""
        pooled = self.features(clip).mean((2, 3, 4))
        return self.classifier(self.dropout(pooled))
