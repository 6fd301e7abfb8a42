"""Reductions over time under ``pooling="running"``: one carried element (DESIGN §6)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from pgt_fx.runtime.markov.buffer import carried_value
from pgt_fx.runtime.markov.step import Step
from pgt_fx.runtime.markov.template import Template
from pgt_fx.runtime.work import PoolDue

SPREAD = (".mean", ".squares")


class MarkovPool(nn.Module):
    """A mean, sum, max, min, var, std, any, all, prod, first or last over all elements so far.

    The model's own operator reduces the step's elements; its result is merged with what is
    carried, weighted by the numbers of elements, which the clocks know.

    Args:
        slot: name of its entry in the state.
        how: kind of reduction.
        reduce: the model's operator on the step's elements.
        dims: dimensions reduced, for var and std.
        keepdim: whether they stay.
        correction: of var and std (Bessel's is 1).
    """

    def __init__(
        self,
        slot: str,
        how: str,
        reduce: Template,
        dims: tuple[int, ...],
        keepdim: bool,
        correction: float = 1.0,
    ) -> None:
        super().__init__()
        self.slot, self.how, self.reduce = slot, how, reduce
        self.dims, self.keepdim = dims, keepdim
        self.correction = correction

    def extra_repr(self) -> str:
        return f"running {self.how}, state {self.slot!r}"

    @property
    def sums(self) -> dict[str, str]:
        """Entries that add up over the video: single precision at least, whatever the model runs
        in. With each the name of the entry that keeps the model's own type."""
        names = {"mean": ("",), "sum": ("",), "var": SPREAD, "std": SPREAD}.get(self.how, ())
        return {f"{self.slot}{name}": f"{self.slot}.dtype" for name in names}

    def forward(self, step: Step, x: Tensor | None, *others: Any) -> Tensor:
        """The reduction of all elements up to this step's."""
        due = step.pool(self.slot)
        if self.how in ("var", "std"):
            return self._spread(step, x, due)
        carried = carried_value(step.state, self.slot, due.before)
        if x is None:
            if carried is None:
                raise ValueError("no element has been seen")
            step.carried[self.slot] = carried
            return self._as_model(step, self._answer(carried, self._count(step, None, due)))
        part = self.reduce(x, *others)
        self._note_dtype(step, part)
        count = self._count(step, x, due)
        if carried is None:
            step.carried[self.slot] = self._carry(part, due.new)
            return part  # to the last bit what the model computes
        total = self._merge(carried, part, due.new)
        step.carried[self.slot] = total
        return self._answer(total, count).to(part.dtype)

    def _count(self, step: Step, x: Tensor | None, due: PoolDue) -> Tensor | None:
        """Elements so far, as a tensor: what a step does is then the same at every step."""
        if self.how not in ("mean", "var", "std"):
            return None
        name = f"{self.slot}.count"
        before = carried_value(step.state, name, due.before)
        if x is None:
            count = before
        else:
            new = torch.full((), due.new, dtype=torch.long, device=x.device)
            count = new if before is None else before + new
        if count is None:
            raise ValueError("no element has been seen")
        step.carried[name] = count
        return count

    def _note_dtype(self, step: Step, part: Tensor) -> None:
        """Sums of half precision are carried in single: what the model expects is kept beside."""
        if _wide(part).dtype != part.dtype:
            step.carried[f"{self.slot}.dtype"] = part.new_empty(0)

    def _as_model(self, step: Step, answer: Tensor) -> Tensor:
        like = step.state.get(f"{self.slot}.dtype")
        if like is None:
            return answer
        step.carried[f"{self.slot}.dtype"] = like
        return answer.to(like.dtype)

    def _carry(self, part: Tensor, count: int) -> Tensor:
        if self.how in ("mean", "sum"):
            part = _wide(part)
            return part * count if self.how == "mean" else part.clone()
        return part.clone()

    def _merge(self, carried: Tensor, part: Tensor, count: int) -> Tensor:
        match self.how:
            case "mean":
                return carried + _wide(part) * count
            case "sum":
                return carried + _wide(part)
            case "max":
                return torch.maximum(carried, part)
            case "min":
                return torch.minimum(carried, part)
            case "prod":
                return carried * part
            case "any":
                return carried | part
            case "all":
                return carried & part
            case "first":
                return carried.clone()
            case _:
                return part.clone()

    def _answer(self, total: Tensor, count: Tensor | None) -> Tensor:
        """Of storage of its own: what follows may write into it, and the state is read again."""
        return total.clone() if count is None else total / count

    def _spread(self, step: Step, x: Tensor | None, due: PoolDue) -> Tensor:
        """Merge of two groups' means and squared deviations (Chan, Golub, LeVeque 1979)."""
        mean_slot, square_slot = f"{self.slot}.mean", f"{self.slot}.squares"
        mean = carried_value(step.state, mean_slot, due.before)
        squares = carried_value(step.state, square_slot, due.before)
        shares = carried_value(step.state, f"{self.slot}.each", due.before)
        before = step.state.get(f"{self.slot}.count")
        counted = self._count(step, x, due)
        each: int | Tensor = 1
        dtype = None
        if x is not None:
            dtype = x.dtype
            self._note_dtype(step, x)
            wide = _wide(x)
            part = wide.mean(self.dims, keepdim=True)
            part_squares = (wide - part).square().sum(self.dims, keepdim=True)
            each = x.numel() // part.numel() // max(due.new, 1)
            if mean is None or squares is None or before is None or counted is None:
                mean, squares = part, part_squares
            else:
                shift, share = part - mean, due.new / counted.to(wide.dtype)
                mean = mean + shift * share
                squares = squares + part_squares + shift.square() * (before * share * each)
            step.carried[f"{self.slot}.each"] = torch.full((), each, device=x.device)
        elif shares is not None:  # a tensor: to read it would wait for the device
            each = step.carried[f"{self.slot}.each"] = shares
        if mean is None or squares is None or counted is None:
            raise ValueError("no element has been seen")
        step.carried[mean_slot], step.carried[square_slot] = mean, squares
        out = squares / (counted.to(squares.dtype) * each - self.correction)
        out = out.sqrt() if self.how == "std" else out
        if not self.keepdim:
            out = out.squeeze(self.dims)
        return out.to(dtype) if dtype is not None else self._as_model(step, out)


def _wide(x: Tensor) -> Tensor:
    """Half precision is summed in single."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
