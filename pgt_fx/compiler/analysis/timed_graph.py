"""The result of the analysis: what it finds of the values and operators of a graph."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, TypeVar

from torch import fx

from pgt_fx.capture.captured import Captured
from pgt_fx.capture.guards.length_guard import Lengths
from pgt_fx.compiler.analysis.length_tables import PairTable, Table
from pgt_fx.core.clip import ClipSpec
from pgt_fx.core.clocks import Clock
from pgt_fx.core.errors import Place
from pgt_fx.core.layout import Axis, Layout, LayoutError, axis_of, time_dims
from pgt_fx.rules import Kind, Refusal

T = TypeVar("T")


@dataclass
class Value:
    """Timeline of one value of the graph.

    Attributes:
        layout: axes; None where the value is no tensor.
        clock: how many elements exist when; None for a value without a time axis.
        pooled: names of the reductions over time that the value depends on, through which it
            has one element per step.
        guessed: after a blocker: the timeline is a guess, made to find further blockers.
        table: of a value that the model makes from the number of frames: it has no clock, and is
            made anew in each step where it is used.
        of_length: calculated from the number of frames of the video T, and no table:
            ``full((2,), T)``.
    """

    layout: Layout | None
    clock: Clock | None = None
    pooled: frozenset[str] = frozenset()
    guessed: bool = False
    table: Table | None = None
    of_length: bool = False

    @property
    def timed(self) -> bool:
        return self.clock is not None


@dataclass
class Operation:
    """What the analysis found of one node.

    Attributes:
        outcome: what the rule answered: the kind of the operator.
        value: timeline of the result; a list for several results.
        joins: operands with time whose clocks differ: each gets an aligner.
        place: where in the user's model.
        tables: operands that are tables.
        pairs: those of them that have an axis of keys, made at the positions of a step.
        clock: of the operands in common; of the result where each is taken as it comes.
    """

    node: fx.Node
    outcome: Kind
    value: Value | list[Value]
    place: Place
    joins: tuple[fx.Node, ...] = ()
    joined: Clock | None = None
    tables: tuple[fx.Node, ...] = ()
    pairs: dict[fx.Node, PairTable] = field(default_factory=dict)
    clock: Clock | None = None


@dataclass(frozen=True)
class Merged:
    """An operator along time whose operand has time merged with something else in a dimension.

    Attributes:
        node: the operator.
        operand: its operand.
        dim: the dimension of it.
        entries: elements of each frame that are merged with time there.
    """

    node: fx.Node
    operand: fx.Node
    dim: int
    entries: int


@dataclass
class Analysis:
    """Timelines of all values, operations in order, and the model's outputs.

    Attributes:
        values: node name -> timeline (a list for several results).
        operations: node name -> operation, for nodes with at least one operand that has time.
        outputs: nodes (or constants) that the model returns, flat.
        lengths: of the whole videos for which the graph is the model.
        apart: nodes that take the first frame to put it in front of a stream.
        merged: operators before which time has yet to be separated, in order; and
        returned: tables that are returned and have yet to get a node of their own. Both are empty
            once the graph is prepared (:mod:`pgt_fx.compiler.analysis.prepare`).
    """

    captured: Captured
    spec: ClipSpec
    future: str
    values: dict[str, Value | list[Value]] = field(default_factory=dict)
    operations: dict[str, Operation] = field(default_factory=dict)
    outputs: list[Any] = field(default_factory=list)
    lengths: Lengths = field(default_factory=Lengths)
    apart: set[str] = field(default_factory=set)
    merged: list[Merged] = field(default_factory=list)
    returned: list[fx.Node] = field(default_factory=list)
    _drawn: dict[Any, Any] = field(default_factory=dict, repr=False, compare=False)

    def drawn(self, conclude: Callable[[Analysis], T]) -> T:
        """What a function concludes from it; called once, when the first one asks."""
        if conclude not in self._drawn:
            self._drawn[conclude] = conclude(self)
        found: T = self._drawn[conclude]
        return found

    def value(self, node: fx.Node) -> Value:
        """Timeline of a node with a single result."""
        found = self.values[node.name]
        if isinstance(found, list):
            raise Refusal("several results are used as one")
        return found

    def timed(self, node: fx.Node) -> bool:
        """Whether a node has a time axis, in one of its results at least."""
        found = self.values[node.name]
        return any(v.timed for v in (found if isinstance(found, list) else [found]))

    @property
    def returns_frames(self) -> bool:
        """Whether the model returns something with an axis of time, and not of the clip alone."""
        return any(isinstance(o, fx.Node) and self.timed(o) for o in self.outputs)

    def streams(self, node: fx.Node) -> list[fx.Node]:
        """Operands with time."""
        return [n for n in node.all_input_nodes if self.timed(n)]

    def axis(self, node: fx.Node) -> Axis:
        layout = self.value(node).layout
        if layout is None:
            raise LayoutError("no tensor")
        return axis_of(layout)

    def __str__(self) -> str:
        """One line per value with time: which dimensions are time, and the kind of operator that
        made it, with its line in the model."""
        lines = []
        for name, found in self.values.items():
            value = found[0] if isinstance(found, list) else found
            if value.layout is None or not (value.timed or value.table):
                continue
            dims = ", ".join(str(d) for d in time_dims(value.layout))
            made = "an input" if value.timed else "a table made from the number of frames"
            if operation := self.operations.get(name):
                op = operation.place.op.removeprefix("aten.")
                made = f"{operation.outcome.name}: {operation.outcome.words(op)}"
                made += f"  # {operation.place.source}" if operation.place.source else ""
            lines.append(f"%{name}: time in dimension {dims or 'merged'}; {made}")
        return "\n".join(lines)


def once(conclude: Callable[[Analysis], T]) -> Callable[[Analysis], T]:
    """A conclusion from an analysis that several read (the report, the self-check, the doctor):
    it is drawn once for each, and what it gives is not to be written to."""

    @wraps(conclude)
    def known(analysis: Analysis) -> T:
        return analysis.drawn(conclude)

    return known
