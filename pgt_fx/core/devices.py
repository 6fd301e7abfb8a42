"""A step runs on the device of its clip, not on the one where the model was captured.

The capture writes the device of the example into every call that names one: ``torch.arange(W,
device=x.device)`` and ``y.to(x.device)`` come out with ``device="cpu"``. A model that is moved
afterwards would make such tensors on the CPU, or bring its activations there.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn

from pgt_fx.core.torch_private import pytree


def elsewhere(argument: Any, device: Any) -> Any:
    """An argument (lists and dictionaries too) with ``device`` for every device written in it."""
    return fx.node.map_aggregate(argument, lambda a: device if isinstance(a, torch.device) else a)


def names_a_device(node: fx.Node) -> bool:
    leaves = pytree.tree_leaves((node.args, node.kwargs))
    return any(isinstance(x, torch.device) for x in leaves)


def follow_the_clip(graph: fx.Graph, clip: fx.Node) -> None:
    """Write ``clip.device`` wherever a device is named; it is read once, in front."""
    naming = [node for node in graph.nodes if names_a_device(node)]
    if not naming:
        return
    last = [n for n in graph.nodes if n.op == "placeholder"][-1]
    with graph.inserting_after(last):
        # Not "device": the printed code of a graph uses that name.
        where = graph.create_node("call_function", getattr, (clip, "device"), name="on")
    for node in naming:
        node.args, node.kwargs = elsewhere(node.args, where), elsewhere(node.kwargs, where)


def bring(constants: nn.Module, clip: Tensor) -> None:
    """Tensors that the model makes of numbers, one at least, go to where the clip is, once; dtypes
    stay.

    They are nobody's buffers: neither ``model.to`` nor ``prog.to`` moves those of all options and
    modes.
    """
    held = next(constants.buffers())
    if held.device != clip.device:
        with torch.inference_mode(False):  # they are kept for training as well
            constants.to(clip.device)


def in_any_layout(target: Any) -> Any:
    """What runs in place of an operator of a captured graph: of a view, ``reshape``.

    A view is one for the layout that the capture saw. On another device an attention's answer may
    lie otherwise, and what the model's ``contiguous()`` does there is not in the graph.
    """
    return torch.ops.aten.reshape.default if target is torch.ops.aten.view.default else target
