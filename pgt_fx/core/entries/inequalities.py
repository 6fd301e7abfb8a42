"""Linear inequalities over a few whole and real numbers, exactly: is there a solution, and how
small can a linear form be?

Variables are eliminated one by one (Fourier and Motzkin). Of inequalities over whole numbers alone
the constant is rounded, so that ``2x >= 1`` is ``x >= 1``. What is found to have no solution has
none, and a bound that is found holds; that there is a solution is said of real numbers, so that a
bound may be looser than the best one. Nothing is decided by trying numbers.

>>> space = Space()
>>> r, c = space.whole(0), space.whole(0)
>>> block, other = space.floor(r, 8), space.floor(c, 8)
>>> space.least(r - c, [block - other])  # r // 8 >= c // 8 looks ahead within a block
Fraction(-7, 1)
>>> space.least(r - c, [r - c - 2, c - 5]), space.least(c - r, [c])
(Fraction(2, 1), None)
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction

Number = int | Fraction
#: Inequalities at most; with more nothing is said.
MOST = 600


class Linear:
    """A sum of multiples of variables and a constant."""

    __slots__ = ("constant", "terms")

    def __init__(self, terms: Mapping[int, Number], constant: Number = 0) -> None:
        self.terms = {v: Fraction(a) for v, a in terms.items() if a}
        self.constant = Fraction(constant)

    def __add__(self, other: Linear | Number) -> Linear:
        if not isinstance(other, Linear):
            return Linear(self.terms, self.constant + other)
        terms = dict(self.terms)
        for v, a in other.terms.items():
            terms[v] = terms.get(v, Fraction(0)) + a
        return Linear(terms, self.constant + other.constant)

    def __mul__(self, factor: Number) -> Linear:
        return Linear({v: a * factor for v, a in self.terms.items()}, self.constant * factor)

    def __neg__(self) -> Linear:
        return self * -1

    def __sub__(self, other: Linear | Number) -> Linear:
        return self + -other

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Linear) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)

    @property
    def key(self) -> tuple[tuple[tuple[int, Fraction], ...], Fraction]:
        return tuple(sorted(self.terms.items())), self.constant

    def __repr__(self) -> str:
        return " + ".join(
            [*(f"{a}*x{v}" for v, a in sorted(self.terms.items())), f"{self.constant}"]
        )


#: A row of whole numbers: coefficients by variable, and the constant; it is >= 0.
Row = tuple[tuple[tuple[int, int], ...], int]


class Space:
    """Variables, and the inequalities that always hold of them."""

    def __init__(self) -> None:
        self._whole: list[bool] = []
        self._known: list[list[Linear]] = []
        self._floors: dict[tuple[Linear, int], Linear] = {}
        self._solved: dict[frozenset[Linear], bool] = {}

    def whole(self, least: Number | None = None, most: Number | None = None) -> Linear:
        """A new variable, a whole number within bounds."""
        return self._variable(True, least, most)

    def real(self, least: Number | None = None, most: Number | None = None) -> Linear:
        """A new variable, any number within bounds."""
        return self._variable(False, least, most)

    def _variable(self, whole: bool, least: Number | None, most: Number | None) -> Linear:
        number = len(self._whole)
        new = Linear({number: 1})
        self._whole.append(whole)
        self._known.append([])
        if least is not None:
            self._known[number].append(new - least)
        if most is not None:
            self._known[number].append(-new + most)
        return new

    def is_whole(self, form: Linear) -> bool:
        """Whether a linear form is a whole number for certain."""
        numbers = (form.constant, *form.terms.values())
        return all(a.denominator == 1 for a in numbers) and all(self._whole[v] for v in form.terms)

    def floor(self, form: Linear, divisor: int = 1) -> Linear:
        """The largest whole number that is at most ``form / divisor``, for a divisor above 0; the
        same variable when it is asked again."""
        if not form.terms:
            return Linear({}, math.floor(form.constant / divisor))
        if divisor == 1 and self.is_whole(form):
            return form
        known = self._floors.get((form, divisor))
        if known is None:
            known = self.whole()
            # Of a form in parts of 1 / d the remainder is at most divisor - 1 / d.
            whole = all(self._whole[v] for v in form.terms)
            parts = math.lcm(*(a.denominator for a in (form.constant, *form.terms.values())))
            rest = form - known * divisor
            most = divisor - Fraction(1, parts) if whole else Fraction(divisor)
            self._known[-1] += [rest, -rest + most]
            self._floors[form, divisor] = known
        return known

    def within_one(self, form: Linear) -> Linear:
        """A new whole number less than one away from a form, as rounding in some way gives."""
        known = self.whole()
        self._known[-1] += [known - form + 1, form - known + 1]
        return known

    def positive(self, form: Linear) -> Linear:
        """``form > 0`` as an inequality ``>= 0``, the sharpest that is implied."""
        if not form.terms:
            return Linear({}, 0 if form.constant > 0 else -1)
        if not all(self._whole[v] for v in form.terms):
            return form
        parts = math.lcm(*(a.denominator for a in (form.constant, *form.terms.values())))
        return form - Fraction(1, parts)

    def feasible(self, given: Iterable[Linear]) -> bool:
        """Whether some numbers may satisfy all of the inequalities ``form >= 0``."""
        key = frozenset(given)
        if key not in self._solved:
            self._solved[key] = self._reduced([*key], None) is not None
        return self._solved[key]

    def least(self, form: Linear, given: Sequence[Linear]) -> Fraction | None:
        """A number that a form is never below where inequalities hold; None where none is found.

        Raises:
            ValueError: when no numbers satisfy them.
        """
        whole = self.is_whole(form)
        goal = self.whole() if whole else self.real()
        (number,) = goal.terms
        try:
            left = self._reduced([*given, goal - form, form - goal], number)
        finally:
            self._whole.pop()
            self._known.pop()
        if left is None:
            raise ValueError("no numbers satisfy these inequalities")
        lows = [Fraction(-constant, terms[0][1]) for terms, constant in left if terms[0][1] > 0]
        if not lows:
            return None
        return Fraction(math.ceil(max(lows))) if whole else max(lows)

    def least_of(
        self, form: Linear, several: Iterable[Sequence[Linear]], most: int = 0
    ) -> Fraction | None:
        """The same where one of several systems of inequalities holds, at most ``most``."""
        lows = [Fraction(most)]
        for given in several:
            try:
                low = self.least(form, given)
            except ValueError:
                continue
            if low is None:
                return None
            lows.append(low)
        return min(lows)

    def _reduced(self, given: list[Linear], goal: int | None) -> list[Row] | None:
        """What is left for one variable; None where there is no solution."""
        rows: dict[tuple[tuple[int, int], ...], int] = {}
        if not all(self._add(rows, form) for form in self._with_known(given)):
            return None
        while True:
            counts: dict[int, list[int]] = {}
            for terms in rows:
                for v, a in terms:
                    if v != goal:
                        counts.setdefault(v, [0, 0])[a > 0] += 1
            if not counts:
                break
            (v, _) = min(counts.items(), key=lambda item: item[1][0] * item[1][1])
            old, rows = rows, {}
            ups: list[tuple[dict[int, int], int, int]] = []
            downs: list[tuple[dict[int, int], int, int]] = []
            for terms, constant in old.items():
                a = dict(terms).get(v, 0)
                if not a:
                    rows[terms] = constant
                else:
                    (ups if a > 0 else downs).append((dict(terms), constant, abs(a)))
            if len(rows) + len(ups) * len(downs) > MOST:
                return []  # nothing is said
            for up, first, a in ups:
                for down, second, b in downs:
                    both = {w: b * up.get(w, 0) + a * down.get(w, 0) for w in {*up, *down} - {v}}
                    if not self._add(rows, Linear(both, b * first + a * second)):
                        return None
        left = list(rows.items())
        if goal is not None:
            lows = [Fraction(-k, t[0][1]) for t, k in left if t[0][1] > 0]
            highs = [Fraction(-k, t[0][1]) for t, k in left if t[0][1] < 0]
            if lows and highs and max(lows) > min(highs):
                return None
        return left

    def _with_known(self, given: list[Linear]) -> list[Linear]:
        out, seen = list(given), set()
        queue = [v for form in given for v in form.terms]
        while queue:
            v = queue.pop()
            if v not in seen:
                seen.add(v)
                out += self._known[v]
                queue += [w for form in self._known[v] for w in form.terms]
        return out

    def _add(self, rows: dict[tuple[tuple[int, int], ...], int], form: Linear) -> bool:
        """Write ``form >= 0`` in whole numbers; False where it is never so."""
        parts = math.lcm(*(a.denominator for a in (form.constant, *form.terms.values())))
        terms = {v: int(a * parts) for v, a in form.terms.items() if a}
        if not terms:
            return form.constant >= 0
        common = math.gcd(*terms.values())
        constant = form.constant * parts
        if all(self._whole[v] for v in terms):
            key = tuple(sorted((v, a // common) for v, a in terms.items()))
            bound = math.floor(constant / common)
        else:
            common = math.gcd(common, int(constant))
            key = tuple(sorted((v, a // common) for v, a in terms.items()))
            bound = int(constant) // common
        # Of real numbers the same coefficients may come in other multiples: both are kept.
        rows[key] = min(rows.get(key, bound), bound)
        return True
