"""Attention of a model that takes whole clips: keys and values of the clips before (DESIGN §6).

What is carried has a clip's keys along one axis, clip after clip, the latest last; in the first
step of a video there are none, and all of this is done with no columns.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from pgt_fx.runtime.markov.buffer import carried_tail, owned
from pgt_fx.runtime.markov.step import Step


class MarkovClips(nn.Module):
    """Keys or values of the clips before; it carries those of the step.

    Args:
        slot: name of its entry in the state.
        dim: the axis along which the keys stand.
    """

    def __init__(self, slot: str, dim: int) -> None:
        super().__init__()
        self.slot, self.dim = slot, dim

    def extra_repr(self) -> str:
        return f"memory of clips, state {self.slot!r}"

    def forward(self, step: Step, x: Tensor) -> Tensor:
        """Those of the clips before, none in the first step."""
        due, dim = step.memory(self.slot), self.dim % x.dim()
        count = x.shape[dim]
        held = carried_tail(step.state, self.slot, (due.keys - due.new) * count, dim)
        before = x.narrow(dim, 0, 0) if held is None else held
        whole = x if held is None else torch.cat([held, x], dim)
        kept = due.keep[1] * count
        step.carried[self.slot] = owned(whole.narrow(dim, whole.shape[dim] - kept, kept))
        return before


class MarkovTurnedClips(MarkovClips):
    """Keys that are turned by their positions: those of the clips before by how long ago they are.

    What is carried is the keys as they are before they are turned.

    Args:
        turn: the model's own operators, from the keys and the phases to the turned keys.
        dims: for each of the phases the axis of the keys.
        first, last: for each key the one at the same place in the clip's first and last frame.
        share: a clip's length, of the way from its first frame to its last.
    """

    def __init__(
        self,
        slot: str,
        dim: int,
        turn: fx.GraphModule,
        dims: tuple[int, ...],
        first: tuple[int, ...],
        last: tuple[int, ...],
        share: float,
    ) -> None:
        super().__init__(slot, dim)
        self.turn, self.dims, self.share = turn, dims, share
        self.ends = torch.tensor(first), torch.tensor(last)

    def forward(self, step: Step, x: Tensor, own: Tensor | None = None, *given: Any) -> Tensor:
        """The turned keys of the clips before.

        Args:
            x: the step's keys, not turned.
            own: the same, turned.
            given: the step's phases, and what else the operators read.
        """
        raw = super().forward(step, x)
        if own is None:
            raise AssertionError("no turned keys")
        phases, others = given[: len(self.dims)], given[len(self.dims) :]
        count = x.shape[self.dim]
        clips = raw.shape[self.dim] // count
        found = [own.narrow(self.dim % own.dim(), 0, 0)]
        for number in range(clips):
            age = clips - number
            past = [self._past(p, d, age) for p, d in zip(phases, self.dims, strict=True)]
            keys = raw.narrow(self.dim % raw.dim(), number * count, count)
            found.append(self.turn(keys, *past, *others))
        return torch.cat(found, self.dim)

    def _past(self, phase: Tensor, dim: int, clips: int) -> Tensor:
        first, last = (ends.to(phase.device) for ends in self.ends)
        reach = phase.index_select(dim, last) - phase.index_select(dim, first)
        return phase - reach * (self.share * clips)


def rows_as(x: Tensor, like: Tensor) -> Tensor:
    """A map in the rows of another one, with its own columns."""
    return x.reshape(*like.shape[:-1], x.shape[-1])


def chosen(table: Tensor, past: int, columns: Tensor) -> Tensor:
    """Columns of a table for the ``past`` keys of the clips before, one clip like the other."""
    return table.index_select(-1, columns.repeat(past // len(columns)))


def continued(table: Tensor, past: int, near: Tensor, columns: Tensor) -> Tensor:
    """Entries of a table for the keys of the clips before: of the latest clip those as far away,
    of earlier ones the farthest.

    Args:
        past: how many keys there are.
        near: (queries, keys), entries of the table with rows and columns as one.
        columns: for each key the one at the same place in the first frame.
    """
    count = near.shape[1]
    clips = past // count
    if not clips:
        return table[..., :0]
    latest = table.flatten(-2).index_select(-1, near.flatten()).unflatten(-1, near.shape)
    if clips == 1:
        return latest
    # The farthest entry of each place is that of the last row at it.
    far = latest.index_select(-1, columns)
    return torch.cat([far] * (clips - 1) + [latest], -1)


def written(after: Tensor, before: Tensor) -> Tensor:
    """What an operator has added to each entry of a map."""
    return torch.where(after == before, torch.zeros_like(after), after - before)


def normalised(
    remembered: Tensor, scores: Tensor, softmax: Callable[..., Tensor], rest: Any, beside: bool
) -> tuple[Tensor, Tensor]:
    """Weights of the remembered keys, and of the step's own.

    Args:
        softmax: the model's own operator; ``rest``: its arguments after the first two.
        beside: remembered keys are seen beside the step's own; else in place of them.
    """
    count = remembered.shape[-1]
    if count and not beside:
        return softmax(remembered, -1, *rest), torch.zeros_like(scores)
    weights = softmax(torch.cat([remembered, scores], -1), -1, *rest)
    return weights[..., :count], weights[..., count:]


def attended(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    remembered: tuple[Tensor, Tensor],
    mask: Tensor | None,
    table: Tensor | None,
    causal: bool,
    beside: bool,
    options: dict[str, Any],
) -> Tensor:
    """``scaled_dot_product_attention`` with remembered keys and values.

    Args:
        mask: the model's own; ``table``: of the remembered keys.
        causal: whether it is causal within the step, of which carried keys are the past.
        beside: as for :func:`normalised`.
        options: its other arguments.
    """
    past = remembered[0].shape[-2]
    if causal and mask is None:
        rows, columns = query.shape[-2], keys.shape[-2]
        mask = torch.ones(rows, columns, dtype=torch.bool, device=query.device).tril()
    if mask is not None and mask.shape[-1] == 1 and past:
        table = mask.expand(*mask.shape[:-1], past)
        mask = mask.expand(*mask.shape[:-1], keys.shape[-2])
    if past and not beside:
        return F.scaled_dot_product_attention(query, *remembered, attn_mask=table, **options)
    keys, values = (
        torch.cat([old, new], -2) for old, new in zip(remembered, (keys, values), strict=True)
    )
    if mask is not None and past:
        if table is None:
            open_ = True if mask.dtype == torch.bool else 0.0
            table = mask.new_full((*mask.shape[:-1], past), open_)
        mask = torch.cat([table, mask], -1)
    return F.scaled_dot_product_attention(query, keys, values, attn_mask=mask, **options)
