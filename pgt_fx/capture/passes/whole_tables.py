"""A table with one row per frame of a clip, cut to the frames at hand: ``y + table[:, :t]``.

``clip_table`` gives each value as many rows as it has elements. A table cut to the frames of a step
would have too few rows where a layer holds frames back and the step emits more than it is fed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, fx

from pgt_fx.capture.captured import Captured
from pgt_fx.capture.schema import schema_name

#: What may be done to the rows of a table after they are cut, each by itself.
ROW_BY_ROW = {
    f"aten::{name}"
    for name in (
        *("add", "sub", "mul", "div", "neg", "dropout"),
        *("to", "_to_copy", "clone", "contiguous", "detach", "alias"),
    )
}

#: Length that is wanted along dimensions counted from the last one.
Lengths = Mapping[int, str]


def whole_tables(captured: Captured, _: int) -> None:
    """Hand the whole table on wherever it is cut to the length of what it is joined with."""
    for node in list(captured.graph.nodes):
        if schema_name(node) == "pgt_fx::clip_table":
            given: Any = node.args
            table, like, dims = given
            lengths = {d: str(like.meta["val"].shape[d]) for d in dims}
            node.args = (_uncut(table, lengths) or table, like, dims)


def _uncut(table: fx.Node, lengths: Lengths) -> fx.Node | None:
    """The same table with all its rows; None where it is not cut."""
    name = schema_name(table)
    if name == "aten::slice" and _cut_to(table, lengths):
        (source,) = table.all_input_nodes[:1]
        return _uncut(source, lengths) or source
    inside = lengths if name in ROW_BY_ROW else _moved(table, lengths)
    rows = [n for n in table.all_input_nodes if not _without_rows(n, inside)]
    whole = _uncut(rows[0], inside) if len(rows) == 1 and inside else None
    if whole is None:
        return None
    with table.graph.inserting_before(table):
        new = table.graph.node_copy(table, lambda n: whole if n is rows[0] else n)
    called: Any = new.target
    args: Any = fx.map_arg(new.args, lambda n: n.meta["val"])
    kwargs: Any = fx.map_arg(new.kwargs, lambda n: n.meta["val"])
    new.meta = {**table.meta, "val": called(*args, **kwargs)}
    return new


def _cut_to(table: fx.Node, lengths: Lengths) -> bool:
    """Whether it is the first rows of another one, as many as are wanted."""
    given: list[Any] = [*table.args, *(0, None, None, 1)[len(table.args) - 1 :]]
    _, dim, start, end, step = given
    at = dim - table.meta["val"].dim() if dim >= 0 else dim
    if start not in (None, 0) or step != 1 or not isinstance(end, fx.Node):
        return False
    return lengths.get(at) == str(end.meta["val"])


def _moved(table: fx.Node, lengths: Lengths) -> Lengths:
    """The same of a tensor whose dimensions are put into another order; none of other calls."""
    value, name = table.meta["val"], schema_name(table)
    given: Any = table.args[1:]
    if not isinstance(value, Tensor):
        return {}
    rank = value.dim()
    order = list(range(rank))
    if name in ("aten::transpose", "aten::mT"):
        a, b = given if name == "aten::transpose" else (-1, -2)
        order[a], order[b] = order[b], order[a]
    elif name == "aten::permute":
        order = [d % rank for d in given[0]]
    elif name == "aten::unsqueeze":
        new = given[0] % rank
        order = [d - (d > new) for d in order]
        if new - rank in lengths:
            return {}
        rank -= 1
    else:
        return {}
    return {order[d] - rank: length for d, length in lengths.items()}


def _without_rows(node: fx.Node, lengths: Lengths) -> bool:
    value = node.meta["val"]
    return isinstance(value, Tensor) and all(
        value.dim() < -d or value.shape[d] == 1 for d in lengths
    )
