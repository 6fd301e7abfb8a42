"""Resizing along time in a step: by the operator of the model, to the length of what is at hand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from pgt_fx.core.lengths.functions import QuasiLinear


@dataclass(frozen=True)
class Factor:
    """By how much time is resized.

    Attributes:
        up, down: the factors; one of them is 1.
        whole: elements of the result of a whole video, where those of the operand give more.
    """

    up: int = 1
    down: int = 1
    whole: QuasiLinear | None = None


class Resize:
    """Resizing by a whole factor along time, to the model's sizes along space.

    Args:
        call: the model's operator.
        dim: of time, counted from the end.
        sizes: position of its ``output_size`` among its arguments, and time's among the sizes;
            None: it is given factors.
        factor: along time.
        picks: how many neighbours of each ``factor.down`` elements are averaged in front of the
            call; 0: it does that itself.
    """

    def __init__(
        self,
        call: Any,
        dim: int,
        sizes: tuple[int, int] | None,
        factor: Factor,
        picks: int = 0,
    ) -> None:
        self.call, self.dim, self.sizes, self.factor, self.picks = call, dim, sizes, factor, picks

    def __call__(self, *args: Any) -> Tensor:
        x, *others = args
        if self.picks and self.factor.down > 1:
            dim = x.dim() + self.dim
            front = (slice(None),) * dim
            each = [x[(*front, slice(p, None, self.factor.down))] for p in range(self.picks)]
            x = each[0] if len(each) == 1 else (each[0] + each[1]) / 2
        given = [x, *others]
        if self.sizes is not None:
            position, at = self.sizes
            size = list(given[position])
            here = x.shape[self.dim] * self.factor.up
            size[at] = here if self.picks else here // self.factor.down
            given[position] = size
        out: Tensor = self.call(*given)
        return out
