"""Views of a video: clips spread over its length, crops along the longer side of its frames."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from pgt_fx.core.clip import ClipSpec
from pgt_fx.core.counts import counted
from pgt_fx.core.errors import ClipError, OptionError
from pgt_fx.core.schedule import OverTime, Schedule
from pgt_fx.core.torch_private import pytree
from pgt_fx.inference.video import lengthened
from pgt_fx.runtime.chunks import check_ratio, lengths_of

Steps = Schedule | Sequence[int] | None
_Place = TypeVar("_Place", int, tuple[int, int])


def starts(video: int, frames: int, count: int) -> list[int]:
    """First frames of ``count`` clips at even distances, from the first frame to the last.

    A single clip is the one at the centre. There are fewer where the video has no more: no two
    clips are the same.
    """
    spare = video - frames
    if count == 1:
        return [spare // 2]
    gaps = count - 1
    return _distinct([(2 * i * spare + gaps) // (2 * gaps) for i in range(count)])


def corners(height: int, width: int, side: int, count: int) -> list[tuple[int, int]]:
    """Top and left of the centre crop, or of three crops along the longer side, in pixels.

    There are fewer where that side has no room: no two crops are the same.
    """
    top, left = (height - side) // 2, (width - side) // 2
    if count == 1:
        return [(top, left)]
    if width >= height:
        return _distinct([(top, 0), (top, left), (top, width - side)])
    return _distinct([(0, left), (top, left), (height - side, left)])


def _distinct(items: list[_Place]) -> list[_Place]:
    return list(dict.fromkeys(items))


def read_video(spec: ClipSpec, video: tuple[Any, ...]) -> list[Any]:
    """Leaves of a video given as a clip is: tensors, lists, or one dict of keyword arguments.

    Raises:
        ClipError: when it is not built like the example, or its paths don't have the example's
            lengths to one another.
    """
    leaves = _flat(spec, video)
    check_ratio(spec.ratio, lengths_of(spec, leaves))
    return leaves


def _flat(spec: ClipSpec, video: tuple[Any, ...]) -> list[Any]:
    if len(video) == 1 and isinstance(video[0], dict):
        # A model may also take a dict as its first argument.
        leaves, found = pytree.tree_flatten(((), video[0]))
        if found == spec.spec:
            return leaves
    return spec.flatten(video, {})


@dataclass(frozen=True)
class Views:
    """How a video is looked at: ``temporal`` clips, of each ``spatial`` crops.

    Attributes:
        temporal: number of clips.
        spatial: 1 (the centre) or 3 (left, centre, right; top, centre, bottom of tall frames).
        crop: side of a crop in pixels; None: the frame's shorter side; with spatial=1, no crop.

    Raises:
        OptionError: for numbers that make no sense.
    """

    temporal: int = 1
    spatial: int = 1
    crop: int | None = None

    def __post_init__(self) -> None:
        whole("temporal", self.temporal)
        if isinstance(self.spatial, bool) or self.spatial not in (1, 3):
            raise OptionError(
                f"spatial: expected 1 (the centre) or 3 (crops along the longer side), got "
                f"{self.spatial!r}"
            )
        if self.crop is not None:
            whole("crop", self.crop)

    def cut(self, spec: ClipSpec, leaves: Sequence[Any], frames: int) -> list[list[Any]]:
        """Leaves of each view, clip after clip and crop after crop; views of the video's memory.

        No two views are the same: there are fewer than ``temporal`` × ``spatial`` where the video
        has no room for more (one crop of a square frame that is as large as the crop), and a
        warning says so.

        Args:
            frames: of a clip, in the input path with the fewest; the others are cut at the same
                moments. Tensors without time are handed on as they are.

        Raises:
            ClipError: when a crop doesn't fit.
        """
        video = frames_of(spec, leaves)
        if frames == video:
            clips = [list(leaves)]
        else:
            clips = [_clip(spec, leaves, s, frames) for s in starts(video, frames, self.temporal)]
        boxes = self._boxes(spec, leaves)
        fewer = []
        if len(clips) < self.temporal:
            fewer.append(
                f"temporal={self.temporal}, but a video of {counted(video, 'frame')} has "
                f"{_many(len(clips), 'clip')} of {frames}"
            )
        if len(boxes) < self.spatial:
            height, width = _space(spec, leaves)
            side = min(height, width) if self.crop is None else self.crop
            fewer.append(
                f"spatial={self.spatial}, but frames of {height} × {width} have "
                f"{_many(len(boxes), 'crop')} of {side}"
                " pixels along their longer side (scale the shorter side to the crop and keep the "
                "longer one, as pgt_fx.video.read does without crop=)"
            )
        if fewer:
            warnings.warn(
                f"{'; '.join(fewer)}: {len(clips) * len(boxes)} of {self.temporal * self.spatial} "
                "views differ, and these are run and counted",
                stacklevel=3,
            )
        return [clip if box is None else _crop(spec, clip, *box) for clip in clips for box in boxes]

    def _boxes(self, spec: ClipSpec, leaves: Sequence[Any]) -> list[tuple[int, int, int] | None]:
        if self.spatial == 1 and self.crop is None:
            return [None]
        height, width = _space(spec, leaves)
        side = min(height, width) if self.crop is None else self.crop
        if side > min(height, width):
            raise ClipError(
                f"crop={side}: the frames are {height} × {width}; expected at most "
                f"{min(height, width)}, the shorter side; use a smaller crop, or larger frames"
            )
        return [(top, left, side) for top, left in corners(height, width, side, self.spatial)]


def whole(name: str, value: object) -> None:
    """A whole number of at least one.

    Raises:
        OptionError: for anything else.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise OptionError(f"{name}: expected a whole number of at least 1, got {value!r}")


def _many(count: int, what: str) -> str:
    return f"{count} different {what}s" if count > 1 else f"a single {what}"


def repeated(spec: ClipSpec, leaves: Sequence[Any], frames: int) -> list[Any]:
    """Leaves of a video of ``frames`` frames in the path with the fewest: its last are repeated."""
    out = list(leaves)
    for i, r in zip(spec.paths, spec.ratio, strict=True):
        out[i] = lengthened(leaves[i], frames * r, spec.times[i] or 0)
    return out


def frames_of(spec: ClipSpec, leaves: Sequence[Any]) -> int:
    """Frames of a video in the path with the fewest, as far as all paths go."""
    return min(n // r for n, r in zip(_lengths(spec, leaves), spec.ratio, strict=True))


def clip_frames(
    view: str,
    schedule: Steps,
    temporal: int,
    frames: int | None,
    spec: ClipSpec,
    video: int,
    short: str,
) -> int:
    """Frames of each clip, of a video of ``video`` frames, in the path with the fewest.

    Args:
        as of :func:`pgt_fx.inference.predict`.

    Raises:
        OptionError: when the length of a clip is not said, or some of it would not be shown.
        ClipError: when the video is shorter, under ``short="refuse"``.
    """
    needed = _needed(schedule, video)
    if frames is None:
        what = f"schedule={schedule}" if needed is not None else "the example"
        if isinstance(schedule, Schedule) and needed is not None:
            frames = needed
        elif temporal == 1:
            return video
        elif view == "original":
            frames = min(spec.lengths)
        elif needed is not None:
            frames = needed
        else:
            raise OptionError(
                f"temporal={temporal}: how long is a clip? Expected frames=, or a schedule with a "
                f"number of steps, got schedule={schedule}"
            )
    else:
        what = f"frames={frames}"
        if needed is not None and frames > needed:
            raise OptionError(
                f"frames={frames}: schedule={schedule} shows {needed} of them; leave frames out, "
                "or use more steps"
            )
    if frames > video:
        said = f"the video has {counted(video, 'frame')}, but {what} needs {frames}"
        if short == "refuse":
            raise ClipError(f"{said}; use a longer video, or fewer frames, or short='repeat'")
        warnings.warn(f"{said}: its last frame is repeated", stacklevel=3)
    return frames


def _needed(schedule: Steps, video: int) -> int | None:
    """Frames that a schedule shows; None when it shows whatever there is."""
    if schedule is None:
        return None
    if not isinstance(schedule, Schedule):
        return sum(schedule)
    if schedule.steps is None:
        return None
    # The last step of a ragged one may be shorter, at least one frame long.
    least = schedule.frames - (schedule.length - schedule.overlap - 1) * schedule.ragged
    return max(least, min(schedule.frames, video))


def _lengths(spec: ClipSpec, leaves: Sequence[Any]) -> list[int]:
    return [int(leaves[i].shape[spec.times[i] or 0]) for i in spec.paths]


def _clip(spec: ClipSpec, leaves: Sequence[Any], start: int, frames: int) -> list[Any]:
    out = list(leaves)
    for i, r in zip(spec.paths, spec.ratio, strict=True):
        out[i] = leaves[i].narrow(spec.times[i] or 0, start * r, frames * r)
    return [x.behind(start) if isinstance(x, OverTime) else x for x in out]


def _space(spec: ClipSpec, leaves: Sequence[Any]) -> tuple[int, int]:
    """Height and width of the frames, the same in all paths; the last two dimensions of five."""
    sizes = set()
    for i in spec.paths:
        shape = tuple(leaves[i].shape)
        if len(shape) != 5 or spec.times[i] not in (1, 2):
            raise ClipError(
                f"a crop needs videos (N, C, T, H, W) or (N, T, C, H, W), got {shape} with time "
                f"in dimension {spec.times[i]}; use spatial=1 and crop=None"
            )
        sizes.add((shape[3], shape[4]))
    if len(sizes) > 1:
        raise ClipError(
            f"a crop needs frames of one size in all input paths, got "
            f"{' and '.join(f'{h} × {w}' for h, w in sorted(sizes))}; use spatial=1 and crop=None"
        )
    return sizes.pop()


def _crop(spec: ClipSpec, clip: Sequence[Any], top: int, left: int, side: int) -> list[Any]:
    out = list(clip)
    for i in spec.paths:
        out[i] = clip[i][..., top : top + side, left : left + side]
    return out
