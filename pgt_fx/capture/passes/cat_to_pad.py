"""Padding along time spelled as a concatenation becomes the padding that it means.

``cat([zeros, x[:, :, :-1]])`` is a temporal shift, ``cat([x[:, :, :1], x])`` replicate padding. As
a pad with (possibly negative) amounts both are one window of one element, whereas as a
concatenation the second piece begins where the first one ends.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from pgt_fx.capture.captured import Captured
from pgt_fx.capture.guards.length_guard import Condition
from pgt_fx.capture.observe.module_calls import place
from pgt_fx.capture.schema import named, schema_name
from pgt_fx.core.counts import counted
from pgt_fx.core.lengths.questions import at_most
from pgt_fx.core.lengths.sets import NotQuasiLinear
from pgt_fx.core.node_arguments import as_node, as_nodes, as_number

# Fill value of constant pieces; None: an argument.
CONSTANTS = {
    "aten::zeros_like": 0.0,
    "aten::new_zeros": 0.0,
    "aten::zeros": 0.0,
    "aten::ones": 1.0,
    "aten::ones_like": 1.0,
    "aten::new_ones": 1.0,
    "aten::full": None,
    "aten::full_like": None,
    "aten::new_full": None,
}
#: Where a padding keeps the types of the other parts of its concatenation, or the values that have
#: them: under autocast they may be wider than the type of what is padded.
PARTS = "pgt_parts"
SEE_THROUGH = {"aten::expand", "aten::repeat", "aten::contiguous", "aten::clone", "aten::to"}


@dataclass(frozen=True)
class Chain:
    """A slice of a slice … of ``root``: along time ``start:stop``, elsewhere ``others``."""

    root: fx.Node
    others: tuple[tuple[Any, ...], ...]
    start: int = 0
    stop: int | None = None


def cat_to_pad(captured: Captured, clip: int) -> None:
    """Rewrite every concatenation along time that is a padding; erase what it leaves unused.

    Before::

        %zeros = aten.zeros_like(%first)                  # x[:, :, :1]
        %past = aten.slice(%x, 2, 0, -1)
        %cat = aten.cat([%zeros, %past], 2)

    After::

        %pad = aten.pad(%x, [0, 0, 0, 0, 1, -1])          # a shift by one frame

    Args:
        clip: frames of the example.
    """
    for node in list(captured.graph.nodes):
        if schema_name(node) in ("aten::cat", "aten::concat", "aten::concatenate"):
            _of_one_type(captured, node)
            _rewrite(captured, node, clip)
    for node in list(captured.graph.nodes):
        _slice_of_cat(node)
    for node in reversed(list(captured.graph.nodes)):
        pure = schema_name(node) in {"aten::slice", "aten::cat", *CONSTANTS, *SEE_THROUGH}
        if pure and not node.users:
            captured.graph.erase_node(node)


def _of_one_type(captured: Captured, node: fx.Node) -> None:
    """The parts of a concatenation along time in its type, which is the widest of theirs: a step
    may give those of one part alone. The tensor ``[]`` that a loop begins with is left out.
    """
    pieces = as_nodes(node.args[0])
    value = node.meta["val"]
    pieces = [p for p in pieces if p.meta["val"].dim() == value.dim() or not _is_empty(p)]
    if any(captured.has_time(s) for p in pieces for s in p.meta["val"].shape):
        for i, piece in enumerate(pieces):
            if piece.meta["val"].dtype != value.dtype:
                with node.graph.inserting_before(node):
                    cast = node.graph.call_function(torch.ops.aten.to.dtype, (piece, value.dtype))
                cast.meta = {**node.meta, "val": piece.meta["val"].to(value.dtype)}
                pieces[i] = cast
    node.args = (pieces, *node.args[1:])


def _is_empty(node: fx.Node) -> bool:
    return list(node.meta["val"].shape) == [0]


def _rewrite(captured: Captured, node: fx.Node, clip: int) -> None:
    pieces = as_nodes(node.args[0])
    rank = node.meta["val"].dim()
    dim = as_number(named(node)["dim"]) % rank
    lengths = [p.meta["val"].shape[dim] for p in pieces]
    bodies = [i for i, n in enumerate(lengths) if captured.has_time(n)]
    filled = None  # a number of constant frames after the others that their length decides
    if len(bodies) == 2 and bodies[1] == len(pieces) - 1:
        filled = _number_of(pieces[-1], dim)
        bodies = bodies[:1] if filled is not None else bodies
    fixed = [n for i, n in enumerate(lengths) if i != bodies[0]] if bodies else []
    fixed = fixed[:-1] if filled is not None else fixed
    if len(bodies) != 1 or not all(isinstance(n, int) for n in fixed):
        return
    at = bodies[0]
    before = sum(lengths[:at])
    after = sum(n for n in lengths[at + 1 :] if isinstance(n, int))
    for body in chains(pieces[at], dim):
        kinds = {_kind(p, body, dim, i > at) for i, p in enumerate(pieces) if i != at}
        if len(kinds) != 1 or None in kinds:
            continue
        ends = bool(after) or filled is not None
        if (before and body.start > 0) or (ends and body.stop is not None):
            continue  # cropped and padded at the same end: no single window
        if not long_enough(captured, node, body, dim, clip):
            continue
        (kind,) = kinds
        node.meta[PARTS] = [_type_of(p) for i, p in enumerate(pieces) if i != at]
        amount: Any = after
        if filled is not None:
            with captured.graph.inserting_before(node):
                amount = captured.graph.call_function(operator.add, (filled, after))
            amount.meta = {"val": filled.meta["val"] + after}
        _replace(captured.graph, node, body, kind, rank - 1 - dim, before, amount)
        return


def _number_of(piece: fx.Node, dim: int) -> fx.Node | None:
    """The size along a dimension that a constant is made with, where it is computed."""
    if constant_value(piece) is None:
        return None
    given = named(piece)
    sizes = given.get("size", given.get("sizes"))
    found = sizes[dim] if isinstance(sizes, (list, tuple)) and dim < len(sizes) else None
    return found if isinstance(found, fx.Node) else None


def long_enough(captured: Captured, node: fx.Node, body: Chain, dim: int, clip: int) -> bool:
    """Limit the lengths of videos to those of which the slice leaves what the padding does: of one
    frame ``x[:, :, :-2]`` leaves none, and a padding by -2 takes one more away.

    Returns:
        whether there are such, the clip's among them.
    """
    cropped = body.start - (body.stop or 0)
    if cropped <= 0:
        return True
    try:
        enough = ~at_most(captured.sizes.function(body.root.meta["val"].shape[dim]), cropped - 1)
    except NotQuasiLinear:
        return False
    where, text = place(node), f"leaves out {counted(cropped, 'frame')}"
    lengths = captured.lengths.within(Condition(enough, where.source, where.line, text))
    if clip not in lengths.numbers:
        return False
    captured.lengths = lengths
    return True


def _slice_of_cat(node: fx.Node) -> None:
    """Channels taken out of a concatenation of channels come from the piece that has them.

    So two temporal shifts in a row don't seem to read each other's channels.
    """
    if schema_name(node) != "aten::slice":
        return
    source, dim, first, last, step = slice_arguments(node)
    while schema_name(source) == "aten::slice" and is_whole(source):
        source = source.args[0]
    if schema_name(source) not in ("aten::cat", "aten::concat") or not isinstance(dim, int):
        return
    rank = node.meta["val"].dim()
    given = source.args[1] if len(source.args) > 1 else source.kwargs.get("dim", 0)
    if given % rank != dim % rank or step != 1:
        return
    pieces = list(source.args[0])
    lengths = [p.meta["val"].shape[dim] for p in pieces]
    if not all(isinstance(n, int) for n in (first or 0, last or 0, *lengths)):
        return
    total = sum(lengths)
    start, stop, _ = slice(first, last).indices(total)
    begin = 0
    for piece, length in zip(pieces, lengths, strict=True):
        if begin <= start and stop <= begin + length and start < stop:
            node.args = (piece, dim, start - begin, stop - begin)
            node.kwargs = {}
            return
        begin += length


def is_whole(node: fx.Node) -> bool:
    _, _, first, last, step = slice_arguments(node)
    whole = last is None or (isinstance(last, int) and last >= 2**31)
    return not isinstance(first, fx.Node) and not first and whole and step == 1


def _replace(
    graph: fx.Graph,
    node: fx.Node,
    body: Chain,
    kind: str | float | None,
    inner: int,
    before: int,
    after: Any,
) -> None:
    end = after + (body.stop or 0) if isinstance(after, int) else after
    amounts = [0, 0] * inner + [before - body.start, end]
    mode, value = ("replicate", None) if kind == "edge" else ("constant", kind)
    with graph.inserting_before(node):
        whole = uncropped(graph, body, node)
    node.target = torch.ops.aten.pad.default
    node.args, node.kwargs = (whole, amounts, mode, value), {}


def _type_of(piece: fx.Node) -> torch.dtype | fx.Node:
    """The type of a part of a concatenation, or the value that it has its type from."""
    node = piece
    while True:
        name, value = schema_name(node), node.meta["val"]
        schema = getattr(node.target, "_schema", None)
        named = [a.name for a in schema.arguments] if schema is not None else []
        given = node.kwargs.get("dtype")
        if "dtype" in named and given is None and named.index("dtype") < len(node.args):
            given = node.args[named.index("dtype")]
        like = name in SEE_THROUGH | {"aten::slice"} or name.endswith("_like") or "new_" in name
        if isinstance(given, torch.dtype) or (name in CONSTANTS and not like):
            return value.dtype
        if not like or not isinstance(node.args[0], fx.Node):
            return node
        node = node.args[0]


def _kind(piece: fx.Node, body: Chain, dim: int, after: bool) -> str | float | None:
    """What a piece of fixed length is: "edge", a constant's value, or None for neither."""
    value = constant_value(piece)
    if value is not None:
        return value
    while schema_name(piece) in SEE_THROUGH and not rounds(piece):
        piece = as_node(piece.args[0])
    for chain in chains(piece, dim):
        same = (chain.root, chain.others) == (body.root, body.others)
        if same and (chain.start, chain.stop) == ((-1, None) if after else (0, 1)):
            return "edge"
    return None


def chains(node: fx.Node, dim: int) -> list[Chain]:
    """Every way to read a node as slices of something: at most one slice is along time."""
    out = [Chain(node, ())]
    others: list[tuple[Any, ...]] = []
    start, stop = 0, None
    while schema_name(node) == "aten::slice":
        source, at, first, last, step = slice_arguments(node)
        if any(isinstance(v, fx.Node) for v in (at, first, last, step)):
            break
        unbounded = last is None or last >= 2**31
        if at % node.meta["val"].dim() != dim:
            if first or not unbounded or step != 1:
                others.append((at, first, last, step))
        elif first or not unbounded:
            if step != 1 or (start, stop) != (0, None):
                break
            start, stop = first or 0, None if unbounded else last
        node = source
        out.append(Chain(node, tuple(others), start, stop))
    # Cropped readings first: crop and pad as one window answer from the first frame on.
    return sorted(out, key=lambda chain: (chain.start, chain.stop) == (0, None))


def slice_arguments(node: fx.Node) -> tuple[Any, ...]:
    defaults = [None, 0, None, None, 1]
    given = list(node.args) + defaults[len(node.args) :]
    for i, name in enumerate(("self", "dim", "start", "end", "step")):
        given[i] = node.kwargs.get(name, given[i])
    return tuple(given)


def uncropped(graph: fx.Graph, body: Chain, like: fx.Node) -> fx.Node:
    """The body without its slice along time: the other slices applied to the root."""
    node = body.root
    for arguments in reversed(body.others):
        new = graph.call_function(torch.ops.aten.slice.Tensor, (node, *arguments))
        new.meta = {k: v for k, v in like.meta.items() if k != "val"}
        new.meta["val"] = torch.ops.aten.slice.Tensor(node.meta["val"], *arguments)
        node = new
    return node


def constant_value(node: fx.Node) -> float | None:
    """The value of a tensor that is the same everywhere, else None."""
    if schema_name(node) in SEE_THROUGH | {"aten::slice"}:
        within = constant_value(as_node(node.args[0]))
        return None if within is None else _rounded(within, node)
    name = schema_name(node)
    if name not in CONSTANTS:
        return None
    value = CONSTANTS[name]
    if value is not None:
        return value
    given = named(node)["fill_value"]
    return _rounded(float(given), node) if isinstance(given, (int, float)) else None


def rounds(node: fx.Node) -> bool:
    """Whether a node changes the type, and values with it."""
    return bool(node.meta["val"].dtype != as_node(node.args[0]).meta["val"].dtype)


def _rounded(value: float, node: fx.Node) -> float:
    """A value as the type of a node has it."""
    return float(torch.full((), value, device="cpu").to(node.meta["val"].dtype))
