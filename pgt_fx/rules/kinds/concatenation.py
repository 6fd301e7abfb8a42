"""Values one after the other along time: parts of known length, then a stream (DESIGN §5)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import fx

from pgt_fx.core.clocks import ConcatClock
from pgt_fx.core.counts import counted
from pgt_fx.core.errors import Refusal
from pgt_fx.core.layout import Layout
from pgt_fx.rules.kinds.kind import Kind
from pgt_fx.rules.kinds.protocols import Cut, Emission, Operands, Standing
from pgt_fx.rules.kinds.spans import Spans
from pgt_fx.rules.kinds.verdicts import EXACT, Verdict
from pgt_fx.runtime.markov.concat import MarkovConcat
from pgt_fx.runtime.plan_items import ConcatItem


@dataclass(frozen=True)
class Concatenated(Kind):
    """Values one after the other along time: parts of known length, then one that goes on. It has a
    clock of its own, and nothing to align.

    Attributes:
        layout: of the result.
        parts: the operands, in order.
        lengths: of the parts; None for the last one.
        args: arguments to call with instead of the captured ones, by schema name.
    """

    layout: Layout
    parts: tuple[fx.Node, ...]
    lengths: tuple[int | None, ...]
    args: dict[str, Any] = field(default_factory=dict)

    aligns: ClassVar[bool] = False
    rederived: ClassVar[bool] = False

    @property
    def what(self) -> str:
        return f"{counted(self._before, 'element')}, then a stream"

    @property
    def _before(self) -> int:
        """Elements in front of the stream."""
        return sum(n for n in self.lengths if n is not None)

    def clock(self, operands: Operands) -> ConcatClock:
        parts = tuple(
            operands.part(n, length) for n, length in zip(self.parts, self.lengths, strict=True)
        )
        if any(part.first for part in parts[1:]):
            # Its turn may come in a later step, when the frame is gone.
            raise Refusal("puts a frame taken by its number after others", "slice it: x[:, :, :1]")
        return ConcatClock(parts)

    def reads(self) -> None:
        return None

    def spans(
        self, operands: list[dict[int, Spans]], count: int, lengths: tuple[int, ...]
    ) -> dict[int, Spans]:
        """A part without time reads the video's start, which is no reach."""
        *_, stream = operands
        out: dict[int, Spans] = {}
        for path, spans in stream.items():
            before: Spans = [s for one in operands[:-1] for s in one.get(path, [])]
            before = [*([None] * (self._before - len(before))), *before]
            out[path] = [*before, *spans][:count]
        return out

    def touched(self, number: int, cut: Cut) -> bool:
        """An element is as touched as it was in the part that it is from."""
        for operand, length in zip(self.parts, self.lengths, strict=True):
            if length is None or number < length:
                return cut.element(operand, number)
            number -= length
        return False

    def emit(self, step: Emission) -> None:
        axes = [step.axis(n) if step.timed(n) else None for n in self.parts]
        slot = step.slot()
        names = tuple(step.given(n).name for n in self.parts)
        module = MarkovConcat(slot, axes, step.time_dim)
        item = ConcatItem(step.clock, names)
        step.result(step.carry(module, slot, self.parts, item, of=step.node))
        step.note(self.what)

    def words(self, op: str) -> str:
        return self.what

    def verdict(self, standing: Standing) -> Verdict:
        return Verdict(self.what, EXACT)
