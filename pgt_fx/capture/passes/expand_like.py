"""A value without time repeated once per frame: a class token, a table of positions in space.

A model gives it as many rows as the clip has frames, ``token.expand(x.shape[0], -1, -1)``. Here
their number is read from the value that it is combined with, so that it is right in each step.
"""

from __future__ import annotations

import torch
from torch import Tensor, fx
from torch.fx.node import Argument

from pgt_fx.capture.captured import Captured
from pgt_fx.capture.schema import schema_name
from pgt_fx.core.node_arguments import as_list, function_of

GROWING = ("aten::expand", "aten::repeat", "aten::broadcast_to")
TOGETHER = ("aten::cat", "aten::concat", "aten::concatenate")


def expand_rows(x: Tensor, like: Tensor, dim: int) -> Tensor:
    """``x``, which has one row along ``dim``, with as many rows as ``like``."""
    return x.expand(*x.shape[:dim], like.shape[dim], *x.shape[dim + 1 :])


@torch.library.custom_op("pgt_fx::expand_rows", mutates_args=())
def _expand_rows_op(x: Tensor, like: Tensor, dim: int) -> Tensor:
    """See :func:`expand_rows`."""
    return expand_rows(x, like, dim).clone()


@_expand_rows_op.register_fake
def _shape(x: Tensor, like: Tensor, dim: int) -> Tensor:
    return x.new_empty([*x.shape[:dim], like.shape[dim], *x.shape[dim + 1 :]])


def expand_like(captured: Captured, _: int) -> None:
    """Rewrite the repetitions of values without time that are put together with one that has it.

    Before::

        %t = aten.sym_size(%x, 1)
        %token = aten.expand(%cls, [-1, %t, -1])          # one row per frame of the video
        %cat = aten.cat([%token, %x], 2)

    After::

        %token = pgt_fx.expand_rows(%cls, %x, 1)          # as many rows as the step has frames
        %cat = aten.cat([%token, %x], 2)
    """
    for node in list(captured.graph.nodes):
        dim = _growth(captured, node)
        if dim is None:
            continue
        for user in list(node.users):
            like = _beside(user, node, dim)
            if like is not None:
                _rewrite(captured.graph, node, user, like, dim)


def _growth(captured: Captured, node: fx.Node) -> int | None:
    """The only dimension that grows with the number of frames, from one row."""
    if schema_name(node) not in GROWING or not isinstance(node.args[0], fx.Node):
        return None
    source, result = node.args[0].meta["val"], node.meta["val"]
    new = result.dim() - source.dim()
    at = [d for d, s in enumerate(result.shape) if captured.has_time(s)]
    if len(at) != 1 or any(captured.has_time(s) for s in source.shape):
        return None
    one = at[0] < new or source.shape[at[0] - new] == 1
    return at[0] if one else None


def _beside(user: fx.Node, node: fx.Node, dim: int) -> fx.Node | None:
    """Another operand of as many rows, with which the value is put together."""
    shape = node.meta["val"].shape
    for other in user.all_input_nodes:
        value = other.meta.get("val")
        if other is node or not isinstance(value, Tensor) or value.dim() != len(shape):
            continue
        if str(value.shape[dim]) == str(shape[dim]) and schema_name(user) in TOGETHER + JOINS:
            return other
    return None


JOINS = ("aten::add", "aten::sub", "aten::mul", "aten::div", "aten::where", "aten::maximum")


def _rewrite(graph: fx.Graph, node: fx.Node, user: fx.Node, like: fx.Node, dim: int) -> None:
    """``expand_rows(one row of the value, like)`` in place of the repetition."""
    kept = {k: v for k, v in node.meta.items() if k != "val"}
    with graph.inserting_before(user):
        row = graph.call_function(function_of(node), (node.args[0], _one_row(node, dim)))
        new = graph.call_function(torch.ops.pgt_fx.expand_rows.default, (row, like, dim))
    value = node.meta["val"]
    row.meta = {**kept, "val": value.narrow(dim, 0, 1)}
    new.meta = {**kept, "val": value}
    user.replace_input_with(node, new)


def _one_row(node: fx.Node, dim: int) -> list[Argument]:
    sizes = as_list(node.args[1])
    sizes[dim] = 1
    return sizes
