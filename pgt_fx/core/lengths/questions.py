"""Questions about functions of a video's length: where they are equal, and how far apart.

Answered for all lengths of a set (:class:`~pgt_fx.core.lengths.sets.LengthSet`), by looking at one
period of each piece of the functions.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from itertools import zip_longest

from pgt_fx.core.lengths.functions import (
    Number,
    Piece,
    QuasiLinear,
    as_function,
    positive_from,
    together,
)
from pgt_fx.core.lengths.sets import (
    ANY_LENGTH,
    MOST_ONE_BY_ONE,
    LengthSet,
    NotQuasiLinear,
    Stretch,
    common_period,
)


def positive(f: QuasiLinear, *, strict: bool = True) -> LengthSet:
    """The lengths at which f > 0; with ``strict=False`` f >= 0."""
    out: list[Stretch] = []

    def holds(value: Number | None) -> bool:
        return value is not None and (value > 0 if strict else value >= 0)

    for piece, following in zip_longest(f.pieces, f.pieces[1:]):
        start, period = piece.start, len(piece.values)
        end = None if following is None else following.start
        at_first = [holds(v) for v in piece.values]
        at_last = [
            v is not None and (q > 0 or (q == 0 and holds(v)))
            for v, q in zip(piece.values, piece.steps, strict=True)
        ]
        turns = []
        for i, (before, after) in enumerate(zip(at_first, at_last, strict=True)):
            v, q = piece.values[i] or 0, piece.steps[i]
            if before != after:
                k = positive_from(v, q, strict) if after else positive_from(-v, -q, not strict)
                turns.append(start + i + k * period)
        first, last = min(turns, default=start), max(turns, default=start)
        if end is not None:
            first, last = min(first, end), min(last, end)
        if last - first > MOST_ONE_BY_ONE:
            raise NotQuasiLinear("a comparison whose answer settles late")
        if first > start:
            out.append(_stretch(start, start, at_first))
        known = None
        for n in range(first, last):
            if known is not (known := holds(piece.at(n))):
                out.append(Stretch(n, 1, int(known)))
        if end is None or last < end:
            out.append(_stretch(last, start, at_last))
    return LengthSet(out)


def _stretch(start: int, first: int, members: list[bool]) -> Stretch:
    """Members by their place after ``first``, from ``start`` on."""
    period = len(members)
    mask = sum(1 << (first + i) % period for i, member in enumerate(members) if member)
    return Stretch(start, period, mask)


def less(f: QuasiLinear | Number, g: QuasiLinear | Number) -> LengthSet:
    """The lengths at which f < g."""
    return positive(as_function(g) - f)


def at_most(f: QuasiLinear | Number, g: QuasiLinear | Number) -> LengthSet:
    """The lengths at which f <= g."""
    return positive(as_function(g) - f, strict=False)


def same(f: QuasiLinear | Number, g: QuasiLinear | Number) -> LengthSet:
    """The lengths at which f == g."""
    difference = as_function(f) - g
    return positive(difference, strict=False) & positive(-difference, strict=False)


def defined(f: QuasiLinear) -> LengthSet:
    """The lengths at which f has a value."""
    out = []
    for p in f.pieces:
        out.append(_stretch(p.start, p.start, [v is not None for v in p.values]))
    return LengthSet(out)


def where(on: LengthSet, f: QuasiLinear | Number, g: QuasiLinear | Number) -> QuasiLinear:
    """f at the lengths in a set, and g at the others."""
    out = []
    for start, _, a, b in together(as_function(f), as_function(g), on.starts):
        stretch = on.stretch(start)
        period = common_period(len(a.values), stretch.period)
        a, b = a.moved(start, period), b.moved(start, period)
        chosen = [
            a if stretch.mask >> (start + i) % stretch.period & 1 else b for i in range(period)
        ]
        values = tuple(p.values[i] for i, p in enumerate(chosen))
        out.append(Piece(start, values, tuple(p.steps[i] for i, p in enumerate(chosen))))
    return QuasiLinear(out)


def next_one(f: QuasiLinear) -> QuasiLinear:
    """The value at the next length: T -> f(T + 1)."""
    out = []
    for piece, following in zip_longest(f.pieces, f.pieces[1:]):
        start = max(1, piece.start - 1)
        if following is None or following.start - 1 > start:
            moved = piece.moved(start + 1, len(piece.values))
            out.append(Piece(start, moved.values, moved.steps))
    return QuasiLinear(out)


def never_falls(f: QuasiLinear) -> bool:
    """Whether the value is never less than at a shorter length."""
    rises = positive(next_one(f) - f, strict=False)
    return rises.is_all


def smaller(f: QuasiLinear | Number, g: QuasiLinear | Number) -> QuasiLinear:
    """The smaller of the two at each length."""
    return where(at_most(f, g), f, g)


def larger(f: QuasiLinear | Number, g: QuasiLinear | Number) -> QuasiLinear:
    """The larger of the two at each length."""
    return where(at_most(f, g), g, f)


# ------------------------------------------------------------------------------- questions


def equal(f: QuasiLinear | Number, g: QuasiLinear | Number, on: LengthSet = ANY_LENGTH) -> bool:
    """Whether the two are the same at every length of a set, where both have a value."""
    difference = as_function(f) - g
    return (on & (positive(difference) | positive(-difference))).is_empty


def the_constant(f: QuasiLinear | Number, on: LengthSet = ANY_LENGTH) -> Number | None:
    """The value, if it is the same at every length of a set at which there is one; else None."""
    found: Number | None = None
    for value, step, _ in _lines(as_function(f), on):
        if step or (found is not None and value != found):
            return None
        found = value
    return found


def offset_from(
    f: QuasiLinear | Number, g: QuasiLinear | Number, on: LengthSet = ANY_LENGTH
) -> Number | None:
    """f - g, if it is the same at every length of a set; else None."""
    return the_constant(as_function(f) - g, on)


def remainder(
    f: QuasiLinear | Number, modulus: Number, on: LengthSet = ANY_LENGTH
) -> Number | None:
    """f modulo a number, if it is the same at every length of a set; else None."""
    return the_constant(as_function(f) % modulus, on)


def bounds(
    f: QuasiLinear | Number, on: LengthSet = ANY_LENGTH
) -> tuple[Number | None, Number | None]:
    """The least and the largest value at the lengths of a set; None: there is none."""
    lows: list[Number | None] = []
    highs: list[Number | None] = []
    for value, step, count in _lines(as_function(f), on):
        last = value if not step else None if count is None else value + (count - 1) * step
        lows.append(last if step < 0 else value)
        highs.append(last if step > 0 else value)
    low = None if None in lows else min((n for n in lows if n is not None), default=None)
    high = None if None in highs else max((n for n in highs if n is not None), default=None)
    return low, high


def _lines(f: QuasiLinear, on: LengthSet) -> Iterator[tuple[Number, Number, int | None]]:
    """The values at the lengths of a set: (first, increment, how many; None: without end)."""
    starts = sorted({*f.starts, *on.starts})
    for start, end in zip(starts, [*starts[1:], None], strict=True):
        piece, stretch = f.pieces[bisect_right(f.starts, start) - 1], on.stretch(start)
        if not stretch.mask:
            continue
        period = common_period(len(piece.values), stretch.period)
        piece = piece.moved(start, period)
        for i, (value, step) in enumerate(zip(piece.values, piece.steps, strict=True)):
            count = None if end is None else -((start + i - end) // period)
            if value is None or (count is not None and count <= 0):
                continue
            if stretch.mask >> (start + i) % stretch.period & 1:
                yield value, 0 if count == 1 else step, count
