"""Non-local blocks in ResNets and SlowFast nets of pytorchvideo.

Source: "Non-local Neural Networks", Wang et al., CVPR 2018: every element of time and space looks
at all others, at keys and values that are max-pooled over 2x2 elements of space. The block itself
is pytorchvideo's; its models have none, and here they are put where SlowFast's configurations
have them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn


def insert(
    model: nn.Module, places: Mapping[int, Sequence[int]], instantiation: str, path: int = 0
) -> nn.Module:
    """Put non-local blocks into a model of pytorchvideo, in place.

    Args:
        model: what ``create_resnet`` or ``create_slowfast`` returned.
        places: for each stage (3 is res3) the residual blocks, counted from 0, that one
            follows.
        instantiation: "softmax" (embedded Gaussian) or "dot_product" (divided by the number of
            keys).
        path: of two paths, the one that gets them.

    Returns:
        The model that was given.
    """
    from pytorchvideo.layers.nonlocal_net import create_nonlocal

    net: Any = model
    # i3d_r50 has a pool between res2 and res3.
    stages = [m for m in net.blocks if not isinstance(m, nn.MaxPool3d)]
    for number, followed in places.items():
        stage: Any = stages[number - 1]
        if hasattr(stage, "multipathway_blocks"):
            stage = stage.multipathway_blocks[path]
        blocks = []
        for i, block in enumerate(stage.res_blocks):
            blocks.append(block)
            if i in followed:
                channels = block.branch2.conv_c.out_channels
                made = create_nonlocal(
                    dim_in=channels,
                    dim_inner=channels // 2,
                    pool_size=(1, 2, 2),
                    instantiation=instantiation,
                )
                # Born as the identity, as in the paper; the mark says so to redraw_norms.
                made.norm.block_final_bn = True
                nn.init.zeros_(made.norm.weight)
                blocks.append(made)
        stage.res_blocks = nn.ModuleList(blocks)
    return model
