"""Models that pytorchvideo's builders make and its hub does not have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from pgt_fx.core.errors import OptionError

from .entry import Entry
from .pytorchvideo_hub import quiet

_NL = "non-local blocks"


def _entry(name: str, clip: tuple[int, ...], description: str, **more: Any) -> Entry:
    return Entry(name, "pytorchvideo", clip, 224, True, description, **more)


ENTRIES = (
    _entry(
        "slow_r101", (8,), "SlowFast's slow path, ResNet-101", family="SlowOnly",
        gflops=110.0, trf=53,
        note="111.6 GFLOPs with all 23 blocks of res4 and all 3 of res5 temporal, which is what "
        "53 frames and the authors' configuration say; 110.5 would be one block less, 51 frames",
    ),
    _entry("i3d_r50_nopool", (8,), "inflated ResNet-50", family="I3D", trf=23),
    _entry("slow_r50_nl", (8,), "5 non-local blocks", family="SlowOnly", all_time=_NL),
    _entry("slow_r101_nl", (8,), "5 non-local blocks", family="SlowOnly", all_time=_NL),
    _entry("i3d_r50_nl", (8,), "5 non-local blocks", family="I3D", all_time=_NL),
    _entry(
        "slowfast_r50_nl", (8, 32), "3 non-local blocks in the slow path's res4",
        family="SlowFast", all_time=_NL, gflops=80.8,
        note="77.0 GFLOPs with non-local blocks after every second block of res4, as in the "
        "SlowFast paper and in the authors' configuration for ResNet-101; 80.7 would be four of "
        "them, 99.5 the five of SlowFast's configuration SLOWFAST_NLN_8x8_R50",
    ),
    _entry(
        "slowfast_r101_nl", (8, 32), "3 non-local blocks in the slow path's res4",
        family="SlowFast", all_time=_NL,
    ),
    _entry(
        "audio_visual_slowfast_r50", (8, 32, 128), "slow, fast and a spectrogram of 80 bands",
        family="audio-visual", audio=80,
    ),
)  # fmt: skip

_SLOW = {"stem_conv_kernel_size": (1, 7, 7), "head_pool_kernel_size": (8, 7, 7)}
_I3D_KERNELS = (
    (3, 1, 1),
    [(3, 1, 1), (1, 1, 1)],
    [(3, 1, 1), (1, 1, 1)],
    [(1, 1, 1), (3, 1, 1)],
)
# The head sees twice the frames of i3d_r50, whose temporal pool halves them.
_I3D = {
    "head_pool_kernel_size": (8, 7, 7),
    "stem_conv_kernel_size": (5, 7, 7),
    "stage_conv_a_kernel_size": _I3D_KERNELS,
}
#: Residual blocks that a non-local one follows, by stage: SlowFast's configurations.
_NL5_R50, _NL5_R101 = {3: (1, 3), 4: (1, 3, 5)}, {3: (1, 3), 4: (7, 14, 21)}
_NL3_R50, _NL3_R101 = {4: (1, 3, 5)}, {4: (6, 13, 20)}


def load(entry: Entry, space: int, pretrained: bool) -> nn.Module:
    """Build the model of that name; there are no weights for these."""
    if pretrained:
        raise OptionError(f"pytorchvideo offers no weights for {entry.name}")
    with quiet():
        from pytorchvideo.models import hub

    from .pools import fit_head_pools

    model: nn.Module
    match entry.name:
        case "slow_r101":
            model = _resnet(101, **_SLOW)
        case "slow_r50_nl":
            model = _nonlocal(hub.slow_r50(), _NL5_R50, "softmax")
        case "slow_r101_nl":
            model = _nonlocal(_resnet(101, **_SLOW), _NL5_R101, "softmax")
        case "i3d_r50_nopool":
            model = _resnet(50, **_I3D)
        case "i3d_r50_nl":
            model = _nonlocal(hub.i3d_r50(), _NL5_R50, "softmax")
        case "slowfast_r50_nl":
            model = _nonlocal(hub.slowfast_r50(), _NL3_R50, "dot_product")
        case "slowfast_r101_nl":
            model = _nonlocal(hub.slowfast_r101(), _NL3_R101, "dot_product")
        case _:
            model = _audio_visual()
    return fit_head_pools(model, entry, space)


def _resnet(depth: int, **options: Any) -> nn.Module:
    from pytorchvideo.models.resnet import create_resnet

    return create_resnet(model_depth=depth, **options)


def _nonlocal(model: nn.Module, places: Mapping[int, tuple[int, ...]], kind: str) -> nn.Module:
    from .nonlocal_block import insert

    return insert(model, places, kind)


def _audio_visual() -> nn.Module:
    from pytorchvideo.models import audio_visual_slowfast

    # Its fusion prints the size of every activation; what is printed to is only this module's.
    vars(audio_visual_slowfast).setdefault("print", lambda *args, **options: None)
    return audio_visual_slowfast.create_audio_visual_slowfast()
