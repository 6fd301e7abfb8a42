"""How a video is cut into progressive steps. Pure functions of integers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pgt_fx.errors import ClipError, OptionError


@dataclass(frozen=True)
class Schedule:
    """P steps of T' frames, each beginning with the ``overlap`` last frames of the one before.

    With the carried context those frames are not fed again, so that the chunks are T', T'-1,
    T'-1 … and the video has T = (T'-1)*P + 1 frames (PGT paper, section 3.1).

    Attributes:
        length: T', frames seen by a step.
        steps: P, or None for as many as the video has.
        overlap: frames shared by successive steps.

    Raises:
        OptionError: when a figure makes no sense.
    """

    length: int = 8
    steps: int | None = None
    overlap: int = 1

    def __post_init__(self) -> None:
        if self.length < 1 or (self.steps is not None and self.steps < 1):
            raise OptionError(f"length and steps: expected at least 1, got {self}")
        if not 0 <= self.overlap < self.length:
            raise OptionError(f"overlap: expected 0 … length - 1, got {self.overlap}")

    def __iter__(self) -> Iterator[int]:
        """Lengths of the chunks: 8, 7, 7, 7, 7 for five steps of eight frames."""
        return iter(self.chunks())

    def chunks(self, frames: int | None = None) -> list[int]:
        """Lengths of the chunks for a video of ``frames`` frames (None: as long as the schedule).

        A remainder makes a shorter last chunk.

        Raises:
            ClipError: when the video is shorter than the schedule.
        """
        stride = self.length - self.overlap
        if frames is None:
            return [self.length] + [stride] * ((self.steps or 1) - 1)
        if frames < 1:
            raise ClipError(f"a video of at least 1 frame was expected, got {frames}")
        if self.steps is not None:
            wanted = self.length + stride * (self.steps - 1)
            if frames < wanted:
                raise ClipError(
                    f"{self} needs a video of {wanted} frames, got {frames}; use fewer or shorter "
                    "steps, or steps=None"
                )
            frames = wanted
        out = [min(self.length, frames)]
        while sum(out) < frames:
            out.append(min(stride, frames - sum(out)))
        return out
