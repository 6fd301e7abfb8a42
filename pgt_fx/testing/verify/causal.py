"""Checks of a model that is meant to be causal: no output depends on a later frame.

Works on the model as it is; nothing is captured or transformed.
"""

from __future__ import annotations

import copy
from bisect import bisect
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Any, TypedDict

import torch
from torch import Tensor, nn

from pgt_fx.capture.probe.guess_example import guess_example
from pgt_fx.compiler.selfcheck.measure import error, leaves, same_bits
from pgt_fx.compiler.selfcheck.redraw import redraw_norms, redraw_zeros, redrawn_in_words
from pgt_fx.compiler.selfcheck.trials import BOUNDS, OTHER_BOUNDS, the_model
from pgt_fx.compiler.selfcheck.videos import Video, Videos, device_of, first_line, measurable, short
from pgt_fx.core.clip import TimeDim, read_example
from pgt_fx.core.counts import counted
from pgt_fx.core.errors import VerificationError, of_this_machine
from pgt_fx.testing.verify.calls import Call, calls_of
from pgt_fx.testing.verify.demanded import furthest, unanswered
from pgt_fx.testing.verify.outcome import unmade
from pgt_fx.testing.verify.promises import check_names
from pgt_fx.testing.verify.record import record_of_causal
from pgt_fx.testing.verify.required import CAUSAL_WORDS, PLAIN_CHECKS, requirements
from pgt_fx.testing.verify.result import Check, Verification

#: Successive frames from which on others are put in: a leak that comes back every so many frames,
#: or sooner, is found.
IN_A_ROW = 8


class Settings(TypedDict, total=False):
    """Arguments of :func:`verify_causal` beside the model and its example."""

    time_dim: TimeDim
    checks: Collection[str] | None
    seed: int
    dtype: torch.dtype
    redraw: bool
    frames: int | None
    require: str | Collection[str]
    max_look_ahead: int | None


def verify_causal(
    model: nn.Module,
    example: Any = None,
    *,
    time_dim: TimeDim = None,
    checks: Collection[str] | None = None,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
    redraw: bool = True,
    frames: int | None = None,
    require: str | Collection[str] = (),
    max_look_ahead: int | None = None,
) -> Verification:
    """Measure that no output of a plain model depends on later frames. It works on a copy.

    An output element is due once the model, given only the frames so far, has as many elements.
    From then on no later frame may change it, to the last bit; and it must be what the model gives
    for the frames so far.

    Args:
        model: any module; it need not be one that can be transformed.
        example, time_dim: as for :func:`pgt_fx.transform`.
        checks: ids of the checks to make; None: all. "time-sensitive" is always made, and what is
            required.
        seed, dtype, frames: of the videos.
        redraw: give norm layers generic weights and statistics first, and parameters that are
            all zero some value.
        require: "causal", or ids of checks: made and required, whatever ``checks`` says. That a
            model is causal is what it is meant to be: "no-future" and "prefix" are required where
            they are made.
        max_look_ahead: 0, which is the same as "causal".

    Returns:
        a verification with the checks "time-sensitive", "no-future" and "prefix"; its ``save``
        writes a certificate.

    Raises:
        VerificationError: the model fails on a clip like the example.
        OptionError, ClipError: for a bad dtype or example, or a check that there isn't.
    """
    measurable(dtype)
    required = requirements(require, max_look_ahead, plain=True)
    check_names("checks", checks or (), [name for name, *_ in CHECKS])
    if example is None:
        example = guess_example(model)
    spec, clip = read_example(example, time_dim)
    given = [
        torch.empty_like(x, device="meta") if isinstance(x, Tensor) and t is not None else x
        for x, t in zip(clip, spec.times, strict=True)
    ]
    videos = Videos(spec, given, device_of(model), seed, dtype, None, frames)
    subject = _Causal(copy.deepcopy(model).eval().to(dtype), videos, redraw)
    must = required.checks | set(CAUSAL_WORDS["causal"])
    made = [
        _asked(_guarded(Check(name, sentence, None), measure, subject), must)
        for name, sentence, measure in CHECKS
        if checks is None or name in {*checks, "time-sensitive", *required.checks}
    ]
    settings = {
        "seed": seed,
        "dtype": short(dtype),
        "redraw_norms": redraw,
        "frames": frames,
        "time_dim": time_dim,
        "device": str(device_of(model)),
        "checks": [c.id for c in made],
        "required": required.to_dict(),
    }
    sizes = [s for s in spec.shapes if s is not None]
    record = record_of_causal(model, sizes, settings)
    record["time"] = subject.time
    must &= {c.id for c in made}
    return Verification(type(model).__name__, subject.setting(), tuple(made), record, must)


class _Causal:
    """A plain model and its answers to whole videos, disturbed ones and cut ones.

    Attributes:
        time: the look-ahead that was seen, for the certificate; {} before it was looked at.
        parts: the answers to the first frames, by their number, and why there is none.
    """

    def __init__(self, model: nn.Module, videos: Videos, redraw: bool) -> None:
        self.time: dict[str, Any] = {}
        self.parts: dict[int, tuple[list[Tensor | None], str]] = {}
        self.model, self.videos = model, videos
        self.bound, _ = BOUNDS.get(videos.dtype, OTHER_BOUNDS)
        self.redrawn = self.zeros = 0
        try:
            if redraw:
                clip = videos.video(videos.length, batch=2, salt=11)
                self.zeros = redraw_zeros(model, videos.seed)
                generator = torch.Generator().manual_seed(videos.seed)
                self.redrawn = redraw_norms(model, generator, lambda: self.answer(clip))
            self.video = videos.video(videos.frames, salt=2)
            self.whole, self.refusal = self._whole()
        except Exception as error:
            if of_this_machine(error):
                raise
            raise VerificationError(
                f"{type(model).__name__}: the model itself fails on a clip like the example: "
                f"{type(error).__name__}: {first_line(error)}"
            ) from error
        self.frames = videos.count(self.video)

    def _whole(self) -> tuple[Any, str]:
        """The answer to a long video, or to one of the clip's length."""
        try:
            return self.answer(self.video), ""
        except Exception as error:
            if of_this_machine(error):
                raise
            self.video = self.videos.video(self.videos.length, salt=2)
            return self.answer(self.video), first_line(error)

    def answer(self, video: Video) -> Any:
        """What the model gives."""
        args, kwargs = self.videos.args([x.clone() if isinstance(x, Tensor) else x for x in video])
        with torch.no_grad(), the_model():
            return self.model(*args, **kwargs)

    def prefix(self, cut: int) -> Video:
        return self.videos.cut(self.video, [cut])[0]

    def disturbed(self, cut: int) -> Video:
        other = self.videos.video(self.frames, salt=7)
        return self.videos.joined(self.video, other, cut)

    @property
    def cuts(self) -> list[int]:
        """Where the future begins. Several in a row: a model that looks ahead within groups of
        frames, or at one frame of each group, does not do so at every place."""
        middle = self.frames // 2
        row = range(middle - IN_A_ROW // 2, middle + (IN_A_ROW + 1) // 2)
        cuts = {max(1, self.frames // 3), middle, self.frames - 1, *row}
        return sorted(cut for cut in cuts if 1 <= cut < max(2, self.frames))

    def setting(self) -> str:
        weights = redrawn_in_words(self.redrawn, self.zeros)
        return (
            f"{counted(self.frames, 'frame')} of noise, {short(self.videos.dtype)}, {weights}, "
            "eval mode"
        )


def _due(whole: Tensor, part: Tensor | None) -> tuple[int, int] | None:
    """Time dimension and number of elements due; None for a value without a time axis."""
    if part is not None and part.dim() == whole.dim():
        pairs = enumerate(zip(whole.shape, part.shape, strict=True))
        dims = [d for d, (a, b) in pairs if a != b]
        return (dims[0], part.shape[dims[0]]) if len(dims) == 1 else None
    return None


def _time_sensitive(check: Check, subject: _Causal) -> Check:
    videos = subject.videos
    change = error(subject.answer(videos.shuffled(subject.video)), subject.whole)
    bound = 10 * subject.bound
    detail = "" if change > bound else "the order of the frames makes no difference to this model"
    ok = True if change > bound else None
    return replace(check, ok=ok, measured=change, bound=f"> {bound:.0e}", detail=detail)


def _parts(subject: _Causal, cut: int) -> tuple[list[Tensor | None], str]:
    """Outputs for the frames before a cut; None for each, with the reason, where there is none."""
    if cut not in subject.parts:
        try:
            subject.parts[cut] = leaves(subject.answer(subject.prefix(cut))), ""
        except Exception as error:
            if of_this_machine(error):
                raise
            subject.parts[cut] = [None] * len(leaves(subject.whole)), first_line(error)
    return subject.parts[cut]


def _no_future(check: Check, subject: _Causal) -> Check:
    compared, moved, faults = 0, False, []
    reason = ""
    for cut in subject.cuts:
        parts, why = _parts(subject, cut)
        reason = reason or why
        after = leaves(subject.answer(subject.disturbed(cut)))
        triples = zip(leaves(subject.whole), after, parts, strict=True)
        for number, (whole, other, part) in enumerate(triples):
            found = None if whole is None else _due(whole, part)
            if whole is None or other is None or found is None:
                continue
            dim, count = found
            compared += count
            a, b = whole.narrow(dim, 0, count), other.narrow(dim, 0, count)
            rest = whole.shape[dim] - count
            moved |= not same_bits(whole.narrow(dim, count, rest), other.narrow(dim, count, rest))
            if not same_bits(a, b):
                first = int(((a != b).movedim(dim, 0).flatten(1).any(1)).nonzero()[0])
                faults.append((cut, first, number))
    if not compared:
        detail = "no output has a time axis: each reads all frames"
        if reason:
            detail = f"the model takes no shorter video ({reason}), so nothing says what is due"
        return replace(check, detail=detail)
    detail = f"{compared} output elements, frames changed from {_list(subject.cuts)} on"
    if faults:
        cut, first, _ = faults[0]
        change = f"output {first} changes when frames from {cut} on do; {detail}"
        where = _leak(subject, cut)
        ahead = [_look_ahead(subject, cut, first, number) for cut, first, number in faults]
        subject.time = {"look_ahead": [furthest(ahead)], "where": where}
        found_ = f"{len(faults)} differ"
        return replace(check, ok=False, measured=found_, detail=change, where=where)
    if not moved:
        return replace(check, detail=f"{detail}; the frames changed no output at all")
    subject.time = {"look_ahead": [0]}
    return replace(check, ok=True, measured="0 bits differ", detail=detail)


def _look_ahead(subject: _Causal, cut: int, first: int, number: int) -> int | None:
    """How many frames after its own an output reads that changes with frames from a cut on: as
    many as the first frames have to be fewer, for it not to be due yet. None: it reads them all.

    Args:
        first: the first element that changes.
        number: of the tensor of the output.
    """
    whole = leaves(subject.whole)[number]

    def due(frames: int) -> int:
        part = _parts(subject, frames)[0][number]
        found = None if whole is None else _due(whole, part)
        return 0 if found is None else found[1]  # too short for a window: nothing is due

    frames = bisect(range(1, cut), first, key=due)
    return None if frames == 0 else cut - frames


def _prefix(check: Check, subject: _Causal) -> Check:
    worst, compared, where = 0.0, 0, ""
    for cut in subject.cuts:
        parts, why = _parts(subject, cut)
        if why:
            return replace(check, detail=f"the model takes no {counted(cut, 'frame')}: {why}")
        for whole, part in zip(leaves(subject.whole), parts, strict=True):
            found = None if whole is None else _due(whole, part)
            if whole is None or part is None or found is None:
                continue
            compared += found[1]
            gap = error(part, whole.narrow(found[0], 0, found[1]))
            if gap > worst:
                worst, where = gap, f"; worst for the first {counted(cut, 'frame')}"
    if not compared:
        return replace(check, detail="no output has a time axis: each reads all frames")
    ok = worst <= subject.bound
    detail = f"{compared} output elements{where}"
    return replace(check, ok=ok, measured=worst, bound=subject.bound, detail=detail)


def _leak(subject: _Causal, cut: int) -> str:
    """The first call whose elements up to the cut change with frames after it."""
    runs: list[list[Call]] = []
    for video in (subject.video, subject.disturbed(cut), subject.prefix(cut)):
        with calls_of(subject.model) as calls:
            subject.answer(video)
        runs.append(calls)
    if len({len(r) for r in runs}) != 1:
        return ""
    over_all = ""
    for whole, other, part in zip(*runs, strict=True):
        for a, b, c in zip(whole.outputs, other.outputs, part.outputs, strict=False):
            found = _due(a, c)
            if found is None:
                if a.shape == b.shape and not same_bits(a, b):
                    over_all = over_all or str(whole.place)
                continue
            dim, count = found
            if not same_bits(a.narrow(dim, 0, count), b.narrow(dim, 0, count)):
                pooled = f"; it uses {over_all}, which depends on all frames" * bool(over_all)
                return f"{whole.place}{pooled}"
    return ""


def _list(cuts: list[int]) -> str:
    """Whole numbers in order; three and more in a row by the first and the last."""
    runs: list[list[int]] = []
    for cut in cuts:
        if runs and cut == runs[-1][-1] + 1:
            runs[-1].append(cut)
        else:
            runs.append([cut])
    parts = [f"{r[0]} … {r[-1]}" if len(r) > 2 else " and ".join(map(str, r)) for r in runs]
    return " and ".join(parts)


Measure = Callable[[Check, _Causal], Check]

_MEASURES: dict[str, Measure] = {
    "time-sensitive": _time_sensitive,
    "no-future": _no_future,
    "prefix": _prefix,
}
CHECKS = tuple((name, promise, _MEASURES[name]) for name, promise in PLAIN_CHECKS.items())


def _asked(check: Check, must: Collection[str]) -> Check:
    """A check, which may have to hold."""
    return unanswered(check) if check.ok is None and check.id in must else check


def _guarded(check: Check, measure: Measure, subject: _Causal) -> Check:
    """A check; an exception is reported as what it is (:func:`unmade`)."""
    try:
        return measure(check, subject)
    except Exception as error:
        return unmade(check, error)
