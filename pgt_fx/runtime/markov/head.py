"""Reductions over time under ``pooling="markov"``: a step's elements beside one of the past.

The authors' code carries the input of the head into its temporal pooling: one carried element
beside seven new ones, so that each step pools T' elements (DESIGN §7).
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from pgt_fx.core.layout import Axis
from pgt_fx.core.options import MarkovOperator
from pgt_fx.runtime.markov.buffer import carried_value, joined, merge, split
from pgt_fx.runtime.markov.context import averages, blended, context_of
from pgt_fx.runtime.markov.step import Step
from pgt_fx.runtime.markov.template import Template


class MarkovHead(nn.Module):
    """The model's own reduction over the carried element and the step's.

    Args:
        slot: name of its entry in the state: one element along time.
        reduce: the reduction, whose operand is hole 0.
        axis: the operand's time axis.
        markov: what is carried: the last element, an aggregate, a momentum average.
    """

    def __init__(self, slot: str, reduce: Template, axis: Axis, markov: MarkovOperator) -> None:
        super().__init__()
        self.slot, self.reduce, self.axis, self.markov = slot, reduce, axis, markov

    def extra_repr(self) -> str:
        return f"pool beside one of the past, state {self.slot!r}"

    def forward(self, step: Step, x: Tensor, *others: Any) -> Tensor:
        """The reduction of this step."""
        due = step.pool(self.slot)
        x, dim = split(x, self.axis, due.new)
        past = carried_value(step.state, self.slot, due.before)
        whole = joined(past, x, dim)
        last = whole.narrow(dim, whole.shape[dim] - 1, 1)
        if averages(x):
            last = blended(self.markov, context_of(self.markov, whole, last, dim), past, dim)
        step.carried[self.slot] = last.clone()
        return self.reduce(merge(whole, self.axis), *others)
