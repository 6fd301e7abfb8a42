"""Sizes of a capture as functions of the number of frames: which of them are the same, and when."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sympy
import torch

from pgt_fx.core.lengths.from_sympy import LengthReader
from pgt_fx.core.lengths.functions import Number, QuasiLinear, constant
from pgt_fx.core.lengths.questions import (
    at_most,
    equal,
    larger,
    less,
    same,
    smaller,
    the_constant,
    where,
)
from pgt_fx.core.lengths.sets import ANY_LENGTH, LengthSet, NotQuasiLinear

SYMBOLIC = (torch.SymInt, torch.SymFloat, torch.SymBool)


class Sizes:
    """Answers about sizes, for all lengths in a set and whatever the batch and the space are.

    Args:
        known: the symbols of a capture with their values there.
        times: those of the time axes.
        lengths: of the videos that the answers are for.
    """

    def __init__(
        self,
        known: Mapping[Any, int],
        times: frozenset[Any],
        lengths: LengthSet = ANY_LENGTH,
        reader: LengthReader | None = None,
    ) -> None:
        self.known, self.times, self.lengths = known, times, lengths
        least = min((known[s] for s in times), default=1)
        self.reader = reader or LengthReader({s: known[s] // least for s in times})

    def of(self, lengths: LengthSet) -> Sizes:
        """The same for videos of other lengths; what was read is known already."""
        return Sizes(self.known, self.times, lengths, self.reader)

    def function(self, size: Any) -> QuasiLinear:
        """A size as a function of the number of frames.

        Raises:
            NotQuasiLinear: where it is none.
        """
        return self.reader.function(expression(size))

    def varies(self, size: Any) -> bool:
        """Whether a number, of a size or a truth, differs between two lengths; taken to do so where
        it can't be determined."""
        expr = expression(size)
        if not self.reader.of_length(expr):
            return False
        try:
            if isinstance(size, torch.SymBool):
                held = self.reader.holds(expr) & self.lengths
                return not held.is_empty and held != self.lengths
            found = self.reader.polynomial(expr).values()
            return any(the_constant(c, self.lengths) is None for c in found)
        except NotQuasiLinear:
            return bool(self._settled(expr).free_symbols & self.times)

    def _settled(self, expr: Any) -> Any:
        """An expression in which a number stands for what is the same at all of the lengths: of a
        product of space and ``T // (T // 2)`` the space is left."""
        if not expr.free_symbols & self.times:
            return expr
        if expr.free_symbols <= self.times:
            try:
                found = the_constant(self.reader.function(expr), self.lengths)
            except NotQuasiLinear:
                found = None
            if found is not None:
                return sympy.Rational(found)
        return expr.func(*map(self._settled, expr.args)) if expr.args else expr

    def grows(self, size: Any) -> bool:
        """Whether a size certainly differs between long videos."""
        if self.lengths.is_finite:
            return False
        try:
            found = self.reader.polynomial(expression(size)).values()
        except NotQuasiLinear:
            return False
        return any(all(step > 0 for step in c.pieces[-1].steps) for c in found)

    def same(self, a: Any, b: Any) -> bool:
        """Whether two sizes are equal; False where it can't be determined."""
        return self.offset(a, b) == 0

    def offset(self, a: Any, b: Any) -> Number | None:
        """a - b, where it is the same number at all lengths; else None."""
        difference = expression(a) - expression(b)
        if difference.is_Integer:
            return int(difference)
        try:
            found = self.reader.polynomial(difference)
            rest = [c for monomial, c in found.items() if monomial]
            if any(not equal(c, 0, self.lengths) for c in rest):
                return None
            return the_constant(found.get((), constant(0)), self.lengths)
        except NotQuasiLinear:
            return None

    def multiple(self, long: Any, short: Any, ratio: int, *, groups: bool = False) -> bool:
        """Whether a size is ``ratio`` times another one; with ``groups`` where it is a whole
        multiple of the ratio. Of no elements a model makes nothing.
        """
        try:
            f, g = self.function(long), self.function(short)
            on = self.lengths - same(g, 0)
            if groups:
                on &= same(f % ratio, 0)
            return not on.is_empty and equal(f, g * ratio, on)
        except NotQuasiLinear:
            return self.same(long, expression(short) * ratio)

    def product(self, factors: Sequence[Any], whole: Any) -> bool:
        """Whether sizes multiply to another one; False where it can't be determined."""
        found = sympy.Mul(*map(expression, factors))
        if sympy.expand(found - expression(whole)) == 0:
            return True
        return self.same(found, whole)

    def cut_from_end(self, bound: Any, length: Any) -> int | None:
        """The number c of elements by which ``x[:bound]`` is shorter than ``x``, of ``length``
        elements; None where there is no such number."""
        offset = self.offset(bound, length)
        if offset == 0:
            return 0
        try:
            end, n = self.function(bound), self.function(length)
            # A negative bound counts from the end.
            left = where(less(end, 0), larger(n + end, 0), smaller(end, n))
            if equal(left, n, self.lengths):
                return 0
            if offset is not None and equal(left, larger(n + offset, 0), self.lengths):
                return -int(offset)
        except NotQuasiLinear:
            pass
        return None

    def last_from(self, bound: Any, length: Any) -> int | None:
        """The number c of the elements that ``x[bound:]`` takes; None where there is no such."""
        offset = self.offset(bound, length)
        if offset is None or offset >= 0:
            return None
        try:
            start = self.function(bound)
        except NotQuasiLinear:
            return None
        return -int(offset) if (self.lengths - at_most(0, start)).is_empty else None


def expression(size: Any) -> Any:
    """A size as a sympy expression."""
    if isinstance(size, SYMBOLIC):
        return size.node.expr
    return sympy.sympify(size)
