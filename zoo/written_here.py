"""Models that neither torchvision nor pytorchvideo has, written in this package."""

from __future__ import annotations

from torch import nn

from pgt_fx.core.errors import OptionError

from .entry import Entry

ENTRIES = (
    Entry("c3d", "pgt_fx", (16,), 112, True, "eight 3x3x3 convolutions, no norms", family="C3D"),
    Entry("tsm_r50", "pgt_fx", (8,), 224, False, "2D ResNet-50, shifted channels", family="TSM"),
    Entry("tsn_r50", "pgt_fx", (8,), 224, False, "2D ResNet-50, mean of frames", family="TSN"),
    Entry("eco_lite", "pgt_fx", (16,), 224, False, "2D inception, 3D ResNet-18", family="ECO"),
    Entry(
        "regnet3d_400m",
        "pgt_fx",
        (8,),
        224,
        False,
        "RegNetX-400MF, last two stages temporal",
        family="RegNet3D",
        gflops=6.59,
        trf=39,
    ),
)


def load(entry: Entry, space: int, pretrained: bool) -> nn.Module:
    """Build the model of that name; there are no weights for these."""
    if pretrained:
        raise OptionError(f"there are no weights for {entry.name}")
    match entry.name:
        case "c3d":
            from .c3d import C3D

            return C3D(space)
        case "tsm_r50":
            from .tsm import TSM

            return TSM()
        case "tsn_r50":
            from .tsn import tsn_r50

            return tsn_r50()
        case "eco_lite":
            from .eco import ECOLite

            return ECOLite()
        case _:
            from .regnet3d import RegNet3D

            return RegNet3D()
