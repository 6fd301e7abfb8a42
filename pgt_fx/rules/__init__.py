"""Operator rules: each operator's law in one place (DESIGN §5, §6)."""

from pgt_fx.rules import attention, concat, norm, pointwise, reduce, resample, reshape, scan, window
from pgt_fx.rules import scatter as write
from pgt_fx.rules import slice_pad as shift
from pgt_fx.rules.registry import (
    RULES,
    Attention,
    CausalAttention,
    Concatenated,
    Kind,
    Local,
    OpView,
    Outcome,
    Reduced,
    Refusal,
    Scanned,
    StepOnly,
    Windowed,
    rule,
)

__all__ = [
    "RULES",
    "Attention",
    "CausalAttention",
    "Concatenated",
    "Kind",
    "Local",
    "OpView",
    "Outcome",
    "Reduced",
    "Refusal",
    "Scanned",
    "StepOnly",
    "Windowed",
    "attention",
    "concat",
    "norm",
    "pointwise",
    "reduce",
    "resample",
    "reshape",
    "rule",
    "scan",
    "shift",
    "window",
    "write",
]
