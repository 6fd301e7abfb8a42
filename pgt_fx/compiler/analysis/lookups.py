"""Rows that a model looks up by the positions of its frames: where a table ends, videos do.

``self.embedding(torch.arange(x.shape[2]))`` raises for a video of more frames than the table has
rows. Which positions are looked up is followed as an entry of the index is, so that it is proven
where they stay in the table whatever the length (``arange(T) % rows``, a clamp), and from which
position on they do not.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

from torch import Tensor, fx

from pgt_fx.capture.attention.attention_map import Map
from pgt_fx.capture.attention.map_entries import Reader
from pgt_fx.capture.attention.positions import COLUMN, ROW, Pairs
from pgt_fx.capture.captured import Captured
from pgt_fx.capture.guards.length_guard import Condition, Lengths
from pgt_fx.capture.observe.module_calls import place
from pgt_fx.capture.passes.length_constants import Constants
from pgt_fx.capture.schema import named, schema_name
from pgt_fx.compiler.analysis.timed_graph import Analysis
from pgt_fx.core.counts import counted
from pgt_fx.core.entries.cases import Form
from pgt_fx.core.errors import ClipError
from pgt_fx.core.lengths.questions import at_most
from pgt_fx.core.lengths.sets import NotQuasiLinear

#: Rows, and the numbers of those that are looked up; whether they may be counted from the end.
Lookup = tuple[int, fx.Node, bool]


def within_rows(analysis: Analysis, node: fx.Node) -> Lengths:
    """The lengths of video for which a table has the rows that are looked up by positions.

    Where it can't be told which these are, it leaves none out: then it is said when a step fails
    (:func:`check_lookups`).
    """
    lengths = analysis.lengths
    for rows, index, signed in _lookups(analysis.captured, node):
        most = _first_outside(analysis.captured, rows, index, signed)
        if not most:
            continue
        for side in index.meta["val"].shape:
            if not analysis.captured.has_time(side):
                continue
            with suppress(NotQuasiLinear):
                held = at_most(analysis.captured.sizes.function(side), most)
                where, text = place(node), f"looks up a table of {counted(rows, 'row')}"
                lengths = lengths.within(Condition(held, where.source, where.line, text))
    return lengths


def check_lookups(analysis: Analysis) -> None:
    """Tell which lines look up rows by positions, in a step that torch has refused since a table
    has no such row.

    Raises:
        ClipError: naming the lines, where there are such lookups.
    """
    lines = [
        f"    {place(node)}: {counted(rows, 'row')}"
        for node in analysis.captured.graph.nodes
        for rows, _, _ in _lookups(analysis.captured, node)
    ]
    if lines:
        raise ClipError(
            "a row is looked up that a table has not, at a position of this step\n"
            + "\n".join(dict.fromkeys(lines))
            + "\nFeed shorter chunks, or end the video before"
        )


def _lookups(captured: Captured, node: fx.Node) -> Iterator[Lookup]:
    """What an operator looks up of tables of a fixed size, by numbers with an axis along time that
    are made of no frames."""
    for source, dim, index, signed in _operands(node):
        value = index.meta.get("val")
        rows = source.meta["val"].numel() if dim is None else source.meta["val"].shape[dim]
        if not isinstance(value, Tensor) or not isinstance(rows, int) or value.is_floating_point():
            continue
        of_time = any(map(captured.has_time, value.shape))
        if of_time and isinstance(captured.values, Constants) and captured.values.free(index):
            yield rows, index, signed


def _operands(node: fx.Node) -> Iterator[tuple[fx.Node, int | None, fx.Node, bool]]:
    """What is looked up in: the tensor, its dimension (None: all of it in a row), by which numbers,
    and whether these may be negative."""
    name = schema_name(node).removeprefix("aten::")
    if name not in ("embedding", "index", "index_select", "gather", "take_along_dim", "take"):
        return
    args = named(node)
    if name == "embedding":
        yield args["weight"], 0, args["indices"], False
    elif name == "index":
        for dim, index in enumerate(args["indices"]):
            if index is not None:
                yield args["self"], dim, index, True
    elif name == "take":
        yield args["self"], None, args["index"], True
    elif args.get("dim") is not None:
        index = args["indices" if name == "take_along_dim" else "index"]
        yield args["self"], args["dim"] % max(args["self"].meta["val"].dim(), 1), index, False


def _first_outside(captured: Captured, rows: int, index: fx.Node, signed: bool) -> int | None:
    """The number of positions of which the last is the first outside of the table; 0 where nothing
    is known, None where none is known to be, whatever their number."""
    constants = captured.values
    if not isinstance(constants, Constants):
        return 0
    times = [captured.has_time(s) for s in index.meta["val"].shape]
    if sum(times) > 2:
        return 0
    names = iter((ROW, COLUMN))
    roles = tuple(next(names) if timed else None for timed in times)
    reader = Reader(constants, Pairs(captured), Map(index, frozenset(), index))
    space = reader.space
    last = space.whole(0)
    within = [last - position for position in reader.position.values()]
    found: list[int] = []
    for case in reader.table(index, roles):
        if not isinstance(case.value, Form):
            continue  # a logarithm of the distance: where it is outside, a step fails
        number = case.value.linear
        for outside in (number - rows, -number - (rows + 1 if signed else 1)):
            with suppress(ValueError):  # never so
                found.append(int(space.least(last, [*case.given, *within, outside]) or 0))
    return min(found, default=None)
