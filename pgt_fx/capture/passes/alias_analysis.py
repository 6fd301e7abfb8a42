"""Which values of a capture share memory: what is written in place may be read through another.

The capture hands the result of ``y.relu_()`` to all later readers of ``y``. A view of ``y`` that
was taken before, or what ``y`` is a view of, still shows what was there.
"""

from __future__ import annotations

import operator
from collections import defaultdict
from typing import Any

import torch
from torch import Tensor, fx

from pgt_fx.capture.schema import schema_name
from pgt_fx.core.torch_private import schema_if_any, storage_of

#: Give their argument itself or a copy of it, as the sizes (or strides) have it.
BY_SIZE = {f"aten::{name}" for name in ("contiguous", "reshape", "reshape_as", "flatten", "einsum")}
#: Views that take a tensor apart: two pieces share nothing.
PARTS = {
    f"aten::{name}" for name in ("split", "chunk", "unbind", "split_with_sizes", "tensor_split")
}
#: Where they share memory with what they are given they are that very tensor.
SAME = {
    f"aten::{name}"
    for name in (
        *("alias", "detach", "to", "_to_copy", "type_as", "contiguous", "lift_fresh", "positive"),
        *("dropout", "alpha_dropout", "feature_dropout", "feature_alpha_dropout"),
    )
}
_END = 2**62


class Aliases:
    """The values of a graph by the tensor that has their memory.

    Which values share memory is what the capture saw: its tensors without data have storages.

    Args:
        by_size: also take for shared what the capture saw copied and what is shared at other sizes:
            ``y.transpose(1, 2).contiguous()`` of one frame.
    """

    def __init__(self, graph: fx.Graph, *, by_size: bool = False) -> None:
        self._by_size, self._by_size_alone = by_size, set[fx.Node]()
        self._order = {node: i for i, node in enumerate(graph.nodes)}
        self._sources = {node: self._find(node) for node in graph.nodes}
        self._families: dict[fx.Node, list[list[fx.Node]]] = defaultdict(list)
        for node in graph.nodes:
            ways = self._ways(node)
            self._families[ways[-1]].append([node, *ways])

    def source(self, node: fx.Node) -> fx.Node | None:
        """What a node is a view of, or a part of, or what it has written into."""
        return self._sources.get(node)

    def root(self, node: fx.Node) -> fx.Node:
        """The node that made the memory of another one."""
        while (source := self.source(node)) is not None:
            node = source
        return node

    def readers(self, writer: fx.Node, target: fx.Node) -> list[fx.Node]:
        """The other names by which what ``writer`` writes, as ``target``, is read after it."""
        mine, now = self._ways(target), self._order[writer]
        return [
            other
            for other, *ways in self._families[mine[-1]]
            if other is not writer
            and self._order[other] <= now
            and any(self._order[user] > now for user in other.users)
            and _overlap(mine, ways)
        ]

    def links(self, node: fx.Node) -> list[fx.Node]:
        """The copies that by their size are none, among the values of a memory."""
        members = [other for other, *_ in self._families[self._ways(node)[-1]]]
        return [n for n in members if n in self._by_size_alone]

    def _ways(self, node: fx.Node) -> list[fx.Node]:
        """The node and what it is a view of, up to the tensor that has the memory; those that show
        all of what they are views of are left out."""
        out = [node]
        while (source := self.source(out[-1])) is not None:
            if shows_all(out[-1]):
                out.pop()
            out.append(source)
        return out

    def _find(self, node: fx.Node) -> fx.Node | None:
        if node.op != "call_function":
            return None
        written = written_by(node)
        if written:
            return written[0]
        mine = storages(node)
        if node.target is operator.getitem:
            (source,) = node.all_input_nodes[:1] or (None,)
            shared = source is not None and any(mine & storages(n) for n in source.all_input_nodes)
            return source if shared else None
        for operand in node.all_input_nodes:
            if mine & storages(operand):
                return operand
        if self._by_size and node.all_input_nodes and _by_size(node):
            self._by_size_alone.add(node)
            return node.all_input_nodes[0]
        return None


def written_by(node: fx.Node) -> list[fx.Node]:
    """The operands that an operator writes into, by its schema (``Tensor(a!)``)."""
    schema = schema_if_any(node.target)
    if node.op != "call_function" or schema is None or not schema.is_mutable:
        return []
    found: list[fx.Node] = []
    for position, argument in enumerate(schema.arguments):
        if argument.alias_info is None or not argument.alias_info.is_write:
            continue
        given = node.kwargs.get(argument.name)
        if position < len(node.args) and not argument.kwarg_only:
            given = node.args[position]
        items = given if isinstance(given, (list, tuple)) else [given]
        found += [item for item in items if isinstance(item, fx.Node)]
    return found


def _by_size(node: fx.Node) -> bool:
    """Whether a copy may be none at other sizes."""
    if schema_name(node) != "aten::to":
        return schema_name(node) in BY_SIZE
    before, after = node.all_input_nodes[0].meta["val"], node.meta["val"]
    formats = [x for x in (*node.args, *node.kwargs.values()) if isinstance(x, torch.memory_format)]
    return before.dtype == after.dtype and bool(formats) and True not in node.args


def storages(node: fx.Node) -> set[int]:
    """Which memory a value has, as the capture saw it."""
    value = node.meta.get("val")
    values = value if isinstance(value, (list, tuple)) else [value]
    out = set()
    for t in values:
        if isinstance(t, Tensor):
            try:
                out.add(storage_of(t))
            except (NotImplementedError, RuntimeError):  # of torch.func: a wrapper, without memory
                out.add(id(t))
    return out


def _overlap(a: list[fx.Node], b: list[fx.Node]) -> bool:
    """Whether two views of one memory may have an element in common."""
    meeting = next((n for n in a if n in b), None)
    if meeting is None:
        return False
    at_a, at_b = a.index(meeting), b.index(meeting)
    if not at_a or not at_b:
        return True
    one, two = a[at_a - 1], b[at_b - 1]
    if schema_name(meeting) in PARTS:
        return bool(one.args[1] == two.args[1])
    return not _apart(_range(one), _range(two))


def shows_all(node: fx.Node) -> bool:
    """Whether a value that shares memory with another one is that very tensor."""
    name = schema_name(node)
    if name in SAME or written_by(node):
        return True
    found = _range(node)
    each = len(node.args) < 5 or node.args[4] == 1
    return name == "aten::slice" and found is not None and found[1:] == (0, _END) and bool(each)


def _range(node: fx.Node) -> tuple[int, int, int] | None:
    """Dimension and elements of a slice or select; None where they are not known."""
    name, args = schema_name(node), list[Any](node.args)
    source = args[0].meta.get("val") if args and isinstance(args[0], fx.Node) else None
    if name not in ("aten::slice", "aten::select") or not isinstance(source, Tensor):
        return None
    dim = args[1] if len(args) > 1 else 0
    first = args[2] if len(args) > 2 else 0
    end = (args[3] if len(args) > 3 else None) if name == "aten::slice" else first
    first, end = 0 if first is None else first, _END if end is None else end
    end = _END if isinstance(end, int) and end > _END else end
    if not all(isinstance(n, int) for n in (dim, first, end)):
        return None
    size = source.shape[dim]
    if first < 0 or end < 0:
        if not isinstance(size, int):
            return None
        first, end = (n + size if n < 0 else n for n in (first, end))
    return dim % source.dim(), first, end if name == "aten::slice" else first + 1


def _apart(a: tuple[int, int, int] | None, b: tuple[int, int, int] | None) -> bool:
    if a is None or b is None or a[0] != b[0]:
        return False
    return a[2] <= b[1] or b[2] <= a[1]
