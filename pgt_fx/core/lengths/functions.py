"""Functions of a video's length, exactly: sums of floors, remainders, least and largest ones.

Every size that a model computes from its number of frames T (bounds of slices, kernels of pools,
paddings, arguments of ``arange``) is made of affine terms by +, constant multiples, ``//``, ``%``,
``min`` and ``max``. From some length on such a function is *quasi-linear*: f(T + P) = f(T) + Q,
with a period P that the divisors give and an increment Q for each remainder modulo P. Before that
it is so piece by piece. So what holds for all of infinitely many lengths is decided by looking at
one period of each piece, and never by trying some.

Questions about them are answered in :mod:`pgt_fx.core.lengths.questions`:

>>> from pgt_fx.core.lengths.questions import equal, less, offset_from
>>> t = frames()
>>> equal(2 * t // 2, t), offset_from((t - 1) // 2 + 1, t // 2)
(True, None)
>>> offset_from((t - 1) // 2 + 1, (t + 1) // 2)
0
>>> print(less(t // 200, 1))
at most 199
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from functools import partial
from typing import NamedTuple

from pgt_fx.core.lengths.sets import (
    MOST_ONE_BY_ONE,
    MOST_PIECES,
    NotQuasiLinear,
    common_period,
    shortened,
)

Number = int | Fraction
Values = tuple[Number | None, ...]


class Piece(NamedTuple):
    """From ``start`` to the next piece: at length start + i + k * P the value is
    ``values[i] + k * steps[i]``, for the period P = ``len(values)``; None: there is no value (a
    division by zero)."""

    start: int
    values: Values
    steps: tuple[Number, ...]

    def at(self, length: int) -> Number | None:
        k, i = divmod(length - self.start, len(self.values))
        value = self.values[i]
        return None if value is None else value + k * self.steps[i]

    def moved(self, start: int, period: int) -> Piece:
        """The same from a later start on, with a multiple of its period."""
        own = len(self.values)
        if start == self.start and period == own:
            return self
        values = tuple(self.at(n) for n in range(start, start + period))
        more, first = period // own, start - self.start
        steps = tuple(more * self.steps[(first + i) % own] for i in range(period))
        return Piece(start, values, steps)


class QuasiLinear:
    """A function of the length T >= 1 that is quasi-linear piece by piece; see the module."""

    def __init__(self, pieces: Iterable[Piece]) -> None:
        self.pieces = _plain(pieces)
        self.starts = [p.start for p in self.pieces]

    def __call__(self, length: int) -> Number | None:
        """The value at a length >= 1; None where there is none."""
        return self.pieces[bisect_right(self.starts, length) - 1].at(length)

    @property
    def is_constant(self) -> bool:
        """Whether it is the same number at every length."""
        (first, *others) = self.pieces
        return not others and len(first.values) == 1 and first.steps == (0,)

    # -- arithmetic ----------------------------------------------------------------------------

    def __add__(self, other: QuasiLinear | Number) -> QuasiLinear:
        return _by_class(
            self,
            as_function(other),
            lambda a, b: (a[0] + b[0], a[1] + b[1]),
        )

    __radd__ = __add__

    def __neg__(self) -> QuasiLinear:
        return self * -1

    def __sub__(self, other: QuasiLinear | Number) -> QuasiLinear:
        return self + -as_function(other)

    def __rsub__(self, other: Number) -> QuasiLinear:
        return -self + other

    def __mul__(self, other: QuasiLinear | Number) -> QuasiLinear:
        """The product, where one factor is constant (for each remainder)."""

        def product(a: Line, b: Line) -> Line:
            if a[1] and b[1]:
                raise NotQuasiLinear("a product of two numbers that grow with the length")
            return a[0] * b[0], a[0] * b[1] + b[0] * a[1]

        return _by_class(self, as_function(other), product)

    __rmul__ = __mul__

    def __truediv__(self, other: QuasiLinear | Number) -> QuasiLinear:
        """The quotient by a constant (for each remainder)."""

        def quotient(a: Line, b: Line) -> Line | None:
            if b[1]:
                raise NotQuasiLinear("a division by a number that grows with the length")
            return None if b[0] == 0 else (Fraction(a[0]) / b[0], Fraction(a[1]) / b[0])

        return _by_class(self, as_function(other), quotient)

    def __floordiv__(self, other: QuasiLinear | Number) -> QuasiLinear:
        """The quotient, rounded down; the divisor may grow with the length as well."""
        return _floor(self, as_function(other))

    def __mod__(self, other: QuasiLinear | Number) -> QuasiLinear:
        other = as_function(other)
        return self - other * (self // other)

    def __repr__(self) -> str:
        return f"QuasiLinear({list(self.pieces)})"


#: A value and its increment from one period to the next.
Line = tuple[Number, Number]
Part = tuple[int, int | None, Piece, Piece]


def frames(ratio: int = 1) -> QuasiLinear:
    """The length itself, or that of an input path with ``ratio`` times as many frames."""
    return QuasiLinear([Piece(1, (ratio,), (ratio,))])


def constant(value: Number) -> QuasiLinear:
    return QuasiLinear([Piece(1, (value,), (0,))])


def as_function(value: QuasiLinear | Number) -> QuasiLinear:
    return value if isinstance(value, QuasiLinear) else constant(value)


def together(f: QuasiLinear, g: QuasiLinear, on: Iterable[int] = ()) -> Iterator[Part]:
    """Pieces of both between the same starts and of one period: (start, end, f's, g's)."""
    starts = sorted({*f.starts, *g.starts, *on})
    for start, end in zip(starts, [*starts[1:], None], strict=True):
        a = f.pieces[bisect_right(f.starts, start) - 1]
        b = g.pieces[bisect_right(g.starts, start) - 1]
        period = common_period(len(a.values), len(b.values))
        yield start, end, a.moved(start, period), b.moved(start, period)


def _by_class(
    f: QuasiLinear, g: QuasiLinear, op: Callable[[Line, Line], Line | None]
) -> QuasiLinear:
    """What ``op`` makes of the two for each remainder, piece by piece."""
    out = []
    for start, end, a, b in together(f, g):
        values: list[Number | None] = []
        steps: list[Number] = []
        period = len(a.values)
        for i, (v, w) in enumerate(zip(a.values, b.values, strict=True)):
            once = end is not None and start + i + period >= end  # at one length, or none
            lines = [(x or 0, 0 if once else p.steps[i]) for x, p in ((v, a), (w, b))]
            found = None if v is None or w is None else op(*lines)
            values.append(None if found is None else found[0])
            steps.append(0 if found is None else found[1])
        out.append(Piece(start, tuple(values), tuple(steps)))
    return QuasiLinear(out)


# ------------------------------------------------------------------------------- quotients


def _floor(f: QuasiLinear, g: QuasiLinear) -> QuasiLinear:
    out: list[Piece] = []
    for start, end, a, b in together(f, g):
        own, more, settled = len(a.values), 1, 0
        quotients: list[int | None] = []
        for i in range(own):
            v, q, w, r = a.values[i], a.steps[i], b.values[i], b.steps[i]
            if v is None or w is None or (r == 0 and w == 0):
                quotients.append(None)
            elif r == 0:
                quotients.append(None)
                more = math.lcm(more, Fraction(Fraction(q) / w).denominator)
            else:
                quotient, after = _settles(v, q, w, r)
                quotients.append(quotient)
                settled = max(settled, after)
        period = common_period(own, own * more)
        # A quotient of two numbers that grow is constant in the end; before, it is looked at.
        first = start + settled * own
        if end is not None:
            first = min(first, end)
        if first - start > MOST_ONE_BY_ONE:
            raise NotQuasiLinear("a quotient that settles late")
        out += _points([_quotient(a.at(n), b.at(n)) for n in range(start, first)], start)
        if first == end:
            continue
        a, b = a.moved(first, period), b.moved(first, period)
        values, steps = [], []
        for i in range(period):
            grows = b.steps[i] != 0
            values.append(quotients[i % own] if grows else _quotient(a.values[i], b.values[i]))
            unknown = grows or values[-1] is None
            steps.append(0 if unknown else int(Fraction(a.steps[i]) / (b.values[i] or 1)))
        out.append(Piece(first, tuple(values), tuple(steps)))
    return QuasiLinear(out)


def _quotient(a: Number | None, b: Number | None) -> int | None:
    return None if a is None or not b else int(a // b)


def _settles(v: Number, q: Number, w: Number, r: Number) -> tuple[int, int]:
    """What floor((v + kq) / (w + kr)) is in the end, for r != 0, and a k from which on."""
    ratio = Fraction(q) / r
    quotient = math.floor(ratio)
    rest = v - ratio * w  # the numerator without that many times the divisor
    if ratio == quotient and rest and (rest > 0) != (r > 0):
        quotient -= 1
    # From some k on the divisor has the sign of r, and 0 <= remainder / divisor < 1.
    sign = 1 if r > 0 else -1
    lines = [
        (sign * w, sign * r, True),
        (sign * (v - quotient * w), sign * (q - quotient * r), False),
        (sign * (w - v + quotient * w), sign * (r - q + quotient * r), True),
    ]
    return quotient, max(positive_from(*line) for line in lines)


def positive_from(value: Number, step: Number, strict: bool) -> int:
    """The least k >= 0 from which on value + k * step > 0 (or >= 0), where there is one."""
    if value > 0 or (value == 0 and (not strict or step > 0)):
        return 0 if value > 0 or not strict else 1
    k = Fraction(-value) / step
    return math.floor(k) + 1 if strict else math.ceil(k)


def _points(values: Iterable[Number | None], start: int) -> list[Piece]:
    """Values from length to length: pieces on which they are constant."""
    out: list[Piece] = []
    for n, value in enumerate(values, start):
        if not out or out[-1].values != (value,):
            out.append(Piece(n, (value,), (0,)))
    return out


# ---------------------------------------------------------------------------- plain forms


def _plain(pieces: Iterable[Piece]) -> tuple[Piece, ...]:
    """The same function with least periods, pieces that go on joined; whole numbers as ``int``."""
    out: list[Piece] = []
    for piece in pieces:
        values = tuple(None if v is None else _whole(v) for v in piece.values)
        piece = Piece(piece.start, values, tuple(map(_whole, piece.steps)))
        period = len(values)
        if period > 1:
            period = shortened(period, partial(_repeats, piece))
            steps = (_whole(Fraction(s) * period / len(values)) for s in piece.steps[:period])
            piece = Piece(piece.start, values[:period], tuple(steps))
        if out and len(out[-1].values) == period and out[-1].moved(piece.start, period) == piece:
            continue
        out.append(piece)
        if len(out) > MOST_PIECES:
            raise NotQuasiLinear(f"a function of more than {MOST_PIECES} pieces")
    return tuple(out)


def _repeats(piece: Piece, d: int) -> bool:
    """Whether the piece has the shorter period d."""
    period = len(piece.values)
    for i in range(period - d):
        v, w, s = piece.values[i], piece.values[i + d], piece.steps[i]
        if piece.steps[i + d] != s or (v is None) != (w is None):
            return False
        if v is not None and w is not None and (w - v) * period != s * d:
            return False
    return True


def _whole(n: Number) -> Number:
    return n.numerator if isinstance(n, Fraction) and n.denominator == 1 else n
