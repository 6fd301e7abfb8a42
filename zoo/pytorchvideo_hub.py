"""The hub models of pytorchvideo."""

from __future__ import annotations

import warnings

from torch import nn


def load(name: str, pretrained: bool) -> nn.Module:
    """Build ``pytorchvideo.models.hub.<name>``; ``pretrained`` downloads its Kinetics weights."""
    with warnings.catch_warnings():
        # fvcore and iopath use torch.jit.script at import time, which torch has deprecated.
        warnings.filterwarnings("ignore", message=r".*torch\.jit", category=FutureWarning)
        warnings.filterwarnings("ignore", message=r".*torch\.jit", category=DeprecationWarning)
        from pytorchvideo.models import hub

    model: nn.Module = getattr(hub, name)(pretrained=pretrained)
    return model
