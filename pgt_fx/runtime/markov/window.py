"""Windowed operators in steps: carried tail + new elements in, due outputs out (DESIGN §5)."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor, nn

from pgt_fx.core.law import Law
from pgt_fx.core.layout import Axis
from pgt_fx.core.options import MarkovOperator
from pgt_fx.runtime.markov.buffer import (
    beside,
    carried_tail,
    dense,
    filled,
    filled_like,
    owned,
    padded,
)
from pgt_fx.runtime.markov.context import averages, blended, context_of
from pgt_fx.runtime.markov.correction import correction
from pgt_fx.runtime.markov.step import Step
from pgt_fx.runtime.markov.template import Template
from pgt_fx.runtime.work import Due


class MarkovWindow(nn.Module):
    """A convolution, pool, pad, slice, unfold or upsampling along time.

    It owns no parameter: weights are handed in from the user's own modules.

    Args:
        slot: name of its entry in the state.
        call: the operator with its arguments, without padding along time.
        axis: the input's time axis (never merged).
        out_dim: the output's time dimension.
        law, fill, mode: see :class:`pgt_fx.core.laws.Window` and :class:`pgt_fx.rules.Windowed`.
        markov: what the next step finds in place of the past.

    Attributes:
        tail: name of the entry that it reads: its own, or that of an operator which carries the
            same elements (:mod:`pgt_fx.compiler.lowering.share_state`).
        gives: type of a padding's result, where it may be wider than that of the input.
    """

    gives: torch.dtype | None

    def __init__(
        self,
        slot: str,
        call: Template,
        axis: Axis,
        out_dim: int,
        law: Law,
        *,
        fill: float = 0.0,
        mode: str = "constant",
        what: str = "",
        markov: MarkovOperator | None = None,
    ) -> None:
        super().__init__()
        self.slot, self.tail, self.call = slot, slot, call
        self.axis, self.out_dim, self.law = axis, out_dim, law
        self.fill, self.mode, self.what = fill, mode, what
        self.markov = markov or MarkovOperator()
        self.gives = None
        self.correction = correction(call, law, axis.dim) if self.markov.exact else None

    def extra_repr(self) -> str:
        return f"{self.what}, state {self.tail!r}"

    def forward(self, step: Step, x: Tensor | None, *tensors: Any) -> Tensor | None:
        """One step: ``x`` are the new input elements, or None; the result, or None if none due."""
        due, dim = step.window(self.slot), self.axis.dim
        if x is not None and self.gives is not None:
            x = x.to(self.gives)
        if due.blank and x is not None and self.tail not in step.state:
            tail: Tensor | None = filled_like(x, dim, due.blank, self.fill)
        else:
            others = self.tail != self.slot
            tail = carried_tail(step.state, self.tail, due.held, dim, others=others)
        without_copy = self._corrected(step, due, tail, x, tensors)
        if without_copy is not None:
            return without_copy
        around = (0, 0) if due.skip else (due.left, due.right)
        buffer, whole = padded(tail, x, dim, *around, self.mode, self.fill)
        first, end = due.keep
        if end > first:
            self._carry(step, whole, first, end)
        elif self.law.carries and self.tail == self.slot:
            step.carried[self.slot] = whole.new_empty(_with(whole.shape, dim, 0))
        if not self.markov.exact and averages(whole):
            self._summarize(step, whole, dim, due)
        if not due.outs:
            return None
        if due.skip:
            buffer = whole.narrow(dim, due.skip, whole.shape[dim] - due.skip)
            buffer = filled(buffer, dim, due.left, due.right, self.mode, self.fill)
        if due.trim:
            buffer = buffer.narrow(dim, due.trim, buffer.shape[dim] - due.trim)
        need = self.law.spanned(due.outs)
        if need is not None and buffer.shape[dim] > need:
            buffer = buffer.narrow(dim, 0, need)
        out = self._apply_to(buffer, tensors, due.offset + due.outs)
        if due.offset or out.shape[self.out_dim] != due.outs:
            out = dense(out.narrow(self.out_dim, due.offset, due.outs), out)
        if due.divisors:
            out = self._rescaled(out, due.divisors)
        return out

    def _corrected(
        self, step: Step, due: Due, tail: Tensor | None, x: Tensor | None, tensors: tuple[Any, ...]
    ) -> Tensor | None:
        """The step without a copy of its input, where that is possible and faster."""
        how = self.correction
        if how is None or x is None or tail is None:
            return None
        if not how.fits(due, x) or not how.pays(tail, x, tensors[0]):
            return None
        self._carry(step, x, due.new - how.ends, due.new)
        return how.run(x, None if due.blank else tail, *tensors)

    def _carry(self, step: Step, whole: Tensor, first: int, end: int) -> None:
        """Elements ``first`` to ``end``, for the next step; nothing where another carries them."""
        if self.tail == self.slot:
            step.carried[self.slot] = owned(whole.narrow(self.axis.dim, first, end - first))

    def _summarize(self, step: Step, whole: Tensor, dim: int, due: Due) -> None:
        """Put the operator's context in place of the past elements of the carried tail."""
        a, b = due.context
        if a == b:
            return
        seen = whole.narrow(dim, due.pads, whole.shape[dim] - due.pads)
        new = context_of(self.markov, seen, whole.narrow(dim, a, b - a), dim)
        first, end = due.past
        history = whole.narrow(dim, first, end - first) if end > first else None
        new = blended(self.markov, new, history, dim)
        first, end = due.keep
        pieces = [whole.narrow(dim, first, a - first), new, whole.narrow(dim, b, end - b)]
        step.carried[self.slot] = beside([p for p in pieces if p.shape[dim]], dim)

    def _apply_to(self, buffer: Tensor, tensors: tuple[Any, ...], wanted: int) -> Tensor:
        out = self.call(buffer, *tensors)
        missing = wanted - out.shape[self.out_dim]
        if missing > 0:
            out = self._extended(out, tensors, missing)
        return out

    def _extended(self, out: Tensor, tensors: tuple[Any, ...], missing: int) -> Tensor:
        """Outputs of a transposed convolution that no input reaches (output_padding): the bias."""
        shape = _with(out.shape, self.out_dim, missing)
        bias = tensors[1] if len(tensors) > 1 else None
        extra = out.new_zeros(shape)
        if isinstance(bias, Tensor):
            place = [1] * out.dim()
            place[out.dim() - self._space() - 1] = -1
            extra = extra + bias.reshape(place).to(out.dtype)
        return torch.cat([out, extra], self.out_dim)

    def _space(self) -> int:
        name = getattr(self.call.call, "__name__", "")
        return next((n for n in (1, 2, 3) if f"{n}d" in name), 1)

    def _rescaled(self, out: Tensor, divisors: tuple[int, ...]) -> Tensor:
        kernel = self.law.averaged
        # Filled piece by piece: a list of numbers would be copied to the device, and waited for.
        runs = [(kernel / d, len(list(same))) for d, same in itertools.groupby(divisors)]
        scale = torch.cat([out.new_full((n,), by) for by, n in runs])
        return out * scale.reshape([-1 if d == self.out_dim else 1 for d in range(out.dim())])


def _with(shape: torch.Size, dim: int, length: int) -> list[int]:
    out = list(shape)
    out[dim] = length
    return out
