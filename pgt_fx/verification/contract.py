"""``pgt_fx.verify``: the promises of a progressive model, measured.

Nothing is concluded from the analysis: what it claims (the exact frames, the latency, whether the
outputs under ``future="wait"`` are the model's own) is compared with what comes out when videos
are disturbed, cut, and differentiated.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import nn

from pgt_fx.compiler import transform
from pgt_fx.errors import OptionError, PgtError, StateError
from pgt_fx.progressive import Progressive
from pgt_fx.verification import equality, field, locality, past, repeat, stream, training
from pgt_fx.verification.result import Check, Verification
from pgt_fx.verification.subject import Subject, first_line

RAISED = (PgtError, RuntimeError, ValueError, TypeError, LookupError, AttributeError)

#: id, promise, measurement; in this order.
CHECKS: tuple[tuple[str, str, Callable[..., Check]], ...] = (
    (
        "time-sensitive",
        "shuffling the frames changes the model's output (else nothing below could show a fault)",
        equality.time_sensitive,
    ),
    (
        "full-equals-model",
        "the whole video in one step gives the model's own answer",
        equality.full_equals_model,
    ),
    (
        "exact-wait",
        "under future='wait' the steps together give the model's own answer, however it is cut",
        equality.exact_wait,
    ),
    (
        "exact-zero",
        "under future='zero' the outputs that exact_frames names are the model's own",
        equality.exact_zero,
    ),
    (
        "one-way-forward",
        "no answer depends, to the last bit, on frames of later steps",
        locality.one_way_forward,
    ),
    (
        "one-way-backward",
        "no gradient of a step reaches an earlier step; each gives one to every parameter it uses",
        locality.one_way_backward,
    ),
    (
        "rows-isolated",
        "a video of a batch doesn't change the answers to the others",
        locality.rows_isolated,
    ),
    (
        "state-bounded",
        "the state stops growing, owns its memory and holds no autograd graph",
        stream.state_bounded,
    ),
    (
        "reset",
        "after reset() the answers are those of a new object, to the last bit",
        stream.reset,
    ),
    (
        "deterministic",
        "the same video gives the same answers, to the last bit",
        repeat.deterministic,
    ),
    (
        "state-round-trip",
        "a state that was saved and loaded goes on to the same answers, to the last bit",
        repeat.state_round_trip,
    ),
    (
        "mode-switching",
        "train() and eval() in the middle of a video leave its answers as they are",
        repeat.mode_switching,
    ),
    (
        "receptive-field",
        "no output depends on a frame outside the field that the analysis gives it",
        field.receptive_field,
    ),
    (
        "context",
        "each operator hands on what the paper's recursion says (CMCO, PMCO)",
        past.context,
    ),
    (
        "exact-gradients",
        "gradients step by step equal those of all steps in one graph",
        training.exact_gradients,
    ),
    (
        "replayed",
        "in train mode a recomputed step sees the same dropout and updates no statistics again",
        training.replayed,
    ),
)


def verify(
    prog_or_model: nn.Module,
    example: Any = None,
    *,
    checks: Collection[str] | None = None,
    chunkings: int = 5,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
    redraw_norms: bool = True,
    video: Any = None,
    frames: int | None = None,
    progress: Callable[[str, int, int], object] | None = None,
) -> Verification:
    """Measure what a progressive model promises. It works on copies, in eval mode.

    Args:
        prog_or_model: what :func:`pgt_fx.transform` returned, or a model to be transformed.
        example: of a model, as for ``transform``; not to be given with a progressive one.
        checks: ids of the checks to make; None: all. "time-sensitive" is always made.
        chunkings: random ways to cut the video, with steps of 1 to 2T' frames.
        seed: of the videos, the cuts and the redrawn norms.
        dtype: to measure in. A model that can't run in it is measured in its own.
        redraw_norms: give norm layers generic weights and statistics first: model zoos start the
            last norm of each residual branch at zero, which hides what its operators do.
        video: measure equality on this video, as the model takes it; None: on noise.
        frames: length of the videos, in frames of the path with the fewest; None: 2 to 3 T'.
        progress: called before each check with its id, its number and how many there are.

    Returns:
        a :class:`~pgt_fx.verification.result.Verification`.

    Raises:
        VerificationError: the model itself fails on a clip like the example.
        OptionError, ClipError: for bad arguments.
        CaptureError, BlockedError: as for ``transform``.
    """
    if chunkings < 1:
        raise OptionError(f"chunkings: expected at least 1, got {chunkings}")
    if isinstance(prog_or_model, Progressive):
        if example is not None:
            raise OptionError("example: a progressive model has its example; pass it alone")
        prog = prog_or_model
    else:
        prog = transform(prog_or_model, example)
    known = {name for name, _, _ in CHECKS}
    if checks is not None and not set(checks) <= known:
        raise OptionError(
            f"checks: no {sorted(set(checks) - known)}; there are {', '.join(sorted(known))}"
        )
    chosen = [c for c in CHECKS if checks is None or c[0] in {*checks, "time-sensitive"}]
    total = len(chosen) + 1
    if progress is not None:
        progress("copying the model", 0, total)
    subject = Subject(prog, dtype, seed, redraw_norms, video, frames)
    made: list[Check] = []
    broken = _prepared(subject)
    for number, (name, sentence, measure) in enumerate(chosen, 1):
        if progress is not None:
            progress(name, number, total)
        if broken and name != "time-sensitive":
            made.append(Check(name, sentence, False, "full() raised", detail=broken))
            continue
        made.append(_guarded(name, sentence, measure, subject, chunkings))
    if progress is not None:
        progress("done", total, total)
    name = type(prog._source.model).__name__
    return Verification(name, subject.setting(), _sobered(tuple(made)))


def _prepared(subject: Subject) -> str:
    """Why the progressive model can't even take the whole video in one step; "" if it can."""
    try:
        subject.prepare()
    except RAISED as error:
        return f"{type(error).__name__}: {first_line(error)}"
    return ""


def _guarded(
    name: str, sentence: str, measure: Callable[..., Check], subject: Subject, chunkings: int
) -> Check:
    """A check; a step that raises breaks its promise."""
    try:
        with torch.enable_grad():  # also where the caller has switched it off
            return measure(Check(name, sentence, None), subject, chunkings)
    except StateError as error:
        if "longer chunks" in str(error):
            reason = f"the model's pools over time refuse short steps: {first_line(error)}"
            return Check(name, sentence, None, detail=reason)
        return Check(name, sentence, False, "raised", detail=f"StateError: {first_line(error)}")
    except RAISED as error:
        return Check(
            name, sentence, False, "raised", detail=f"{type(error).__name__}: {first_line(error)}"
        )


def _sobered(checks: tuple[Check, ...]) -> tuple[Check, ...]:
    """Comparisons that hold prove nothing of a model to which the order of frames is all one."""
    if checks[0].ok:
        return checks
    equalities = {"full-equals-model", "exact-wait", "exact-zero"}
    out = []
    for check in checks:
        if check.id in equalities and check.ok:
            detail = "equal, which proves nothing: see time-sensitive"
            check = Check(check.id, check.sentence, None, check.measured, check.bound, detail)
        out.append(check)
    return tuple(out)
