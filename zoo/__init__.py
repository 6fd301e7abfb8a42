"""Backbones by name: those of torchvision and pytorchvideo, and those of the paper they lack.

The compiler never imports this package: it is for the command line, the tests, the benchmarks
and for trying things out.  torchvision and pytorchvideo are imported when a model of theirs is
built, not before; :class:`MissingPackageError` says what to install.

    >>> from pgt_fx import zoo
    >>> zoo.names()[:3]
    ['audio_visual_slowfast_r50', 'c2d_r50', 'c3d']
    >>> model = zoo.build("slow_r50", space=64, redraw_norms=True)
    >>> model(zoo.clip("slow_r50", space=64)).shape
    torch.Size([1, 400])
"""

if __name__ == "zoo":
    # An editable install puts the checkout on the path of imports, and a wheel knows no such name.
    raise ModuleNotFoundError("No module named 'zoo'; the backbones are pgt_fx.zoo", name="zoo")

from .cost import gflops
from .entry import Entry, MissingPackageError, UnknownModelError
from .features import FeaturesError, dense_features
from .frame_wise_video import frame_wise
from .inflate import Inflated, inflate
from .norms import redraw_norms
from .registry import build, clip, features, get, names
from .temporal import I3D, R2PLUS1D, SLOWONLY, InflationError, Temporal

__all__ = [
    "I3D",
    "R2PLUS1D",
    "SLOWONLY",
    "Entry",
    "FeaturesError",
    "Inflated",
    "InflationError",
    "MissingPackageError",
    "Temporal",
    "UnknownModelError",
    "build",
    "clip",
    "dense_features",
    "features",
    "frame_wise",
    "get",
    "gflops",
    "inflate",
    "names",
    "redraw_norms",
]
