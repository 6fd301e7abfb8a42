"""Heads that pool a window of fixed height and width."""

from __future__ import annotations

from torch import nn

from .clips import SPATIAL_STRIDE
from .entry import Entry


def fit_head_pools(model: nn.Module, entry: Entry, space: int) -> nn.Module:
    """Set height and width of the head's pool to what is left of ``space`` there, in place.

    The hub functions of pytorchvideo pass a head pool of their own to the builder, so that
    giving one as well is a TypeError.  In these models every AvgPool3d over a square belongs to
    the head and has no weights: setting its kernel is the same as building it with that kernel.
    """
    if not entry.fixed_pool or space == entry.space:
        return model
    left = space // SPATIAL_STRIDE
    for module in model.modules():
        if isinstance(module, nn.AvgPool3d):
            kernel = module.kernel_size
            time, height, width = (kernel,) * 3 if isinstance(kernel, int) else kernel
            if height == width:  # that of an audio path spans frequencies
                module.kernel_size = (time, left, left)
    return model
