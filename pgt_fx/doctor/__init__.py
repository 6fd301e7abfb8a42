"""Diagnosis of a model: what prevents an exact stream, what each operator costs, what to change."""

from pgt_fx.doctor.diagnosis import Ahead, Diagnosis, Mixing, examine

__all__ = ["Ahead", "Diagnosis", "Mixing", "examine"]
