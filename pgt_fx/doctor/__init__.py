"""What stands between a model and an exact stream, what each operator costs, and what to change."""

from pgt_fx.doctor.diagnosis import Ahead, Diagnosis, Mixing, examine

__all__ = ["Ahead", "Diagnosis", "Mixing", "examine"]
