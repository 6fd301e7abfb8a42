"""Small videos, encoded for tests, and the bytes of an MP4 changed afterwards."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

av = pytest.importorskip("av")


def drifting(frames: int, height: int = 48, width: int = 64) -> list[np.ndarray]:
    """Coarse noise that drifts: no two frames alike."""
    rng = np.random.default_rng(0)
    cells = rng.integers(0, 255, (height // 8, width // 8, 3), dtype=np.uint8)
    picture = cells.repeat(8, 0).repeat(8, 1)
    return [np.roll(picture, 3 * i, 1) for i in range(frames)]


def encode(
    path: Path,
    images: Sequence[np.ndarray],
    codec: str = "mpeg4",
    *,
    rate: int | Fraction = 10,
    pixels: str = "yuv420p",
    times: Sequence[int] | None = None,
    aspect: Fraction | None = None,
    options: dict[str, str] | None = None,
    muxer: dict[str, str] | None = None,
    form: str | None = None,
) -> Path:
    """A file of these frames (height, width, 3).

    Args:
        times: of each frame, in milliseconds; None: at ``rate``.
        aspect: width of a pixel over its height.
        options, muxer: of the encoder and of the container.
        form: the container, where the name doesn't tell.
    """
    height, width = images[0].shape[:2]
    with av.open(str(path), "w", format=form, options=muxer or {}) as container:
        stream = container.add_stream(codec, rate=rate, options=options or {})
        stream.width, stream.height, stream.pix_fmt = width, height, pixels
        stream.bit_rate = 4_000_000
        if aspect is not None:
            stream.codec_context.sample_aspect_ratio = aspect
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        for i, image in enumerate(images):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = times[i], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def decoded(path: Path) -> list[Tensor]:
    """Every frame that PyAV decodes from the start, as (3, height, width) of 0 to 255."""
    with av.open(str(path)) as container:
        frames = [f.to_ndarray(format="rgb24") for f in container.decode(video=0)]
    return [torch.from_numpy(f).permute(2, 0, 1) for f in frames]


def boxes(data: bytes, name: bytes) -> int:
    """Where the content of an MP4's only box of that name begins."""
    assert data.count(name) == 1, name
    return data.index(name) + 4


def with_matrix(source: Path, target: Path, turn: tuple[int, int, int, int]) -> Path:
    """A copy of an MP4 whose track has the display matrix (a b; c d), of -1, 0 and 1."""
    data = bytearray(source.read_bytes())
    at = boxes(bytes(data), b"tkhd") + 40  # version 0: times, layer, volume stand before it
    a, b, c, d = (n << 16 for n in turn)
    data[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    target.write_bytes(data)
    return target


def with_edit(source: Path, target: Path, ticks: int) -> Path:
    """A copy of an MP4 whose edit list begins so many ticks later."""
    data = bytearray(source.read_bytes())
    at = boxes(bytes(data), b"elst") + 12  # version 0: flags, one entry, its duration
    (start,) = struct.unpack(">i", data[at : at + 4])
    data[at : at + 4] = struct.pack(">i", start + ticks)
    target.write_bytes(data)
    return target


def grey(level: int, height: int = 48, width: int = 96) -> np.ndarray:
    return np.full((height, width, 3), level, dtype=np.uint8)


def levels(clip: Tensor) -> Tensor:
    """The grey level, 0 to 255, of each frame of a normalised clip."""
    return (clip * 0.225 + 0.45).mean(dim=(0, 2, 3)) * 255
