"""What is known of a backbone without building it, and what goes wrong when one is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pgt_fx.core.errors import PgtError


class UnknownModelError(PgtError, KeyError):
    """No backbone of that name; the message lists the nearest names."""

    def __str__(self) -> str:  # KeyError would print the repr of the message
        return str(self.args[0])


class MissingPackageError(PgtError, ImportError):
    """The package that builds this backbone is not installed."""


def timm_for(name: str) -> Any:
    """The package timm, which builds the image model of that name.

    Raises:
        MissingPackageError: it, or what it needs, is not installed.
    """
    try:
        import timm
    except ModuleNotFoundError as error:
        raise MissingPackageError(
            f"{name!r} is built by timm, and the package {error.name!r} is not installed: "
            "pip install 'pgt_fx[zoo]'"
        ) from error
    return timm


@dataclass(frozen=True)
class Entry:
    """What is known of a backbone without building it.

    Attributes:
        name: the name in this zoo, and in its source where that one has a name for it.
        source: the package that builds it; "pgt_fx" for those written here.
        clip: frames of one clip, one number per path; of an audio path, columns of the
            spectrogram.
        space: height and width of one clip, in pixels.
        fixed_pool: whether the model is built for one height and width (its head pools a fixed
            window, or it has a table of positions); they must then be multiples of 32.
        description: one line.
        channels: channels of the video.
        family: models of one make have it in common ("SlowFast", "X3D", …).
        all_time: what in it looks at all of time before the head, so that no bounded state
            reproduces it ("squeeze-excitation", "non-local blocks", "attention"); else empty.
        fixed_frames: whether the model takes clips of this length only (tables of positions).
        fixed_space: whether its source builds the model for ``space`` only.
        boxes: boxes per clip that it takes beside the video, for detection; else 0.
        audio: frequencies of the spectrogram that its last path takes; 0: all paths are video.
        gflops: GFLOPs of one view of ``clip`` frames at 256x256 as the PGT paper prints them,
            one multiply-add counted as one; None where it prints none.
        trf: temporal receptive field of the stages before the head, in frames of the path with
            the most, as the paper prints it; None where it prints none.
        note: where what is measured here differs from the paper's figure, and why.
    """

    name: str
    source: str
    clip: tuple[int, ...]
    space: int
    fixed_pool: bool
    description: str
    channels: int = 3
    family: str = ""
    all_time: str = ""
    fixed_frames: bool = False
    fixed_space: bool = False
    boxes: int = 0
    audio: int = 0
    gflops: float | None = None
    trf: int | None = None
    note: str = ""
