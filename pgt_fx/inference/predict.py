"""One call from a video to its scores (PGT paper, section 4)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from pgt_fx.core.errors import OptionError
from pgt_fx.core.options import Changes, _choice
from pgt_fx.core.schedule import Schedule, check_lengths
from pgt_fx.core.torch_private import pytree
from pgt_fx.inference.cost import Cost, Meter
from pgt_fx.inference.rows import rows_of_steps
from pgt_fx.inference.scores import Activation, Scoring
from pgt_fx.inference.video import Short
from pgt_fx.inference.views import Steps, Views, clip_frames, frames_of, read_video, repeated, whole
from pgt_fx.runtime.module_call import stepped
from pgt_fx.runtime.progressive import Progressive

View = Literal["progressive", "original", "stream"]

#: The policies under which a model in steps answers as the original long view does (DESIGN §3).
EXACT: Changes = {"future": "wait", "pooling": "running", "operator": "mco"}


@dataclass(frozen=True)
class Prediction:
    """Scores of a batch of videos.

    Attributes:
        scores: one row per video; the model's first output after activation, reduced over
            frames, steps and views. Of a detection model that is given boxes step by step: one
            row per box, step after step.
        steps: the same for each step alone, reduced over its frames and over views; None for a
            step that had no answer.
        cost: operations per video, or None with ``cost=False``.
        views: how many were run, no two the same: fewer than ``temporal`` × ``spatial`` where the
            video has no room for more.
        repeated: how many frames were added at the end of a video that is too short, in the input
            path with the fewest.
    """

    scores: Tensor
    steps: tuple[Tensor | None, ...]
    cost: Cost | None
    views: int
    repeated: int


def predict(
    prog: Progressive,
    *video: Any,
    view: View = "progressive",
    schedule: Steps = None,
    temporal: int = 1,
    spatial: int = 1,
    frames: int | None = None,
    crop: int | None = None,
    short: Short = "repeat",
    over_steps: Literal["mean", "max", "last"] | None = None,
    over_frames: Literal["mean", "max"] | None = "mean",
    over_views: Literal["mean", "max"] = "mean",
    activation: Activation = "auto",
    cost: bool = True,
) -> Prediction:
    """Scores of a batch of videos, from one or more views of each.

    Runs in eval mode and without gradient; the modes of all modules are put back, and the state
    of a video that ``prog`` is in the middle of is untouched. One view is run at a time.

    Args:
        prog: a progressive model.
        video: as the model takes it (a dict: keyword arguments): a batch of whole videos.
            Tensors without time go unchanged to every view.
        view: how each clip is seen. "progressive": in the steps of ``schedule``, under the
            options of ``prog`` (the paper's progressive long view). "original": whole, in one
            step. "stream": in the steps of ``schedule`` under ``future="wait"`` and
            ``pooling="running"``: the answer of the original view at the memory of one step. A
            model to be streamed often is better replaced once, by
            ``prog.replace(future="wait", pooling="running")``, than here at each call; of a live
            video, whose last frame nobody knows, that one is fed by hand: ``prog(frames)`` for
            frames as they come, and ``prog.flush()`` at the end.
        schedule: as for :meth:`Progressive.run`; none with "original".
        temporal: number of clips, at even distances, the first and the last frame of the video
            included; a single one that is shorter than the video is its centre.
        spatial: 1, or 3 crops along the longer side of the frames: the published protocol, for
            frames whose shorter side was scaled to the crop's or a little more. Clips and crops
            that would be the same are run and counted once, and a warning says so: a square of the
            crop's size has one crop.
        frames: of a clip, in the input path with the fewest. None: as many as a schedule with a
            number of steps needs; else, for a single clip, the whole video; for several, the sum
            of the lengths listed in ``schedule``, or with "original" the example's length.
        crop: side of the square crops in pixels; None: the shorter side of the frames. They are
            not cropped at all with ``spatial=1`` and ``crop=None``.
        short: what is done with a video of fewer frames than a clip needs: "repeat" its last one,
            with a warning, as :class:`pgt_fx.training.folder.VideoFolder` does; or "refuse" it.
        over_steps: how the steps of "progressive" become one: "mean" (None means it), "max" or
            "last". Steps that have no answer are passed over. "stream" takes the last answer,
            which is pooled over the whole clip. Where each step has boxes of its own
            (:class:`~pgt_fx.PerStep`, :class:`~pgt_fx.OverTime`) there is no mean of them: None
            puts the steps' scores one after the other, and "last" takes the last step's.
        over_frames: the same for outputs with a time axis, within each step (in "stream", over
            all steps at once). None keeps the axis: steps are put one after the other.
        over_views: "mean" or "max".
        activation: applied to each answer before anything is reduced: "softmax" over the classes,
            "sigmoid", None, or a function of the output. "auto": softmax for outputs without a
            time axis that are not probabilities already; nothing for those with one, which may be
            features.
        cost: count the operations of one view, while it runs.

    Raises:
        OptionError: for a value that is unknown, or that doesn't go with the others or the output.
        ClipError: for a video that is unlike the example, too small for a crop, or under
            ``short="refuse"`` too short.
        ExactnessError: when a model that no bounded state can reproduce is to be streamed.
    """
    if not isinstance(prog, Progressive):
        raise OptionError(
            f"prog: expected a progressive model, got {type(prog).__name__}; use "
            "pgt_fx.transform(model)"
        )
    scoring = Scoring(over_steps, over_frames, over_views, activation)
    views = Views(temporal, spatial, crop)
    _check(view, schedule, frames, over_steps)
    _choice("short", short, ("repeat", "refuse"))
    spec = prog.inspect.clip
    leaves = read_video(spec, video)
    there = frames_of(spec, leaves)
    size = clip_frames(view, schedule, temporal, frames, spec, there, short)
    if size > there:
        leaves = repeated(spec, leaves, size)
    clips = views.cut(spec, leaves, size)
    meter = Meter() if cost else None
    with evaluating(prog):
        # What is made once and kept is made here: a tensor made under inference_mode could not
        # be used in training later.
        runner = _streaming(prog) if view == "stream" else prog
        time = runner.time_dims[0]
        if rows_of_steps(runner, leaves):
            scoring = replace(scoring, own_rows=True)
            _check_rows(scoring, views, time)
        scoring = _for_view(scoring, view, time, temporal)
        with torch.inference_mode():
            seen = []
            for number, clip in enumerate(clips):
                counting = meter if number == 0 else None
                call = pytree.tree_unflatten(clip, spec.spec)
                outputs = _answers(runner, view, call, schedule, counting)
                seen.append([scoring.read(y, time) for y in outputs])
            scores = scoring.views([scoring.steps(answers, time) for answers in seen])
            steps = _per_step(seen, scoring, time)
    first = spec.paths[0]
    rows = int(leaves[first].shape[0]) if spec.times[first] != 0 else 1
    return Prediction(
        # Clones: tensors made under inference_mode can't be written to outside.
        scores.clone(),
        tuple(None if x is None else x.clone() for x in steps),
        None if meter is None else meter.cost(len(clips), rows),
        len(clips),
        max(0, size - there),
    )


def _check(view: str, schedule: Steps, frames: int | None, over_steps: str | None) -> None:
    _choice("view", view, ("progressive", "original", "stream"))
    if frames is not None:
        whole("frames", frames)
    lengths = None if schedule is None else check_lengths("schedule", schedule)
    if schedule is not None and view == "original":
        raise OptionError(
            f"schedule: view='original' is one step over the whole clip, got {schedule}; leave it "
            "out and use frames=, or use view='progressive' or 'stream'"
        )
    if schedule is not None and not isinstance(schedule, Schedule):
        if not lengths:
            raise OptionError(
                f"schedule: expected a Schedule or a list of lengths of steps, got {schedule!r}"
            )
        for n in lengths:
            whole("schedule", n)
    if view == "stream" and over_steps not in (None, "last"):
        raise OptionError(
            f"over_steps={over_steps!r}: with view='stream' the last answer is that of the whole "
            "clip; leave it out, or use view='progressive'"
        )


def _check_rows(scoring: Scoring, views: Views, time: int | None) -> None:
    """What has a meaning for scores of boxes that are each step's own."""
    if scoring.over_steps in ("mean", "max"):
        raise OptionError(
            f"over_steps={scoring.over_steps!r}: each step scores boxes of its own, which have no "
            f"{scoring.over_steps}; leave it out for the scores of all steps one after the other, "
            "or use 'last'; .steps has them step by step"
        )
    if views != Views():
        raise OptionError(
            "temporal, spatial, crop: boxes that are given step by step are those of one clip and "
            "of whole frames; leave these out, and call predict for each view with its own boxes"
        )
    if time is not None and scoring.over_frames is None:
        raise OptionError(
            "over_frames=None: the scores of boxes of several steps are put one after the other, "
            "and can't keep a time axis each; use over_frames='mean' or 'max'"
        )


def _for_view(scoring: Scoring, view: str, time: int | None, temporal: int) -> Scoring:
    """The options under one view, checked against the output's time axis."""
    if time is not None and scoring.over_frames is None:
        if temporal > 1:
            raise OptionError(
                f"temporal={temporal}: with over_frames=None element i of each clip is another "
                "moment of the video, and can't be averaged; use temporal=1, or over_frames='mean'"
            )
        if view == "progressive" and scoring.over_steps is not None:
            raise OptionError(
                f"over_steps={scoring.over_steps!r}: with over_frames=None the steps of an output "
                "with a time axis are put one after the other; leave one of them out"
            )
    if view == "stream":
        return replace(scoring, over_steps="last" if scoring.own_rows else None)
    if scoring.own_rows:
        return scoring
    return replace(scoring, over_steps=scoring.over_steps or "mean")


@contextmanager
def evaluating(prog: Progressive) -> Iterator[None]:
    """Eval mode; afterwards every module has the mode that it had (some may be frozen)."""
    modes = [(m, m.training) for m in prog.inspect.model.modules()]
    prog.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def _streaming(prog: Progressive) -> Progressive:
    if prog.options == prog.options.replace(**EXACT):
        return prog
    return prog.replace(**EXACT)


def _answers(
    prog: Progressive, view: str, call: Any, schedule: Steps, meter: Meter | None
) -> Iterator[Any]:
    """The model's output of each step of one clip."""
    args, named = call
    whole_clip = view == "original"
    pieces = [call] if whole_clip else prog.chunks(*args, schedule=schedule, **named)
    state = prog.init_state()
    for number, (piece, keywords) in enumerate(pieces):
        last = number == len(pieces) - 1
        with meter.step() if meter else nullcontext():
            output, state = stepped(prog, None, state, *piece, last=last, **keywords)
        yield output


def _per_step(
    seen: Sequence[Sequence[Tensor | None]], scoring: Scoring, time: int | None
) -> list[Tensor | None]:
    """Scores of each step over the views, which have equal sizes and answer at the same steps."""
    out: list[Tensor | None] = []
    for answers in zip(*seen, strict=True):
        due = [scoring.frames(x, time) for x in answers if x is not None]
        out.append(scoring.views(due) if due else None)
    return out
