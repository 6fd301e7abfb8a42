"""What is asked of whole videos: their lengths, and what stands in front of a stream."""

from __future__ import annotations

from torch import fx

from pgt_fx.capture.lengths import STEPS, Lengths
from pgt_fx.rules import Reduced, Refusal, Windowed
from pgt_fx.timeline import Clock, Part
from pgt_fx.values import Analysis


def video_lengths(analysis: Analysis) -> Lengths:
    """Lengths of video at which the model's Python goes the way that was captured, and at which
    every view that takes frames in groups finds whole groups."""
    allowed, clip = analysis.captured.lengths, min(analysis.spec.lengths)
    groups: list[tuple[Clock, int]] = []
    for operation in analysis.operations.values():
        outcome = operation.outcome
        if isinstance(outcome, Windowed) and outcome.groups and operation.clock is not None:
            groups.append((operation.clock, outcome.groups))
    for step in STEPS:
        lengths = range(clip % step or step, 129, step)
        at = [tuple(n * r for r in analysis.spec.ratio) for n in lengths if n >= allowed.least]
        if all(clock.at(n, True).total % size == 0 for n in at for clock, size in groups):
            step = max(step, allowed.step)
            return Lengths(allowed.least, step, clip % step)
    return allowed


def part_of(analysis: Analysis, node: fx.Node, length: int | None) -> Part:
    """One of the values of a concatenation along time, with its clock.

    Raises:
        Refusal: for a value that is made of frames which are not there when its turn comes.
    """
    value = analysis.value(node)
    if value.timed or not value.pooled:
        return Part(value.clock, length)
    clocks = []
    for name in value.pooled:
        operation = analysis.operations[name]
        if not isinstance(operation.outcome, Reduced) or operation.outcome.how != "first":
            raise Refusal(
                "puts a value that is pooled over time in front of the frames",
                "pool over a constant number of frames",
            )
        clocks += [analysis.value(s).clock for s in analysis.streams(operation.node)]
    if len(clocks) != 1 or clocks[0] is None:
        raise Refusal("puts a value made of several frames in front of the frames")
    analysis.apart |= value.pooled
    return Part(clocks[0], length, first=True)
