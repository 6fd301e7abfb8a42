"""The video models of torchvision."""

from __future__ import annotations

from torch import nn


def load(name: str, pretrained: bool) -> nn.Module:
    """Build ``torchvision.models.video.<name>``; ``pretrained`` downloads its default weights."""
    from torchvision.models import video

    model: nn.Module = getattr(video, name)(weights="DEFAULT" if pretrained else None)
    return model
