"""Exact time arithmetic: how output elements read input elements, and when they are complete.

Pure integers: no tensors and no torch. Elements of a value are numbered globally from the first
frame of the video, whatever the chunks. A *law* says, for one operator, which input elements an
output element reads; a *clock* says, for one value of the graph, how many of its elements exist
after the model has been shown a number of frames (DESIGN §5).

Two counts describe a value at any moment:

``sure``
    elements that will never change, whatever comes next.
``total``
    elements that have been handed on. Under ``future="zero"`` a padding operator hands on the
    padding that stands behind the last known element before it is known whether a real one
    follows; these provisional elements, ``sure <= i < total``, are handed on again, corrected,
    in the next step. Otherwise ``total == sure``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol


def ceil_div(a: int, b: int) -> int:
    """Quotient rounded up; exact for any sign of ``a``."""
    return -(-a // b)


class Law(Protocol):
    """How the outputs of an operator read the elements of its input along time."""

    @property
    def provisional(self) -> bool:
        """Whether elements made of padding alone are handed on as provisional (pads, slices)."""

    def count(self, n: int) -> int:
        """How many outputs the operator makes of ``n`` elements, padding on both ends."""

    def ready(self, n: int) -> int:
        """How many outputs are the same for every input that begins with these ``n`` elements."""

    def taps(self, j: int) -> Iterable[int]:
        """The input elements that output ``j`` reads; some may lie outside the video."""

    def need(self, j: int) -> int:
        """First input element that an output ``>= j`` reads."""

    def keep(self, j: int, n: int) -> int:
        """First of ``n`` input elements that must be carried when ``j`` outputs are out."""


@dataclass(frozen=True)
class Window:
    """Output j reads inputs ``j*stride - left + t*dilation`` for t in 0 … kernel-1.

    Convolutions, pools, pads (kernel 1), slices (kernel 1, ``left = -start``), unfold.

    Attributes:
        left, right: padding in elements; negative where the operator crops.
        ceil: round the output count up (PyTorch's ``ceil_mode``).
        mode: "constant", "replicate" or "reflect": what stands in the padding.
        limit: the operator makes at most so many outputs (``x[:limit]``).
    """

    kernel: int = 1
    stride: int = 1
    dilation: int = 1
    left: int = 0
    right: int = 0
    ceil: bool = False
    mode: str = "constant"
    limit: int | None = None

    @property
    def span(self) -> int:
        return (self.kernel - 1) * self.dilation + 1

    @property
    def provisional(self) -> bool:
        # A shift (cropped in front, padded behind) answers for good, as any operator does.
        return self.kernel == 1 and not (self.left < 0 < self.right)

    @property
    def identity(self) -> bool:
        """Whether the operator is pointwise in time."""
        return self == Window()

    @property
    def minimum(self) -> int:
        """Fewest elements for which the padding is defined (reflection reads behind itself)."""
        return max(self.left, self.right, 0) + 1 if self.mode == "reflect" else 1

    def count(self, n: int) -> int:
        room = n + self.left + self.right - self.span
        if n < self.minimum:
            return 0
        outs = (ceil_div(room, self.stride) if self.ceil else room // self.stride) + 1
        outs = max(0, outs)
        # PyTorch drops a ceil-mode window that would start behind the input and its left padding.
        if self.ceil and (outs - 1) * self.stride >= n + self.left:
            outs -= 1
        return outs if self.limit is None else min(outs, self.limit)

    def ready(self, n: int) -> int:
        if n < self.minimum:
            return 0
        complete = max(0, (n + self.left - self.span) // self.stride + 1)
        if self.right < 0:
            complete = min(complete, self.count(n))
        return complete if self.limit is None else min(complete, self.limit)

    def taps(self, j: int) -> Iterable[int]:
        first = self.need(j)
        return range(first, first + self.span, self.dilation)

    def need(self, j: int) -> int:
        return j * self.stride - self.left

    def stands_for(self, tap: int, n: int) -> int | None:
        """The one of ``n`` elements that is read at ``tap``; None for a constant."""
        if 0 <= tap < n:
            return tap
        if self.mode == "replicate":
            return 0 if tap < 0 else n - 1
        if self.mode == "reflect":
            return -tap if tap < 0 else 2 * (n - 1) - tap
        return None

    def keep(self, j: int, n: int) -> int:
        if self.limit is not None and j >= self.limit:
            return n
        first = self.need(j)
        if self.mode == "constant":
            # Negative at the start of a video: the padding is carried as elements. A window may
            # lie in the right padding alone: one element stays, to make that padding like.
            return min(first, max(n - 1, 0)) if self.right > 0 else first
        # The right end may yet have to be mirrored from the last real elements.
        history = self.right + 1 if self.mode == "reflect" else 1
        return max(0, min(first, n - history)) if self.right > 0 else max(0, first)


@dataclass(frozen=True)
class Transposed:
    """Transposed convolution: input i adds to outputs ``i*stride - padding + t*dilation``."""

    kernel: int
    stride: int = 1
    dilation: int = 1
    padding: int = 0
    extra: int = 0  # output_padding
    provisional: bool = False

    def count(self, n: int) -> int:
        span = (self.kernel - 1) * self.dilation + 1
        return max(0, (n - 1) * self.stride - 2 * self.padding + span + self.extra) if n else 0

    def ready(self, n: int) -> int:
        return max(0, min(n * self.stride - self.padding, self.count(n)))

    def taps(self, j: int) -> Iterable[int]:
        at = [j + self.padding - t * self.dilation for t in range(self.kernel)]
        return sorted(a // self.stride for a in at if a % self.stride == 0)

    def need(self, j: int) -> int:
        return max(0, ceil_div(j + self.padding - (self.kernel - 1) * self.dilation, self.stride))

    def keep(self, j: int, n: int) -> int:
        # One element at least, so that a last step without new frames still has an operand.
        return max(0, min(self.need(j), n - 1))


@dataclass(frozen=True)
class Repeat:
    """Nearest upsampling by an integer: output j reads input ``j // scale``."""

    scale: int
    provisional: bool = True

    def count(self, n: int) -> int:
        return n * self.scale

    ready = count

    def taps(self, j: int) -> Iterable[int]:
        return (j // self.scale,)

    def need(self, j: int) -> int:
        return j // self.scale

    def keep(self, j: int, n: int) -> int:
        return min(self.need(j), n)


@dataclass(frozen=True)
class Interpolate:
    """Linear upsampling by an integer, ``align_corners=False``: output j stands at
    ``(j + 1/2)/scale - 1/2`` between two input elements, clamped to the video's ends."""

    scale: int
    provisional: bool = False

    def count(self, n: int) -> int:
        return n * self.scale

    def ready(self, n: int) -> int:
        # Complete when the position is at or before the last element.
        return max(0, min(n * self.scale, ((2 * n - 1) * self.scale - 1) // 2 + 1)) if n else 0

    def taps(self, j: int) -> Iterable[int]:
        twice = 2 * j + 1 - self.scale  # position times 2*scale
        if twice <= 0:
            return (0,)
        low, rest = divmod(twice, 2 * self.scale)
        return (low, low + 1) if rest else (low,)

    def need(self, j: int) -> int:
        return min(self.taps(j))

    def keep(self, j: int, n: int) -> int:
        return max(0, min(self.need(j), n - 1))


def context(law: Law, outs: int, n: int) -> tuple[int, int]:
    """Which of ``n`` elements stand as the past before the next step: a half-open range.

    Of the carried elements those that an emitted output has read as its own or its past, and
    those before the next output's own position. The others are carried because their own outputs
    are still due (``future="wait"``), and are no context (DESIGN §7).
    """
    first = max(0, min(law.keep(outs, n), n))
    if outs == 0:
        return first, first
    end = outs // law.scale if isinstance(law, (Repeat, Interpolate)) else 0
    if isinstance(law, Transposed):
        end = outs // law.stride
    if isinstance(law, Window):
        read = (outs - 1) * law.stride - law.left + law.span - max(law.right, 0)
        end = max(outs * law.stride, read)
    return first, max(first, min(end, n))


def recalls(law: Law) -> bool:
    """Whether an operator has a context (:func:`context`) at some phase of its stride."""
    stride, first = 1, 2
    if isinstance(law, Window):  # from some moment on all repeats with the stride
        stride = law.stride
        first = law.span + abs(law.left) + abs(law.right) + law.minimum + stride
        if law.limit is not None:
            first = min(first, law.limit * stride - law.left)
    moments = range(first, first + stride)
    return any(end > first for n in moments for first, end in [context(law, law.count(n), n)])


@dataclass(frozen=True)
class Count:
    """How far a value has come: see the module's docstring for ``sure`` and ``total``."""

    sure: int
    total: int


class Clock:
    """The counts of one value as a function of the frames shown, per input path.

    Clocks are pure functions of (frames per path, last): the way the video was cut before does
    not matter. ``future`` is "wait" or "zero" (DESIGN §3).

    Attributes:
        firm: there are never provisional elements.
        dense: any number of elements may be there: none makes several of one.
    """

    def __init__(self, future: str, paths: frozenset[int], stride: int, warm_up: int) -> None:
        self.future, self.paths = future, paths
        self.stride, self.warm_up = stride, warm_up
        self.firm, self.dense = future == "wait", True
        self.followed: tuple[Clock, ...] | None = None  # see pgt_fx.core.clock_equality
        self._memo: dict[tuple[tuple[int, ...], bool], Count] = {}

    def at(self, frames: tuple[int, ...], last: bool) -> Count:
        """Counts after ``frames`` frames per input path; ``last``: no more will come."""
        key = (frames, last)
        if key not in self._memo:
            if len(self._memo) >= 512:  # a stream has no end; the memo must have one
                self._memo.clear()
            self._memo[key] = self._at(frames, last)
        return self._memo[key]

    def _at(self, frames: tuple[int, ...], last: bool) -> Count:
        raise NotImplementedError


class InputClock(Clock):
    """The frames of input path ``path`` themselves."""

    def __init__(self, future: str, path: int) -> None:
        super().__init__(future, frozenset({path}), 1, 0)
        self.path, self.firm = path, True

    def _at(self, frames: tuple[int, ...], last: bool) -> Count:
        return Count(frames[self.path], frames[self.path])


class LawClock(Clock):
    """The outputs of an operator with ``law`` on a value with clock ``source``."""

    def __init__(self, law: Law, source: Clock) -> None:
        reads = range(0)
        if isinstance(law, Window):
            reads = range(law.span + abs(law.left) + abs(law.right) + (law.limit or 0) * law.stride)
        elif isinstance(law, Transposed):
            reads = range(law.kernel * law.dilation + law.padding + law.extra)
        step = law.stride if isinstance(law, Window) else 1
        warm_up = source.warm_up + source.stride * (len(reads) + 2)
        super().__init__(source.future, source.paths, source.stride * step, warm_up)
        self.law, self.source = law, source
        self.firm = self.firm or not law.provisional
        self.dense = isinstance(law, Window) and source.dense

    def _at(self, frames: tuple[int, ...], last: bool) -> Count:
        seen = self.source.at(frames, last)
        if last:
            return Count(*[self.law.count(seen.total)] * 2)
        if self.future == "wait":
            return Count(*[self.law.ready(seen.sure)] * 2)
        total = self.law.count(seen.total)
        sure = min(total, self.law.ready(seen.sure)) if self.law.provisional else total
        return Count(sure, total)


class JoinClock(Clock):
    """Several values taken element by element: the common prefix is emitted (DESIGN §5).

    With one source, or ``commit``, provisional elements count as emitted for good: that is what
    the output of the model and a reduction over time do with them.
    """

    def __init__(self, sources: tuple[Clock, ...], *, commit: bool = False) -> None:
        super().__init__(
            sources[0].future,
            frozenset().union(*(s.paths for s in sources)),
            math.lcm(*(s.stride for s in sources)),
            max(s.warm_up for s in sources),
        )
        self.sources, self.commit = sources, commit
        self.firm = self.firm or commit or all(s.firm for s in sources)
        self.dense = all(s.dense for s in sources)

    def _at(self, frames: tuple[int, ...], last: bool) -> Count:
        counts = [source.at(frames, last) for source in self.sources]
        total = min(c.total for c in counts)
        sure = total if self.commit else min(total, max(c.sure for c in counts))
        return Count(sure, total)


@dataclass(frozen=True)
class Part:
    """One of several values put one after the other along time.

    Attributes:
        clock: of its elements; None: they are all there from the start (a constant).
        length: how many there are; None for the last one, which goes on.
        first: it is the first element alone of the value whose clock that is.
    """

    clock: Clock | None
    length: int | None = None
    first: bool = False

    def at(self, frames: tuple[int, ...], last: bool) -> Count:
        if self.clock is None:  # there from the first step on
            return Count(*[self.length or 0 if any(frames) else 0] * 2)
        seen = self.clock.at(frames, last)
        return Count(min(seen.sure, 1), min(seen.total, 1)) if self.first else seen


class ConcatClock(Clock):
    """Values one after the other along time: parts of known length, then a stream (DESIGN §9).

    A part's elements are handed on when all of the parts before it are.
    """

    def __init__(self, parts: tuple[Part, ...]) -> None:
        clocks = [part.clock for part in parts if part.clock is not None]
        super().__init__(
            clocks[0].future,
            frozenset().union(*(c.paths for c in clocks)),
            math.lcm(*(c.stride for c in clocks)),
            max(c.warm_up for c in clocks),
        )
        self.parts, self.sources, self.dense = parts, tuple(clocks), False

    def parts_at(self, frames: tuple[int, ...], last: bool) -> list[Count]:
        """How many elements of each part have been handed on."""
        out: list[Count] = []
        sure = total = True  # whether the parts before are complete
        for part in self.parts:
            seen = part.at(frames, last)
            out.append(Count(seen.sure if sure else 0, seen.total if total else 0))
            if part.length is not None and not last:
                sure = sure and seen.sure >= part.length
                total = total and seen.total >= part.length
        return out

    def _at(self, frames: tuple[int, ...], last: bool) -> Count:
        counts = self.parts_at(frames, last)
        return Count(sum(c.sure for c in counts), sum(c.total for c in counts))
