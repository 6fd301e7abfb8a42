"""The lengths of video at which a model's views can be made: a view has as many elements as its
operand, and the model itself refuses a video for which it has not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import sympy
from torch import fx

from pgt_fx.capture.guards.symbolic_sizes import Sizes, expression
from pgt_fx.capture.schema import schema_name
from pgt_fx.core.lengths.sets import ANY_LENGTH, LengthSet, NotQuasiLinear

VIEWS = {f"aten::{name}" for name in ("view", "reshape", "_unsafe_view", "unflatten")}


def lengths_of_views(graph: fx.Graph, sizes: Sizes) -> LengthSet:
    """The lengths at which all views of a graph can be made, whatever the batch and the space are.
    A view for which these can't be determined excludes no length."""
    lengths = ANY_LENGTH
    for condition in _conditions(graph):
        if condition.free_symbols & sizes.times:
            for known in (condition, _at_most(condition, sizes.times)):
                try:
                    lengths &= sizes.reader.holds(known)
                    break
                except NotQuasiLinear:
                    continue
    return lengths


def _at_most(condition: Any, times: frozenset[Any]) -> Any:
    """What follows of a view's condition when each ``h // 2`` in the sizes that are given is taken
    for h / 2, which it is at most: that there are no more elements than such a view has."""
    whole, given = condition.args
    floors = {
        part: part.args[0] / part.args[1]
        for part in sympy.preorder_traversal(given)
        if type(part).__name__ == "FloorDiv"
        and not part.free_symbols & times
        and part.args[0].is_positive
        and part.args[1].is_Integer
    }
    return sympy.Le(whole, given.xreplace(floors), evaluate=False)


def _conditions(graph: fx.Graph) -> Iterator[Any]:
    for node in graph.nodes:
        name = schema_name(node)
        if name not in VIEWS or len(node.args) < 2:
            continue
        shape, last = node.args[0].meta["val"].shape, node.args[-1]
        wanted = [expression(_value(n)) for n in last] if isinstance(last, (list, tuple)) else []
        if not wanted:  # a view as another type
            continue
        known = shape if name != "aten::unflatten" else [shape[node.args[1]]]
        whole = sympy.Mul(*map(expression, known))
        product = sympy.Mul(*(n for n in wanted if n != -1))
        if -1 in wanted:
            yield sympy.Eq(sympy.Mod(whole, product, evaluate=False), 0, evaluate=False)
        else:
            yield sympy.Eq(whole, product, evaluate=False)


def _value(size: Any) -> Any:
    return size.meta["val"] if isinstance(size, fx.Node) else size
