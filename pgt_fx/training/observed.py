"""Update metrics from a batch: the scores of its videos, or of the boxes of each step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pgt_fx.core.clip import as_call
from pgt_fx.core.errors import OptionError
from pgt_fx.core.schedule import OverTime, PerStep, Schedule
from pgt_fx.core.torch_private import pytree
from pgt_fx.inference import predict
from pgt_fx.inference.predict import evaluating
from pgt_fx.inference.rows import rows_of_steps
from pgt_fx.inference.scores import Activation
from pgt_fx.runtime.chunks import new_frames
from pgt_fx.runtime.progressive import Progressive
from pgt_fx.training.losses import is_empty
from pgt_fx.training.metrics import observe, several, video_scores
from pgt_fx.training.targets import Labels


def observe_training(
    metrics: dict[str, Any], prog: Progressive, video: Any, target: Any, found: Any
) -> None:
    """Show metrics the answers of one backward (``found``)."""
    if _has_boxes(prog, video, target):
        _observe_steps(metrics, found.outputs, found.targets)
        return
    scores = video_scores(found.outputs, target) if isinstance(target, Tensor) else None
    if scores is not None:
        observe(metrics, scores, target)


def observe_validation(
    metrics: dict[str, Any],
    prog: Progressive,
    video: Any,
    target: Any,
    schedule: Schedule | None,
) -> None:
    """Run a video in steps, in eval mode, and show metrics its scores."""
    args, named = as_call(video)
    if _has_boxes(prog, video, target):
        pieces = prog.chunks(*args, schedule=schedule, **named)
        lengths = [min(prog.lengths(*a, **k)) for a, k in pieces]
        labels = Labels(target, new_frames(lengths, schedule))
        with evaluating(prog), torch.no_grad():
            outputs = prog.run(*args, schedule=schedule, **named)
        _observe_steps(metrics, outputs, [labels.of(n, None) for n in range(len(outputs))])
        return
    kind: Activation = "sigmoid" if several(target) else "auto"
    call = (video,) if isinstance(video, dict) else args
    scores = predict(prog, *call, schedule=schedule, activation=kind, cost=False).scores
    if isinstance(target, Tensor):  # labels per step or frame are none of the whole video
        observe(metrics, scores, target)


def _has_boxes(prog: Progressive, video: Any, target: Any) -> bool:
    """Whether each step scores rows of its own, with labels of its own."""
    args, named = as_call(video)
    leaves = prog.inspect.clip.flatten(args, named)
    return isinstance(target, PerStep | OverTime) and rows_of_steps(prog, leaves)


def _observe_steps(metrics: dict[str, Any], outputs: Sequence[Any], targets: Sequence[Any]) -> None:
    """Every box counts equally, whichever step it is in; a step without boxes adds nothing."""
    for number, (output, target) in enumerate(zip(outputs, targets, strict=True), 1):
        answer = None if output is None else pytree.tree_leaves(output)[0]
        if answer is None or answer.dim() != 2 or not isinstance(target, Tensor):
            continue
        if answer.shape[0] != target.shape[0]:
            raise OptionError(
                f"step {number} has scores of {answer.shape[0]} boxes, and labels of "
                f"{target.shape[0]}; expected as many"
            )
        if not is_empty(target):
            x = answer.float()
            observe(metrics, x.sigmoid() if several(target) else x.softmax(1), target)
