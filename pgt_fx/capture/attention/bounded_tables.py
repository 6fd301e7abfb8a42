"""Masks of models that take videos of a limited length: evaluated entry by entry at each length."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, fx

from pgt_fx.capture.attention.attention_map import Band
from pgt_fx.capture.attention.map_entries import Reader
from pgt_fx.capture.attention.positions import COLUMN, ROW, Roles
from pgt_fx.capture.attention.step_entries import pair_graph
from pgt_fx.capture.passes.length_constants import NotConstant
from pgt_fx.capture.schema import named
from pgt_fx.capture.silent_graphs import silent
from pgt_fx.core.entries.cases import (
    ANY,
    FALSE,
    FINITE,
    LEAST,
    ORDINARY,
    Case,
    Cases,
    Infinite,
    Value,
    number,
    ordinary,
)
from pgt_fx.core.lengths.questions import bounds
from pgt_fx.core.lengths.sets import NotQuasiLinear

#: Largest side of a table that is read whole, and entries that are looked at together.
LARGEST, TOGETHER = 2**14, 2**22


class WholeTables(Reader):
    """Reads masks of videos of a limited length whole, entry by entry."""

    def band(self, rows: int, columns: int) -> Band:
        tables = {n: pair_graph(self.pairs, n, r) for n, r in self._tables()}
        limits = [t.limit for t in tables.values() if t.limit is not None]
        longest = self._longest()
        side = min([*limits, *([] if longest is None else [longest])], default=None)
        if side is None or side > LARGEST or not tables or rows != columns:
            raise NotConstant("of no limited length")
        side -= side % rows
        made = {n: silent(fx.GraphModule({}, t.graph)) for n, t in tables.items()}
        given = {n: [self.constants.value(one, 2) for one in t.inputs] for n, t in tables.items()}
        cpu, height = torch.device("cpu"), max(1, TOGETHER // max(1, side))
        furthest = 0
        for first in range(0, side, height):
            count = min(height, side - first)
            with torch.no_grad():
                parts = [made[n](first, count, 0, side, cpu, *given[n]) for n in tables]
            seen, certain, least = self._read(list(tables), parts, count, side)
            back = (torch.arange(first, first + count) // rows)[:, None] - (
                torch.arange(side) // columns
            )
            if bool((seen & (back < 0)).any()) or bool((least & ~certain).any()):
                return Band()
            furthest = max(furthest, int(back[seen].max()) if bool(seen.any()) else 0)
        return Band(True, furthest if furthest < side // rows - 1 else None)

    def _longest(self) -> int | None:
        """Most entries along the map's rows, where videos are of a limited length."""
        size = self.map.product.meta["val"].shape[-2]
        sizes = self.constants.captured.sizes
        if isinstance(size, int) or not sizes.lengths.is_finite:
            return None
        try:
            most = bounds(sizes.function(size), sizes.lengths)[1]
        except NotQuasiLinear:
            return None
        return None if most is None else int(most)

    def _tables(self) -> Iterator[tuple[fx.Node, Roles]]:
        """The tables that the map is put together with."""
        nodes = [self.map.product, *self.map.between]
        for node in nodes:
            for n in node.all_input_nodes:
                value = n.meta.get("val")
                fused = node is self.map.product and n is named(node).get("attn_mask")
                if n in nodes or not isinstance(value, Tensor) or not self.constants.free(n):
                    continue
                if (node is self.map.product and not fused) or not self.pairs.timed(n):
                    continue
                roles = (None,) * max(0, value.dim() - 2) + (ROW, COLUMN)[-value.dim() :]
                yield (
                    n,
                    tuple(
                        None if isinstance(s, int) and s == 1 else r
                        for s, r in zip(value.shape, roles, strict=True)
                    ),
                )

    def _read(
        self, nodes: list[fx.Node], parts: list[Tensor], rows: int, columns: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Of a part of the map: which entries are seen by any head, which rows have an ordinary
        score for certain with all, and which have one hidden by the least number."""
        classes, joint = [], torch.zeros(rows, columns, dtype=torch.long)
        for part in parts:
            codes, values = _classes(part)
            joint = joint * len(values) + codes
            classes.append(values)
        joint = joint.reshape(-1, rows, columns)
        seen, certain, least = (torch.zeros_like(joint, dtype=torch.bool) for _ in range(3))
        for code in joint.unique().tolist():
            at, rest = joint == code, code
            values = []
            for one in reversed(classes):
                rest, which = divmod(rest, len(one))
                values.insert(0, one[which])
            self.known = {}
            self.fixed = dict(zip(nodes, values, strict=True))
            found = [c.value for c in self.scores()]
            seen |= at & (not all(map(self.hidden, found)))
            certain |= at & all(map(ordinary, found))
            least |= at & any(self.hidden(v) and v not in (Infinite(-1), FALSE) for v in found)
        return seen.any(0), certain.any(2).all(0), least.any(2).any(0)

    fixed: dict[fx.Node, Value]

    def table(self, node: fx.Node, roles: Roles) -> Cases:
        if node in self.fixed:
            return [Case((), self.fixed[node])]
        return super().table(node, roles)


def _classes(part: Tensor) -> tuple[Tensor, list[Value]]:
    """Entries by what they do to a score: codes, and the value for each."""
    if part.dtype is torch.bool:
        return part.long(), [number(0), number(1)]
    x, least = part.double(), float(LEAST)
    low = torch.finfo(part.dtype).min if part.is_floating_point() else -least
    codes = torch.full(x.shape, 3)
    codes[x == 0], codes[x == 1] = 1, 2
    codes[x.isnan() | (x.abs() >= float(ORDINARY))] = 5
    codes[(x <= -least) | (x <= low)] = 0
    codes[x.isneginf()] = 4
    values = [number(-10 * least), number(0), number(1), FINITE, Infinite(-1), ANY]
    return codes, values
