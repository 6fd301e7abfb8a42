"""Bounds of linear inequalities and entries by cases, against all small numbers one by one."""

from __future__ import annotations

import random
from fractions import Fraction
from itertools import product

import pytest

from pgt_fx.core.entries.cases import (
    ANY,
    FALSE,
    FINITE,
    TRUE,
    Case,
    Cases,
    Entries,
    Form,
    Infinite,
    hides,
    number,
    ordinary,
)
from pgt_fx.core.entries.inequalities import Linear, Space

SIDE = range(40)


@pytest.mark.parametrize("seed", range(60))
def test_a_bound_holds_of_all_numbers(seed: int) -> None:
    """Of a box the least number that is found is below all, and is reached within one rounding."""
    draw = random.Random(seed)
    space = Space()
    x, y = space.whole(0, 12), space.whole(0, 12)
    q = space.floor(x + y * draw.randint(-2, 2), draw.randint(2, 5))
    forms = [x, y, q]

    def some() -> Linear:
        return sum((f * draw.randint(-3, 3) for f in forms), Linear({}, draw.randint(-6, 10)))

    given, goal = [some() for _ in range(draw.randint(0, 3))], some()
    (floor_of, divisor), *_ = space._floors  # the definition of q
    found = []
    for a, b in product(range(13), repeat=2):
        at = dict(zip((next(iter(f.terms)) for f in (x, y)), (a, b), strict=True))
        value = at_numbers(floor_of, at) // divisor
        at[next(iter(q.terms))] = value
        if all(at_numbers(g, at) >= 0 for g in given):
            found.append(at_numbers(goal, at))
    if not found:
        return  # that there is none need not be seen
    assert space.feasible(given)
    least = space.least(goal, given)
    assert least is not None and least <= min(found)


def at_numbers(form: Linear, at: dict[int, int]) -> Fraction:
    return sum((a * at[v] for v, a in form.terms.items()), form.constant)


def test_whole_numbers_are_rounded() -> None:
    space = Space()
    x, y = space.whole(0), space.whole(0)
    assert space.least(x, [x * 2 - 1]) == 1
    assert not space.feasible([x * 2 - y * 2 - 1, y * 2 - x * 2 + 1])  # 2x = 2y + 1
    assert space.least(y - x, [y - x * 2]) == 0 and space.least(x - y, [x + y]) is None
    with pytest.raises(ValueError, match="no numbers"):
        space.least(x, [-x - 1])


Row = int | float


class Pairs:
    """Random expressions of a row and a column: by cases, and as a function."""

    def __init__(self, seed: int) -> None:
        self.draw, self.space = random.Random(seed), Space()
        self.entries = Entries(self.space)
        self.row, self.column = self.space.whole(0), self.space.whole(0)

    def term(self, depth: int = 2):
        kind = self.draw.randint(0, 8 if depth else 1)
        e, k = self.entries, self.draw.randint(1, 5)
        if kind == 0:
            return [Case((), Form(self.row))], lambda r, c: r
        if kind == 1:
            return [Case((), Form(self.column))], lambda r, c: c
        a, f = self.term(depth - 1)
        constant = [Case((), number(k))]
        if kind == 2:
            return e.floored(a, divisor=constant), lambda r, c: f(r, c) // k
        if kind == 3:
            return e.remainder(a, constant), lambda r, c: f(r, c) % k
        if kind == 4:
            return e.absolute(a), lambda r, c: abs(f(r, c))
        if kind == 5:
            return e.plus(a, constant, number(-1)), lambda r, c: f(r, c) - k
        b, g = self.term(depth - 1)
        if kind == 6:
            return e.larger(a, b), lambda r, c: max(f(r, c), g(r, c))
        if kind == 7:
            return e.smaller(a, b), lambda r, c: min(f(r, c), g(r, c))
        return e.plus(a, b, number(-1)), lambda r, c: f(r, c) - g(r, c)

    def truth(self, depth: int = 2):
        kind, e = self.draw.randint(0, 3 if depth else 0), self.entries
        if kind == 0:
            (a, f), (b, g) = self.term(), self.term()
            how = self.draw.choice(["lt", "le", "eq", "ne", "ge", "gt"])
            plain = {
                "lt": lambda x, y: x < y,
                "le": lambda x, y: x <= y,
                "eq": lambda x, y: x == y,
                "ne": lambda x, y: x != y,
                "ge": lambda x, y: x >= y,
                "gt": lambda x, y: x > y,
            }[how]
            return e.compared(how, a, b), lambda r, c: plain(f(r, c), g(r, c))
        a, f = self.truth(depth - 1)
        if kind == 1:
            return e.negated(a), lambda r, c: not f(r, c)
        b, g = self.truth(depth - 1)
        if kind == 2:
            return e.both(a, b), lambda r, c: f(r, c) and g(r, c)
        return e.either(a, b), lambda r, c: f(r, c) or g(r, c)


@pytest.mark.parametrize("seed", range(150))
def test_what_is_seen_lies_within_the_bounds(seed: int) -> None:
    pairs = Pairs(seed)
    mask, f = pairs.truth()
    scores = pairs.entries.chosen(mask, [Case((), FINITE)], [Case((), Infinite(-1))])
    seen = [c.given for c in scores if not hides(c.value)]
    forms = pairs.row - pairs.column, pairs.column - pairs.row
    behind, ahead = (pairs.space.least_of(form, seen, most=1000) for form in forms)
    for r, c in product(SIDE, repeat=2):
        if f(r, c):
            assert behind is None or r - c >= behind
            assert ahead is None or c - r >= ahead


def values(cases: Cases) -> list:
    return [c.value for c in cases]


def test_what_hides_and_what_does_not() -> None:
    e = Entries(Space())
    score, least, low = [Case((), FINITE)], [Case((), number(-3.4e38))], [Case((), number(-1e4))]
    assert all(hides(v) for v in values(e.plus(score, least)))
    assert not any(hides(v) for v in values(e.plus(score, low)))
    assert not any(hides(v) for v in values(e.times(least, [Case((), number(1e-38))])))
    assert values(e.times(least, [Case((), FALSE)])) == [FALSE]
    assert values(e.times([Case((), Infinite(-1))], [Case((), FALSE)])) == [ANY]
    assert not ordinary(ANY) and ordinary(FINITE) and not ordinary(number(-3.4e38))


def test_rounding_makes_room() -> None:
    """0.1 times a distance may be more or less than 0.3 at a distance of 3: both are thought of."""
    space = Space()
    e = Entries(space)
    x = space.whole(0)
    scaled = e.times([Case((), Form(x))], [Case((), number(0.1))])
    found = e.compared("lt", scaled, [Case((), number(0.3))])
    most = {c.value: space.least(-x, c.given) for c in found}
    least = {c.value: space.least(x, c.given) for c in found}
    assert most[TRUE] == -3 and least[FALSE] == 3
    near = e.compared("le", [Case((), Form(x))], [Case((), number(2.9999999999))])
    assert {c.value: space.least(-x, c.given) for c in near}[TRUE] == -3  # 3.0 in single precision
