"""The interface of a law of time: which inputs each output of one operator reads, in integers.

Elements of a value are numbered globally from the first frame of the video, whatever the chunks.
The laws are in :mod:`pgt_fx.core.laws`; whatever depends on the law of an operator is a method of
this class (DESIGN §5).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from fractions import Fraction
from typing import NamedTuple

from pgt_fx.core.lengths.functions import QuasiLinear


class Placement(NamedTuple):
    """How an operator is run on the inputs at hand so that it gives the outputs that are due.

    Attributes:
        left, right: padding elements to put around the inputs.
        trim: leading elements to drop, after padding.
        offset: leading outputs of the operator that are not asked for.
    """

    left: int = 0
    right: int = 0
    trim: int = 0
    offset: int = 0


class Law(ABC):
    """How the outputs of an operator read the elements of its input along time."""

    # -- what it reads -------------------------------------------------------------------------

    @abstractmethod
    def count(self, n: int) -> int:
        """How many outputs the operator makes of ``n`` elements, padding on both ends."""

    @abstractmethod
    def count_of(self, n: QuasiLinear) -> QuasiLinear:
        """:meth:`count` for all videos at once: ``n`` is a function of the video's length.

        Raises:
            NotQuasiLinear: where the result repeats after too many frames.
        """

    @abstractmethod
    def ready(self, n: int) -> int:
        """How many outputs are the same for every input that begins with these ``n`` elements."""

    @abstractmethod
    def ready_of(self, n: QuasiLinear) -> QuasiLinear:
        """:meth:`ready` for all numbers of frames shown so far at once.

        Raises:
            NotQuasiLinear: where the result repeats after too many frames.
        """

    @abstractmethod
    def taps(self, j: int) -> Iterable[int]:
        """The input elements that output ``j`` reads; some may lie outside the video."""

    def stands_for(self, tap: int, n: int) -> int | None:
        """The one of ``n`` elements that is read at ``tap``; None for a constant."""
        return tap if 0 <= tap < n else None

    @abstractmethod
    def need(self, j: int) -> int:
        """First input element that an output ``>= j`` reads."""

    @property
    def fewest(self) -> int:
        """Fewest elements that give an output; 0 where that follows from :meth:`count` alone."""
        return 0

    @property
    def fewest_padded(self) -> int:
        """Fewest elements that can be padded, or cropped, as the operator does; 0: any number."""
        return 0

    # -- what it carries -----------------------------------------------------------------------

    @abstractmethod
    def keep(self, j: int, n: int) -> int:
        """First of ``n`` input elements that must be carried when ``j`` outputs are out."""

    def held(self, j: int, n: int) -> int:
        """How many of ``n`` input elements are carried when ``j`` outputs are out."""
        return n - min(self.keep(j, n), n)

    @property
    def carries(self) -> bool:
        """Whether any input element is ever carried to the next step."""
        return True

    @abstractmethod
    def past_end(self, outs: int) -> int:
        """End of the input elements that ``outs`` emitted outputs (one at least) read as their own
        or their past, and of those before the next output's own position."""

    def context(self, outs: int, n: int) -> tuple[int, int]:
        """Which of ``n`` elements stand as the past before the next step: a half-open range.

        Of the carried elements those that an emitted output has read as its own or its past, and
        those before the next output's own position. The others are carried because their own
        outputs are still due (``future="wait"``), and are no context (DESIGN §7).
        """
        first = max(0, min(self.keep(outs, n), n))
        if outs == 0:
            return first, first
        return first, max(first, min(self.past_end(outs), n))

    @property
    def recalls(self) -> bool:
        """Whether the operator has a context (:meth:`context`) at some phase of its period."""
        moments = range(self.context_from, self.context_from + self.period)
        return any(end > first for n in moments for first, end in [self.context(self.count(n), n)])

    @property
    def context_from(self) -> int:
        """Input elements from which on the context repeats with the period."""
        return 2

    # -- how it runs in a step -----------------------------------------------------------------

    @abstractmethod
    def placed(self, first: int, n: int, begin: int, end: int) -> Placement:
        """How the operator is run on elements ``first … n-1`` to give outputs ``begin … end-1``
        (one at least)."""

    def spanned(self, outs: int) -> int | None:
        """Elements that ``outs`` outputs in a row read, from the first one's window on; None where
        the operator is run on all elements at hand."""
        return None

    def divisors(self, begin: int, end: int, n: int, mean: str) -> tuple[int, ...]:
        """How many of ``n`` elements a mean over each of the outputs ``begin … end-1`` counts;
        empty where it is the kernel for all of them.

        Args:
            mean: "include" or "exclude" (``count_include_pad``); "" where there is no mean.
        """
        return ()

    @property
    def averaged(self) -> int:
        """How many elements a mean over an output counts in the middle of a video."""
        return 1

    # -- what kind of operator it is -----------------------------------------------------------

    @property
    def provisional(self) -> bool:
        """Whether elements made of padding alone are handed on as provisional (pads, slices)."""
        return False

    @property
    def identity(self) -> bool:
        """Whether the operator is pointwise in time."""
        return False

    @property
    def dense(self) -> bool:
        """Whether there may be any number of outputs: no element makes several of them."""
        return False

    @property
    def pads_only(self) -> tuple[int, int] | None:
        """``(left, right)`` of an operator that pads, crops or shifts; None for one that mixes
        elements. A negative number crops."""
        return None

    @property
    def centred(self) -> int:
        """Elements that an output reads on each side of its own, one by one, where zeros stand in
        front of the video and after it; 0 for a law of any other kind."""
        return 0

    @property
    @abstractmethod
    def inputs_per_output(self) -> Fraction:
        """Input elements from one output's own place to the next one's."""

    @property
    def period(self) -> int:
        """Input elements by which what the outputs read moves on, whole outputs at a time."""
        return 1

    @property
    def counts_linear_from(self) -> int:
        """Input elements from which on :meth:`count` and :meth:`ready` are linear, up to the
        period."""
        return 0

    @property
    def shiftable_from(self) -> int:
        """Input elements from which on the operator does not feel where the video begins.

        Its outputs, what it carries and the past that it hands on are then the same for any shift
        by its period: no window reaches padding in front, and none is cut off.
        """
        return 2

    def to_look_back(self, rank: int, pad: tuple[int, int] | None) -> str:
        """What to change in a model so that this operator reads no later element than its own.

        Args:
            rank: dimensions of the operator's input, (N, C, T, ...).
            pad: padding, left and right, of an ``F.pad`` in front of the operator, if any.
        """
        return "crop its result at the end and not at the start"
