"""Training on long videos in steps (PGT paper, sections 3 and 4)."""

from pgt_fx.training.checkpoint import CheckpointError
from pgt_fx.training.gradients import Backward, backward
from pgt_fx.training.loop import evaluate, fit
from pgt_fx.training.metrics import metrics
from pgt_fx.training.optim import half_cosine, sgd
from pgt_fx.training.targets import OverTime, PerFrame, PerStep

__all__ = [
    "Backward",
    "CheckpointError",
    "OverTime",
    "PerFrame",
    "PerStep",
    "backward",
    "evaluate",
    "fit",
    "half_cosine",
    "metrics",
    "sgd",
]
