"""From a model's answers to the scores of a video: over frames, then steps, then views."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from pgt_fx.core.counts import counted
from pgt_fx.core.errors import ClipError, OptionError
from pgt_fx.core.options import _choice
from pgt_fx.core.torch_private import pytree

Activation = Literal["auto", "softmax", "sigmoid"] | Callable[[Tensor], Tensor] | None


@dataclass(frozen=True)
class Scoring:
    """The options of :func:`pgt_fx.inference.predict` that say how answers become scores.

    Attributes:
        over_steps: "mean" | "max" | "last"; None where the steps make up one answer: the last
            one, or with a time axis all of them, one after the other.
        over_frames: "mean" | "max"; None keeps the elements along time.
        over_views: "mean" | "max".
        activation: "auto" | "softmax" | "sigmoid" | None | a function of the output.
        own_rows: each step scores rows of its own (boxes): None of ``over_steps`` puts them one
            after the other.

    Raises:
        OptionError: for an unknown value, naming the nearest.
    """

    over_steps: str | None
    over_frames: str | None
    over_views: str
    activation: Activation
    own_rows: bool = False

    def __post_init__(self) -> None:
        if self.over_steps is not None:
            _choice("over_steps", self.over_steps, ("mean", "max", "last"))
        if self.over_frames is not None:
            _choice("over_frames", self.over_frames, ("mean", "max"))
        _choice("over_views", self.over_views, ("mean", "max"))
        if self.activation is not None and not callable(self.activation):
            _choice("activation", self.activation, ("auto", "softmax", "sigmoid"))

    def read(self, output: Any, time: int | None) -> Tensor | None:
        """A step's answer as scores, all its frames; None when none was due.

        Args:
            output: what the model returned; its first output is taken.
            time: the time dimension of that output.

        Raises:
            OptionError: when it is no floating tensor, or has no single dimension of classes.
        """
        answer = None if output is None else pytree.tree_leaves(output)[0]
        if answer is None:
            return None
        if not isinstance(answer, Tensor) or not answer.is_floating_point():
            kind = answer.dtype if isinstance(answer, Tensor) else type(answer).__name__
            raise OptionError(
                f"the model's first output is {kind}; expected a tensor of floating scores: let "
                "the model return them first"
            )
        # Many averages follow: half precision is averaged in single.
        x = answer.float() if answer.element_size() < 4 else answer
        return self._activated(x, time)

    def _activated(self, x: Tensor, time: int | None) -> Tensor:
        if callable(self.activation):
            return self.activation(x)
        if self.activation == "sigmoid":
            return x.sigmoid()
        if self.activation == "softmax" or (self.activation == "auto" and time is None):
            dim = _classes(x, time)
            # Some models end with a softmax of their own: a second one would flatten the scores.
            done = self.activation == "auto" and _probabilities(x, dim)
            return x if done else x.softmax(dim)
        return x

    def frames(self, x: Tensor, time: int | None) -> Tensor:
        """Scores of one step, its frames reduced."""
        if time is None or self.over_frames is None:
            return x
        return x.mean(time) if self.over_frames == "mean" else x.amax(time)

    def steps(self, answers: Sequence[Tensor | None], time: int | None) -> Tensor:
        """Scores of one view from the answers of its steps, of which some may be None.

        Raises:
            ClipError: when no step has answered.
        """
        due = [x for x in answers if x is not None]
        if not due:
            raise ClipError(
                f"none of {counted(len(answers), 'step')} has an answer: the clip is shorter "
                "than the model "
                "needs; use more frames"
            )
        if self.own_rows and self.over_steps is None:
            return torch.cat([self.frames(x, time) for x in due])
        if time is not None and (self.over_steps is None or self.over_frames is None):
            return self.frames(torch.cat(due, time), time)
        reduced = [self.frames(x, time) for x in due]
        # A step without a new element says nothing: the last answer is still the last one's.
        last = self.over_steps in (None, "last")
        return reduced[-1] if last else reduce(reduced, self.over_steps)

    def views(self, scores: Sequence[Tensor]) -> Tensor:
        """Scores of the video from those of its views."""
        return reduce(scores, self.over_views)


def reduce(scores: Sequence[Tensor], how: str | None) -> Tensor:
    """The mean or the largest of scores of one shape; the only one as it is.

    Raises:
        OptionError: when they have several.
    """
    if len(scores) == 1:
        return scores[0]
    shapes = [*dict.fromkeys(tuple(x.shape) for x in scores)]
    if len(shapes) > 1:
        raise OptionError(
            f"over_steps, over_views: scores of shapes {' and '.join(map(str, shapes[:3]))} have "
            f"no {how}; use over_steps='last', or let prog.run(…) give the answers of each step"
        )
    together = torch.stack(list(scores))
    return together.amax(0) if how == "max" else together.mean(0)


def _classes(x: Tensor, time: int | None) -> int:
    """The dimension of the classes: the one of several elements beside batch and time."""
    found = [d for d in range(1, x.dim()) if d != time and x.shape[d] > 1]
    if len(found) == 1:
        return found[0]
    shape = "(" + ", ".join("T" if d == time else str(n) for d, n in enumerate(x.shape)) + ")"
    if not found:
        raise OptionError(
            f"activation: softmax over the single score of an output {shape} is 1 whatever the "
            "video; use activation='sigmoid', or None for no activation"
        )
    raise OptionError(
        f"activation: softmax over the classes of an output {shape} may mean dimension "
        f"{' or '.join(map(str, found))}; pass activation=lambda x: x.softmax(…), or None"
    )


def _probabilities(x: Tensor, dim: int) -> bool:
    return bool((x >= 0).all()) and bool(((x.sum(dim) - 1).abs() < 1e-3).all())
