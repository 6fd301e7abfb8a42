"""The rows of the study, as in the paper's tables 1 and 2, and the two settings of size."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from data import Events
from nets import SlowFast, SlowOnly
from torch import nn

from pgt_fx import DPR, MarkovOperator, Schedule


@dataclass(frozen=True)
class Setting:
    """One backbone with its videos.

    Attributes:
        backbone: "slowonly" or "slowfast".
        length, steps: T' and P, in frames of the path with the fewest.
        alpha: frames of the fast path for one of the slow path; 1 for one path.
        events: the videos.
        width: channels.
        train, test: numbers of videos.
        epochs, batch, lr: of the training.
    """

    backbone: str
    length: int
    steps: int
    alpha: int
    events: Events
    width: int
    train: int
    test: int
    epochs: int
    batch: int = 32
    lr: float = 4e-3

    def model(self) -> nn.Module:
        if self.backbone == "slowonly":
            return SlowOnly(self.events.classes, self.width)
        return SlowFast(self.events.classes, self.width, self.width // 3)

    def example(self) -> Any:
        """A clip of T' frames."""
        size = self.events.size
        slow = torch.zeros(1, 3, self.length, size, size)
        if self.alpha == 1:
            return slow
        return [slow, torch.zeros(1, 3, self.length * self.alpha, size, size)]

    @property
    def schedule(self) -> Schedule:
        return Schedule(self.length, self.steps)


def setting(backbone: str, scale: str) -> Setting:
    """``scale``: "cpu" (an hour on two cores), "gpu", or "smoke" (seconds, learns nothing)."""
    size, width, train, test, epochs = {
        "cpu": (16, 24, 1024, 512, 12),
        "gpu": (32, 48, 4096, 1024, 24),
        "smoke": (16, 6, 32, 18, 1),
    }[scale]
    if backbone == "slowonly":
        events = Events(frames=36, size=size)
        return Setting(backbone, 8, 5, 1, events, width, train, test, epochs)
    events = Events(frames=32, size=size)
    return Setting(backbone, 4, 5, 2, events, width, train, test, epochs)


@dataclass(frozen=True)
class Row:
    """One way to train.

    Attributes:
        name: as printed.
        kind: "clip" (one random clip of T'), "whole" (all frames in one backward) or "steps".
        options: policies of the progressive model.
        steps: P where it is not the setting's: a random window of so many frames is trained on.
        dpr: "A" or "B".
        gradient: "truncated" or "exact".
    """

    name: str
    kind: str = "steps"
    options: dict[str, Any] = field(default_factory=dict)
    steps: int | None = None
    dpr: str = ""
    gradient: str = "truncated"

    def schedule(self, s: Setting, iteration: int, seed: int) -> Schedule:
        """The schedule of one iteration."""
        if self.dpr:
            kind: Any = self.dpr
            return DPR(kind, s.length, s.steps, seed=seed).draw(iteration)
        return Schedule(s.length, self.steps or s.steps)


MCO = {"pooling": "markov"}
ROWS = [
    Row("clip", "clip"),
    Row("PGT (MCO), P = 2", options=MCO, steps=2),
    Row("PGT (MCO), P = 3", options=MCO, steps=3),
    Row("PGT (MCO), P = 4", options=MCO, steps=4),
    Row("PGT (MCO), P = 5", options=MCO),
    Row("CMCO-avg", options=MCO | {"operator": "cmco-avg"}),
    Row("CMCO-max", options=MCO | {"operator": "cmco-max"}),
    Row("PMCO", options=MCO | {"operator": "pmco"}),
    Row("DPR-A", options=MCO, dpr="A"),
    Row("DPR-B", options=MCO, dpr="B"),
    Row(
        "full PGT (max, m = 0.25, DPR-B)",
        options=MCO | {"operator": MarkovOperator("max", 0.25)},
        dpr="B",
    ),
    Row("PGT, future = wait", options=MCO | {"future": "wait", "strict": False}),
    Row("exact gradients (MCO)", options=MCO, gradient="exact"),
    Row(
        "exact gradients, wait, running pool",
        options={"future": "wait", "pooling": "running"},
        gradient="exact",
    ),
    Row("whole video, end to end", "whole"),
]
