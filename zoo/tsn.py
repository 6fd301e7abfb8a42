"""TSN: an image model on every frame, and the mean of what it says of them.

Source: "Temporal Segment Networks", Wang et al., ECCV 2016, with the average as consensus.
"""

from __future__ import annotations

from torch import Tensor, nn


class FrameWise(nn.Module):
    """Frames folded into the batch, scores averaged over them.

    Attributes:
        image: takes (N, C, H, W), gives scores (N, classes).
    """

    def __init__(self, image: nn.Module) -> None:
        super().__init__()
        self.image = image

    def forward(self, clip: Tensor) -> Tensor:
        """Scores (N, classes) of clips (N, C, T, H, W): the mean over the T frames."""
        n, t = clip.shape[0], clip.shape[2]
        scores: Tensor = self.image(clip.transpose(1, 2).flatten(0, 1))
        return scores.unflatten(0, (n, t)).mean(1)


class FrameWiseMaps(nn.Module):
    """Feature maps of the single frames, with the time axis put back.

    Attributes:
        image: takes (N, C, H, W), gives (N, C', H', W').
    """

    def __init__(self, image: nn.Module) -> None:
        super().__init__()
        self.image = image

    def forward(self, clip: Tensor) -> Tensor:
        """(N, C', T, H', W') of clips (N, C, T, H, W)."""
        n, t = clip.shape[0], clip.shape[2]
        maps: Tensor = self.image(clip.transpose(1, 2).flatten(0, 1))
        return maps.unflatten(0, (n, t)).transpose(1, 2)


def tsn_r50(classes: int = 400) -> FrameWise:
    """TSN on torchvision's ResNet-50."""
    from torchvision.models import resnet50

    return FrameWise(resnet50(num_classes=classes))
