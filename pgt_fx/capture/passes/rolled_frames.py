"""A video rolled along time whose edge nothing reads is a video moved along time.

``torch.roll(x, 1, dims=2)[:, :, 1:]``: what leaves at the end comes in at the start, and is cut
off, written over or masked. Which elements of each value were made of it is followed through the
graph; where none reaches the answer the roll is a padding.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import sympy
import torch
from torch import Tensor, fx

from pgt_fx.capture.captured import Captured
from pgt_fx.capture.guards.length_guard import Condition
from pgt_fx.capture.guards.symbolic_sizes import expression
from pgt_fx.capture.observe.module_calls import place
from pgt_fx.capture.schema import named, schema_name
from pgt_fx.core.counts import counted
from pgt_fx.core.lengths.questions import at_most
from pgt_fx.core.lengths.sets import NotQuasiLinear
from pgt_fx.core.node_arguments import as_node

aten = torch.ops.aten
END = 2**63 - 1
COMPARED: dict[str, Any] = {
    "lt": lambda d: d < 0,
    "le": lambda d: d <= 0,
    "gt": lambda d: d > 0,
    "ge": lambda d: d >= 0,
    "eq": lambda d: d == 0,
    "ne": lambda d: d != 0,
}
#: What makes something of a tensor's sizes alone.
UNREAD = {"fill", "zeros_like", "ones_like", "full_like", "empty_like", "pgt_fx::marks"}
SAME = {f"aten::{n}" for n in ("to", "_to_copy", "clone", "contiguous", "bool", "expand", "detach")}


@dataclass(frozen=True)
class Edge:
    """Elements along ``dim`` that are made of the other end of the video: by their number, those
    from the end as negative ones."""

    dim: int
    at: frozenset[int]


def rolled_frames(captured: Captured, _: int) -> None:
    """Rewrite every roll along time of which nothing shows what came in at the edge.

    Before: ``%roll = aten.roll(%x, [1], [2])``, ``%y = aten.slice(%roll, 2, 1)``

    After: ``%roll = aten.pad(%x, [0, 0, 0, 0, 1, -1])``, ``%y = aten.slice(%roll, 2, 1)``
    """
    rolls = [node for node in captured.graph.nodes if schema_name(node) == "aten::roll"]
    if rolls:
        captured.graph.eliminate_dead_code()  # what is written over is read by nothing
    for node in rolls:
        if node.users:
            _rewrite(captured, node)


def _rewrite(captured: Captured, node: fx.Node) -> None:
    x, given = as_node(node.args[0]), named(node)
    shape, rank = x.meta["val"].shape, x.meta["val"].dim()
    shifts, dims = list(given["shifts"]), [d % rank for d in given["dims"] or ()]
    timed = [i for i, d in enumerate(dims) if captured.has_time(shape[d])]
    if len(timed) != 1 or not isinstance(shifts[timed[0]], int) or not shifts[timed[0]]:
        return
    by, dim = shifts.pop(timed[0]), dims.pop(timed[0])
    edge = range(by) if by > 0 else range(by, 0)
    if not _Shown(captured).hidden(node, Edge(dim, frozenset(edge))):
        return
    try:
        enough = ~at_most(captured.sizes.function(shape[dim]), abs(by) - 1)
    except NotQuasiLinear:
        return
    where, text = place(node), f"rolls by {counted(abs(by), 'frame')}"
    lengths = captured.lengths.within(Condition(enough, where.source, where.line, text))
    if lengths.numbers.is_empty:
        return
    captured.lengths = lengths
    if dims:
        with captured.graph.inserting_before(node):
            rest = captured.graph.call_function(aten.roll.default, (x, shifts, dims))
        rest.meta, x = {**node.meta}, rest
    node.target, node.kwargs = aten.pad.default, {}
    node.args = (x, [0, 0] * (rank - 1 - dim) + [by, -by], "constant", 0.0)
    _uncut(node, x, dim, by)


def _uncut(node: fx.Node, x: fx.Node, dim: int, by: int) -> None:
    """Take from the video itself what is left of it after a shift by ``by``."""
    for user in list(node.users):
        if schema_name(user) != "aten::slice":
            continue
        given = named(user)
        first, end = given["start"] or 0, END if given["end"] is None else given["end"]
        if (first, end, given["step"]) == (0, END, 1):
            _uncut(user, x, dim, by)
        elif (given["dim"] % x.meta["val"].dim(), given["step"]) == (dim, 1) and (
            first,
            end,
        ) == ((by, END) if by > 0 else (0, by)):
            user.args, user.kwargs = (x, dim, *((0, -by) if by > 0 else (-by, END))), {}


class _Shown:
    """Follows the elements of an edge through a graph."""

    def __init__(self, captured: Captured) -> None:
        self.captured = captured
        self.edges: dict[fx.Node, Edge] = {}

    def hidden(self, roll: fx.Node, edge: Edge) -> bool:
        """Whether nothing that leaves the graph is made of them."""
        self.edges = {roll: edge}
        for node in self.captured.graph.nodes:
            read = [n for n in node.all_input_nodes if n in self.edges]
            if node is roll or not read or schema_name(node) == "aten::sym_size":
                continue
            found = None if node.op != "call_function" else self._through(node)
            if found is None:
                return False
            if found.at:
                self.edges[node] = found
        return True

    def _through(self, node: fx.Node) -> Edge | None:
        """The elements of a result that are made of them; None where it can't be determined."""
        name = schema_name(node).removeprefix("aten::")
        x: Any = node.args[0] if node.args and isinstance(node.args[0], fx.Node) else None
        edge = self.edges.get(x) if x is not None else None
        if name == "slice" and edge is not None:
            return self._sliced(edge, named(node), node)
        if name == "select" and edge is not None:
            dim, index = named(node)["dim"] % x.meta["val"].dim(), named(node)["index"]
            if dim == edge.dim:
                clean = isinstance(index, int) and (index >= 0) == all(i >= 0 for i in edge.at)
                return Edge(0, frozenset()) if clean and index not in edge.at else None
            return Edge(edge.dim - (dim < edge.dim), edge.at)
        if name == "unsqueeze" and edge is not None:
            dim = named(node)["dim"] % node.meta["val"].dim()
            return Edge(edge.dim + (dim <= edge.dim), edge.at)
        if name in ("transpose", "permute") and edge is not None:
            return self._turned(name, edge, node)
        if name in ("cat", "concat") or (name == "slice_scatter" and self._off_time(node)):
            return self._side_by_side(node, name)
        if name in UNREAD:
            return Edge(0, frozenset())
        if torch.Tag.pointwise in getattr(node.target, "tags", ()) or name in ("copy", "clone"):
            return self._elementwise(node, name)
        return None

    def _sliced(self, edge: Edge, given: dict[str, Any], node: fx.Node) -> Edge | None:
        x = as_node(node.args[0])
        rank = x.meta["val"].dim()
        first, end, step = given["start"] or 0, given["end"], given["step"]
        if given["dim"] % rank != edge.dim:
            return edge
        length = x.meta["val"].shape[edge.dim]
        if isinstance(end, fx.Node):
            cut = self.captured.sizes.cut_from_end(end.meta["val"], length)
            end = None if cut is None else -cut or None
            if cut is None:
                return None
        end = None if isinstance(end, int) and end >= 2**31 else end
        if step != 1 or not isinstance(first, int) or first < 0:
            return None
        out = set()
        for i in edge.at:
            if i >= 0 and i >= first:
                out.add(i - first)
            elif i < 0 and (end is None or end >= 0):
                out.add(i)  # also where there are so few elements that the bound is the end
            elif i < 0 and end is not None and i < end:
                out.add(i - end)
        return Edge(edge.dim, frozenset(out))

    @staticmethod
    def _turned(name: str, edge: Edge, node: fx.Node) -> Edge:
        order = list(range(node.meta["val"].dim()))
        given: Any = node.args[1:]
        if name == "permute":
            order = [d % len(order) for d in given[0]]
        else:
            a, b = (d % len(order) for d in given[:2])
            order[a], order[b] = order[b], order[a]
        return Edge(order.index(edge.dim), edge.at)

    def _off_time(self, node: fx.Node) -> bool:
        x = as_node(node.args[0])
        return not self.captured.has_time(x.meta["val"].shape[named(node)["dim"]])

    def _side_by_side(self, node: fx.Node, name: str) -> Edge | None:
        edges = [self.edges[n] for n in node.all_input_nodes if n in self.edges]
        dim = named(node)["dim"] % node.meta["val"].dim()
        if len({e.dim for e in edges}) != 1 or edges[0].dim == dim:
            return None
        return Edge(edges[0].dim, frozenset().union(*(e.at for e in edges)))

    def _elementwise(self, node: fx.Node, name: str) -> Edge | None:
        rank = node.meta["val"].dim()
        found: set[int] = set()
        dims = set()
        for operand in node.all_input_nodes:
            edge = self.edges.get(operand)
            if edge is None or (name == "copy" and operand is not node.args[1]):
                continue
            dim = edge.dim + rank - operand.meta["val"].dim()
            dims.add(dim)
            found |= {i for i in edge.at if not self._masked(node, name, operand, i, dim - rank)}
        if len(dims) > 1:
            return None
        return Edge(dims.pop() if dims else 0, frozenset(found))

    def _masked(self, node: fx.Node, name: str, operand: fx.Node, i: int, dim: int) -> bool:
        """Whether element ``i`` of an operand is not read there."""
        args = node.args
        if name == "masked_fill":
            return operand is args[0] is not args[1] and self._entry(args[1], i, dim) == 1
        if name == "where" and len(args) == 3 and operand is not args[0] and args[1] is not args[2]:
            return self._entry(args[0], i, dim) == (0 if operand is args[1] else 1)
        if name == "mul":
            other = args[1] if operand is args[0] else args[0]
            return other is not operand and self._entry(other, i, dim) == 0
        return False

    # -- entries of a table ----------------------------------------------------------------------

    def _entry(self, node: Any, i: int, dim: int) -> Any:
        """Element ``i`` along time of a table that is made of the number of frames, as an
        expression; None where it can't be determined.

        Args:
            dim: of time, from the end.
        """
        if not isinstance(node, fx.Node):
            return sympy.nsimplify(node) if isinstance(node, (int, float)) else None
        value, name = node.meta.get("val"), schema_name(node)
        if not isinstance(value, Tensor):
            return expression(value) if isinstance(value, (int, torch.SymInt)) else None
        short = name.removeprefix("aten::")
        if short in ("ones", "ones_like", "zeros", "zeros_like"):
            return expression(int("ones" in short))
        if short == "arange":
            return self._counted(node, value, i, dim)
        if name in SAME:
            return self._entry(node.args[0], i, dim)
        if short == "unsqueeze":
            at = named(node)["dim"] % value.dim() - value.dim()
            return None if at == dim else self._entry(node.args[0], i, dim + (at > dim))
        if short == "slice":
            whole = not node.args[2:3] or not node.args[2]
            end = node.args[3] if len(node.args) > 3 else None
            whole = whole and (end is None or (isinstance(end, int) and end >= 2**31))
            return self._entry(node.args[0], i, dim) if whole and len(node.args) < 5 else None
        if short in ("pad", "constant_pad_nd"):
            return self._followed(node, i, dim)
        return self._calculated(node, short, i, dim)

    def _counted(self, node: fx.Node, value: Tensor, i: int, dim: int) -> Any:
        given = named(node)
        plain = given.get("start", 0) == 0 and given.get("step", 1) == 1
        if not plain or dim != -1:
            return None
        return expression(i) if i >= 0 else expression(value.shape[0]) + i

    def _followed(self, node: fx.Node, i: int, dim: int) -> Any:
        """Of ``pad(marks(x), (-k, k))``: whether k elements come after it."""
        source: Any
        amounts: Any
        source, amounts = node.args[:2]
        left, right = amounts[2 * (-1 - dim) : 2 * (-1 - dim) + 2]
        if schema_name(source) != "pgt_fx::marks" or left != -right or right < 0 or i >= 0:
            return None
        return expression(int(right < -i))

    def _calculated(self, node: fx.Node, name: str, i: int, dim: int) -> Any:
        values = [self._entry(a, i, dim) for a in node.args[:3]]
        if name in COMPARED and None not in values[:2]:
            return self._truth(name, values[0] - values[1])
        if name in ("add", "sub") and None not in values[:2] and len(node.args) == 2:
            return values[0] + values[1] if name == "add" else values[0] - values[1]
        if name in ("logical_not", "bitwise_not") and values[0] in (0, 1):
            return expression(int(values[0] == 0))
        if name in ("logical_and", "bitwise_and", "logical_or", "bitwise_or"):
            decides = 0 if "and" in name else 1
            if decides in values[:2]:
                return expression(decides)
            return expression(1 - decides) if values[:2] == [1 - decides] * 2 else None
        if name == "masked_fill" and values[1] in (0, 1):
            return values[2] if values[1] == 1 else values[0]
        return None

    def _truth(self, name: str, difference: Any) -> Any:
        """A comparison whose answer is the same for all videos."""
        if difference.is_number:
            return expression(int(bool(COMPARED[name](difference))))
        try:
            function = self.captured.sizes.reader.function(difference)
        except NotQuasiLinear:
            return None
        lengths = self.captured.sizes.lengths
        above = (lengths & at_most(function, 0)).is_empty
        below = (lengths & at_most(0, function)).is_empty
        if above or below:
            return expression(int(COMPARED[name](math.inf if above else -math.inf)))
        return None
