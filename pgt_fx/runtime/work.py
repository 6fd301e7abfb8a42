"""What one operator has to do in one step, in integers relative to the data at hand.

Pure arithmetic on laws and counts; the executors in :mod:`pgt_fx.runtime.markov` only follow it.
All figures are relative, so that they are the same at every step of a steady stream.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from pgt_fx.core.clocks import Count
from pgt_fx.core.law import Law, Placement


class Work(ABC):
    """What one operator has to do in one step."""

    @property
    @abstractmethod
    def kept(self) -> int:
        """How many elements it carries to the next step."""


@dataclass(frozen=True)
class Due(Work):
    """One operator's work in one step.

    The *buffer* is the carried tail followed by the step's new input elements.

    Attributes:
        held: elements that the carried tail must have.
        blank: elements of constant padding that the tail begins with (only at a video's start,
            when nothing is carried yet).
        skip: leading buffer elements that no output needs any more.
        left, right: padding to put around the rest of the buffer.
        trim: leading elements to drop, after padding, to stand at the first output's window.
        offset: leading outputs of the operator on that buffer that are not asked for.
        outs: how many outputs are due.
        new: how many input elements arrive.
        keep: half-open range of the buffer to carry to the next step.
        pads: leading buffer elements that are padding, not elements.
        past: range of the buffer that the last step handed on as its context: what stood before
            this step for the operators of the paper (:meth:`pgt_fx.core.law.Law.context`).
        context: the same of what this step hands on, within ``keep``.
        divisors: for each due output the number of elements a mean counts, where it is not the
            kernel (average pools at the ends of the video), else empty.
    """

    held: int = 0
    blank: int = 0
    skip: int = 0
    left: int = 0
    right: int = 0
    trim: int = 0
    offset: int = 0
    outs: int = 0
    new: int = 0
    keep: tuple[int, int] = (0, 0)
    pads: int = 0
    past: tuple[int, int] = (0, 0)
    context: tuple[int, int] = (0, 0)
    divisors: tuple[int, ...] = ()

    @property
    def kept(self) -> int:
        return self.keep[1] - self.keep[0]


_NOTHING = Placement()


def window_due(
    law: Law, before: Count, after: Count, out_before: Count, out_after: Count, *, mean: str = ""
) -> Due:
    """The work of an operator with ``law`` in the step between two moments.

    Args:
        before, after: counts of the operand at the end of the last step and of this one.
        out_before, out_after: the same of the operator's output.
        mean: for average pools "include" or "exclude" (``count_include_pad``); "" otherwise.
    """
    outs = out_after.total - out_before.sure
    base = law.keep(out_before.sure, before.sure)
    blank = max(0, -base) if before.sure == 0 and base < 0 else 0
    start = min(base, before.sure)  # element number of the buffer's first entry
    skip = min(max(0, base - before.sure), after.total - before.sure)
    first = start + skip
    placed = _NOTHING
    if outs > 0:
        placed = law.placed(first, after.total, out_before.sure, out_after.total)
    keep = min(law.keep(out_after.sure, after.sure), after.sure)
    return Due(
        held=before.sure - start,
        blank=blank,
        skip=skip,
        left=placed.left,
        right=placed.right,
        trim=placed.trim,
        offset=placed.offset,
        outs=max(0, outs),
        new=after.total - before.sure,
        keep=(keep - start, after.sure - start),
        pads=max(0, -start),
        past=_context(law, out_before, before, start),
        context=_context(law, out_after, after, start),
        divisors=law.divisors(out_before.sure, out_after.total, after.total, mean),
    )


def _context(law: Law, out: Count, seen: Count, start: int) -> tuple[int, int]:
    first, end = law.context(out.sure, seen.sure)
    return first - start, end - start


def align_due(before: Count, after: Count, out_before: Count, out_after: Count) -> Due:
    """The work of one operand of a join: hold what came early, hand on the common prefix."""
    start = min(out_before.sure, before.sure)
    skip = min(max(0, out_before.sure - before.sure), after.total - before.sure)
    keep = min(out_after.sure, after.sure)
    return Due(
        held=before.sure - start,
        skip=skip,
        outs=max(0, out_after.total - out_before.sure),
        new=after.total - before.sure,
        keep=(keep - start, after.sure - start),
    )


@dataclass(frozen=True)
class ConcatDue(Work):
    """The work of values put one after the other: what each part holds and hands on."""

    parts: tuple[Due, ...]

    @property
    def outs(self) -> int:
        return sum(part.outs for part in self.parts)

    @property
    def kept(self) -> int:
        return sum(part.kept for part in self.parts)


@dataclass(frozen=True)
class PoolDue(Work):
    """One running reduction's work in one step: whether there were elements before, and how many
    there are in this step."""

    before: bool
    new: int

    @property
    def kept(self) -> int:
        return 1


@dataclass(frozen=True)
class MemoryDue(Work):
    """The work of an attention's memory, or of a table beside one, in one step.

    Attributes:
        before: elements of earlier steps.
        new: elements that arrive.
        keys: elements that the step sees: the remembered ones and the new.
        keep: ``(0, n)``: how many of the last ones to carry.
    """

    before: int
    new: int
    keys: int
    keep: tuple[int, int]

    @property
    def kept(self) -> int:
        return self.keep[1] - self.keep[0]


def memory_due(before: Count, after: Count, size: int | None) -> MemoryDue:
    """A memory of ``size`` elements (None: of all) in the step between two moments."""

    def held(n: int) -> int:
        return n if size is None else min(n, size)

    new = after.total - before.sure
    return MemoryDue(before.sure, new, held(before.sure) + new, (0, held(after.sure)))
