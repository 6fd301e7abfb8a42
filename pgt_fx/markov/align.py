"""Joins: each operand keeps what it has emitted too early (DESIGN §5)."""

from __future__ import annotations

from torch import Tensor, nn

from pgt_fx.due import Due
from pgt_fx.layout import Axis
from pgt_fx.markov.buffer import carried_tail, dense, joined, merge, owned, split
from pgt_fx.markov.step import Step


class MarkovAlign(nn.Module):
    """Delays one operand of a join to the common prefix of all operands.

    Args:
        slot: name of its entry in the state, where elements that came early wait.
        axis: the operand's time axis.
    """

    def __init__(self, slot: str, axis: Axis) -> None:
        super().__init__()
        self.slot, self.axis = slot, axis

    def extra_repr(self) -> str:
        return f"state {self.slot!r}"

    def forward(self, step: Step, x: Tensor | None) -> Tensor | None:
        """``x``: the operand's new elements, or None; the common prefix, or None."""
        return aligned(step, self.slot, step.window(self.slot), self.axis, x)


def aligned(step: Step, slot: str, due: Due, axis: Axis, x: Tensor | None) -> Tensor | None:
    """The elements of one operand whose turn it is; those that came early are carried."""
    dim = axis.dim + int(axis.outer)
    held = carried_tail(step.state, slot, due.held, dim)
    if x is None and not due.held:
        if held is not None:
            step.carried[slot] = held
        return None
    if x is not None:
        x, dim = split(x, axis, due.new)
    whole = joined(held, x, dim)
    first, end = due.keep
    if end >= first:
        step.carried[slot] = owned(whole.narrow(dim, first, end - first), whole)
    if not due.outs:
        return None
    if due.skip or due.outs != whole.shape[dim]:
        whole = dense(whole.narrow(dim, due.skip, due.outs), whole)
    return merge(whole, axis)
