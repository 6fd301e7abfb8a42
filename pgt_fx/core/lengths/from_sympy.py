"""Sizes of a capture, sympy expressions, as functions of the length
(:mod:`pgt_fx.core.lengths.functions`).

The functions that torch adds to sympy (``FloorDiv``, ``Mod``, ``TruncToInt`` …) are known by their
names, so that torch need not be there. Symbols other than the length's (batch, height) are kept
apart: a size is a polynomial in them, with functions of the length for coefficients.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

import sympy

from pgt_fx.core.lengths.functions import QuasiLinear, constant, frames
from pgt_fx.core.lengths.polynomials import Polynomial, divided, of_function, plus, times
from pgt_fx.core.lengths.questions import (
    at_most,
    defined,
    larger,
    less,
    positive,
    same,
    smaller,
    where,
)
from pgt_fx.core.lengths.sets import ANY_LENGTH, NO_LENGTH, LengthSet, NotQuasiLinear

#: Binary digits of a constant with which 2^28 frames multiply without rounding.
FEW_DIGITS = 24
#: Largest product of two denominators at which rounding, once, leaves comparisons as they are.
MOST_PARTS = 2**20
#: Relative distance within which two numbers that were rounded may be taken for equal.
ROUNDED = Fraction(1, 2**48)


class LengthReader:
    """Reads expressions in which the given symbols are multiples of the length.

    Args:
        ratios: symbol -> how many times the length it is (1, or that of an input path).
    """

    def __init__(self, ratios: Mapping[Any, int]) -> None:
        self.ratios = dict(ratios)
        self._read: dict[Any, Polynomial | NotQuasiLinear] = {}
        self._held: dict[Any, LengthSet | NotQuasiLinear] = {}

    def function(self, expr: Any) -> QuasiLinear:
        """An expression of the length alone.

        Raises:
            NotQuasiLinear: where it is not of that form, or has other symbols.
        """
        found = self.polynomial(expr)
        if any(found):
            raise NotQuasiLinear(f"{expr} depends on more than the length")
        return found.get((), constant(0))

    def polynomial(self, expr: Any) -> Polynomial:
        """An expression by monomials of the other symbols; those of coefficient 0 are left out.

        Raises:
            NotQuasiLinear: where it is not of that form.
        """
        return _known(self._read, expr, self._polynomial)

    def holds(self, condition: Any) -> LengthSet:
        """The lengths at which a condition is true. One on a number that there is not (a division
        by zero) is not.

        Raises:
            NotQuasiLinear: where it is not of that form.
        """
        return _known(self._held, condition, self._holds)

    def of_length(self, expr: Any) -> bool:
        """Whether the length's symbols are in an expression."""
        return bool(getattr(expr, "free_symbols", frozenset()) & self.ratios.keys())

    # -- numbers -------------------------------------------------------------------------------

    def _polynomial(self, expr: Any) -> Polynomial:
        expr = sympy.sympify(expr)
        if expr in self.ratios:
            return {(): frames(self.ratios[expr])}
        if expr.is_Float or expr.is_Rational:
            return of_function(constant(_fraction(expr)))
        if expr.is_number and expr.is_finite is False:
            raise NotQuasiLinear(f"{expr} is no number")
        name = type(expr).__name__
        if expr.is_Add:
            found: Polynomial = {}
            for term in expr.args:
                found = plus(found, self.polynomial(term))
            return found
        if expr.is_Mul:
            found = of_function(constant(1))
            for factor in expr.args:
                found = times(found, self.polynomial(factor))
            return found
        if expr.is_Pow or name == "PowByNatural":
            return self._power(*expr.args)
        if name in ("Identity", "ToFloat"):
            return self.polynomial(expr.args[0])
        if not self.of_length(expr):
            return {((expr, 1),): constant(1)}
        rule = RULES.get(name)
        if rule is None:
            raise NotQuasiLinear(f"{name} of the length")
        return rule(self, *expr.args)

    def _power(self, base: Any, exponent: Any) -> Polynomial:
        if not exponent.is_Integer:
            if not self.of_length(base) and not self.of_length(exponent):
                return {((sympy.Pow(base, exponent), 1),): constant(1)}
            raise NotQuasiLinear(f"the power {exponent} of {base}")
        found, factor = of_function(constant(1)), self.polynomial(base)
        for _ in range(abs(int(exponent))):
            found = times(found, factor)
        if exponent >= 0:
            return found
        return divided(of_function(constant(1)), found, lambda a, b: a / b)

    def _whole(self, expr: Any, down: Callable[[QuasiLinear], QuasiLinear]) -> Polynomial:
        """A float as a whole number."""
        found = self.function(expr)
        level = rounding(expr)
        parts = max((_parts(v) for p in found.pieces for v in (*p.values, *p.steps)), default=1)
        if level > 1 or (level == 1 and parts > MOST_PARTS):
            raise NotQuasiLinear(f"{expr} is rounded")
        return of_function(down(found))

    # -- conditions ----------------------------------------------------------------------------

    def _holds(self, condition: Any) -> LengthSet:
        if condition in (sympy.true, True):
            return ANY_LENGTH
        if condition in (sympy.false, False):
            return NO_LENGTH
        name = type(condition).__name__
        if name in ("And", "Or"):
            found = self.holds(condition.args[0])
            for other in condition.args[1:]:
                also = self.holds(other)
                found = found & also if name == "And" else found | also
            return found
        if name == "Not":
            return ~self.holds(condition.args[0])
        compare = COMPARISONS.get(name)
        if compare is None:
            raise NotQuasiLinear(f"{name} is no comparison")
        left, right = condition.args
        level = max(rounding(left), rounding(right))
        f, g = self._sides(left, right)
        found = compare(f, g)
        return found if level == 0 else self._rounded(condition, found, f, g)

    def _sides(self, left: Any, right: Any) -> tuple[QuasiLinear, QuasiLinear]:
        """The two sides of a comparison, or what they come to where both are multiples of the same
        size, if that is never 0."""
        a, b = self.polynomial(left), self.polynomial(right)
        if set(a) | set(b) <= {()}:
            zero = constant(0)
            return a.get((), zero), b.get((), zero)
        difference = plus(a, times(b, of_function(constant(-1))))
        if len(difference) > 1:
            raise NotQuasiLinear("a comparison that depends on other sizes")
        if any(not atom.is_positive for monomial in difference for atom, _ in monomial):
            raise NotQuasiLinear("a comparison of multiples of a number that may be 0, or negative")
        return next(iter(difference.values()), constant(0)), constant(0)

    def _rounded(
        self, condition: Any, found: LengthSet, f: QuasiLinear, g: QuasiLinear
    ) -> LengthSet:
        """The answer, worked out as Python does where the two sides are so near to each other that
        rounding decides."""
        difference, most = f - g, _magnitude(f) + _magnitude(g)
        near = at_most(_magnitude(difference), most * ROUNDED)
        if not near.is_finite:
            raise NotQuasiLinear(f"{condition} depends on rounding")
        for count, length in enumerate(near):
            if count > 1000:
                raise NotQuasiLinear(f"{condition} depends on rounding")
            at = {s: sympy.Integer(r * length) for s, r in self.ratios.items()}
            one = LengthSet.of([length])
            found = found | one if condition.xreplace(at) == sympy.true else found - one
        return found


def _known(memo: dict[Any, Any], key: Any, work: Callable[[Any], Any]) -> Any:
    if key not in memo:
        try:
            memo[key] = work(key)
        except NotQuasiLinear as error:
            memo[key] = error
    found = memo[key]
    if isinstance(found, NotQuasiLinear):
        raise found
    return found


def _magnitude(f: QuasiLinear) -> QuasiLinear:
    return larger(f, -f)


def _fraction(number: Any) -> Fraction:
    if number.is_Float:
        return Fraction(float(number))
    return Fraction(int(number.p), int(number.q))


def _parts(number: Any) -> int:
    return 1 if number is None else number.denominator


def rounding(expr: Any) -> int:
    """How often a number that Python calculates with floats is rounded on the way.

    Whole numbers and simple binary fractions (0.25) are exact at any length that a video has.

    Raises:
        NotQuasiLinear: for a sum of numbers that were rounded.
    """
    if not isinstance(expr, sympy.Basic) or expr.is_Integer:
        return 0
    if expr.is_Rational:
        return 0
    if expr.is_Float:
        fraction = _fraction(expr)
        simple = abs(fraction.numerator).bit_length() <= FEW_DIGITS
        return 0 if simple and fraction.denominator <= 2**FEW_DIGITS else 1
    name = type(expr).__name__
    if name in ("IntTrueDiv", "FloatTrueDiv"):
        return 1 + sum(map(rounding, expr.args))
    if name in ("TruncToInt", "FloorToInt", "CeilToInt", "RoundToInt"):
        return 0
    if name == "FloatPow":
        raise NotQuasiLinear(f"{expr} is rounded")
    below = sum(map(rounding, expr.args))
    if expr.is_Add:
        if below > 1:
            raise NotQuasiLinear(f"the sum {expr} is rounded")
        # Of exact numbers and one that was rounded once: that one is exact where the sum is a whole
        # number, or a simple fraction, and elsewhere the sum is farther from it than it is rounded.
        return below
    return below + (len(expr.args) - 1 if below and expr.is_Mul else 0)


def _floor_div(reader: LengthReader, a: Any, b: Any) -> Polynomial:
    return divided(reader.polynomial(a), reader.polynomial(b), lambda f, g: f // g)


def _ceil_div(reader: LengthReader, a: Any, b: Any) -> Polynomial:
    up = divided(reader.polynomial(-a), reader.polynomial(b), lambda f, g: f // g)
    return times(up, of_function(constant(-1)))


def _true_div(reader: LengthReader, a: Any, b: Any) -> Polynomial:
    return divided(reader.polynomial(a), reader.polynomial(b), lambda f, g: f / g)


def _mod(reader: LengthReader, a: Any, b: Any) -> Polynomial:
    taken = times(_floor_div(reader, a, b), reader.polynomial(b))
    return plus(reader.polynomial(a), times(taken, of_function(constant(-1))))


def _modular(reader: LengthReader, a: Any, b: Any, c: Any) -> Polynomial:
    return of_function((reader.function(a) // reader.function(b)) % reader.function(c))


def _extreme(of_two: Callable[[QuasiLinear, QuasiLinear], QuasiLinear]) -> Any:
    def rule(reader: LengthReader, *args: Any) -> Polynomial:
        found = reader.function(args[0])
        for other in args[1:]:
            found = of_two(found, reader.function(other))
        return of_function(found)

    return rule


def _where(reader: LengthReader, condition: Any, a: Any, b: Any) -> Polynomial:
    return of_function(where(reader.holds(condition), reader.function(a), reader.function(b)))


def _piecewise(reader: LengthReader, *cases: Any) -> Polynomial:
    found = constant(0) / constant(0)  # none where no case holds
    for value, condition in reversed(cases):
        found = where(reader.holds(condition), reader.function(value), found)
    return of_function(found)


def _down(f: QuasiLinear) -> QuasiLinear:
    return f // 1


def _up(f: QuasiLinear) -> QuasiLinear:
    return -((-f) // 1)


def _to_zero(f: QuasiLinear) -> QuasiLinear:
    return where(positive(f, strict=False), _down(f), _up(f))


def _to_even(f: QuasiLinear) -> QuasiLinear:
    """Rounded to the nearest whole number, halves to the even one, as Python does."""
    nearest = (f + Fraction(1, 2)) // 1
    ties = same(f + Fraction(1, 2), nearest) & same(nearest % 2, 1)
    return where(ties, nearest - 1, nearest)


def _rounds(down: Callable[[QuasiLinear], QuasiLinear]) -> Any:
    def rule(reader: LengthReader, expr: Any) -> Polynomial:
        return reader._whole(expr, down)

    return rule


def _shift(left: bool) -> Any:
    def rule(reader: LengthReader, expr: Any, digits: Any) -> Polynomial:
        if not digits.is_Integer or not 0 <= digits < 64:
            raise NotQuasiLinear("shifted by no plain number")
        by = constant(2 ** int(digits))
        return of_function(reader.function(expr) * by if left else reader.function(expr) // by)

    return rule


def _abs(reader: LengthReader, expr: Any) -> Polynomial:
    return of_function(_magnitude(reader.function(expr)))


RULES: dict[str, Callable[..., Polynomial]] = {
    "FloorDiv": _floor_div,
    "CleanDiv": _floor_div,
    "CeilDiv": _ceil_div,
    "IntTrueDiv": _true_div,
    "FloatTrueDiv": _true_div,
    "Mod": _mod,
    "PythonMod": _mod,
    "ModularIndexing": _modular,
    "Max": _extreme(larger),
    "Min": _extreme(smaller),
    "Where": _where,
    "Piecewise": _piecewise,
    "FloorToInt": _rounds(_down),
    "CeilToInt": _rounds(_up),
    "TruncToInt": _rounds(_to_zero),
    "TruncToFloat": _rounds(_to_zero),
    "RoundToInt": _rounds(_to_even),
    "floor": _rounds(_down),
    "ceiling": _rounds(_up),
    "LShift": _shift(True),
    "RShift": _shift(False),
    "Abs": _abs,
}


def _unequal(f: QuasiLinear, g: QuasiLinear) -> LengthSet:
    return defined(f - g) - same(f, g)


COMPARISONS: dict[str, Callable[[QuasiLinear, QuasiLinear], LengthSet]] = {
    "Equality": same,
    "Unequality": _unequal,
    "StrictLessThan": less,
    "LessThan": at_most,
    "StrictGreaterThan": lambda f, g: less(g, f),
    "GreaterThan": lambda f, g: at_most(g, f),
}
