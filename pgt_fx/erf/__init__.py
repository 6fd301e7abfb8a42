"""Temporal receptive fields, theoretical and effective (PGT paper, Fig. 5)."""

from pgt_fx.erf.measurement import measure
from pgt_fx.erf.result import Curve, Receptive

__all__ = ["Curve", "Receptive", "measure"]
