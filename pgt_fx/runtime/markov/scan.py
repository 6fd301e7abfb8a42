"""Scans along time: the model's own operator on the step's elements, from what is carried on."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from pgt_fx.runtime.markov.buffer import carried_value, owned
from pgt_fx.runtime.markov.step import Step
from pgt_fx.runtime.markov.template import Template


class MarkovScan(nn.Module):
    """A cumulative sum, product, log-sum-exp, maximum or minimum; the last element is carried.

    Args:
        slot: name of its entry in the state.
        how: "sum" | "prod" | "logsumexp" | "max" | "min".
        call: the model's operator; its first operand has time.
        dim: time in operand and result.
    """

    def __init__(self, slot: str, how: str, call: Template, dim: int) -> None:
        super().__init__()
        self.slot, self.how, self.call, self.dim = slot, how, call, dim

    def extra_repr(self) -> str:
        return f"running {self.how}, state {self.slot!r}"

    def forward(self, step: Step, x: Tensor, *others: Any) -> Tensor:
        """The elements so far taken together, for each element of this step."""
        y = self.call(x, *others)
        before = carried_value(step.state, self.slot, step.pool(self.slot).before)
        if before is not None:
            before = before.to(y.dtype)
            if self.how == "sum":
                y = y + before
            elif self.how == "prod":
                y = y * before
            elif self.how in ("max", "min"):
                # Of two equal ones the later one has the gradient, as in torch.
                later = y >= before if self.how == "max" else y <= before
                y = torch.where(later | (y != y), y, before)
            else:
                y = torch.logaddexp(y, before)
        step.carried[self.slot] = owned(y.narrow(self.dim, y.shape[self.dim] - 1, 1))
        return y


class MarkovRecurrent(nn.Module):
    """RNN, GRU or LSTM layers; the hidden state of every layer is carried, and an LSTM's cells.

    Args:
        slot: name of its entries in the state: ``slot.hidden``, ``slot.cell``.
        run: the layers (:func:`pgt_fx.capture.observe.recurrent_op.run_layers`).
        arguments: a template that gives its arguments.
        count: how many states it has: two for an LSTM.
    """

    NAMES = ("hidden", "cell")

    def __init__(self, slot: str, run: Any, arguments: Template, count: int) -> None:
        super().__init__()
        self.slot, self.run, self.arguments = slot, run, arguments
        self.entries = tuple(f"{slot}.{name}" for name in self.NAMES[:count])

    def extra_repr(self) -> str:
        return f"recurrent, state {self.slot!r}"

    def forward(self, step: Step, x: Tensor | None, *others: Any) -> list[Tensor | None]:
        """Output, last hidden state, and the last cells of an LSTM; of a last step without new
        elements the states alone."""
        before = step.pool(self.slot).before
        found = [carried_value(step.state, name, before) for name in self.entries]
        carried = [state for state in found if state is not None]
        if x is None:
            step.carried.update(zip(self.entries, carried, strict=True))
            # What follows may write into them.
            return [None, *(state.clone() for state in carried)]
        x, states, *rest = self.arguments(x, *others)
        states = carried or states
        # The model's first states are zeros of the type and on the device of the capture.
        states = [s.to(x) for s in states]
        results: list[Tensor] = self.run(x, states, *rest)
        for name, state in zip(self.entries, results[1:], strict=True):
            step.carried[name] = owned(state)
        return [*results]
