"""Frames written into a part of a tensor, as temporal shifts have it, become the padding that they
mean.

``out = zeros_like(x); out[:, :-1, :2] = x[:, 1:, :2]`` is a shift by one frame. A write into frames
is of a stream that begins elsewhere than the one it is written into, whereas a pad is one window.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from pgt_fx.capture.captured import Captured
from pgt_fx.capture.passes.cat_to_pad import (
    CONSTANTS,
    SEE_THROUGH,
    Chain,
    chains,
    constant_value,
    is_whole,
    long_enough,
    rounds,
    slice_arguments,
    uncropped,
)
from pgt_fx.capture.schema import schema_name
from pgt_fx.core.lengths.sets import NotQuasiLinear
from pgt_fx.core.node_arguments import as_node

aten = torch.ops.aten
PURE = ("aten::slice", "aten::slice_scatter", "aten::copy", "aten::fill", "aten::unsqueeze")


def scatter_to_pad(captured: Captured, clip: int) -> None:
    """Rewrite the writes into a part of the frames.

    Before::

        %past = aten.slice(%x, 1, 0, -1)
        %out = aten.slice_scatter(%zeros, %past, 1, 1, 9223372036854775807)

    After::

        %out = aten.pad(%x, [0, 0, 0, 0, 0, 0, 1, -1])

    What is written into anything but a constant is chosen by a mask, that is padded likewise.

    Args:
        clip: frames of the example.
    """
    frames = _of_video(captured)
    for node in captured.graph.nodes:
        if schema_name(node) == "aten::select_scatter" and node in frames:
            _frame_by_number(captured, node)
    scatters = [n for n in captured.graph.nodes if schema_name(n) == "aten::slice_scatter"]
    scatters = [n for n in scatters if n in frames]  # and not of a mask of positions
    if not any(_along_time(captured, node) for node in scatters):
        return
    for node in list(captured.graph.nodes):
        if schema_name(node) == "aten::slice" and is_whole(node):
            node.replace_all_uses_with(as_node(node.args[0]))
    for node in scatters:
        _copied(captured, node)
        _channels_outside(captured, node)
    for node in list(captured.graph.nodes):
        if schema_name(node) == "aten::slice":
            _slice_of_scatter(node)
    for node in list(captured.graph.nodes):
        time = schema_name(node) == "aten::slice_scatter" and _along_time(captured, node)
        if time and node in _of_video(captured):
            _rewrite(captured, node, clip)
    for node in reversed(list(captured.graph.nodes)):
        if schema_name(node) in PURE and not node.users:
            captured.graph.erase_node(node)


def _of_video(captured: Captured) -> set[fx.Node]:
    """The values that are computed from frames, and not from their number alone."""
    found: set[fx.Node] = set()
    for node in captured.graph.nodes:
        name = schema_name(node)
        if node.op == "placeholder":
            of_frames = node.name in captured.inputs
        else:
            made = name in CONSTANTS or name == "aten::sym_size"
            of_frames = not made and not found.isdisjoint(node.all_input_nodes)
        if of_frames:
            found.add(node)
    return found


def _arguments(node: fx.Node) -> tuple[fx.Node, fx.Node, int, Any, Any, Any]:
    """What is written into, what is written, the dimension, start, end and step."""
    given = [*node.args, *[None, None, 0, None, None, 1][len(node.args) :]]
    for i, name in enumerate(("self", "src", "dim", "start", "end", "step")):
        given[i] = node.kwargs.get(name, given[i])
    whole, part, dim, start, end, step = given
    return as_node(whole), as_node(part), dim % node.meta["val"].dim(), start, end, step


def _copied(captured: Captured, node: fx.Node) -> None:
    """What is copied into a place of its own shape and type is written as it is."""
    part = as_node(node.args[1])
    if schema_name(part) != "aten::copy":
        return
    there, source = (as_node(n).meta["val"] for n in part.args[:2])
    same = there.dtype == source.dtype and there.dim() == source.dim()
    if same and all(map(captured.sizes.same, there.shape, source.shape)):
        node.replace_input_with(part, as_node(part.args[1]))


def _along_time(captured: Captured, node: fx.Node) -> bool:
    return captured.has_time(node.meta["val"].shape[_arguments(node)[2]])


def _channels_outside(captured: Captured, node: fx.Node) -> None:
    """``out[:, 1:, :2] = v`` is a write into channels of a write into frames of these.

    Before::

        %rest = aten.slice(%out, 1, 1, 9223372036854775807)
        %channels = aten.slice_scatter(%rest, %v, 2, 0, 2)
        %all = aten.slice_scatter(%out, %channels, 1, 1, 9223372036854775807)

    After::

        %some = aten.slice(%out, 2, 0, 2)
        %shifted = aten.slice_scatter(%some, %v, 1, 1, 9223372036854775807)
        %all = aten.slice_scatter(%out, %shifted, 2, 0, 2)
    """
    whole, inner, dim, *bounds = _arguments(node)
    if not _along_time(captured, node) or schema_name(inner) != "aten::slice_scatter":
        return
    rest, part, other, *channels = _arguments(inner)
    if other == dim or _along_time(captured, inner) or schema_name(rest) != "aten::slice":
        return
    source, at, *seen = slice_arguments(rest)
    if source is not whole or at % node.meta["val"].dim() != dim or not _alike(seen, bounds):
        return
    if any(isinstance(n, fx.Node) for n in channels):
        return
    value = whole.meta["val"]
    with node.graph.inserting_before(node):
        some = node.graph.call_function(aten.slice.Tensor, (whole, other, *channels))
        shifted = node.graph.call_function(aten.slice_scatter.default, (some, part, dim, *bounds))
    some.meta = {**node.meta, "val": aten.slice.Tensor(value, other, *channels)}
    shifted.meta = {**node.meta, "val": some.meta["val"]}
    node.args, node.kwargs = (whole, shifted, other, *channels), {}


def _alike(a: list[Any], b: list[Any]) -> bool:
    """Whether two slices have the same bounds."""
    return [x or 0 for x in a] == [y or 0 for y in b]


def _slice_of_scatter(node: fx.Node) -> None:
    """Channels of a tensor into which others were written are those that it had before; what was
    written is read as it was.
    """
    while schema_name(source := as_node(node.args[0])) == "aten::slice_scatter":
        _, at, *taken = slice_arguments(node)
        whole, part, dim, *written = _arguments(source)
        size = node.args[0].meta["val"].shape[dim]  # type: ignore[union-attr]
        bounds = [*taken, *written, size]
        if at % node.meta["val"].dim() != dim or not all(
            n is None or isinstance(n, int) for n in bounds
        ):
            return
        one, other = range(size)[slice(*taken)], range(size)[slice(*written)]
        if one == other:
            node.replace_all_uses_with(part)
            return
        if set(one) & set(other):
            return
        node.replace_input_with(source, whole)


def _bounds(captured: Captured, node: fx.Node) -> tuple[int, int] | None:
    """How many frames in front are left, and how many at the end; None: it can't be told."""
    whole, _, dim, start, end, step = _arguments(node)
    if step != 1:
        return None
    sizes = captured.sizes
    try:
        length = sizes.function(whole.meta["val"].shape[dim])
        first = sizes.bound(_value(start or 0), length)
        last = length if _open(end) else sizes.bound(_value(end), length)
        left, right = sizes.from_start(first, length), sizes.from_start(length - last, length)
    except NotQuasiLinear:
        return None
    return None if left is None or right is None else (left, right)


def _open(end: Any) -> bool:
    return end is None or (isinstance(end, int) and end >= 2**31)


def _value(size: Any) -> Any:
    return size.meta["val"] if isinstance(size, fx.Node) else size


def _rewrite(captured: Captured, node: fx.Node, clip: int) -> None:
    whole, part, dim, *_ = _arguments(node)
    if not captured.has_time(part.meta["val"].shape[dim]):
        _at_an_end(captured, node)
        return
    around = _bounds(captured, node)
    if around is None:
        return
    graph, rank = node.graph, node.meta["val"].dim()
    body, (left, right) = _body(captured, node, part, dim, around, clip)
    value = constant_value(whole)
    with graph.inserting_before(node):
        source = uncropped(graph, body, node)
        inner = [0, 0] * (rank - 1 - dim)
        amounts = [*inner, left, right]
        padded = graph.call_function(aten.pad.default, (source, amounts, "constant", value or 0.0))
        padded.meta = {**node.meta, "val": node.meta["val"]}
        if value is not None:
            node.replace_all_uses_with(padded)
            return
        mask = _mask(graph, source, amounts, node)
        chosen = graph.call_function(aten.where.self, (mask, padded, whole))
        chosen.meta = {**node.meta, "val": node.meta["val"]}
    node.replace_all_uses_with(chosen)


def _body(
    captured: Captured,
    node: fx.Node,
    part: fx.Node,
    dim: int,
    around: tuple[int, int],
    clip: int,
) -> tuple[Chain, tuple[int, int]]:
    """What is written, and its padding; as it was before it was cropped, where that is a window."""
    left, right = around
    plain = part
    while schema_name(plain) in SEE_THROUGH - {"aten::expand", "aten::repeat"}:
        if rounds(plain):
            break
        plain = as_node(plain.args[0])
    for chain in chains(plain, dim):
        if (chain.start, chain.stop) == (0, None):
            continue
        if (left and chain.start > 0) or (right and chain.stop is not None) or chain.start < 0:
            continue
        if long_enough(captured, node, chain, dim, clip):
            return chain, (left - chain.start, right + (chain.stop or 0))
    return Chain(part, ()), around


def _at_an_end(captured: Captured, node: fx.Node) -> None:
    """What has no time, written into the first frames or the last ones.

    A number is chosen by a mask. Other values stand in front of the rest; at the end, there is no
    rest to wait for in a step.
    """
    whole, part, dim, start, end, step = _arguments(node)
    length, count = whole.meta["val"].shape[dim], part.meta["val"].shape[dim]
    first, last = not start and end == count, start == -count and _open(end)
    if not isinstance(count, int) or step != 1 or not (first or last):
        return
    graph, number = node.graph, _number(part)
    bounds = (count, None) if first else (0, -count)
    with graph.inserting_before(node):
        rest = graph.call_function(aten.slice.Tensor, (whole, dim, *bounds))
        rest.meta = {**node.meta, "val": whole.meta["val"].narrow(dim, 0, length - count)}
        if number is None and first:
            new = graph.call_function(aten.cat.default, ([part, rest], dim))
        elif number is not None:
            amounts = [0, 0] * (node.meta["val"].dim() - 1 - dim)
            amounts += [count, 0] if first else [0, count]
            mask = _mask(graph, rest, amounts, node)
            where = aten.where.self if isinstance(number, fx.Node) else aten.where.ScalarOther
            new = graph.call_function(where, (mask, whole, number))
        else:
            return
        new.meta = {**node.meta, "val": node.meta["val"]}
    node.replace_all_uses_with(new)


def _number(part: fx.Node) -> fx.Node | float | None:
    """The number that a tensor has everywhere: plain, or a tensor without dimensions."""
    if (value := constant_value(part)) is not None:
        return value
    while schema_name(part) in SEE_THROUGH | {"aten::unsqueeze"} and not rounds(part):
        part = as_node(part.args[0])
    if schema_name(part) != "aten::fill":
        return None
    found = part.args[1]
    if isinstance(found, fx.Node):
        return found if found.meta["val"].dim() == 0 else None
    return found if isinstance(found, (int, float)) else None


def _mask(graph: fx.Graph, source: fx.Node, amounts: list[int], node: fx.Node) -> fx.Node:
    """True at the elements of a value, and false at those of its padding."""
    ones = graph.call_function(aten.ones_like.default, (source,), {"dtype": torch.bool})
    ones.meta = {**node.meta, "val": torch.ones_like(source.meta["val"], dtype=torch.bool)}
    mask = graph.call_function(aten.pad.default, (ones, amounts, "constant", 0.0))
    mask.meta = {**node.meta, "val": torch.ones_like(node.meta["val"], dtype=torch.bool)}
    return mask


def _frame_by_number(captured: Captured, node: fx.Node) -> None:
    """``y[:, :, 0] = v`` is ``y[:, :, :1] = v.unsqueeze(2)``."""
    _copied(captured, node)
    given: list[Any] = [*node.args, *node.kwargs.values()]
    whole, part, dim, index = given
    dim %= node.meta["val"].dim()
    if not captured.has_time(node.meta["val"].shape[dim]) or index not in (0, -1):
        return
    with node.graph.inserting_before(node):
        frame = node.graph.call_function(aten.unsqueeze.default, (part, dim))
    frame.meta = {**node.meta, "val": part.meta["val"].unsqueeze(dim)}
    node.target = aten.slice_scatter.default
    node.args, node.kwargs = (whole, frame, dim, index, index + 1 or None), {}
