"""Normalisations: local, unless their statistics span time."""

from __future__ import annotations

from torch import fx

from pgt_fx.core.layout import Layout, has_time
from pgt_fx.rules.registry import Local, OpView, Outcome, Refusal, SizeAtHand, StepOnly, rule


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
    if not isinstance(results, tuple):
        return Local(source)
    rows, size = op.arg["N"], op.arg["input"].meta["val"].shape[0]
    own = isinstance(rows, fx.Node) and str(rows.meta["val"]) == str(size)
    return Local([source] + [None] * (len(results) - 1), {"N": SizeAtHand((0,))} if own else {})


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
