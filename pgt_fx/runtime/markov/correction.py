"""A convolution that adds the part of its past afterwards: no copy of its input (DESIGN §12).

A convolution is linear: with its own padding it needs no carried frames but for its first outputs,
and what these lack is a small convolution of the carried frames alone. It saves the copy that lays
carried frames and new ones side by side, which is a tenth of a step where convolutions are cheap
(depthwise and factorised ones). Measured on CPUs and on a GPU, without gradients, in single
precision.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pgt_fx.core.law import Law
from pgt_fx.runtime.markov.template import Hole, Template
from pgt_fx.runtime.work import Due

_CONV: dict[Any, int] = {getattr(torch.ops.aten, f"conv{rank}d"): rank for rank in (1, 2, 3)}
#: Smaller inputs are copied faster than two more calls are made. (Elsewhere it was not measured.)
_WORTH_ELEMENTS = {"cpu": 2**19, "cuda": 2**22}
#: Whether smaller ones go the same way, to be compared.
_ALWAYS: ContextVar[bool] = ContextVar("always", default=False)
_NAMES = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")


@contextmanager
def always() -> Iterator[None]:
    """Do without copies of small inputs as well, where it is no gain."""
    token = _ALWAYS.set(True)
    try:
        yield
    finally:
        _ALWAYS.reset(token)


@dataclass(frozen=True)
class Correction:
    """How to do without a copy.

    Attributes:
        rank: axes that the convolution slides along.
        at: which of them is time.
        ends: padding along time, the same at both ends, and how many frames are carried.
        stride, padding, dilation: along all axes; ``padding`` as the model has it.
    """

    rank: int
    at: int
    ends: int
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int

    def fits(self, due: Due, x: Tensor) -> bool:
        """Whether this step can be done so: padding after its frames, carried ones before them."""
        if x.dim() != self.rank + 2 or due.new < self.ends or due.outs != due.new:
            return False
        if due.skip or due.left or due.trim or due.offset:
            return False
        last = (due.new, due.new + self.ends)
        return due.held == due.right == self.ends and due.keep == last

    def pays(self, *tensors: Tensor) -> bool:
        """Whether it is exact enough and was measured to be faster.

        Args:
            tensors: carried frames, new frames and weight.
        """
        x = tensors[1]
        device = x.device.type
        if not _ALWAYS.get() and x.numel() < _WORTH_ELEMENTS.get(device, math.inf):
            return False
        if x.dtype not in (torch.float32, torch.float64) or tensors[0].dtype != x.dtype:
            return False  # of another type where autocast has begun or ended since
        if torch.compiler.is_compiling() or torch.is_autocast_enabled(device):
            return False
        return not (torch.is_grad_enabled() and any(t.requires_grad for t in tensors))

    def run(
        self, x: Tensor, tail: Tensor | None, weight: Tensor, bias: Tensor | None = None
    ) -> Tensor:
        """The convolution of ``tail`` and ``x``, padded at the end. Without a tail: ``x`` alone."""
        conv = getattr(torch, f"conv{self.rank}d")
        ways = (self.stride, self.padding, self.dilation, self.groups)
        out: Tensor = conv(x, weight, bias, *ways)
        if tail is None:
            return out
        dim = out.dim() - self.rank + self.at
        if self._scales(weight):
            for j in range(self.ends):
                for i in range(j, self.ends):
                    factor = weight.select(2 + self.at, i - j).squeeze(1)
                    out.select(dim, j).addcmul_(tail.select(dim, i), factor)
        else:
            out.narrow(dim, 0, self.ends).add_(self._lacking(tail, weight))
        return out

    def _scales(self, weight: Tensor) -> bool:
        """Whether each tap is one number per channel: depthwise, and one pixel wide."""
        depthwise = weight.shape[0] == self.groups and weight.shape[1] == 1
        pixel = all(k == 1 for axis, k in enumerate(weight.shape[2:]) if axis != self.at)
        still = max(self._space(self.stride), default=1) == 1
        return depthwise and pixel and still and not any(self._space(self.padding))

    def _lacking(self, tail: Tensor, weight: Tensor) -> Tensor:
        """What the carried frames add to the first outputs."""
        dim = tail.dim() - self.rank + self.at
        if self.ends == 1 and self.rank > 1:
            # One frame: a convolution along space alone.
            conv = getattr(torch, f"conv{self.rank - 1}d")
            ways = [self._space(v) for v in (self.stride, self.padding, self.dilation)]
            lacking: Tensor = conv(
                tail.select(dim, 0), weight.select(2 + self.at, 0), None, *ways, self.groups
            )
            return lacking.unsqueeze(dim)
        conv = getattr(torch, f"conv{self.rank}d")
        padding = [*self.padding]
        padding[self.at] = self.ends - 1
        taps = weight.narrow(2 + self.at, 0, self.ends)
        out: Tensor = conv(tail, taps, None, self.stride, padding, self.dilation, self.groups)
        return out.narrow(dim, self.ends - 1, self.ends)

    def _space(self, values: Sequence[int]) -> list[int]:
        return [v for axis, v in enumerate(values) if axis != self.at]


def correction(call: Template, law: Law, dim: int) -> Correction | None:
    """How the operator can do without a copy; None where it can't.

    Args:
        call: a convolution without padding along time.
        dim: the time dimension of its input.
    """
    rank = _CONV.get(call.call)
    ends = law.centred
    if rank is None or ends < 1 or call.kwargs:
        return None
    given = dict(zip(_NAMES, call.args, strict=False))
    numbers = [given.get(name, 1) for name in ("stride", "padding", "dilation", "groups")]
    if any(isinstance(n, Hole) for value in numbers for n in _each(value, rank)):
        return None  # one that is computed from a size (the groups of rows of a batch)
    at = dim - 2
    padding = list(_each(given.get("padding", 0), rank))
    padding[at] = ends
    return Correction(
        rank,
        at,
        ends,
        _each(given.get("stride", 1), rank),
        tuple(padding),
        _each(given.get("dilation", 1), rank),
        int(given.get("groups", 1)),
    )


def _each(value: Any, rank: int) -> tuple[int, ...]:
    values = tuple(value) if isinstance(value, (list, tuple)) else (value,)
    return values * rank if len(values) == 1 else values
