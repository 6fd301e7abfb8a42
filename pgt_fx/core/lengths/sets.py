"""Sets of lengths that are periodic from some length on: which numbers of frames a video may have.

Comparisons of floors, remainders and affine terms of a length make such sets (those that Presburger
arithmetic defines). They are kept exactly, as stretches of the number line on each of which
membership depends on the remainder alone, and are closed under ``&``, ``|``, ``-`` and ``~``.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from itertools import pairwise
from typing import NamedTuple

from pgt_fx.core.counts import counted

#: Longest period that is worked with, and most stretches or pieces.
MOST_PERIOD = 10**5
MOST_PIECES = 10**4
#: Remainders, and single lengths, that are named before the rest are counted.
MOST_NAMED = 8
#: Most lengths that are looked at one by one.
MOST_ONE_BY_ONE = 10**6


class NotQuasiLinear(ArithmeticError):
    """A number is no quasi-linear function of the length (a product, a root), or one whose period
    is too long to work with."""


def common_period(*periods: int) -> int:
    """The least common multiple.

    Raises:
        NotQuasiLinear: when it is longer than :data:`MOST_PERIOD`.
    """
    period = math.lcm(*periods)
    if period > MOST_PERIOD:
        raise NotQuasiLinear(f"it repeats after {counted(period, 'frame')} only")
    return period


class Stretch(NamedTuple):
    """From ``start`` to the next one: T is a member if bit ``T % period`` of ``mask`` is set."""

    start: int
    period: int
    mask: int

    def repeated(self, period: int) -> int:
        """The mask for a multiple of the period."""
        return self.mask * (((1 << period) - 1) // ((1 << self.period) - 1))


class LengthSet:
    """A set of whole numbers >= 1 that is periodic from some number on.

    >>> multiples = LengthSet.remainders(4, [1])
    >>> str(multiples & LengthSet.interval(5, None))
    '4n + 1, at least 5'
    """

    def __init__(self, stretches: Iterable[Stretch]) -> None:
        self.stretches = _plain(list(stretches))
        self.starts = [s.start for s in self.stretches]

    # -- making them ---------------------------------------------------------------------------

    @staticmethod
    def interval(first: int, last: int | None) -> LengthSet:
        """All of ``first`` … ``last``; None: without end."""
        first = max(first, 1)
        if last is not None and last < first:
            return NO_LENGTH
        parts = [Stretch(1, 1, 0)] if first > 1 else []
        parts.append(Stretch(first, 1, 1))
        return LengthSet(parts if last is None else [*parts, Stretch(last + 1, 1, 0)])

    @staticmethod
    def remainders(period: int, rests: Iterable[int]) -> LengthSet:
        """The numbers with one of these remainders modulo ``period``."""
        return LengthSet([Stretch(1, common_period(period), sum(1 << r for r in {*rests}))])

    @staticmethod
    def of(members: Iterable[int]) -> LengthSet:
        """These numbers."""
        out: list[Stretch] = [Stretch(1, 1, 0)]
        for n in sorted({*members}):
            out += [Stretch(n, 1, 1), Stretch(n + 1, 1, 0)]
        return LengthSet(sorted({s.start: s for s in out}.values()))

    # -- combining them ------------------------------------------------------------------------

    def _with(self, other: LengthSet, op: Callable[[int, int], int]) -> LengthSet:
        out = []
        for start in sorted({*self.starts, *other.starts}):
            a, b = self.stretch(start), other.stretch(start)
            period = common_period(a.period, b.period)
            out.append(Stretch(start, period, op(a.repeated(period), b.repeated(period))))
        return LengthSet(out)

    def __and__(self, other: LengthSet) -> LengthSet:
        return self._with(other, lambda a, b: a & b)

    def __or__(self, other: LengthSet) -> LengthSet:
        return self._with(other, lambda a, b: a | b)

    def __sub__(self, other: LengthSet) -> LengthSet:
        return self._with(other, lambda a, b: a & ~b)

    def __invert__(self) -> LengthSet:
        return LengthSet(
            Stretch(s.start, s.period, ((1 << s.period) - 1) ^ s.mask) for s in self.stretches
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, LengthSet):
            return NotImplemented
        if self.stretches == other.stretches:
            return True
        return self._with(other, lambda a, b: a ^ b).is_empty

    def __hash__(self) -> int:
        return hash(tuple(n for n, _ in zip(self, range(4), strict=False)))

    # -- asking them ---------------------------------------------------------------------------

    def stretch(self, length: int) -> Stretch:
        """The stretch that a number lies in."""
        return self.stretches[bisect_right(self.starts, length) - 1]

    def __contains__(self, length: int) -> bool:
        found = self.stretch(length) if length >= 1 else None
        return found is not None and bool(found.mask >> length % found.period & 1)

    def next(self, length: int) -> int | None:
        """The least member >= ``length``; None: there is none."""
        length = max(length, 1)
        for s, end in self._ranges(length):
            first = max(length, s.start)
            shift, full = first % s.period, (1 << s.period) - 1
            turned = (s.mask >> shift | s.mask << s.period - shift) & full
            found = first + (turned & -turned).bit_length() - 1
            if turned and (end is None or found < end):
                return found
        return None

    def previous(self, length: int) -> int | None:
        """The largest member <= ``length``; None: there is none."""
        for s, end in reversed(list(self._ranges(1))):
            last = length if end is None else min(length, end - 1)
            if last < s.start:
                continue
            shift, full = (last + 1) % s.period, (1 << s.period) - 1
            turned = (s.mask >> shift | s.mask << s.period - shift) & full
            found = last - s.period + turned.bit_length()
            if turned and found >= s.start:
                return found
        return None

    def _ranges(self, length: int) -> Iterator[tuple[Stretch, int | None]]:
        """The stretches from the one on that ``length`` lies in, each with the next one's start."""
        first = bisect_right(self.starts, length) - 1
        for i in range(first, len(self.stretches)):
            yield self.stretches[i], self.starts[i + 1] if i + 1 < len(self.starts) else None

    def __iter__(self) -> Iterator[int]:
        found = self.next(1)
        while found is not None:
            yield found
            found = self.next(found + 1)

    @property
    def is_all(self) -> bool:
        return self.stretches == (Stretch(1, 1, 1),)

    @property
    def is_empty(self) -> bool:
        return self.next(1) is None

    @property
    def is_finite(self) -> bool:
        return not self.stretches[-1].mask

    @property
    def least(self) -> int | None:
        """The least member; None for the empty set."""
        return self.next(1)

    @property
    def most(self) -> int | None:
        """The largest member; None where there is none."""
        return self.previous(self.starts[-1]) if self.is_finite else None

    def __str__(self) -> str:
        return _in_words(self)

    def __repr__(self) -> str:
        return f"LengthSet({self})"


@cache
def _primes(n: int) -> tuple[int, ...]:
    out, p = [], 2
    while n > 1:
        if p * p > n:
            p = n
        if n % p == 0:
            out.append(p)
            while n % p == 0:
                n //= p
        p += 1
    return tuple(out)


def shortened(period: int, repeats: Callable[[int], bool]) -> int:
    """The least period; ``repeats(d)`` is whether a divisor d of ``period`` is a period."""
    for prime in _primes(period):
        while period % prime == 0 and repeats(period // prime):
            period //= prime
    return period


def _plain(stretches: list[Stretch]) -> tuple[Stretch, ...]:
    """The same set with least periods, and without stretches that say nothing new."""
    out: list[Stretch] = []

    def add(start: int, period: int, mask: int) -> None:
        if out and out[-1].start == start:
            out.pop()
        if not out or out[-1][1:] != (period, mask):
            out.append(Stretch(start, period, mask))

    for i, (start, period, mask) in enumerate(stretches):
        if period > 1:

            def repeats(d: int, m: int = mask, p: int = period) -> bool:
                return m == (m & (1 << d) - 1) * (((1 << p) - 1) // ((1 << d) - 1))

            least = shortened(period, repeats)
            period, mask = least, mask & (1 << least) - 1
        end = stretches[i + 1].start if i + 1 < len(stretches) else None
        if period > 1 and end is not None and end - start <= period:  # not seen to repeat
            for n in range(start, end):
                add(n, 1, mask >> n % period & 1)
        else:
            add(start, period, mask)
        if len(out) > MOST_PIECES:
            raise NotQuasiLinear(f"the lengths differ in more than {MOST_PIECES} stretches")
    return tuple(_joined(out))


def _joined(stretches: list[Stretch]) -> list[Stretch]:
    """Stretches that the next one's pattern describes as well are joined to it, or the part of them
    next to it; from the end, as the pattern there is the one that lasts."""
    out = [stretches[-1]]
    for s in reversed(stretches[:-1]):
        after, start = out[-1], out[-1].start
        both = math.lcm(s.period, after.period)
        least = max(s.start, start - both) if both <= MOST_PERIOD else start
        while start > least and (
            (s.mask >> (start - 1) % s.period & 1) == (after.mask >> (start - 1) % after.period & 1)
        ):
            start -= 1
        out[-1] = after._replace(start=start)
        if start > s.start:
            out.append(s)
    return out[::-1]


ANY_LENGTH = LengthSet([Stretch(1, 1, 1)])
NO_LENGTH = LengthSet([Stretch(1, 1, 0)])


def _in_words(lengths: LengthSet) -> str:
    """What a set of lengths is, to follow "videos of" and go before "frames"."""
    if lengths.is_empty:
        return "no number"
    for lasting in reversed(lengths.stretches):
        if not lasting.mask:
            continue
        pattern = LengthSet([lasting._replace(start=1)])
        most = lengths.most
        wanted = pattern if most is None else pattern & LengthSet.interval(1, most)
        extra, lacking = lengths - wanted, wanted - lengths
        if lasting.period == 1 and most is not None and len(lengths.stretches) > 4:
            break
        least = lengths.least or 1
        before = LengthSet.interval(1, least - 1)
        apart = lacking - before
        few = len(apart.stretches) <= 2 * MOST_NAMED and _span(apart) <= _span(lengths)
        if extra.is_empty and few:
            if pattern.is_all and least == most:
                return str(least)
            if pattern.is_all and most is not None and least > 1:
                return f"{least} to {most}" + _but(apart)
            words = [] if pattern.is_all and (least > 1 or most) else [_pattern(lasting)]
            words += [f"at least {least}"] if least > (pattern.least or 1) else []
            words += [f"at most {most}"] if most is not None else []
            return ", ".join(words) + _but(apart)
        break
    return _listed(lengths)


def _span(lengths: LengthSet) -> int:
    """How long the stretches with members are, but for the last one."""
    pairs = pairwise(lengths.stretches)
    return sum(after.start - s.start for s, after in pairs if s.mask)


def _but(apart: LengthSet) -> str:
    return "" if apart.is_empty else f" but {_listed(apart)}"


def _pattern(stretch: Stretch) -> str:
    """The remainders of a stretch: "4n + 1"; those that it lacks, where these are fewer."""
    period = stretch.period
    if period == 1:
        return "any number"
    rests = [r for r in range(period) if stretch.mask >> r & 1]
    if 2 * len(rests) > period and period > 2:
        others = [r for r in range(period) if r not in {*rests}]
        return f"any number but {_remainders(period, others)}"
    return _remainders(period, rests)


def _remainders(period: int, rests: list[int]) -> str:
    return _or([f"{period}n" + (f" + {r}" if r else "") for r in rests])


def _listed(lengths: LengthSet) -> str:
    """Stretch by stretch."""
    words = []
    for i, s in enumerate(lengths.stretches):
        if not s.mask:
            continue
        last = None
        if i + 1 < len(lengths.stretches):
            last = lengths.stretches[i + 1].start - 1
        if s.period == 1:
            more = f"{s.start} or more" if last is None else f"{s.start} to {last}"
            words.append(str(s.start) if last == s.start else more)
        else:
            more = f"{_pattern(s)} from {s.start}"
            words.append(f"({more} on)" if last is None else f"({more} to {last})")
    return _or(words)


def _or(words: list[str]) -> str:
    if len(words) > MOST_NAMED:
        words = [*words[: MOST_NAMED - 1], f"{len(words) - MOST_NAMED + 1} more"]
    return " or ".join(filter(None, [", ".join(words[:-1]), words[-1]]))
