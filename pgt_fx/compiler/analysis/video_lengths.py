"""What is asked of whole videos: their lengths, and what stands in front of a stream."""

from __future__ import annotations

from weakref import WeakKeyDictionary

from torch import fx

from pgt_fx.capture.guards.length_guard import Condition, Lengths
from pgt_fx.compiler.analysis.length_tables import PairTable
from pgt_fx.compiler.analysis.timed_graph import Analysis, Operation
from pgt_fx.core.counts import counted
from pgt_fx.core.laws import (
    Clock,
    ConcatClock,
    InputClock,
    Interpolate,
    JoinClock,
    Law,
    LawClock,
    Part,
    Repeat,
    Transposed,
    Window,
)
from pgt_fx.core.lengths.functions import QuasiLinear, constant, frames
from pgt_fx.core.lengths.questions import at_most, larger, less, same, smaller, where
from pgt_fx.core.lengths.sets import NotQuasiLinear
from pgt_fx.rules import Refusal


def whole_groups(analysis: Analysis, operation: Operation, entries: int) -> Lengths:
    """The lengths of video at which a view that takes frames in groups finds whole groups as well.

    Raises:
        Refusal: where they can't be told.
    """
    if operation.clock is None:
        return analysis.lengths
    try:
        held = same(total(operation.clock, analysis.spec.ratio) % entries, 0)
        place, text = operation.place, f"takes frames in groups of {entries}"
        return analysis.lengths.within(Condition(held, place.source, place.line, text))
    except NotQuasiLinear as error:
        reason = f"takes elements in groups, at lengths that can't be told ({error})"
        raise Refusal(reason) from error


def not_empty(analysis: Analysis, operation: Operation) -> Lengths:
    """The lengths of video at which what is padded has elements: a padding of none
    (``F.pad(x[:, :, 1:] - x[:, :, :-1], (1, 0))`` of one frame) makes elements without any frame,
    which a stream does not.

    Raises:
        Refusal: where they can't be told.
    """
    if operation.clock is None:
        return analysis.lengths
    try:
        held = ~at_most(total(operation.clock, analysis.spec.ratio), 0)
    except NotQuasiLinear as error:
        raise Refusal(f"pads elements at lengths that can't be told ({error})") from error
    place, text = operation.place, "pads at least one element"
    return analysis.lengths.within(Condition(held, place.source, place.line, text))


def within_table(analysis: Analysis, operation: Operation, table: PairTable) -> Lengths:
    """The lengths of video for which a mask or bias that is cut from a table of a fixed size has
    entries.

    Raises:
        Refusal: where they can't be told.
    """
    limit, most = table.made.limit, max(table.entries)
    if limit is None or operation.clock is None:
        return analysis.lengths
    try:
        held = at_most(total(operation.clock, analysis.spec.ratio) * most, limit)
    except NotQuasiLinear as error:
        raise Refusal(f"cuts a table to a length that can't be told ({error})") from error
    place, text = operation.place, f"has a table for {counted(limit // most, 'frame')}"
    return analysis.lengths.within(Condition(held, place.source, place.line, text))


def total(clock: Clock, ratio: tuple[int, ...]) -> QuasiLinear:
    """How many elements of a value a whole video has, as a function of its number of frames.

    Raises:
        NotQuasiLinear: where it repeats after too many frames.
    """
    # A residual network asks for each value again by both of its branches: 2 ** depth times.
    known = _TOTALS.setdefault(clock, {})
    if ratio not in known:
        known[ratio] = _total(clock, ratio)
    return known[ratio]


_TOTALS: WeakKeyDictionary[Clock, dict[tuple[int, ...], QuasiLinear]] = WeakKeyDictionary()


def _total(clock: Clock, ratio: tuple[int, ...]) -> QuasiLinear:
    if isinstance(clock, InputClock):
        return frames(ratio[clock.path])
    if isinstance(clock, LawClock):
        return _outputs(clock.law, total(clock.source, ratio))
    if isinstance(clock, JoinClock):
        first, *others = (total(source, ratio) for source in clock.sources)
        for other in others:
            first = smaller(first, other)
        return first
    if isinstance(clock, ConcatClock):
        return sum((_entries(part, ratio) for part in clock.parts), constant(0))
    raise NotQuasiLinear(f"a {type(clock).__name__}")


def _entries(part: Part, ratio: tuple[int, ...]) -> QuasiLinear:
    if part.clock is None:
        return constant(part.length or 0)
    there = total(part.clock, ratio)
    return smaller(there, 1) if part.first else there


def _outputs(law: Law, n: QuasiLinear) -> QuasiLinear:
    """How many outputs an operator makes of n elements: ``law.count``."""
    if isinstance(law, Window):
        room = n + (law.left + law.right - law.span)
        outs = larger((-(-room // law.stride) if law.ceil else room // law.stride) + 1, 0)
        if law.ceil:  # a window that would start behind the input and its left padding
            outs = where(less((outs - 1) * law.stride, n + law.left), outs, outs - 1)
        outs = where(less(n, law.minimum), 0, outs)
        return outs if law.limit is None else smaller(outs, law.limit)
    if isinstance(law, Transposed):
        span = (law.kernel - 1) * law.dilation + 1
        outs = larger((n - 1) * law.stride + (span + law.extra - 2 * law.padding), 0)
        return where(less(n, 1), 0, outs)
    if isinstance(law, (Repeat, Interpolate)):
        return n * law.scale
    raise NotQuasiLinear(f"a {type(law).__name__}")


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
        if not operation.outcome.takes_first:
            raise Refusal(
                "puts a value that is pooled over time in front of the frames",
                "pool over a constant number of frames",
            )
        clocks += [analysis.value(s).clock for s in analysis.streams(operation.node)]
    if len(clocks) != 1 or clocks[0] is None:
        raise Refusal("puts a value made of several frames in front of the frames")
    analysis.apart |= value.pooled
    return Part(clocks[0], length, first=True)
