"""The video models of torchvision."""

from __future__ import annotations

from typing import Any

from torch import nn

from .entry import Entry

_R3D: dict[str, Any] = {"source": "torchvision", "clip": (16,), "space": 112, "fixed_pool": False}
_MVIT: dict[str, Any] = {
    "source": "torchvision",
    "clip": (16,),
    "space": 224,
    "fixed_pool": True,
    "family": "MViT",
    "all_time": "attention",
    "fixed_frames": True,
    "fixed_space": True,
}
_SWIN: dict[str, Any] = {
    "source": "torchvision",
    "clip": (32,),
    "space": 224,
    "fixed_pool": False,
    "family": "Swin",
}

ENTRIES = (
    Entry("r3d_18", description="ResNet-18, 3x3x3 convolutions", family="ResNet3D", **_R3D),
    Entry("mc3_18", description="ResNet-18, 3D stem, 2D later stages", family="ResNet3D", **_R3D),
    Entry("r2plus1d_18", description="ResNet-18, (2+1)D convolutions", family="R(2+1)D", **_R3D),
    # Trained at 128 frames; 16 is the shortest clip its temporal stride of 8 divides and
    # its head's pool over 2 elements takes.
    Entry(
        "s3d",
        "torchvision",
        (16,),
        224,
        True,
        "separable inception, temporal stride 8",
        family="S3D",
    ),
    Entry("mvit_v1_b", description="multiscale transformer, table of positions", **_MVIT),
    Entry("mvit_v2_s", description="multiscale transformer, relative positions", **_MVIT),
    Entry("swin3d_t", description="transformer on windows of 16 frames, tiny", **_SWIN),
    Entry("swin3d_s", description="transformer on windows of 16 frames, small", **_SWIN),
    Entry("swin3d_b", description="transformer on windows of 16 frames, base", **_SWIN),
)


def load(entry: Entry, space: int, pretrained: bool) -> nn.Module:
    """Build ``torchvision.models.video.<name>``; ``pretrained`` downloads its default weights."""
    from torchvision.models import video

    from .pools import fit_head_pools

    model: nn.Module = getattr(video, entry.name)(weights="DEFAULT" if pretrained else None)
    return fit_head_pools(model, entry, space)
