"""Sizes of a capture read as functions of the length, against what sympy and torch make of them at
each length."""

from __future__ import annotations

from typing import Any

import pytest
import sympy
from torch.utils._sympy import functions as by_torch

from pgt_fx.core.lengths.from_sympy import LengthReader
from pgt_fx.core.lengths.functions import constant
from pgt_fx.core.lengths.questions import equal
from pgt_fx.core.lengths.sets import ANY_LENGTH, LengthSet, NotQuasiLinear

T, B, H = sympy.symbols("s0 s1 s2", positive=True, integer=True)
F, Mod, ToFloat = by_torch.FloorDiv, by_torch.Mod, by_torch.ToFloat
LENGTHS = (*range(1, 130), *range(9000, 9050))

NUMBERS = [
    T,
    3 * T - 7,
    F(T - 1, 2) + 1,
    F(T, 4) * 4 - T,
    by_torch.CleanDiv(2 * T, 2),
    by_torch.CeilDiv(T + 3, 4),
    Mod(7 * T, 31),
    by_torch.PythonMod(5 - T, 4),
    by_torch.ModularIndexing(T, 3, 4),
    by_torch.Max(1, F(T, 8)),
    by_torch.Min(T, 16, F(T, 2) + 3),
    sympy.Piecewise((T, T < 9), (F(T, 2), True)),
    by_torch.Where(T > 9, T, 2 * T),
    by_torch.TruncToInt(0.75 * ToFloat(T)),
    by_torch.TruncToInt(5 - 0.5 * ToFloat(T)),
    by_torch.FloorToInt(by_torch.IntTrueDiv(T, 7)),
    by_torch.CeilToInt(by_torch.IntTrueDiv(T, 3)),
    by_torch.CeilToInt(by_torch.IntTrueDiv(T - 2, 5) + 1.0),
    by_torch.TruncToInt(0.5 * ToFloat(T) + by_torch.IntTrueDiv(T, 3)),
    by_torch.CeilToInt(by_torch.FloatTrueDiv(ToFloat(T), 3.0)),
    by_torch.RoundToInt(0.5 * ToFloat(T)),
    by_torch.RoundToInt(by_torch.IntTrueDiv(T, 6)),
    by_torch.LShift(T, 2),
    by_torch.RShift(T, 3),
    by_torch.PowByNatural(Mod(T, 3), 2),
    F(T, 1 + F(T, 3)),
]


@pytest.mark.parametrize("expr", NUMBERS, ids=str)
def test_a_number_is_read_as_torch_works_it_out(expr: Any) -> None:
    found = LengthReader({T: 1}).function(expr)
    for n in LENGTHS:
        assert found(n) == expr.xreplace({T: sympy.Integer(n)}), n


CONDITIONS = [
    T > 300,
    sympy.Ne(T, 70),
    sympy.Eq(F(T, 200), 0),
    sympy.Eq(Mod(7 * T, 31), 3),
    sympy.And(T > 5, sympy.Ne(Mod(T, 4), 1)),
    sympy.Or(T < 5, sympy.Not(sympy.Eq(Mod(T, 6), 1))),
    by_torch.IntTrueDiv(T, 30) > 3.0,
    by_torch.IntTrueDiv(T, 30) >= 3.0,
    0.1 * ToFloat(T) > 3.0,  # 3.0000000000000004 at 30 frames
    0.1 * ToFloat(T) >= 7.0,
    0.7 * ToFloat(T) <= 70.0,
    sympy.Eq(0.1 * ToFloat(T), 0.3),
    by_torch.FloatTrueDiv(ToFloat(T), 29.97) < 3.0,
    by_torch.RoundToInt(0.25 * ToFloat(T)) > 20,
]


@pytest.mark.parametrize("condition", CONDITIONS, ids=str)
def test_a_condition_holds_where_torch_says_so(condition: Any) -> None:
    found = LengthReader({T: 1}).holds(condition)
    for n in LENGTHS:
        assert (n in found) == bool(condition.xreplace({T: sympy.Integer(n)})), n


@pytest.mark.parametrize(
    "expr",
    [
        T**2,
        sympy.sqrt(T),
        T * F(T, 2),
        by_torch.IntTrueDiv(1, T),
        by_torch.RoundToInt(0.7 * ToFloat(T)),
        by_torch.TruncToInt(by_torch.IntTrueDiv(T, 7) + by_torch.IntTrueDiv(T, 3)),
        by_torch.FloatPow(ToFloat(T), 0.5),
        F(T * H, 3),
        F(B * T, H),
        T * H,
    ],
    ids=str,
)
def test_what_is_not_of_that_form_is_told(expr: Any) -> None:
    with pytest.raises(NotQuasiLinear):
        LengthReader({T: 1}).function(expr)


def test_an_input_path_with_more_frames() -> None:
    slow, fast = sympy.symbols("slow fast", positive=True, integer=True)
    reader = LengthReader({slow: 1, fast: 4})
    assert equal(reader.function(F(fast - 1, 4) + 1), reader.function(slow))
    assert str(reader.holds(fast > 30)) == "at least 8"


def test_other_sizes_are_kept_apart() -> None:
    reader = LengthReader({T: 1})
    found = reader.polynomial(B * (T + 2) * F(H - 1, 2))
    assert len(found) == 1 and all(equal(c, reader.function(T + 2)) for c in found.values())
    assert reader.polynomial(B * T - T * B + 0 * H) == {}
    (c,) = reader.polynomial(F(4 * B * T, 2)).values()
    assert equal(c, reader.function(2 * T))
    assert equal(reader.function(F(T * H, 2 * H)), reader.function(F(T, 2)))
    assert equal(reader.function(Mod(4 * T * H, 2) + 1), constant(1))
    # Sizes are at least 1, so that a common one plays no part in a comparison.
    assert reader.holds(sympy.Eq(3 * B * T, 9 * B * F(T, 3))) == LengthSet.remainders(3, [0])
    with pytest.raises(NotQuasiLinear):
        reader.holds(B * T > 9)
    assert reader.holds(sympy.true) == ANY_LENGTH


@pytest.mark.parametrize("size", [F(H, 64), H - 5, Mod(H, 4)])
def test_no_answer_is_given_for_multiples_of_a_size_that_may_be_none(size: Any) -> None:
    """Of no rows there are as many at any length."""
    reader = LengthReader({T: 1})
    assert str(reader.holds(sympy.Eq(T * H, 4 * H, evaluate=False))) == "4"
    with pytest.raises(NotQuasiLinear):
        reader.holds(sympy.Eq(T * size, 4 * size, evaluate=False))
