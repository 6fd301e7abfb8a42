"""Backbones by name, as torchvision and pytorchvideo build them.

The compiler never imports this package: it is for the command line, the tests, the benchmarks
and for trying things out.  torchvision and pytorchvideo are imported when a model of theirs is
built, not before; :class:`MissingPackageError` says what to install.

    >>> from pgt_fx import zoo
    >>> zoo.names()[:3]
    ['c2d_r50', 'csn_r101', 'i3d_r50']
    >>> model = zoo.build("slow_r50", space=64, redraw_norms=True)
    >>> model(zoo.clip("slow_r50", space=64)).shape
    torch.Size([1, 400])
"""

from .features import FeaturesError, dense_features
from .norms import redraw_norms
from .registry import (
    Entry,
    MissingPackageError,
    UnknownModelError,
    build,
    clip,
    features,
    get,
    names,
)

__all__ = [
    "Entry",
    "FeaturesError",
    "MissingPackageError",
    "UnknownModelError",
    "build",
    "clip",
    "dense_features",
    "features",
    "get",
    "names",
    "redraw_norms",
]
