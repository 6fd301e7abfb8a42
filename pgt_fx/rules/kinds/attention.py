"""The two products of an attention over time, with keys or values of earlier frames (DESIGN §6).

With a causal mask they are a scan whose state is the keys and values themselves; without one they
mix all of time, and a memory of the past is an option of the caller's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import fx

from pgt_fx.core.counts import counted
from pgt_fx.core.laws import Window
from pgt_fx.core.options import Options
from pgt_fx.rules.kinds.arguments import argument, arguments, with_memories
from pgt_fx.rules.kinds.kind import Kind
from pgt_fx.rules.kinds.per_step import StepOnly
from pgt_fx.rules.kinds.protocols import Cut, Emission, Standing
from pgt_fx.rules.kinds.scan import Scanned
from pgt_fx.rules.kinds.verdicts import Verdict
from pgt_fx.runtime.markov.memory import MarkovMemory, causal_mask
from pgt_fx.runtime.plan_items import MemoryItem


@dataclass(frozen=True)
class Attention(StepOnly):
    """An attention that sees all of time: within the step, or with elements of earlier steps in
    front of the step's own (``attention="memory"``).

    Attributes:
        keys: operands of which elements of earlier steps may be put in front.
    """

    keys: tuple[fx.Node, ...] = ()

    attends: ClassVar[bool] = True

    @property
    def name(self) -> str:
        return "steponly"

    def remembers(self, options: Options) -> bool:
        return options.memory is not None

    def memory(self, options: Options, clip: int) -> int | None:
        return 0 if options.memory is None else options.memory.elements(clip)

    def emit(self, step: Emission) -> None:
        if self.remembers(step.options):
            _attend(step, self, self.keys)
        else:
            super().emit(step)

    def verdict(self, standing: Standing) -> Verdict:
        found = super().verdict(standing)
        if not self.remembers(standing.options):
            return found
        past = standing.memory
        seen = "all" if past is None else counted(past, "element")
        return found._replace(reason=f"{found.reason}; finds {seen} of the past")


@dataclass(frozen=True)
class CausalAttention(Scanned):
    """An attention that looks at no later frame: exact with the keys and values so far.

    Attributes:
        keys: operands that are carried themselves: keys and values.
        window: how many elements before its own an element reads; None: all.
    """

    keys: tuple[fx.Node, ...] = ()
    window: int | None = None

    attends: ClassVar[bool] = True
    causal_keys: ClassVar[bool] = True

    @property
    def name(self) -> str:
        return "scanned"

    def beside_tables(self, reason: str, *, restarts: bool) -> Kind:
        if not reason:
            return self
        return Attention(self.layout, reason, args=self.args, keys=self.keys)

    def reads(self) -> Window | None:
        return None if self.window is None else Window(self.window + 1, left=self.window)

    @property
    def reads_past(self) -> bool:
        return self.window is None

    def touched(self, number: int, cut: Cut) -> bool:
        """By the keys that it sees."""
        first = 0 if self.window is None else max(0, number - self.window)
        return any(cut.touched(s)[number] for s in cut.streams) or any(
            any(cut.touched(s)[first:number]) for s in self.keys
        )

    def remembers(self, options: Options) -> bool:
        return True

    def memory(self, options: Options, clip: int) -> int | None:
        return self.window

    def emit(self, step: Emission) -> None:
        _attend(step, self, self.keys)

    def verdict(self, standing: Standing) -> Verdict:
        found = super().verdict(standing)
        if standing.gated or self.window is not None:
            return found
        grows = "carries keys and values of all frames so far: its state grows with the video"
        return found._replace(reason=grows)


def _attend(step: Emission, kind: Kind, keys: tuple[fx.Node, ...]) -> None:
    """One product of an attention, with a memory in front of its keys or values."""
    node, size = step.node, step.memory
    args, kwargs = arguments(node, kind.args)
    query = args[0]
    names = ("keys", "values") if len(keys) == 2 else ("memory",)
    memories: dict[fx.Node, fx.Node] = {}
    for name, operand in zip(names, keys, strict=True):
        if operand in memories:  # keys that are the values as well are carried once
            continue
        slot = step.slot(name)
        module = MarkovMemory(slot, step.axis(operand))
        item = MemoryItem(step.common, size)
        memories[operand] = step.carry(module, slot, (operand,), item, of=operand)
    if argument(node, "is_causal", default=False):
        mask = step.fresh(causal_mask, step.given(query), memories[keys[0]])
        args, kwargs = arguments(node, {"is_causal": False, "attn_mask": mask})
    step.call(with_memories(node, args, memories), kwargs)
    how = "all frames so far" if size is None else f"{counted(size, 'element')} of the past"
    step.note(f"attends to {how} and this step")
