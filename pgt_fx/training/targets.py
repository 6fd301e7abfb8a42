"""Labels: one for all steps, one per step (also of steps that are drawn), one per frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from pgt_fx.core.counts import counted
from pgt_fx.core.errors import OptionError
from pgt_fx.core.schedule import OverTime, PerStep

__all__ = ["Labels", "OverTime", "PerFrame", "PerStep"]


@dataclass(frozen=True)
class PerFrame:
    """Labels of each output element of the video; a step's loss gets those that it answers.

    Attributes:
        target: tensor with as many elements along ``dim`` as the model has outputs along time
            for the whole video.
        dim: its time dimension.
    """

    target: Tensor
    dim: int = 1


class Labels:
    """Hands each step its labels. Counts elements answered, for :class:`PerFrame`.

    Args:
        target: of :func:`pgt_fx.training.backward`.
        lengths: frames of each step, of the path with the fewest.

    Attributes:
        own: whether each step has labels of its own.
    """

    def __init__(self, target: Any, lengths: Sequence[int]) -> None:
        steps = len(lengths)
        if isinstance(target, OverTime):
            target = target.cut(lengths)
        self.own = isinstance(target, PerStep | PerFrame)
        if isinstance(target, PerStep) and len(target.targets) != steps:
            raise OptionError(
                f"PerStep: expected one label per step, {steps} for this video and schedule, got "
                f"{len(target.targets)}"
            )
        if isinstance(target, PerFrame) and not -target.target.dim() <= target.dim < (
            target.target.dim()
        ):
            raise OptionError(
                f"PerFrame: dim={target.dim}, but the labels have {target.target.dim()} dimensions"
            )
        self.target, self.answered = target, 0

    def check(self, elements: int | None) -> None:
        """Before anything is run: labels per frame must be as many as the video has outputs.

        Args:
            elements: outputs along time of the whole video; None: the output has no time axis.

        Raises:
            OptionError: when they are more or fewer.
        """
        if not isinstance(self.target, PerFrame):
            return
        if elements is None:
            raise OptionError(
                "PerFrame: the model's output has no time axis; use one label, or PerStep"
            )
        size = self.target.target.shape[self.target.dim]
        if size != elements:
            raise OptionError(
                f"PerFrame: {counted(size, 'label')} along dimension {self.target.dim}, but the "
                "model answers "
                f"{counted(elements, 'element')} for this video; expected one label per output "
                "element"
            )

    def of(self, step: int, elements: int | None) -> Any:
        """Labels of step ``step``, which answers ``elements`` along time (None: no time axis).

        Raises:
            OptionError: when labels per frame don't go with the outputs.
        """
        target = self.target
        if isinstance(target, PerStep):
            return target.targets[step]
        if not isinstance(target, PerFrame):
            return target
        if elements is None:
            raise OptionError(
                "PerFrame: the model's output has no time axis; use one label, or PerStep"
            )
        size, start = target.target.shape[target.dim], self.answered
        self.answered += elements
        if self.answered > size:
            raise OptionError(
                f"PerFrame: {counted(size, 'label')} along dimension {target.dim}, but the model "
                "has answered "
                f"{counted(self.answered, 'element')}; expected one label per output element"
            )
        return target.target.narrow(target.dim, start, elements)

    def check_end(self) -> None:
        """All labels per frame must have been used.

        Raises:
            OptionError: when the outputs were fewer.
        """
        if isinstance(self.target, PerFrame):
            size = self.target.target.shape[self.target.dim]
            if self.answered != size:
                raise OptionError(
                    f"PerFrame: {counted(size, 'label')}, but the model has answered "
                    f"{counted(self.answered, 'element')} "
                    "in all; expected one label per output element"
                )
