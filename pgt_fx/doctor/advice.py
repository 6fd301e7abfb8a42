"""What to change in a model, operator by operator."""

from __future__ import annotations

from pgt_fx.compiler.analysis.walk import Operation
from pgt_fx.core.laws import Interpolate, Window
from pgt_fx.rules import Reduced, StepOnly, Windowed


def for_look_ahead(operation: Operation, pad: Window | None = None) -> str:
    """How an operator that reads the future could read the past instead.

    Args:
        pad: the ``F.pad`` that stands in front of it.
    """
    outcome = operation.outcome
    if not isinstance(outcome, Windowed):
        return ""
    law = outcome.law
    if isinstance(law, Interpolate):
        return "upsample by mode='nearest', which reads no later frame"
    if not isinstance(law, Window):
        return "crop its result at the end and not at the start"
    if law.kernel == 1:
        return "shift towards the past only"
    if pad is not None:
        whole = law.span - law.stride if law.stride > 1 else law.span - 1
        told = f"{max(pad.left, 0)} and {max(pad.right, 0)}"
        return (
            f"put {whole} in front and 0 behind in place of {told} in the F.pad before it: "
            f"{_pad(operation, whole)}; train again, or fine-tune"
        )
    if law.left <= 0 and law.right <= 0:
        return (
            f"it waits for its whole window of {law.span}: let the head pool over all of time "
            "(AdaptiveAvgPool, mean) with pooling='running', or pad in front"
        )
    back = law.span - law.stride if law.stride > 1 else law.span - 1
    return (
        f"pad {back} in front and 0 behind in place of {law.left} and {law.right}: "
        f"F.pad(x, {_pad(operation, back)}), and padding 0 along time in the layer; train again, "
        "or fine-tune"
    )


def _pad(operation: Operation, back: int) -> str:
    value = operation.node.meta.get("val")
    rank = value.dim() if value is not None else 5
    return "(" + "0, " * (2 * max(0, rank - 3)) + f"{back}, 0)"


def for_mixing(operation: Operation, gated: bool) -> str:
    """What to do about an operator that needs all of time."""
    outcome, op = operation.outcome, operation.place.op
    if isinstance(outcome, Reduced) and not gated:
        return "pooling='running' keeps it over all frames so far: the last step's answer is exact"
    if isinstance(outcome, Reduced):
        return (
            "it gates single frames: squeeze over space alone, or over the frames so far "
            "(a running mean), or accept the step's own mean with strict=False"
        )
    if isinstance(outcome, StepOnly) and outcome.training:
        return "batch statistics of train mode; in eval mode it works frame by frame"
    if "norm" in op:
        return "normalise each frame by itself: fold time into the batch in front of it"
    if "attention" in op or "softmax" in op or "mm" in op or "einsum" in op:
        return (
            "attend within a step (strict=False), or over space alone; a causal window of frames "
            "is a convolution's reach, all of time is no bounded state"
        )
    return "accept that it is computed within each step (strict=False), or leave it outside"
