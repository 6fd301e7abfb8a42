"""How a video is cut into progressive steps. Pure functions of integers."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from operator import index
from typing import Any, Literal

from pgt_fx.core.counts import counted
from pgt_fx.core.errors import ClipError, OptionError


@dataclass(frozen=True)
class PerStep:
    """One value for each step of a schedule: labels, as for Charades and AVA, or an input without
    time, such as the boxes of a detection model.

    Attributes:
        targets: one per step; ``targets[p]`` goes with step p.
    """

    targets: Sequence[Any]

    def __len__(self) -> int:
        return len(self.targets)


@dataclass(frozen=True)
class OverTime:
    """A value for each step, made from the frames that the step covers: labels, or an input
    without time, such as boxes. For schedules whose steps aren't known beforehand, as those that a
    :class:`DPR` draws; :class:`PerStep` has a fixed number of values.

    Example: boxes and labels of AVA, which are annotated at some frames of a video::

        seen = {12: (boxes, labels), 30: (boxes, labels)}  # by frame

        def boxes_of(start: int, stop: int) -> Tensor:
            here = [boxes for frame, (boxes, _) in seen.items() if start <= frame < stop]
            return torch.cat(here) if here else torch.zeros(0, 5)

        backward(prog, (video, OverTime(boxes_of)), loss_fn, OverTime(labels_of), schedule=drawn)

    Attributes:
        at: ``at(start, stop)`` gives the value of the step whose new frames are ``start`` …
            ``stop - 1`` of the video (of the path with the fewest; a frame that a step shares with
            the one before is the earlier one's). The steps cover each frame once. It may be asked
            for a step more than once, and is to give the same again.

    Raises:
        OptionError: when ``at`` can't be called.
    """

    at: Callable[[int, int], Any]

    def __post_init__(self) -> None:
        if not callable(self.at):
            raise OptionError(
                "OverTime: expected a function of the first frame of a step and the one after its "
                f"last, got {self.at!r}; values that are one for each step are a PerStep"
            )

    def cut(self, lengths: Iterable[int]) -> PerStep:
        """The values for steps of so many frames."""
        values, start = [], 0
        for length in lengths:
            values.append(self.at(start, start + length))
            start += length
        return PerStep(values)

    def behind(self, frames: int) -> OverTime:
        """The same, of a video that begins so many frames later."""
        return OverTime(lambda start, stop: self.at(start + frames, stop + frames))


@dataclass(frozen=True)
class Schedule:
    """P steps of T' frames, each beginning with the ``overlap`` last frames of the one before.

    With the carried context those frames are not fed again, so that the chunks are T', T'-1,
    T'-1 … and the video has T = (T'-1)*P + 1 frames (PGT paper, section 3.1).

    Attributes:
        length: T', frames seen by a step.
        steps: P, or None for as many as the video has.
        overlap: frames shared by successive steps.
        ragged: let the last step be shorter where the video has too few frames for it, as long
            as it has one of its own: :class:`DPR` rounds P, and the video keeps its length.

    Raises:
        OptionError: when a figure makes no sense.
    """

    length: int = 8
    steps: int | None = None
    overlap: int = 1
    ragged: bool = False

    def __post_init__(self) -> None:
        _whole("length", self.length, 1)
        if self.steps is not None:
            _whole("steps", self.steps, 1)
        if not isinstance(self.overlap, int) or not 0 <= self.overlap < self.length:
            raise OptionError(
                f"overlap: expected 0 … length - 1 = {self.length - 1}, got {self.overlap!r}"
            )

    @property
    def frames(self) -> int:
        """T, frames of a video that the schedule fills: (T' - overlap)*P + overlap.

        Raises:
            OptionError: when the number of steps is left to the video.
        """
        if self.steps is None:
            raise OptionError(f"{self} has no number of frames: its steps depend on the video")
        return self._stride * self.steps + self.overlap

    @property
    def _stride(self) -> int:
        return self.length - self.overlap

    def __iter__(self) -> Iterator[int]:
        """Lengths of the chunks: 8, 7, 7, 7, 7 for five steps of eight frames."""
        return iter(self.chunks())

    def chunks(self, frames: int | None = None) -> list[int]:
        """Lengths of the chunks for a video of ``frames`` frames (None: as long as the schedule).

        Without a number of steps a remainder makes a shorter last chunk; with one, frames after
        the last step are left out.

        Raises:
            ClipError: when the video is shorter than the schedule.
        """
        if frames is None:
            return [self.length] + [self._stride] * ((self.steps or 1) - 1)
        if frames < 1:
            raise ClipError(f"a video of at least 1 frame was expected, got {frames}")
        if self.steps is not None:
            least = self.frames if not self.ragged else self.frames - self._stride + 1
            if frames < least:
                raise ClipError(
                    f"{self} needs a video of {counted(least, 'frame')}, got {frames}; use fewer "
                    "or shorter "
                    "steps, or steps=None"
                )
            frames = min(frames, self.frames)
        out = [min(self.length, frames)]
        while sum(out) < frames:
            out.append(min(self._stride, frames - sum(out)))
        return out


Kind = Literal["A", "B"]
Order = Literal["random", "cycle"]

#: The paper's two ranges of lengths, as multiples of T' (section 3.3).
_RANGES: dict[Kind, tuple[Fraction, Fraction, Fraction]] = {
    "A": (Fraction(3, 4), Fraction(1), Fraction(5, 4)),
    "B": (Fraction(1, 2), Fraction(3, 4), Fraction(1)),
}


@dataclass(frozen=True)
class DPR:
    """Dynamic progressive regularization: a schedule drawn anew for each iteration.

    T' is drawn from {0.75, 1, 1.25}·T'_b (A) or {0.5, 0.75, 1}·T'_b (B), and P is set to
    round((T_b - 1)/(T' - 1)), so that about as many frames are seen (PGT paper, section 3.3).

    Attributes:
        kind: "A" or "B".
        length, steps, overlap: T'_b, P_b and the overlap of the base schedule.
        seed: a draw is a pure function of the seed and of its number, so that it is the same on
            every rank and after a restart.
        order: "random" draws one of the lengths for each number (the paper); "cycle" takes them
            in turn, from the longest down, as the authors' code does per epoch.
        epochs: with "cycle" the numbers of draws in all: the last is then the base schedule.
        lengths: other lengths than those of ``kind``.

    Raises:
        OptionError: when a figure makes no sense.
    """

    kind: Kind = "B"
    length: int = 8
    steps: int = 5
    overlap: int = 1
    seed: int = 0
    order: Order = "random"
    epochs: int | None = None
    lengths: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in _RANGES:
            raise OptionError(f"kind: expected 'A' or 'B', got {self.kind!r}")
        if self.order not in ("random", "cycle"):
            raise OptionError(f"order: expected 'random' or 'cycle', got {self.order!r}")
        if self.epochs is not None:
            _whole("epochs", self.epochs, 1)
        _whole("steps", self.steps, 1)
        base = self.base
        if not self.lengths:
            drawn = tuple(_round(f * base.length) for f in _RANGES[self.kind])
            object.__setattr__(self, "lengths", drawn)
        for n in self.lengths:
            if not isinstance(n, int) or n <= self.overlap:
                raise OptionError(
                    f"lengths: expected whole numbers above overlap={self.overlap}, got "
                    f"{self.lengths}; use a longer base than length={self.length}"
                )

    @property
    def base(self) -> Schedule:
        """The schedule about which is drawn; also the one for validation."""
        return Schedule(self.length, self.steps, self.overlap)

    @property
    def frames(self) -> int:
        """Frames of the video that each draw cuts: those of the base schedule."""
        return self.base.frames

    @property
    def schedules(self) -> tuple[Schedule, ...]:
        """All schedules that may be drawn."""
        return tuple(self._schedule(n) for n in self.lengths)

    def draw(self, index: int) -> Schedule:
        """The schedule of iteration (order "random") or epoch (order "cycle") ``index``.

        Raises:
            OptionError: for a negative index.
        """
        if index < 0:
            raise OptionError(f"index: expected 0 or more, got {index}")
        if self.order == "random":
            # A string seeds the generator through its hash, alike on all machines.
            return self._schedule(random.Random(f"{self.seed}/{index}").choice(self.lengths))
        longest_first = sorted(set(self.lengths) | {self.length}, reverse=True)
        at = longest_first.index(self.length)
        shift = 0 if self.epochs is None else at - (self.epochs - 1)
        return self._schedule(longest_first[(index + shift) % len(longest_first)])

    def _schedule(self, length: int) -> Schedule:
        stride = length - self.overlap
        steps = max(1, _round(Fraction(self.frames - self.overlap, stride)))
        return Schedule(length, steps, self.overlap, ragged=True)


def check_lengths(name: str, given: object) -> list[int]:
    """Lengths of steps from a :class:`Schedule` without regard to a video, or a list of them.

    Raises:
        OptionError: for anything else.
    """
    if isinstance(given, DPR):
        raise OptionError(
            f"{name}: expected a Schedule or lengths of steps, got {given}, which draws them; "
            "use its .base for testing, or its .draw(number)"
        )
    if isinstance(given, str | bytes) or not isinstance(given, Iterable):
        raise OptionError(
            f"{name}: expected a Schedule or a list of lengths of steps, got {given!r}"
        )
    return [_length(name, n) for n in given]


def _length(name: str, value: Any) -> int:
    try:
        if not isinstance(value, bool):
            return index(value)  # NumPy's integers and torch's, too
    except TypeError:
        pass
    raise OptionError(f"{name}: expected whole numbers of frames, got {value!r}")


def _round(x: Fraction) -> int:
    """To the nearest, a half upwards (Python's ``round`` goes to the even one)."""
    return int(x + Fraction(1, 2))


def _whole(name: str, value: object, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise OptionError(f"{name}: expected a whole number of at least {least}, got {value!r}")
