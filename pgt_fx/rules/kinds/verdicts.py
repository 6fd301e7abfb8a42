"""The verdicts of a kind on an operator: for the report and the picture of ``pgt-fx doctor``."""

from __future__ import annotations

from typing import NamedTuple

EXACT, STEP, RUNNING, TRAINING = "exact", "step", "running", "step (training)"
CONTEXT = "context"
#: How the reason ends where what stands for all of time is combined with single frames.
GATED = "and is combined with single frames again"


class Verdict(NamedTuple):
    """An operator in the report.

    Attributes:
        what: the operator in short words.
        verdict: "exact" (its state reproduces the model), "running" (exact once the video has
            ended), "step" (computed within each step), "step (training)", "context" (the past of a
            step is an aggregate: CMCO, PMCO).
        reason: why, for verdicts other than exact.
        excused: ``future="wait"`` lets it be, though no state reproduces it: what it gives is of
            the frames of a step and is taken as such.
    """

    what: str
    verdict: str
    reason: str = ""
    excused: bool = False

    @property
    def depends_on_cuts(self) -> bool:
        """Whether the result depends on how the video is cut."""
        return self.verdict in (STEP, CONTEXT)


class Mixing(NamedTuple):
    """An operator that needs all of time, in the doctor's list.

    Attributes:
        verdict: "step" (computed within each step) or "running" (exact at the end of the video
            with pooling="running").
        reason: why.
    """

    verdict: str
    reason: str


class Drawn(NamedTuple):
    """The box of an operator in the doctor's picture.

    Attributes:
        note: its second line.
        colour: key of :data:`pgt_fx.doctor.picture.VERDICTS`.
        why: the reason; "" for the user's line.
    """

    note: str
    colour: str
    why: str = ""
