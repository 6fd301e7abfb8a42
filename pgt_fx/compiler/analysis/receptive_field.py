"""Receptive fields: which frames each value's elements read, by the laws alone."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from pgt_fx.compiler.analysis.walk import Analysis, Operation
from pgt_fx.core.law import Law
from pgt_fx.rules import Concatenated, Scanned, StepOnly, Windowed


@dataclass(frozen=True)
class Reach:
    """Temporal receptive field of one value, in frames of one input path.

    Element i reads frames ``i*stride - past … i*stride + future`` at most.

    Attributes:
        stride: frames per element.
        past, future: reach before and behind the element's own frame; None where it is all of
            time.
        field: size of the largest receptive field of an element (TRF); None where unbounded.
    """

    stride: Fraction
    past: int | None
    future: int | None
    field: int | None


Spans = list[tuple[int, int] | None]


def reaches(analysis: Analysis) -> dict[str, dict[int, Reach]]:
    """Per value with time and per input path, its :class:`Reach`.

    The intervals of frames read are followed through the graph for every element of a video long
    enough that the elements in its middle don't feel its ends.
    """
    for frames in (48, 96, 192, 384, 768, 1536):
        found, clear = _reaches(analysis, frames)
        if clear:
            break
    return found


def _reaches(analysis: Analysis, frames: int) -> tuple[dict[str, dict[int, Reach]], bool]:
    ratio = analysis.spec.ratio
    lengths = tuple(frames * r for r in ratio)
    spans: dict[str, dict[int, Spans]] = {}
    strides: dict[str, dict[int, Fraction]] = {}
    unbounded: set[str] = set()
    scanned: set[str] = set()  # all of the past, and as much of the future as their operands
    out: dict[str, dict[int, Reach]] = {}
    clear = True
    for node in analysis.captured.graph.nodes:
        value = analysis.values.get(node.name)
        if isinstance(value, list):
            value = next((v for v in value if v.clock is not None), None)
        if value is None or value.clock is None:
            continue
        if node.op == "placeholder":
            path = analysis.spec.paths.index(analysis.captured.inputs[node.name])
            spans[node.name] = {path: [(i, i) for i in range(lengths[path])]}
            strides[node.name] = {path: Fraction(1)}
        else:
            operation = analysis.operations.get(node.name)
            sources = [s for s in analysis.streams(node) if s.name in spans]
            count = value.clock.at(lengths, True).total
            spans[node.name] = _through(operation, [spans[s.name] for s in sources], count, lengths)
            strides[node.name] = _stride(operation, [strides[s.name] for s in sources])
            if any(s.name in unbounded for s in sources) or (
                operation is not None and (isinstance(operation.outcome, StepOnly) or value.pooled)
            ):
                unbounded.add(node.name)
            scans = operation is not None and isinstance(operation.outcome, Scanned)
            scans = scans and _law(operation) is None
            if scans or any(s.name in scanned for s in sources):
                scanned.add(node.name)
        out[node.name] = {}
        for path, span in spans[node.name].items():
            stride = strides[node.name][path]
            if node.name in unbounded:
                out[node.name][path] = Reach(stride, None, None, None)
                continue
            reach, seen = _measure(span, stride, lengths[path])
            if node.name in scanned:
                reach = Reach(stride, None, reach.future, None)
            out[node.name][path] = reach
            clear = clear and seen
    return out, clear


def _through(
    operation: Operation | None,
    sources: list[dict[int, Spans]],
    count: int,
    lengths: tuple[int, ...],
) -> dict[int, Spans]:
    """Spans of an operator's result. One that reaches over an end of the video is written as
    beginning before it, or ending after it: how far it would go on is not seen there."""
    out: dict[int, Spans] = {}
    if operation is not None and isinstance(operation.outcome, Concatenated):
        return _one_after_the_other(operation.outcome, sources, count)
    for path in sorted({p for s in sources for p in s}):
        operands = [s[path] for s in sources if path in s]
        law = _law(operation)
        if law is not None:
            before, after = (-1, -1), (lengths[path], lengths[path])
            out[path] = [
                _hull(
                    [
                        before if t < 0 else after if t >= len(span) else span[t]
                        for span in operands
                        for t in law.taps(j)
                    ]
                )
                for j in range(count)
            ]
        else:
            out[path] = [
                _hull([span[j] for span in operands if j < len(span)]) for j in range(count)
            ]
    return out


def _one_after_the_other(
    outcome: Concatenated, sources: list[dict[int, Spans]], count: int
) -> dict[int, Spans]:
    """Spans of a concatenation; a part without time reads the video's start, which is no reach."""
    *_, stream = sources
    first = sum(n for n in outcome.lengths if n is not None)
    out: dict[int, Spans] = {}
    for path, spans in stream.items():
        before: Spans = [s for one in sources[:-1] for s in one.get(path, [])]
        before = [*([None] * (first - len(before))), *before]
        out[path] = [*before, *spans][:count]
    return out


def _law(operation: Operation | None) -> Law | None:
    """Which elements of its operands an element reads, where they are finitely many."""
    outcome = None if operation is None else operation.outcome
    return outcome.law if isinstance(outcome, (Windowed, Scanned)) else None


def _hull(spans: Spans) -> tuple[int, int] | None:
    known = [s for s in spans if s is not None]
    return (min(s[0] for s in known), max(s[1] for s in known)) if known else None


def _stride(operation: Operation | None, sources: list[dict[int, Fraction]]) -> dict[int, Fraction]:
    merged: dict[int, Fraction] = {}
    for source in sources:
        merged.update(source)
    if operation is None or not isinstance(operation.outcome, Windowed):
        return merged
    per_output = operation.outcome.law.inputs_per_output
    return {p: s * per_output for p, s in merged.items()}


def _measure(span: Spans, stride: Fraction, frames: int) -> tuple[Reach, bool]:
    """Largest reach of the elements in the middle, and whether the video was long enough."""
    middle = [
        (j, s) for j, s in enumerate(span) if s is not None and s[0] > 0 and s[1] < frames - 1
    ]
    if not middle:  # a value of few elements (a prefix), or a video too short to tell
        few = [
            (j, (max(s[0], 0), min(s[1], frames - 1)))
            for j, s in enumerate(span)
            if s is not None and s[1] >= 0 and s[0] < frames
        ]
        finite = len(span) * stride < frames // 4
        if not few:
            return Reach(stride, 0, 0, 0), finite
        middle = few
        seen = finite
    else:
        seen = len(middle) >= 4 * max(1, stride.denominator) or len(span) < 8
    past = max(int(j * stride) - s[0] for j, s in middle)
    future = max(s[1] - int(j * stride) for j, s in middle)
    field = max(s[1] - s[0] + 1 for _, s in middle)
    return Reach(stride, past, future, field), seen
