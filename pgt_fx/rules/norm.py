"""Normalisations: local, unless their statistics span time."""

from __future__ import annotations

from pgt_fx.layout import Layout, has_time, time_dims
from pgt_fx.rules.registry import Local, OpView, Outcome, Refusal, StepOnly, hint, rule


def _whole(op: OpView, source: Layout, reason: str, *, training: bool = False) -> Outcome:
    results = op.node.meta["val"]
    if isinstance(results, (tuple, list)):
        return StepOnly([source] + [None] * (len(results) - 1), reason, training=training)
    return StepOnly(source, reason, training=training)


@rule(
    "batch_norm",
    "native_batch_norm",
    "_native_batch_norm_legit",
    "_native_batch_norm_legit_no_training",
    "cudnn_batch_norm",
)
def batch_norm(op: OpView) -> Outcome:
    """In eval a scale and a shift per channel. In training the statistics are those of the step:
    what the paper's training does."""
    source = op.layout(op.tensors[0])
    if len(source) > 1 and has_time(source[1]):
        raise Refusal("time stands in the place of the channels")
    training = op.arg.get("training", op.arg.get("train", False))
    if training or op.arg.get("running_mean") is None:
        return _whole(
            op,
            source,
            "batch statistics are those of the step",
            training=bool(training) and op.arg.get("running_mean") is not None,
        )
    results = op.node.meta["val"]
    return (
        Local([source] + [None] * (len(results) - 1))
        if isinstance(results, tuple)
        else Local(source)
    )


@rule("instance_norm")
def instance_norm(op: OpView) -> Outcome:
    """Statistics per row and channel, over every other axis."""
    source = op.layout(op.arg["input"])
    if len(source) > 1 and has_time(source[1]):
        raise Refusal("time stands in the place of the channels")
    if not op.arg["use_input_stats"] or not any(has_time(dim) for dim in source[2:]):
        return Local(source)
    return StepOnly(source, "its mean and variance are taken over all of time")


@rule("group_norm", "native_group_norm")
def group_norm(op: OpView) -> Outcome:
    """Statistics per row and group of channels, over every other axis."""
    source = op.layout(op.arg["input"])
    if any(has_time(dim) for dim in source[1:]):
        return _whole(op, source, "its mean and variance are taken over all of time")
    results = op.node.meta["val"]
    return (
        Local([source] + [None] * (len(results) - 1))
        if isinstance(results, tuple)
        else Local(source)
    )


@rule("layer_norm", "native_layer_norm", "rms_norm", "_fused_rms_norm")
def layer_norm(op: OpView) -> Outcome:
    """Statistics over the last axes."""
    source = op.layout(op.arg["input"])
    over = len(op.arg["normalized_shape"])
    if any(has_time(dim) for dim in source[-over:]):
        raise Refusal(
            "normalises over the time axis with one weight per frame: it fixes the length",
            "normalise over channels, or over channels and space",
        )
    results = op.node.meta["val"]
    return (
        Local([source] + [None] * (len(results) - 1))
        if isinstance(results, tuple)
        else Local(source)
    )


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
    from pgt_fx.layout import broadcast

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
        return StepOnly((*batch, rows, columns), "sums over all of time")
    if summed:
        return StepOnly((*batch, rows, _second(columns)), "sums over all of time")
    return StepOnly((*batch, rows, _second(columns)), "relates every frame to every other")


def _second(dim):  # type: ignore[no-untyped-def]
    """The dimension with its time marked as the second (key) axis."""
    from pgt_fx.layout import Factor

    return tuple(Factor(f.size, f.symbolic, 2 if f.time else 0, f.batch) for f in dim)


def _einsum(op: OpView) -> Outcome:
    equation = op.arg["equation"].replace(" ", "")
    if "..." in equation or "->" not in equation:
        raise Refusal("no rule for an einsum with an ellipsis or without '->'")
    terms, result = equation.split("->")
    dims: dict[str, tuple] = {}
    meets: set[str] = set()
    for letters, node in zip(terms.split(","), op.arg["tensors"], strict=True):
        for letter, dim in zip(letters, op.layout(node), strict=True):
            if letter in dims and has_time(dims[letter]) and has_time(dim):
                meets.add(letter)
            if letter not in dims or has_time(dim):
                dims[letter] = dim
    timed = [letter for letter in dims if has_time(dims[letter])]
    kept = [letter for letter in result if letter in timed]
    sizes = dict(zip(result, [hint(s) for s in op.node.meta["val"].shape], strict=True))
    if timed == kept and len(kept) == 1:
        return Local(tuple(dims[c] for c in result))
    if not kept:
        raise Refusal("sums over all of time, and nothing that depends on time is left")
    first = kept[0]
    layout = tuple(
        dims[c] if c == first or not has_time(dims[c]) else _second(dims[c]) for c in result
    )
    del sizes
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
