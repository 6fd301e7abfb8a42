"""Products and attention: what relates frames to one another (DESIGN §6).

Within the step, or with a memory of keys and values in front of the step's own; with a causal mask
that memory makes it exact.
"""

from __future__ import annotations

from torch import fx

from pgt_fx.capture.attention.find_attention import NOTE, Band
from pgt_fx.capture.attention.find_attention import Attention as Found
from pgt_fx.capture.observe.module_calls import place
from pgt_fx.core.layout import Dim, Factor, Layout, axis_of, broadcast, has_time, time_dims
from pgt_fx.core.node_arguments import as_nodes
from pgt_fx.core.torch_private import schema_of
from pgt_fx.rules.registry import (
    Attention,
    CausalAttention,
    Local,
    OpView,
    Outcome,
    Refusal,
    StepOnly,
    rule,
)

ALL = "relates every frame to every other"


@rule("matmul", "bmm", "mm", "baddbmm", "einsum", "bilinear")
def contraction(op: OpView) -> Outcome:
    """A matrix product. Local when time is a batch axis or stays a row of one operand; within
    the step when time is summed over, or when time of both operands makes a time x time map."""
    if op.schema.name == "aten::einsum":
        return _einsum(op)
    if op.schema.name in ("aten::baddbmm", "aten::bilinear"):
        raise Refusal("no rule for this product where an operand has time", "spell it as matmul")
    left_node, right_node = op.tensors[0], op.tensors[-1]
    left, right = op.layout(left_node), op.layout(right_node)
    if len(left) == 1 or len(right) == 1:
        raise Refusal("no rule for a product with a vector", "spell it as an elementwise sum")
    batch = broadcast([left[:-2], right[:-2]])
    rows, inner, columns = left[-2], left[-1], right[-1]
    summed = has_time(inner) or has_time(right[-2])
    maps = [dim for dim in (*batch, rows, columns) if has_time(dim)]
    if not summed and len(maps) == 1:
        return Local((*batch, rows, columns))
    if summed and any(f.time == 2 for f in inner) and has_time(rows):
        return _attends(op, (*batch, rows, columns), right_node, "sums over the frames attended to")
    if summed and len([d for d in (*batch, rows, columns) if has_time(d)]) <= 1:
        if not maps and not any(time_dims(batch)):
            raise Refusal(
                "sums over all of time, and nothing that depends on time is left",
                "spell it as a mean or sum over time",
            )
        # Of a map of frames by frames the rows are summed: what is left are its columns' frames.
        layout = tuple(map(_first, (*batch, rows, columns)))
        return StepOnly(layout, "sums over all of time")
    if summed:
        return StepOnly((*batch, rows, _second(columns)), "sums over all of time")
    return _attends(op, (*batch, rows, _second(columns)), right_node, ALL)


def _attends(op: OpView, layout: Layout, keys: fx.Node, reason: str) -> Outcome:
    """One of the two products of an attention, ``keys`` its keys or values."""
    found: Found | None = op.node.meta.get(NOTE)
    if found is None:
        return StepOnly(layout, reason)
    band = seen_band(op, found)
    if not band.causal:
        return Attention(layout, reason + _opened(op, found), keys=(keys,))
    return _causal(layout, "", (keys,), band)


def _causal(layout: Layout, query: str, keys: tuple[fx.Node, ...], band: Band) -> Outcome:
    """An attention that looks at no later frame; ``query``: the operand that has the rows."""
    return CausalAttention(
        "attention", layout, query, 0, _words(band), keys=keys, window=band.window
    )


def _opened(op: OpView, found: Found) -> str:
    """Why an attention with a causal mask is not causal: an operator after the softmax, or a number
    that does not hide."""
    node = found.opened
    if node is None and found.constants is not None and found.low is not None:
        return f"; what it adds to hide frames, {found.low:g}, is a bias: hide with -inf"
    rows, columns = (0, 0) if node is None else _entries(op, found)
    if node is None or not rows or not columns:
        return ""
    if not found.band(rows, columns, normalised=True).causal:
        return ""
    return f"; its mask hides the future, but no longer after {place(node)}"


def seen_band(op: OpView, found: Found) -> Band:
    """Which frames the queries of an attention see."""
    rows, columns = _entries(op, found)
    return found.band(rows, columns) if rows and columns else Band()


def _entries(op: OpView, found: Found) -> tuple[int, int]:
    """Entries per frame along the queries and the keys; 0 where they can't be determined."""
    values = found.product.meta["val"]
    out = []
    for given in _sides(op, found):
        axis = axis_of(op.layout(given[0]))
        merged = axis.inner_size if axis.inner else 1
        out.append(0 if axis.outer or merged is None or axis.dim != given[1] else merged)
    return (out[0], out[1]) if values is not None and len(out) == 2 else (0, 0)


def _sides(op: OpView, found: Found) -> list[tuple[fx.Node, int]]:
    """The operand with the queries and that with the keys, each with the dimension of time."""
    node = found.product
    if node.target is op.node.target and "query" in op.arg:
        nodes = [op.arg["query"], op.arg["key"]]
    elif "equation" in {a.name for a in schema_of(node.target).arguments}:
        nodes = as_nodes(node.args[1])
        result = str(node.args[0]).replace(" ", "").split("->")[1]
        terms = str(node.args[0]).replace(" ", "").split("->")[0].split(",")
        if result[-2] not in terms[0]:
            nodes, terms = nodes[::-1], terms[::-1]
        if any(c not in t for t, c in zip(terms, result[-2:], strict=True)):
            return []  # no product of queries and keys: it mixes the heads of a map
        return [(n, t.index(c)) for n, t, c in zip(nodes, terms, result[-2:], strict=True)]
    else:
        nodes = [n for n in node.args[:2] if isinstance(n, fx.Node)]
    return [(n, time_dims(op.layout(n), 1)[0]) for n in nodes]


def _mask(op: OpView) -> Layout | None:
    mask = op.arg.get("attn_mask")
    return op.layout(mask) if isinstance(mask, fx.Node) else None


def _words(band: Band) -> str:
    return "causal attention" + (f", {band.window} back" if band.window is not None else "")


def _first(dim: Dim) -> Dim:
    """The dimension with its time marked as the first axis."""
    return tuple(Factor(f.size, f.symbolic, min(f.time, 1), f.batch) for f in dim)


def _second(dim: Dim) -> Dim:
    """The dimension with its time marked as the second (key) axis."""
    return tuple(Factor(f.size, f.symbolic, 2 if f.time else 0, f.batch) for f in dim)


def _einsum(op: OpView) -> Outcome:
    equation = op.arg["equation"].replace(" ", "")
    if "..." in equation or "->" not in equation:
        raise Refusal("no rule for an einsum with an ellipsis or without '->'")
    terms, result = equation.split("->")
    dims: dict[str, Dim] = {}
    for letters, node in zip(terms.split(","), op.arg["tensors"], strict=True):
        for letter, dim in zip(letters, op.layout(node), strict=True):
            if letter not in dims or has_time(dim):
                dims[letter] = dim
    timed = [letter for letter in dims if has_time(dims[letter])]
    kept = [letter for letter in result if letter in timed]
    if timed == kept and len(kept) == 1:
        return Local(tuple(dims[c] for c in result))
    operands = list(zip(terms.split(","), op.arg["tensors"], strict=True))
    if not kept:
        raise Refusal("sums over all of time, and nothing that depends on time is left")
    first = kept[0]
    layout = tuple(
        dims[c] if c == first or not has_time(dims[c]) else _second(dims[c]) for c in result
    )
    if len(kept) == 2 and len(operands) == 2:  # the map; its columns are the keys
        keys = [n for letters, n in operands if kept[1] in letters]
        return _attends(op, layout, keys[0], ALL)
    sums = [c for c in timed if c not in kept]
    values = [n for _, n in operands if not _is_map(op.layout(n))]
    if len(sums) == 1 and len(values) == 1 and len(operands) == 2:
        return _attends(op, layout, values[0], "sums over the frames attended to")
    return StepOnly(layout, ALL)


def _is_map(layout: Layout) -> bool:
    return bool(time_dims(layout, 2))


@rule("scaled_dot_product_attention")
def attention(op: OpView) -> Outcome:
    """Attention over the axis before the last. Time in a batch axis: frame-wise, local."""
    query, key = op.layout(op.arg["query"]), op.layout(op.arg["key"])
    value = op.layout(op.arg["value"])
    if any(has_time(layout[-1]) for layout in (query, key, value)):
        raise Refusal("time stands in the place of the features of an attention")
    if not any(has_time(layout[-2]) for layout in (query, key, value)):
        return Local((*query[:-1], value[-1]))
    if not has_time(query[-2]):
        raise Refusal(
            "queries without time attend over all frames: the answer needs the whole video",
            "pool over time with a mean or max",
        )
    layout = (*query[:-1], value[-1])
    keys = (op.arg["key"], op.arg["value"])
    others = [*key, *value, *(_mask(op) or ())]
    if not op.arg.get("is_causal") and not any(map(has_time, others)):
        return Local(layout)  # keys of something else (a text): each frame by itself
    if not all(has_time(op.layout(n)[-2]) for n in keys):
        return StepOnly(layout, "attends over all of time")
    found: Found | None = op.node.meta.get(NOTE)
    band = seen_band(op, found) if found is not None else Band()
    if band.causal:
        return _causal(layout, "query", keys, band)
    return Attention(
        layout,
        "attends over all of time" + ("" if found is None else _opened(op, found)),
        keys=keys,
    )
