"""One video file: how many frames it has, and any of them, by number or by time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain, pairwise
from os import PathLike
from pathlib import Path
from typing import Any

from torch import Tensor

from pgt_fx.core.counts import counted
from pgt_fx.core.errors import OptionError, VideoError
from pgt_fx.inference.video.index import Index, in_words, index_of, opened
from pgt_fx.inference.video.picture import check_picture, picture

#: Frames that are decoded and left out rather than sought past.
_NEAR = 16
#: The lowest rate, and the step in which rates are distinguished.
_LEAST = Fraction(1, 1_000_000)


class VideoFile:
    """The frames of a file, in the order in which they are shown.

    With ``fps`` they are those on display at moments 0, 1/fps, 2/fps, … seconds after the first:
    the same moments of a film whatever rate its file has, or if that varies. A frame is on display
    from its time to that of the next one; one that comes a millisecond late (the clock of Matroska)
    counts as in time. Without ``fps`` they are all frames, as they are numbered.

    Args:
        path: any file that FFmpeg reads; its first video stream is taken.
        fps: frames a second; None: as in the file.

    Attributes:
        path: the file.
        fps: as given, exact.
        index: when each frame is shown, and how that is known.

    Raises:
        VideoError: no such file, an empty one, one that is cut short, not a video, no video
            stream, no frame in it, or PyAV is not installed.
        OptionError: for an ``fps`` that is no positive number, or a path that is no path.
    """

    def __init__(self, path: str | Path, *, fps: float | Fraction | None = None) -> None:
        if not isinstance(path, (str, PathLike)):
            raise OptionError(f"path: expected the name of a video file, got {path!r}")
        self.path = Path(path)
        self.fps = rate(fps)
        self.index: Index = index_of(self.path)

    def __len__(self) -> int:
        return self.index.count(self.fps)

    def frames(
        self,
        places: Sequence[int],
        *,
        size: int,
        crop: int | None = None,
        at: tuple[float, float] = (0.5, 0.5),
    ) -> Iterator[Tensor]:
        """Frames as float32 (3, height, width), normalised; see :func:`pgt_fx.video.read`.

        Args:
            places: which, from 0 to ``len(self) - 1``, in rising order; one may be repeated.

        Raises:
            VideoError: for a frame that can't be decoded, is damaged, or is of another size than
                the first.
            OptionError: for places that are not there, or not in that order, and for values of the
                others that make no sense.
        """
        check_picture(size, crop, at)
        self._check(places)
        shape = None
        with _Decoder(self.path) as decoder:
            last: tuple[int, Tensor] | None = None
            for number, frame in self._decoded(decoder, places):
                if last is not None and last[0] == number:
                    yield last[1]
                    continue
                if frame.is_corrupt:
                    raise VideoError(f"{self._where(number)} is damaged", self.path)
                try:
                    image = picture(frame, decoder.aspect, size, crop, at)
                except ValueError as error:
                    raise VideoError(f"{self._where(number)}: {error}", self.path) from error
                shape = shape or image.shape
                if image.shape != shape:
                    raise VideoError(
                        f"{self._where(number)} is {_by(image.shape)} pixels, those before it "
                        f"{_by(shape)}, at a shorter side of {size}; expected one shape: use crop=",
                        self.path,
                    )
                last = (number, image)
                yield image

    def _check(self, places: Sequence[int]) -> None:
        there = len(self)
        absent = next((place for place in places if not 0 <= place < there), None)
        if absent is not None:
            raise OptionError(
                f"places: expected numbers from 0 to {there - 1}, as {self.path} has "
                f"{counted(there, 'frame')}, got {absent}"
            )
        back = next(((a, b) for a, b in pairwise(places) if b < a), None)
        if back is not None:
            raise OptionError(
                f"places: expected rising numbers, got {back[1]} after {back[0]}; sort them"
            )

    def _decoded(self, decoder: _Decoder, places: Sequence[int]) -> Iterator[tuple[int, Any]]:
        """Each wanted frame with its number; the same one again for a number that is repeated."""
        index = self.index
        numbers = index.numbers(places, self.fps)
        if not index.keys:
            yield from self._counted(decoder, numbers)
            return
        running: Iterator[Any] = iter(())
        at, frame = -1, None
        for number in numbers:
            if number != at:
                key = index.key_before(index.pts[number])
                near = index.pts[min(at + _NEAR, len(index.pts) - 1)]
                frame = None
                if at >= 0 and (key < 0 or index.keys[key].pts <= near):
                    frame, _ = _until(running, index.pts[number])
                if frame is None:
                    frame, running = self._sought(decoder, number, key)
                at = number
            yield number, frame

    def _counted(self, decoder: _Decoder, numbers: Sequence[int]) -> Iterator[tuple[int, Any]]:
        """Of a stream whose frames have no time: by decoding all in front of them."""
        running = (_Numbered(*pair) for pair in enumerate(_frames(decoder.packets(None))))
        one: _Numbered | None = None
        for number in numbers:
            if one is None or one.pts != number:
                one, failure = _until(running, number)
                if one is None:
                    raise self._lost(number, failure)
            yield number, one.frame

    def _sought(self, decoder: _Decoder, number: int, key: int) -> tuple[Any, Iterator[Any]]:
        """One frame, and an iterator of those after it, decoded from a key frame before it.

        A container may go to a place after the key frame that was asked for, and a decoder may
        leave out what it can't make from there. Then an earlier key frame is tried, at last the
        beginning.
        """
        wanted = self.index.pts[number]
        failure: Exception | None = None
        for back in _backwards(self.index, key):
            packets = decoder.packets(back)
            first = next(packets, None)
            if first is None or (back is not None and not self._reaches(first, key)):
                continue
            running = _frames(chain([first], packets))
            found, failure = _until(running, wanted)
            if found is not None:
                return found, running
        raise self._lost(number, failure)

    def _reaches(self, packet: Any, number: int) -> bool:
        """Whether a packet comes before that of a key frame, or is it."""
        key = self.index.keys[number]
        if packet.is_keyframe and packet.pts is not None:
            return bool(packet.pts <= key.pts)
        return key.dts is not None and packet.dts is not None and bool(packet.dts <= key.dts)

    def _lost(self, number: int, failure: Exception | None) -> VideoError:
        error = VideoError(
            f"{self._where(number)} can't be decoded: expected "
            f"{counted(len(self.index.pts), 'frame')}, as its {self.index.counted} say, got "
            f"{in_words(failure) if failure else 'none of that time'}; the file is "
            "damaged",
            self.path,
        )
        error.__cause__ = failure
        return error

    def _where(self, number: int) -> str:
        at = float((self.index.pts[number] - self.index.pts[0]) * self.index.unit)
        return f"{self.path}: frame {number}, {at:.3f} s from the start,"


def rate(fps: float | Fraction | None) -> Fraction | None:
    """Frames a second as a fraction: 29.97 is 2997/100.

    Raises:
        OptionError: unless it is a number above 0; 0.000001 is the lowest.
    """
    if fps is None:
        return None
    known = isinstance(fps, int | float | Fraction) and not isinstance(fps, bool)
    if not known or not _LEAST <= fps < float("inf"):
        raise OptionError(
            f"fps: expected a number of frames a second above 0, got {fps!r}; the lowest rate is "
            f"{float(_LEAST):g}"
        )
    return Fraction(fps).limit_denominator(_LEAST.denominator)


def _until(running: Iterator[Any], wanted: int) -> tuple[Any, Exception | None]:
    """The frame of that moment; None when a later one, the end, or an error comes first."""
    import av

    try:
        for frame in running:
            if frame.pts is not None and frame.pts >= wanted:
                return (frame if frame.pts == wanted else None), None
    except av.FFmpegError as error:
        return None, error
    return None, None


@dataclass(frozen=True)
class _Numbered:
    """A frame whose time is its number."""

    pts: int
    frame: Any


def _frames(packets: Iterable[Any]) -> Iterator[Any]:
    return (frame for packet in packets for frame in packet.decode())


def _backwards(index: Index, key: int) -> Iterator[int | None]:
    """Where to seek: at a key frame, by either of its times; then ever further back; None: at the
    beginning, by opening the file anew."""
    step = 1
    while key >= 0:
        found = index.keys[key]
        yield found.pts
        if found.dts is not None:
            yield found.dts
        key, step = key - step, 2 * step
    yield None


def _by(shape: Sequence[int]) -> str:
    return f"{shape[-2]} × {shape[-1]}"


class _Decoder:
    """An open file whose packets can be had from any place on."""

    def __init__(self, path: Path) -> None:
        self._path, self._stack = path, ExitStack()

    def __enter__(self) -> _Decoder:
        self._open()
        return self

    def __exit__(self, *error: Any) -> bool | None:
        return self._stack.__exit__(*error)

    def _open(self) -> None:
        self._container, self._stream = self._stack.enter_context(opened(self._path))
        self._fresh = True

    @property
    def aspect(self) -> float:
        """Width of a stored pixel over its height."""
        ratio = self._stream.sample_aspect_ratio
        return float(ratio) if ratio and ratio > 0 else 1.0

    def packets(self, start: int | None) -> Iterator[Any]:
        """From the key frame at that time or before it; None: all. None at all where the file
        can't be sought."""
        import av

        if start is None and not self._fresh:
            self._stack.close()
            self._open()
        elif start is not None:
            try:
                self._container.seek(start, stream=self._stream, backward=True)
            except av.FFmpegError:
                return iter(())
        self._fresh = False
        return iter(self._container.demux(self._stream))
