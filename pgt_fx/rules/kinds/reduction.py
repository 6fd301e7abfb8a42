"""Reductions over time: all elements become one. What "all" means is the policy (DESIGN §6)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import nn

from pgt_fx.core.layout import Layout
from pgt_fx.core.options import Options
from pgt_fx.rules.kinds.arguments import argument, arguments, template
from pgt_fx.rules.kinds.kind import Kind
from pgt_fx.rules.kinds.protocols import Cut, Emission, Operands, Standing
from pgt_fx.rules.kinds.verdicts import EXACT, GATED, RUNNING, STEP, Drawn, Mixing, Verdict
from pgt_fx.runtime.markov.head import MarkovHead
from pgt_fx.runtime.markov.pool import MarkovPool
from pgt_fx.runtime.plan_items import PoolItem


@dataclass(frozen=True)
class Reduced(Kind):
    """All elements become one: mean, max … over time. ``pooling`` says over which elements.

    Attributes:
        how: "mean" | "sum" | "max" | "min" | "var" | "std" | "last" | "first" | "any" | "all".
        layout: of the result.
        source: schema name of the operand that carries time.
        dims: dimensions reduced (time's among them).
        keepdim: whether they stay with size 1.
        options: for var / std: ``{"correction": 1}``.
        what: short words for the report.
        args: arguments to call with instead of the captured ones, by schema name.
    """

    how: str
    layout: Layout
    source: str
    dims: tuple[int, ...]
    keepdim: bool
    options: dict[str, Any] = field(default_factory=dict)
    what: str = ""
    args: dict[str, Any] = field(default_factory=dict)

    commits: ClassVar[bool] = True
    pools: ClassVar[bool] = True
    needs_one: ClassVar[bool] = True
    rederived: ClassVar[bool] = False

    @property
    def takes_first(self) -> bool:
        return self.how == "first"

    def clock(self, operands: Operands) -> None:
        return None

    def reads(self) -> None:
        return None

    @property
    def reads_all(self) -> bool:
        return True

    # -- what a cut touches --------------------------------------------------------------------

    def touched(self, number: int, cut: Cut) -> bool:
        return self.touched_whole(cut)

    def touched_whole(self, cut: Cut) -> bool:
        running = cut.options.pooling == "running"
        marks = cut.touched(cut.streams[0])
        if self.how in ("first", "last") and marks:
            # Only one element is read: the step policy's last step has the video's last element.
            at = 0 if self.how == "first" else -1
            wrong = marks[at] or not (cut.alone or (cut.last if at else running))
        else:
            wrong = any(marks) or not (cut.alone or (running and cut.last))
        return wrong or cut.pools()

    # -- a step --------------------------------------------------------------------------------

    def emit(self, step: Emission) -> None:
        node, pooling = step.node, step.options.pooling
        args, kwargs = arguments(node, self.args)
        source = argument(node, self.source)
        if pooling == "step" or (pooling == "markov" and self.how in ("first", "last")):
            step.call(args, kwargs)
            step.note(f"{self.what}: of this step")
            return
        slot = step.slot()
        call, others = template(node.target, args, kwargs, source)
        module: nn.Module
        if pooling == "markov":
            module = MarkovHead(slot, call, step.axis(source), step.options.markov)
        else:
            correction = float(self.options.get("correction", 1.0))
            module = MarkovPool(slot, self.how, call, self.dims, self.keepdim, correction)
        item = PoolItem(step.clock_of(source), pooling == "running")
        of = source if pooling == "markov" else node
        step.result(step.carry(module, slot, (source, *others), item, of=of))
        which = "so far" if pooling == "running" else "of this step, beside one of the past"
        step.note(f"{self.what}: {which}")

    def folds(self, options: Options, *, clip_pools: bool) -> bool:
        # A pool over the clip that is taken over all time is not what its module computes.
        return options.pooling == "step" and not clip_pools

    # -- what report and doctor say ------------------------------------------------------------

    def words(self, op: str) -> str:
        return self.what or op

    def verdict(self, standing: Standing) -> Verdict:
        pooling = standing.options.pooling
        if standing.gated:
            return Verdict(self.what, STEP, f"is taken over all of time {GATED}")
        if standing.apart:
            return Verdict(self.what, EXACT)
        if pooling == "running":
            return Verdict(self.what, RUNNING)
        reason = "is taken over each step's frames; pooling='running' gives the model's answer"
        if pooling == "markov":
            reason = "is taken over each step's frames and one of the past"
        return Verdict(self.what, STEP, reason, excused=True)

    def mixing(self, *, gated: bool) -> Mixing:
        reason = "is taken over all of time" + (" and combined with single frames" * gated)
        return Mixing("step" if gated else "running", reason)

    def to_stream(self, op: str, *, gated: bool) -> str:
        if not gated:
            return (
                "pooling='running' keeps it over all frames so far: the last step's answer is exact"
            )
        return (
            "it gates single frames: squeeze over space alone, or over the frames so far "
            "(a running mean), or accept the step's own mean with strict=False"
        )

    def drawn(self, op: str, *, ahead: int, gated: bool, joins: bool) -> Drawn:
        return Drawn(self.what, "step" if gated else "running")
