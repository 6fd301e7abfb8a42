"""Where in the clip the keys of an attention stand, in a graph that was captured at the length of
its clip: of which frame each is, and where in that frame.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pgt_fx.capture.attention.clip_attention import ClipAttention, Side
from pgt_fx.capture.attention.clip_coordinates import ROUNDING, ClipGraph, Follower, shared_along
from pgt_fx.capture.captured import Captured


@dataclass(frozen=True)
class Places:
    """Where the elements along one axis of an operand stand.

    Attributes:
        frames: of each the frame, in rows of the other axes (rows, elements); NaN where it is of
            several frames, or of none.
        spots: the place in the frame, alike.
    """

    frames: Tensor
    spots: Tensor

    @property
    def over_time(self) -> bool:
        """Whether they are of different frames. Those of one frame each (space alone is attended
        to) are not; of a single time in all rows, or of several frames each, they are taken so."""
        known = ~self.frames.isnan()
        if not bool(known.any()):
            return True
        low = self.frames.nan_to_num(torch.inf).amin(-1)
        high = self.frames.nan_to_num(-torch.inf).amax(-1)
        several = (high - low > ROUNDING) & known.any(-1)
        if bool(several.any()):
            return True
        return bool((high[known.any(-1)].max() - low[known.any(-1)].min()) <= ROUNDING)


class Grid:
    """The elements along an axis, by frame and place, of the first row in which they are known.

    Attributes:
        frames: the frames that there are, in order.
        at: (frame, place) -> the element there.
        where: of each element its frame and place, or None.
    """

    def __init__(self, places: Places) -> None:
        known = (~places.frames.isnan()).sum(-1)
        row = int(known.argmax())
        self.where: list[tuple[int, float] | None] = []
        seen = sorted({round(f, 4) for f in places.frames[row].tolist() if f == f})
        self.frames = seen
        self.at: dict[tuple[int, float], int] = {}
        pairs = zip(places.frames[row].tolist(), places.spots[row].tolist(), strict=True)
        for number, (frame, spot) in enumerate(pairs):
            place = None
            if frame == frame:
                place = (seen.index(round(frame, 4)), round(spot, 3) if spot == spot else -1.0)
                place = None if place in self.at else place
            if place is not None:
                self.at[place] = number
            self.where.append(place)
        count = len({spot for _, spot in self.at})
        #: Whether there is an element at each place of each frame.
        self.regular = len(seen) > 1 and len(self.at) == len(seen) * count

    def first(self, number: int) -> int:
        """The element at the same place in the first frame; itself where that isn't known."""
        place = self.where[number]
        return number if place is None else self.at.get((0, place[1]), number)

    def last(self, number: int) -> int:
        """The same of the last frame."""
        place = self.where[number]
        return number if place is None else self.at.get((len(self.frames) - 1, place[1]), number)


class Coordinates:
    """Coordinates of all values of a graph.

    Args:
        times: leaf of the clip -> its axis of time.
        shapes: leaf -> sizes of the example.
        tensors: parameters and buffers by attribute path.
        attentions: those that were found.
    """

    def __init__(
        self,
        captured: Captured,
        times: Mapping[int, int | None],
        shapes: Mapping[int, Any],
        tensors: Mapping[str, Tensor],
        attentions: list[ClipAttention],
    ) -> None:
        products = {a.product: a for a in attentions}
        sums = {a.sum: a for a in attentions}
        graph = ClipGraph(captured, times, shapes, tensors, products, sums)
        wanted = {s.node for a in attentions for s in (a.keys,)} | {a.query for a in attentions}
        with torch.no_grad():
            self._frames = Follower(graph, spots=False).run(wanted)
            self._spots = Follower(graph, spots=True).run(wanted)

    def keys(self, attention: ClipAttention) -> Places | None:
        """Where its keys stand; None where it can't be determined."""
        return self._of(attention.keys)

    def rows(self, attention: ClipAttention) -> Places | None:
        """Where its queries stand."""
        return self._of(Side(attention.query, -2))

    def _of(self, side: Side) -> Places | None:
        found = [where.get(side.node) for where in (self._frames, self._spots)]
        if found[0] is None or found[1] is None:
            return None
        # The features of a key are the axis that is neither its own nor of the rows.
        features = -1 if side.dim != -1 else -2
        return Places(
            *(
                shared_along(x, features).movedim(_less(side.dim, features), -1).flatten(0, -2)
                if x.dim() > 2
                else shared_along(x, features)[None]
                for x in found
                if x is not None
            )
        )


def _less(dim: int, without: int) -> int:
    """A dimension, counted from the end, once another one is gone."""
    return dim + 1 if without > dim else dim
