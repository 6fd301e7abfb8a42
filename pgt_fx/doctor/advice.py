"""What to change in a model, operator by operator."""

from __future__ import annotations

from pgt_fx.compiler.analysis.walk import Operation
from pgt_fx.rules import Reduced, StepOnly, Windowed


def for_look_ahead(operation: Operation, pad: tuple[int, int] | None = None) -> str:
    """How an operator that reads the future could read the past instead.

    Args:
        pad: padding, left and right, of the ``F.pad`` that stands in front of it.
    """
    outcome = operation.outcome
    if not isinstance(outcome, Windowed):
        return ""
    value = operation.node.meta.get("val")
    return outcome.law.to_look_back(5 if value is None else value.dim(), pad)


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
