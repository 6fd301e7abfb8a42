"""Values one after the other along time: parts of known length, then a stream (DESIGN §5)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pgt_fx.core.layout import Axis
from pgt_fx.runtime.markov.align import aligned
from pgt_fx.runtime.markov.buffer import beside
from pgt_fx.runtime.markov.step import Step


class MarkovConcat(nn.Module):
    """Hands on the first parts once, then the stream; what comes before its turn is held.

    Args:
        slot: name of its entries in the state: ``slot.0``, ``slot.1`` …
        axes: time axis of each part; None for one that is there from the start.
        dim: dimension of time in the result.

    Attributes:
        gives: type of the result, where it may be wider than that of the parts at hand.
    """

    gives: torch.dtype | None

    def __init__(self, slot: str, axes: Sequence[Axis | None], dim: int) -> None:
        super().__init__()
        self.slot, self.axes, self.dim = slot, tuple(axes), dim
        self.gives = None

    def extra_repr(self) -> str:
        return f"{len(self.axes)} parts one after the other, state {self.slot!r}"

    def forward(self, step: Step, *parts: Tensor | None) -> Tensor | None:
        """``parts``: new elements of each part, or None; those whose turn it is, or None."""
        pieces: list[Tensor] = []
        for number, (part, axis) in enumerate(zip(parts, self.axes, strict=True)):
            due = step.concat(self.slot).parts[number]
            if part is not None and self.gives is not None:
                part = part.to(self.gives)
            if axis is not None:
                piece = aligned(step, f"{self.slot}.{number}", due, axis, part)
            else:
                piece = part if due.outs else None
            if piece is not None:
                pieces.append(piece)
        return beside(pieces, self.dim) if pieces else None
