"""Kinds of operators along time: one class each, with all that the package knows of it.

:class:`~pgt_fx.rules.kinds.kind.Kind` is their interface.
"""

from pgt_fx.rules.kinds.attention import Attention, CausalAttention
from pgt_fx.rules.kinds.concatenation import Concatenated
from pgt_fx.rules.kinds.kind import Kind
from pgt_fx.rules.kinds.local import Local
from pgt_fx.rules.kinds.per_step import StepOnly
from pgt_fx.rules.kinds.reduction import Reduced
from pgt_fx.rules.kinds.scan import Scanned
from pgt_fx.rules.kinds.window import Windowed

__all__ = [
    "Attention",
    "CausalAttention",
    "Concatenated",
    "Kind",
    "Local",
    "Reduced",
    "Scanned",
    "StepOnly",
    "Windowed",
]
