"""The model's graph with frame-by-frame operators left out, and where each box is drawn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import networkx as nx
from torch import Tensor, fx

from pgt_fx.compiler.analysis.timed_graph import Analysis, Operation
from pgt_fx.core.errors import Blocker

#: Verdict -> what it means, in the order of the legend.
VERDICTS = {
    "input": "input and output",
    "exact": "exact: reads the past alone",
    "ahead": "exact, but looks into the future",
    "join": "waits for a later branch",
    "running": "over all frames so far",
    "step": "mixes all of time: within each step",
    "refused": "can't be converted",
}


@dataclass(frozen=True)
class Box:
    """One operator.

    Attributes:
        label, note: first and second line.
        verdict: key of :data:`VERDICTS`.
        source: ``file.py:line``.
        why: the reason, or the user's line.
        column, row: place in the drawing; columns are centred around 0.
    """

    label: str
    note: str
    verdict: str
    source: str = ""
    why: str = ""
    column: float = 0.0
    row: int = 0


@dataclass(frozen=True)
class Picture:
    """Boxes by name and the arrows between them."""

    boxes: dict[str, Box] = field(default_factory=dict)
    arrows: tuple[tuple[str, str], ...] = ()


def picture(
    analysis: Analysis, blockers: Mapping[str, Blocker], ahead: Mapping[str, int], gates: set[str]
) -> Picture:
    """Lay out the operators that do something along time."""
    found: dict[str, Box] = {}
    graph = nx.DiGraph()
    reaches_from: dict[str, set[str]] = {}  # node -> the boxes whose values it is made of
    for node in analysis.captured.graph.nodes:
        if node.op == "output":
            continue
        before: set[str] = set()
        for operand in node.all_input_nodes:
            before |= reaches_from.get(operand.name, set())
        box = _box(analysis, node, blockers, ahead, gates)
        if box is None:
            # What is calculated from sizes is no flow of frames.
            tensor = isinstance(node.meta.get("val"), (Tensor, list, tuple))
            reaches_from[node.name] = before if tensor else set()
            continue
        found[node.name] = box
        graph.add_node(node.name)
        graph.add_edges_from((source, node.name) for source in before)
        reaches_from[node.name] = {node.name}
    for number, item in enumerate(analysis.outputs):
        if isinstance(item, fx.Node) and reaches_from.get(item.name):
            name = f"output {number}" if number else "output"
            found[name] = Box(name, "", "input")
            graph.add_edges_from((source, name) for source in reaches_from[item.name])
    # An arrow beside a longer way says nothing: a residual's other branch is its join's own.
    return Picture(*_placed(found, graph))


def _box(
    analysis: Analysis,
    node: fx.Node,
    blockers: Mapping[str, Blocker],
    ahead: Mapping[str, int],
    gates: set[str],
) -> Box | None:
    if node.op == "placeholder":
        leaf = analysis.captured.inputs.get(node.name)
        timed = leaf is not None and analysis.spec.times[leaf] is not None
        return Box(node.name, "frames", "input") if timed else None
    if node.name in blockers:
        blocker = blockers[node.name]
        op = blocker.place.op.removeprefix("aten.")
        return Box(_short(blocker.place.module, op), op, "refused", blocker.place.source,
                   blocker.reason)  # fmt: skip
    operation = analysis.operations.get(node.name)
    if operation is None:
        return None
    return _operation(node, operation, ahead, gates)


def _operation(
    node: fx.Node, operation: Operation, ahead: Mapping[str, int], gates: set[str]
) -> Box | None:
    where = operation.place
    op = where.op.removeprefix("aten.")
    drawn = operation.outcome.drawn(
        op,
        ahead=ahead.get(node.name, 0),
        gated=node.name in gates,
        joins=bool(operation.joins),
    )
    if drawn is None:
        return None
    label, why = _short(where.module, op), drawn.why or where.line
    return Box(label, drawn.note, drawn.colour, where.source, why)


def _short(module: str, op: str) -> str:
    name = module or op
    return name if len(name) <= 34 else "…" + name[-33:]


def _placed(
    found: dict[str, Box], graph: nx.DiGraph
) -> tuple[dict[str, Box], tuple[tuple[str, str], ...]]:
    """Rows by the longest way from an input; columns by where the operands stand."""
    rows: dict[str, int] = {}
    columns: dict[str, float] = {}
    for row, layer in enumerate(nx.topological_generations(graph)):
        # In the lane of what it reads; the paths of a model stay beside one another.
        wanted = {n: _mean([columns[p] for p in graph.predecessors(n)]) for n in layer}
        order = sorted(layer, key=lambda n: wanted[n])
        placed: list[float] = []
        for name in order:
            placed.append(max(wanted[name], placed[-1] + 1) if placed else wanted[name])
        pushed = _mean([at - wanted[n] for at, n in zip(placed, order, strict=True)])
        for at, name in zip(placed, order, strict=True):
            rows[name], columns[name] = row, round(2 * (at - pushed)) / 2
    boxes = {
        name: Box(b.label, b.note, b.verdict, b.source, b.why, columns[name], rows[name])
        for name, b in found.items()
        if name in rows
    }
    return boxes, tuple(graph.edges)


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0
