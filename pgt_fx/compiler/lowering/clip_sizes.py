"""Sizes of a clip other than its length, read from the inputs of a step."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import fx

from pgt_fx.capture.captured import Captured


def size_of_clip(
    node: fx.Node, captured: Captured, inputs: Collection[fx.Node]
) -> tuple[fx.Node, int] | None:
    """The input and its dimension that a size is as large as at any time: a step always has it,
    where the value that the model asks for its shape may have no elements yet."""
    size = node.meta.get("val")
    if node.target is not torch.ops.aten.sym_size.int or node.args[0] in inputs:
        return None
    if not isinstance(size, torch.SymInt) or captured.has_time(size):
        return None
    for one in inputs:
        for dim, other in enumerate(getattr(one.meta["val"], "shape", ())):
            if isinstance(other, torch.SymInt) and str(other) == str(size):
                return one, dim
    return None
