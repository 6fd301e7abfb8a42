"""Operator rules: each operator's law in one place (DESIGN §5, §6)."""

from pgt_fx.rules import norm, pointwise, reduce, resample, reshape, shift, window
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
    "norm",
    "pointwise",
    "reduce",
    "resample",
    "reshape",
    "rule",
    "shift",
    "window",
]
