"""The self-check: a program is run beside its model before it is handed out.

Of the analysis only its claim is used, which outputs are the model's: the same
random videos go through the model and through the program, in one step and in several, at the
smallest frames that the model takes.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx

from pgt_fx.capture.observe.failing_line import GRADIENTS
from pgt_fx.capture.probe.meta_run import probe
from pgt_fx.compiler.analysis.longest_step import longest_step
from pgt_fx.compiler.selfcheck.clip_steps import clip_steps
from pgt_fx.compiler.selfcheck.compare import Difference, Found, compare
from pgt_fx.compiler.selfcheck.copies import Trial, Unfit, longest_of
from pgt_fx.compiler.selfcheck.draws import as_before
from pgt_fx.compiler.selfcheck.measure import error, leaves
from pgt_fx.compiler.selfcheck.places import unlike_model, unlike_whole
from pgt_fx.compiler.selfcheck.trials import BOUNDS, OTHER_BOUNDS, SLACK
from pgt_fx.compiler.selfcheck.unseen import unseen
from pgt_fx.compiler.selfcheck.videos import Video, first_line, short
from pgt_fx.core.clip import resized
from pgt_fx.core.counts import counted
from pgt_fx.core.errors import ClipError, PgtError, SelfCheckError, StreamWarning
from pgt_fx.rules.registry import hint
from pgt_fx.runtime.progressive import Progressive

#: Questions of a model that are answered otherwise under ``no_grad``.
OF_GRADIENTS = {GRADIENTS, "torch.is_grad_enabled"}
#: How much more than the model itself on the very same video.
SLACK_THERE = 4.0
#: Sides of frames that are tried, in pixels, before the example's own.
SIDES = (8, 16, 32, 48, 64, 96, 112, 128, 160, 192, 224)
#: And before these for a model that makes larger frames of them, as decoders do.
OF_LATENTS = (2, 4)


@dataclass(frozen=True)
class Checked:
    """What a self-check has compared.

    Attributes:
        lengths: frames of the videos, in the path with the fewest; empty where nothing was.
        dtype: in which they were run.
        note: why nothing was compared, or not all of it.
    """

    lengths: tuple[int, ...] = ()
    dtype: str = ""
    note: str = ""

    def __str__(self) -> str:
        if not self.lengths:
            return f"not checked: {self.note}"
        numbers = ", ".join(map(str, self.lengths))
        result = f"equals the model on videos of {numbers} frames, whole and in steps, {self.dtype}"
        return f"{result}; {self.note}" if self.note else result


def self_check(prog: Progressive) -> Checked:
    """Compare a program with its model. It works on copies; no random generator moves on.

    Returns:
        what was compared, or why nothing was.

    Raises:
        SelfCheckError: with the first operator that differs.
    """
    if any(x.is_meta for x in (*prog.parameters(), *prog.buffers())):
        return Checked(note="the model's weights are on the meta device, without values")
    # A model that writes into its parameters is called again all the same.
    quiet = warnings.catch_warnings(action="ignore", category=StreamWarning)
    # A model that asks whether gradients are on is another graph without them.
    gradients = torch.is_grad_enabled() and bool(prog.inspect.captured.surroundings & OF_GRADIENTS)
    with torch.inference_mode(False), torch.set_grad_enabled(gradients), as_before(), quiet:
        try:
            side = _smallest(prog)
            training = [m for m in prog.inspect.model.modules() if m.training]
            if not training:
                return _checked(prog, side)
            found = _checked(prog, side, steps=False)
            return replace(found, note=_in_eval_mode(prog, side, found))
        except Unfit as reason:
            return Checked(note=str(reason))


def _in_eval_mode(prog: Progressive, side: int | None, train: Checked) -> str:
    """A model in train mode is compared whole; in steps its copy in eval mode, where norms do not
    see the step alone and nothing is drawn. Its graph is kept for when it is evaluated."""
    modes = [(m, m.training) for m in prog.inspect.model.modules()]
    try:
        prog.eval()
        found = _checked(prog, side)
    except (Unfit, PgtError) as reason:
        if isinstance(reason, SelfCheckError):
            raise
        return f"whole in train mode alone, as eval mode is refused: {first_line(reason)}"
    finally:
        for module, mode in modes:
            module.training = mode
    return "; ".join(x for x in ("whole in train mode, in steps in eval mode", found.note) if x)


def _checked(prog: Progressive, side: int | None, *, steps: bool = True) -> Checked:
    trial = Trial(prog, side, None)
    floats = [x for x in leaves(trial.answer) if isinstance(x, Tensor) and x.is_floating_point()]
    if floats and not any(bool(x.isfinite().any()) for x in floats):
        raise Unfit("all that the model itself answers is NaN or infinite: look at its weights")
    found, notes = _compared(trial, steps), []
    difference = found.difference
    loosest, _ = BOUNDS.get(trial.dtype, OTHER_BOUNDS)
    if difference is not None and _change(trial, difference.video, (0, 0)) > loosest:
        raise Unfit("the model itself answers otherwise each time, with the same random numbers")
    if difference is not None and difference.chunks and _change(trial, difference.video, (0, 1)):
        notes.append("it draws at random, so that steps were not compared")
        steps = False
        found = _compared(trial, False)
    dtype = trial.dtype
    if found.difference is not None:
        found, dtype = _judged(found.difference, prog, side, steps)
    if found.untaken:
        frames = ", ".join(map(str, found.untaken))
        notes.append(f"the model itself takes no {frames} frames")
    return Checked(tuple(found.lengths), short(dtype), "; ".join(notes))


def _compared(trial: Trial, steps: bool) -> Found:
    if trial.prog.inspect.captured.clip is not None:
        found = compare(trial, steps=False)
        found.difference = found.difference or unseen(trial, steps=False)
        if steps and found.difference is None:
            found.difference = clip_steps(trial)
        return found
    found = compare(trial, steps=steps)
    found.difference = found.difference or unseen(trial, steps=steps)
    return found


def _change(trial: Trial, video: Video, seeds: tuple[int, int]) -> float:
    """How far two answers of the model itself are apart."""
    return error(*[trial.alone(partial(trial.plain, video), seed) for seed in seeds])


# -- a difference, before it is called one -------------------------------------------------------


def _judged(
    found: Difference, prog: Progressive, side: int | None, steps: bool
) -> tuple[Found, torch.dtype]:
    """Measure again in float64, with no more than the model's own rounding let pass.

    Returns:
        what was compared then, and in which type.

    Raises:
        SelfCheckError: where it is no rounding.
    """

    def again(trial: Trial, bound: float) -> tuple[Found, torch.dtype]:
        trial.bound = max(trial.bound, bound)
        compared = _compared(trial, steps)
        if compared.difference is not None:
            raise _told(compared.difference) from compared.difference.reason
        return compared, trial.dtype

    low = found.trial
    if found.certain:
        raise _told(found) from found.reason
    if low.dtype == torch.float64:
        # A model that computes in float32 inside differs by that rounding.
        if low.typed and found.gap <= BOUNDS[torch.float32][0]:
            return again(low, BOUNDS[torch.float32][0])
        raise _told(found) from found.reason
    try:
        exact = Trial(prog, side, torch.float64)
        apart = error(low.answer, exact.answer)
    except (Unfit, PgtError, RuntimeError):  # it can't run in float64
        return again(low, OTHER_BOUNDS[0])
    rounding = SLACK * max(apart, torch.finfo(low.dtype).eps)
    rounding = max(rounding, SLACK_THERE * _rounding_there(found, exact))
    if exact.anew:  # what holds in the other type is not the program that is handed out
        again(low, rounding)
    return again(exact, rounding if exact.typed else 0.0)


def _rounding_there(found: Difference, exact: Trial) -> float:
    """How much the model itself rounds on the video of a difference: norms that are fitted to the
    clip may round other frames a hundred times as much."""
    low, frames = found.trial, found.trial.count(found.video)
    alone = all(found.video[i].shape[0] == 1 for i in low.spec.paths) and low.rows != 1
    try:
        one, other = (
            trial.alone(
                partial(trial.plain, trial.single(frames) if alone else trial.first(frames))
            )
            for trial in (low, exact)
        )
    except Exception:  # the model itself takes no such video
        return 0.0
    apart = error(one, other)
    return apart if math.isfinite(apart) else 0.0


def _told(found: Difference) -> SelfCheckError:
    trial, prog = found.trial, found.prog
    where = _where(found)
    frames = trial.count(found.video)
    how = f"in steps of {list(found.chunks)}" if found.chunks else "in one step"
    sizes = " and ".join(str(tuple(found.video[i].shape)) for i in trial.spec.paths)
    look = f"\n    look at {where}" if where else ""
    return SelfCheckError(
        f"{type(trial.model).__name__}: what was made of this model is not the model. A random "
        f"video of {counted(frames, 'frame')}, {sizes} in {short(trial.dtype)}, {how} under "
        f"future={prog.options.future!r} {found.words}{look}\n    remedy: write that part with "
        "other operators or leave it outside the model, and report it, as it ought to have been "
        "refused; check=False gives the program all the same",
        where,
    )


def _where(found: Difference) -> str:
    """The first operator that differs; "" where none can be found."""
    trial, prog = found.trial, found.prog
    chunks = [n for n in found.chunks if n]  # without a flush
    try:
        if chunks:
            where = unlike_whole(trial, prog, found.video, chunks, trial.bound)
            if where:
                return where
        return str(trial.alone(partial(unlike_model, trial, prog, found.video, trial.bound)))
    except Exception:  # what is broken can't always be looked into, and is reported all the same
        return ""


# -- how small a video may be --------------------------------------------------------------------


def _smallest(prog: Progressive) -> int | None:
    """The least side of a frame that the model takes; None: the example's own."""
    made = prog.inspect
    spec, captured = made.clip, made.captured
    if captured.clip is not None:  # it is for the frames of the example
        return None
    sides = [n for i in spec.paths for n in _sides(spec.shapes[i])]
    t = min(spec.lengths)
    alone = captured.global_pools or longest_step(prog.inspect.analysis) is not None
    frames = t if alone else prog.video_lengths.near(longest_of(t))
    for side in (*OF_LATENTS, *SIDES) if _enlarges(prog) else SIDES:
        if side >= max(sides, default=0):
            break
        clip = resized(
            spec,
            made.example,
            batch=captured.rows or 1,
            time=lambda n: n * frames // t,
            space=partial(_at_most, side),
        )
        if _taken(prog, clip) and probe(made.model, spec.spec, clip).error is None:
            return side
    return None


def _enlarges(prog: Progressive) -> bool:
    """Whether the model answers with larger frames than it is given."""
    captured, outputs = prog.inspect.captured, prog.inspect.analysis.outputs
    clips = [n for n in captured.graph.nodes if n.op == "placeholder" and n.name in captured.inputs]
    given, made = (
        [
            hint(size)
            for n in nodes
            if isinstance(n, fx.Node)
            for size in _sides(n.meta["val"].shape)
        ]
        for nodes in (clips, outputs)
    )
    return max(made, default=0) > max(given, default=0)


def _at_most(most: int, side: int) -> int:
    return min(side, most)


def _sides(shape: Sequence[Any] | None) -> tuple[Any, ...]:
    return tuple(shape[3:]) if shape is not None and len(shape) == 5 else ()


def _taken(prog: Progressive, clip: Sequence[Any]) -> bool:
    """Whether the program is for frames of this size."""
    captured, spec = prog.inspect.captured, prog.inspect.clip
    sizes: list[int] = []
    for number, i in enumerate(spec.paths):
        leaf, fixed = clip[i], captured.fixed.get(number, {})
        if not isinstance(leaf, Tensor):
            return False
        shape = [-1 if d == spec.times[i] else int(n) for d, n in enumerate(leaf.shape)]
        if any(d > 0 and shape[d] not in (n, -1) for d, n in fixed.items()):
            return False
        sizes += shape
    try:
        if captured.branches is not None:
            captured.branches.check(sizes)
    except ClipError:
        return False
    return True
