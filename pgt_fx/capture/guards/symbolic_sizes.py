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
    bounds,
    equal,
    larger,
    less,
    same,
    smaller,
    the_constant,
    where,
)
from pgt_fx.core.lengths.sets import ANY_LENGTH, LengthSet, NotQuasiLinear

#: Most frames in a group that are looked for.
MOST_GROUPED = 64
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
            expr, count = self._in_groups(expr)
            return bool(self._settled(expr).free_symbols & (self.times | {count}))

    def _in_groups(self, expr: Any, groups: int | None = None) -> tuple[Any, Any]:
        """An expression for videos of so many frames at a time, and the symbol in it that stands
        for how often. What torch has for the size of a group, ``n * t // (n * t // 8)``, is 8.

        Args:
            groups: None: the most of which the lengths are whole multiples.
        """
        groups = self._common() if groups is None else groups
        count = sympy.Symbol("groups", positive=True, integer=True)
        if groups == 1:
            return expr, count
        at = {s: self.reader.ratios[s] * groups * count for s in self.times}
        return expr.xreplace(at), count

    def _common(self) -> int:
        """The largest number of a few of which all of the lengths are multiples."""
        if self.lengths.is_all or self.lengths.is_empty:
            return 1
        for groups in range(MOST_GROUPED, 1, -1):
            if (self.lengths - LengthSet.remainders(groups, [0])).is_empty:
                return groups
        return 1

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
            if self.same(long, expression(short) * ratio):
                return True
            difference = expression(long) - expression(short) * ratio
            return groups and sympy.expand(self._in_groups(difference, ratio)[0]) == 0

    def product(self, factors: Sequence[Any], whole: Any) -> bool:
        """Whether sizes multiply to another one; False where it can't be determined."""
        found = sympy.Mul(*map(expression, factors))
        if sympy.expand(found - expression(whole)) == 0:
            return True
        return self.same(found, whole)

    def bound(self, size: Any, length: QuasiLinear) -> QuasiLinear:
        """Where the bound of a slice stands among ``length`` elements: one below 0 counts from the
        end, and none is beyond an end.

        Raises:
            NotQuasiLinear: where it is no function of the number of frames.
        """
        at = self.function(size)
        return where(less(at, 0), larger(length + at, 0), smaller(at, length))

    def cut_from_end(self, bound: Any, length: Any) -> int | None:
        """The number c of elements by which ``x[:bound]`` is shorter than ``x``, of ``length``
        elements; None where there is no such number."""
        offset = self.offset(bound, length)
        if offset == 0:
            return 0
        try:
            n = self.function(length)
            left = self.bound(bound, n)
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

    def from_start(self, at: QuasiLinear, length: QuasiLinear) -> int | None:
        """The number c for which ``at`` is c, or ``length`` where that is less; None: there is no
        such number."""
        most = bounds(at, self.lengths)[1]
        if most is None or not equal(smaller(most, length), at, self.lengths):
            return None
        return int(most)


def expression(size: Any) -> Any:
    """A size as a sympy expression."""
    if isinstance(size, SYMBOLIC):
        return size.node.expr
    return sympy.sympify(size)
