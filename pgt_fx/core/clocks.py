"""Clocks: how many elements of each value exist after the model has been shown some frames.

Pure integers: no tensors and no torch. A clock counts the elements of one value of the graph, by
the laws (:mod:`pgt_fx.core.law`) of the operators that it comes from (DESIGN §5).

Two counts describe a value at any moment:

``sure``
    elements that will never change, whatever comes next.
``total``
    elements that have been handed on. Under ``future="zero"`` a padding operator hands on the
    padding that stands after the last known element before it is known whether a real one
    follows; these provisional elements, ``sure <= i < total``, are handed on again, corrected,
    in the next step. Otherwise ``total == sure``.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import reduce
from typing import NamedTuple, TypeVar

from pgt_fx.core.law import Law
from pgt_fx.core.lengths.functions import QuasiLinear, constant, frames
from pgt_fx.core.lengths.questions import at_most, larger, smaller, where
from pgt_fx.core.lengths.sets import ANY_LENGTH

_Found = TypeVar("_Found")


@dataclass(frozen=True)
class Count:
    """How far a value has come: see the module's docstring for ``sure`` and ``total``."""

    sure: int
    total: int


class Counts(NamedTuple):
    """How far a value has come in a video that goes on (:class:`Count`), as functions of the number
    of frames shown so far."""

    sure: QuasiLinear
    total: QuasiLinear


class Clock(ABC):
    """The counts of one value as a function of the frames shown, per input path.

    Clocks are pure functions of (frames per path, last): the way the video was cut before does
    not matter. ``future`` is "wait" or "zero" (DESIGN §3).

    Args:
        sources: clocks of the values that this one is made of; none for an input.

    Attributes:
        law: how its elements read those of its only source; None where no law says it.
        firm: there are never provisional elements.
        dense: any number of elements may be there: none makes several of one.
        elementwise: its count follows from those of its sources alone; False where it counts
            elements that are there from the first frame on as well.
    """

    law: Law | None = None
    elementwise = True

    def __init__(
        self,
        future: str,
        paths: frozenset[int],
        stride: int,
        warm_up: int,
        sources: tuple[Clock, ...] = (),
    ) -> None:
        self.future, self.paths, self.sources = future, paths, sources
        self.stride, self.warm_up = stride, warm_up
        self.firm, self.dense = future == "wait", True
        self._memo: dict[tuple[tuple[int, ...], bool], Count] = {}
        self._videos: dict[tuple[int, ...], QuasiLinear] = {}
        self._streams: dict[tuple[int, ...], Counts] = {}
        self._decisive: tuple[Clock, ...] | None = None

    # -- counts --------------------------------------------------------------------------------

    def at(self, frames: tuple[int, ...], last: bool) -> Count:
        """Counts after ``frames`` frames per input path; ``last``: no more will come."""
        key = (frames, last)
        found = self._memo.get(key)
        if found is None:
            found = self._at(frames, last)
            if len(self._memo) >= 512:  # a stream has no end; the memo must have one
                self._memo.clear()
            self._memo[key] = found
        return found

    @abstractmethod
    def _at(self, frames: tuple[int, ...], last: bool) -> Count:
        """:meth:`at`, calculated."""

    @property
    def joined(self) -> tuple[Clock, ...]:
        """The clocks of the values that are taken element by element; none of any other clock."""
        return ()

    @property
    def parts(self) -> tuple[Part, ...]:
        """What its elements are, one part after the other: of all clocks but one a single part."""
        return (Part(self),)

    def parts_at(self, frames: tuple[int, ...], last: bool) -> list[Count]:
        """How many elements of each part have been handed on."""
        return [self.at(frames, last)]

    def count_of_video(self, ratio: tuple[int, ...]) -> QuasiLinear:
        """How many elements a whole video has, as a function of its number of frames.

        Args:
            ratio: frames of each input path for one of the path with the fewest.

        Raises:
            NotQuasiLinear: where it repeats after too many frames.
        """
        return _remembered(self._videos, ratio, self._count_of_video)

    @abstractmethod
    def _count_of_video(self, ratio: tuple[int, ...]) -> QuasiLinear:
        """:meth:`count_of_video`, calculated."""

    def counts_so_far(self, ratio: tuple[int, ...]) -> Counts:
        """How many elements there are before the video has ended, as functions of the number of
        frames shown so far.

        Args:
            ratio: frames of each input path for one of the path with the fewest.

        Raises:
            NotQuasiLinear: where that repeats after too many frames.
        """
        return _remembered(self._streams, ratio, self._counts_so_far)

    @abstractmethod
    def _counts_so_far(self, ratio: tuple[int, ...]) -> Counts:
        """:meth:`counts_so_far`, calculated."""

    # -- what decides them ---------------------------------------------------------------------

    def is_linear_from(self, frames: tuple[int, ...]) -> bool:
        """Whether from so many frames on its count is linear in those of its sources, up to its
        period, wherever the video began."""
        return True

    def follows(self, source: Clock) -> bool:
        """Whether its count is a function of the count of ``source`` alone."""
        if self is source or (len(self.paths) == 1 and self.paths == source.paths):
            return True
        if not self.elementwise or not self.sources:
            return False
        return all(own.follows(source) for own in self.sources)

    def decisive(self) -> tuple[Clock, ...]:
        """The clocks each of whose counts decides this one's; the nearest first."""
        if self._decisive is None:
            each = []
            for source in self.sources:
                each.append(source.decisive())
            found = _in_all(each)
            if not self.elementwise:  # what it has from the first frame on, an input knows alone
                found = tuple(c for c in found if not c.sources)
            self._decisive = (self, *found) if self.firm and self.dense else found
        return self._decisive

    def on(self, known: dict[Clock, Clock]) -> Clock:
        """The same function of other clocks.

        Args:
            known: clock -> the one to put in its place. All that is made is added.
        """
        if self not in known:
            sources = []
            for source in self.sources:
                sources.append(source.on(known))
            known[self] = self._on(tuple(sources))
        return known[self]

    @abstractmethod
    def _on(self, sources: tuple[Clock, ...]) -> Clock:
        """The same function of other sources."""


def _remembered(
    memo: dict[tuple[int, ...], _Found],
    ratio: tuple[int, ...],
    work: Callable[[tuple[int, ...]], _Found],
) -> _Found:
    # A residual network asks for each value again by both of its branches: 2 ** depth times.
    if ratio not in memo:
        memo[ratio] = work(ratio)
    return memo[ratio]


def _in_all(each: list[tuple[Clock, ...]]) -> tuple[Clock, ...]:
    first, *others = each or [()]
    return tuple(clock for clock in first if all(clock in other for other in others))


class InputClock(Clock):
    """The frames of input path ``path`` themselves."""

    def __init__(self, future: str, path: int) -> None:
        super().__init__(future, frozenset({path}), 1, 0)
        self.path, self.firm = path, True

    def _at(self, frames: tuple[int, ...], last: bool) -> Count:
        return Count(frames[self.path], frames[self.path])

    def _count_of_video(self, ratio: tuple[int, ...]) -> QuasiLinear:
        return frames(ratio[self.path])

    def _counts_so_far(self, ratio: tuple[int, ...]) -> Counts:
        return Counts(*[frames(ratio[self.path])] * 2)

    def _on(self, sources: tuple[Clock, ...]) -> Clock:
        raise AssertionError("a clock of another input")


class LawClock(Clock):
    """The outputs of an operator with ``law`` on a value with clock ``source``."""

    law: Law

    def __init__(self, law: Law, source: Clock) -> None:
        warm_up = source.warm_up + source.stride * (law.counts_linear_from + 2)
        stride = source.stride * law.period
        super().__init__(source.future, source.paths, stride, warm_up, (source,))
        self.law, self.source = law, source
        self.firm = self.firm or not law.provisional
        self.dense = law.dense and source.dense

    def _at(self, frames: tuple[int, ...], last: bool) -> Count:
        seen = self.source.at(frames, last)
        if last:
            return Count(*[self.law.count(seen.total)] * 2)
        if self.future == "wait":
            return Count(*[self.law.ready(seen.sure)] * 2)
        total = self.law.count(seen.total)
        sure = min(total, self.law.ready(seen.sure)) if self.law.provisional else total
        return Count(sure, total)

    def _count_of_video(self, ratio: tuple[int, ...]) -> QuasiLinear:
        return self.law.count_of(self.source.count_of_video(ratio))

    def _counts_so_far(self, ratio: tuple[int, ...]) -> Counts:
        seen = self.source.counts_so_far(ratio)
        ready = self.law.ready_of(seen.sure)
        if self.future == "wait":
            return Counts(ready, ready)
        total = self.law.count_of(seen.total)
        return Counts(smaller(total, ready) if self.law.provisional else total, total)

    def is_linear_from(self, frames: tuple[int, ...]) -> bool:
        return self.source.at(frames, False).sure >= self.law.shiftable_from

    def _on(self, sources: tuple[Clock, ...]) -> Clock:
        return LawClock(self.law, *sources)


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
            sources,
        )
        self.commit = commit
        self.firm = self.firm or commit or all(s.firm for s in sources)
        self.dense = all(s.dense for s in sources)

    def _at(self, frames: tuple[int, ...], last: bool) -> Count:
        counts = [source.at(frames, last) for source in self.sources]
        total = min(c.total for c in counts)
        sure = total if self.commit else min(total, max(c.sure for c in counts))
        return Count(sure, total)

    def _count_of_video(self, ratio: tuple[int, ...]) -> QuasiLinear:
        return reduce(smaller, [source.count_of_video(ratio) for source in self.sources])

    def _counts_so_far(self, ratio: tuple[int, ...]) -> Counts:
        counts = [source.counts_so_far(ratio) for source in self.sources]
        total = reduce(smaller, [c.total for c in counts])
        if self.commit:
            return Counts(total, total)
        return Counts(smaller(total, reduce(larger, [c.sure for c in counts])), total)

    @property
    def joined(self) -> tuple[Clock, ...]:
        return self.sources

    def _on(self, sources: tuple[Clock, ...]) -> Clock:
        return JoinClock(sources, commit=self.commit)


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
        """Its counts, as :meth:`Clock.at` gives them."""
        if self.clock is None:  # there from the first step on
            return Count(*[self.length or 0 if any(frames) else 0] * 2)
        seen = self.clock.at(frames, last)
        return Count(min(seen.sure, 1), min(seen.total, 1)) if self.first else seen

    def count_of_video(self, ratio: tuple[int, ...]) -> QuasiLinear:
        """How many of its elements a whole video has, as :meth:`Clock.count_of_video`."""
        if self.clock is None:
            return constant(self.length or 0)
        there = self.clock.count_of_video(ratio)
        return smaller(there, 1) if self.first else there

    def counts_so_far(self, ratio: tuple[int, ...]) -> Counts:
        """How many of its elements there are so far, as :meth:`Clock.counts_so_far`."""
        if self.clock is None:
            return Counts(*[constant(self.length or 0)] * 2)
        sure, total = self.clock.counts_so_far(ratio)
        return Counts(smaller(sure, 1), smaller(total, 1)) if self.first else Counts(sure, total)


class ConcatClock(Clock):
    """Values one after the other along time: parts of known length, then a stream (DESIGN §5).

    A part's elements are handed on when all of the parts before it are.
    """

    elementwise = False

    def __init__(self, parts: tuple[Part, ...]) -> None:
        clocks = tuple(part.clock for part in parts if part.clock is not None)
        super().__init__(
            clocks[0].future,
            frozenset().union(*(c.paths for c in clocks)),
            math.lcm(*(c.stride for c in clocks)),
            max(c.warm_up for c in clocks),
            clocks,
        )
        self._parts, self.dense = parts, False

    @property
    def parts(self) -> tuple[Part, ...]:
        return self._parts

    def parts_at(self, frames: tuple[int, ...], last: bool) -> list[Count]:
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

    def _count_of_video(self, ratio: tuple[int, ...]) -> QuasiLinear:
        return sum((part.count_of_video(ratio) for part in self.parts), constant(0))

    def _counts_so_far(self, ratio: tuple[int, ...]) -> Counts:
        return Counts(*(self._in_turn(ratio, which) for which in (0, 1)))

    def _in_turn(self, ratio: tuple[int, ...], which: int) -> QuasiLinear:
        """The elements of parts that are handed on, each when all of the parts before it are.

        Args:
            which: 0 for those that are sure, 1 for all.
        """
        found, turn = constant(0), ANY_LENGTH
        for part in self.parts:
            there = part.counts_so_far(ratio)[which]
            found += where(turn, there, 0)
            if part.length is not None:
                turn &= at_most(part.length, there)
        return found

    def is_linear_from(self, frames: tuple[int, ...]) -> bool:
        return False

    def _on(self, sources: tuple[Clock, ...]) -> Clock:
        rest = iter(sources)
        parts = [p if p.clock is None else replace(p, clock=next(rest)) for p in self.parts]
        return ConcatClock(tuple(parts))
