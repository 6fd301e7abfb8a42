"""Windows that slide along time (DESIGN §5)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from pgt_fx.core.clocks import Clock, LawClock
from pgt_fx.core.fitted_clock import FittedClock
from pgt_fx.core.law import Law
from pgt_fx.core.layout import Layout
from pgt_fx.core.lengths.functions import QuasiLinear
from pgt_fx.core.options import Options
from pgt_fx.rules.kinds.arguments import arguments, template
from pgt_fx.rules.kinds.kind import Kind
from pgt_fx.rules.kinds.protocols import Context, Cut, Emission, Operands, Standing, Videos
from pgt_fx.rules.kinds.verdicts import CONTEXT, EXACT, Drawn, Verdict
from pgt_fx.runtime.markov.window import MarkovWindow
from pgt_fx.runtime.plan_items import WindowItem


@dataclass(frozen=True)
class Windowed(Kind):
    """A window along time: the operator runs on carried tail + new elements.

    Attributes:
        law: which input elements an output reads.
        layout: of the result.
        source: schema name of the operand that carries time.
        args: arguments of the call in a step: padding along time taken out.
        call: function to call instead of the operator itself.
        fill: value of the padding elements.
        mode: padding mode of ``law`` as ``F.pad`` calls it.
        mean: "include" / "exclude" for average pools (``count_include_pad``).
        what: short words for the report, e.g. ``"conv k=3 s=1 p=1"``.
        groups: a video must have a multiple of so many elements here; 0: any number.
        pads: whether the operator itself makes elements where it is given none.
        bare: ``call`` is given the operand alone, and none of the operator's other arguments.
        whole: how many elements the result has of a whole video, as a function of its number of
            frames; None: as many as ``law`` makes of the operand's.
    """

    law: Law
    layout: Layout
    source: str
    args: dict[str, Any] = field(default_factory=dict)
    call: Callable[..., Any] | None = None
    fill: float = 0.0
    mode: str = "constant"
    mean: str = ""
    what: str = ""
    groups: int = 0
    pads: bool = False
    bare: bool = False
    whole: QuasiLinear | None = None

    def clock(self, operands: Operands) -> Clock:
        if self.whole is not None:
            return FittedClock(self.law, operands.common, self.whole, operands.ratio)
        return LawClock(self.law, operands.common)

    def asks(self, videos: Videos) -> None:
        if self.groups:
            videos.whole_groups(self.groups)
        if self.pads:
            videos.not_empty()

    def reads(self) -> Law:
        return self.law

    def sliding(self) -> Law:
        return self.law

    def carries(self, seen: int, outs: int) -> int:
        return self.law.held(outs, seen)

    # -- what a cut touches --------------------------------------------------------------------

    def touched(self, number: int, cut: Cut) -> bool:
        source, replaced = cut.streams[0], cut.context.replaced
        known, real, marks = cut.now(source).total, cut.whole(source), cut.touched(source)
        for tap in self.law.taps(number):
            if tap >= known and known < real and (tap < real or self.mode != "constant"):
                return True  # a padding stands where a real frame will, or copies another one
            at = self.law.stands_for(tap, known)
            if at is not None and 0 <= at < known and (marks[at] or at in replaced):
                return True
        return False

    def after(self, cut: Cut) -> None:
        """What the next step finds in place of carried elements (CMCO, PMCO)."""
        source, markov = cut.streams[0], cut.options.markov
        if markov.exact or not source.meta["val"].dtype.is_floating_point:
            return
        then, now = cut.then(source), cut.now(source)
        old, new = cut.then(cut.node), cut.now(cut.node)
        if now.total == then.sure and new.total == old.sure:
            return  # idle: it carries what it carried
        first, end = self.law.context(new.sure, now.sure)
        seen = now.total - max(0, min(self.law.keep(old.sure, then.sure), then.sure))
        pooled = markov.aggregate != "none" and (seen != end - first)
        replaced = frozenset(range(first, end))
        if not pooled and not (markov.momentum and cut.context.history):
            replaced &= cut.context.replaced
        cut.context = Context(replaced, end > first)

    # -- a step --------------------------------------------------------------------------------

    def emit(self, step: Emission) -> None:
        node, source = step.node, step.streams[0]
        args, kwargs = ([source], {}) if self.bare else arguments(node, self.args)
        call, others = template(self.call or node.target, args, kwargs, source)
        slot = step.slot()
        module = MarkovWindow(
            slot,
            call,
            step.axis(source),
            step.time_dim,
            self.law,
            fill=self.fill,
            mode=self.mode,
            what=self.what,
            markov=step.options.markov,
        )
        item = WindowItem(self.law, step.clock_of(source), step.clock, self.mean)
        step.result(step.carry(module, slot, (source, *others), item, of=source))
        step.note(self.what)

    # -- what report and doctor say ------------------------------------------------------------

    def words(self, op: str) -> str:
        return self.what

    def verdict(self, standing: Standing) -> Verdict:
        options = standing.options
        if not options.markov.exact and self.law.recalls:
            return Verdict(self.what, CONTEXT, _past_of(options))
        return Verdict(self.what, EXACT)

    def to_look_back(self, rank: int, pad: tuple[int, int] | None) -> str:
        return self.law.to_look_back(rank, pad)

    def drawn(self, op: str, *, ahead: int, gated: bool, joins: bool) -> Drawn:
        note = f"{self.what}, {ahead} ahead" if ahead else self.what
        return Drawn(note, "ahead" if ahead else "exact")


def _past_of(options: Options) -> str:
    markov = options.markov
    past = {
        "none": "the last elements",
        "avg": "an average of all elements",
        "max": "the maximum of all elements",
    }
    steps = f", averaged over all steps with momentum {markov.momentum}" if markov.momentum else ""
    return f"finds {past[markov.aggregate]} of the step before in its past{steps}"
