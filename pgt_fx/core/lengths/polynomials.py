"""Polynomials in the sizes of a clip other than its length: batch, height, width.

Each coefficient is a function of the length (:mod:`pgt_fx.core.lengths.functions`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pgt_fx.core.lengths.functions import QuasiLinear, constant
from pgt_fx.core.lengths.questions import remainder
from pgt_fx.core.lengths.sets import NotQuasiLinear

#: Symbols and expressions without the length, with their powers; () for a plain number.
Monomial = tuple[tuple[Any, int], ...]
Polynomial = dict[Monomial, QuasiLinear]


def of_function(function: QuasiLinear) -> Polynomial:
    """A function of the length as a polynomial of degree 0."""
    return {} if function.is_constant and function(1) == 0 else {(): function}


def plus(a: Polynomial, b: Polynomial) -> Polynomial:
    """The sum; terms that cancel are left out."""
    out = dict(a)
    for monomial, coefficient in b.items():
        total = out[monomial] + coefficient if monomial in out else coefficient
        if total.is_constant and total(1) == 0:
            del out[monomial]
        else:
            out[monomial] = total
    return out


def times(a: Polynomial, b: Polynomial) -> Polynomial:
    """The product."""
    out: Polynomial = {}
    for one, c in a.items():
        for other, d in b.items():
            out = plus(out, {_product(one, other): c * d})
    return out


def _product(a: Monomial, b: Monomial, sign: int = 1) -> Monomial:
    powers = dict(a)
    for atom, power in b:
        powers[atom] = powers.get(atom, 0) + sign * power
    return tuple(sorted(((x, n) for x, n in powers.items() if n), key=lambda p: str(p[0])))


def divided(
    a: Polynomial, b: Polynomial, divide: Callable[[QuasiLinear, QuasiLinear], QuasiLinear]
) -> Polynomial:
    """The quotient, where it depends on the length alone, or each term is a whole multiple.

    Args:
        divide: the division of two functions of the length.

    Raises:
        NotQuasiLinear: for any other quotient, and for a division by zero.
    """
    if len(b) > 1:
        raise NotQuasiLinear("a division by a sum of sizes")
    if not b:
        raise NotQuasiLinear("a division by zero")
    ((below, divisor),) = b.items()
    terms = {_product(monomial, below, -1): c for monomial, c in a.items()}
    if set(terms) <= {()}:
        return of_function(divide(terms.get((), constant(0)), divisor))
    if any(power < 0 for monomial in terms for _, power in monomial):
        raise NotQuasiLinear("a division by other sizes")
    if any(_remainder(c, divisor) != 0 for c in terms.values()):
        raise NotQuasiLinear("a division that is not exact")
    return {monomial: c // divisor for monomial, c in terms.items()}


def _remainder(f: QuasiLinear, divisor: QuasiLinear) -> Any:
    """What is left over of a division, if it is the same at all lengths."""
    if not divisor.is_constant:
        return None
    modulus = divisor(1)
    return None if modulus is None else remainder(f, modulus)
