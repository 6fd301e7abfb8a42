"""Tables of pairs: entry (r, c) of a mask or bias as a function of two positions of the video.

A table that the model makes from the number of frames has an axis of queries, one of keys, or both.
Followed back through its operators, each operand's axes are those of the result: what is left are
counters (``arange``), constants and tables of a fixed size that are cut to the length. Any part of
these can be computed by its positions, so that an entry is the same in a longer video. An operator
for which this does not hold (a sum over the frames, a length that is no size) is named.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx

from pgt_fx.capture.captured import Captured
from pgt_fx.capture.guards.symbolic_sizes import SYMBOLIC
from pgt_fx.capture.schema import named, schema_name
from pgt_fx.core.node_arguments import as_node
from pgt_fx.core.torch_private import OpOverload

#: Axes of a table: "row" of positions of queries, "column" of keys, None for any other.
Roles = tuple[str | None, ...]
ROW, COLUMN = "row", "column"

ELEMENTWISE = {
    *("relu", "hardtanh", "sigmoid", "gelu", "silu", "tanh", "softplus", "exp", "expm1", "exp2"),
    *("log", "log1p", "log2", "log10", "sqrt", "rsqrt", "abs", "neg", "sign", "sgn", "sin"),
    *("cos", "tan", "atan", "square", "reciprocal", "clamp", "clamp_min", "clamp_max", "erf"),
    *("round", "floor", "ceil", "trunc", "frac", "nan_to_num", "logical_not", "bitwise_not"),
    *("isnan", "isinf", "isneginf", "isposinf", "isfinite", "clone", "contiguous", "detach"),
    *("alias", "lift_fresh", "lift_fresh_copy", "to", "_to_copy", "float", "half", "double"),
    *("bool", "int", "long", "zeros_like", "ones_like", "full_like", "positive", "zero"),
    *("type_as", "fill", "copy", "add", "sub", "subtract", "rsub", "mul", "multiply", "div"),
    *("divide", "true_divide", "floor_divide", "remainder", "fmod", "pow", "maximum", "minimum"),
    *("fmax", "fmin", "atan2", "where", "lerp", "addcmul", "addcdiv", "eq", "ne", "lt", "le"),
    *("gt", "ge", "not_equal", "less", "less_equal", "greater", "greater_equal", "logical_and"),
    *("logical_or", "logical_xor", "bitwise_and", "bitwise_or", "bitwise_xor", "__and__"),
    *("__or__", "__xor__", "bitwise_left_shift", "bitwise_right_shift", "__lshift__"),
    *("__rshift__", "masked_fill", "logaddexp", "heaviside", "hypot", "copysign", "xlogy"),
}
FILLED = {"full", "zeros", "ones", "new_full", "new_zeros", "new_ones"}
VIEWS = {"view", "reshape", "_unsafe_view", "unsqueeze", "squeeze", "flatten", "unflatten"}
SPREAD = {"expand", "expand_as", "broadcast_to"}
REDUCED = {"sum", "mean", "any", "all", "amax", "amin", "prod", "norm", "linalg_vector_norm"}
JOINED = {"cat", "concat", "concatenate", "stack"}
PRODUCTS = {"matmul", "mm", "bmm"}


class NotPairs(Exception):
    """The entries of a table can't be made at the positions of a step; says why and what to do."""

    def __init__(self, reason: str, remedy: str = "") -> None:
        super().__init__(reason)
        self.remedy = remedy or "make the table of the frames' positions by elementwise operators"


@dataclass(frozen=True)
class Entry:
    """How the entries of a node are made of those of its operands.

    Attributes:
        kind: "whole" (no positions), "counter", "filled", "identity", "view", "cut", "each" (an
            elementwise operator), "triangle", "lookup" or "mixed" (of several entries along axes
            without positions).
        operands: with their roles, by argument: a node may stand there in two roles.
        facts: of a counter its start and step; of a cut the dimension, start and step; of a
            triangle its diagonal and whether it is the upper one.
        limit: entries along time that a cut can give at most.
    """

    kind: str
    operands: tuple[tuple[fx.Node, Roles], ...] = ()
    facts: tuple[Any, ...] = ()
    limit: int | None = None


@dataclass
class Pairs:
    """Reads how tables are made in one captured graph."""

    captured: Captured
    _timed: dict[fx.Node, bool] = field(default_factory=dict)

    def timed(self, node: fx.Node) -> bool:
        """Whether a node is calculated from the number of frames."""
        if node not in self._timed:
            if isinstance(node.meta.get("val"), (int, float, *SYMBOLIC)):
                self._timed[node] = bool(node.meta.get("pgt_time"))
            else:
                self._timed[node] = any(map(self.timed, node.all_input_nodes))
        return self._timed[node]

    def entry(self, node: fx.Node, roles: Roles) -> Entry:
        """How a node's entries are made.

        Raises:
            NotPairs: where they can't be made at given positions.
        """
        value = node.meta.get("val")
        overload = isinstance(node.target, OpOverload)
        if not isinstance(value, Tensor) or not (overload or node.op == "placeholder"):
            raise NotPairs("makes several tensors, or none, with one entry per frame")
        if not self.timed(node):
            if any(roles):
                raise NotPairs("has an axis of a fixed size beside the frames of the video")
            return Entry("whole")
        for size, role in zip(value.shape, roles, strict=True):
            if self.captured.has_time(size) != (role is not None):
                raise NotPairs("has an axis along time that is neither that of queries nor of keys")
        name = schema_name(node).removeprefix("aten::")
        args = named(node)
        if name == "arange":
            return self._counter(args)
        if name in FILLED:
            return Entry("filled", facts=(self._fill(name, args),))
        if name in ("zeros_like", "ones_like", "full_like", "zero"):
            return Entry("filled", facts=(self._fill(name.removesuffix("_like"), args),))
        if name == "fill":
            if not isinstance(args["value"], fx.Node):
                return Entry("filled", facts=(args["value"],))
            return Entry("spread", ((args["value"], ()),))
        if name == "eye":
            return Entry("identity")
        if name in ("select_scatter", "slice_scatter", "diagonal_scatter"):
            return self._written(name, args, roles)
        if name == "slice":
            return self._slice(value, args, roles)
        if name in ("tril", "triu"):
            if set(roles[-2:]) != {ROW, COLUMN}:
                raise NotPairs("takes a triangle of axes that are not queries and keys")
            facts = (self._number(args["diagonal"], "its diagonal"), name == "triu")
            return Entry("triangle", ((args["self"], roles),), facts)
        if name in ("index", "embedding", "index_select"):
            return self._lookup(name, args, roles)
        operands = self._operands(node, name, args, roles)
        kind = "each" if name in ELEMENTWISE or _two_operands(name, args) else "mixed"
        if name in VIEWS | SPREAD or name in (
            "permute",
            "transpose",
            "t",
            "mT",
            "numpy_T",
            "swapaxes",
            "select",
            "repeat",
        ):
            kind = "view"
        if name in JOINED:
            kind = "joined"
        return Entry(kind, operands)

    # -- made of the length --------------------------------------------------------------------

    def _counter(self, args: dict[str, Any]) -> Entry:
        start, step = (
            self._number(args.get(k, d), "its start") for k, d in (("start", 0), ("step", 1))
        )
        if start != int(start) or step != int(step):
            raise NotPairs("counts in steps that are no whole numbers", "multiply a whole counter")
        return Entry("counter", facts=(int(start), int(step)))

    def _written(self, name: str, args: dict[str, Any], roles: Roles) -> Entry:
        """A table with another one written into a part of it."""
        whole, part = args["self"], args["src"]
        if name == "diagonal_scatter":
            if args["offset"] or len(roles) != 2 or set(roles) != {ROW, COLUMN}:
                raise NotPairs("writes into a diagonal that is not that of queries and keys")
            return Entry("diagonal", ((whole, roles), (part, (ROW,))))
        dim = args["dim"] % len(roles)
        first, end = (0, None) if name == "select_scatter" else (args["start"] or 0, args["end"])
        if any(isinstance(a, fx.Node) for a in (first, end)) or args.get("step", 1) != 1:
            raise NotPairs("writes into a part of a table that depends on the size of the clip")
        if name == "slice_scatter" and roles[dim] is not None:
            sizes = [n.meta["val"].shape[dim] for n in (whole, part)]
            if str(sizes[0]) == str(sizes[1]):
                return Entry("all", ((part, roles),))
            if not isinstance(sizes[1], int) or first < 0 or end is None or end < 0:
                raise NotPairs("writes into a part of the frames that depends on their number")
            inner = tuple(None if d == dim else r for d, r in enumerate(roles))
            return Entry("written", ((whole, roles), (part, inner)), (dim, first, first + sizes[1]))
        if roles[dim] is not None:
            raise NotPairs("writes into the row of a single frame", "use torch.where")
        if name == "select_scatter":
            inner = (*roles[:dim], *roles[dim + 1 :])
            return Entry("joined", ((whole, roles), (part, inner)))
        return Entry("joined", ((whole, roles), (part, roles)))

    def _fill(self, name: str, args: dict[str, Any]) -> float:
        if name.endswith("full"):
            return self._number(args["fill_value"], "what it is filled with")
        return 1.0 if name.endswith("ones") else 0.0

    def _number(self, given: Any, what: str) -> Any:
        if isinstance(given, fx.Node):
            raise NotPairs(f"{what} is calculated from the size of the clip")
        return given

    # -- tables of a fixed size ----------------------------------------------------------------

    def _slice(self, value: Tensor, args: dict[str, Any], roles: Roles) -> Entry:
        source: fx.Node = args["self"]
        dim = args["dim"] % value.dim()
        start, step = args["start"] or 0, args["step"]
        size = source.meta["val"].shape[dim]
        if roles[dim] is None:
            if any(isinstance(a, fx.Node) for a in (start, args["end"])):
                raise NotPairs(
                    "cuts an axis at a place that is calculated from the size of the clip"
                )
            return Entry("view", ((source, roles),))
        if str(size) == str(value.shape[dim]) and start == 0 and step == 1:
            return Entry("view", ((source, roles),))  # all of it
        if self.captured.has_time(size) or isinstance(start, fx.Node) or start < 0:
            raise NotPairs(
                "cuts a table of the video's frames at a place that depends on their number, or "
                "leaves some of them out",
                "begin at the first frame",
            )
        if not isinstance(size, int):
            raise NotPairs("cuts an axis of the clip's space to the number of frames")
        inner = tuple(None if d == dim else role for d, role in enumerate(roles))
        limit = max(0, (size - start - 1) // step + 1)
        return Entry("cut", ((source, inner),), (dim, start, step), limit)

    def _lookup(self, name: str, args: dict[str, Any], roles: Roles) -> Entry:
        """Rows of a table of a fixed size, by numbers that are made of positions."""
        if name == "embedding":
            table, found, first = args["weight"], [args["indices"]], 0
        elif name == "index_select":
            table, found = args["self"], [args["index"]]
            first = args["dim"] % table.meta["val"].dim()
        else:
            table = args["self"]
            at = [d for d, i in enumerate(args["indices"]) if i is not None]
            found, first = [args["indices"][d] for d in at], at[0]
            if at != list(range(first, first + len(at))):
                raise NotPairs("takes entries by several indices that are not side by side")
        if self.timed(table):
            raise NotPairs("takes entries of a table that is itself made from the number of frames")
        if any(i.meta["val"].dtype is torch.bool for i in found):
            raise NotPairs("takes entries by a mask: how many depends on what it holds")
        rank = max(i.meta["val"].dim() for i in found)
        inner = roles[first : first + rank]
        if any(roles[:first]) or any(roles[first + rank :]):
            raise NotPairs("takes whole rows of a table along time")
        plain = (None,) * table.meta["val"].dim()
        return Entry("lookup", ((table, plain), *((i, self._beside(i, inner)) for i in found)))

    # -- made of other tables ------------------------------------------------------------------

    def _operands(
        self, node: fx.Node, name: str, args: dict[str, Any], roles: Roles
    ) -> tuple[tuple[fx.Node, Roles], ...]:
        value, tensors = node.meta["val"], _tensors(node)
        if name in ELEMENTWISE or name in SPREAD or _two_operands(name, args):
            for n in node.all_input_nodes:
                if n not in tensors and n.meta.get("pgt_time") and name not in SPREAD:
                    raise NotPairs(
                        "calculates with the number of frames, so that its entries are others in a "
                        "longer video",
                        "leave the number of frames out of it",
                    )
            return tuple((n, self._beside(n, roles)) for n in tensors)
        if name in VIEWS:
            return ((tensors[0], self._through(tensors[0].meta["val"], value, roles)),)
        if name == "repeat":
            source = tensors[0].meta["val"]
            if any(self.captured.has_time(s) for s in source.shape) and any(
                n != 1
                for n in args["repeats"][len(args["repeats"]) - source.dim() :]
                if not isinstance(n, fx.Node)
            ):
                raise NotPairs("repeats the frames of a table")
            return ((tensors[0], self._beside(tensors[0], roles)),)
        if name in ("permute", "transpose", "t", "mT", "numpy_T", "swapaxes"):
            order = list(range(value.dim()))
            if name == "numpy_T":
                order = order[::-1]
            elif name == "permute":
                order = [d % value.dim() for d in args["dims"]]
            elif value.dim() > 1:
                pair = (-2, -1) if name in ("t", "mT", "numpy_T") else (args["dim0"], args["dim1"])
                a, b = (d % value.dim() for d in pair)
                order[a], order[b] = order[b], order[a]
            inner: list[str | None] = [None] * value.dim()
            for d, source_dim in enumerate(order):
                inner[source_dim] = roles[d]
            return ((tensors[0], tuple(inner)),)
        if name == "select":
            dim = args["dim"] % (value.dim() + 1)
            self._number(args["index"], "the number of the entry that it picks")
            return ((tensors[0], (*roles[:dim], None, *roles[dim:])),)
        if name in REDUCED:
            return ((tensors[0], self._unreduced(tensors[0].meta["val"], args, roles)),)
        if name in ("cat", "concat", "concatenate"):
            if roles[args["dim"] % value.dim()] is not None:
                raise NotPairs("puts tables one after the other along time")
            return tuple((n, roles) for n in tensors)
        if name == "stack":
            dim = args["dim"] % value.dim()
            return tuple((n, (*roles[:dim], *roles[dim + 1 :])) for n in tensors)
        if name in PRODUCTS and value.dim() >= 2 and all(n.meta["val"].dim() >= 2 for n in tensors):
            left, right = as_node(node.args[0]), as_node(node.args[1])
            outer = roles[:-2]
            a = self._beside(left, (*outer, roles[-2], None))
            b = self._beside(right, (*outer, None, roles[-1]))
            return ((left, a), (right, b))
        if name == "linear" and roles[-1] is None:
            plain = [(n, (None,) * n.meta["val"].dim()) for n in tensors[1:]]
            return ((tensors[0], (*roles[:-1], None)), *plain)
        raise NotPairs(
            f"makes a table of frames by frames with {name or 'an operator'}, of which a step's "
            "part can't be made at its place in the video"
        )

    def _beside(self, node: fx.Node, roles: Roles) -> Roles:
        """Roles of an operand that is broadcast to the result's axes."""
        shape = node.meta["val"].shape
        inner = roles[len(roles) - len(shape) :]
        out = tuple(
            None if s == 1 and isinstance(s, int) else r for s, r in zip(shape, inner, strict=True)
        )
        for size, role in zip(shape, out, strict=True):
            if role is not None and not self.captured.has_time(size):
                raise NotPairs(
                    f"puts a table of {size} entries beside the frames of the video, which may be "
                    "another number",
                    "cut it to their number",
                )
        return out

    def _through(self, source: Tensor, result: Tensor, roles: Roles) -> Roles:
        """Roles in front of a view that leaves the axes along time as they are."""
        timed = tuple(ROW if self.captured.has_time(s) else None for s in source.shape)
        if _between(result.shape, roles) != _between(source.shape, timed):
            raise NotPairs("merges the frames of a table with another axis, or splits them")
        names = iter([role for role in roles if role is not None])
        return tuple(next(names) if t is not None else None for t in timed)

    def _unreduced(self, source: Tensor, args: dict[str, Any], roles: Roles) -> Roles:
        dims = args.get("dim")
        if dims is None or dims == []:
            raise NotPairs("takes all entries of a table together")
        over = {d % source.dim() for d in (dims if isinstance(dims, (list, tuple)) else [dims])}
        if any(self.captured.has_time(source.shape[d]) for d in over):
            raise NotPairs("takes the entries of all frames together, whose number is the video's")
        if args.get("keepdim"):
            return roles
        rest = iter(roles)
        return tuple(None if d in over else next(rest) for d in range(source.dim()))


def _between(shape: Sequence[Any], roles: Roles) -> list[tuple[str, int, list[str]]]:
    """The sizes along time, each with the product of the sizes before it up to the one before, and
    with those among them that are the clip's; then the rest."""
    out: list[tuple[str, int, list[str]]] = []
    product = 1
    others: list[str] = []
    for size, role in zip(shape, roles, strict=True):
        if role is not None:
            out.append((str(size), product, others))
            product, others = 1, []
        elif isinstance(size, int):
            product *= size
        else:
            others.append(str(size))
    return [*out, ("", product, others)]


def _two_operands(name: str, args: dict[str, Any]) -> bool:
    """``max`` and ``min`` of two tensors."""
    return name in ("max", "min") and isinstance(args.get("other"), fx.Node)


def _tensors(node: fx.Node) -> list[fx.Node]:
    return [n for n in node.all_input_nodes if isinstance(n.meta.get("val"), Tensor)]
