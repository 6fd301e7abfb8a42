"""Views and permutes: nothing is computed, axes are renamed, merged and split."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from pgt_fx.capture.passes.interleave_op import in_a_row
from pgt_fx.core.counts import counted
from pgt_fx.core.laws import Repeat, Window
from pgt_fx.core.layout import (
    Dim,
    Factor,
    Layout,
    LayoutError,
    has_time,
    regroup,
    relabel,
    size,
    time_dims,
)
from pgt_fx.rules.registry import (
    Local,
    OpView,
    Outcome,
    Refusal,
    SizeAtHand,
    Windowed,
    alone,
    hint,
    rule,
    same_size,
    whole_ratio,
    wrap,
)


def sizes_at_hand(op: OpView, source: Layout, layout: Layout, wanted: Any) -> list[Any]:
    """Sizes of a view with the time axis left to be inferred from the operand at hand (-1).

    Where the model leaves another one to be inferred, that one is read from the operand's sizes,
    or time's is.
    """
    timed = time_dims(layout)
    if len(timed) > 1:
        raise Refusal("views two time axes at once", "view them one after the other")
    out = [-1 if d in timed else given for d, given in enumerate(wanted)]
    others = [d for d, given in enumerate(out) if d not in timed and _is_open(given)]
    for d in others:
        value = op.node.meta["val"].shape[d]
        run = _run(op, source, layout[d], value)
        if isinstance(value, int):
            out[d] = value
        elif not timed:
            continue
        elif run is not None:
            out[d] = SizeAtHand(run)
        elif (
            run := _run(op, source, layout[timed[0]], op.node.meta["val"].shape[timed[0]])
        ) is not None:
            out[timed[0]] = SizeAtHand(run)
        else:
            raise Refusal(
                f"leaves dimension {d} to be inferred beside the time axis",
                "give every size of the view but that of time",
            )
    return out


def _is_open(given: Any) -> bool:
    return isinstance(given, int) and given == -1


def _run(op: OpView, source: Layout, wanted: Dim, length: Any) -> tuple[int, ...] | None:
    """Neighbouring dimensions of an operand that make up a dimension, None where there are none.

    Height and width of a square clip are equal in the capture: what tells them apart is that the
    dimension has the product of their sizes as its own at any sizes.
    """
    sizes = op.arg["self"].meta["val"].shape
    factors = [f for f in wanted if f.size != 1 or f.time]
    for first in range(len(source)):
        found: list[Factor] = []
        for end in range(first, len(source)):
            found += [f for f in source[end] if f.size != 1 or f.time]
            if found and found == factors and same_size(op, sizes[first : end + 1], length):
                return tuple(range(first, end + 1))
    return None


@rule("view", "reshape", "_unsafe_view", "view_copy")
def view(op: OpView) -> Outcome:
    """Factors in order, cut anew (see layout.regroup). Time cut into groups of k is a window."""
    source = op.layout(op.arg["self"])
    if "dtype" in op.arg:
        return _of_another_type(op, source)
    name = "size" if "size" in op.arg else "shape"
    try:
        layout = regroup(source, op.out_sizes)
    except LayoutError:
        return _in_groups(op, source, name)
    return Local(layout, {name: sizes_at_hand(op, source, layout, op.arg[name])})


def _of_another_type(op: OpView, source: Layout) -> Outcome:
    """x.view(torch.int32): the bits of each element read as a number of another type."""
    if op.arg["self"].meta["val"].element_size() != op.node.meta["val"].element_size():
        raise Refusal(
            "reads the elements as numbers of a type of another size, several for one or one for "
            "several",
            "convert them: x.to(dtype)",
        )
    return Local(source)


def _in_groups(op: OpView, source: Layout, name: str, dim: int | None = None) -> Outcome:
    """x.view(N, C, T // k, k, …): output j has the k elements from j * k on, side by side.

    Args:
        dim: that is taken apart; None for a view, of which all sizes are given.
    """
    dims = [d for d, dim in enumerate(source) if has_time(dim)]
    if len(dims) != 1:
        raise Refusal("views two time axes at once", "view them one after the other")
    whole, sizes = op.arg["self"].meta["val"].shape[dims[0]], op.node.meta["val"].shape
    ratios = {
        d: whole_ratio(op, whole, s, groups=True)
        for d, s in enumerate(sizes)
        if isinstance(s, torch.SymInt)
    }
    found = [(d, ratio) for d, ratio in ratios.items() if ratio is not None and ratio > 1]
    if len(found) != 1:
        regroup(source, op.out_sizes)  # its error says what does not fit
        raise Refusal("the view cuts through the time axis")
    alone(op, op.arg["self"], dims[0], "cuts an axis")
    (at, entries) = found[0]
    cut = (Factor(hint(sizes[at]), True, 1), Factor(entries))
    layout = regroup((*source[: dims[0]], cut, *source[dims[0] + 1 :]), op.out_sizes)
    wanted: list[Any] = list(op.arg[name])
    if dim is None:
        wanted = sizes_at_hand(op, source, layout, wanted)
    else:
        wanted = [-1 if dim + d == at else given for d, given in enumerate(wanted)]
        wanted = [entries if n == -1 and dim + d != at else n for d, n in enumerate(wanted)]
    if any(isinstance(s, SizeAtHand) for s in wanted):
        raise Refusal(
            "takes frames in groups and leaves a dimension to be inferred",
            "give every size of the view but that of time",
        )
    own: Any = op.node.target
    return Windowed(
        Window(entries, entries),
        layout,
        "self",
        {name: wanted},
        call=torch.ops.aten.reshape.default if dim is None else own,
        what=f"groups of {counted(entries, 'frame')}",
        groups=entries,
    )


@rule("pgt_fx::interleave")
def interleave(op: OpView) -> Outcome:
    """Elements of one frame, one after the other: output j is element j % k of frame j // k."""
    source = op.layout(op.arg["x"])
    dim = op.static(op.arg["dim"], "dim")
    entries = size(source[dim + 1])
    whole = relabel(source[dim : dim + 1], None, op.out_sizes[dim])
    layout = (*source[:dim], *whole, *source[dim + 2 :])
    return Windowed(
        Repeat(entries),
        layout,
        "x",
        call=in_a_row,
        what=f"{counted(entries, 'element')} of a frame in a row",
    )


@rule("flatten")
def flatten(op: OpView) -> Outcome:
    return Local(regroup(op.layout(op.arg["self"]), op.out_sizes))


@rule("unflatten")
def unflatten(op: OpView) -> Outcome:
    source = op.layout(op.arg["self"])
    dim = wrap(op.static(op.arg["dim"], "dim"), len(source))
    wanted = list(op.arg["sizes"])
    try:
        layout = regroup(source, op.out_sizes)
    except LayoutError:
        return _in_groups(op, source, "sizes", dim)
    inside = [d - dim for d in time_dims(layout) if dim <= d < dim + len(wanted)]
    if not inside:
        return Local(layout)
    sizes = [-1 if d in inside else s for d, s in enumerate(wanted)]
    if sizes.count(-1) > 1:
        raise Refusal("leaves another axis to be inferred beside the time axis")
    return Local(layout, {"sizes": sizes})


@rule("permute")
def permute(op: OpView) -> Outcome:
    source = op.layout(op.arg["self"])
    return Local(tuple(source[wrap(int(d), len(source))] for d in op.arg["dims"]))


@rule("transpose", "swapaxes", "swapdims")
def transpose(op: OpView) -> Outcome:
    source = list(op.layout(op.arg["self"]))
    names = [a.name for a in op.schema.arguments[1:3]]
    a, b = (wrap(op.static(op.arg[n], n), len(source)) for n in names)
    source[a], source[b] = source[b], source[a]
    return Local(tuple(source))


@rule("numpy_T")
def reverse(op: OpView) -> Outcome:
    """``x.T`` turns all dimensions around."""
    return Local(op.layout(op.arg["self"])[::-1])


@rule("t", "mT")
def matrix_transpose(op: OpView) -> Outcome:
    source = op.layout(op.arg["self"])
    return Local((*source[:-2], *source[-2:][::-1]))


@rule("movedim", "moveaxis")
def movedim(op: OpView) -> Outcome:
    source = op.layout(op.arg["self"])
    rank = len(source)
    start, end = op.arg["source"], op.arg["destination"]
    starts = [wrap(d, rank) for d in (start if isinstance(start, (list, tuple)) else [start])]
    ends = [wrap(d, rank) for d in (end if isinstance(end, (list, tuple)) else [end])]
    order: list[int | None] = [None] * rank
    for a, b in zip(starts, ends, strict=True):
        order[b] = a
    rest = iter(d for d in range(rank) if d not in starts)
    return Local(tuple(source[next(rest) if d is None else d] for d in order))


@rule("unsqueeze")
def unsqueeze(op: OpView) -> Outcome:
    source = op.layout(op.arg["self"])
    dim = wrap(op.static(op.arg["dim"], "dim"), len(source) + 1)
    return Local((*source[:dim], (), *source[dim:]))


@rule("squeeze")
def squeeze(op: OpView) -> Outcome:
    """Without a dimension, a time axis of one element would vanish: the dimensions are named."""
    source = op.layout(op.arg["self"])
    given = op.arg.get("dim")
    if given is None:
        raise Refusal(
            "squeezes every axis of size 1: a step with one frame would lose its time axis",
            "name the dimensions to squeeze",
        )
    dims = [
        wrap(int(d), len(source)) for d in (given if isinstance(given, (list, tuple)) else [given])
    ]
    if any(has_time(source[d]) for d in dims):
        raise Refusal("squeezes the time axis when a step has one frame", "leave the axis, or pool")
    return Local(tuple(dim for d, dim in enumerate(source) if d not in dims or size(dim) != 1))


@rule("expand", "expand_as", "broadcast_to")
def expand(op: OpView) -> Outcome:
    """Axes of size 1 are repeated; a time axis keeps its length (-1)."""
    source = op.layout(op.arg["self"])
    if "other" in op.arg:
        from pgt_fx.core.layout import broadcast

        return Local(broadcast([source, op.layout(op.arg["other"])]))
    new = len(op.out_sizes) - len(source)
    out = op.out_dims
    layout = out[:new] + tuple(
        dim if size(dim) == size(now) or has_time(dim) else now
        for dim, now in zip(source, out[new:], strict=True)
    )
    wanted = [-1 if d in time_dims(layout) else given for d, given in enumerate(op.arg["size"])]
    _no_length(op, wanted)
    return Local(layout, {"size": wanted})


def _no_length(op: OpView, wanted: list[Any]) -> None:
    """Refuse sizes computed from the length of the video (a table with one row per frame)."""
    for given in wanted:
        if isinstance(given, fx.Node) and given.meta.get("pgt_time"):
            raise Refusal(
                "repeats a value once per frame: its length is computed from the video's",
                "let an elementwise operator broadcast it",
            )


@rule("repeat", "tile")
def repeat(op: OpView) -> Outcome:
    source = op.layout(op.arg["self"])
    times = list(op.arg["repeats" if "repeats" in op.arg else "dims"])
    rank = len(op.out_sizes)
    source = ((),) * (rank - len(source)) + source
    times = [1] * (rank - len(times)) + times  # tile may be given fewer
    _no_length(op, times)
    for dim, count in zip(source, times, strict=True):
        if has_time(dim) and count != 1:
            raise Refusal("repeats the whole video along time", "use nearest upsampling")
    return Local(
        tuple(
            dim if has_time(dim) or size(dim) == size(now) else now
            for dim, now in zip(source, op.out_dims, strict=True)
        )
    )


@rule("chunk", "split", "split_with_sizes", "unbind", "tensor_split", "hsplit", "unsafe_chunk")
def split(op: OpView) -> Outcome:
    """Pieces along another axis than time."""
    source = op.layout(op.tensors[0])
    usual = 1 if op.schema.name == "aten::hsplit" and len(source) > 1 else 0
    dim = wrap(op.static(op.arg.get("dim", usual), "dim"), len(source))
    if dim in time_dims(source):
        raise Refusal(
            "cuts the video into pieces whose number or size depends on its length",
            "slice with constant bounds, or stride",
        )
    layouts: list[Layout | None] = []
    for piece in op.node.meta["val"]:
        if piece.dim() < len(source):
            layouts.append(source[:dim] + source[dim + 1 :])
        else:
            now = op.dims_of(piece)[dim : dim + 1]
            layouts.append(source[:dim] + now + source[dim + 1 :])
    return Local(layouts)


@rule("channel_shuffle")
def shuffle_channels(op: OpView) -> Outcome:
    """Moves the elements of dimension 1, wherever time is."""
    source = op.layout(op.tensors[0])
    if has_time(source[1]):
        raise Refusal(
            "shuffles dimension 1, which holds time",
            "move the channels to dimension 1 in front of it",
        )
    return Local((source[0], op.out_dims[1], *source[2:]))


@rule("pixel_shuffle", "pixel_unshuffle")
def shuffle(op: OpView) -> Outcome:
    """Between channels and space; time must stand before them."""
    source = op.layout(op.tensors[0])
    if any(has_time(dim) for dim in source[-3:]):
        raise Refusal("moves elements between channels and an axis that holds time")
    return Local(source[:-3] + op.out_dims[-3:])
