"""Operator rules: each operator's law in one place (DESIGN §5, §6)."""

from pgt_fx.rules import attention, norm, pointwise, reduce, resample, reshape, shift, window
from pgt_fx.rules.registry import (
    RULES,
    Local,
    OpView,
    Outcome,
    Reduced,
    Refusal,
    StepOnly,
    Windowed,
    rule,
)

__all__ = [
    "RULES",
    "Local",
    "OpView",
    "Outcome",
    "Reduced",
    "Refusal",
    "StepOnly",
    "Windowed",
    "attention",
    "norm",
    "pointwise",
    "reduce",
    "resample",
    "reshape",
    "rule",
    "shift",
    "window",
]
