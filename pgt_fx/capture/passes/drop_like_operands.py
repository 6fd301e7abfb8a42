"""Calls that read only the type and device of a video: ``y.new_zeros(…)``, ``p.type_as(y)``.

They become a factory of that type on the sizes alone, so that no frame is an operand.
The type is that of the capture, as it is of ``p.to(y.dtype)``: under autocast it may be wider.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from pgt_fx.capture.captured import Captured
from pgt_fx.capture.schema import schema_name

aten = torch.ops.aten
MADE: dict[str, Any] = {
    "aten::new_zeros": aten.zeros.default,
    "aten::new_ones": aten.ones.default,
    "aten::new_full": aten.full.default,
    "aten::new_empty": aten.empty.memory_format,  # of a mask that is drawn into it
}


def drop_like_operands(captured: Captured, _: int) -> None:
    """Write the type and the device in place of the video that lends them.

    Before: ``%zeros = aten.new_zeros(%x, [4])``, ``%p = aten.type_as(%weight, %x)``

    After: ``%zeros = aten.zeros([4], dtype=float32, device=cpu)``,
    ``%p = aten.to.device(%weight, cpu, float32)``
    """
    for node in list(captured.graph.nodes):
        name = schema_name(node)
        if name in MADE and _video(captured, node.args[0]) and not _unfilled(captured, node):
            given = {k: v for k, v in node.kwargs.items() if v is not None}
            node.kwargs = {"dtype": node.meta["val"].dtype, "device": node.meta["val"].device}
            node.kwargs = {**node.kwargs, **given}
            node.target, node.args = MADE[name], node.args[1:]
        elif name == "aten::type_as" and _borrows_type(captured, node):
            node.target = aten.to.device
            node.args = (node.args[0], node.meta["val"].device, node.meta["val"].dtype)
        else:
            continue
        captured.typed |= node.meta["val"].dtype.is_floating_point


def _video(captured: Captured, operand: Any) -> bool:
    value = operand.meta.get("val") if isinstance(operand, fx.Node) else None
    return isinstance(value, Tensor) and any(captured.has_time(s) for s in value.shape)


def _unfilled(captured: Captured, node: fx.Node) -> bool:
    """Whether it is memory for frames, with whatever stood there."""
    return schema_name(node) == "aten::new_empty" and _video(captured, node)


def _borrows_type(captured: Captured, node: fx.Node) -> bool:
    return _video(captured, node.args[1]) and not _video(captured, node.args[0])
