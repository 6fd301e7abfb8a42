"""Measurements against the model itself: what equals its own answer."""

from __future__ import annotations

from dataclasses import replace

from pgt_fx.verification.measure import (
    assembled,
    error,
    error_per_element,
    leaves,
    random_chunks,
    shapes,
)
from pgt_fx.verification.result import Check
from pgt_fx.verification.subject import Subject


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
    """At the clip's length, and where the model takes it at the video's."""
    worst = error(subject.full(subject.answering, subject.clip), subject.clip_output)
    tested = f"clip of {subject.length} frames"
    if subject.refusal:
        tested += f"; the model takes no {subject.frames} frames ({subject.refusal})"
    elif subject.answering.report.clip_pools:
        tested += "; the pool over the clip was taken over all of time, so only there"
    else:
        worst = max(worst, error(subject.whole, subject.reference))
        tested += f", video of {subject.frames} frames"
    return _compared(check, subject, worst, tested)


def exact_wait(check: Check, subject: Subject, chunkings: int) -> Check:
    """Random cuts; of an output without time the last step's answer counts."""
    prog = subject.waiting
    if not prog.report.exact:
        names = [row.name for row in prog.report.inexact]
        few = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        return replace(
            check,
            measured="report.exact is False",
            detail=f"no bounded state reproduces {few}; they are computed within each step",
        )
    own = subject.reference is not None and not prog.report.clip_pools
    wanted = subject.reference if own else subject.full(prog, subject.main)
    rng = subject.rng(1)
    limits = (2 * subject.length, 3, subject.length)
    worst, where, steps, silent = 0.0, "", 0, 0
    for number in range(chunkings):
        chunks = random_chunks(subject.frames, limits[number % 3], rng)
        outputs = subject.run(prog, subject.main, chunks)
        got = assembled(outputs, subject.dims)
        steps += len(outputs)
        silent += sum(y is None for y in outputs)
        found = error(got, leaves(wanted))
        if found > worst:
            worst, where = found, f"worst at {chunks}"
            if found > subject.exact_bound:
                where += f": shapes {shapes(got)}, expected {shapes(wanted)}"
    what = "the model" if own else "full()"
    if not subject.dense:
        what += ", the last step's answer"
    tested = f"{chunkings} chunkings, {steps} steps ({silent} without output), against {what}"
    return _compared(check, subject, worst, f"{tested}; {where}" if where else tested)


def exact_zero(check: Check, subject: Subject, chunkings: int) -> Check:
    """The frames named equal the model's; those not named should differ, else it is told."""
    prog = subject.answering
    chunks, flags = _telling_chunks(subject)
    total = sum(chunks)
    video = subject.main if total == subject.frames else subject.video(total, salt=2)
    outputs = subject.run(prog, video, chunks)
    got = assembled(outputs, subject.dims)
    wanted, what = None, "the model"
    if not prog.report.clip_pools:
        try:
            wanted = leaves(subject.plain(video))
        except Exception:
            wanted = None
    if wanted is None:
        wanted, what = leaves(subject.full(prog, video)), "full()"
    silent = [n for n, y in enumerate(outputs, 1) if y is None]
    first, dim = got[0], subject.dims[0]
    if first is None or wanted[0] is None:
        return replace(check, ok=False, measured="no output", detail=f"chunks {chunks}")
    if first.shape != wanted[0].shape:
        detail = f"chunks {chunks}: shapes {shapes(got)}, expected {shapes(wanted)}"
        return replace(check, ok=False, measured="wrong number of outputs", detail=detail)
    if dim is None:
        errors = [error(first, wanted[0])]
    else:
        errors = error_per_element(first, wanted[0], dim)
    if len(flags) != len(errors):
        detail = f"chunks {chunks}: {len(flags)} flags for {len(errors)} outputs"
        return replace(check, ok=False, measured="wrong number of flags", detail=detail)
    named = [e for e, flag in zip(errors, flags, strict=True) if flag]
    wrong = [i for i, e in enumerate(errors) if flags[i] and e > subject.exact_bound]
    loose = [i for i, e in enumerate(errors) if not flags[i] and e <= subject.noise]
    detail = f"{len(named)} of {len(flags)} outputs named for chunks {chunks}, against {what}"
    if wrong:
        detail += f"; named, yet different: outputs {_some(wrong)}"
    if loose:
        detail += f"; not named, yet equal: outputs {_some(loose)}"
    elif len(named) < len(flags):
        detail += f"; all others differ, by at least {min(_others(errors, flags)):.0e}"
    if silent:
        detail += f"; no output at steps {_some(silent)}"
    if not named:
        return replace(
            check,
            ok=True,
            measured="none named",
            detail=detail + f"; no output is exact at steps of {max(chunks)} frames",
        )
    return replace(
        check, ok=not wrong, measured=max(named), bound=subject.exact_bound, detail=detail
    )


def _telling_chunks(subject: Subject) -> tuple[list[int], list[bool]]:
    """Steps long enough for some outputs to be exact before the last one, if few frames do."""
    t = subject.length
    first: tuple[list[int], list[bool]] | None = None
    for length in (t, 2 * t, 3 * t):
        chunks = [length, length, max(1, t // 2)]
        if sum(chunks) > max(4 * t, 48):
            break
        flags = subject.answering.exact_frames(chunks)
        first = first or (chunks, flags)
        if any(flags[: max(1, len(flags) // 2)]):
            return chunks, flags
    if first is None:
        chunks = [t, max(1, t // 2)]
        first = chunks, subject.answering.exact_frames(chunks)
    return first


def _others(errors: list[float], flags: list[bool]) -> list[float]:
    return [e for e, flag in zip(errors, flags, strict=True) if not flag]


def _some(numbers: list[int]) -> str:
    text = ", ".join(map(str, numbers[:6]))
    return text + (f" and {len(numbers) - 6} more" if len(numbers) > 6 else "")


def _compared(check: Check, subject: Subject, worst: float, detail: str) -> Check:
    bound = subject.exact_bound
    return replace(check, ok=worst <= bound, measured=worst, bound=bound, detail=detail)
