"""The hub models of pytorchvideo."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from pgt_fx.core.errors import OptionError

from .entry import Entry


def _entry(name: str, clip: tuple[int, ...], space: int, description: str, **more: Any) -> Entry:
    options = {"fixed_pool": True} | more
    return Entry(name, "pytorchvideo", clip, space, description=description, **options)


_SE = "squeeze-excitation"

ENTRIES = (
    _entry(
        "slow_r50", (8,), 224, "SlowFast's slow path, ResNet-50",
        family="SlowOnly", gflops=54.5, trf=19,
    ),
    _entry("c2d_r50", (8,), 224, "2D ResNet-50, one temporal max pool", family="C2D"),
    _entry(
        "i3d_r50", (8,), 224, "inflated ResNet-50, one temporal max pool", family="I3D", trf=36
    ),
    _entry("r2plus1d_r50", (16,), 224, "(2+1)D ResNet-50, softmax", family="R(2+1)D"),
    _entry("csn_r101", (32,), 224, "channel-separated ResNet-101", family="CSN"),
    _entry(
        "slowfast_r50", (8, 32), 224, "two paths, alpha 4", family="SlowFast", gflops=65.7, trf=37
    ),
    _entry("slowfast_r101", (8, 32), 224, "two paths, alpha 4", family="SlowFast", gflops=126.0),
    _entry(
        "slowfast_16x8_r101_50_50", (16, 64), 224, "two paths, 6 of res4's 23 blocks temporal",
        family="SlowFast",
    ),
    _entry("x3d_xs", (4,), 160, "X3D extra small", family="X3D", all_time=_SE),
    _entry("x3d_s", (13,), 160, "X3D small", family="X3D", all_time=_SE),
    _entry("x3d_m", (16,), 224, "X3D medium", family="X3D", all_time=_SE, trf=57),
    _entry("x3d_l", (16,), 312, "X3D large", family="X3D", all_time=_SE),
    _entry(
        "efficient_x3d_xs", (4,), 160, "X3D extra small for mobile CPUs",
        family="X3D", all_time=_SE, fixed_pool=False,
    ),
    _entry(
        "efficient_x3d_s", (13,), 160, "X3D small for mobile CPUs",
        family="X3D", all_time=_SE, fixed_pool=False,
    ),
    _entry(
        "mvit_base_16x4", (16,), 224, "multiscale transformer, table of positions",
        family="MViT", all_time="attention", fixed_frames=True,
    ),
    _entry(
        "mvit_base_32x3", (32,), 224, "multiscale transformer, table of positions",
        family="MViT", all_time="attention", fixed_frames=True,
    ),
    # Of a single image; what it says of the frames is averaged, as TSN does.
    _entry("mvit_base_16", (8,), 224, "multiscale transformer, frame by frame", family="TSN"),
    _entry(
        "slow_r50_detection", (4,), 224, "slow path and boxes, for AVA",
        family="SlowOnly", boxes=2, fixed_pool=False,
    ),
    _entry(
        "slowfast_r50_detection", (8, 32), 224, "two paths and boxes, for AVA",
        family="SlowFast", boxes=2, fixed_pool=False,
    ),
)  # fmt: skip


@contextmanager
def quiet() -> Iterator[None]:
    """While pytorchvideo is imported: fvcore and iopath use torch.jit.script, now deprecated."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r".*torch\.jit", category=FutureWarning)
        warnings.filterwarnings("ignore", message=r".*torch\.jit", category=DeprecationWarning)
        yield


def load(entry: Entry, space: int, pretrained: bool) -> nn.Module:
    """Build ``pytorchvideo.models.hub.<name>``; ``pretrained`` downloads its Kinetics weights."""
    with quiet():
        from pytorchvideo.models import hub

    from .pools import fit_head_pools
    from .tsn import FrameWise

    options: dict[str, Any] = {}
    if entry.name.startswith("mvit") and space != entry.space:
        if pretrained:
            raise OptionError(f"{entry.name} has weights for {entry.space} pixels only")
        options["spatial_size"] = space
    model: nn.Module = getattr(hub, entry.name)(pretrained=pretrained, **options)
    if entry.family == "TSN":
        return FrameWise(model)
    return fit_head_pools(model, entry, space)
