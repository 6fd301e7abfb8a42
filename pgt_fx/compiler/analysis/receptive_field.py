"""Receptive fields: which frames each value's elements read, by the laws alone."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from torch import fx

from pgt_fx.compiler.analysis.timed_graph import Analysis, Operation, once
from pgt_fx.rules.kinds.spans import Spans, followed

#: Frames of the first video that is looked at, and of the longest one.
SHORTEST, LONGEST = 48, 48 << 10


@dataclass(frozen=True)
class Reach:
    """Temporal receptive field of one value, in frames of one input path.

    Element i reads frames ``i*stride - past … i*stride + future`` at most.

    Attributes:
        stride: frames per element.
        past, future: reach before and after the element's own frame; None where it is all of
            time.
        field: size of the largest receptive field of an element (TRF); None where unbounded.
    """

    stride: Fraction
    past: int | None
    future: int | None
    field: int | None


@once
def reaches(analysis: Analysis) -> dict[str, dict[int, Reach]]:
    """Per value with time and per input path, its :class:`Reach`.

    The intervals of frames read are followed through the graph for every element of a video long
    enough that the elements in its middle don't feel its ends. Where that would be longer than
    :data:`LONGEST`, a reach is not known, and given as all of time.
    """
    frames, clear = SHORTEST, False
    while not clear:
        found, clear = _reaches(analysis, frames)
        if frames >= LONGEST:
            break
        frames *= 2
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
            known = [spans[s.name] for s in sources]
            spans[node.name] = (
                followed(None, known, count, lengths)
                if operation is None
                else operation.outcome.spans(known, count, lengths)
            )
            strides[node.name] = _stride(operation, [strides[s.name] for s in sources])
            if any(s.name in unbounded for s in sources) or (
                operation is not None and (operation.outcome.reads_all or value.pooled)
            ):
                unbounded.add(node.name)
            scans = operation is not None and operation.outcome.reads_past
            if scans or any(s.name in scanned for s in sources):
                scanned.add(node.name)
        out[node.name] = {}
        for path, span in spans[node.name].items():
            stride = strides[node.name][path]
            if node.name in unbounded:
                out[node.name][path] = Reach(stride, None, None, None)
                continue
            reach, seen = _measure(span, stride, lengths[path])
            if not seen and frames >= LONGEST:
                reach = Reach(stride, None, None, None)
            elif node.name in scanned:
                reach = Reach(stride, None, reach.future, None)
            out[node.name][path] = reach
            clear = clear and seen
    return out, clear


def _stride(operation: Operation | None, sources: list[dict[int, Fraction]]) -> dict[int, Fraction]:
    merged: dict[int, Fraction] = {}
    for source in sources:
        merged.update(source)
    law = None if operation is None else operation.outcome.sliding()
    if law is None:
        return merged
    return {path: step * law.inputs_per_output for path, step in merged.items()}


def _measure(span: Spans, stride: Fraction, frames: int) -> tuple[Reach, bool]:
    """Largest reach of the elements in the middle, and whether the video was long enough."""
    known = [(j, s) for j, s in enumerate(span) if s is not None]
    inside = [(j, s) for j, s in known if s[1] >= 0 and s[0] < frames]
    if not inside:
        return Reach(stride, 0, 0, 0), len(span) * stride < frames // 4
    middle = sum(s[0] > 0 and s[1] < frames - 1 for _, s in inside)
    if middle:
        seen = middle >= 4 * max(1, stride.denominator) or len(span) < 8
    else:  # a value of few elements (a prefix), or a video too short to tell
        seen = len(span) * stride < frames // 4
    # Where a span goes over an end, how far it would go on is not seen; what it reads is.
    past = max(int(j * stride) - max(s[0], 0) for j, s in inside)
    future = max(min(s[1], frames - 1) - int(j * stride) for j, s in inside)
    field = max(min(s[1], frames - 1) - max(s[0], 0) + 1 for _, s in inside)
    return Reach(stride, past, future, field), seen


def reach_of_output(
    analysis: Analysis, output: fx.Node | None, reach: dict[str, dict[int, Reach]]
) -> list[Reach]:
    """Reach of the output; of what is pooled where the output is pooled over time."""
    if output is None:
        return []
    if output.name in reach:
        return [reach[output.name][p] for p in sorted(reach[output.name])]
    value = analysis.value(output)
    found: dict[int, Reach] = {}
    for name in sorted(value.pooled):
        for source in analysis.operations[name].node.all_input_nodes:
            for path, one in reach.get(source.name, {}).items():
                if path not in found or _larger(one, found[path]):
                    found[path] = one
    return [found[p] for p in sorted(found)]


def _larger(one: Reach, other: Reach) -> bool:
    """Whether a receptive field is the larger one; all of time is the largest."""
    return other.field is not None and (one.field is None or one.field > other.field)
