"""What a mask lets through, proven: how far back a query looks, and that it never looks ahead.

First for videos of any length, by inequalities in the positions
(:mod:`pgt_fx.capture.attention.map_entries`); where these give no bound and the mask is cut from a
table, entry by entry.
"""

from __future__ import annotations

from torch import Tensor, fx

from pgt_fx.capture.attention.attention_map import Band, Map
from pgt_fx.capture.attention.bounded_tables import WholeTables
from pgt_fx.capture.attention.map_entries import Reader
from pgt_fx.capture.attention.positions import COLUMN, ROW, NotPairs, Pairs
from pgt_fx.capture.passes.length_constants import Constants, NotConstant
from pgt_fx.core.entries.cases import FALSE

__all__ = ["Band", "Map", "read_band", "vanishes"]


def read_band(constants: Constants, map_: Map, rows: int, columns: int) -> Band:
    """What a mask lets through, proven.

    Args:
        rows, columns: entries per frame along both sides of the map.
    """
    pairs = Pairs(constants.captured)
    reader = Reader(constants, pairs, map_)
    found = reader.band(rows, columns)
    if found.causal and found.window is not None:
        return found
    whole = WholeTables(constants, pairs, map_)
    try:
        return whole.band(rows, columns)
    except (NotConstant, NotPairs):
        return found


def vanishes(constants: Constants, node: fx.Node) -> bool:
    """Whether all entries of something that is put together with a map are zero."""
    if not isinstance(node.meta.get("val"), Tensor):
        return False
    reader = Reader(constants, Pairs(constants.captured), Map(node, frozenset(), node))
    return all(c.value == FALSE for c in reader.operand(node, (ROW, COLUMN)))
