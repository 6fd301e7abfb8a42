"""The index of a file: times at which its frames are shown, and where decoding can begin."""

from __future__ import annotations

import functools
import math
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pgt_fx.core.errors import VideoError
from pgt_fx.inference.video.container import promised_size

if TYPE_CHECKING:
    import av.container

# Where each packet is one frame that is shown, with its time: then packets need not be decoded to
# number the frames. (VP8 has packets that show nothing, a field of an interlaced MPEG-TS is half.)
_FORMATS = frozenset({"mov", "mp4", "matroska", "webm", "flv", "avi", "mpegts"})
_CODECS = {"h264", "hevc", "mpeg1video", "mpeg2video", "mpeg4", "vp9", "libvpx-vp9", "av1"}
_CODECS |= {"libdav1d", "libaom-av1", "ffv1", "mjpeg", "png", "prores", "dnxhd", "rawvideo"}
#: A packet of MPEG-4 part 2 below that many bytes may stand for a frame that was left out.
_EMPTY = 16

#: Matroska's clock has milliseconds: a frame may be shown one late.
_TICK = Fraction(1, 1000)


class _Packet(NamedTuple):
    """A packet's entries in the container, by PyAV's names."""

    pts: Any
    dts: int | None
    duration: int
    size: int
    is_keyframe: bool
    is_discard: bool


@dataclass(frozen=True)
class Key:
    """A frame from which decoding can begin: when it is shown and decoded (None: not known)."""

    pts: int
    dts: int | None


@dataclass(frozen=True)
class Index:
    """The frames of a file, in the order in which they are shown.

    Attributes:
        pts: when each is shown, rising, in units of ``unit`` seconds.
        unit: seconds.
        last: for how long the last one is shown.
        keys: where decoding can begin, rising; none where nothing can be sought.
        counted: "packets": from the file's packets. "frames": by decoding all of it, where packets
            don't say.
    """

    pts: tuple[int, ...]
    unit: Fraction
    last: int
    keys: tuple[Key, ...]
    counted: str

    @property
    def seconds(self) -> Fraction:
        """From the first frame to the end of the last."""
        return (self.pts[-1] - self.pts[0] + self.last) * self.unit

    def count(self, fps: Fraction | None = None) -> int:
        """Frames there are, or moments of a rate."""
        if fps is None:
            return len(self.pts)
        return max(1, math.ceil((self.seconds - _slack(fps)) * fps))

    def numbers(self, places: Iterable[int], fps: Fraction | None = None) -> list[int]:
        """The frames that are shown ``place / fps`` seconds after the first."""
        if fps is None:
            return list(places)
        slack, start = _slack(fps), self.pts[0]
        return [
            bisect_right(self.pts, start + math.floor((place / fps + slack) / self.unit)) - 1
            for place in places
        ]

    def key_before(self, pts: int) -> int:
        """The number of the last key frame that is shown at ``pts`` or before; -1: there's none."""
        return bisect_right(self.keys, pts, key=lambda key: key.pts) - 1


def _slack(fps: Fraction) -> Fraction:
    return min(_TICK, 1 / (4 * fps))


@contextmanager
def opened(path: Path) -> Iterator[tuple[av.container.InputContainer, Any]]:
    """A file that is open, and its first video stream.

    Raises:
        VideoError: no such file, one that may not be read, cut short, not a video, no video stream,
            or PyAV is not installed; and in place of FFmpeg's own errors in the body.
    """
    try:
        import av
    except ModuleNotFoundError as error:
        raise VideoError(
            "decoding video needs PyAV, which is not installed: pip install 'pgt_fx[video]'"
        ) from error
    size, promised = _sizes(path)
    if promised is not None:
        raise VideoError(
            f"{path} is cut short: expected {promised} bytes, as its headers say, got {size}; "
            "fetch or write it again",
            path,
        )
    try:
        # Absolute: FFmpeg takes what stands before a colon, in "12:30.mp4", for a protocol.
        with av.open(str(path.absolute())) as container:
            streams = [s for s in container.streams.video if not _cover(s)]
            if not streams:
                kinds = ", ".join(sorted({s.type or "unknown" for s in container.streams}))
                raise VideoError(
                    f"{path} has no video stream: its streams are {kinds or 'none'}", path
                )
            if streams[0].codec_context is None:
                raise VideoError(f"{path}: there is no decoder for its video stream", path)
            # Threads of a decoder don't live on in a forked process (a worker of a DataLoader), and
            # one that is collected there would wait for them for ever.
            streams[0].codec_context.thread_count = 1
            yield container, streams[0]
    except av.FFmpegError as error:
        raise VideoError(f"{path} can't be decoded: {in_words(error)}", path) from error


def in_words(error: Exception) -> str:
    """What an error of FFmpeg says, without its number and the path."""
    said = getattr(error, "strerror", None) or str(error) or type(error).__name__
    if type(error).__name__ == "InvalidDataError":
        return "its contents are damaged, or no video at all"
    return f"FFmpeg says {said!r}"


def _sizes(path: Path) -> tuple[int, int | None]:
    """Bytes of a file, and how many there should be (:func:`promised_size`).

    Raises:
        VideoError: it is not there, is a folder, is empty, or may not be read.
    """
    try:
        if path.is_dir():
            raise VideoError(f"{path} is a folder: expected a video file", path)
        if not path.is_file():
            raise VideoError(f"no such video file: {path}", path)
        size = path.stat().st_size
        if not size:
            raise VideoError(f"{path} is empty: expected a video, got a file of 0 bytes", path)
        return size, promised_size(path)
    except OSError as error:
        raise VideoError(f"{path} can't be read: {error.strerror}", path) from error


def _cover(stream: Any) -> bool:
    """A still picture that belongs to sound."""
    return bool(int(getattr(stream, "disposition", 0)) & 0x400)  # AV_DISPOSITION_ATTACHED_PIC


def index_of(path: Path) -> Index:
    """The index of a file; the process remembers those of the last 256 files that have not changed.

    Raises:
        VideoError: as :func:`opened`; and when there is no frame in the stream.
    """
    try:
        stat = path.stat()
    except (OSError, ValueError):  # ValueError: a name with a null byte
        with opened(path):  # says what is wrong
            raise
    return _index_of(path.absolute(), stat.st_mtime_ns, stat.st_size)


@functools.lru_cache(maxsize=256)
def _index_of(path: Path, changed: int, size: int) -> Index:
    with opened(path) as (container, stream):
        found = _by_packets(container, stream)
    if found is None:
        with opened(path) as (container, stream):
            found = _by_frames(container, stream, path)
    if not found.pts:
        raise VideoError(f"{path} has a video stream, but no frame could be decoded", path)
    return found


def _by_packets(container: av.container.InputContainer, stream: Any) -> Index | None:
    """The index from the file's packets; None where they don't say which frames are shown."""
    codec, kinds = stream.codec_context, set(container.format.name.split(","))
    if not _FORMATS & kinds or codec.name not in _CODECS:
        return None
    if "avi" in kinds and codec.has_b_frames:  # it has no times, and FFmpeg's guess is wrong
        return None
    # 0: unknown, 1: progressive. PyAV below 13 doesn't say.
    if "mpegts" in kinds and int(getattr(codec, "field_order", 2)) > 1:
        return None
    # What is asked of each packet, without its data: that would be all of the file.
    seen = [
        _Packet(p.pts, p.dts, p.duration or 0, p.size, p.is_keyframe, p.is_discard)
        for p in container.demux(stream)
        if p.size
    ]
    if any(p.pts is None for p in seen):
        return None
    if codec.name == "mpeg4" and any(p.size < _EMPTY for p in seen):
        return None
    moments = sorted(p.pts for p in seen)
    # What is shown before the first key frame may not be decoded; two packets of one moment may be
    # the halves of a frame.
    rising = all(a < b for a, b in pairwise(moments))
    if not seen or not rising or not seen[0].is_keyframe or seen[0].pts != moments[0]:
        return None
    # An edit list leaves frames out that others need.
    shown = sorted((p.pts, p.duration) for p in seen if not p.is_discard)
    keys = sorted(((p.pts, p.dts) for p in seen if p.is_keyframe), key=lambda key: key[0])
    pts = tuple(moment for moment, _ in shown)
    return Index(
        pts,
        stream.time_base,
        _last(pts, shown[-1][1] if shown else 0, stream),
        tuple(Key(*key) for key in keys),
        "packets",
    )


def _by_frames(container: av.container.InputContainer, stream: Any, path: Path) -> Index:
    seen = [(f.pts, f.key_frame) for f in container.decode(stream)]
    pts = tuple(moment for moment, _ in seen)
    if None not in pts and all(a < b for a, b in pairwise(pts)):
        keys = tuple(Key(moment, None) for moment, key in seen if key)
        return Index(pts, stream.time_base, _last(pts, 0, stream), keys, "frames")
    # A bare stream of pictures: they have no time but their number.
    rate = stream.average_rate or stream.guessed_rate or Fraction(25)
    return Index(tuple(range(len(pts))), 1 / Fraction(rate), 1, (), "frames")


def _last(pts: tuple[int, ...], said: int, stream: Any) -> int:
    """How long the last frame is shown: as the packet says, as the one before, or by the rate."""
    if said > 0:
        return said
    if len(pts) > 1:
        return pts[-1] - pts[-2]
    rate = stream.average_rate or stream.guessed_rate
    return max(1, round(1 / (rate * stream.time_base))) if rate and stream.time_base else 1
