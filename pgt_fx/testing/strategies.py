"""Hypothesis strategies for random temporal models: the public name of
:mod:`pgt_fx.testing.fuzz.strategies`."""

from __future__ import annotations

from pgt_fx.testing.fuzz.strategies import (
    HORIZON,
    MAX_CHANNELS,
    MAX_MINIMUM,
    MAX_NODES,
    SPACE,
    Graph,
    Node,
    Spec,
    build,
    channel_counts,
    chunkings,
    example_frames,
    generic,
    graphs,
    length,
    lengths,
    minimum_frames,
    ops,
    picky,
    video,
    way,
)

__all__ = [
    "HORIZON",
    "MAX_CHANNELS",
    "MAX_MINIMUM",
    "MAX_NODES",
    "SPACE",
    "Graph",
    "Node",
    "Spec",
    "build",
    "channel_counts",
    "chunkings",
    "example_frames",
    "generic",
    "graphs",
    "length",
    "lengths",
    "minimum_frames",
    "ops",
    "picky",
    "video",
    "way",
]
