"""Coordinates of elements, through a graph that was captured at the length of its clip.

They go through the graph in place of the video: of each element the frame that it is of, or its
place in that frame; NaN where it is of several. Views move them as they move elements, a layer
along the channels leaves them, a convolution takes those of the middle of its window, and the sum
of an attention is where its query is. So a class token has none, and a pooled key that of what it
was pooled from.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, fx

from pgt_fx.capture.attention.clip_attention import FILLS, ClipAttention, filled
from pgt_fx.capture.captured import Captured
from pgt_fx.capture.schema import named, schema_name
from pgt_fx.core.node_arguments import as_node, as_number
from pgt_fx.core.torch_private import schema_of

#: Operators that only move elements about.
MOVES = {
    f"aten::{name}"
    for name in (
        *("view", "reshape", "_unsafe_view", "flatten", "unflatten", "permute", "transpose"),
        *("mT", "mH", "adjoint", "H", "matrix_H", "swapdims", "moveaxis", "ravel", "view_as"),
        *("t", "numpy_T", "movedim", "expand", "expand_as", "squeeze", "unsqueeze", "select"),
        *("slice", "narrow", "split", "split_with_sizes", "chunk", "tensor_split", "unbind"),
        *("roll", "flip", "repeat", "repeat_interleave", "index_select", "index", "gather"),
        *("contiguous", "clone", "alias", "detach", "lift_fresh_copy", "cat", "stack"),
        *("slice_scatter", "select_scatter", "unfold", "swapaxes", "_to_copy", "to"),
    )
}
#: What else leaves elements where they are, whatever it makes of their values.
IN_PLACE = {
    f"aten::{name}"
    for name in (
        *("layer_norm", "native_layer_norm", "group_norm", "batch_norm", "instance_norm"),
        *("softmax", "_softmax", "log_softmax", "dropout", "rms_norm", "cumsum"),
    )
}
PRODUCTS = ("aten::matmul", "aten::bmm", "aten::mm", "aten::einsum", "aten::baddbmm")
#: How far two coordinates of one element may be apart by rounding.
ROUNDING = 1e-6
#: A place in a frame is row * this + column.
ROW = 4096.0


@dataclass(frozen=True)
class ClipGraph:
    """A graph that was captured at the length of its clip, and what it is run on.

    Attributes:
        times: leaf of the clip -> its axis of time.
        shapes: leaf -> sizes of the example.
        tensors: parameters and buffers by attribute path.
        products, sums: the attentions that were found, by the node of their map and of their sum.
    """

    captured: Captured
    times: Mapping[int, int | None]
    shapes: Mapping[int, Any]
    tensors: Mapping[str, Tensor]
    products: Mapping[fx.Node, ClipAttention]
    sums: Mapping[fx.Node, ClipAttention]

    @cached_property
    def sizes(self) -> dict[Any, int]:
        """The symbols of batch and space, with the example's sizes."""
        found: dict[Any, int] = {}
        for node in self.captured.graph.nodes:
            if node.op != "placeholder" or node.name not in self.captured.inputs:
                continue
            given = self.shapes[self.captured.inputs[node.name]] or ()
            seen = getattr(node.meta.get("val"), "shape", ())
            for size, there in zip(seen, given, strict=True):
                if isinstance(size, torch.SymInt):
                    found[size.node.expr] = there
        return found


class Follower:
    """One coordinate of the elements of a clip through its graph.

    Args:
        spots: follow the places in a frame; else the frames.
    """

    def __init__(self, of: ClipGraph, *, spots: bool) -> None:
        self.of, self.spots = of, spots
        #: Values of what is made without the video, and coordinates of the rest.
        self.known: dict[fx.Node, Any] = {}
        self.marked: dict[fx.Node, Any] = {}
        self.rows: dict[fx.Node, Tensor] = {}

    def run(self, wanted: set[fx.Node]) -> dict[fx.Node, Tensor]:
        """The coordinates of these values."""
        captured = self.of.captured
        left = {n: len(n.users) for n in captured.graph.nodes}
        out: dict[fx.Node, Tensor] = {}
        for node in captured.graph.nodes:
            if node.op == "placeholder":
                self._input(node)
            elif node.op == "call_function":
                self._visit(node)
            for used in node.all_input_nodes:
                left[used] -= 1
                if not left[used] and used not in wanted:
                    self.known.pop(used, None)
                    self.marked.pop(used, None)
        for node in wanted:
            found = self.marked.get(node)
            if isinstance(found, Tensor):
                out[node] = found
        return out

    def _input(self, node: fx.Node) -> None:
        captured, of = self.of.captured, self.of
        leaf = captured.inputs.get(node.name)
        if leaf is None:
            if node.name in captured.tensors:
                self.known[node] = of.tensors[captured.tensors[node.name]].detach()
            else:
                self.known[node] = captured.constants.get(node.name)
            return
        shape, time = of.shapes[leaf], of.times[leaf]
        value = node.meta.get("val")
        if shape is None or not isinstance(value, Tensor):
            return
        shape = [s if isinstance(s, int) else n for s, n in zip(value.shape, shape, strict=True)]
        if time is None:
            self.known[node] = torch.zeros(shape, dtype=value.dtype)
            return
        marks = torch.zeros(shape, dtype=torch.float64)
        dims = [d for d in range(len(shape)) if d not in (0, time)][-2:] if self.spots else [time]
        for scale, d in zip((ROW, 1.0)[2 - len(dims) :], dims, strict=True):
            if self.spots and len(shape) < 5:
                break  # a sequence has no places in a frame
            at = [-1 if k == d else 1 for k in range(len(shape))]
            marks = marks + scale * torch.arange(shape[d], dtype=torch.float64).view(at)
        self.marked[node] = marks

    def _visit(self, node: fx.Node) -> None:
        marked = [n for n in node.all_input_nodes if n in self.marked]

        def value(n: fx.Node) -> Any:
            return self.marked[n] if n in self.marked else self.known.get(n)

        name = schema_name(node)
        if name in FILLS:
            self.known[node] = filled(node, self._shape(node, value))
            return
        if not marked or name == "aten::sym_size":
            args, kwargs = fx.map_arg((node.args, node.kwargs), value)
            target: Any = node.target
            self.known[node] = target(*args, **kwargs)
            return
        self.marked[node] = self._moved(node, name, value)

    def _moved(self, node: fx.Node, name: str, value: Callable[[fx.Node], Any]) -> Any:
        if node.target is operator.getitem:
            source, number = node.args
            return value(as_node(source))[as_number(number)]
        if name == "" or node.op != "call_function":
            return None
        if node in self.of.sums:
            return self._summed(node, value)
        if node in self.of.products:
            return self._product(node, value)
        if name in MOVES:
            return self._run(node, name, value)
        given = named(node)
        first = next(n for n in node.all_input_nodes if isinstance(value(n), Tensor))
        x: Tensor = self._mark(first, value)
        shape = self._shape(node, value)
        if name in ("aten::linear", "aten::addmm"):
            x = self._mark(given["input" if name == "aten::linear" else "mat1"], value)
            return shared_along(x, -1).unsqueeze(-1).expand(*x.shape[:-1], shape[-1])
        if name.startswith("aten::conv") or "pool" in name:
            return _windows(given, name, x, shape)
        if name in IN_PLACE:
            return x
        if name in PRODUCTS:
            return self._mixed(node, value, shape)
        marks = [self._mark(n, value) for n in node.all_input_nodes if n in self.marked]
        try:
            whole = torch.broadcast_shapes(*(m.shape for m in marks))
            full = torch.broadcast_shapes(whole, shape)
        except RuntimeError:
            whole = full = None
        if full is not None and list(full) == list(shape) and _entrywise(node):
            out = marks[0]
            for other in marks[1:]:
                out = _either(out, other)
            return out.expand(shape)
        if "dim" in given and name.rpartition("::")[2] in ("mean", "sum", "amax", "amin", "max"):
            return _reduced(x, given, shape)
        return torch.full(shape, torch.nan, dtype=torch.float64)

    def _mark(self, node: Any, value: Callable[[fx.Node], Any]) -> Tensor:
        """The coordinates of an operand; NaN of one that is made without the video."""
        found = value(node)
        if node in self.marked:
            return found
        return torch.full(found.shape, torch.nan, dtype=torch.float64)

    def _run(self, node: fx.Node, name: str, value: Callable[[fx.Node], Any]) -> Any:
        """An operator that moves elements, on their coordinates."""
        listed = name in ("aten::cat", "aten::stack")
        scatter = name.endswith("_scatter")

        def given(n: fx.Node) -> Any:
            found = value(n)
            if isinstance(found, Tensor) and n not in self.marked and (listed or scatter):
                return torch.full(found.shape, torch.nan, dtype=torch.float64)
            return found

        if name in ("aten::to", "aten::_to_copy", "aten::contiguous", "aten::clone"):
            return value(node.all_input_nodes[0])
        args, kwargs = fx.map_arg((node.args, node.kwargs), given)
        target: Any = node.target
        if target is torch.ops.aten.view.default:
            target = torch.ops.aten.reshape.default
        return target(*args, **kwargs)

    def _shape(self, node: fx.Node, value: Callable[[fx.Node], Any]) -> list[int]:
        """Sizes of the result, at the batch of the coordinates."""
        result = node.meta["val"]
        result = result[0] if isinstance(result, (list, tuple)) else result
        return [n if isinstance(n, int) else self._size(n) for n in result.shape]

    def _size(self, size: Any) -> int:
        return int(size.node.expr.xreplace(self.of.sizes))

    # -- attention -----------------------------------------------------------------------------

    def _product(self, node: fx.Node, value: Callable[[fx.Node], Any]) -> Tensor:
        """The map of an attention has no coordinates; its rows' are kept for the sum."""
        attention = self.of.products[node]
        query = self._mark(attention.query, value)
        shape = self._shape(node, value)
        self.rows[node] = _rows_of(node, attention, query, shape)
        return torch.full((), torch.nan, dtype=torch.float64).expand(shape)

    def _summed(self, node: fx.Node, value: Callable[[fx.Node], Any]) -> Tensor:
        attention = self.of.sums[node]
        shape = self._shape(node, value)
        if attention.softmax is None:
            return shared_along(self._mark(attention.query, value), -1).unsqueeze(-1).expand(shape)
        rows = self.rows[attention.product]
        if schema_name(node) == "aten::einsum":
            terms, result = str(node.args[0]).replace(" ", "").split("->")
            nodes: Any = node.args[1]
            at = next(i for i, n in enumerate(nodes) if n is not attention.values.node)
            weights, values = terms.split(",")[at], terms.split(",")[1 - at]
            ones = torch.ones(value(attention.values.node).shape, dtype=torch.float64)
            count = ones.shape[attention.values.dim]
            equation = f"{weights[:-1]},{values}->{result}"
            return torch.einsum(equation, rows, ones) / count
        return rows.reshape(shape[:-1]).unsqueeze(-1).expand(shape)

    def _mixed(self, node: fx.Node, value: Callable[[fx.Node], Any], shape: list[int]) -> Tensor:
        """A product that is no attention's: with a weight on its right it is a layer."""
        if schema_name(node) in ("aten::matmul", "aten::mm", "aten::bmm"):
            left, right = node.args[:2]
            if left in self.marked and right not in self.marked:
                x = shared_along(self._mark(left, value), -1).unsqueeze(-1)
                return x.expand(shape)
        return torch.full(shape, torch.nan, dtype=torch.float64)


def _rows_of(node: fx.Node, attention: ClipAttention, query: Tensor, shape: list[int]) -> Tensor:
    """Coordinates of the rows of a map: that of its queries."""
    if schema_name(node) == "aten::einsum":
        terms, result = str(node.args[0]).replace(" ", "").split("->")
        nodes: Any = node.args[1]
        term = terms.split(",")[list(nodes).index(attention.query)]
        inner = [c for c in term if c not in result]
        count = 1
        for c in inner:
            count *= query.shape[term.index(c)]
        kept = "".join(c for c in result[:-1] if c in term)
        rows = torch.einsum(f"{term}->{kept}", query) / count
        return rows.reshape(shape[:-1]) if rows.numel() == math.prod(shape[:-1]) else rows
    rows = shared_along(query, -1)
    return rows.expand(shape[:-1])


def shared_along(x: Tensor, dim: int) -> Tensor:
    """The coordinate that all elements along an axis have; NaN where they have several."""
    low, high = x.amin(dim), x.amax(dim)
    return torch.where(high - low <= ROUNDING, low, torch.nan)


def _either(one: Tensor, other: Tensor) -> Tensor:
    """The coordinates of what is computed from two values: a class token's is the other's."""
    one, other = torch.broadcast_tensors(one, other)
    both = torch.where((one - other).abs() <= ROUNDING, one, torch.nan)
    return torch.where(one.isnan(), other, torch.where(other.isnan(), one, both))


def _entrywise(node: fx.Node) -> bool:
    tags = getattr(node.target, "tags", ())
    if torch.Tag.pointwise in tags:
        return True
    name = schema_name(node).rpartition("::")[2]
    known = ("where", "masked_fill", "type_as", "float", "half", "double", "gelu", "hardswish")
    return name in known or not any(
        a.name in ("dim", "dims", "kernel_size") for a in schema_of(node.target).arguments
    )


def _reduced(x: Tensor, given: Mapping[str, Any], shape: list[int]) -> Tensor:
    dims = given["dim"]
    dims = [dims] if isinstance(dims, int) else list(dims or range(x.dim()))
    for d in sorted({d % x.dim() for d in dims}, reverse=True):
        x = shared_along(x, d)
    return x.reshape(shape)


def _windows(given: Mapping[str, Any], name: str, x: Tensor, shape: list[int]) -> Tensor:
    """The coordinates of the middle of each window, of channels that all have the same."""
    if "adaptive" in name or "transpose" in name or "convolution" in name:
        return torch.full(shape, torch.nan, dtype=torch.float64)
    rank = next((int(c) for c in name if c.isdigit()), 0)
    if not rank or x.dim() < rank + 1:
        return torch.full(shape, torch.nan, dtype=torch.float64)
    weight = given.get("weight")
    kernel = weight.meta["val"].shape[2:] if isinstance(weight, fx.Node) else given["kernel_size"]
    if name.startswith("aten::conv"):
        x = shared_along(x, -rank - 1).unsqueeze(-rank - 1)
    for k in range(rank):
        d = x.dim() - rank + k
        size = _at(kernel, k)
        stride = _at(given.get("stride") or size, k)
        dilation = _at(given.get("dilation", 1), k)
        pad = given.get("padding", 0)
        if isinstance(pad, str):
            pad = (dilation * (size - 1)) // 2 if pad == "same" else 0
        twice = dilation * (size - 1) - 2 * _at(pad, k)
        centres = torch.arange(shape[d]) * stride
        low = (centres + twice // 2).clamp(0, x.shape[d] - 1)
        high = (centres + -(-twice // 2)).clamp(0, x.shape[d] - 1)
        x = (x.index_select(d, low) + x.index_select(d, high)) / 2
    return x.expand(shape)


def _at(sizes: Any, k: int) -> int:
    if isinstance(sizes, int):
        return sizes
    listed = list(sizes)
    return int(listed[k] if len(listed) > 1 else listed[0])
