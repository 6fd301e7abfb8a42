"""Operators that mix all of time, and are computed within each step."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from pgt_fx.core.clocks import Clock
from pgt_fx.core.layout import Layout
from pgt_fx.core.options import Options
from pgt_fx.rules.kinds.arguments import arguments
from pgt_fx.rules.kinds.kind import Kind
from pgt_fx.rules.kinds.protocols import Cut, Emission, Operands, Standing
from pgt_fx.rules.kinds.verdicts import STEP, TRAINING, Drawn, Mixing, Verdict


@dataclass(frozen=True)
class StepOnly(Kind):
    """Mixes all of time in a way that no bounded state reproduces: computed within the step. With
    one step over the whole video the result is the model's own.

    Attributes:
        layout: of the result; a list for operators with several results.
        reason: why no state reproduces it.
        args: arguments to call with instead of the captured ones, by schema name.
        training: the mixing is that of batch statistics and is absent in ``eval()``.
        restarts: every step is computed as the first one (a table that is read from its start), and
            in the first step it is the model's own.
    """

    layout: Layout | list[Layout | None]
    reason: str
    args: dict[str, Any] = field(default_factory=dict)
    training: bool = False
    restarts: bool = False

    commits: ClassVar[bool] = True
    pools: ClassVar[bool] = True
    even: ClassVar[bool] = True

    def clock(self, operands: Operands) -> Clock:
        return operands.common

    def beside_tables(self, reason: str, *, restarts: bool) -> Kind:
        return self

    def reads(self) -> None:
        return None

    @property
    def reads_all(self) -> bool:
        return True

    def touched(self, number: int, cut: Cut) -> bool:
        if not cut.alone and not (self.restarts and cut.first):
            return True
        return any(cut.touched(s)[number] for s in cut.streams)

    def touched_whole(self, cut: Cut) -> bool:
        return not cut.alone or super().touched_whole(cut)

    def emit(self, step: Emission) -> None:
        step.call(*arguments(step.node, self.args))

    def folds(self, options: Options, *, clip_pools: bool) -> bool:
        return True

    @property
    def may_wait(self) -> bool:
        """Also where it is local in ``eval()`` alone: the delays of both modes have to stand in the
        same places, or a state could not go from one to the other. In training the statistics of a
        norm are those of the frames that it is given in a step, late or not."""
        return self.training

    def verdict(self, standing: Standing) -> Verdict:
        return Verdict(standing.op, TRAINING if self.training else STEP, self.reason)

    def mixing(self, *, gated: bool) -> Mixing:
        return Mixing("step", self.reason)

    def to_stream(self, op: str, *, gated: bool) -> str:
        if self.training:
            return "batch statistics of train mode; in eval mode it works frame by frame"
        if "norm" in op:
            return "normalise each frame by itself: fold time into the batch in front of it"
        if "attention" in op or "softmax" in op or "mm" in op or "einsum" in op:
            return (
                "attend within a step (strict=False), or over space alone; a causal window of "
                "frames is a convolution's reach, all of time is no bounded state"
            )
        return "accept that it is computed within each step (strict=False), or leave it outside"

    def drawn(self, op: str, *, ahead: int, gated: bool, joins: bool) -> Drawn:
        return Drawn(op, "step", self.reason)
