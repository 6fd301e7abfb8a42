"""Training on long videos in steps (PGT paper, sections 3 and 4)."""

from pgt_fx.training.gradients import Backward, backward
from pgt_fx.training.targets import PerFrame, PerStep

__all__ = ["Backward", "PerFrame", "PerStep", "backward"]
