"""Analysis: one forward walk over the graph gives each value its timeline and each operator a
verdict. No tensor is computed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx

from pgt_fx.capture.export import Captured, place
from pgt_fx.capture.inputs import ClipSpec
from pgt_fx.errors import BlockedError, Blocker, Place
from pgt_fx.layout import Axis, Factor, Layout, LayoutError, axis_of, plain, time_dims
from pgt_fx.rules import RULES, OpView, Outcome, Reduced, Refusal, StepOnly, Windowed
from pgt_fx.timeline import Clock, InputClock, JoinClock, LawClock, moments, same


@dataclass
class Value:
    """Timeline of one value of the graph.

    Attributes:
        layout: axes; None where the value is no tensor.
        clock: how many elements exist when; None for a value without a time axis.
        pooled: names of the reductions over time that the value depends on, through which it
            has one element per step.
        guessed: behind a blocker: the timeline was made up to go on looking for more.
    """

    layout: Layout | None
    clock: Clock | None = None
    pooled: frozenset[str] = frozenset()
    guessed: bool = False

    @property
    def timed(self) -> bool:
        return self.clock is not None


@dataclass
class Operation:
    """What the analysis found of one node.

    Attributes:
        outcome: what the rule answered.
        value: timeline of the result; a list for several results.
        joins: operands with time whose clocks differ: each gets an aligner.
        place: where in the user's model.
    """

    node: fx.Node
    outcome: Outcome
    value: Value | list[Value]
    place: Place
    joins: tuple[fx.Node, ...] = ()
    joined: Clock | None = None


@dataclass
class Analysis:
    """Timelines of all values, operations in order, and the model's outputs.

    Attributes:
        values: node name -> timeline (a list for several results).
        operations: node name -> operation, for nodes with at least one operand that has time.
        outputs: nodes (or constants) that the model returns, flat.
    """

    captured: Captured
    spec: ClipSpec
    future: str
    values: dict[str, Value | list[Value]] = field(default_factory=dict)
    operations: dict[str, Operation] = field(default_factory=dict)
    outputs: list[Any] = field(default_factory=list)

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

    def streams(self, node: fx.Node) -> list[fx.Node]:
        """Operands with time."""
        return [n for n in node.all_input_nodes if self.timed(n)]

    def axis(self, node: fx.Node) -> Axis:
        layout = self.value(node).layout
        if layout is None:
            raise LayoutError("no tensor")
        return axis_of(layout)


def analyze_graph(captured: Captured, spec: ClipSpec, future: str) -> Analysis:
    """Walk the graph.

    Raises:
        BlockedError: listing every operator that mixes time and has no rule.
    """
    analysis, blockers = walk_graph(captured, spec, future)
    if blockers:
        raise BlockedError(list(blockers.values()))
    return analysis


def walk_graph(
    captured: Captured, spec: ClipSpec, future: str
) -> tuple[Analysis, dict[str, Blocker]]:
    """Walk the graph to its end, blockers or not.

    Returns:
        the analysis, whose timelines behind a blocker are guessed, and the blockers by node name.
    """
    walk = _Walk(Analysis(captured, spec, future))
    for node in captured.graph.nodes:
        walk.visit(node)
    return walk.analysis, walk.blockers


REMEDY = "replace it by an operator with a finite window, or leave it outside the model"


class _Walk:
    def __init__(self, analysis: Analysis) -> None:
        self.analysis = analysis
        self.blockers: dict[str, Blocker] = {}
        self.paths = {leaf: k for k, leaf in enumerate(analysis.spec.paths)}
        self.ratio = analysis.spec.ratio

    def visit(self, node: fx.Node) -> None:
        if node.op == "placeholder":
            self.analysis.values[node.name] = self._input(node)
        elif node.op == "output":
            self._output(node)
        elif node.op == "call_function":
            try:
                self._call(node)
            except (Refusal, LayoutError) as refusal:
                remedy = getattr(refusal, "remedy", "") or REMEDY
                if isinstance(refusal, Refusal) or not self._behind_a_blocker(node):
                    self.blockers[node.name] = Blocker(place(node), str(refusal), remedy)
                self.analysis.values[node.name] = self._after_refusal(node)

    def _input(self, node: fx.Node) -> Value:
        value = node.meta.get("val")
        if not isinstance(value, Tensor):
            return Value(None)
        layout = plain([_hint(s) for s in value.shape])
        leaf = self.analysis.captured.inputs.get(node.name)
        at = None if leaf is None else self.analysis.spec.times[leaf]
        if leaf is None or at is None:
            return Value(layout)
        dims = list(layout)
        for d, s in enumerate(value.shape):
            dims[d] = (Factor(_hint(s), not isinstance(s, int), int(d == at), d == 0 != at),)
        return Value(tuple(dims), InputClock(self.analysis.future, self.paths[leaf]))

    def _call(self, node: fx.Node) -> None:
        operands = list(node.all_input_nodes)
        values = [self.analysis.values[n.name] for n in operands]
        flat = [v for value in values for v in (value if isinstance(value, list) else [value])]
        pooled = frozenset().union(*(v.pooled for v in flat)) if flat else frozenset()
        if not isinstance(node.target, torch._ops.OpOverload) or not _has_tensor(node):
            self._builtin(node, pooled)
            return
        if "pgt_written" in node.meta and self._written_to_time(node):
            raise node.meta["pgt_written"]
        if not any(v.timed for v in flat):
            self._timeless(node, pooled)
            return
        rule = RULES.get(node.target._schema.name)
        if rule is None:
            raise Refusal(
                "there is no rule for this operator, and it is given a tensor with a time axis",
                "register one with pgt_fx.rules.rule, or move the operator out of the model",
            )
        view = OpView(node, lambda n: self._layout(n))
        outcome = rule(view)
        self._sizes_without_time(node, outcome)
        joins, clock = self._join(node, view, outcome)
        operation = Operation(node, outcome, Value(None), place(node))
        if joins:
            operation.joins, operation.joined = joins, clock
        operation.value = self._result(node, outcome, clock, pooled)
        self.analysis.values[node.name] = operation.value
        self.analysis.operations[node.name] = operation
        self._check(node, operation.value)

    def _written_to_time(self, node: fx.Node) -> bool:
        """Whether an operator that writes through a view writes into a tensor with time."""
        target: Any = node.args[0]
        while isinstance(target, fx.Node):
            if self.analysis.timed(target):
                return True
            target = target.args[0] if target.args else None
        return False

    def _layout(self, node: fx.Node) -> Layout | None:
        value = self.analysis.values[node.name]
        return None if isinstance(value, list) else value.layout

    def _builtin(self, node: fx.Node, pooled: frozenset[str]) -> None:
        """``getitem`` on several results; arithmetic on sizes."""
        source = node.args[0] if node.args else None
        if isinstance(source, fx.Node) and isinstance(self.analysis.values[source.name], list):
            found = self.analysis.values[source.name]
            self.analysis.values[node.name] = found[int(node.args[1])]  # type: ignore[index,arg-type]
            return
        self.analysis.values[node.name] = Value(None, None, pooled)

    def _timeless(self, node: fx.Node, pooled: frozenset[str]) -> None:
        """No operand has time: any operator runs as it is, unless it makes a table of T rows."""
        result = node.meta.get("val")
        if pooled and any(n.meta.get("pgt_time") for n in node.all_input_nodes):
            raise Refusal(
                "calculates with the number of frames of the video, which a step doesn't know",
                "use a mean over time in place of a sum and a division",
            )
        tensors = list(result) if isinstance(result, (list, tuple)) else [result]
        behind = self._behind_a_blocker(node)  # told where it was made
        for tensor in tensors if not behind else ():
            if isinstance(tensor, Tensor) and any(
                self.analysis.captured.has_time(s) for s in tensor.shape
            ):
                raise Refusal(
                    "makes a tensor with one entry per frame of the video (a position table, a "
                    "mask, a counter)",
                    "compute it outside the model and pass it as an input with a time axis",
                )
        values = [
            Value(plain([_hint(s) for s in t.shape]), None, pooled, guessed=behind)
            if isinstance(t, Tensor)
            else Value(None, None, pooled)
            for t in tensors
        ]
        several = isinstance(result, (list, tuple))
        self.analysis.values[node.name] = values if several else values[0]

    def _sizes_without_time(self, node: fx.Node, outcome: Outcome) -> None:
        """Arguments computed from the length of the video must have been re-derived."""
        if isinstance(outcome, Reduced):
            return
        schema = node.target._schema  # type: ignore[union-attr]
        for position, argument in enumerate(schema.arguments):
            if argument.name in outcome.args:
                given = outcome.args[argument.name]
            elif position < len(node.args) and not argument.kwarg_only:
                given = node.args[position]
            else:
                given = node.kwargs.get(argument.name)
            items = given if isinstance(given, (list, tuple)) else [given]
            for item in items:
                if isinstance(item, fx.Node) and item.meta.get("pgt_time"):
                    raise Refusal(
                        f"its argument {argument.name} is computed from the length of the video",
                        "derive it from the shape of the tensor at hand, or use a reduction",
                    )

    def _join(
        self, node: fx.Node, view: OpView, outcome: Outcome
    ) -> tuple[tuple[fx.Node, ...], Clock]:
        """Operands that need an aligner, and the clock of their common prefix."""
        operands = [n for n in view.tensors if self.analysis.value(n).timed]
        clocks = [self.analysis.value(n).clock for n in operands]
        found = [c for c in clocks if c is not None]
        distinct: list[Clock] = []
        for clock in found:
            if not any(same(clock, other, self.ratio) for other in distinct):
                distinct.append(clock)
        commit = isinstance(outcome, (Reduced, StepOnly)) and self._provisional(found[0])
        if len(distinct) == 1 and not commit:
            return (), found[0]
        return tuple(operands), JoinClock(tuple(distinct), commit=commit)

    def _provisional(self, clock: Clock) -> bool:
        counts = [clock.at(frames, False) for frames in moments(self.ratio, clock)]
        return any(c.sure != c.total for c in counts)

    def _result(
        self, node: fx.Node, outcome: Outcome, clock: Clock, pooled: frozenset[str]
    ) -> Value | list[Value]:
        if isinstance(outcome, Reduced):
            return Value(outcome.layout, None, pooled | {node.name})
        if isinstance(outcome, Windowed):
            return Value(outcome.layout, LawClock(outcome.law, clock), pooled)
        layouts = outcome.layout if isinstance(outcome.layout, list) else [outcome.layout]
        values = []
        for layout in layouts:
            timed = layout is not None and bool(time_dims(layout, 1))
            extra = pooled
            if layout is not None and not timed and isinstance(outcome, StepOnly):
                extra = pooled | {node.name}
            values.append(Value(layout, clock if timed else None, extra))
        return values if isinstance(outcome.layout, list) else values[0]

    def _check(self, node: fx.Node, value: Value | list[Value]) -> None:
        """The layout and the captured sizes must agree on where time is."""
        values = value if isinstance(value, list) else [value]
        results = node.meta["val"]
        results = list(results) if isinstance(results, (list, tuple)) else [results]
        for one, result in zip(values, results, strict=False):
            if one.layout is None or not isinstance(result, Tensor):
                continue
            if len(one.layout) != result.dim():
                raise LayoutError(
                    f"internal: the rule gave {len(one.layout)} axes, there are {result.dim()}"
                )
            timed = set(time_dims(one.layout))
            for d, s in enumerate(result.shape):
                if self.analysis.captured.has_time(s) and d not in timed:
                    raise LayoutError(
                        f"dimension {d} of the result depends on the length of the video and the "
                        "operator's rule does not say how"
                    )

    def _behind_a_blocker(self, node: fx.Node) -> bool:
        """Layouts that don't fit together behind a blocker say nothing about the model."""
        found = (self.analysis.values[n.name] for n in node.all_input_nodes)
        flat = (v for one in found for v in (one if isinstance(one, list) else [one]))
        return any(v.guessed for v in flat)

    def _after_refusal(self, node: fx.Node) -> Value | list[Value]:
        """Go on behind a blocker as if it were local, so that all blockers are found at once."""
        operands = [
            v
            for n in node.all_input_nodes
            if not isinstance(v := self.analysis.values[n.name], list) and v.timed
        ]
        result = node.meta.get("val")
        tensors = list(result) if isinstance(result, (list, tuple)) else [result]
        values = []
        for tensor in tensors:
            if not isinstance(tensor, Tensor):
                values.append(Value(None))
                continue
            dims = tuple(
                (Factor(_hint(s), True, int(self.analysis.captured.has_time(s))),)
                for s in tensor.shape
            )
            timed = operands and len(time_dims(dims)) == 1
            values.append(Value(dims, operands[0].clock if timed else None, guessed=True))
        return values if isinstance(result, (list, tuple)) else values[0]

    def _output(self, node: fx.Node) -> None:
        flat = list(node.args[0])  # type: ignore[arg-type]
        self.analysis.outputs = flat
        for item in flat:
            if not isinstance(item, fx.Node):
                continue
            value = self.analysis.values[item.name]
            if isinstance(value, Value) and value.clock is not None:
                self._check_output(item, value)

    def _check_output(self, node: fx.Node, value: Value) -> None:
        """The outputs of all steps, one after the other, must be able to be the model's."""
        outer = any(f.time for dim in (value.layout or ()) for f in dim[1:])
        if outer and not value.guessed:
            reason = (
                "the model returns a tensor whose time axis is merged behind another one: the "
                "outputs of the steps, put one after the other, are in another order"
            )
            remedy = "return it with time on an axis of its own, or outermost in the merged one"
            self.blockers[f"{node.name} (output)"] = Blocker(place(node), reason, remedy)


def _hint(s: Any) -> int:
    if isinstance(s, int):
        return s
    if isinstance(s, torch.SymInt) and s.node.hint is not None:
        return int(s.node.hint)
    raise Refusal("a size depends on the data")


def _has_tensor(node: fx.Node) -> bool:
    value = node.meta.get("val")
    values = value if isinstance(value, (list, tuple)) else [value]
    return any(isinstance(v, Tensor) for v in values)
