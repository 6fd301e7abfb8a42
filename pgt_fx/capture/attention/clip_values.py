"""Values of what a graph makes without the video: of its parameters, buffers and constants."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx

from pgt_fx.capture.attention.clip_attention import FILLS, OF_SIZES, filled
from pgt_fx.capture.captured import Captured
from pgt_fx.capture.schema import schema_name


class NoValue(Exception):
    """It depends on the video."""


class Values:
    """Evaluates nodes, once each.

    Args:
        shapes: leaf of the clip -> sizes of the example.
        tensors: parameters and buffers by attribute path.
    """

    def __init__(
        self, captured: Captured, shapes: Mapping[int, Any], tensors: Mapping[str, Tensor]
    ) -> None:
        self.captured, self.shapes, self.tensors = captured, shapes, tensors
        self._known: dict[fx.Node, Any] = {}
        self._drawn: dict[fx.Node, Any] = {}

    def of(self, node: fx.Node) -> Tensor:
        """The value of a node.

        Raises:
            NoValue: when it has none without a video.
        """
        with torch.no_grad():
            value: Tensor = self._value(node, self._known, drawn=False)
        return value

    def drawn(self, node: fx.Node) -> Tensor:
        """The same, had the parameters each another value, all different."""
        with torch.no_grad():
            value: Tensor = self._value(node, self._drawn, drawn=True)
        return value

    def learned(self, node: fx.Node) -> bool:
        """Whether a parameter or a buffer of floating-point numbers is part of it."""
        queue, seen = [node], set()
        while queue:
            one = queue.pop()
            if one in seen:
                continue
            seen.add(one)
            if schema_name(one) in OF_SIZES:
                continue
            path = self.captured.tensors.get(one.name) if one.op == "placeholder" else None
            if path is not None and self.tensors[path].is_floating_point():
                return True
            queue += one.all_input_nodes
        return False

    def _value(self, node: fx.Node, known: dict[fx.Node, Any], *, drawn: bool) -> Any:
        if node in known:
            return known[node]
        if node.op == "placeholder":
            known[node] = self._input(node, drawn=drawn)
            return known[node]
        if schema_name(node) == "aten::sym_size":
            size = node.meta["val"]
            if isinstance(size, torch.SymInt):
                size = self._size(size)
            known[node] = size
            return size
        if node.op != "call_function":
            raise NoValue(node.name)
        if schema_name(node) in FILLS:
            sizes: Any = node.meta["val"].shape
            shape = [n if isinstance(n, int) else self._size(n) for n in sizes]
            known[node] = filled(node, shape)
            return known[node]
        args, kwargs = fx.map_arg(
            (node.args, node.kwargs), lambda n: self._value(n, known, drawn=drawn)
        )
        target: Any = node.target
        known[node] = target(*args, **kwargs)
        return known[node]

    def _input(self, node: fx.Node, *, drawn: bool) -> Any:
        path = self.captured.tensors.get(node.name)
        if path is None:
            if node.name in self.captured.constants:
                return self.captured.constants[node.name]
            raise NoValue(node.name)
        tensor = self.tensors[path].detach()
        if not drawn or not tensor.is_floating_point():
            return tensor
        count = torch.arange(1, tensor.numel() + 1, dtype=torch.float64).view(tensor.shape)
        return count.to(tensor.dtype)

    def _size(self, size: torch.SymInt) -> int:
        at: dict[Any, int] = {}
        for node in self.captured.graph.nodes:
            leaf = self.captured.inputs.get(node.name) if node.op == "placeholder" else None
            value = node.meta.get("val")
            if leaf is None or not isinstance(value, Tensor):
                continue
            for one, there in zip(value.shape, self.shapes[leaf] or (), strict=True):
                if isinstance(one, torch.SymInt):
                    at[one.node.expr] = there
        return int(size.node.expr.xreplace(at))
