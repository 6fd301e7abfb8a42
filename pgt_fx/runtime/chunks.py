"""Videos cut into chunks, and chunks checked against the example and the video so far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from pgt_fx.core.clip import ClipSpec
from pgt_fx.core.counts import counted
from pgt_fx.core.errors import ClipError, OtherClipError, StateError
from pgt_fx.core.schedule import OverTime, PerStep, Schedule, check_lengths
from pgt_fx.core.torch_private import pytree

#: Entries of a state that say how far the video has come.
CLOCK = ("clock.frames", "clock.sizes", "clock.ended")
Piece = tuple[tuple[Any, ...], dict[str, Any]]


def lengths_of(spec: ClipSpec, leaves: Sequence[Any]) -> tuple[int, ...]:
    """Frames of each input path.

    Raises:
        ClipError: for a path of another number of dimensions than the example's.
    """
    for number, i in enumerate(spec.paths):
        leaf, expected = leaves[i], spec.shapes[i] or ()
        if not isinstance(leaf, Tensor) or leaf.dim() != len(expected):
            got = tuple(leaf.shape) if isinstance(leaf, Tensor) else type(leaf).__name__
            raise ClipError(
                f"input {number}: expected a tensor of {len(expected)} dimensions like the "
                f"example's {expected} (time is dimension {spec.times[i]}), got {got}"
            )
    return tuple(int(leaves[i].shape[spec.times[i] or 0]) for i in spec.paths)


def sizes_of(spec: ClipSpec, leaves: Sequence[Any]) -> tuple[int, ...]:
    """The sizes of the input paths, one after the other; -1 for their time."""
    return tuple(
        -1 if d == spec.times[i] else int(s)
        for i in spec.paths
        for d, s in enumerate(leaves[i].shape)
    )


def check_ratio(ratio: Sequence[int], frames: Sequence[int]) -> None:
    """The paths of a whole video show the same moments: each has as many frames for one of the
    path with the fewest as in the example. Single chunks may be uneven, as long as the video ends
    so.

    Args:
        ratio: frames of each path for one of that path, of the example.
        frames: of each path, of the whole video.

    Raises:
        ClipError: when they have others, or none.
    """
    if not any(frames):
        raise ClipError("the video has 0 frames; expected at least one")
    shared = max(1, min(n // r for n, r in zip(frames, ratio, strict=True)))
    expected = [shared * r for r in ratio]
    if list(frames) != expected:
        raise ClipError(
            f"the video's paths have {_and(frames)} frames; expected {_and(ratio)} to one another, "
            f"as in the example, so that they show the same moments: {_and(expected)}; cut the "
            "longer one"
        )


def _and(numbers: Sequence[int]) -> str:
    return " and ".join(map(str, numbers))


def cut(
    spec: ClipSpec,
    video: tuple[Any, ...],
    named: dict[str, Any],
    schedule: Schedule | Sequence[int] | None,
    clip: int | None = None,
) -> list[Piece]:
    """See :meth:`pgt_fx.Progressive.chunks`.

    Args:
        clip: frames of a step, of the path with the fewest, where a step is a clip.
    """
    leaves = spec.flatten(video, named)
    frames, ratio = lengths_of(spec, leaves), spec.ratio
    check_ratio(ratio, frames)
    base = ratio.index(1)
    if clip is not None:
        starts, lengths = _clips(schedule, frames[base], clip)
    else:
        lengths = _lengths_of(schedule, frames[base], min(spec.lengths))
        starts = [sum(lengths[:n]) for n in range(len(lengths))]
    new = new_frames(lengths, schedule)
    leaves = [x.cut(new) if isinstance(x, OverTime) else x for x in leaves]
    for leaf in leaves:
        if isinstance(leaf, PerStep) and len(leaf) != len(lengths):
            raise ClipError(
                f"PerStep: expected one value per step, {len(lengths)} for this video and "
                f"schedule, got {len(leaf)}"
            )
    pieces = []
    for number, (start, n) in enumerate(zip(starts, lengths, strict=True)):
        piece = [x.targets[number] if isinstance(x, PerStep) else x for x in leaves]
        for path, leaf in enumerate(spec.paths):
            time, each = spec.times[leaf] or 0, ratio[path]
            piece[leaf] = leaves[leaf].narrow(time, start * each, n * each)
        pieces.append(pytree.tree_unflatten(piece, spec.spec))
    return pieces


def new_frames(lengths: Sequence[int], schedule: Schedule | Sequence[int] | None) -> list[int]:
    """Frames of each step that the one before did not have."""
    whole = isinstance(schedule, Schedule) and set(lengths) == {schedule.length}
    shared = schedule.overlap if isinstance(schedule, Schedule) and whole else 0
    return [n - shared if number else n for number, n in enumerate(lengths)]


def _lengths_of(schedule: Schedule | Sequence[int] | None, frames: int, clip: int) -> list[int]:
    """Frames of each step of a video of so many."""
    if schedule is None:
        schedule = Schedule(length=max(2, clip))
    if isinstance(schedule, Schedule):
        return schedule.chunks(frames)
    lengths = check_lengths("schedule", schedule)
    if sum(lengths) != frames or min(lengths, default=0) < 1:
        raise ClipError(f"chunks {lengths} don't make up the video's {counted(frames, 'frame')}")
    return lengths


def _clips(
    schedule: Schedule | Sequence[int] | None, frames: int, clip: int
) -> tuple[list[int], list[int]]:
    """First frame and length of each step, where a step is a clip: frames that successive steps of
    a schedule share are fed to both.

    Raises:
        ClipError: for steps of another length, and a video that leaves frames over.
    """
    words = f"a step of this model is a clip of {counted(clip, 'frame')}"
    if schedule is None:
        schedule = Schedule(clip, overlap=0)
    if isinstance(schedule, Schedule):
        if schedule.length != clip:
            raise ClipError(f"{words}, and {schedule} has steps of {schedule.length}")
        each = clip - schedule.overlap
        if frames < clip:
            raise ClipError(f"{words}, and the video has {counted(frames, 'frame')}")
        count, rest = 1 + (frames - clip) // each, (frames - clip) % each
        if schedule.steps is not None:
            if count < schedule.steps:
                raise ClipError(f"{words}: {schedule} needs more than {counted(frames, 'frame')}")
            count, rest = schedule.steps, 0
        if rest:
            raise ClipError(
                f"{words}, and the video's {counted(frames, 'frame')} leave {rest} over: cut it to "
                f"{frames - rest}, or let clips share frames, Schedule({clip}, overlap=…)"
            )
        return [n * each for n in range(count)], [clip] * count
    lengths = _lengths_of(schedule, frames, clip)
    wrong = next((n for n in lengths if n != clip), None)
    if wrong is not None:
        raise ClipError(f"{words}, and chunks {lengths} have one of {wrong}")
    return [n * clip for n in range(len(lengths))], lengths


Moment = tuple[tuple[int, ...], tuple[int, ...], list[int]]


def moment(
    spec: ClipSpec,
    fixed_sizes: Mapping[int, Mapping[int, int]],
    state: Mapping[str, Tensor],
    leaves: Sequence[Any],
    last: bool = False,
) -> Moment:
    """Frames before and after a step, and the sizes that must stay the same in a video.

    Args:
        fixed_sizes: per input path the dimensions whose size the model fixes.
        last: whether the video ends with the step: then it may bring no frames.

    Raises:
        ClipError: for a chunk unlike the example, or unlike the video so far.
        OtherClipError: where it differs from the example in a size that the model fixes.
        StateError: for a state without a clock, or what is none; at the end of a video without
            frames.
    """
    new: list[int] = []
    sizes: list[int] = []
    for leaf, time in zip(leaves, spec.times, strict=True):
        if isinstance(leaf, PerStep | OverTime):
            kind = type(leaf).__name__
            raise ClipError(f"a step takes its own value; {kind} is for run() and for training")
        if time is None:
            continue
        path, expected = len(new), spec.shapes[spec.paths[len(new)]] or ()
        which = f"input {path}: " if len(spec.paths) > 1 else ""
        if not isinstance(leaf, Tensor) or leaf.dim() != len(expected):
            got = tuple(leaf.shape) if isinstance(leaf, Tensor) else type(leaf).__name__
            raise ClipError(
                f"{which}expected a tensor of {len(expected)} dimensions like the example's "
                f"{expected} (time is dimension {time}), got {got}"
            )
        fixed = fixed_sizes.get(path, {})
        clip = fixed.get(time)  # frames of a step, where a step is a clip
        frames = -1 if clip is None else int(leaf.shape[time]) or (clip if last else 0)
        shape = [frames if d == time else int(s) for d, s in enumerate(leaf.shape)]
        if clip is not None and frames not in (clip, 0):
            other = _goes_on_with(state, len(sizes) + time) in (None, frames)
            raise (OtherClipError if other else ClipError)(
                f"{which}a step of this model is a clip of {counted(clip, 'frame')}, and "
                f"{counted(frames, 'frame')} were fed, {tuple(leaf.shape)}"
            )
        wrong = [d for d, s in fixed.items() if shape[d] not in (s, -1)]
        if wrong:
            raise OtherClipError(
                f"{which}expected size {fixed[wrong[0]]} in dimension {wrong[0]}, as the model "
                f"takes it, got {tuple(leaf.shape)}"
            )
        if leaf.shape[time] == 0 and not last:
            raise ClipError(
                f"{which}an empty chunk, {tuple(leaf.shape)}: expected at least one frame "
                f"(time is dimension {time}); only the end of a video may bring none (last=True)"
            )
        new.append(int(leaf.shape[time]))
        sizes += shape
    if not isinstance(state, Mapping):
        raise StateError(
            f"a state is a dictionary of named tensors, got {type(state).__name__}; start with "
            "init_state(), or call reset() for the one kept inside"
        )
    if state:
        lacking = [name for name in CLOCK if not isinstance(state.get(name), Tensor)]
        if lacking:
            raise StateError(
                f"the state has no clock: no tensor {lacking[0]!r}, which says how far the video "
                "has come; go on with the state that the last step returned, or start with "
                "init_state()"
            )
        before = tuple(int(n) for n in state["clock.frames"].tolist())
        if len(before) != len(new):
            raise StateError(
                f"the state is of {len(before)} input paths, and this model has {len(new)}: it is "
                "another model's; start with init_state()"
            )
        seen = [int(n) for n in state["clock.sizes"].tolist()]
        if seen and seen != sizes:
            raise ClipError(
                f"a chunk of another size within one video: so far {_sizes(seen)}, now "
                f"{_sizes(sizes)} (time shown as T); call reset() before another video"
            )
    else:
        before = (0,) * len(new)
    if 0 in new and any(new):
        raise ClipError(
            f"a chunk of {' and '.join(map(str, new))} frames: expected some of each input, or none"
        )
    if 0 in new and not any(before):
        raise StateError("a video without frames: there is nothing to flush; feed its frames first")
    return before, tuple(b + n for b, n in zip(before, new, strict=True)), sizes


def _goes_on_with(state: Mapping[str, Tensor], entry: int) -> int | None:
    """Frames of the clips of the video so far, from its sizes; None before the first."""
    sizes = state.get("clock.sizes") if isinstance(state, Mapping) else None
    return None if sizes is None or entry >= len(sizes) else int(sizes[entry])


def _sizes(flat: Sequence[int]) -> str:
    return "(" + ", ".join("T" if n == -1 else str(n) for n in flat) + ")"
