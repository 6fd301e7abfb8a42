"""Passes that a captured graph goes through before it is analysed for good: what the walk over it
asks for is written, and it is walked anew. The walk itself writes nothing.

A walk goes on behind what it asks for as if it were there, so that however many operators ask, it
is all found at once, and the second walk has nothing to ask.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import fx

from pgt_fx.capture.captured import Captured
from pgt_fx.compiler.analysis.outputs import MADE
from pgt_fx.compiler.analysis.timed_graph import Analysis, Merged
from pgt_fx.compiler.analysis.walk import walk_graph
from pgt_fx.core.clip import ClipSpec
from pgt_fx.core.errors import Blocker
from pgt_fx.core.trace import stage


def prepare(captured: Captured, spec: ClipSpec, future: str) -> tuple[Analysis, dict[str, Blocker]]:
    """Write what the analysis of a graph needs nodes for, in place.

    Returns:
        what the last walk has found, over the graph as it stays from here on.
    """
    graph = captured.graph
    while True:
        analysis, blockers = walk_graph(captured, spec, future)
        if analysis.merged:
            with stage("analysis/separate merged time", lambda: graph):
                separate_merged_time(graph, analysis.merged)
        if analysis.returned:
            with stage("analysis/alias returned tables", lambda: graph):
                alias_returned_tables(graph, analysis.returned)
        if not analysis.merged and not analysis.returned:
            return analysis, blockers
        graph.lint()


def separate_merged_time(graph: fx.Graph, found: Sequence[Merged]) -> None:
    """Elements that a view merges with time become elements of time, by an operator of their own,
    in front of an operator along time.

    Before, of 3 elements for each frame: ``%v = aten.view(%x, [%n, 4, %m])``, ``%c =
    aten.conv1d(%v, …)``

    After: ``%u = aten.unflatten(%v, 2, [-1, 3])``, ``%w = pgt_fx.interleave(%u, 2)``, ``%c =
    aten.conv1d(%w, …)``
    """
    for one in found:
        value = one.operand.meta["val"]
        with graph.inserting_before(one.node):
            parts = graph.call_function(
                torch.ops.aten.unflatten.int, (one.operand, one.dim, [-1, one.entries])
            )
            whole = graph.call_function(torch.ops.pgt_fx.interleave.default, (parts, one.dim))
        count = value.shape[one.dim] // one.entries
        parts.meta = {
            **one.node.meta,
            "val": value.unflatten(one.dim, (count, one.entries)),
        }
        whole.meta = {**one.node.meta, "val": value}
        one.node.replace_input_with(one.operand, whole)


def alias_returned_tables(graph: fx.Graph, found: Sequence[fx.Node]) -> None:
    """A table that the model returns gets a node of its own for that: elsewhere a table is made
    where it is used.

    Before: ``%t = aten.arange(%n)``, ``return %t``

    After: ``%t = aten.arange(%n)``, ``%a = aten.alias(%t)``, ``return %a``
    """
    output = next(n for n in graph.nodes if n.op == "output")
    for table in found:
        with graph.inserting_before(output):
            new = graph.call_function(torch.ops.aten.alias.default, (table,))
        new.meta = {**table.meta, MADE: True}
        output.replace_input_with(table, new)
