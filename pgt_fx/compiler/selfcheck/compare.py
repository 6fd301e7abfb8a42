"""A program and its model on the same random videos, whole and in steps: the first difference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from torch import Tensor

from pgt_fx.compiler.selfcheck.axes import count_of, output_of
from pgt_fx.compiler.selfcheck.copies import Trial, all_exact
from pgt_fx.compiler.selfcheck.measure import (
    assembled,
    error,
    error_per_element,
    leaves,
    parts,
    random_chunks,
    shapes,
    unlike,
)
from pgt_fx.compiler.selfcheck.recursion import recursion
from pgt_fx.compiler.selfcheck.videos import Video, first_line
from pgt_fx.core.counts import counted
from pgt_fx.core.errors import PgtError
from pgt_fx.runtime.progressive import Progressive

INF = float("inf")
One = TypeVar("One")


@dataclass(frozen=True)
class Difference:
    """One answer that is not the model's.

    Attributes:
        chunks: the steps; none for the whole video in one.
        gap: how far it is off; infinite where nothing can be compared.
        words: what was seen.
        certain: no rounding explains it: shapes, types, an error.
        reason: what the program raised.
    """

    trial: Trial
    prog: Progressive
    video: Video
    chunks: tuple[int, ...]
    gap: float
    words: str
    certain: bool = False
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
                wanted[n] = trial.answered(n)
            except Exception:
                found.untaken.append(n)
    if trial.pooled:  # at other lengths the pool over the clip is one over all of time
        wanted = {trial.length: trial.answer}
    # The steps of a waiting program are compared with the model's answer themselves; a video in one
    # step has the same plan in both.
    alone = steps and any(map(all_exact, trial.programs))
    for n in sorted(wanted):
        if alone and n > trial.length:
            continue
        found.difference = _whole(trial, n, wanted[n])
        if found.difference is not None:
            return found
    if steps and trial.pooled and trial.lengths[-1] > trial.length:
        n = trial.lengths[-1]
        whole = tried(trial, trial.prog, n, (), lambda: trial.full(trial.prog, trial.first(n)))
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
    ran = tried(trial, prog, frames, (), lambda: [trial.full(prog, video)])
    if isinstance(ran, Difference):
        return ran
    if ran is None:  # it says what stands in the way
        return None
    (whole,) = ran
    if whole is None and all(_empty(x) or _of_nothing(x) for x in leaves(wanted)):
        return None
    gap = error(whole, wanted)
    if gap > trial.bound:
        return _off(trial, prog, frames, (), gap, whole, wanted)
    if words := unlike(whole, wanted):
        return _certain(trial, prog, frames, (), words)
    if frames == trial.length and (left := trial.leaves_otherwise(prog, video)):
        return Difference(trial, prog, video, (), *left)
    return None


def _waiting(trial: Trial, prog: Progressive, wanted: dict[int, Any]) -> Difference | None:
    """All outputs of a waiting program: of the clip in short steps, and in one that is ended by a
    flush; of the longest video, which goes on from there in place of the flush, with a short step,
    a long one and a short one."""
    t, most = trial.length, max(wanted)
    if prog is not trial.prog and 1 in wanted and t > 1:
        one = tried(trial, prog, 1, (1,), lambda: [trial.full(prog, trial.first(1))])
        if isinstance(one, Difference):
            return one
        if one is not None and not _same(trial, prog, 1, (1,), one, wanted[1]):
            return _apart(trial, prog, 1, (1,), one, wanted[1])
    for chunks, flushed in ((_short(trial, t), False), ((t, *_uneven(most - t)), True)):
        run = partial(_run, trial, prog, chunks, flushed)
        ran = tried(trial, prog, sum(chunks), chunks, run)
        if isinstance(ran, Difference) or ran is None:
            return ran
        outputs, end = ran
        answers: list[tuple[int, tuple[int, ...], list[Any]]] = []
        answers += [(t, (t, 0), [*outputs[:1], end])] if flushed else []
        answers += [(sum(chunks), chunks, outputs)] if len(chunks) > 1 or not flushed else []
        for n, cut, given in answers:
            if n not in wanted:
                continue
            if not _same(trial, prog, n, cut, given, wanted[n]):
                return _apart(trial, prog, n, cut, given, wanted[n])
            if words := _unlike_any(given, wanted[n]):
                return _certain(trial, prog, n, cut, words)
    return None


def _run(
    trial: Trial, prog: Progressive, chunks: Sequence[int], flushed: bool
) -> tuple[list[Any], Any]:
    """What the steps of a video gave, and a flush after the first of them, after which the video
    goes on from the state before the flush; of a video of one step the flush is its end."""
    *pieces, none = trial.cut(trial.first(sum(chunks)), [*chunks, 0])
    most = len(pieces) + (len(pieces) == 1 and flushed)
    prog.reset()
    outputs: list[Any] = []
    end = None
    for number, piece in enumerate(pieces, 1):
        outputs.append(trial.feed(prog, piece, number == most))
        if flushed and number == 1:
            args, kwargs = trial.args(none)
            end = prog.step(prog.state, *args, last=True, **kwargs)[0]
    return outputs, end


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
                return _certain(trial, prog, n, chunks, words, reason)
            # Where none is named their number is all that is claimed: of one video that will do.
            once = n == trial.length and chunks == (head, n - head) and (timed or summed)
            if not any(flags) and not once:
                continue
            with recursion(prog) as past:
                run = partial(trial.run, prog, trial.first(n), chunks)
                ran = tried(trial, prog, n, chunks, run)
            if summed and past.worst > trial.bound:
                words = f"hands on another past than the paper's, by {past.worst:.0e}, {past.where}"
                return Difference(trial, prog, trial.first(n), chunks, past.worst, words)
            if ran is None:
                continue
            found = ran if isinstance(ran, Difference) else None
            found = found or _named(trial, prog, n, chunks, ran, flags, wanted[n])
            if found is not None:
                return found
            if words := _unlike_any(ran, wanted[n]):
                return _certain(trial, prog, n, chunks, words)
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
        errors = in_elements(error_per_element(first, right, dim), prog, frames, max)
    if len(errors) != len(flags):
        words = f"names {counted(len(flags), 'output')} as exact or not, and gives {len(errors)}"
        return _certain(trial, prog, frames, chunks, words)
    named = [i for i, flag in enumerate(flags) if flag]
    worst = max(named, key=lambda i: errors[i], default=None)
    if worst is None or errors[worst] <= trial.bound:
        return None
    words = f"is off by {errors[worst]:.0e} in output {worst}, which exact_frames names"
    return Difference(trial, prog, trial.first(frames), chunks, errors[worst], words)


def tried(
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
        return trial.alone(run)
    except Exception as reason:
        if not exact and (isinstance(reason, PgtError) or (chunks and _short_steps(prog))):
            return None
        words = f"raises {type(reason).__name__}: {first_line(reason)}"
        return _certain(trial, prog, frames, chunks, words, reason)


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


def _unlike_any(outputs: list[Any], wanted: Any) -> str:
    found = (unlike(out, wanted) for out in outputs if out is not None)
    return next(filter(None, found), "")


def _of_nothing(x: Any) -> bool:
    """Whether an answer is a mean over no element, which the steps never have."""
    return isinstance(x, Tensor) and x.is_floating_point() and bool(x.isnan().all())


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


def _certain(
    trial: Trial,
    prog: Progressive,
    frames: int,
    chunks: tuple[int, ...],
    words: str,
    reason: Exception | None = None,
) -> Difference:
    return Difference(trial, prog, trial.first(frames), chunks, INF, words, True, reason)


def _off(
    trial: Trial,
    prog: Progressive,
    frames: int,
    chunks: tuple[int, ...],
    gap: float,
    got: Any,
    wanted: Any,
) -> Difference:
    words, given, right = f"is off by {gap:.0e}", shapes(got), shapes(wanted)
    if gap == INF:
        words = "gives NaN or infinity where the model does not, or the other way round"
        if given != right:
            words = f"gives {given}, and the model {right}"
    return Difference(trial, prog, trial.first(frames), chunks, gap, words, given != right)


# -- what is claimed -----------------------------------------------------------------------------


def flags_of(prog: Progressive, chunks: Sequence[int]) -> list[bool]:
    """Which elements of the output are claimed to be the model's; none for a model that returns no
    tensor."""
    if output_of(prog) is None:
        return []
    return in_elements(prog.exact_frames(list(chunks)), prog, sum(chunks), all)


def in_elements(
    given: list[One], prog: Progressive, frames: int, together: Callable[[list[One]], One]
) -> list[One]:
    """One for each element of the output, of what is given for each number along its dimension of
    time: more for an element where others are merged with it. As given where there is another
    number."""
    output = output_of(prog)
    count = None if output is None else count_of(prog, output, frames)
    if not count or len(given) == count or len(given) % count:
        return given
    each = len(given) // count
    return [together(given[n : n + each]) for n in range(0, len(given), each)]


def dims_of(prog: Progressive, wanted: Any) -> list[int | None]:
    """Time dimension of each tensor of an answer, as
    :func:`pgt_fx.compiler.selfcheck.measure.leaves` has them: a model may return plain numbers as
    well."""
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


def _uneven(frames: int) -> tuple[int, ...]:
    """A short step, a long one, and a short one at the end."""
    if frames < 6:
        return (1, frames - 1) if frames > 1 else (frames,) * frames
    return 2, frames - 5, 3
