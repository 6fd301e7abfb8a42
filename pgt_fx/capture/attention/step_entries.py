"""Tables of pairs in a step: the entries of a mask or bias at the positions of the step's queries
and keys, by the model's own operators (DESIGN §9)."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from pgt_fx.capture.attention.positions import (
    COLUMN,
    ROW,
    SPREAD,
    VIEWS,
    Entry,
    NotPairs,
    Pairs,
    Roles,
)
from pgt_fx.capture.schema import named, schema_name
from pgt_fx.core.devices import elsewhere
from pgt_fx.core.node_arguments import function_of

aten = torch.ops.aten


@dataclass(frozen=True)
class PairGraph:
    """The operators that make a table of pairs, as a function of ``(first_row, rows, first_column,
    columns, device, *inputs)``.

    Attributes:
        roles: which axes of the table are queries and keys.
        inputs: nodes of the captured graph that it is given.
        limit: entries along time of the table of a fixed size that it is cut from; None: there is
            none.
    """

    graph: fx.Graph
    roles: Roles
    inputs: tuple[fx.Node, ...]
    limit: int | None


def pair_graph(pairs: Pairs, node: fx.Node, roles: Roles) -> PairGraph:
    """Write the operators that make a table at given positions.

    Raises:
        NotPairs: where they can't be made.
    """
    return _Writer(pairs, roles).run(node)


class _Writer:
    def __init__(self, pairs: Pairs, roles: Roles) -> None:
        self.pairs, self.roles = pairs, roles
        self.graph = fx.Graph()
        names = ("first_row", "rows", "first_column", "columns")
        first_row, rows, first_column, columns = map(self.graph.placeholder, names)
        # Not "device": the printed code of a graph uses that name.
        self.device = self.graph.placeholder("on")
        self.first = {ROW: first_row, COLUMN: first_column}
        self.count = {ROW: rows, COLUMN: columns}
        self.inputs: dict[fx.Node, fx.Node] = {}
        self.made: dict[tuple[fx.Node, Roles], fx.Node] = {}
        self.limits: list[int] = []

    def run(self, node: fx.Node) -> PairGraph:
        self.graph.output(self.at(node, self.roles))
        self.graph.lint()
        limit = min(self.limits, default=None)
        return PairGraph(self.graph, self.roles, tuple(self.inputs), limit)

    def at(self, node: fx.Node, roles: Roles) -> fx.Node:
        """The node of the new graph for the entries of a captured one."""
        if (node, roles) not in self.made:
            entry = self.pairs.entry(node, roles)
            self.made[node, roles] = self._write(node, roles, entry)
        return self.made[node, roles]

    def _given(self, node: fx.Node) -> fx.Node:
        """A value without positions, which is given as it is."""
        if node.meta.get("pgt_time"):
            raise NotPairs(
                "calculates with the number of frames, so that its entries are others in a longer "
                "video",
                "leave the number of frames out of it",
            )
        if node not in self.inputs:
            with self.graph.inserting_after(self._last()):
                self.inputs[node] = self.graph.placeholder(node.name)
        return self.inputs[node]

    def _last(self) -> fx.Node:
        return [n for n in self.graph.nodes if n.op == "placeholder"][-1]

    def _call(self, target: Any, *args: Any, **kwargs: Any) -> fx.Node:
        return self.graph.call_function(target, args, kwargs)

    def _sizes(self, node: fx.Node, roles: Roles) -> list[Any]:
        """The sizes of a result in a step; those of the batch as they are given."""
        arguments, shape = named(node), node.meta["val"].shape
        given = next((arguments[k] for k in ("size", "shape", "sizes") if k in arguments), None)
        out: list[Any] = []
        for d, (size, role) in enumerate(zip(shape, roles, strict=True)):
            if role is not None or isinstance(size, int):
                out.append(size if role is None else self.count[role])
            elif isinstance(given, (list, tuple)) and len(given) == len(shape):
                out.append(self._given(given[d]) if isinstance(given[d], fx.Node) else given[d])
            else:
                raise NotPairs("makes a table of a size that is the clip's")
        return out

    def _options(self, node: fx.Node) -> dict[str, Any]:
        return {"dtype": node.meta["val"].dtype, "device": self.device}

    def _write(self, node: fx.Node, roles: Roles, entry: Entry) -> fx.Node:
        if entry.kind == "whole":
            return self._given(node)
        operands = [self.at(n, r) for n, r in entry.operands]
        if entry.kind == "all":
            return operands[-1]
        if entry.kind == "spread":
            filling = self._call(aten.to.dtype, operands[0], node.meta["val"].dtype)
            return self._call(aten.expand.default, filling, self._sizes(node, roles))
        if entry.kind == "written":
            return self._written(operands, roles, *entry.facts)
        if entry.kind == "diagonal":
            part = self._call(aten.unsqueeze.default, operands[1], 1 - roles.index(ROW))
            return self._call(aten.where.self, self._identity(roles), part, operands[0])
        if entry.kind == "counter":
            return self._counter(node, roles, *entry.facts)
        if entry.kind == "filled":
            sizes = self._sizes(node, roles)
            return self._call(aten.full.default, sizes, *entry.facts, **self._options(node))
        if entry.kind == "identity":
            equal = self._identity(roles)
            return self._call(aten.to.dtype, equal, node.meta["val"].dtype)
        if entry.kind == "cut":
            return self._cut(operands[0], roles, *entry.facts, limit=entry.limit or 0)
        if entry.kind == "triangle":
            diagonal, upper = entry.facts
            row, column = roles[-2:]
            moved = self._call(operator.sub, self.first[row or ""], self.first[column or ""])
            diagonal = self._call(operator.add, moved, diagonal)
            return self._call(
                aten.triu.default if upper else aten.tril.default, operands[0], diagonal
            )
        name = schema_name(node).removeprefix("aten::")
        if name == "slice" and roles[named(node)["dim"] % len(roles)] is not None:
            return operands[0]  # all of it
        if name in ("unsqueeze", "squeeze"):
            return self._reshaped(node, operands[0], roles)
        if name in VIEWS:
            return self._call(aten.reshape.default, operands[0], self._sizes(node, roles))
        if name in SPREAD:
            return self._call(aten.expand.default, operands[0], self._sizes(node, roles))
        if name == "repeat":
            return self._repeated(node, operands[0], roles)
        known = [n for n, _ in entry.operands]
        if len(set(known)) == len(known):
            env = dict(zip(known, operands, strict=True))
            given = (node.args, node.kwargs)
            args, kwargs = fx.map_arg(given, lambda n: env[n] if n in env else self._given(n))
        else:  # a product of a table with itself, in two roles
            args, kwargs = (*operands, *node.args[len(operands) :]), node.kwargs
        args, kwargs = elsewhere((tuple(args), kwargs), self.device)
        return self.graph.call_function(function_of(node), args, kwargs)

    def _counter(self, node: fx.Node, roles: Roles, start: int, step: int) -> fx.Node:
        (role,) = roles
        first, count = self.first[role or ""], self.count[role or ""]
        begin = self._call(operator.add, self._call(operator.mul, first, step), start)
        end = self._call(operator.add, begin, self._call(operator.mul, count, step))
        return self._call(aten.arange.start_step, begin, end, step, **self._options(node))

    def _positions(self, role: str | None) -> fx.Node:
        first, count = self.first[role or ""], self.count[role or ""]
        end = self._call(operator.add, first, count)
        return self._call(aten.arange.start_step, first, end, 1, device=self.device)

    def _identity(self, roles: Roles) -> fx.Node:
        """Where two positions are the same."""
        at = [
            self._call(aten.unsqueeze.default, self._positions(role), 1 - d)
            for d, role in enumerate(roles)
        ]
        return self._call(aten.eq.Tensor, *at)

    def _written(
        self, operands: list[fx.Node], roles: Roles, dim: int, first: int, end: int
    ) -> fx.Node:
        """The second operand at the positions from ``first`` to ``end``, else the first one."""
        at = self._positions(roles[dim])
        moved = self._call(aten.sub.Tensor, at, first)
        place = self._call(aten.clamp.default, moved, 0, end - first - 1)
        part = self._call(aten.index_select.default, operands[1], dim, place)
        after = self._call(aten.ge.Scalar, at, first)
        inside = self._call(aten.logical_and.default, after, self._call(aten.lt.Scalar, at, end))
        shape = [-1 if d == dim else 1 for d in range(len(roles))]
        inside = self._call(aten.reshape.default, inside, shape)
        return self._call(aten.where.self, inside, part, operands[0])

    def _cut(
        self, source: fx.Node, roles: Roles, dim: int, start: int, step: int, *, limit: int
    ) -> fx.Node:
        role = roles[dim] or ""
        self.limits.append(limit)
        first, count = self.first[role], self.count[role]
        begin = self._call(operator.add, self._call(operator.mul, first, step), start)
        end = self._call(operator.add, begin, self._call(operator.mul, count, step))
        return self._call(aten.slice.Tensor, source, dim, begin, end, step)

    def _reshaped(self, node: fx.Node, source: fx.Node, roles: Roles) -> fx.Node:
        """An axis of one entry more, or those that the captured operator leaves out."""
        if schema_name(node) == "aten::unsqueeze":
            return self.graph.call_function(function_of(node), (source, *node.args[1:]))
        value, before = node.meta["val"], named(node)["self"].meta["val"]
        dims = named(node).get("dim")
        if dims is None:
            dims = [d for d, s in enumerate(before.shape) if isinstance(s, int) and s == 1]
        dims = [d % before.dim() for d in (dims if isinstance(dims, (list, tuple)) else [dims])]
        dims = [d for d in dims if isinstance(before.shape[d], int) and before.shape[d] == 1]
        if value.dim() + len(dims) != before.dim():
            raise NotPairs("leaves out an axis of one entry at some sizes alone")
        return self._call(aten.squeeze.dims, source, dims)

    def _repeated(self, node: fx.Node, source: fx.Node, roles: Roles) -> fx.Node:
        """``repeat`` along axes of one entry, or along those without positions."""
        arguments = named(node)
        repeats = list(arguments["repeats"])
        before = len(repeats) - arguments["self"].meta["val"].dim()
        for d, role in enumerate(roles):
            if role is not None:
                size = arguments["self"].meta["val"].shape[d - before] if d >= before else 1
                one = isinstance(size, int) and size == 1
                repeats[d] = self.count[role] if one else 1
            elif isinstance(repeats[d], fx.Node):
                repeats[d] = self._given(repeats[d])
        return self._call(aten.repeat.default, source, repeats)
