"""Scans along time: each element depends on those before it through a state of fixed size."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import nn

from pgt_fx.capture.observe.recurrent_op import run_layers
from pgt_fx.core.clocks import Clock
from pgt_fx.core.law import Law
from pgt_fx.core.layout import Layout
from pgt_fx.rules.kinds.arguments import argument, arguments, listed, template
from pgt_fx.rules.kinds.kind import Kind
from pgt_fx.rules.kinds.per_step import StepOnly
from pgt_fx.rules.kinds.protocols import Cut, Emission, Operands, Standing
from pgt_fx.rules.kinds.verdicts import EXACT, GATED, STEP, Drawn, Verdict
from pgt_fx.runtime.markov.scan import MarkovRecurrent, MarkovScan
from pgt_fx.runtime.plan_items import ScanItem


@dataclass(frozen=True)
class Scanned(Kind):
    """Element i depends on elements 0 … i, and a state stands for those before it: cumulative sums,
    recurrent layers. Exact, and without delay.

    Attributes:
        how: "sum" | "prod" | "logsumexp" | "max" | "min", or "recurrent".
        layout: of the result; for several results the first has time.
        source: schema name of the operand that carries time.
        states: elements carried, in elements of the (first) result along time.
        what: short words for the report.
        args: arguments to call with instead of the captured ones, by schema name.
    """

    how: str
    layout: Layout | list[Layout | None]
    source: str
    states: int
    what: str
    args: dict[str, Any] = field(default_factory=dict)

    commits: ClassVar[bool] = True
    pools: ClassVar[bool] = True

    @property
    def queries(self) -> str:
        return self.source

    def clock(self, operands: Operands) -> Clock:
        return operands.common

    def beside_tables(self, reason: str, *, restarts: bool) -> Kind:
        return StepOnly(self.layout, reason, args=self.args) if reason else self

    def reads(self) -> Law | None:
        return None

    @property
    def reads_past(self) -> bool:
        return True

    def touched(self, number: int, cut: Cut) -> bool:
        """From the first touched element on."""
        return any(cut.marks[-1:]) or cut.touched(cut.streams[0])[number]

    def touched_state(self, cut: Cut) -> bool:
        """Its last state is that of the frames so far."""
        return any(cut.marks) or not (cut.alone or cut.last)

    def emit(self, step: Emission) -> None:
        node = step.node
        args, kwargs = arguments(node, self.args)
        source = argument(node, self.source)
        slot = step.slot()
        module: nn.Module
        if self.how == "recurrent":
            call, others = template(listed, args, kwargs, source)
            module = MarkovRecurrent(slot, run_layers, call, len(self.layout) - 1)
        else:
            call, others = template(node.target, args, kwargs, source)
            module = MarkovScan(slot, self.how, call, step.axis(source).dim)
        item = ScanItem(step.clock_of(source), self.states, isinstance(self.layout, list))
        step.result(step.carry(module, slot, (source, *others), item, of=node))
        step.note(self.what)

    def words(self, op: str) -> str:
        return self.what

    def verdict(self, standing: Standing) -> Verdict:
        if standing.gated:
            return Verdict(self.what, STEP, f"its last state is that of all of time {GATED}")
        return Verdict(self.what, EXACT)

    def drawn(self, op: str, *, ahead: int, gated: bool, joins: bool) -> Drawn:
        return Drawn(self.what, "exact")
