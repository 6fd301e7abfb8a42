"""The functions that run in place of operators of the graph: torch's own of the same name.

``torch.ops.aten.add.Tensor(a, b)`` looks its arguments up in the operator's schema, which takes
about twice as long as ``torch.add(a, b)``: a step with small frames, or on a GPU that waits
for the host, consists of such calls. The graph that is printed keeps the operators.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

_ATEN = torch.ops.aten
#: Those that take the same arguments in the same order, and have one meaning for them.
TORCH_FUNCTIONS: dict[Any, Any] = {
    _ATEN.add.Tensor: torch.add,
    _ATEN.sub.Tensor: torch.sub,
    _ATEN.mul.Tensor: torch.mul,
    _ATEN.div.Tensor: torch.div,
    _ATEN.relu.default: torch.relu,
    _ATEN.sigmoid.default: torch.sigmoid,
    _ATEN.tanh.default: torch.tanh,
    _ATEN.cat.default: torch.cat,
    _ATEN.mean.dim: torch.mean,
    _ATEN.matmul.default: torch.matmul,
    _ATEN.bmm.default: torch.bmm,
    _ATEN.softmax.int: torch.softmax,
    _ATEN.permute.default: torch.permute,
    _ATEN.transpose.int: torch.transpose,
    _ATEN.reshape.default: torch.reshape,
    _ATEN.flatten.using_ints: torch.flatten,
    _ATEN.unsqueeze.default: torch.unsqueeze,
    _ATEN.squeeze.dim: torch.squeeze,
    _ATEN.select.int: torch.select,
}
#: Of these any overload: Markov operators are called with one of them.
WINDOWS: dict[Any, Any] = {
    getattr(_ATEN, name): getattr(torch, name)
    for name in (
        *("conv1d", "conv2d", "conv3d"),
        *("max_pool1d", "max_pool2d", "max_pool3d"),
        *("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"),
    )
}


def torch_function_for(call: Any) -> Any:
    """The function to call for an operator (``aten.conv3d`` or ``aten.conv3d.default``)."""
    window = WINDOWS.get(getattr(call, "overloadpacket", call))
    return window or TORCH_FUNCTIONS.get(call, call)


def with_torch_functions(graph: fx.Graph) -> fx.Graph:
    """A copy of the graph that calls them."""
    out = fx.Graph()
    out.output(out.graph_copy(graph, {}))
    for node in out.nodes:
        if node.op == "call_function":
            node.target = torch_function_for(node.target)
    return out
