"""A program and its model on the same random videos, whole and in steps: the first difference."""

from __future__ import annotations

import contextlib
import copy
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, fx
from torch.nn.modules.batchnorm import _NormBase

from pgt_fx.checking.draws import seeded
from pgt_fx.checking.measure import (
    assembled,
    error,
    error_per_element,
    leaves,
    parts,
    random_chunks,
    shapes,
)
from pgt_fx.checking.recursion import recursion
from pgt_fx.checking.redraw import redraw_norms, redraw_zeros
from pgt_fx.checking.trials import BOUNDS, OTHER_BOUNDS, Trials
from pgt_fx.checking.videos import Video, device_of, first_line
from pgt_fx.counts import counted
from pgt_fx.errors import PgtError
from pgt_fx.longest import longest_step
from pgt_fx.options import Changes
from pgt_fx.progressive import Progressive
from pgt_fx.report import reproduces

INF = float("inf")
#: Parameters up to which a second video in the batch costs nothing to speak of.
SMALL = 2_000_000
#: Least variance of norms, in mean squares: at the smallest frames they see few elements. With less
#: r2plus1d_18 at 8 pixels rounds a hundred times as much, and is measured again in float64.
FLOOR = 1.0


class Unfit(Exception):
    """The model can't be run on random videos."""


@dataclass(frozen=True)
class Difference:
    """One answer that is not the model's.

    Attributes:
        chunks: the steps; none for the whole video in one.
        gap: how far it is off; infinite where nothing can be compared.
        words: what was seen.
        reason: what the program raised.
    """

    trial: Trial
    prog: Progressive
    video: Video
    chunks: tuple[int, ...]
    gap: float
    words: str
    reason: Exception | None = None


@dataclass
class Found:
    """What a comparison came to.

    Attributes:
        lengths: of the videos that were compared.
        untaken: lengths that the model itself does not take.
        difference: the first one, or None.
    """

    lengths: list[int] = field(default_factory=list)
    untaken: list[int] = field(default_factory=list)
    difference: Difference | None = None


class Trial(Trials):
    """A copy of a progressive model and of its model, whose norms and zeros are drawn anew.

    Args:
        side: of the frames; None: the example's.
        dtype: to run in; None: the weights' own.

    Raises:
        Unfit: when the model can't be copied, or fails on a random clip.
    """

    def __init__(self, prog: Progressive, side: int | None, dtype: torch.dtype | None) -> None:
        source = prog._source
        own = next((x for x in source.spec.dtypes if x and x.is_floating_point), torch.float32)
        kind, lengths = dtype or source._cast(own), prog.video_lengths
        super().__init__(source.spec, source.leaves, device_of(prog), 0, kind, allowed=lengths)
        self.bound, _ = BOUNDS.get(kind, OTHER_BOUNDS)
        small = sum(p.numel() for p in prog.parameters()) <= SMALL
        self.rows = prog._captured().rows or (2 if small else 1)
        if side is not None:
            self.space = lambda n: min(n, side)
        try:
            taken = copy.deepcopy(prog)
        except Exception as reason:
            raise Unfit(f"the model can't be copied: {first_line(reason)}") from reason
        captured = taken._captured()
        if dtype is not None:
            taken.to(dtype)
        self.anew = taken._captured() is not captured
        self.prog, self.model = taken, taken._source.model
        self.pooled, self.typed = bool(captured.global_pools), captured.typed
        t, longest = self.length, longest_step(taken._analysis())
        fits = [n for n in (1, t, lengths.near(2 * t + 3)) if lengths.allows(n)]
        self.lengths = sorted({n for n in fits if longest is None or n <= longest} | {t})
        # Each video is the beginning of the next longer one.
        self.longest = self.video(self.lengths[-1], salt=2)
        self._redraw()

    def _redraw(self) -> None:
        self._answers: list[Any] = []
        norms = [m for m in self.model.modules() if isinstance(m, _NormBase)]
        fitted = {id(buffer) for norm in norms for buffer in norm.buffers()}
        # Those made under inference_mode count no writes, and can't be written outside of it.
        buffers = [b for b in self.model.buffers() if not b.is_inference()]
        before = [(b, b._version) for b in buffers if id(b) not in fitted]
        try:
            redraw_zeros(self.model, self.seed)
            # Norms are fitted to what arrives at each before it runs: its answer is the model's.
            run = lambda: self._answers.append(self.plain(self.first(self.length)))  # noqa: E731
            generator = torch.Generator().manual_seed(0)
            seeded(lambda: redraw_norms(self.model, generator, run, FLOOR))
        except Exception as reason:
            raise Unfit(_fails(reason)) from reason
        if any(b._version != version for b, version in before):
            self._answers.clear()  # it keeps something for the next call
        self._kept = [(b, b._version, b.clone()) for b in buffers]

    def alone(self, run: Callable[[], Any], seed: int = 0) -> Any:
        """What a run gives that finds the model as if there had been none before: the same buffers,
        which a warm-up writes, and the same random numbers."""
        for number, (buffer, version, value) in enumerate(self._kept):
            if buffer._version != version:
                buffer.copy_(value)
                self._kept[number] = (buffer, buffer._version, value)
        return seeded(run, seed)

    @cached_property
    def answer(self) -> Any:
        """The model's own answer to a clip.

        Raises:
            Unfit: when it has none.
        """
        if self._answers:
            return self._answers[0]
        try:
            return self.alone(partial(self.plain, self.first(self.length)))
        except Exception as reason:
            raise Unfit(_fails(reason)) from reason

    def first(self, frames: int) -> Video:
        """The first frames of the video. A copy: some models write into the clip they are given."""
        whole = [x.clone() if isinstance(x, Tensor) else x for x in self.longest]
        return self.cut(whole, [frames])[0]

    @cached_property
    def programs(self) -> list[Progressive]:
        """The program, and under ``future="zero"`` the waiting one of the same graph."""
        if self.prog.options.future == "wait":
            return [self.prog]
        exact = Changes(operator="mco", future="wait", pooling="running", strict=False)
        try:
            waiting = self.prog.replace(**exact)
            waiting._program()
        except PgtError:
            return [self.prog]
        return [self.prog, waiting] if all_exact(waiting) else [self.prog]


def _fails(reason: Exception) -> str:
    kind = f"{type(reason).__name__}: {first_line(reason)}"
    return f"the model itself fails on random videos: {kind}"


def compare(trial: Trial, *, steps: bool = True) -> Found:
    """Run a program beside its model.

    Args:
        steps: videos in steps as well, not only whole.

    Raises:
        Unfit: when the model fails on its clip.
    """
    found, wanted = Found(), {trial.length: trial.answer}
    for n in trial.lengths:
        if n != trial.length:
            try:
                wanted[n] = trial.alone(partial(trial.plain, trial.first(n)))
            except Exception:
                found.untaken.append(n)
    if trial.pooled:  # at other lengths the pool over the clip is one over all of time
        wanted = {trial.length: trial.answer}
    # Under "wait" the steps are compared with the model's answer themselves.
    alone = steps and all_exact(trial.prog)
    for n in sorted(wanted):
        if alone and n > trial.length:
            continue
        found.difference = _whole(trial, n, wanted[n])
        if found.difference is not None:
            return found
    if steps and trial.pooled and trial.lengths[-1] > trial.length:
        n = trial.lengths[-1]
        whole = _tried(trial, trial.prog, n, (), lambda: trial.full(trial.prog, trial.first(n)))
        if not isinstance(whole, Difference) and whole is not None:
            wanted[n] = whole
    found.lengths = sorted(wanted)
    for prog in trial.programs if steps else ():
        run = _waiting if all_exact(prog) else _claiming
        found.difference = run(trial, prog, wanted)
        if found.difference is not None:
            break
    return found


def _whole(trial: Trial, frames: int, wanted: Any) -> Difference | None:
    """The whole video in one step beside the model's answer."""
    prog, video = trial.prog, trial.first(frames)
    ran = _tried(trial, prog, frames, (), lambda: [trial.full(prog, video)])
    if isinstance(ran, Difference):
        return ran
    if ran is None:  # it says what stands in the way
        return None
    (whole,) = ran
    if whole is None and all(map(_empty, leaves(wanted))):
        return None
    gap = error(whole, wanted)
    return None if gap <= trial.bound else _off(trial, prog, frames, (), gap, whole, wanted)


def _waiting(trial: Trial, prog: Progressive, wanted: dict[int, Any]) -> Difference | None:
    """All outputs of a waiting program: of the longest video, of the clip, which is its beginning
    and ends there with a flush, and of one frame."""
    t, most = trial.length, max(wanted)
    if prog is not trial.prog and 1 in wanted and t > 1:
        one = _tried(trial, prog, 1, (1,), lambda: [trial.full(prog, trial.first(1))])
        if isinstance(one, Difference):
            return one
        if one is not None and not _same(trial, prog, 1, (1,), one, wanted[1]):
            return _apart(trial, prog, 1, (1,), one, wanted[1])
    rest = most - t
    ways = [(_short(trial, t), _two(rest)), ((t,), _two(rest)[::-1])]
    for head, tail in ways:
        ran = _tried(trial, prog, most, (*head, *tail), partial(_run, trial, prog, head, tail))
        if isinstance(ran, Difference) or ran is None:
            return ran
        early, end, late = ran
        answers = [(t, (*head, 0), [*early, end]), (most, (*head, *tail), [*early, *late])]
        for n, chunks, outputs in answers[: 2 if rest else 1]:
            if n in wanted and not _same(trial, prog, n, chunks, outputs, wanted[n]):
                return _apart(trial, prog, n, chunks, outputs, wanted[n])
    return None


def _run(
    trial: Trial, prog: Progressive, head: Sequence[int], tail: Sequence[int]
) -> tuple[list[Any], Any, list[Any]]:
    """What the steps of the clip gave, its flush, and what the steps after it gave."""
    pieces = trial.cut(trial.first(trial.lengths[-1]), [*head, *tail, 0])
    prog.reset()
    early = [trial.feed(prog, piece, False) for piece in pieces[: len(head)]]
    args, kwargs = trial.args(pieces[-1])
    end, _ = prog.step(prog.state, *args, last=True, **kwargs)
    rest = pieces[len(head) : -1]
    late = [trial.feed(prog, piece, number == len(rest)) for number, piece in enumerate(rest, 1)]
    return early, end, late


def _claiming(trial: Trial, prog: Progressive, wanted: dict[int, Any]) -> Difference | None:
    """The outputs that ``exact_frames`` names, and how many there are in all."""
    timed = dims_of(prog, wanted[trial.length])[:1] not in ([], [None])
    summed = prog.options.future == "zero" and not prog.options.markov.exact
    for n in sorted(wanted):
        if n == 1:
            continue
        head = trial.length if n > trial.length else n - 1
        for chunks in (_short(trial, n), (head, n - head)):
            try:
                flags = flags_of(prog, chunks)
            except Exception as reason:
                words = f"exact_frames raises {type(reason).__name__}: {first_line(reason)}"
                return Difference(trial, prog, trial.first(n), chunks, INF, words, reason)
            # Where none is named their number is all that is claimed: of one video that will do.
            once = n == trial.length and chunks == (head, n - head) and (timed or summed)
            if not any(flags) and not once:
                continue
            with recursion(prog) as past:
                run = partial(trial.run, prog, trial.first(n), chunks)
                ran = _tried(trial, prog, n, chunks, run)
            if summed and past.worst > trial.bound:
                words = f"hands on another past than the paper's, by {past.worst:.0e}, {past.where}"
                return Difference(trial, prog, trial.first(n), chunks, past.worst, words)
            if ran is None:
                continue
            found = ran if isinstance(ran, Difference) else None
            found = found or _named(trial, prog, n, chunks, ran, flags, wanted[n])
            if found is not None:
                return found
    return None


def _named(
    trial: Trial,
    prog: Progressive,
    frames: int,
    chunks: tuple[int, ...],
    outputs: list[Any],
    flags: list[bool],
    wanted: Any,
) -> Difference | None:
    dims = dims_of(prog, wanted)
    if not dims:
        return None
    first, right, dim = assembled(outputs, dims)[0], leaves(wanted)[0], dims[0]
    if first is None or right is None or (dim is None and not any(flags)):
        return None
    if first.shape != right.shape:
        return _off(trial, prog, frames, chunks, INF, first, right)
    if dim is None:
        errors = [error(first, right)]
    else:
        errors = error_per_element(first, right, dim)
        inner = len(errors) // max(len(flags), 1)  # time may be merged with what is within a frame
        if inner > 1 and inner * len(flags) == len(errors):
            errors = [max(errors[i : i + inner]) for i in range(0, len(errors), inner)]
    if len(errors) != len(flags):
        words = f"names {counted(len(flags), 'output')} as exact or not, and gives {len(errors)}"
        return Difference(trial, prog, trial.first(frames), chunks, INF, words)
    named = [i for i, flag in enumerate(flags) if flag]
    worst = max(named, key=lambda i: errors[i], default=None)
    if worst is None or errors[worst] <= trial.bound:
        return None
    words = f"is off by {errors[worst]:.0e} in output {worst}, which exact_frames names"
    return Difference(trial, prog, trial.first(frames), chunks, errors[worst], words)


def _tried(
    trial: Trial,
    prog: Progressive,
    frames: int,
    chunks: tuple[int, ...],
    run: Callable[[], Any],
) -> Any:
    """What a run gives; None where the program refuses it in words, or under ``future="zero"`` a
    module of the model refuses a step so short. A program that is all exact refuses no steps."""
    exact = bool(chunks) and all_exact(prog)
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # fx prints what a graph raises
            return trial.alone(run)
    except Exception as reason:
        if not exact and (isinstance(reason, PgtError) or (chunks and _short_steps(prog))):
            return None
        words = f"raises {type(reason).__name__}: {first_line(reason)}"
        return Difference(trial, prog, trial.first(frames), chunks, INF, words, reason)


def _short_steps(prog: Progressive) -> bool:
    return prog.options.future == "zero"


def _same(
    trial: Trial,
    prog: Progressive,
    frames: int,
    chunks: tuple[int, ...],
    outputs: list[Any],
    wanted: Any,
) -> bool:
    got, right = assembled(outputs, dims_of(prog, wanted)), leaves(wanted)
    # An answer without elements is none.
    pairs = [(g, r) for g, r in zip(got, right, strict=True) if not (g is None and _empty(r))]
    return not pairs or error([g for g, _ in pairs], [r for _, r in pairs]) <= trial.bound


def _empty(x: Any) -> bool:
    return x is None or not x.numel()


def _apart(
    trial: Trial,
    prog: Progressive,
    frames: int,
    chunks: tuple[int, ...],
    outputs: list[Any],
    wanted: Any,
) -> Difference:
    got = assembled(outputs, dims_of(prog, wanted))
    return _off(trial, prog, frames, chunks, error(got, leaves(wanted)), got, wanted)


def _off(
    trial: Trial,
    prog: Progressive,
    frames: int,
    chunks: tuple[int, ...],
    gap: float,
    got: Any,
    wanted: Any,
) -> Difference:
    words = f"is off by {gap:.0e}"
    if gap == INF:
        words = f"gives {shapes(got)}, and the model {shapes(wanted)}"
    return Difference(trial, prog, trial.first(frames), chunks, gap, words)


# -- what is claimed -----------------------------------------------------------------------------


def all_exact(prog: Progressive) -> bool:
    """Whether all outputs are claimed to be the model's."""
    return prog.options.future == "wait" and reproduces(prog._analysis(), prog.options)


def flags_of(prog: Progressive, chunks: Sequence[int]) -> list[bool]:
    """Which outputs are claimed to be the model's; none for a model that returns no tensor."""
    tensors = any(isinstance(o, fx.Node) for o in prog._analysis().outputs)
    return prog.exact_frames(list(chunks)) if tensors else []


def dims_of(prog: Progressive, wanted: Any) -> list[int | None]:
    """Time dimension of each tensor of an answer, as :func:`pgt_fx.checking.measure.leaves` has
    them: a model may return plain numbers as well."""
    if wanted is None:
        return []
    times = iter(prog.time_dims)
    pairs = [(x, next(times) if own else None) for x, own in parts(wanted)]
    return [dim for x, dim in pairs if x is None or isinstance(x, Tensor)]


def _short(trial: Trial, frames: int) -> tuple[int, ...]:
    """Short steps at the start, and the rest."""
    if frames < 9:
        return tuple(random_chunks(frames, 3, trial.rng(frames)))
    return (1, 2, 3, frames - 6)


def _two(frames: int) -> tuple[int, ...]:
    """A short step and a long one."""
    if frames <= 2:
        return (frames,) if frames else ()
    first = min(3, frames - 1)
    return first, frames - first
