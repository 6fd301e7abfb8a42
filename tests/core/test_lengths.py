"""Functions and sets of lengths against brute force: the same expression worked out at each length
one by one, on random expressions of floors, remainders, least and largest ones.
"""

from __future__ import annotations

import doctest
import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from pgt_fx.core.lengths import functions as lengths
from pgt_fx.core.lengths import sets as length_sets
from pgt_fx.core.lengths.functions import QuasiLinear, constant, frames
from pgt_fx.core.lengths.questions import (
    at_most,
    bounds,
    equal,
    larger,
    less,
    offset_from,
    remainder,
    same,
    smaller,
    the_constant,
    where,
)
from pgt_fx.core.lengths.sets import ANY_LENGTH, NO_LENGTH, LengthSet, NotQuasiLinear

#: Looked at one by one: all small lengths, and some far off.
LENGTHS = (*range(1, 120), *range(2513, 2540), 10**6 + 3)


@dataclass(frozen=True)
class Pair:
    """A random expression: as a function of the length, and as plain Python."""

    exact: QuasiLinear
    plain: Callable[[int], Any]


def expression(rng: random.Random, depth: int) -> Pair:
    if depth == 0 or rng.random() < 0.1:
        if rng.random() < 0.3:
            c = rng.randint(-9, 40)
            return Pair(constant(c), lambda t: c)
        a, b = rng.choice([1, 1, 1, 2, 3, -1]), rng.randint(-6, 6)
        return Pair(a * frames() + b, lambda t: a * t + b)
    x = expression(rng, depth - 1)
    kind = rng.choice(["floor", "floor", "mod", "min", "max", "add", "scale", "ratio", "where"])
    if kind == "floor":
        d = rng.choice([2, 2, 3, 4, 5, 8, -2])
        return Pair(x.exact // d, lambda t: x.plain(t) // d)
    if kind == "mod":
        d = rng.choice([2, 3, 4, 6, 7])
        return Pair(x.exact % d, lambda t: x.plain(t) % d)
    if kind == "scale":
        f = rng.choice([2, 3, -1, Fraction(1, 2), Fraction(-2, 3)])
        return Pair(x.exact * f, lambda t: x.plain(t) * f)
    y = expression(rng, depth - 1)
    if kind == "min":
        return Pair(smaller(x.exact, y.exact), lambda t: min(x.plain(t), y.plain(t)))
    if kind == "max":
        return Pair(larger(x.exact, y.exact), lambda t: max(x.plain(t), y.plain(t)))
    if kind == "where":
        chosen = less(x.exact, y.exact)
        return Pair(
            where(chosen, y.exact, x.exact),
            lambda t: y.plain(t) if x.plain(t) < y.plain(t) else x.plain(t),
        )
    if kind == "ratio":  # a divisor that may grow, and is never 0
        divisor = larger(y.exact, 1)
        return Pair(x.exact // divisor, lambda t: x.plain(t) // max(y.plain(t), 1))
    return Pair(x.exact + y.exact, lambda t: x.plain(t) + y.plain(t))


def made(seed: int) -> tuple[Pair, Pair] | None:
    """Two random expressions that are alike in half of the cases; None: of too long a period."""
    rng = random.Random(seed)
    try:
        f = expression(rng, rng.randint(1, 4))
        if rng.random() < 0.5:
            return f, expression(rng, rng.randint(1, 3))
        d, c = rng.choice([2, 3, 4]), rng.choice([0, 0, 0, 1, 5])
        whole = f.exact // 1  # ceil(f / d) in two spellings
        g = Pair(
            (whole + d - 1) // d + c,
            lambda t: (f.plain(t) // 1 + d - 1) // d + c,
        )
        return g, Pair(-(-whole // d), lambda t: -(-(f.plain(t) // 1) // d))
    except NotQuasiLinear:
        return None


def check(seed: int) -> bool:
    """Hold one pair of expressions to brute force; whether there was one."""
    found = made(seed)
    if found is None:
        return False
    f, g = found
    period = max(len(p.values) for p in (*f.exact.pieces, *g.exact.pieces))
    try:
        wholes = [at_most(f.exact, g.exact), less(f.exact, g.exact), same(f.exact, g.exact)]
        rest = remainder(f.exact, 3)
        apart = offset_from(f.exact, g.exact)
        alike = equal(f.exact, g.exact)
        low, high = bounds(f.exact)
    except NotQuasiLinear:
        return False
    looked_at = (*LENGTHS, *range(10**4, 10**4 + min(2 * period, 500)))
    values = [(f.plain(t), g.plain(t)) for t in looked_at]
    for t, (v, w) in zip(looked_at, values, strict=True):
        assert f.exact(t) == v and g.exact(t) == w, (seed, t)
        asked = [t in s for s in wholes]
        assert asked == [v <= w, v < w, v == w], (seed, t)
        assert (low is None or low <= v) and (high is None or v <= high), (seed, t)
        if apart is not None:
            assert v - w == apart, (seed, t)
        if rest is not None:
            assert v % 3 == rest, (seed, t)
        assert not alike or v == w, (seed, t)
    # What is the same at all of these lengths, a period of each piece among them, is so for good.
    last = max(p.start for p in (*f.exact.pieces, *g.exact.pieces))
    if last + 2 * period < 120:
        differences = {v - w for v, w in values}
        assert alike == (differences == {0}), seed
        assert (apart is not None) == (len(differences) == 1), seed
        assert (rest is not None) == (len({v % 3 for v, _ in values}) == 1), seed
        if low is not None:
            assert low == min(v for v, _ in values), seed
        if high is not None:
            assert high == max(v for v, _ in values), seed
    return True


def test_functions_of_the_length_are_what_brute_force_gives() -> None:
    assert sum(check(seed) for seed in range(1200)) > 1100


@pytest.mark.slow
def test_many_functions_of_the_length_are_what_brute_force_gives() -> None:
    assert sum(check(seed) for seed in range(10**5)) > 9 * 10**4


def random_set(rng: random.Random) -> tuple[LengthSet, Callable[[int], bool]]:
    kind = rng.choice(["interval", "rest", "members", "compare"])
    if kind == "interval":
        a, b = rng.randint(1, 60), rng.choice([None, rng.randint(1, 90)])
        return LengthSet.interval(a, b), lambda t: a <= t and (b is None or t <= b)
    if kind == "rest":
        p = rng.randint(1, 12)
        rests = rng.sample(range(p), rng.randint(0, p))
        return LengthSet.remainders(p, rests), lambda t: t % p in rests
    if kind == "members":
        some = rng.sample(range(1, 80), rng.randint(0, 6))
        return LengthSet.of(some), lambda t: t in some
    d, c = rng.randint(2, 9), rng.randint(0, 20)
    return less(frames() // d, c), lambda t: t // d < c


def test_sets_of_lengths_are_what_brute_force_gives() -> None:
    rng = random.Random(0)
    for _ in range(1500):
        a, in_a = random_set(rng)
        b, in_b = random_set(rng)
        for _ in range(rng.randint(1, 4)):
            op = rng.choice("&|-~")
            x, y = in_a, in_b
            if op == "&":
                a, in_a = a & b, lambda t, x=x, y=y: x(t) and y(t)
            elif op == "|":
                a, in_a = a | b, lambda t, x=x, y=y: x(t) or y(t)
            elif op == "-":
                a, in_a = a - b, lambda t, x=x, y=y: x(t) and not y(t)
            else:
                a, in_a = ~a, lambda t, x=x: not x(t)
            b, in_b = random_set(rng)
        members = [t for t in range(1, 40000) if in_a(t)] if rng.random() < 0.01 else []
        near = [t for t in range(1, 400) if in_a(t)]
        assert [t for t in range(1, 400) if t in a] == near
        assert not members or [t for t in range(1, 40000) if t in a] == members
        assert a.is_all == (len(near) == 399) and a.is_empty == (not near)
        assert a.least == (near[0] if near else None)
        for t in (1, 7, 50, 91):
            assert a.next(t) == next((n for n in near if n >= t), None)
            assert a.previous(t) == next((n for n in near[::-1] if n <= t), None)
        if a.is_finite:
            assert a.most == (near[-1] if near else None)
        assert (a == b) == (near == [t for t in range(1, 400) if in_b(t)])
        again = LengthSet.of(near[:5]) | (a - LengthSet.of(near[:5]))
        assert again == a and hash(again) == hash(a)
        assert str(a)


def test_the_arithmetic_needs_no_torch_and_sympy_at_its_edge_alone() -> None:
    for file in Path(lengths.__file__).parent.glob("*.py"):
        found = set(re.findall(r"^(?:from|import) (torch|sympy)\b", file.read_text(), re.M))
        assert found <= ({"sympy"} if file.name == "from_sympy.py" else set()), file


def test_the_examples_of_the_documentation() -> None:
    for module in (length_sets, lengths):
        assert doctest.testmod(module).failed == 0


INTERVAL, RESTS, OF = LengthSet.interval, LengthSet.remainders, LengthSet.of


@pytest.mark.parametrize(
    ("known", "words"),
    [
        (ANY_LENGTH, "any number"),
        (NO_LENGTH, "no number"),
        (INTERVAL(5, None), "at least 5"),
        (INTERVAL(1, 300), "at most 300"),
        (INTERVAL(16, 23), "16 to 23"),
        (OF([70]), "70"),
        (~OF([70]), "any number but 70"),
        (~OF([500, 600]), "any number but 500 or 600"),
        (INTERVAL(5, None) - OF([70]), "at least 5 but 70"),
        (OF([8, 16]), "8 or 16"),
        (RESTS(4, [1]), "4n + 1"),
        (RESTS(4, [0]), "4n"),
        (RESTS(4, [1]) & INTERVAL(5, None), "4n + 1, at least 5"),
        (RESTS(2, [0]) & INTERVAL(1, 300), "2n, at most 300"),
        (RESTS(4, [1]) - OF([9]), "4n + 1 but 9"),
        (RESTS(6, [0, 1]), "6n or 6n + 1"),
        (~RESTS(31, [29]), "any number but 31n + 29"),
        (INTERVAL(10, None) | OF([3]), "3 or 10 or more"),
        (less(frames(), 2**31), "at most 2147483647"),
    ],
)
def test_sets_of_lengths_in_words(known: LengthSet, words: str) -> None:
    assert str(known) == words


@pytest.mark.parametrize(
    "call",
    [
        lambda t: t * t,
        lambda t: t // 3 * (t // 2),
        lambda t: constant(1) / t,
        lambda t: t % (t // 2 + 10**7),
        lambda t: t % 997 + t % 1009,
        lambda t: less(t % 99991, t % 99989),
    ],
)
def test_what_is_not_of_that_form_is_told(call: Callable[[QuasiLinear], Any]) -> None:
    with pytest.raises(NotQuasiLinear):
        call(frames())


def test_a_number_that_there_is_not_at_every_length() -> None:
    t = frames()
    ratio = t // (t // 2)  # none for one frame
    assert ratio(1) is None and ratio(2) == 2 and ratio(3) == 3 and ratio(5) == 2
    assert the_constant(ratio) is None
    assert the_constant(ratio, RESTS(2, [0])) == 2
    assert the_constant(t // t) == 1 and bounds(ratio) == (2, 3)
    assert 1 not in less(ratio, 100) and 1 not in same(ratio, 2)
