"""What an inflated image model does along time: which of its convolutions look at it, and how."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from pgt_fx.core.errors import OptionError, PgtError

Where = Literal["first", "spatial"]
Weights = Literal["mean", "centre"]
Ends = Literal["replicate", "zeros"]


class InflationError(PgtError, ValueError):
    """The image model can't be inflated; the message names the module and says what to do."""


@dataclass(frozen=True)
class Temporal:
    """Which convolutions of an image model look along time, and how they begin.

    A *stage* is what runs at one resolution: stage 4 is at 1/16 of the input, as res4 of a
    ResNet is.  A *block* is an innermost module of a class of the model's own (not of torch.nn,
    not of timm.layers) with at least two convolutions or linear layers: a bottleneck, a dense
    layer, an inverted residual, an inception module.  Where a model has none, as VGG, each
    convolution is a block.  Convolutions over a single pixel, those of a squeeze-excitation, and
    projections on a block's shortcut are never chosen.

    Attributes:
        where: "first": the first convolution of a block; "spatial": those wider than one pixel.
        kernel: frames that each of them sees; odd.
        stem: frames that the first convolution of the model sees; odd, 1: only one.
        last: only the blocks of the last so many stages; None: of all.
        every: only every so many-th block of a stage, beginning with its first.
        factorised: leave the convolution as it is, and follow it by one of kernel x 1 x 1 over
            time, with as many groups: dense after a dense one, depthwise after a depthwise one.
        weights: "mean": every temporal tap gets 1/kernel of the image's weight, "centre": the
            middle one gets all of it; the model then is the image model on every frame, until
            it is trained.
        ends: what stands before the first frame and after the last: "replicate" repeats them.
            A still video then gives the image model's features in every element; with "zeros",
            as in most published video models, only where no path has seen a zero, and under
            weights="mean" features get darker towards the ends by one half and more.
        stride: frames that become one at the entry of a stage, by max pooling over time as in
            I3D: {4: 2}.  A pool rather than a strided convolution, because it leaves a still
            video as it is, needs no partner in the shortcut, and drops no frame unseen.  What
            is left over at the end, short of a whole pool, is dropped.
    """

    where: Where = "first"
    kernel: int = 3
    stem: int = 1
    last: int | None = None
    every: int = 1
    factorised: bool = False
    weights: Weights = "mean"
    ends: Ends = "replicate"
    stride: Mapping[int, int] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        choices = (
            ("where", ("first", "spatial")),
            ("weights", ("mean", "centre")),
            ("ends", ("replicate", "zeros")),
        )
        for name, allowed in choices:
            if getattr(self, name) not in allowed:
                given = getattr(self, name)
                raise OptionError(f"{name}={given!r}: one of {', '.join(map(repr, allowed))}")
        for name in ("kernel", "stem"):
            size = getattr(self, name)
            if size < 1 or size % 2 == 0:
                raise OptionError(
                    f"{name}={size}: an odd number of frames, so that it has a middle"
                )
        if self.every < 1 or (self.last is not None and self.last < 1):
            raise OptionError(f"every={self.every}, last={self.last}: at least 1")
        if any(stage < 1 or factor < 1 for stage, factor in self.stride.items()):
            raise OptionError(f"stride={dict(self.stride)}: stages and strides count from 1")


#: First convolution of every block of the last two stages: "SlowFast Networks", Feichtenhofer et
#: al., ICCV 2019 (the slow path alone).
SLOWONLY = Temporal(where="first", last=2)
#: Stem, and first convolution of every other block: "Quo Vadis, Action Recognition?", Carreira and
#: Zisserman, CVPR 2017, as "Non-local Neural Networks", Wang et al., CVPR 2018, thinned it out.
I3D = Temporal(where="first", stem=5, every=2)
#: Every convolution in space followed by one in time: "A Closer Look at Spatiotemporal
#: Convolutions", Tran et al., CVPR 2018; without its norm and ReLU between the two, which would
#: not let a still video through unchanged.
R2PLUS1D = Temporal(where="spatial", stem=3, factorised=True)

Preset = Literal["slowonly", "i3d", "r2plus1d"]
PRESETS: dict[Preset, Temporal] = {"slowonly": SLOWONLY, "i3d": I3D, "r2plus1d": R2PLUS1D}


def settings(temporal: Temporal | Preset) -> Temporal:
    """The settings themselves, or those of a preset; OptionError where there is none."""
    if isinstance(temporal, Temporal):
        return temporal
    if temporal not in PRESETS:
        raise OptionError(f"temporal={temporal!r}: a Temporal, or one of {', '.join(PRESETS)}")
    return PRESETS[temporal]
