"""Which of the tensors that a model returns are caches: the last frames of values inside the model,
for the next chunk of a video."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pgt_fx.capture.observe.model_lines import calling_place
from pgt_fx.core.errors import Place
from pgt_fx.core.torch_private import pytree

COPIES = (torch.clone, torch.Tensor.clone, torch.Tensor.contiguous, torch.Tensor.detach)


@dataclass(frozen=True)
class Tail:
    """A returned tensor that is the end of another one along an axis.

    Attributes:
        size: elements of that axis.
        count: how many of them were taken.
        place: the line that takes them.
    """

    size: int
    count: int
    place: Place


class Tails:
    """The ends that a run takes of its values. Values are kept, so that none takes the place of
    another: the run is without data."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[Tensor, Tail]] = {}

    def look(self, func: Any, args: Any, out: Any) -> None:
        """Note what a call takes."""
        if func is torch.Tensor.__getitem__:
            tail = _taken(func, *args[:2])
        elif func in COPIES and id(args[0]) in self._known:
            tail = self._known[id(args[0])][1]
        else:
            return
        if tail is not None and isinstance(out, Tensor):
            self._known[id(out)] = (out, tail)

    def returned(self, output: Any) -> list[Tail | None]:
        """Of each tensor that the model returned what end it is, None where it is none."""
        leaves = [x for x in pytree.tree_leaves(output) if isinstance(x, Tensor)]
        return [self._known[id(x)][1] if id(x) in self._known else None for x in leaves]


def _taken(func: Any, x: Tensor, index: Any) -> Tail | None:
    items = index if isinstance(index, tuple) else (index,)
    if any(i is None or i is Ellipsis or not isinstance(i, (slice, int)) for i in items):
        return None
    for dim, item in enumerate(items):
        if isinstance(item, slice) and item.start is not None and item.step in (None, 1):
            start, stop, _ = item.indices(x.shape[dim])
            if stop == x.shape[dim] and 0 < start < stop:
                return Tail(int(stop), int(stop - start), calling_place(func))
    return None
