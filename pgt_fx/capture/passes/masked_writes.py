"""Elements written where a mask is true, as a choice between what was there and what is written."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from pgt_fx.capture.captured import Captured
from pgt_fx.capture.guards.symbolic_sizes import expression
from pgt_fx.capture.schema import named, schema_name
from pgt_fx.core.node_arguments import as_node

aten = torch.ops.aten
MASKS = (torch.bool, torch.uint8)


def masked_writes(captured: Captured, _: int) -> None:
    """Rewrite ``x[mask] = y`` of a value that does not depend on how many elements are chosen.

    Before: ``%y = aten.index_put(%x, [%mask], %zero)``

    After: ``%y = aten.where(%mask, %zero, %x)``
    """
    for node in list(captured.graph.nodes):
        if schema_name(node) == "aten::index_put":
            _rewrite(captured, node)


def _rewrite(captured: Captured, node: fx.Node) -> None:
    given = named(node)
    x, value, indices = as_node(node.args[0]), given["values"], list(given["indices"])
    at = [d for d, index in enumerate(indices) if index is not None]
    mask = indices[at[0]]
    if len(at) != 1 or mask.meta["val"].dtype not in MASKS or given["accumulate"]:
        return
    rank, covered = x.meta["val"].dim(), mask.meta["val"].dim()
    rest = rank - at[0] - covered
    sizes = x.meta["val"].shape[at[0] : at[0] + covered]
    if [*map(expression, sizes)] != [*map(expression, mask.meta["val"].shape)]:
        return  # torch would say so of some sizes alone
    # In front of what is written stands the number of elements that are chosen: with that, and with
    # dimensions before the mask, it is another value for each of them.
    if value.meta["val"].dim() > rest and value.meta["val"].numel() != 1:
        return
    for _ in range(rest):
        mask = call_before(node, aten.unsqueeze.default, mask, -1)
    if value.meta["val"].numel() == 1 and value.meta["val"].dim() > rest:
        value = call_before(node, aten.reshape.default, value, [])
    mask = call_before(node, aten.to.dtype, mask, torch.bool)
    new = call_before(node, aten.where.self, mask, value, x)
    node.replace_all_uses_with(new)
    captured.graph.erase_node(node)


def call_before(by: fx.Node, target: Any, *args: Any) -> fx.Node:
    """A call in front of a node that it is part of."""
    with by.graph.inserting_before(by):
        new = by.graph.call_function(target, args)
    value: Tensor = by.meta["val"]
    with torch.no_grad(), value.fake_mode:  # type: ignore[attr-defined]
        found = target(*fx.map_arg(args, lambda n: n.meta["val"]))
    new.meta = {**by.meta, "val": found}
    return new
