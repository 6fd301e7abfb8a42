"""Calls along time that are short for others, decomposed into these: a difference of neighbours, a
narrowing, a split, a view like another tensor, an outer product.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from pgt_fx.capture.captured import Captured
from pgt_fx.capture.guards.length_guard import Condition
from pgt_fx.capture.guards.symbolic_sizes import expression
from pgt_fx.capture.observe.module_calls import place
from pgt_fx.capture.schema import schema_name
from pgt_fx.core.lengths.questions import at_most
from pgt_fx.core.lengths.sets import NotQuasiLinear
from pgt_fx.core.torch_private import schema_of

aten = torch.ops.aten


def expand_shorthands(captured: Captured, _: int) -> None:
    """Write them out where they are along time.

    Before: ``%diff = aten.diff(%x, 1, 2)``

    After::

        %later = aten.slice(%x, 2, 1, 9223372036854775807)
        %earlier = aten.slice(%x, 2, 0, -1)
        %diff = aten.sub(%later, %earlier)
    """
    for node in list(captured.graph.nodes):
        rewrite = _REWRITES.get(schema_name(node))
        if rewrite is not None:
            rewrite(captured, _Writer(captured.graph, node))


class _Writer:
    """Makes nodes in front of one that is to be replaced."""

    def __init__(self, graph: fx.Graph, node: fx.Node) -> None:
        self.graph, self.node = graph, node
        schema = schema_of(node.target)
        self.arg: dict[str, Any] = {a.name: a.default_value for a in schema.arguments}
        self.arg |= dict(zip(self.arg, node.args, strict=False)) | dict(node.kwargs)

    def call(self, target: Any, *args: Any) -> fx.Node:
        values = fx.map_arg(args, lambda n: n.meta["val"])
        return self.given(target, args, target(*values))

    def given(self, target: Any, args: Any, value: Tensor) -> fx.Node:
        """A call whose value in the capture is known."""
        with self.graph.inserting_before(self.node):
            new = self.graph.call_function(target, args)
        kept = {k: v for k, v in self.node.meta.items() if k in ("stack_trace", "nn_module_stack")}
        new.meta = {**kept, "val": value}
        return new

    def sum(self, a: Any, b: Any) -> Any:
        """Of two sizes, numbers or nodes."""
        if isinstance(a, fx.Node) or isinstance(b, fx.Node):
            return self.call(operator.add, a, b) if a != 0 else b
        return a + b

    def slice(self, x: fx.Node, dim: int, start: Any, end: Any) -> fx.Node:
        return self.call(aten.slice.Tensor, x, dim, start, end)

    def replaced_by(self, new: fx.Node) -> None:
        self.node.replace_all_uses_with(new)
        self.graph.erase_node(self.node)


def _along_time(captured: Captured, w: _Writer) -> int | None:
    """The dimension that a call is along, where it is time's."""
    x, dim = w.arg["self"], w.arg.get("dim")
    if not isinstance(dim, int):
        return None
    shape = x.meta["val"].shape
    dim %= len(shape)
    return dim if captured.has_time(shape[dim]) else None


def _narrow(captured: Captured, w: _Writer) -> None:
    dim, x = _along_time(captured, w), w.arg["self"]
    start, length = w.arg["start"], w.arg["length"]
    if dim is None or isinstance(_value(start), Tensor):
        return
    if isinstance(start, int) and start < 0:
        if isinstance(length, int):  # x.narrow(2, -3, 3) are the last three
            w.replaced_by(w.slice(x, dim, start, start + length or 2**63 - 1))
        return
    end = w.sum(start, length)
    if _limited(captured, w, [(0, length), (end, x.meta["val"].shape[dim])]):
        w.replaced_by(w.slice(x, dim, start, end))


def _value(size: Any) -> Any:
    return size.meta["val"] if isinstance(size, fx.Node) else size


def _limited(captured: Captured, w: _Writer, pairs: Sequence[tuple[Any, Any]]) -> bool:
    """Limit the lengths of videos to those at which one size is at most another: at others torch
    raises, and a slice does not.

    Returns:
        whether these are known.
    """
    where, lengths = place(w.node), captured.lengths
    try:
        for less, more in pairs:
            known = (captured.sizes.function(_value(n)) for n in (less, more))
            text = f"{schema_name(w.node).removeprefix('aten::')} takes what there is"
            held = at_most(*known)
            lengths = lengths.within(Condition(held, where.source, where.line, text))
    except NotQuasiLinear:
        return False
    captured.lengths = lengths
    return True


def _diff(captured: Captured, w: _Writer) -> None:
    dim, x = _along_time(captured, w), w.arg["self"]
    if dim is None or x.meta["val"].dtype == torch.bool:
        return
    parts = [w.arg.get("prepend"), x, w.arg.get("append")]
    parts = [part for part in parts if part is not None]
    x = w.call(aten.cat.default, parts, dim) if len(parts) > 1 else x
    for _ in range(int(w.arg["n"])):
        later, sooner = w.slice(x, dim, 1, 2**63 - 1), w.slice(x, dim, 0, -1)
        x = w.call(aten.sub.Tensor, later, sooner)
    w.replaced_by(x)


def _split(bounds: Callable[[Captured, _Writer], Sequence[Any] | None]) -> Any:
    def rewrite(captured: Captured, w: _Writer) -> None:
        dim = _along_time(captured, w)
        found = None if dim is None else bounds(captured, w)
        users = list(w.node.users)
        if dim is None or found is None or any(u.target is not operator.getitem for u in users):
            return
        pieces = [(start, end) for start, end in zip(found, [*found[1:], 2**63 - 1], strict=True)]
        for user in users:
            piece = w.slice(w.arg["self"], dim, *pieces[user.args[1]])  # type: ignore[index]
            user.replace_all_uses_with(piece)
            w.graph.erase_node(user)
        w.graph.erase_node(w.node)

    return rewrite


def _by_video(captured: Captured, w: _Writer) -> None:
    """``x.split(t)`` of the frames of a batch, video after video: the videos."""
    x, users = w.arg["self" if "self" in w.arg else "tensor"], list(w.node.users)
    pieces, dim = w.node.meta["val"], w.arg.get("dim", 0)
    shape = x.meta["val"].shape
    if not isinstance(dim, int) or any(u.target is not operator.getitem for u in users):
        return
    dim %= len(shape)
    rows = [node.meta["val"].shape[0] for node in clips(captured)]
    if not captured.has_time(shape[dim]) or any(str(n) != str(len(pieces)) for n in rows):
        return
    if not all(captured.sizes.same(shape[dim], p.shape[dim] * len(pieces)) for p in pieces):
        return
    videos = w.call(aten.unflatten.int, x, dim, [len(pieces), -1])
    for user in users:
        user.replace_all_uses_with(w.call(aten.select.int, videos, dim, user.args[1]))
        w.graph.erase_node(user)
    w.graph.erase_node(w.node)


def clips(captured: Captured) -> list[fx.Node]:
    """The inputs with time."""
    nodes = [n for n in captured.graph.nodes if n.op == "placeholder"]
    return [n for n in nodes if n.name in captured.inputs]


def _pieces(captured: Captured, w: _Writer) -> None:
    """``tensor_split`` at constant places, or into the videos of a batch."""
    if isinstance(w.arg.get("indices"), (list, tuple)):
        _split(_at_indices)(captured, w)
    else:
        _by_video(captured, w)


def _of_sizes(captured: Captured, w: _Writer) -> Sequence[Any] | None:
    sizes = w.arg["split_sizes"]
    if not _limited(captured, w, [(0, size) for size in sizes]):
        return None
    starts: list[Any] = [0]
    for size in sizes[:-1]:
        starts.append(w.sum(starts[-1], size))
    return starts


def _at_indices(captured: Captured, w: _Writer) -> Sequence[Any] | None:
    indices = w.arg.get("indices")
    return [0, *indices] if isinstance(indices, (list, tuple)) else None


def _like(target: Any) -> Any:
    def rewrite(captured: Captured, w: _Writer) -> None:
        x, other = w.arg["self"], w.arg["other"]
        # The operand is there whenever the view is made; the other tensor may have no frames then.
        own = {str(n): d for d, n in reversed(list(enumerate(x.meta["val"].shape)))}
        sizes: list[Any] = []
        for d, n in enumerate(other.meta["val"].shape):
            read = (x, own[str(n)]) if str(n) in own else (other, d)
            sizes.append(n if isinstance(n, int) else w.call(aten.sym_size.int, *read))
        w.replaced_by(w.call(target, w.arg["self"], sizes))

    return rewrite


def _in_segments(captured: Captured, w: _Writer) -> None:
    """``x.view(nt // 8, 8, c, h, w)`` of frames that are merged with the batch: frames in groups,
    video by video, of which each has to have a whole number."""
    x, wanted = w.arg["self"], w.arg.get("size", w.arg.get("shape"))
    given, made = x.meta["val"].shape, w.node.meta["val"].shape
    if not isinstance(wanted, (list, tuple)) or not wanted:
        return
    if len(made) != len(given) + 1 or not isinstance(wanted[1], int):
        return _in_channels(captured, w)
    apart = [*map(str, given[1:])] == [*map(str, made[2:])]
    entries, rows = wanted[1], _rows_and_frames(captured, given[0])
    if not apart or not isinstance(entries, int) or entries < 2 or rows is None:
        return
    if not captured.has_time(made[0]):
        return
    number = w.call(aten.sym_size.int, rows, 0)
    rest = [
        n if isinstance(n, int) else w.call(aten.sym_size.int, x, d + 1)
        for d, n in enumerate(given[1:])
    ]
    videos = w.call(aten.unflatten.int, x, 0, [number, -1])
    groups = w.call(operator.floordiv, w.call(aten.sym_size.int, videos, 1), entries)
    try:
        grouped = w.call(aten.reshape.default, videos, [number, groups, entries, *rest])
    except RuntimeError:  # groups that lie across two videos, of an odd number of frames
        return
    value = videos.meta["val"]  # for torch the group's size is that of the video by their number
    n, t, *others = value.shape
    grouped.meta["val"] = value.new_empty([n, t // entries, entries, *others])
    w.replaced_by(w.call(aten.flatten.using_ints, grouped, 0, 1))


def _out_of_segments(captured: Captured, w: _Writer) -> bool:
    """``y.view(nt, c, h, w)`` of such groups: the frames of each video, one after the other."""
    x, given, made = w.arg["self"], w.arg["self"].meta["val"].shape, w.node.meta["val"].shape
    if len(given) != len(made) + 1 or len(given) < 2 or not isinstance(given[1], int):
        return False
    apart = [*map(expression, given[2:])] == [*map(expression, made[1:])]
    rows = _rows_and_frames(captured, made[0])
    if not apart or given[1] < 2 or rows is None or not captured.has_time(given[0]):
        return False
    number = w.call(aten.sym_size.int, rows, 0)
    videos = w.call(aten.unflatten.int, x, 0, [number, -1])
    frames = w.call(torch.ops.pgt_fx.interleave.default, videos, 1)
    new = w.call(aten.flatten.using_ints, frames, 0, 1)
    new.meta["val"] = w.node.meta["val"]
    w.replaced_by(new)
    return True


def _segments(captured: Captured, w: _Writer) -> None:
    if not _out_of_segments(captured, w):
        _in_segments(captured, w)


def _in_channels(captured: Captured, w: _Writer) -> None:
    """``x.view(nt // 2, 2 * c, h, w)`` of frames that are merged with the batch, likewise."""
    x, wanted = w.arg["self"], list(w.arg.get("size") or w.arg["shape"])
    given, made = x.meta["val"].shape, w.node.meta["val"].shape
    rows = _rows_and_frames(captured, given[0])
    if rows is None or not captured.has_time(made[0]):
        return
    whole, part = (size.node.hint for size in (given[0], made[0]))
    entries = whole // part if part and whole % part == 0 else 1
    if entries < 2 or not captured.sizes.multiple(given[0], made[0], entries, groups=True):
        return
    rest = [_size_of(captured, w, n, size) for n, size in zip(wanted[1:], made[1:], strict=True)]
    if None in rest:
        return
    number = w.call(aten.sym_size.int, rows, 0)
    videos = w.call(aten.unflatten.int, x, 0, [number, -1])
    value, sizes = videos.meta["val"], [_value(n) for n in rest]
    count = w.call(operator.floordiv, w.call(aten.sym_size.int, videos, 1), entries)
    n, t = value.shape[:2]
    # torch can't tell that it is a view of a whole number of groups, nor how large they are.
    grouped = w.given(
        aten.reshape.default,
        (videos, [number, count, *rest]),
        value.new_empty([n, t // entries, *sizes]),
    )
    flat = value.new_empty([n * (t // entries), *sizes])
    w.replaced_by(w.given(aten.flatten.using_ints, (grouped, 0, 1), flat))


def _size_of(captured: Captured, w: _Writer, wanted: Any, size: Any) -> Any:
    """A size of a view as it is given; one that is left open, where it is a number."""
    if isinstance(wanted, fx.Node) or wanted != -1:
        return wanted
    return size if isinstance(size, int) else None


def _rows_and_frames(captured: Captured, size: Any) -> fx.Node | None:
    """The clip whose batch is merged with time in a dimension of this size."""
    if not captured.has_time(size):
        return None
    for node in clips(captured):
        batch = node.meta["val"].shape[0]
        if isinstance(batch, torch.SymInt) and not captured.has_time(batch):
            found = expression(size) / expression(batch)
            if not found.free_symbols - captured.time_symbols:
                return node
    return None


def _outer(captured: Captured, w: _Writer) -> None:
    rows, columns = w.arg["self"], w.arg["vec2"]
    left, right = (
        w.call(aten.unsqueeze.default, rows, 1),
        w.call(aten.unsqueeze.default, columns, 0),
    )
    w.replaced_by(w.call(aten.mul.Tensor, left, right))


def _extreme_so_far(highest: bool) -> Any:
    """The values alone: their places count from the start of the video."""

    def rewrite(captured: Captured, w: _Writer) -> None:
        dim, users = _along_time(captured, w), list(w.node.users)
        read = [u for u in users if u.users]
        plain = all(u.target is operator.getitem for u in users)
        if dim is None or not plain or any(u.args[1] != 0 for u in read):
            return
        new = w.call(torch.ops.pgt_fx.extreme_so_far.default, w.arg["self"], dim, highest)
        for user in users:
            user.replace_all_uses_with(new)
            w.graph.erase_node(user)
        w.graph.erase_node(w.node)

    return rewrite


def _mean(captured: Captured, w: _Writer) -> None:
    """``x.sum(2) / x.shape[2]`` is a mean."""
    total, number = w.arg["self"], w.arg["other"]
    if not isinstance(total, fx.Node) or schema_name(total) != "aten::sum" or not number:
        return
    if w.arg.get("rounding_mode") or isinstance(_value(number), (Tensor, float)):
        return
    summed = _Writer(captured.graph, total)
    x, dims = summed.arg["self"], summed.arg.get("dim")
    shape, kind = x.meta["val"].shape, x.meta["val"].dtype
    dims = list(range(len(shape))) if not dims else list(dims)
    if summed.arg.get("dtype") or not kind.is_floating_point:
        return
    sizes = [shape[d] for d in dims]
    if any(map(captured.has_time, sizes)) and captured.sizes.product(sizes, _value(number)):
        keepdim = bool(summed.arg.get("keepdim"))
        w.replaced_by(w.call(aten.mean.dim, x, dims, keepdim))


_LIBRARY = torch.library.Library("pgt_fx", "FRAGMENT")
_LIBRARY.define("extreme_so_far(Tensor x, int dim, bool highest) -> Tensor")


def extreme_so_far(x: Tensor, dim: int, highest: bool) -> Tensor:
    """The largest, or the least, of all elements up to each one."""
    return (torch.cummax if highest else torch.cummin)(x, dim)[0]


_LIBRARY.impl("extreme_so_far", extreme_so_far, "CompositeImplicitAutograd")

_REWRITES: dict[str, Callable[[Captured, _Writer], None]] = {
    "aten::narrow": _narrow,
    "aten::diff": _diff,
    "aten::split_with_sizes": _split(_of_sizes),
    "aten::div": _mean,
    "aten::split": _by_video,
    "aten::chunk": _by_video,
    "aten::tensor_split": _pieces,
    "aten::view": _segments,
    "aten::reshape": _segments,
    "aten::view_as": _like(aten.view.default),
    "aten::reshape_as": _like(aten.reshape.default),
    "aten::outer": _outer,
    "aten::ger": _outer,
    "aten::cummax": _extreme_so_far(True),
    "aten::cummin": _extreme_so_far(False),
}
