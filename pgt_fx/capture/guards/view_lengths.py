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


def frames_in_groups(graph: fx.Graph, times: frozenset[Any]) -> Iterator[tuple[fx.Node, int]]:
    """Views that group frames merged with the batch (``x.view(n * t // 2, 2 * c, h, w)``),
    and how many are in a group: a video has to have a multiple of these.

    Of an odd number of frames of two videos such a view can be made as well: a group then has
    frames of both, which is not what a model means, and no stream has such groups.
    """
    for node in graph.nodes:
        if schema_name(node) in VIEWS and isinstance(node.args[-1], (list, tuple)):
            whole, *_ = node.args[0].meta["val"].shape or (1,)
            part, *_ = node.meta["val"].shape or (1,)
            one, other = expression(whole), expression(part)
            if type(other).__name__ != "FloorDiv" or not one.free_symbols - times:
                continue
            if other.args[0] == one and other.args[1].is_Integer and one.free_symbols & times:
                yield node, int(other.args[1])


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
