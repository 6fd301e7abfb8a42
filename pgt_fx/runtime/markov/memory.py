"""Attention over time: keys and values of earlier frames beside those of the step (DESIGN §6)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pgt_fx.core.layout import Axis
from pgt_fx.runtime.markov.buffer import carried_tail, joined, merge, owned, split
from pgt_fx.runtime.markov.step import Step


class MarkovMemory(nn.Module):
    """Keys or values: the carried ones, then the step's.

    Args:
        slot: name of its entry in the state.
        axis: the time axis.
    """

    def __init__(self, slot: str, axis: Axis) -> None:
        super().__init__()
        self.slot, self.axis = slot, axis

    def extra_repr(self) -> str:
        return f"memory, state {self.slot!r}"

    def forward(self, step: Step, x: Tensor) -> Tensor:
        """``x`` with the remembered elements in front of it along time."""
        due = step.memory(self.slot)
        new, dim = split(x, self.axis, due.new)
        held = carried_tail(step.state, self.slot, due.keys - due.new, dim)
        whole = joined(held, new, dim)
        length = whole.shape[dim]
        step.carried[self.slot] = owned(whole.narrow(dim, length - due.keep[1], due.keep[1]))
        return merge(whole, self.axis)


def causal_mask(query: Tensor, key: Tensor) -> Tensor:
    """(queries, keys), true where a query may look: the last query sees all keys.

    ``is_causal`` of ``scaled_dot_product_attention`` would let the first query see the first key
    alone, which with remembered keys is another mask.
    """
    rows, columns = query.shape[-2], key.shape[-2]
    allowed = torch.ones(rows, columns, dtype=torch.bool, device=query.device)
    return allowed.tril(columns - rows)
