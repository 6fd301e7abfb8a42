"""Attention over time, however it is spelled: a product that relates frames to frames, a mask and a
normaliser, and a product that sums over frames.

Found here and noted on the nodes: which operands are keys and values, and which frames a mask lets
through. The operators themselves are left as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx

from pgt_fx.capture.attention.mask_reach import Band, Map, read_band, vanishes
from pgt_fx.capture.captured import Captured
from pgt_fx.capture.passes.length_constants import Constants, NotConstant
from pgt_fx.capture.schema import named, schema_name
from pgt_fx.core.entries.cases import LEAST
from pgt_fx.core.node_arguments import as_nodes
from pgt_fx.core.torch_private import pytree

NOTE = "pgt_attention"
PRODUCTS = ("aten::matmul", "aten::bmm", "aten::einsum")
#: Between the two products: what works on single entries of the map, or on a row of it.
BETWEEN = {
    f"aten::{name}"
    for name in (
        *("add", "sub", "mul", "div", "where", "masked_fill", "maximum", "minimum", "clamp"),
        *("softmax", "_softmax", "dropout", "relu", "exp", "neg", "to", "_to_copy", "type_as"),
        *("float", "half", "contiguous", "clone", "nan_to_num", "tanh", "sigmoid", "square"),
    )
}
SOFTMAX = ("aten::softmax", "aten::_softmax")
#: Behind the normaliser: what gives zero for a weight of zero, whatever else it is given.
KEEPS_ZERO = {
    f"aten::{name}"
    for name in (
        *("dropout", "mul", "div", "relu", "neg", "square", "tanh", "nan_to_num"),
        *("to", "_to_copy", "type_as", "float", "half", "contiguous", "clone"),
    )
}
#: Of the map they read its sizes alone.
LIKE = ("aten::zeros_like", "aten::ones_like", "aten::full_like")


@dataclass(frozen=True)
class Attention:
    """One attention of the graph.

    Attributes:
        product: the node that makes the map (rows: queries), or the whole attention.
        sums: the nodes that sum the values by the map.
        normaliser: the softmax between them, None where there is none.
        between: the nodes from the product to the sums.
        constants: evaluates what depends on the number of frames alone.
    """

    product: fx.Node
    sums: tuple[fx.Node, ...] = ()
    normaliser: fx.Node | None = None
    between: tuple[fx.Node, ...] = ()
    constants: Constants | None = field(default=None, repr=False, compare=False)

    def band(self, rows: int, columns: int, *, normalised: bool = False) -> Band:
        """What the mask lets through, proven (:mod:`pgt_fx.capture.attention.mask_reach`).

        Args:
            rows, columns: entries per frame along both sides of the map.
            normalised: up to the normaliser, whatever comes after it.
        """
        if self.constants is None:
            return Band()
        asked = (self.product, rows, columns, normalised)
        known = self.constants.bands
        if asked not in known:  # of each of its operators
            known[asked] = self.constants.fact(lambda: self._band(rows, columns, normalised))
        return known[asked]

    def _band(self, rows: int, columns: int, normalised: bool) -> Band:
        if schema_name(self.product) != "aten::scaled_dot_product_attention" and not (
            normalised or self.opened is None
        ):
            return Band()
        found = [read_band(self._known, one, rows, columns) for one in self._maps()]
        if not found or not all(band.causal for band in found):
            return Band()
        windows = [band.window for band in found]
        return Band(True, None if None in windows else max(w for w in windows if w is not None))

    def _maps(self) -> list[Map]:
        """The map up to where it is normalised, or each one by which values are summed as it is."""
        between = frozenset(self.between)
        if schema_name(self.product) == "aten::scaled_dot_product_attention":
            return [Map(self.product, between, None)]
        if self.normaliser is not None:
            scores = self.normaliser.args[0]
            return [Map(self.product, between, scores)] if isinstance(scores, fx.Node) else []
        known = {self.product, *self.between}
        given = dict.fromkeys(n for s in self.sums for n in s.all_input_nodes if n in known)
        return [Map(self.product, between, one, weights=True) for one in given]

    @property
    def _known(self) -> Constants:
        if self.constants is None:
            raise NotConstant("nothing is known of what depends on the number of frames")
        return self.constants

    @property
    def low(self) -> float | None:
        """A low number that is not low enough to hide: of those on the way to the map the least."""
        found: list[float] = []
        known = [self.product, *self.between]
        queue, seen = list(known), set()
        while queue:
            node = queue.pop()
            if node in seen or not (node in known or self._known.free(node)):
                continue
            seen.add(node)
            leaves = pytree.tree_leaves((node.args, node.kwargs))
            found += [x for x in leaves if isinstance(x, (int, float)) and -LEAST < x <= -100]
            queue += node.all_input_nodes
        return min(found, default=None)

    @property
    def opened(self) -> fx.Node | None:
        """The first operator that may give weight to what the normaliser gives none."""
        if self.normaliser is None or self.constants is None:
            return None
        still: set[fx.Node | None] = {self.normaliser}
        given = {n for s in self.sums for n in s.all_input_nodes}
        for node in sorted({*self.between, *self.sums}):  # nodes sort by their place in the graph
            if node in self.between and self._keeps(node, still):
                still.add(node)
            elif node in self.between and still & set(node.all_input_nodes):
                return node
            elif node in self.sums and not still & set(node.all_input_nodes):
                return node  # of the map itself
        return self.product if self.product in given else None

    def _keeps(self, node: fx.Node, still: set[fx.Node | None]) -> bool:
        """Whether one operator after the normaliser has zeros where its operand has them."""
        name, arguments = schema_name(node), named(node)
        first = arguments.get("self", arguments.get("input"))
        if name == "aten::mul" and arguments["other"] in still:
            return self._no_other_map(arguments["self"])
        if name == "aten::where":
            kinds = [arguments["self"], arguments["other"]]
            return all(one in still or self._is_zero(one) for one in kinds)
        if first not in still:
            return False
        if name in ("aten::mul", "aten::div"):
            return self._no_other_map(arguments["other"])
        if name == "aten::masked_fill":
            return self._is_zero(arguments["value"])
        if name == "aten::clamp":
            low, high = arguments["min"], arguments["max"]
            bounds = [b for b in (low, high) if b is not None]
            numbers = not any(isinstance(b, fx.Node) for b in bounds)
            return numbers and (low is None or low <= 0) and (high is None or high >= 0)
        return name in KEEPS_ZERO

    def _no_other_map(self, other: Any) -> bool:
        """Whether a factor is of this map, or no map of frames of the video at all."""
        if not isinstance(other, fx.Node) or other in self.between or other is self.product:
            return True
        known = self._known
        return known.free(other) or not _is_map(known.captured, other)

    def _is_zero(self, given: Any) -> bool:
        if not isinstance(given, fx.Node):
            return bool(given == 0)
        if schema_name(given) == "aten::zeros_like":
            return True
        return self._known.fact(lambda: self._vanishes(given))

    def _vanishes(self, given: fx.Node) -> bool:
        return vanishes(self._known, given)


def note_attention(captured: Captured, tensors: Mapping[str, Tensor]) -> None:
    """Find every attention over time and note it on its nodes, under :data:`NOTE`.

    Args:
        tensors: parameters and buffers of the model, by attribute path.
    """
    split_products(captured)
    captured.values = constants = Constants(captured, tensors)
    for node in captured.graph.nodes:
        name = schema_name(node)
        if name == "aten::scaled_dot_product_attention":
            node.meta[NOTE] = Attention(node, (node,), None, (), constants)
        elif name in PRODUCTS and _is_map(captured, node) and not constants.free(node):
            found = _follow(captured, node, constants)
            if found is not None:
                for one in (node, *found.sums, *found.between):
                    one.meta[NOTE] = found


def split_products(captured: Captured) -> None:
    """``baddbmm(m, a, b)`` with a map of frames is ``m + bmm(a, b)``: attention with a mask."""
    for node in list(captured.graph.nodes):
        if schema_name(node) != "aten::baddbmm" or not _is_map(captured, node):
            continue
        arguments = named(node)
        if arguments["beta"] != 1 or arguments["alpha"] != 1:
            continue
        left, right = arguments["batch1"], arguments["batch2"]
        with captured.graph.inserting_before(node):
            product = captured.graph.call_function(torch.ops.aten.bmm.default, (left, right))
            total = captured.graph.call_function(
                torch.ops.aten.add.Tensor, (product, arguments["self"])
            )
        product.meta, total.meta = dict(node.meta), dict(node.meta)
        node.replace_all_uses_with(total)
        captured.graph.erase_node(node)


def _is_map(captured: Captured, node: fx.Node) -> bool:
    """Whether the last two axes of a product both depend on the number of frames."""
    value = node.meta.get("val")
    return (
        isinstance(value, Tensor)
        and value.dim() >= 2
        and all(captured.has_time(s) for s in value.shape[-2:])
    )


def _follow(captured: Captured, product: fx.Node, constants: Constants) -> Attention | None:
    """From a map to the products that sum over its columns."""
    between: list[fx.Node] = []
    sums: list[fx.Node] = []
    normaliser = None
    queue = [product]
    while queue:
        node = queue.pop()
        for user in node.users:
            name = schema_name(user)
            extremum = name in ("aten::max", "aten::min") and "other" in named(user)
            if (name in BETWEEN or extremum) and _same_map(node, user):
                if name in SOFTMAX:
                    rank = user.meta["val"].dim()
                    if normaliser is not None or user.args[1] not in (-1, rank - 1):
                        return None
                    normaliser = user
                if user not in between:
                    between.append(user)
                    queue.append(user)
            elif name in PRODUCTS and sums_over_columns(node, user):
                sums.append(user)
            elif name not in LIKE:
                return None  # the map itself is looked at
    if not sums:
        return None
    return Attention(product, tuple(sums), normaliser, tuple(between), constants)


def _same_map(node: fx.Node, user: fx.Node) -> bool:
    value = user.meta.get("val")
    return isinstance(value, Tensor) and _text(value.shape[-2:]) == _text(
        node.meta["val"].shape[-2:]
    )


def _text(sizes: Any) -> list[str]:
    return [str(s) for s in sizes]


def sums_over_columns(weights: fx.Node, product: fx.Node) -> bool:
    """Whether a product contracts the last axis of a map with the frames of another operand."""
    if schema_name(product) != "aten::einsum":
        return product.args[0] is weights and product.args[1] is not weights
    equation, operands = product.args[0], as_nodes(product.args[1])
    if "->" not in str(equation) or "." in str(equation) or operands.count(weights) != 1:
        return False
    terms, result = str(equation).replace(" ", "").split("->")
    term = terms.split(",")[operands.index(weights)]
    return term[-1] not in result and len(operands) == 2
