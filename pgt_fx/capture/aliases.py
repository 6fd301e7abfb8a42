"""Which values of a capture share memory: what is written in place may be read through another.

The capture hands the result of ``y.relu_()`` to all later readers of ``y``. A view of ``y`` that
was taken before, or what ``y`` is a view of, still shows what was there.
"""

from __future__ import annotations

import operator
from collections import defaultdict
from typing import Any

from torch import Tensor, fx

from pgt_fx.capture.schema import schema_name

#: Give their argument itself, which the capture sees, or a copy.
COPIES = {f"aten::{name}" for name in ("contiguous", "to", "lift_fresh")}
#: Views that take a tensor apart: two pieces share nothing.
PARTS = {
    f"aten::{name}" for name in ("split", "chunk", "unbind", "split_with_sizes", "tensor_split")
}
_END = 2**62


class Aliases:
    """The values of a graph by the tensor that has their memory."""

    def __init__(self, graph: fx.Graph) -> None:
        self._order = {node: i for i, node in enumerate(graph.nodes)}
        self._families: dict[fx.Node, list[list[fx.Node]]] = defaultdict(list)
        for node in graph.nodes:
            ways = _ways(node)
            self._families[ways[-1]].append([node, *ways])

    def read_after(self, writer: fx.Node, target: fx.Node) -> bool:
        """Whether what ``writer`` writes, as ``target``, is read after it by another name."""
        mine, now = _ways(target), self._order[writer]
        for other, *ways in self._families[mine[-1]]:
            if other is target or self._order[other] > now:
                continue
            late = any(self._order[user] > now for user in other.users)
            if late and _overlap(mine, ways):
                return True
        return False


def _ways(node: fx.Node) -> list[fx.Node]:
    """The node and what it is a view of, up to the tensor that has the memory; those that show all
    of what they are views of are left out."""
    out = [node]
    while (source := _source(out[-1])) is not None:
        if _whole(out[-1]):
            out.pop()
        out.append(source)
    return out


def _source(node: fx.Node) -> fx.Node | None:
    """What a node is a view of, or a part of."""
    source = node.args[0] if node.args else None
    if not isinstance(source, fx.Node):
        return None
    if node.target is operator.getitem:
        return source if schema_name(source) in PARTS else None
    return source if _is_view(node) else None


def _is_view(node: fx.Node) -> bool:
    """By its schema: ``-> Tensor(a)``, where one that writes has ``Tensor(a!)``."""
    returns = getattr(getattr(node.target, "_schema", None), "returns", ())
    alias = returns[0].alias_info if returns else None
    return alias is not None and not alias.is_write and schema_name(node) not in COPIES


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


def _whole(node: fx.Node) -> bool:
    name = schema_name(node)
    if name in ("aten::alias", "aten::detach"):
        return True
    found = _range(node)
    return name == "aten::slice" and found is not None and found[1] == 0 and found[2] >= _END


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
