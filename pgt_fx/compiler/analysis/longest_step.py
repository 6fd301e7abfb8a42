"""The longest step: a table of fixed length has no row for elements after its last one."""

from __future__ import annotations

from typing import Any

from torch import fx

from pgt_fx.capture.schema import schema_name
from pgt_fx.compiler.analysis.timed_graph import Analysis, once
from pgt_fx.core.clocks import Clock
from pgt_fx.core.layout import size, time_dims
from pgt_fx.core.lengths.questions import at_most
from pgt_fx.core.lengths.sets import ANY_LENGTH, NotQuasiLinear
from pgt_fx.core.node_arguments import as_node, as_numbers


@once
def longest_step(analysis: Analysis) -> int | None:
    """Most frames of a step (of the path with the fewest); None: any number."""
    if analysis.captured.clip is not None:
        return min(analysis.captured.clip.frames)
    limits = [limit for node in analysis.operations for limit in _limits(analysis, node)]
    ratio, clip = analysis.spec.ratio, min(analysis.spec.lengths)
    held = ANY_LENGTH
    try:
        for clock, rows in limits:
            held &= at_most(clock.count_of_video(ratio), rows)
    except NotQuasiLinear:
        return clip
    beyond = (~held).next(clip + 1)
    return None if beyond is None else beyond - 1


def _limits(analysis: Analysis, name: str) -> list[tuple[Clock, int]]:
    """Clocks with the most elements that they may have in a step."""
    operation = analysis.operations[name]
    node, clock = operation.node, operation.clock
    if clock is None:
        return []
    if schema_name(node) == "pgt_fx::clip_table":
        table: Any = node.args[0]
        like = analysis.value(as_node(node.args[1])).layout or ()
        out = []
        for d in as_numbers(node.args[2]):
            dim = like[d]
            entries = size(dim) // next(f.size for f in dim if f.time)
            out.append((clock, int(table.meta["val"].shape[d]) // entries))
        return out
    # A table of pairs ends the video, not the step.
    rows = [_rows(analysis, t) for t in operation.tables if t not in operation.pairs]
    return [(clock, n) for n in rows if n is not None]


def _rows(analysis: Analysis, table: fx.Node) -> int | None:
    """Rows of the tensor that a table of fixed length is cut from."""
    queue, seen = [table], set()
    while queue:
        node = queue.pop()
        known = analysis.value(node).table
        if node in seen or known is None:
            continue
        seen.add(node)
        source: Any = node.args[0] if node.args else None
        if schema_name(node) == "aten::slice" and analysis.value(source).table is None:
            dim = time_dims(analysis.value(node).layout or ())[0]
            return int(source.meta["val"].shape[dim])
        queue += node.all_input_nodes
    return None
