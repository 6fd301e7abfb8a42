"""What each operator of a step has to do: one class per kind of state, in integers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Set
from dataclasses import dataclass, replace
from typing import NamedTuple

from pgt_fx.core.clocks import Clock, Count
from pgt_fx.core.law import Law
from pgt_fx.runtime.work import (
    ConcatDue,
    Due,
    MemoryDue,
    PoolDue,
    Work,
    align_due,
    memory_due,
    window_due,
)

#: Frames of each input path.
Frames = tuple[int, ...]


class Planned(NamedTuple):
    """One operator's part in the plan of a step.

    Attributes:
        work: what its executor is given.
        runs: whether it has anything to do.
        gives: whether it has a result.
        ends: the result is the last state alone, without an element.
        unfed: elements that are due, but depend on a value that this step does not have.
    """

    work: Work
    runs: bool
    gives: bool
    ends: bool = False
    unfed: int = 0


class Answers(NamedTuple):
    """What the first result of an operator waits for.

    Attributes:
        clock: it has a result once there is an element more than before the first frame.
        before: elements before the first frame.
        alone: a result may come in a step in which an operand has none: of what was carried.
    """

    clock: Clock
    before: int
    alone: bool


class Item(ABC):
    """An operator of the emitted graph that has work of its own in each step."""

    @abstractmethod
    def planned(self, before: Frames, after: Frames, last: bool, silent: Set[str]) -> Planned:
        """What is due in the step from ``before`` to ``after`` frames per input path.

        Args:
            last: no more frames will come.
            silent: names of its operands that have no value in this step.
        """

    @property
    def clocks(self) -> tuple[Clock, ...] | None:
        """The clocks that its work is made from. None where that depends on how far the video has
        come, and not on the phase of the stream alone."""
        return None

    @property
    @abstractmethod
    def counted(self) -> tuple[Clock, ...]:
        """The clocks that say what it carries and gives."""

    @property
    def windows(self) -> tuple[tuple[Law, Clock], ...]:
        """The law by which it reads its operand, and that one's clock, where it has one."""
        return ()

    @abstractmethod
    def answers(self, ratio: Frames) -> Answers:
        """What its first result waits for.

        Args:
            ratio: frames of each input path for one of the path with the fewest.
        """

    @property
    def tail(self) -> TailItem | None:
        """Itself, where what it carries are the last elements of its operand."""
        return None

    @property
    def pooled(self) -> bool:
        """Whether what it carries is made of all elements so far: it has no time axis."""
        return False

    @property
    def made_anew(self) -> bool:
        """Whether its operand is made anew in each step, so that nothing is ever carried."""
        return False

    def carried(self, works: Iterable[Work], clip: Frames) -> int:
        """How many elements it carries at most, once a stream is under way.

        Args:
            works: its work in steps of every phase.
            clip: frames per input path after which they are counted, where they grow with the
                video.
        """
        return max((max(0, work.kept) for work in works), default=0)


class TailItem(Item):
    """An operator that carries the last elements of its operand.

    Attributes:
        source, out: clocks of its operand and of its result.
    """

    source: Clock
    out: Clock

    @abstractmethod
    def due(self, before: Count, after: Count, out_before: Count, out_after: Count) -> Due:
        """Its work between two moments: counts of its operand and of its result."""

    @abstractmethod
    def held(self, outs: int, seen: int) -> int:
        """How many of ``seen`` elements it carries when ``outs`` outputs are out."""

    def planned(self, before: Frames, after: Frames, last: bool, silent: Set[str]) -> Planned:
        source, out = self.source, self.out
        now, then = source.at(after, last), source.at(before, False)
        work = self.due(then, now, out.at(before, False), out.at(after, last))
        gives = work.outs > 0
        if silent:
            return Planned(work, gives, gives, unfed=max(0, work.new))
        return Planned(work, True, gives)

    @property
    def clocks(self) -> tuple[Clock, ...]:
        return self.source, self.out

    @property
    def counted(self) -> tuple[Clock, ...]:
        return self.source, self.out

    def answers(self, ratio: Frames) -> Answers:
        return Answers(self.out, _at_start(self.out, ratio).sure, True)

    @property
    def tail(self) -> TailItem:
        return self


class OperandItem(Item):
    """An operator whose results come with the elements of its operand.

    Attributes:
        source: clock of its operand.
    """

    source: Clock

    @property
    def counted(self) -> tuple[Clock, ...]:
        return (self.source,)

    def answers(self, ratio: Frames) -> Answers:
        return Answers(self.source, self.taken(_at_start(self.source, ratio)), False)

    def taken(self, count: Count) -> int:
        """How many elements of its operand it has taken in."""
        return count.total


@dataclass(frozen=True)
class WindowItem(TailItem):
    """A windowed operator.

    Attributes:
        law: how its outputs read its inputs.
        mean: "include" or "exclude" for an average pool, see :func:`window_due`.
    """

    law: Law
    source: Clock
    out: Clock
    mean: str = ""

    def due(self, before: Count, after: Count, out_before: Count, out_after: Count) -> Due:
        return window_due(self.law, before, after, out_before, out_after, mean=self.mean)

    def held(self, outs: int, seen: int) -> int:
        return self.law.held(outs, seen)

    @property
    def windows(self) -> tuple[tuple[Law, Clock], ...]:
        return ((self.law, self.source),)


@dataclass(frozen=True)
class AlignItem(TailItem):
    """One operand of a join, or the model's output."""

    source: Clock
    out: Clock

    def due(self, before: Count, after: Count, out_before: Count, out_after: Count) -> Due:
        return align_due(before, after, out_before, out_after)

    def held(self, outs: int, seen: int) -> int:
        return seen - min(outs, seen)


@dataclass(frozen=True)
class PoolItem(OperandItem):
    """A reduction over time; ``running`` when it carries."""

    source: Clock
    running: bool

    def planned(self, before: Frames, after: Frames, last: bool, silent: Set[str]) -> Planned:
        then = self.source.at(before, False).total
        new = self.source.at(after, last).total - then
        gives = new > 0 or (self.running and last and then > 0)
        # Elements without a value would be missing from all that is pooled later.
        return Planned(PoolDue(then > 0, new), gives, gives, unfed=max(0, new) if silent else 0)

    @property
    def clocks(self) -> tuple[Clock, ...]:
        return (self.source,)

    @property
    def pooled(self) -> bool:
        return self.running


@dataclass(frozen=True)
class ScanItem(OperandItem):
    """A scan along time.

    Attributes:
        source: clock of its operand.
        states: what it carries, in elements of its result.
        gives_state: beside its elements it gives the state that it ends in. The last step has that
            whether it brings elements or not.
    """

    source: Clock
    states: int
    gives_state: bool = False

    def planned(self, before: Frames, after: Frames, last: bool, silent: Set[str]) -> Planned:
        then, now = self.source.at(before, False), self.source.at(after, last)
        new = now.total - then.total
        ends = self.gives_state and last and then.total > 0 and new == 0
        gives = new > 0 or ends
        work = PoolDue(then.total > 0, new)
        return Planned(work, gives, gives, ends, max(0, new) if silent else 0)

    @property
    def clocks(self) -> tuple[Clock, ...]:
        return (self.source,)

    def carried(self, works: Iterable[Work], clip: Frames) -> int:
        return self.states


@dataclass(frozen=True)
class MemoryItem(OperandItem):
    """Keys or values of an attention over time.

    Attributes:
        source: clock of the keys or values.
        size: how many elements of earlier steps are carried; None: all.
    """

    source: Clock
    size: int | None

    def taken(self, count: Count) -> int:
        return count.sure

    def due(self, before: Count, after: Count) -> MemoryDue:
        """Its work between two moments, by the counts of its operand."""
        work = memory_due(before, after, self.size)
        # Where a step stands in the video does not matter: whether it is the first one does.
        return replace(work, before=min(work.before, 1))

    def planned(self, before: Frames, after: Frames, last: bool, silent: Set[str]) -> Planned:
        work = self.due(self.source.at(before, False), self.source.at(after, last))
        gives = work.new > 0
        return Planned(work, gives, gives, unfed=max(0, work.new) if silent else 0)

    def carried(self, works: Iterable[Work], clip: Frames) -> int:
        # Full, however long it takes to fill; one without a bound grows with the video.
        return self.source.at(clip, True).total if self.size is None else self.size


@dataclass(frozen=True)
class ClipsItem(MemoryItem):
    """Keys or values of an attention of a model that takes whole clips; ``source`` counts clips."""

    @property
    def pooled(self) -> bool:
        return True  # what stands for a clip has no axis of time


@dataclass(frozen=True)
class TableItem(MemoryItem):
    """A table made in each step, for elements with clock ``source``; nothing is carried."""

    def due(self, before: Count, after: Count) -> MemoryDue:
        return memory_due(before, after, self.size)

    @property
    def made_anew(self) -> bool:
        return True

    def carried(self, works: Iterable[Work], clip: Frames) -> int:
        return 0


@dataclass(frozen=True)
class ConcatItem(Item):
    """Values one after the other along time.

    Attributes:
        out: knows the clocks of the parts.
        names: of the nodes that give the parts.
    """

    out: Clock
    names: tuple[str, ...]

    def planned(self, before: Frames, after: Frames, last: bool, silent: Set[str]) -> Planned:
        moments = ((before, False), (after, last))
        then, now = ([part.at(*moment) for part in self.out.parts] for moment in moments)
        out_then, out_now = (self.out.parts_at(*moment) for moment in moments)
        work = ConcatDue(tuple(map(align_due, then, now, out_then, out_now)))
        new = [part.new for part in work.parts]
        missed = (n for name, n in zip(self.names, new, strict=True) if name in silent and n > 0)
        gives = work.outs > 0
        return Planned(work, gives or any(new), gives, unfed=next(missed, 0))

    @property
    def counted(self) -> tuple[Clock, ...]:
        return (self.out,)

    def answers(self, ratio: Frames) -> Answers:
        return Answers(self.out, _at_start(self.out, ratio).sure, True)


def _at_start(clock: Clock, ratio: Frames) -> Count:
    return clock.at((0,) * len(ratio), False)
