"""What an entry of a table can be, derived from the operators that make it: by cases.

The entry of a mask at row r and column c is followed through the mask's operators as a list of
*cases*: inequalities in r and c (:mod:`pgt_fx.core.entries.inequalities`), and the value where
they hold. A comparison makes two cases of one, ``where`` chooses between them. The cases cover all
entries; a value that can't be determined is taken to be any number, never guessed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, NamedTuple

from pgt_fx.core.entries.inequalities import Linear, Number, Space

#: Cases of one entry at most; with more it is said to be any number.
MOST_CASES = 256
#: A score of minus this much has no weight beside an ordinary one, as e to the power of their
#: difference is zero in double precision too: -1e9 is what many models hide with.
LEAST = Fraction(10) ** 9
#: This much stays so whatever an ordinary number, or a position times one, is added to it.
UTTERLY_LEAST = Fraction(10) ** 27
#: Scores are taken to be smaller than this.
ORDINARY = Fraction(10) ** 8
#: Rounding of one operation in single precision, with room; denominators and sizes up to which
#: products with a position are not rounded at all.
ROUNDING = Fraction(1, 2**20)
EXACT_PARTS, EXACT_SIZE = 2**8, 2**12


@dataclass(frozen=True)
class Form:
    """A number that is a linear form, up to a relative error.

    Attributes:
        quotient: it is a whole number divided by a constant, rounded once: its floor is exact.
    """

    linear: Linear
    error: Fraction = Fraction(0)
    quotient: bool = False

    @property
    def constant(self) -> Fraction | None:
        """The number, where it is one and no rounding matters."""
        return None if self.linear.terms or self.error else self.linear.constant


@dataclass(frozen=True)
class Unknown:
    """A number that isn't known: an ordinary one (a score, a bias), or any at all."""

    finite: bool


@dataclass(frozen=True)
class Infinite:
    sign: int


Value = Form | Unknown | Infinite
FINITE, ANY = Unknown(True), Unknown(False)


class Case(NamedTuple):
    """A value, and inequalities that hold where the entry has it."""

    given: tuple[Linear, ...]
    value: Value


Cases = list[Case]


def number(value: float | Number) -> Value:
    """A constant as a value."""
    if isinstance(value, float) and math.isnan(value):
        return ANY
    if isinstance(value, float) and math.isinf(value):
        return Infinite(1 if value > 0 else -1)
    return Form(Linear({}, Fraction(value)))


TRUE, FALSE = number(1), number(0)


def hides(value: Value) -> bool:
    """Whether a score of this value has no weight for certain."""
    if isinstance(value, Infinite):
        return value.sign < 0
    return isinstance(value, Form) and not value.linear.terms and value.linear.constant <= -LEAST


def ordinary(value: Value) -> bool:
    """Whether it is for certain a number of the size of a score, by which others can be hidden."""
    if isinstance(value, Form):
        return bool(value.linear.terms) or abs(value.linear.constant) < ORDINARY
    return isinstance(value, Unknown) and value.finite


class Entries:
    """The arithmetic of cases over one space of variables."""

    def __init__(self, space: Space) -> None:
        self.space = space

    # -- combining -----------------------------------------------------------------------------

    def each(self, operands: Sequence[Cases], op: Callable[..., Iterator[Case]]) -> Cases:
        """What ``op`` makes of the values, for all cases of the operands at once."""
        out: Cases = []

        def go(rest: Sequence[Cases], given: tuple[Linear, ...], values: tuple[Value, ...]) -> None:
            if not rest:
                for more, value in op(*values):
                    out.append(Case((*given, *more), value))
                return
            for case in rest[0]:
                both = (*given, *(g for g in case.given if g not in given))
                if len(both) == len(given) or self.space.feasible(both):
                    go(rest[1:], both, (*values, case.value))

        go(operands, (), ())
        return self.pruned(out)

    def pruned(self, cases: Cases) -> Cases:
        """Without the cases that no entry is, and each only once."""
        shorter = (
            Case(tuple(g for g in c.given if g.terms or g.constant < 0), c.value) for c in cases
        )
        kept = [c for c in dict.fromkeys(shorter) if self.space.feasible(c.given)]
        return kept if len(kept) <= MOST_CASES else [Case((), ANY)]

    def chosen(self, on: Cases, yes: Cases, no: Cases) -> Cases:
        """``where(on, yes, no)``."""
        out: Cases = []
        for given, truth in self.truth(on):
            for side, wanted in ((yes, TRUE), (no, FALSE)):
                if truth in (wanted, FINITE):
                    out += [Case((*given, *c.given), c.value) for c in side]
        return self.pruned(out)

    def truth(self, cases: Cases) -> Cases:
        """1 where a value is not zero, 0 where it is; unknown otherwise."""
        return self.compared("ne", cases, [Case((), FALSE)])

    def both(self, a: Cases, b: Cases) -> Cases:
        """``a and b``."""
        return self.chosen(a, self.truth(b), [Case((), FALSE)])

    def either(self, a: Cases, b: Cases) -> Cases:
        """``a or b``."""
        return self.chosen(a, [Case((), TRUE)], self.truth(b))

    def negated(self, a: Cases) -> Cases:
        """``not a``."""
        return self.compared("eq", a, [Case((), FALSE)])

    # -- comparing -----------------------------------------------------------------------------

    def compared(self, how: str, a: Cases, b: Cases) -> Cases:
        """``lt``, ``le``, ``gt``, ``ge``, ``eq`` or ``ne`` of two values."""
        return self.each([a, b], lambda x, y: self._compare(how, x, y))

    def _compare(self, how: str, x: Value, y: Value) -> Iterator[Case]:
        if how in ("gt", "ge"):
            yield from self._compare({"gt": "lt", "ge": "le"}[how], y, x)
            return
        if how == "ne":
            for given, value in self._compare("eq", x, y):
                yield Case(given, {TRUE: FALSE, FALSE: TRUE}.get(value, value))
            return
        if isinstance(x, Infinite) or isinstance(y, Infinite):
            yield Case((), self._beside_infinity(how, x, y))
            return
        if isinstance(x, Unknown) or isinstance(y, Unknown):
            yield Case((), FINITE)
            return
        room = _room(x, y)
        if room is None:
            yield Case((), FINITE)
            return
        difference, positive = y.linear - x.linear, self.space.positive
        more, less = difference + room, -difference + room  # y >= x, x >= y
        if room and how != "eq":
            yield Case((more,), TRUE)
            yield Case((less,), FALSE)
        elif room:
            yield Case((more, less), FINITE)
            yield Case((more,), FALSE)
            yield Case((less,), FALSE)
        elif how == "lt":
            yield Case((positive(difference),), TRUE)
            yield Case((-difference,), FALSE)
        elif how == "le":
            yield Case((difference,), TRUE)
            yield Case((positive(-difference),), FALSE)
        else:
            yield Case((difference, -difference), TRUE)
            yield Case((positive(difference),), FALSE)
            yield Case((positive(-difference),), FALSE)

    @staticmethod
    def _beside_infinity(how: str, x: Value, y: Value) -> Value:
        if ANY in (x, y):
            return FINITE
        left = x.sign if isinstance(x, Infinite) else 0
        right = y.sign if isinstance(y, Infinite) else 0
        holds = {"lt": left < right, "le": left <= right, "eq": left == right}[how]
        return TRUE if holds else FALSE

    def infinite(self, a: Cases, sign: int = 0) -> Cases:
        """Whether a value is infinite, of a sign if one is given."""

        def ask(x: Value) -> Iterator[Case]:
            if x == ANY:
                yield Case((), FINITE)
            else:
                found = isinstance(x, Infinite) and sign in (0, x.sign)
                yield Case((), TRUE if found else FALSE)

        return self.each([a], ask)

    # -- arithmetic ----------------------------------------------------------------------------

    def plus(self, a: Cases, b: Cases, factor: Value = TRUE, *, floats: bool = True) -> Cases:
        """``a + factor * b``."""
        scaled = b if factor == TRUE else self.times(b, [Case((), factor)], floats=floats)

        def add(x: Value, y: Value) -> Iterator[Case]:
            yield Case((), _sum(x, y, floats))

        return self.each([a, scaled], add)

    def times(self, a: Cases, b: Cases, *, floats: bool = True) -> Cases:
        """``a * b``."""

        def multiply(x: Value, y: Value) -> Iterator[Case]:
            if isinstance(y, Infinite):
                x, y = y, x
            if isinstance(x, Infinite) and isinstance(y, Form) and not y.error:
                yield Case((self.space.positive(y.linear),), x)
                yield Case((self.space.positive(-y.linear),), Infinite(-x.sign))
                yield Case((y.linear, -y.linear), ANY)
            else:
                yield Case((), _product(x, y, floats))

        return self.each([a, b], multiply)

    def over(self, a: Cases, b: Cases) -> Cases:
        """``a / b``."""

        def divide(x: Value, y: Value) -> Iterator[Case]:
            k = y.constant if isinstance(y, Form) else None
            if not k:
                # A number of frames, or another one above zero, leaves what is hidden hidden.
                above = isinstance(y, Form) and not self.space.feasible([-y.linear])
                yield Case((), x if isinstance(x, Infinite) and above else ANY)
            elif isinstance(x, Form) and self.space.is_whole(x.linear) and not x.error:
                found = _product(x, Form(Linear({}, 1 / k)), True)
                if k.denominator == 1 and isinstance(found, Form):
                    found = Form(found.linear, found.error, True)
                yield Case((), found)
            elif isinstance(x, Infinite):
                yield Case((), Infinite(x.sign if k > 0 else -x.sign))
            else:
                yield Case((), _product(x, Form(Linear({}, 1 / k)), True))

        return self.each([a, b], divide)

    def floored(self, a: Cases, how: str = "floor", *, divisor: Cases | None = None) -> Cases:
        """``floor`` (or ``ceil``, ``trunc``, ``round``) of ``a``, divided by ``divisor`` first."""

        def cut(x: Value, y: Value = TRUE) -> Iterator[Case]:
            k = y.constant if isinstance(y, Form) else None
            exact = isinstance(x, Form) and (
                not x.error or (x.quotient and how == "floor" and k == 1)
            )
            exact = exact and k is not None and _short(Linear({}, k))
            if not isinstance(x, Form) or not exact or not k:
                yield Case((), x if k and k > 0 and isinstance(x, Infinite) else _like(x, k))
                return
            form, parts = (x.linear, k) if k > 0 else (-x.linear, -k)
            form, whole = form * parts.denominator, parts.numerator
            if how == "ceil":
                yield Case((), Form(-self.space.floor(-form, whole)))
            elif how == "floor":
                yield Case((), Form(self.space.floor(form, whole)))
            elif self.space.is_whole(form) and whole == 1:
                yield Case((), Form(form))
            else:
                yield Case((), Form(self.space.within_one(form * Fraction(1, whole))))

        return self.each([a] if divisor is None else [a, divisor], cut)

    def remainder(self, a: Cases, b: Cases) -> Cases:
        """``a % b`` as Python has it."""
        product = self.times(self.floored(a, divisor=b), b, floats=False)
        return self.plus(a, product, number(-1), floats=False)

    def larger(self, a: Cases, b: Cases) -> Cases:
        """The larger of two values."""
        return self._extreme("le", a, b)

    def smaller(self, a: Cases, b: Cases) -> Cases:
        """The smaller of two values."""
        return self._extreme("le", b, a, first=False)

    def _extreme(self, how: str, a: Cases, b: Cases, *, first: bool = True) -> Cases:
        """``b`` where a <= b, else ``a`` (for ``first``), and the other way round."""

        def choose(x: Value, y: Value) -> Iterator[Case]:
            for given, holds in self._compare(how, x, y):
                if holds == TRUE:
                    yield Case(given, y if first else x)
                elif holds == FALSE:
                    yield Case(given, x if first else y)
                else:
                    yield Case(given, _mixed(x, y, largest=first))

        return self.each([a, b], choose)

    def absolute(self, a: Cases) -> Cases:
        """``abs``."""
        return self.larger(a, self.times(a, [Case((), number(-1))]))


def _room(x: Form, y: Form) -> Fraction | None:
    """By how much two numbers may be nearer or farther than their forms; None: unknown."""
    (a, b), (k, n) = ((z.error or _own_error(z.linear) for z in (x, y)), (x.linear, y.linear))
    if not a and not b:
        return Fraction(0)
    if k.terms and n.terms:
        return None
    return 4 * (a + b) * max(abs(z.constant) for z in (k, n) if not z.terms)


def _own_error(form: Linear) -> Fraction:
    """The relative error of a constant when it is written in single precision."""
    k = form.constant
    exact = form.terms or _short(form) or (k.denominator == 1 and abs(k) <= 2**24)
    return Fraction(0) if exact else ROUNDING


def _sum(x: Value, y: Value, floats: bool) -> Value:
    if isinstance(x, Infinite) or isinstance(y, Infinite):
        if isinstance(x, Infinite) and isinstance(y, Infinite):
            return x if x == y else ANY
        inf, other = (x, y) if isinstance(x, Infinite) else (y, x)
        return ANY if other == ANY else inf
    if ANY in (x, y):
        return ANY
    for one, other in ((x, y), (y, x)):
        if isinstance(one, Form) and not ordinary(one) and ordinary(other):
            # The least number stays; one of -1e9 does beside positions up to 2^24.
            return ANY if _steep(other) and abs(one.linear.constant) < UTTERLY_LEAST else one
    if isinstance(x, Unknown) or isinstance(y, Unknown):
        return FINITE if ordinary(x) and ordinary(y) else ANY
    if not isinstance(x, Form) or not isinstance(y, Form):
        return ANY
    if (x.error and y.linear.key != ((), 0)) or (y.error and x.linear.key != ((), 0)):
        return FINITE
    total = x.linear + y.linear
    rounded = floats and not all(map(_short, (x.linear, y.linear)))
    return Form(total, max(x.error, y.error) + (ROUNDING if rounded else 0))


def _steep(x: Value) -> bool:
    """Whether it grows with a position to more than an ordinary score at any usual one."""
    return isinstance(x, Form) and any(abs(k) * 2**24 > ORDINARY for k in x.linear.terms.values())


def _product(x: Value, y: Value, floats: bool) -> Value:
    if isinstance(x, Infinite) and isinstance(y, Infinite):
        return Infinite(x.sign * y.sign)
    if ANY in (x, y) or isinstance(x, Infinite) or isinstance(y, Infinite):
        return ANY
    for one, other in ((x, y), (y, x)):
        k = one.constant if isinstance(one, Form) else None
        if k == 0:
            return FALSE
        if k is not None and isinstance(other, Form):
            rounded = floats and not (_short(other.linear) and _short(Linear({}, k)))
            error = other.error + (ROUNDING if rounded else 0)
            return Form(other.linear * k, error, other.quotient and k == 1)
    return FINITE if ordinary(x) and ordinary(y) else ANY


def _short(form: Linear) -> bool:
    """Whether products and sums with it are exact in single precision, at any usual position."""
    numbers = (form.constant, *form.terms.values())
    huge = not form.terms and abs(form.constant) >= ORDINARY
    return huge or all(EXACT_PARTS % a.denominator == 0 and abs(a) <= EXACT_SIZE for a in numbers)


def _like(x: Value, k: Any) -> Value:
    return FINITE if k and ordinary(x) else ANY


def _mixed(x: Value, y: Value, *, largest: bool) -> Value:
    """The larger (or smaller) of two values that can't be compared."""
    if ordinary(x) and ordinary(y):
        return FINITE
    if largest:  # of the least number and an ordinary one it is the ordinary one
        for one, other in ((x, y), (y, x)):
            if hides(one) and isinstance(other, Unknown):
                return other
    elif hides(x) or hides(y):
        return ANY if ANY in (x, y) else (x if hides(x) else y)
    return ANY
