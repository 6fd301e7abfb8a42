"""What the demo found, explained to somebody who has not read the paper."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.text import Text

from pgt_fx.compiler.report import Report
from pgt_fx.core.counts import counted, plural
from pgt_fx.core.text_tables import Fitted

#: float32 rounding through a deep net; more than this is a fault.
ROUNDING = 1e-4


@dataclass(frozen=True)
class Pass:
    """One way to run over the video.

    Attributes:
        outputs: features and logits, as far as the pass gives them; along time put together.
        seconds: of each step; of the whole forward the only one.
        memory: bytes at the peak, beyond what was held before the first clip; None where it can't
            be measured.
        state_bytes: greatest size of the state between two steps.
    """

    outputs: list[Any]
    seconds: list[float]
    memory: float | None
    state_bytes: int = 0

    @property
    def step_seconds(self) -> float:
        """Of a step: the median of all but the first, which prepares things."""
        return statistics.median(self.seconds[1:] or self.seconds)


@dataclass
class Findings:
    """What the demo found; printed by rich as a text for a newcomer.

    Attributes:
        model: name in the zoo.
        source: the file and the size of its frames.
        total, used: frames of the video, and how many of them were fed.
        why_part: why not all, or "".
        paths: how the frames are shared out to several paths, or "".
        ratio: frames of each path for one of the path with the fewest.
        chunks: new frames of each step, of the path with the fewest.
        report: the analysis.
        state_bytes: greatest size of what ``waiting`` carries between two steps.
        waiting, answering: step by step with ``future="wait"`` and ``"zero"``.
        whole: the whole video in one forward.
        refusal: why the model itself gives no logits for a video of this length, or "".
        promised: whether the features of ``waiting`` are said to be exact.
        features_error, logits_error: of ``waiting`` against ``whole``.
        dense: whether the logits have a time axis, of which each step gives a part.
        exact: which feature frames of ``answering`` are claimed to be exact.
        exact_error, other_error: greatest difference on those, and on the others.
        longer: (length, how many) of the next longer steps with exact frames, where none is.
        errors_waiting, errors_at_once: differences of each feature frame from ``whole``.
        thumbnails: a few frames that were fed, (number, picture (H, W, 3) from 0 to 1).
        figure: the file with the figure; None: none was drawn.
    """

    model: str
    source: str
    total: int
    used: int
    why_part: str
    paths: str
    ratio: list[int]
    chunks: list[int]
    report: Report
    state_bytes: int
    waiting: Pass
    answering: Pass
    whole: Pass
    refusal: str
    promised: bool = True
    features_error: float = float("inf")
    logits_error: float = float("inf")
    dense: bool = False
    exact: list[bool] = field(default_factory=list)
    exact_error: float = 0.0
    other_error: float = 0.0
    longer: tuple[int, int] | None = None
    errors_waiting: list[float] = field(default_factory=list)
    errors_at_once: list[float] = field(default_factory=list)
    thumbnails: list[tuple[int, Any]] = field(default_factory=list)
    figure: Path | None = None

    @property
    def ok(self) -> bool:
        """Steps that wait give the model's own outputs, as far as they are said to, and the exact
        frames are exact."""
        logits = self.logits_error <= ROUNDING or not self.report.exact
        features = self.features_error <= ROUNDING or not self.promised
        return features and logits and self.exact_error <= ROUNDING

    def __rich__(self) -> Group:
        return Group(*_story(self))


def _story(found: Findings) -> Iterator[Any]:
    yield from _head(found)
    yield from _analysis(found)
    yield from _costs(found)
    yield from _answering(found)
    yield from _waiting(found)
    if found.figure is not None:
        yield Text(f"The figure: {found.figure}")


def _head(found: Findings) -> Iterator[Any]:
    part = (
        f"all {counted(found.total, 'frame')}"
        if found.used == found.total
        else (f"the first {found.used} of {counted(found.total, 'frame')}")
    )
    one = len(found.chunks) == 1 and found.chunks[0] == 1
    lengths = ", ".join(map(str, found.chunks[:3])) + (", …" if len(found.chunks) > 3 else "")
    rows = [
        ("video", f"{found.source}, {part}"),
        ("model", f"{found.model}, unchanged; random weights, norm layers redrawn; float32"),
        (
            "steps",
            f"{counted(len(found.chunks), 'step')} of {lengths} new {'frame' if one else 'frames'}",
        ),
    ]
    if found.why_part:
        rows.insert(1, ("", f"({found.why_part})"))
    if found.paths:
        rows[-1] = (rows[-1][0], f"{rows[-1][1]} of the slow path ({found.paths})")
    yield _title("What was run")
    yield _table(rows)


def _analysis(found: Findings) -> Iterator[Any]:
    yield _title("The analysis (of the model, before anything is run)")
    yield _table(list(found.report._summary().items()))
    yield Text(
        f"Its {counted(len(found.report.rows), 'operator')} along time: pgt-fx analyze "
        f"{found.model}"
    )


def _costs(found: Findings) -> Iterator[Any]:
    yield _title("What a step costs beside the whole video in one forward")
    table = Fitted(("", "time", "peak memory"), right=(1, 2), whole=(1, 2))
    for future, one in (("wait", found.waiting), ("zero", found.answering)):
        table.add_row(f"one step, future='{future}'", _ms(one.step_seconds), _bytes(one.memory))
    table.add_row(
        "the whole video in one forward", _ms(found.whole.seconds[0]), _bytes(found.whole.memory)
    )
    yield table
    total = sum(found.waiting.seconds)
    yield Text(
        f"Time of a step: the median. {counted(len(found.chunks), 'step')} took {total:.1f} s in "
        "all. Memory: resident memory of the process at its greatest, sampled every 5 ms, beyond "
        "what it held before the first clip (weights, the decoded video); outputs kept are in it."
    )
    yield Text(f"Carried from one step to the next: {_bytes(found.state_bytes)} at most.")


def _waiting(found: Findings) -> Iterator[Any]:
    yield _title("future='wait': the exact stream, whose outputs come when they are exact")
    silent = sum(y is None for y in found.waiting.outputs)
    late = f"; {silent} of {counted(len(found.chunks), 'step')} had no output due" if silent else ""
    whole = "the forward over the whole video"
    yield _table(
        [
            ("features", f"{_difference(found.features_error)} from {whole}{late}"),
            ("logits", _logits(found, whole)),
        ]
    )
    count = len(found.errors_waiting)
    same = sum(e <= ROUNDING for e in found.errors_waiting)
    if not found.promised:
        yield Text(
            f"Exact: {same} of {count} feature frames. No exact stream is promised for this model, "
            "as operators in it take all of time into every frame (see the logits above).",
            "yellow",
        )
        return
    outputs = "features and logits" if found.report.exact else "features"
    verdict = (
        f"the {outputs} equal those of {whole}, up to float32 rounding"
        if found.ok
        else f"the {outputs} do NOT equal those of {whole} (bound {ROUNDING:.0e})"
    )
    yield Text(
        f"Exact: {same} of {count} feature frames. In {counted(len(found.chunks), 'step')}, "
        f"{verdict}.",
        "green" if found.ok else "bold red",
    )


def _logits(found: Findings, whole: str) -> str:
    steps = "all steps" if found.dense else "the last step"
    text = f"{_difference(found.logits_error)} of {steps} from {whole}"
    if not found.report.exact:
        what = sorted({row.what for row in found.report.inexact})
        many = len(found.report.inexact)
        return (
            f"{text}: not the model's own, since {counted(many, 'operator')} "
            f"({', '.join(what)}) {plural(many, 'takes', 'take')} all of time into every frame; "
            "no bounded state reproduces "
            "that, so they were computed within each step (strict=False)"
        )
    if found.refusal:
        return f"{text} with its clip pools made global; the model refuses it ({found.refusal})"
    return text


def _answering(found: Findings) -> Iterator[Any]:
    yield _title("future='zero': every step answers at once, as the paper trains")
    count, total = sum(found.exact), len(found.exact)
    rows = [("exact", f"{count} of {total} feature frames, by arithmetic alone (exact_frames)")]
    if count:
        rows.append(("measured", f"{_difference(found.exact_error)} on those"))
    if count < total:
        rows.append(
            (
                "others",
                f"{_difference(found.other_error)}: near the end of a step, "
                "padding stands where frames are still to come",
            )
        )
    if not count:
        ahead = [
            None if n is None else -(-n // r)
            for n, r in zip(found.report.look_ahead, found.ratio, strict=True)
        ]
        known = [n for n in ahead if n is not None]
        far = "all of the video" if len(known) < len(ahead) else counted(max(known), "frame")
        far += " of the slow path" if len(ahead) > 1 else ""
        rows.append(("why none", f"an output looks {far} ahead, a step has {max(found.chunks)}"))
        if found.longer:
            length, exact = found.longer
            rows.append(("longer", f"with --length {length} it would be {exact} of {total}"))
    rows.append(("in place", "future='wait', next: the same model, and every frame is exact"))
    yield _table(rows)


def _title(text: str) -> Text:
    return Text(f"\n{text}", style="bold")


def _table(rows: list[tuple[str, str]]) -> Fitted:
    table = Fitted(("", ""))
    for row in rows:
        table.add_row(*row)
    return table


def _difference(value: float) -> str:
    return f"greatest relative difference {value:.1e}"


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.0f} ms" if seconds < 10 else f"{seconds:.1f} s"


def _bytes(count: float | None) -> str:
    if count is None:
        return "not measured (pip install psutil)"
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
