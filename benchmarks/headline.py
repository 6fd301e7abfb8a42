"""The figures that the project is held to: what is measured, its bound and its aim.

Of several models or passes the worst counts, and is named.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

Run = dict[str, Any]
Found = tuple[float, str]


@dataclass(frozen=True)
class Figure:
    """One figure.

    Attributes:
        what: in words.
        bound: it must not be more than this.
        aim: what it would be if nothing were wasted.
        read: from all runs, the values with what each is of.
        shown: how bound and aim are written where a fraction says more.
    """

    what: str
    bound: float
    aim: float
    read: Callable[[list[Run]], Iterable[Found]]
    shown: tuple[str, str] | None = None

    def line(self, runs: list[Run]) -> list[str]:
        """Cells of the table: what, bound, aim, measured, met or missed."""
        bound, aim = self.shown or (f"{self.bound:g}", f"{self.aim:g}")
        found = sorted(self.read(runs))
        head = [self.what, f"≤ {bound}" if self.bound else bound, aim]
        if not found:
            return [*head, "not measured", ""]
        value, where = found[-1]
        verdict = "missed" if value > self.bound else "met" if value > self.aim else "met, aim too"
        others = ""
        if len(found) > 1:
            middle = statistics.median(v for v, _ in found)
            others = f"; {middle:.3g} in the median of {len(found)}"
        return [*head, f"{value:.3g} ({where}{others})", verdict]


def rows(runs: list[Run], benchmark: str) -> Iterator[tuple[Run, dict[str, Any]]]:
    for run in runs:
        if run["benchmark"] == benchmark:
            for row in run["rows"]:
                yield run, row


def on_gpu(run: Run) -> bool:
    return run["machine"].get("device", "cpu") != "cpu"


def videos(row: dict[str, Any]) -> str:
    """How many videos at once, to follow the size of one; empty for one alone."""
    return f" × {row['batch']}" if row.get("batch", 1) > 1 else ""


def alike(row: dict[str, Any]) -> bool:
    """Whether the steps go back from all frames, as the plain model does.

    With a temporal stride some steps have no answer: forward, their work is in the clock, but
    backward nothing is done for them.
    """
    if row["pass"] == "forward" or "answers" not in row:
        return True
    return bool(row["answers"] == row["steps_timed_together"])


def _step(
    key: str,
    ways: tuple[str, ...],
    *,
    gpu: bool = False,
    mode: str = "eager",
    batches: bool | None = None,
) -> Callable[[list[Run]], Iterator[Found]]:
    """Of float32 at full space, in torch's own layout; ``batches``: of several videos at once, or
    of one alone. Of rows that are alike, in a row or not, the worst."""

    def read(runs: list[Run]) -> Iterator[Found]:
        found: dict[str, float] = {}
        for value, where in each(runs):
            found[where] = max(value, found.get(where, value))
        return ((value, where) for where, value in found.items())

    def each(runs: list[Run]) -> Iterator[Found]:
        for run, row in rows(runs, "step"):
            if "layout" in row:
                continue
            asked = row.get("full") and row.get("dtype") == "float32" and row.get("mode") == mode
            if not asked or row["pass"] not in ways or on_gpu(run) != gpu or not alike(row):
                continue
            if batches is not None and (row.get("batch", 1) > 1) != batches:
                continue
            if "failed" in row:  # what couldn't be measured is no figure met
                yield math.inf, f"{row['model']}, {row['pass']}: {row['failed']}"
            elif key in row:
                steps = f" of {n} frames" if (n := row.get("new_frames", 7)) != 7 else ""
                yield row[key]["median"], f"{row['model']}, {row['pass']}{steps}"

    return read


def _stream(way: str, *, gpu: bool = False) -> Callable[[list[Run]], Iterator[Found]]:
    def read(runs: list[Run]) -> Iterator[Found]:
        for run, row in rows(runs, "stream"):
            if row["way"].startswith(way) and on_gpu(run) == gpu:
                yield row["ours_over_this"]["median"], run["machine"].get("device", "cpu")

    return read


SCALE_KINDS = {"tensor": "of tensors", "process": "of the process, freed blocks given back"}


def _scale(runs: list[Run]) -> Iterator[Found]:
    for run, row in rows(runs, "scale"):
        if run["options"]["frames"] >= 10_000:
            for kind, value in row["peak_long_over_short"].items():
                kind = kind.removesuffix("_bytes")
                yield value, f"{row['model']}, {SCALE_KINDS.get(kind, kind)}"


def _train(
    memory: bool, *, gpu: bool = False, batches: bool | None = None
) -> Callable[[list[Run]], Iterator[Found]]:
    """``batches``: of several videos at once, or of one alone."""

    def read(runs: list[Run]) -> Iterator[Found]:
        for run, row in rows(runs, "train"):
            if row["steps"] != 8 or on_gpu(run) != gpu:
                continue
            if batches is not None and (row.get("batch", 1) > 1) != batches:
                continue
            where = f"{row['model']}, {run['options']['space']} px{videos(row)}"
            peaks = [row["peaks"].get(w, {}).get("tensor_bytes") for w in ("exact", "whole")]
            if memory and all(peaks):
                yield peaks[0] / peaks[1], where
            elif not memory and "exact" in row.get("time_over_whole", {}):
                yield row["time_over_whole"]["exact"]["median"], where

    return read


def _compile_time(runs: list[Run]) -> Iterator[Found]:
    for _, row in rows(runs, "compile_time"):
        if "transform_over_export" in row:
            yield row["transform_over_export"]["median"], row["model"]


def _recompilations(runs: list[Run]) -> Iterator[Found]:
    for _, row in rows(runs, "step"):
        if "recompilations_after_second_step" in row:
            where, count = f"{row['model']}, {row['pass']}", row["recompilations_after_second_step"]
            # It stops counting at its limit, and runs the rest uncompiled.
            yield (math.inf, f"{where}: gave up") if row.get("gave_up") else (count, where)


FORWARD, BOTH = ("forward",), ("forward+backward",)
GRAPHS = "compiled, reduce-overhead"
PLAIN, PAPER = "step_over_plain", "step_over_recompute"
FIGURES = (
    Figure(
        "step, per new frame over plain clip: forward (CPU, float32, full space)",
        1.10, 1.02, _step(PLAIN, FORWARD),
    ),
    Figure("the same, forward + backward", 1.10, 1.02, _step(PLAIN, BOTH)),
    Figure(
        "both under torch.compile (CPU, float32, full space)",
        1.10, 1.02, _step(PLAIN, FORWARD + BOTH, mode="compiled"),
    ),
    Figure(
        "the same on a GPU, eager, several videos at once",
        1.15, 1.05, _step(PLAIN, FORWARD + BOTH, gpu=True, batches=True),
    ),
    Figure(
        "the same on a GPU, eager, one video: the GPU waits for the host",
        1.15, 1.05, _step(PLAIN, FORWARD + BOTH, gpu=True, batches=False),
    ),
    Figure(
        "the same on a GPU, compiled, several videos at once",
        1.10, 1.02, _step(PLAIN, FORWARD + BOTH, gpu=True, mode="compiled", batches=True),
    ),
    Figure(
        "the same on a GPU, CUDA graphs, one video",
        1.10, 1.02, _step(PLAIN, FORWARD + BOTH, gpu=True, mode=GRAPHS, batches=False),
    ),
    Figure(
        "step over the paper's recomputation (CPU, float32, full space)",
        0.95, 0.88, _step(PAPER, FORWARD + BOTH),
    ),
    Figure(
        "the same on a GPU, several videos at once",
        0.95, 0.88, _step(PAPER, FORWARD + BOTH, gpu=True, batches=True),
    ),
    Figure(
        "the same on a GPU, one video",
        0.95, 0.88, _step(PAPER, FORWARD + BOTH, gpu=True, batches=False),
    ),
    Figure(
        "stream per frame, chunks of 8, over continual-inference forward_steps",
        1.0, 0.8, _stream("continual-inference forward_steps"),
    ),
    Figure(
        "stream per frame, chunks of 8, over a window of 8 at stride 1",
        1 / 6, 1 / 8, _stream("sliding window"), ("1/6", "1/8"),
    ),
    Figure(
        "the same two on a GPU: over forward_steps",
        1.0, 0.8, _stream("continual-inference forward_steps", gpu=True),
    ),
    Figure(
        "and over the window",
        1 / 6, 1 / 8, _stream("sliding window", gpu=True), ("1/6", "1/8"),
    ),
    Figure("peak memory of streaming 10,000 frames over 100", 1.01, 1.00, _scale),
    Figure(
        "exact gradient, P = 8: peak memory over whole-video backward", 0.25, 0.15, _train(True)
    ),
    Figure("exact gradient, P = 8: time over whole-video backward", 1.45, 1.34, _train(False)),
    Figure("the same two on a GPU: memory", 0.25, 0.15, _train(True, gpu=True)),
    Figure("and time, several videos at once", 1.45, 1.34, _train(False, gpu=True, batches=True)),
    Figure("and time, one video", 1.45, 1.34, _train(False, gpu=True, batches=False)),
    Figure("transform over torch.export.export alone", 1.5, 1.2, _compile_time),
    Figure(
        "recompilations after each steady phase has come twice, under torch.compile",
        0, 0, _recompilations,
    ),
)  # fmt: skip
