"""The results of required checks: a missing property is a failure, and a check that could not be
measured says what to do. And the two checks whose bound the user sets."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor

from pgt_fx.compiler.report import Report, Row
from pgt_fx.compiler.selfcheck.measure import storage_of
from pgt_fx.core.counts import counted
from pgt_fx.runtime.chunks import CLOCK
from pgt_fx.runtime.progressive import Progressive
from pgt_fx.testing.verify.equality import INEXACT
from pgt_fx.testing.verify.field import BOUNDLESS
from pgt_fx.testing.verify.result import Check
from pgt_fx.testing.verify.stream import GROWS
from pgt_fx.testing.verify.subject import Subject, _under

#: What is found where the analysis itself says that there is no such property. Nobody promised it,
#: so that it violates nothing, until it is required.
LACKING = (INEXACT, GROWS, BOUNDLESS)

#: Check -> what to do where it could not be made.
_TODO = {
    "time-sensitive": "give it a clip, or weights, for which the order of the frames matters",
    "exact-tight": "it needs outputs that differ near a cut: without look-ahead there are none",
    "context": "it is for models transformed with operator='cmco-avg', 'cmco-max' or 'pmco'",
    "gradients-equal-model": "it needs an output that depends on floating-point parameters",
    "exact-gradients": "it needs an output that depends on parameters with requires_grad",
    "replayed": "it is for models with dropout or batch norms, which run in train mode",
    "no-future": "measure the part in front of what reads all frames; it has to take fewer of them",
    "prefix": "measure the part in front of what reads all frames; it has to take fewer of them",
}
_ANYWAY = "measure it on another clip or in another dtype, or no longer require it"


def demanded(check: Check, prog: Progressive, waiting: Report) -> Check:
    """A check that has to hold.

    Args:
        check: as it was measured.
        prog: the model as it was given.
        waiting: the report of the one that waits until it is exact.
    """
    markov = prog.options.markov
    if check.id == "exact-wait" and check.ok and not markov.exact:
        detail = (
            f"operator={prog.options.operator!r} hands on an aggregate of the past, so that no "
            "step gives the model's own answer; operator='mco' does"
        )
        return replace(check, ok=False, measured=INEXACT, bound="", detail=detail)
    if check.ok is not None:
        return check
    if check.measured in LACKING:
        rows = _lacking(check, waiting)
        more = f" and {len(rows) - 3} more" * (len(rows) > 3)
        where = "; ".join(row.place for row in rows[:3]) + more
        reasons = dict.fromkeys(r.reason for r in rows if r.reason)
        detail = "; ".join([check.detail, *reasons])
        return replace(check, ok=False, detail=f"required: {detail}", where=where)
    return unanswered(check)


def unanswered(check: Check) -> Check:
    """A check that has to hold and says nothing: with what to do."""
    detail = check.detail or "nothing was measured"
    text = f"required, and could not be checked: {detail}"
    return replace(check, detail=f"{text}. What to do: {_TODO.get(check.id, _ANYWAY)}")


def _lacking(check: Check, report: Report) -> list[Row]:
    """The operators that make it so."""
    if check.measured == INEXACT:
        return report.inexact
    if check.measured == GROWS:
        return [max(report.rows, key=lambda row: row.state_bytes)] if report.rows else []
    return [row for row in beyond(report.rows, 0) if row.future is None][:1]


# -- bounds of the user's ------------------------------------------------------------------------


def look_ahead(check: Check, report: Report, allowed: int, field: Check) -> Check:
    """The analysed look-ahead of the output, which has been measured frame by frame.

    Args:
        check: to be filled in.
        report: of the model.
        allowed: frames.
        field: what the check "receptive-field" has found: that no output reads further.
    """
    if not report.look_ahead:
        return replace(check, detail="neither the output nor what it is pooled from has time")
    ahead = furthest(report.look_ahead)
    paths = f", of the inputs {_each(report.look_ahead)}" if len(report.look_ahead) > 1 else ""
    found = replace(check, measured=frames_in_words(ahead), bound=counted(allowed, "frame"))
    if ahead is None or ahead > allowed:
        where = next((row.place for row in beyond(report.rows, allowed)), "")
        detail = f"an output reads {frames_in_words(ahead)} after its own{paths}"
        return replace(found, ok=False, detail=detail, where=where)
    if field.ok is None:
        return replace(check, detail="receptive-field, which measures it, says nothing: see there")
    if not field.ok:
        return replace(check, detail="outputs read other frames than analysed: see receptive-field")
    return replace(found, ok=True, detail=f"analysed{paths}, and measured: see receptive-field")


def state_bytes(check: Check, subject: Subject, prog: Progressive, allowed: int) -> Check:
    """Bytes carried by the model as it was given, at the clip's space and dtype and a batch of one:
    as analysed, or as held in a run, whichever is more.

    Args:
        check: to be filled in.
        subject: whose videos are taken.
        prog: as the user has it; it is copied.
        allowed: bytes.
    """
    own = _under(copy.deepcopy(prog).eval())
    report = own.report
    held = _held(subject, own)
    count = max(report.state_bytes, held)
    sizes = " and ".join("×".join(map(str, s)) for s in report.clip)
    kinds = {str(x.dtype).removeprefix("torch.") for x in _timed(subject, prog)}
    detail = (
        f"batch of one, clip {sizes}, {', '.join(sorted(kinds))}, future={prog.options.future!r}: "
        f"analysed {report.state_bytes} B, held in a run {held} B"
    )
    found = replace(check, measured=f"{count} B", bound=f"{allowed} B")
    most = max(report.rows, key=lambda row: row.state_bytes, default=None)
    where = f"{most.place}: {most.state_bytes} B" if most is not None else ""
    if report.grows:
        return replace(
            found,
            ok=False,
            measured=GROWS,
            detail=f"it grows with the video; {detail}",
            where=where,
        )
    if count > allowed:
        return replace(found, ok=False, detail=detail, where=f"{where}, the most of all")
    return replace(found, ok=True, detail=detail)


def furthest(frames: Iterable[int | None]) -> int | None:
    """The largest number of frames; None, all of time, is the largest."""
    found = list(frames)
    return None if None in found else max((n for n in found if n is not None), default=0)


def beyond(rows: Iterable[Row], allowed: int) -> list[Row]:
    """The operators whose results read further ahead, in the order of the graph."""
    return [row for row in rows if row.stride and (row.future is None or row.future > allowed)]


def frames_in_words(count: int | None) -> str:
    """A number of frames in words."""
    return "all of time" if count is None else counted(count, "frame")


def _each(frames: Iterable[int | None]) -> str:
    return " and ".join(map(frames_in_words, frames))


def _timed(subject: Subject, prog: Progressive) -> list[Tensor]:
    leaves = prog.inspect.example
    return [leaves[i] for i in subject.spec.paths]


def _held(subject: Subject, prog: Progressive) -> int:
    """Most bytes between the steps of a video, in the dtype of the example."""
    kinds = dict(zip(subject.spec.paths, (x.dtype for x in _timed(subject, prog)), strict=True))
    video = [x.to(kinds[i]) if i in kinds else x for i, x in enumerate(subject.main)]
    chunks = subject.chunks(subject.frames, subject.length, subject.rng(61))
    most = 0
    prog.reset()
    with torch.no_grad():
        for piece in subject.cut(video, chunks):
            subject.feed(prog, piece, False)
            most = max(most, sum(storage_of(x)[1] for k, x in prog.state.items() if k not in CLOCK))
    return most
