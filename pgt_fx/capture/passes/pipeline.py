"""The passes that simplify a captured graph, in order; each ends with a lint of the graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from pgt_fx.capture.captured import Captured
from pgt_fx.capture.passes.cat_to_pad import cat_to_pad
from pgt_fx.capture.passes.drop_like_operands import drop_like_operands
from pgt_fx.capture.passes.expand_like import expand_like
from pgt_fx.capture.passes.expand_shorthands import expand_shorthands
from pgt_fx.capture.passes.functionalize import functionalize
from pgt_fx.capture.passes.inline_blocks import inline_blocks
from pgt_fx.capture.passes.masked_writes import masked_writes
from pgt_fx.capture.passes.rolled_frames import rolled_frames
from pgt_fx.capture.passes.signal_frames import signal_frames
from pgt_fx.capture.passes.whole_tables import whole_tables
from pgt_fx.capture.passes.written_frames import written_frames
from pgt_fx.capture.schema import schema_name
from pgt_fx.core.trace import stage

CHECKS = (
    "aten::_assert_scalar",
    "aten::_assert_tensor_metadata",
    "aten::sym_constrain_range",
    "aten::sym_constrain_range_for_size",
    "aten::_assert_async",
)


#: A pass: it changes the graph of a capture in place. Beside it it is given the frames of the
#: example.
Pass = Callable[[Captured, int], None]


def clean(captured: Captured, clip: int) -> Captured:
    """Run the passes, one after the other; the graph is sound after each.

    Args:
        clip: frames of the example.
    """
    for run in PASSES:
        with stage(f"capture/{run.__name__}", lambda: captured.graph):
            run(captured, clip)
            captured.graph.lint()
    return captured


def drop_checks(captured: Captured, _: int) -> None:
    """The capture's runtime assertions compare sizes that a step does not have.

    Before: ``%ge = ge(%t, 2)``, ``aten._assert_scalar(%ge, "…")``; after: nothing.
    """
    graph = captured.graph
    for node in reversed(list(graph.nodes)):
        sizes = node.op == "call_function" and schema_name(node) in ("", "aten::sym_size")
        if schema_name(node) in CHECKS or (sizes and not node.users):
            graph.erase_node(node)


def detach_is_no_write(captured: Captured, _: int) -> None:
    """``detach_()`` writes nothing: it is ``detach()`` for all that comes after it.

    Before: ``%d = aten.detach_(%x)``, ``%y = aten.relu(%x)``

    After: ``%d = aten.detach(%x)``, ``%y = aten.relu(%d)``
    """
    graph = captured.graph
    position = {node: number for number, node in enumerate(graph.nodes)}
    for node in graph.nodes:
        if schema_name(node) == "aten::detach_":
            node.target, source = torch.ops.aten.detach.default, node.args[0]
            source.replace_all_uses_with(
                node, delete_user_cb=lambda user, at=position[node]: position[user] > at
            )


def infer_batch_size(captured: Captured, _: int) -> None:
    """``unflatten(0, (-1, t))``, ``view(-1, t, …)``: the size that is left to be inferred is
    written out where it is one of the clip's own, as a step's number of frames is inferred too.

    Before: ``%v = aten.view(%x, [-1, %t, 8])``

    After: ``%n = aten.sym_size(%clip, 0)``, ``%v = aten.view(%x, [%n, %t, 8])``
    """
    graph = captured.graph
    for node in list(graph.nodes):
        name = schema_name(node)
        if name not in ("aten::unflatten", "aten::view", "aten::reshape") or len(node.args) < 2:
            continue
        source, *given, wanted = node.args
        if not isinstance(wanted, (list, tuple)):
            continue
        dim = given[0] if given else 0
        sizes = node.meta["val"].shape[dim % source.meta["val"].dim() :][: len(wanted)]
        open_ = [k for k, n in enumerate(wanted) if isinstance(n, int) and n == -1]
        if (
            not open_
            or captured.has_time(sizes[open_[0]])
            or not any(map(captured.has_time, sizes))
        ):
            continue
        found = _size_of_clip(captured, sizes[open_[0]])
        if found is not None:
            with graph.inserting_before(node):
                number = graph.call_function(torch.ops.aten.sym_size.int, found)
            number.meta = {**node.meta, "val": sizes[open_[0]]}
            sizes = [number if k in open_ else n for k, n in enumerate(wanted)]
            node.args = (source, *given, sizes)


def _size_of_clip(captured: Captured, size: Any) -> tuple[fx.Node, int] | None:
    """The input, and its dimension, of which this is the size."""
    for node in captured.graph.nodes:
        if node.op == "placeholder" and node.name in captured.inputs:
            for dim, one in enumerate(node.meta["val"].shape):
                if isinstance(one, torch.SymInt) and str(one) == str(size):
                    return node, dim
    return None


def adaptive_max_as_amax(captured: Captured, _: int) -> None:
    """Adaptive max pooling to one element along time, indices unused, is a maximum over time.

    Before: ``%p = aten.adaptive_max_pool3d(%x, [1, 7, 7])``

    After: ``%m = aten.amax(%x, [2], True)``, ``%p = aten.adaptive_max_pool3d(%m, [1, 7, 7])``
    """
    for node in list(captured.graph.nodes):
        name = schema_name(node)
        if not name.startswith("aten::adaptive_max_pool"):
            continue
        source, sizes = node.args[0], node.args[1]
        rank = int(name[-2])
        sizes = list(sizes) if isinstance(sizes, (list, tuple)) else [sizes] * rank
        shape = source.meta["val"].shape
        timed = [i for i in range(rank) if captured.has_time(shape[len(shape) - rank + i])]
        read = [user for user in node.users if user.users]
        if [sizes[i] for i in timed] != [1] or any(user.args[1] != 0 for user in read):
            continue
        dim = len(shape) - rank + timed[0]
        with captured.graph.inserting_before(node):
            whole = captured.graph.call_function(torch.ops.aten.amax.default, (source, [dim], True))
        value = source.meta["val"]
        whole.meta = {**node.meta, "val": torch.ops.aten.amax.default(value, [dim], True)}
        node.args = (whole, *node.args[1:])


def flatten_rows(captured: Captured, _: int) -> None:
    """``x.view(x.shape[0], -1)`` is ``x.flatten(1)``, which there is of no rows as well (a step
    without boxes); what -1 means there, torch can't tell.

    Before: ``%v = aten.view(%x, [%n, -1])``; after: ``%v = aten.flatten(%x, 1)``.
    """
    views = (torch.ops.aten.view.default, torch.ops.aten.reshape.default)
    for node in captured.graph.nodes:
        if node.op != "call_function" or node.target not in views:
            continue
        source, wanted = node.args
        sizes, rows = source.meta["val"].shape, len(wanted) - 1
        open_last = rows > 0 and isinstance(wanted[-1], int) and wanted[-1] == -1
        if not open_last or rows >= len(sizes) or any(map(captured.has_time, sizes)):
            continue
        kept = node.meta["val"].shape[:rows]
        symbolic = any(isinstance(n, torch.SymInt) for n in kept)
        if symbolic and [*map(str, kept)] == [*map(str, sizes[:rows])]:
            node.target, node.args = torch.ops.aten.flatten.using_ints, (source, rows)


def mark_time_sizes(captured: Captured, _: int) -> None:
    """``meta["pgt_time"]`` on every scalar computed from the length of the video.

    One that is the same at every length (``T % 4`` of a model that takes 4n + 1 frames) is written
    as that number: of a step's frames it would be another. ``meta["pgt_constant"]`` is on what
    reads it.

    Before: ``%rest = mod(%t, 4)``, ``%s = aten.slice(%x, 2, %rest)``, of videos of 4n + 1 frames

    After: ``%s = aten.slice(%x, 2, 1)``
    """
    values = [node.meta.get("val") for node in captured.graph.nodes]
    shapes: list[Any] = [s for v in values if isinstance(v, torch.Tensor) for s in v.shape]
    sizes = {s.node.expr for s in shapes if isinstance(s, torch.SymInt)}
    for node in list(captured.graph.nodes):
        value, operands = node.meta.get("val"), node.all_input_nodes
        number = isinstance(value, (torch.SymInt, torch.SymFloat, torch.SymBool))
        if not number or node.op != "call_function":
            continue
        of_time = any(n.meta.get("pgt_time") for n in operands)
        if value.node.expr in sizes or any(
            isinstance(n.meta.get("val"), torch.Tensor) for n in operands
        ):
            timed = captured.has_time(value)  # read from a tensor, whatever torch makes of it
        else:
            timed = of_time and captured.varies(value)
        node.meta["pgt_time"] = timed
        symbols = value.node.expr.free_symbols
        if symbols and symbols <= captured.time_symbols and not timed:
            if (of_time and value.node.expr not in sizes) or "pgt_constant" in node.meta:
                for user in node.users:
                    user.meta["pgt_constant"] = True
            replace_by(node, value.node.hint)


def replace_by(node: fx.Node, number: float) -> None:
    """A number in place of a node, wherever it is read."""
    for user in list(node.users):
        user.args, user.kwargs = fx.map_arg(
            (user.args, user.kwargs), lambda n: number if n is node else n
        )
    node.graph.erase_node(node)


def drop_dead_code(captured: Captured, _: int) -> None:
    """Dead code need not be supported: attention weights that are returned by default, and that
    nothing reads."""
    captured.graph.eliminate_dead_code()


#: In this order: writes are made functional before anything is concluded from what a node reads;
#: sizes are looked at last, when none is read any more that nothing needs.
PASSES: tuple[Pass, ...] = (
    inline_blocks,
    drop_checks,
    detach_is_no_write,
    infer_batch_size,
    functionalize,
    expand_shorthands,
    signal_frames,
    masked_writes,
    written_frames,
    rolled_frames,
    cat_to_pad,
    drop_like_operands,
    adaptive_max_as_amax,
    whole_tables,
    expand_like,
    flatten_rows,
    drop_dead_code,
    mark_time_sizes,
)
