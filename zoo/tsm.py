"""TSM: a 2D ResNet in which an eighth of the channels is moved one frame on, another one back.

Source: "TSM: Temporal Shift Module for Efficient Video Understanding", Lin et al., ICCV 2019:
ResNet-50, residual shift (inside the branch, in front of its first convolution) in every block,
an eighth of the channels each way, the mean over the frames as consensus.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .tsn import FrameWiseMaps


class TemporalShift(nn.Module):
    """Move channels along time, zeros coming in at both ends.

    Args:
        part: the channels are cut into so many; the first part comes from the next frame, the
            second from the one before, the others stay.
    """

    def __init__(self, part: int = 8) -> None:
        super().__init__()
        self.part = part

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, C, H, W) to the same."""
        fold = x.shape[2] // self.part
        ahead = F.pad(x[:, 1:, :fold], (0, 0, 0, 0, 0, 0, 0, 1))
        delayed = F.pad(x[:, :-1, fold : 2 * fold], (0, 0, 0, 0, 0, 0, 1, 0))
        return torch.cat([ahead, delayed, x[:, :, 2 * fold :]], dim=2)


class ShiftedBlock(nn.Module):
    """A bottleneck block whose branch, but not its shortcut, sees shifted channels.

    Args:
        block: a block of torchvision's ResNet; its modules become those of this one.
        part: see :class:`TemporalShift`.
    """

    def __init__(self, block: nn.Module, part: int) -> None:
        super().__init__()
        self.shift = TemporalShift(part)
        names = ("conv1", "bn1", "conv2", "bn2", "conv3", "bn3")
        first, norm1, second, norm2, third, norm3 = (getattr(block, name) for name in names)
        self.branch = nn.Sequential(first, norm1, nn.ReLU(), second, norm2, nn.ReLU(), third, norm3)
        shortcut = block.downsample
        self.shortcut = shortcut if isinstance(shortcut, nn.Module) else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, C, H, W) to (N, T, C', H', W')."""
        n, t = x.shape[:2]
        moved = self.shift(x).flatten(0, 1)
        out = F.relu(self.branch(moved) + self.shortcut(x.flatten(0, 1)))
        return out.unflatten(0, (n, t))


class _ShiftedStages(nn.Module):
    def __init__(self, blocks: list[nn.Module]) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, T, H, W) to (N, C', T, H', W')."""
        out: Tensor = self.blocks(x.transpose(1, 2))
        return out.transpose(1, 2)


class TSM(nn.Module):
    """Temporal shift on a ResNet-50.

    Args:
        classes: scores per clip.
        part: an eighth each way is 8.

    Attributes:
        features: stem and stages, (N, 3, T, H, W) to (N, 2048, T, H/32, W/32).
    """

    def __init__(self, classes: int = 400, part: int = 8) -> None:
        from torchvision.models import resnet50

        super().__init__()
        net = resnet50(num_classes=classes)
        stem = nn.Sequential(net.conv1, net.bn1, net.relu, net.maxpool)
        stages = (net.layer1, net.layer2, net.layer3, net.layer4)
        blocks = [ShiftedBlock(block, part) for stage in stages for block in stage]
        self.features = nn.Sequential(FrameWiseMaps(stem), _ShiftedStages(list(blocks)))
        self.classifier = net.fc

    def forward(self, clip: Tensor) -> Tensor:
        """Scores (N, classes) of clips (N, 3, T, H, W)."""
        maps = self.features(clip).mean((3, 4)).transpose(1, 2)
        scores: Tensor = self.classifier(maps)
        return scores.mean(1)
