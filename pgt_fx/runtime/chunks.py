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
) -> list[Piece]:
    """See :meth:`pgt_fx.Progressive.chunks`."""
    leaves = spec.flatten(video, named)
    frames, ratio = lengths_of(spec, leaves), spec.ratio
    check_ratio(ratio, frames)
    base = ratio.index(1)
    if schedule is None:
        schedule = Schedule(length=max(2, min(spec.lengths)))
    if isinstance(schedule, Schedule):
        lengths = schedule.chunks(frames[base])
    else:
        lengths = check_lengths("schedule", schedule)
        if sum(lengths) != frames[base] or min(lengths, default=0) < 1:
            raise ClipError(
                f"chunks {lengths} don't make up the video's {counted(frames[base], 'frame')}"
            )
    leaves = [x.cut(lengths) if isinstance(x, OverTime) else x for x in leaves]
    for leaf in leaves:
        if isinstance(leaf, PerStep) and len(leaf) != len(lengths):
            raise ClipError(
                f"PerStep: expected one value per step, {len(lengths)} for this video and "
                f"schedule, got {len(leaf)}"
            )
    pieces, start = [], 0
    for number, n in enumerate(lengths):
        piece = [x.targets[number] if isinstance(x, PerStep) else x for x in leaves]
        for path, leaf in enumerate(spec.paths):
            time, each = spec.times[leaf] or 0, ratio[path]
            piece[leaf] = leaves[leaf].narrow(time, start * each, n * each)
        pieces.append(pytree.tree_unflatten(piece, spec.spec))
        start += n
    return pieces


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
        shape = [-1 if d == time else int(s) for d, s in enumerate(leaf.shape)]
        fixed = fixed_sizes.get(path, {})
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


def _sizes(flat: Sequence[int]) -> str:
    return "(" + ", ".join("T" if n == -1 else str(n) for n in flat) + ")"
