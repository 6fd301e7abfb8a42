"""The sizes to capture a model at, and why a model may take clips of a single length."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from pgt_fx.capture.observe.call_overrides import Noted
from pgt_fx.capture.observe.clip_table_op import ClipTable
from pgt_fx.capture.observe.failing_line import INFERENCE, place_of
from pgt_fx.capture.probe.meta_run import clip_pools, clip_tables, probe
from pgt_fx.capture.probe.returned_caches import Tail
from pgt_fx.capture.probe.varying_pads import varying_pads
from pgt_fx.core.clip import ClipSpec, axis_hint, batch_hint, resized
from pgt_fx.core.errors import BlockedError, Blocker, CaptureError
from pgt_fx.core.torch_private import DataDependentOutputException

#: Makes a clip's number of frames that of a sample.
Stretch = Callable[[int], int]
#: For models that take lengths with the clip's remainder only (4n + 1): longer by a multiple of 16,
#: or of all numbers up to 10.
LIKE_CLIP: tuple[Stretch, ...] = (
    lambda t: t + 16 * (t // 16 + 1),
    lambda t: t + 2520 * (t // 2520 + 1),
)


#: How much longer a video is tried, at most, to see whether its padding is another one.
MORE_FRAMES = 4
#: A capture of such windows would take minutes.
ONLY_PADS = "Where the video is padded to windows, what else stands in the way is not looked for."


@dataclass(frozen=True)
class Sample:
    """Leaves to capture a model on.

    Attributes:
        noted: the calls of a run on them that a capture has to see.
        calls: how often each module was called in it.
        tails: of each tensor that it returned whether it is the end of another one.
        pools: numbers of the pool calls that mean "pool the clip".
        tables: operands with one row per frame of the clip.
    """

    leaves: list[Any]
    noted: Noted
    calls: Mapping[nn.Module, int]
    tails: Sequence[Tail | None]
    pools: tuple[int, ...] = ()
    tables: tuple[ClipTable, ...] = ()


def check_ways(model: nn.Module, spec: ClipSpec, leaves: Sequence[Any], noted: Noted) -> None:
    """Make sure that no operator fails whose error the model catches, and that tensors lie in
    memory as they do at the clip's sizes, where the model asks: which way it goes may depend on the
    sizes, and a graph has one.

    Args:
        leaves: of the example.
        noted: of a run on the sample.

    Raises:
        CaptureError: naming the line.
    """
    if INFERENCE in noted.read:
        raise CaptureError(
            "asks what its tensors are to torch (made in inference mode, written to so many "
            "times), which a step's are not: leave the question outside the model",
            noted.read[INFERENCE],
        )
    # In eval mode a statistic without gradients, made without autocast, is left as it is.
    lost = [place for place, on in noted.gradless if on or model.training]
    if lost:
        raise CaptureError(
            "gradients are switched off inside a block of autocast, and torch.export loses that: "
            "write the two the other way round, with torch.no_grad(), torch.autocast(…):, or "
            "detach() what is made there",
            lost[0],
        )
    caught = list(noted.caught)
    if (noted.tried or noted.layouts) and not caught:
        at_clip = probe(model, spec.spec, list(leaves))
        caught = at_clip.noted.caught
        if at_clip.error is None and at_clip.noted.layouts != noted.layouts:
            pairs = zip(at_clip.noted.layouts, noted.layouts, strict=False)
            other = next((one for (one, a), (_, b) in pairs if a != b), noted.layouts[0][0])
            raise CaptureError(
                "the model asks how this tensor lies in memory, and the answer differs at other "
                "sizes: leave the question out, or call contiguous() before it",
                other,
            )
    if caught:
        raise CaptureError(
            "the model catches an error of this call and takes another branch: at which sizes "
            "it does can't be determined. Branch on the sizes in an if, or leave that part "
            "outside the model",
            caught[0],
        )


def check_pads(model: nn.Module, spec: ClipSpec, leaves: Sequence[Any]) -> None:
    """Make sure that no pad along time depends on the number of frames.

    Args:
        leaves: of the sample.

    Raises:
        BlockedError: listing those that do; what else stands in the way is not looked for.
    """
    rows, least = int(leaves[spec.paths[0]].shape[0]), min(_lengths(spec, leaves))
    known = probe(model, spec.spec, list(leaves)).pads
    found: dict[int, Blocker] = {}
    for more in range(1, MORE_FRAMES + 1) if known else ():

        def longer(t: int, more: int = more) -> int:
            return t + more * (t // least)

        video = resized(spec, leaves, batch=rows, time=longer, space=lambda s: s)
        run = probe(model, spec.spec, video)
        found |= varying_pads(model, known, run.pads, rows) if run.error is None else {}
    if found:
        raise BlockedError([found[n] for n in sorted(found)], ONLY_PADS)


#: Lengths that are tried, at most, to tell which one a model takes that refuses its clip's.
MOST_LENGTHS = 48


def _taken(model: nn.Module, spec: ClipSpec, leaves: Sequence[Any]) -> int | None:
    """The first length that a model takes of those longer than the clip; None where none of the
    next :data:`MOST_LENGTHS` is."""
    least, rows = min(spec.lengths), spec._shape(spec.paths[0])[0]
    for frames in range(least + 1, least + MOST_LENGTHS + 1):
        video = resized(
            spec,
            leaves,
            batch=rows,
            time=lambda t, n=frames: t * n // least,  # type: ignore[misc]
            space=lambda s: s,
        )
        if probe(model, spec.spec, video).error is None:
            return frames
    return None


def _why(error: Exception, model: nn.Module, spec: ClipSpec, leaves: Sequence[Any]) -> str:
    """Why a model can't be captured that fails on its example clip in a run without compute."""
    if isinstance(error, DataDependentOutputException):
        return (
            "makes a number or a branch of Python's of the values of a tensor, which a graph can't "
            "hold. Write it with tensor operators (torch.where). What only checks values may stay, "
            "as assert x.isfinite().all() or as an if of a tensor with nothing but raise in it"
        )
    frames = _taken(model, spec, leaves)
    said = f"the model does not run on its example clip: {error}"
    if frames is None:
        return said
    had = min(spec.lengths)
    return f"{said}. It takes {frames} frames, and the example has {had}: pass one that long"


def _lengths(spec: ClipSpec, leaves: Sequence[Any]) -> list[int]:
    return [int(leaves[i].shape[spec.times[i] or 0]) for i in spec.paths]


def lies_otherwise(
    model: nn.Module, spec: ClipSpec, leaves: Sequence[Any], frames: int, noted: Noted
) -> bool:
    """Whether a tensor lies otherwise in memory than in the sample, where the model asks, in a
    video of the example's size and so many frames."""
    least, rows = min(spec.lengths), (spec.shapes[spec.paths[0]] or (1,))[0]
    video = resized(spec, leaves, batch=rows, time=lambda t: t * frames // least, space=lambda s: s)
    run = probe(model, spec.spec, video)
    return run.error is None and run.noted.layouts != noted.layouts


def find_sample(
    model: nn.Module,
    spec: ClipSpec,
    leaves: Sequence[Any],
    pools: str,
    *,
    wide: bool = True,
    stretches: Sequence[Stretch] | None = None,
    batch: int = 2,
) -> Sample:
    """A sample to capture at: longer and wider than the clip, so that no size collapses to 1.

    Args:
        stretches: how much longer, in the order in which it is tried; None: about twice, or four
            times.
        batch: rows of the sample.

    Raises:
        CaptureError: when the model doesn't run, or runs at the clip's length alone.
    """
    if stretches is None:
        several = len(spec.paths) > 1
        stretches = [lambda t: 3 * t if several else 2 * t + 3, lambda t: 4 * t]
    at_clip = None
    error: Exception | None = None
    for stretch in stretches:
        for widen in (lambda s: 2 * s, lambda s: s) if wide else (lambda s: s,):
            sample = resized(spec, leaves, batch=batch, time=stretch, space=widen)
            run = probe(model, spec.spec, sample)
            if run.error is None and pools != "global":
                return Sample(sample, run.noted, run.calls, run.tails)
            error = run.error or error
            if not run.pools and run.error is None:
                return Sample(
                    sample, run.noted, run.calls, run.tails
                )  # "global", and no pool to take so
            if pools == "window" or not run.pools:
                continue
            if at_clip is None:
                at_clip = probe(model, spec.spec, list(leaves))
                if at_clip.error is not None:
                    raise CaptureError(
                        _why(at_clip.error, model, spec, leaves),
                        place_of(at_clip.error),
                    ) from at_clip.error
            numbers = clip_pools(at_clip.pools, run.pools)
            if numbers and (pooled := probe(model, spec.spec, sample, numbers)).error is None:
                return Sample(sample, pooled.noted, pooled.calls, pooled.tails, tuple(numbers))
            if run.error is None:
                return Sample(sample, run.noted, run.calls, run.tails)
    for stretch in stretches:
        sample = resized(spec, leaves, batch=batch, time=stretch, space=lambda s: s)
        tables, run = clip_tables(model, spec.spec, list(leaves), sample)
        if tables:
            return Sample(sample, run.noted, run.calls, run.tails, tables=tuple(tables))
    at_clip = probe(model, spec.spec, list(leaves))
    if at_clip.error is not None:
        error = at_clip.error
        raise CaptureError(_why(error, model, spec, leaves), place_of(error)) from error
    rows = spec._shape(spec.paths[0])[0]
    hinted = bool(batch_hint(spec))  # an input without time may be what is at fault
    for stretch in stretches if batch != rows and not hinted else ():
        sample = resized(spec, leaves, batch=rows, time=stretch, space=lambda s: s)
        if probe(model, spec.spec, sample).error is None:  # it was the batch, and not the frames
            return find_sample(
                model, spec, leaves, pools, wide=wide, stretches=stretches, batch=rows
            )
    lengths = ", ".join(str(tuple(s(t) for t in spec.lengths)) for s in stretches)
    raise CaptureError(
        f"the model runs at {spec.lengths} frames and at no other length tried ({lengths}): "
        f"{type(error).__name__}: {' '.join(str(error).split())[:300]}\n"
        "A table, a layer or a reshape in it has one entry per frame of the clip. Pass the part of "
        "the model in front of it, or replace it by one that takes any length."
        + axis_hint(spec)
        + batch_hint(spec),
        place_of(error),
    ) from error
