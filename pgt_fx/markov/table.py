"""Tensors that a model makes from the number of frames: positions, masks, position tables."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn

from pgt_fx.counts import counted
from pgt_fx.errors import ClipError
from pgt_fx.markov.step import Step


class MarkovTable(nn.Module):
    """The part of a table that a step needs. It carries nothing.

    Args:
        slot: name under which its work is planned.
        make: ``make(start, count, device, *tensors)``: the model's own operators.
        kind: "rows": element i is that of position i of the video; "clip" and "prefix": the model's
            own table for a video as long as the step; "pairs": frames by frames, whose entries
            depend on the distance alone.
        dim: dimension of time in it (of the rows in a table of pairs).
        where: the line of the model that uses it, for errors.
    """

    make: Callable[..., Tensor]

    def __init__(self, slot: str, make: fx.GraphModule, kind: str, dim: int, where: str) -> None:
        super().__init__()
        self.slot, self.kind, self.dim, self.where = slot, kind, dim, where
        self.__dict__["make"] = make  # no module of the model's: it has no weights of its own

    def extra_repr(self) -> str:
        return f"{self.kind} of a table"

    def forward(self, step: Step, device: torch.device, *tensors: Any) -> Tensor:
        """The table's elements for the elements of this step.

        Raises:
            ClipError: when the table has fewer rows than the step has elements.
        """
        due = step.table(self.slot)
        if self.kind == "rows":
            return self._checked(self.make(due.before, due.new, device, *tensors), due.new)
        if self.kind in ("clip", "prefix"):
            return self._checked(self.make(0, due.new, device, *tensors), due.new)
        whole = self._checked(self.make(0, due.keys, device, *tensors), due.keys)
        return whole.narrow(self.dim, due.keys - due.new, due.new)

    def _checked(self, table: Tensor, expected: int) -> Tensor:
        rows = table.shape[self.dim]
        if rows != expected:
            raise ClipError(
                f"{self.where}: the model's table has {counted(rows, 'row')} along time and this "
                "step needs "
                f"{expected}; feed steps of at most {counted(rows, 'element')} there, or give "
                "the model a "
                "longer table"
            )
        return table
