"""Operators that work frame by frame."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from pgt_fx.core.clocks import Clock
from pgt_fx.core.layout import Layout
from pgt_fx.core.options import Options
from pgt_fx.rules.kinds.arguments import arguments
from pgt_fx.rules.kinds.kind import Kind
from pgt_fx.rules.kinds.per_step import StepOnly
from pgt_fx.rules.kinds.protocols import Cut, Emission, Operands, Standing
from pgt_fx.rules.kinds.verdicts import EXACT, Drawn, Verdict


@dataclass(frozen=True)
class Local(Kind):
    """Time-local: output element i depends on element i of every operand that has time.

    Attributes:
        layout: of the result; a list for operators with several results.
        args: arguments to call with instead of the captured ones (shape arithmetic re-derived
            from the operand at hand), by schema name.
    """

    layout: Layout | list[Layout | None]
    args: dict[str, Any] = field(default_factory=dict)

    frame_by_frame: ClassVar[bool] = True
    even: ClassVar[bool] = True

    def clock(self, operands: Operands) -> Clock:
        return operands.common

    def beside_tables(self, reason: str, *, restarts: bool) -> Kind:
        if not reason:
            return self
        return StepOnly(self.layout, reason, args=self.args, restarts=restarts)

    def reads(self) -> None:
        return None

    def touched(self, number: int, cut: Cut) -> bool:
        return any(cut.touched(s)[number] for s in cut.streams)

    def emit(self, step: Emission) -> None:
        step.call(*arguments(step.node, self.args))

    def folds(self, options: Options, *, clip_pools: bool) -> bool:
        return True

    def verdict(self, standing: Standing) -> Verdict:
        if standing.joins:
            return Verdict("join of operands with different delays", EXACT)
        return Verdict("beside a table of the frames' positions", EXACT)

    def drawn(self, op: str, *, ahead: int, gated: bool, joins: bool) -> Drawn | None:
        return Drawn(f"{op}: different delays", "join") if joins else None
