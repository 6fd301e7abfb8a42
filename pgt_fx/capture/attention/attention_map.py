"""An attention map, and what its mask lets through."""

from __future__ import annotations

from dataclasses import dataclass

from torch import fx


@dataclass(frozen=True)
class Band:
    """Which frames the frame i of the queries sees.

    Attributes:
        causal: none after i.
        window: frames before i that it sees at most; None: all of them.
    """

    causal: bool = False
    window: int | None = None


@dataclass(frozen=True)
class Map:
    """The map of an attention up to its normaliser.

    Attributes:
        product: the node that makes it, or the whole attention.
        between: the nodes that work on it.
        scores: the node that is normalised, or that sums the values as it is; None: of the whole
            attention.
        weights: it is not normalised: what is hidden is zero.
    """

    product: fx.Node
    between: frozenset[fx.Node]
    scores: fx.Node | None
    weights: bool = False
