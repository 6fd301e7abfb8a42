"""Joins: each operand keeps what it has emitted too early (DESIGN §5)."""

from __future__ import annotations

from torch import Tensor, nn

from pgt_fx.core.layout import Axis
from pgt_fx.runtime.markov.buffer import carried_tail, dense, merge, owned, split, taken
from pgt_fx.runtime.markov.step import Step
from pgt_fx.runtime.work import Due


class MarkovAlign(nn.Module):
    """Delays one operand of a join to the common prefix of all operands.

    Args:
        slot: name of its entry in the state, where elements that came early wait.
        axis: the operand's time axis.

    Attributes:
        tail: name of the entry that it reads: its own, or that of an operator which carries the
            same elements (:mod:`pgt_fx.compiler.lowering.share_state`).
    """

    def __init__(self, slot: str, axis: Axis) -> None:
        super().__init__()
        self.slot, self.axis, self.tail = slot, axis, slot

    def extra_repr(self) -> str:
        return f"state {self.tail!r}"

    def forward(self, step: Step, x: Tensor | None) -> Tensor | None:
        """``x``: the operand's new elements, or None; the common prefix, or None."""
        return aligned(step, self.slot, step.window(self.slot), self.axis, x, tail=self.tail)


def aligned(
    step: Step, slot: str, due: Due, axis: Axis, x: Tensor | None, *, tail: str = ""
) -> Tensor | None:
    """The elements of one operand whose turn it is; those that came early are carried.

    Args:
        tail: the entry of the state to read; where it isn't ``slot``, nothing is carried here.
    """
    own = tail in ("", slot)
    dim = axis.dim + int(axis.outer)
    held = carried_tail(step.state, slot if own else tail, due.held, dim, others=not own)
    if x is None and not due.held:
        if held is not None and own:
            step.carried[slot] = held
        return None
    if x is not None:
        x, dim = split(x, axis, due.new)
    first, end = due.keep
    if end >= first and own:
        kept, copied = taken(held, x, dim, first, end)
        step.carried[slot] = kept if copied else owned(kept)
    if not due.outs:
        return None
    out, copied = taken(held, x, dim, due.skip, due.skip + due.outs)
    if not copied and x is not None and out is not x:
        out = dense(out, x)
    return merge(out, axis)
