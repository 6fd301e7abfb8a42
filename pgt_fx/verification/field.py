"""The receptive field, measured by changing one frame at a time."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor

from pgt_fx.verification.measure import leaves
from pgt_fx.verification.result import Check
from pgt_fx.verification.subject import Subject, Video

#: Frames to change, in each input path: enough to see both ends of most fields.
MOST = 24


def receptive_field(check: Check, subject: Subject, chunkings: int) -> Check:
    """One frame replaced by another: which outputs change, to the last bit, and whether the
    analysis has them in the frame's reach. Integer inputs and dead gradients count too."""
    if not subject.dense or subject.dims[0] is None:
        return replace(check, detail="the output has no time axis: it reads all frames")
    report, dim = subject.answering.report, subject.dims[0]
    other = subject.video(subject.frames, salt=16)
    whole = leaves(subject.whole)[0]
    if whole is None:
        return replace(check, detail="no output")
    faults, widest = [], 0
    tried = 0
    for path, leaf in enumerate(subject.spec.paths):
        claimed = report.receptive_field[path], report.look_ahead[path]
        if claimed[0] is None or claimed[1] is None:
            continue
        stride = _number(report.stride[path])
        total = int(subject.main[leaf].shape[subject.spec.times[leaf] or 0])
        every = max(1, -(-total // MOST))
        reads: dict[int, list[int]] = {}
        for frame in range(0, total, every):
            tried += 1
            changed = subject.full(subject.answering, replaced_frame(subject, leaf, frame, other))
            for j in _different(leaves(changed)[0], whole, dim):
                reads.setdefault(j, []).append(frame)
        past = claimed[0] - 1 - claimed[1]
        for j, frames in reads.items():
            own = int(j * stride)
            widest = max(widest, max(frames) - min(frames) + 1)
            if own - min(frames) > past or max(frames) - own > claimed[1]:
                seen = f"{min(frames)} … {max(frames)}"
                faults.append(f"output {j} (frame {own}) reads frames {seen} of path {path}")
    if not tried:
        return replace(check, detail="the report says that an output reads all of time")
    claims = ", ".join(f"{f} ({a} ahead)" for f, a in _claims(report))
    detail = f"{tried} frames changed one at a time; widest seen {widest}, analysed {claims}"
    if faults:
        found = f"{len(faults)} outside"
        return replace(check, ok=False, measured=found, detail=f"{faults[0]}; {detail}")
    if not widest:
        return replace(check, detail=f"{detail}; no output changed")
    return replace(check, ok=True, measured="0 outside", detail=detail)


def _claims(report: Any) -> list[tuple[Any, Any]]:
    return list(zip(report.receptive_field, report.look_ahead, strict=True))


def _number(text: str) -> float:
    above, _, below = text.partition("/")
    return int(above) / int(below or 1)


def replaced_frame(subject: Subject, leaf: int, frame: int, other: Video) -> Video:
    """The video with one frame of one path taken from another."""
    video = list(subject.main)
    dim = subject.spec.times[leaf] or 0
    video[leaf] = video[leaf].clone()
    video[leaf].select(dim, frame).copy_(other[leaf].select(dim, frame))
    return video


def _different(a: Tensor | None, b: Tensor, dim: int) -> list[int]:
    if a is None or a.shape != b.shape:
        return list(range(b.shape[dim]))
    changed = ((a != b) & ~(a.isnan() & b.isnan())).movedim(dim, 0).flatten(1).any(1)
    return [int(j) for j in changed.nonzero().flatten()]
