"""Measurements against the model itself: what equals its own answer."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from pgt_fx.capture.schema import schema_name
from pgt_fx.compiler.analysis.timed_graph import Analysis
from pgt_fx.compiler.selfcheck.compare import flags_of, in_elements
from pgt_fx.compiler.selfcheck.measure import (
    assembled,
    error,
    error_per_element,
    leaves,
    shapes,
)
from pgt_fx.core.counts import counted
from pgt_fx.core.errors import ClipError, Place
from pgt_fx.testing.verify.result import Check
from pgt_fx.testing.verify.subject import Subject

#: What is found of a model that no bounded state reproduces.
INEXACT = "report.exact is False"


def time_sensitive(check: Check, subject: Subject, chunkings: int) -> Check:
    """Shuffle the frames; at the clip's length where the model takes no other."""
    if subject.reference is not None:
        video, straight = subject.main, subject.reference
    else:
        video, straight = subject.clip, subject.clip_output
    change = error(subject.plain(subject.shuffled(video)), straight)
    bound = 10 * subject.exact_bound
    if change > bound:
        return replace(check, ok=True, measured=change, bound=f"> {bound:.0e}")
    return replace(
        check,
        measured=change,
        bound=f"> {bound:.0e}",
        detail="the order of the frames makes no difference to this model",
    )


def full_equals_model(check: Check, subject: Subject, chunkings: int) -> Check:
    """At the clip's length, and where the model takes it at the video's, at one frame, and at both
    sides of the lengths that a video may have."""
    worst = error(subject.full(subject.answering, subject.clip), subject.clip_output)
    tested = f"clip of {counted(subject.length, 'frame')}"
    if subject.refusal:
        tested += f"; the model takes no {counted(subject.frames, 'frame')} ({subject.refusal})"
    elif subject.answering.report.clip_pools:
        tested += "; the pool over the clip was taken over all of time, so only there"
    else:
        worst = max(worst, error(subject.whole, subject.reference))
        tested += f", video of {counted(subject.frames, 'frame')}"
        taken, refused = subject.edges(subject.longest)
        if unrefused := [n for n in refused if _answers(subject, n)]:
            detail = f"{tested}; a video of {_some(unrefused)} frames is answered, not refused"
            return replace(check, ok=False, measured="lengths not kept", detail=detail)
        for n, wanted in _at_edges(subject, taken):
            video = subject.video(n, salt=17)
            gap = error(subject.full(subject.answering, video), wanted)
            if gap > max(worst, subject.exact_bound):
                tested += f"; differs for a video of {counted(n, 'frame')}"
            worst = max(worst, gap)
    return _compared(check, subject, worst, tested)


def _answers(subject: Subject, frames: int) -> bool:
    """Whether a video of a length that the model isn't for is answered all the same."""
    try:
        subject.full(subject.answering, subject.video(frames, salt=17))
    except ClipError:
        return False
    return True


def _at_edges(subject: Subject, lengths: Sequence[int]) -> list[tuple[int, Any]]:
    """The model's own answers to short videos, where it takes them."""
    found = []
    for n in lengths:
        with contextlib.suppress(Exception):  # shorter than a window, say
            wanted = subject.plain(subject.video(n, salt=17))
            if all(x is None or x.numel() for x in leaves(wanted)):
                found.append((n, wanted))
    return found


def exact_wait(check: Check, subject: Subject, chunkings: int) -> Check:
    """Random cuts; of an output without time the last step's answer counts."""
    prog = subject.waiting
    if not prog.report.exact:
        names = [row.name for row in prog.report.inexact]
        few = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        return replace(
            check,
            measured=INEXACT,
            detail=f"no bounded state reproduces {few}; they are computed within each step",
        )
    own = subject.reference is not None and not prog.report.clip_pools
    wanted = subject.reference if own else subject.full(prog, subject.main)
    rng = subject.rng(1)
    limits = (2 * subject.length, 3, subject.length)
    worst, where, steps, silent = 0.0, "", 0, 0
    for number in range(chunkings):
        chunks = subject.chunks(subject.frames, limits[number % 3], rng)
        outputs = subject.run(prog, subject.main, chunks)
        got = assembled(outputs, subject.dims)
        steps += len(outputs)
        silent += sum(y is None for y in outputs)
        found = error(got, leaves(wanted))
        if found > worst:
            worst, where = found, f"worst at {chunks}"
            if found > subject.exact_bound:
                where += f": shapes {shapes(got)}, expected {shapes(wanted)}"
    for n, short in _at_edges(subject, subject.edges(subject.longest)[0] if own else ()):
        outputs = subject.run(prog, subject.video(n, salt=17), [1] * n if n < 6 else [n - 2, 2])
        gap = error(assembled(outputs, subject.dims), leaves(short))
        if gap > worst:
            worst, where = gap, f"worst for a video of {counted(n, 'frame')}"
    what = "the model" if own else "full()"
    if not subject.dense:
        what += ", the last step's answer"
    tested = (
        f"{counted(chunkings, 'chunking')}, {counted(steps, 'step')} ({silent} without output), "
        f"against {what}"
    )
    return _compared(check, subject, worst, f"{tested}; {where}" if where else tested)


@dataclass(frozen=True)
class Answers:
    """What a video gave step by step under ``future="zero"``, beside the model's own answer.

    Attributes:
        chunks: the steps.
        flags, errors: per output along time: whether it is named as exact, and how far it is off.
        against: what it was compared with.
        silent: steps without output.
        fault: why nothing could be compared; "" normally.
    """

    chunks: list[int]
    flags: list[bool]
    errors: list[float]
    against: str = ""
    silent: tuple[int, ...] = ()
    fault: str = ""


def answers_at_once(
    subject: Subject, prog: Any, model: nn.Module, salt: int = 2, scale: float = 1.0
) -> Answers:
    """Run a video of noise, of this standard deviation, through ``prog`` and through ``model``."""
    chunks, flags = _telling_chunks(subject)
    total = sum(chunks)
    same = total == subject.frames and salt == 2
    video = subject.main if same else subject.video(total, salt=salt)
    video = [x * scale if scale != 1 and _is_floating(x) else x for x in video]
    outputs = subject.run(prog, video, chunks)
    got = assembled(outputs, subject.dims)
    wanted, what = None, "the model"
    if not prog.report.clip_pools:
        try:
            wanted = leaves(subject.plain(video, model))
        except Exception:
            wanted = None
    if wanted is None:
        wanted, what = leaves(subject.full(prog, video)), "full()"
    silent = tuple(n for n, y in enumerate(outputs, 1) if y is None)
    first, dim = got[0], subject.dims[0]
    if first is None or wanted[0] is None:
        return Answers(chunks, flags, [], what, silent, "no output")
    if first.shape != wanted[0].shape:
        fault = f"shapes {shapes(got)}, expected {shapes(wanted)}"
        return Answers(chunks, flags, [], what, silent, fault)
    if dim is None:
        errors = [error(first, wanted[0])]
    else:
        errors = in_elements(error_per_element(first, wanted[0], dim), prog, total, max)
    fault = ""
    if len(flags) != len(errors):
        fault = f"{counted(len(flags), 'flag')} for {counted(len(errors), 'output')}"
    return Answers(chunks, flags, errors, what, silent, fault)


def exact_zero(check: Check, subject: Subject, chunkings: int) -> Check:
    """The frames named equal the model's."""
    found = answers_at_once(subject, subject.answering, subject.model)
    if found.fault:
        detail = f"chunks {found.chunks}: {found.fault}"
        return replace(check, ok=False, measured="outputs don't match", detail=detail)
    pairs = list(zip(found.errors, found.flags, strict=True))
    named = [e for e, flag in pairs if flag]
    wrong = [i for i, (e, flag) in enumerate(pairs) if flag and e > subject.exact_bound]
    detail = (
        f"{len(named)} of {counted(len(pairs), 'output')} named for chunks {found.chunks}, "
        f"against {found.against}"
    )
    if wrong:
        detail += f"; named, yet different: outputs {_some(wrong)}"
    if found.silent:
        detail += f"; no output at steps {_some(found.silent)}"
    if not named:
        return replace(
            check,
            measured="none named",
            detail=(
                f"{detail}: at steps of {counted(max(found.chunks), 'frame')} there is nothing "
                "to compare"
            ),
        )
    return replace(
        check, ok=not wrong, measured=max(named), bound=subject.exact_bound, detail=detail
    )


def _is_floating(x: Any) -> bool:
    return isinstance(x, torch.Tensor) and x.is_floating_point()


def exact_tight(check: Check, subject: Subject, chunkings: int) -> Check:
    """The others differ. Where one does not, it is tried again with other weights and with other
    frames, larger ones among them: a maximum may hide a frame, a tap of weight zero reads nothing,
    and a gate may seldom open. To name too few is no fault where the analysis can but bound what an
    operator reads."""
    found = answers_at_once(subject, subject.answering, subject.model)
    if found.fault:
        return replace(check, detail=f"see exact-zero: {found.fault}")
    others = [e for e, flag in zip(found.errors, found.flags, strict=True) if not flag]
    detail = (
        f"{len(others)} of {counted(len(found.flags), 'output')} not named for chunks "
        f"{found.chunks}"
    )
    if not others:
        return replace(check, detail=f"{detail}: nothing to tell apart")
    loose = _equal(found, subject.noise)
    tried = 0
    if loose:
        prog = disturbed(subject)
        while loose and tried < len(RETRIES):
            scale, tried = RETRIES[tried], tried + 1
            again = answers_at_once(subject, prog, prog.inspect.model, 60 + tried, scale)
            loose &= _equal(again, subject.noise)
    if loose:
        detail += f"; equal all the same: outputs {_some(sorted(loose))}"
        detail += f", with {tried} other videos and other weights too"
        bounded = bounded_alone(subject.answering.inspect.analysis)
        if bounded:
            detail += f"; which is no fault: what is read by {bounded[0]} is bounded, not known"
            return replace(check, measured="not tight", detail=detail)
        return replace(check, ok=False, measured=f"{len(loose)} equal", detail=detail)
    least = f"by at least {min(others):.0e}" if not tried else f"seen after {tried} other videos"
    return replace(check, ok=True, measured="all differ", detail=f"{detail}: they differ, {least}")


#: Videos after which an output that is always equal is called so: the size of their noise.
RETRIES = (1.0, 1.0, 10.0, 10.0, *[1000.0] * 6)
#: Operators that may give the same of other operands: gates, roundings, choices.
_GATES = {
    *("eq", "ne", "lt", "le", "gt", "ge", "where", "masked_fill", "sign", "heaviside"),
    *("round", "floor", "ceil", "trunc", "hardshrink", "softshrink", "threshold"),
    *("logical_not", "logical_and", "logical_or", "logical_xor", "bitwise_not", "bitwise_and"),
    *(
        "bitwise_or",
        "bitwise_xor",
        "isnan",
        "isinf",
        "isfinite",
        "argmax",
        "argmin",
        "floor_divide",
    ),
}


def bounded_alone(analysis: Analysis) -> list[Place]:
    """Operators of which the analysis knows no more than a bound of what decides their results:
    attention whose mask hides some of the keys, and gates."""
    out = []
    for operation in analysis.operations.values():
        attention = bool(operation.pairs) or operation.outcome.attends
        name = schema_name(operation.node).removeprefix("aten::")
        if attention or name in _GATES:
            out.append(operation.place)
    return out


def _equal(found: Answers, noise: float) -> set[int]:
    """Outputs that are not named and yet equal."""
    pairs = enumerate(zip(found.errors, found.flags, strict=True))
    return {i for i, (e, flag) in pairs if not flag and e <= noise}


@torch.no_grad()
def disturbed(subject: Subject) -> Any:
    """The progressive model with weights none of which is zero."""
    prog = copy.deepcopy(subject.answering)
    generator = torch.Generator().manual_seed(subject.seed)
    for p in prog.parameters():
        if p.is_floating_point():
            size = float(p.square().mean().sqrt()) or 1.0
            noise = torch.randn(p.shape, generator=generator, dtype=torch.float64, device="cpu")
            p.add_(0.1 * size * noise.to(p))
    return prog


def _telling_chunks(subject: Subject) -> tuple[list[int], list[bool]]:
    """Steps long enough for some outputs to be exact before the last one, if few frames do."""
    t = subject.length
    if subject.clip_frames is not None:
        return [subject.clip_frames], subject.answering.exact_frames([subject.clip_frames])
    if subject.longest is not None:  # the whole has to fit in one step
        chunks = [c for c in (subject.longest // 2, subject.longest - subject.longest // 2) if c]
        return chunks, flags_of(subject.answering, chunks)
    first: tuple[list[int], list[bool]] | None = None
    for length in (t, 2 * t, 3 * t):
        chunks = subject.fitting([length, length, max(1, t // 2)])
        if sum(chunks) > max(4 * t, 48):
            break
        flags = flags_of(subject.answering, chunks)
        first = first or (chunks, flags)
        if any(flags[: max(1, len(flags) // 2)]):
            return chunks, flags
    if first is None:
        chunks = subject.fitting([t, max(1, t // 2)])
        first = chunks, flags_of(subject.answering, chunks)
    return first


def _some(numbers: Sequence[int]) -> str:
    text = ", ".join(map(str, numbers[:6]))
    return text + (f" and {len(numbers) - 6} more" if len(numbers) > 6 else "")


def _compared(check: Check, subject: Subject, worst: float, detail: str) -> Check:
    bound = subject.exact_bound
    return replace(check, ok=worst <= bound, measured=worst, bound=bound, detail=detail)
