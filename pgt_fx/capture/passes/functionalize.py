"""Functionalize: writes in place become out of place. ``pe[:, 0::2] = sin(a)`` makes a new ``pe``.

What is read after a write shows it, by whatever name it is read: where a tensor is written into
through a view, or a view of it is read again, every later reader is given what the memory then
holds. So nothing that is computed from the operands of the graph's nodes (tables, masks,
constants) misses a write.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, fx

from pgt_fx.capture.captured import Captured
from pgt_fx.capture.passes.alias_analysis import PARTS, Aliases, shows_all, written_by
from pgt_fx.capture.passes.buffer_writes import refuse_kept
from pgt_fx.capture.passes.conditional_copies import hold_to_copies
from pgt_fx.capture.schema import schema_name
from pgt_fx.core.errors import Refusal
from pgt_fx.core.node_arguments import as_number, as_numbers, function_of
from pgt_fx.core.torch_private import overload_name, overloads_beside, schema_of

aten = torch.ops.aten
#: ``meta`` of a node that is not to be run inside a call of its module, which would write. Where
#: its value is a Refusal, the analysis stops there.
WRITTEN = "pgt_written"
#: Give a truth value, and a number when they work in place.
TRUTHS = ["eq", "ne", "lt", "le", "gt", "ge"]
TRUTHS += [f"logical_{n}" for n in ("and", "or", "xor", "not")]
#: Copies, of which a step may hand on the operand itself.
HANDS_ON = {f"aten::{n}" for n in ("pad", "constant_pad_nd", "cat", "concat", "concatenate")}
HANDS_ON |= {"pgt_fx::clip_table", "pgt_fx::expand_rows"}
SHAPES = [f"aten::{n}" for n in ("view", "reshape", "flatten", "unflatten", "_unsafe_view")]
SWAPS = [f"aten::{n}" for n in ("transpose", "swapaxes", "swapdims", "t")]
#: Views that can be written through.
VIEWS = {"aten::slice", "aten::select", "aten::diagonal", "aten::unsqueeze", "aten::squeeze"}
VIEWS |= {
    "aten::narrow",
    "aten::movedim",
    "aten::permute",
    "aten::mT",
    "aten::numpy_T",
    *SWAPS,
    *SHAPES,
}


def functionalize(captured: Captured, clip: int) -> None:
    """``relu_`` becomes ``relu``, and so does ``out=``: the capture already lets later readers use
    its result. Where the memory is read by another name after it, that one's value is made anew.

    Writes into the model's own buffers stay: they are meant, or refused.

    Before::

        %view = aten.slice(%pe, 1, 0, 9223372036854775807, 2)
        %copy_ = aten.copy_(%view, %sin)                  # pe[:, 0::2] = sin(a)
        %add = aten.add(%x, %pe)

    After::

        %pe_1 = aten.slice_scatter(%pe, %sin, 1, 0, 9223372036854775807, 2)
        %add = aten.add(%x, %pe_1)

    Args:
        clip: frames of the example.
    """
    graph = captured.graph
    own = captured.tensors.keys() | captured.constants.keys()
    aliases, by_size = Aliases(graph), Aliases(graph, by_size=True)
    shared: set[fx.Node] = set()
    alone: list[fx.Node] = []
    for node in graph.nodes:
        targets = written_by(node)
        roots = [aliases.root(target) for target in targets]
        if not targets or any(root.name in own for root in roots):
            continue
        if len(targets) > 1:
            node.meta[WRITTEN] = Refusal("writes into several tensors", "write them one by one")
            continue
        (target,), (root,) = targets, roots
        read = by_size.readers(node, target)
        links = by_size.links(target) if any(aliases.root(n) is not root for n in read) else []
        if links and not hold_to_copies(captured, links, clip):
            node.meta[WRITTEN] = Refusal(
                "writes in place to a tensor that is read again, or to a copy of it: contiguous() "
                "and reshape() copy where they must, which is not for a single frame or row",
                "write it out of place: y = relu(y), or copy with clone()",
            )
        elif aliases.readers(node, target):
            shared.add(root)
        else:
            alone.append(node)
            if links or _handed_on(captured, by_size, node):
                node.meta[WRITTEN] = None
    for node in alone:
        if aliases.root(node) not in shared:
            copied = any(captured.has_time(s) for s in _sizes(node))
            users, new = list(node.users), out_of_place(node, copied)
            for user in users if new is not node else ():
                user.replace_input_with(node, new)
    _Memory(captured, aliases, shared).run()
    refuse_kept(captured, aliases)


def _handed_on(captured: Captured, aliases: Aliases, writer: fx.Node) -> bool:
    """Whether what is written may, in a step, be a tensor that is read again: what pads, or puts
    frames one after the other, hands on the frames themselves where it has none of its own."""
    queue = [aliases.root(target) for target in written_by(writer)]
    while queue:
        root = queue.pop()
        if schema_name(root) not in HANDS_ON:
            continue
        for operand in root.all_input_nodes:
            if aliases.readers(writer, operand) or operand.name in captured.tensors:
                return True
            queue.append(aliases.root(operand))
    return False


def out_of_place(node: fx.Node, copied: bool = True) -> fx.Node:
    """Let an operator that writes give what it would have written; the node that has it.

    Args:
        copied: one that has no other form writes into a copy that nothing else reads.
    """
    (target,) = written_by(node)
    value = target.meta["val"]
    found = functional_form(node)
    if found is not None:
        types = {n.meta["val"].dtype for n in node.all_input_nodes if _is_tensor(n)}
        cast = len(types) > 1 or schema_of(found).name.removeprefix("aten::") in TRUTHS
        node.target = found
        node.kwargs = {k: v for k, v in node.kwargs.items() if k != "out"}
        return _as(node, value.dtype) if cast else node
    if copied:
        with node.graph.inserting_before(node):
            copy = node.graph.call_function(aten.clone.default, (target,))
        copy.meta = {**node.meta, "val": value}
        node.replace_input_with(target, copy)
    return node


def _is_tensor(node: fx.Node) -> bool:
    return isinstance(node.meta.get("val"), Tensor)


def functional_form(node: fx.Node) -> Any:
    """The operator that gives what this one writes; None where there is none."""
    target: Any = node.target
    schema = schema_of(target)
    name = schema.name.removeprefix("aten::")
    if "out" not in node.kwargs:
        packet = getattr(aten, name[:-1], None) if name.endswith("_") else None
        return getattr(packet, overload_name(target), None)
    wanted = [(a.name, str(a.type)) for a in schema.arguments if a.name != "out"]
    for found in overloads_beside(target):
        given = [(a.name, str(a.type)) for a in schema_of(found).arguments]
        if given[: len(wanted)] == wanted and not schema_of(found).is_mutable:
            return found
    return None


def _as(node: fx.Node, dtype: torch.dtype) -> fx.Node:
    """What is written gets the type of what it is written into."""
    args, kwargs = fx.map_arg((node.args, node.kwargs), lambda n: n.meta["val"])
    with torch.no_grad():
        node.meta = {**node.meta, "val": function_of(node)(*args, **kwargs)}
    if node.meta["val"].dtype == dtype:
        return node
    with node.graph.inserting_after(node):
        cast = node.graph.call_function(aten.to.dtype, (node, dtype))
    cast.meta = {**node.meta, "val": node.meta["val"].to(dtype)}
    return cast


class _Memory:
    """What the ``shared`` tensors of a graph hold while it runs."""

    def __init__(self, captured: Captured, aliases: Aliases, shared: set[fx.Node]) -> None:
        self.captured, self.graph = captured, captured.graph
        self.root: dict[fx.Node, fx.Node] = {}
        self.source: dict[fx.Node, fx.Node] = {}
        for node in self.graph.nodes:
            if aliases.root(node) in shared:
                self.root[node] = aliases.root(node)
                source = aliases.source(node)
                if source is not None:
                    self.source[node] = source
        self.same = {node for node in self.root if shows_all(node)}
        # How often each was written into, and the value of each name as of one of these writes.
        self.writes = dict.fromkeys(shared, 0)
        self.known: dict[fx.Node, tuple[int, fx.Node]] = {}
        self.viewed: dict[fx.Node, fx.Node] = {}

    def run(self) -> None:
        for node in list(self.graph.nodes):
            root = self.root.get(node)
            if root is not None and written_by(node) and not self._can_write(node):
                self._leave(root)
        for node in list(self.graph.nodes):
            for operand in node.all_input_nodes:
                if operand in self.root and schema_name(node) != "aten::sym_size":
                    now = self._now(operand, node)
                    if self.source.get(node) is operand:
                        self.viewed[node] = now
                    node.replace_input_with(operand, now)
            if node in self.root and written_by(node):
                self._write(node)
            elif node in self.root:
                self.known[node] = self.writes[self.root[node]], node

    def _can_write(self, node: fx.Node) -> bool:
        """Whether all views between the memory and what is written can be written through."""
        at: fx.Node = node
        while at in self.source:
            parts = at.target is operator.getitem and schema_name(self.source[at]) in PARTS
            if not parts and at not in self.same and schema_name(at) not in VIEWS | PARTS:
                return False
            if schema_name(at) == "aten::narrow" and any(
                isinstance(a, fx.Node) for a in at.args[2:]
            ):
                return False  # its end is a sum that no node has
            at = self.source[at]
        return WRITTEN not in node.meta

    def _leave(self, root: fx.Node) -> None:
        """Refused, for want of a way to write it."""
        for node in [n for n, r in self.root.items() if r is root]:
            if written_by(node):
                node.meta[WRITTEN] = Refusal(
                    "writes in place to memory that is read again, through a view or through what "
                    "it is a view of",
                    "write it out of place: y = relu(y), or torch.cat, torch.where or F.pad for a "
                    "part",
                )
            del self.root[node]

    def _now(self, node: fx.Node, reader: fx.Node) -> fx.Node:
        """The value of a name in front of ``reader``, made anew if its memory was written into."""
        writes = self.writes[self.root[node]]
        when, new = self.known[node]
        if when < writes:
            new = self._now(self.source[node], reader)
            if node not in self.same:
                old = self.viewed[node]
                with self.graph.inserting_before(reader):
                    again = self.graph.node_copy(node, lambda n: n)
                again.replace_input_with(old, new)
                again.meta, new = {**node.meta, WRITTEN: None}, again
            self.known[node] = writes, new
        return new

    def _write(self, node: fx.Node) -> None:
        """All of the memory with what ``node`` writes in it."""
        way, root = [node], self.root[node]
        while way[-1] in self.source:
            way.append(self.source[way[-1]])
        before = {place: self._now(place, node) for place in way[1:]}
        value = out_of_place(node)
        node.meta[WRITTEN] = value.meta[WRITTEN] = None
        self.writes[root] += 1
        following = value.next
        with self.graph.inserting_before(following):
            for place, source in pairwise(way):
                if schema_name(place) in PARTS:
                    continue
                self.known[place] = self.writes[root], value
                if schema_name(source) in PARTS:
                    value = self._joined(source, before[source], value, place.args[1], node)
                elif place not in self.same:
                    value = self._into(place, before[source], value, node)
            self.known[root] = self.writes[root], value

    def _call(self, target: Any, args: tuple[Any, ...], like: fx.Node, by: fx.Node) -> fx.Node:
        new = self.graph.call_function(target, args)
        new.meta = {**by.meta, "val": like.meta["val"], WRITTEN: None}
        return new

    def _into(self, view: fx.Node, whole: fx.Node, value: fx.Node, by: fx.Node) -> fx.Node:
        """``whole`` with ``value`` where ``view`` shows it."""
        name, args = schema_name(view), view.args[1:]
        if name in ("aten::slice", "aten::select", "aten::diagonal"):
            target = {
                "aten::slice": aten.slice_scatter.default,
                "aten::select": aten.select_scatter.default,
                "aten::diagonal": aten.diagonal_scatter.default,
            }[name]
            return self._call(target, (whole, value, *args), whole, by)
        if name == "aten::narrow":
            dim, start, length = args
            end = as_number(start) + as_number(length)
            return self._call(
                aten.slice_scatter.default, (whole, value, dim, start, end), whole, by
            )
        if name == "aten::movedim":
            return self._call(view.target, (value, args[1], args[0]), whole, by)
        if name == "aten::unsqueeze":
            return self._call(aten.squeeze.dim, (value, *args), whole, by)
        if name in SWAPS:
            dims = args or (0, 1)
            return self._call(aten.transpose.int, (value, *dims), whole, by)
        if name == "aten::mT":
            return self._call(aten.transpose.int, (value, -2, -1), whole, by)
        if name == "aten::numpy_T":
            return self._call(
                aten.permute.default, (value, [*range(len(_sizes(whole)))][::-1]), whole, by
            )
        if name == "aten::permute":
            given = as_numbers(args[0])
            order = [d % len(given) for d in given]
            back = [order.index(d) for d in range(len(order))]
            return self._call(aten.permute.default, (value, back), whole, by)
        sizes = [
            self._size(whole, d, by) if isinstance(s, torch.SymInt) else s
            for d, s in enumerate(_sizes(whole))
        ]
        return self._call(aten.reshape.default, (value, sizes), whole, by)

    def _size(self, node: fx.Node, dim: int, by: fx.Node) -> fx.Node:
        """A size: of an input if one has it, for a step makes no table whose size is read."""
        size = node.meta["val"].shape[dim]
        for given in self.graph.nodes:
            at = [d for d, s in enumerate(_sizes(given)) if str(s) == str(size)]
            if given.name in self.captured.inputs and at:
                node, dim = given, at[0]
                break
        new = self._call(aten.sym_size.int, (node, dim), node, by)
        new.meta["val"] = size
        return new

    def _joined(
        self, taken: fx.Node, parts: fx.Node, value: fx.Node, number: Any, by: fx.Node
    ) -> fx.Node:
        """All parts of a tensor that was taken apart, with ``value`` in place of one of them."""
        pieces = []
        for i, one in enumerate(taken.meta["val"]):
            new = value
            if i != number:
                new = self._call(operator.getitem, (parts, i), by, by)
                new.meta["val"] = one
            pieces.append(new)
        unbound = schema_name(taken) == "aten::unbind"
        at = taken.args[1 if unbound else 2 :]
        dim = at[0] if at else taken.kwargs.get("dim", 0)
        target = aten.stack.default if unbound else aten.cat.default
        return self._call(target, (pieces, dim), self.source[taken], by)


def _sizes(node: fx.Node) -> Sequence[Any]:
    value = node.meta.get("val")
    return value.shape if isinstance(value, Tensor) else ()
