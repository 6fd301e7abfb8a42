"""Products and attention: what relates frames to one another stays within the step (DESIGN §6)."""

from __future__ import annotations

from pgt_fx.layout import Dim, Factor, broadcast, has_time, time_dims
from pgt_fx.rules.registry import Local, OpView, Outcome, Refusal, StepOnly, rule


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
    return StepOnly((*batch, rows, _second(columns)), "relates every frame to every other")


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
    if not kept:
        raise Refusal("sums over all of time, and nothing that depends on time is left")
    first = kept[0]
    layout = tuple(
        dims[c] if c == first or not has_time(dims[c]) else _second(dims[c]) for c in result
    )
    return StepOnly(layout, "relates every frame to every other")


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
    causal = " (causal)" if op.arg["is_causal"] else ""
    return StepOnly((*query[:-1], value[-1]), f"attends over all of time{causal}")
