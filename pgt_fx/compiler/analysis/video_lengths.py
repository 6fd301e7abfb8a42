"""What is asked of whole videos: their lengths, and what stands in front of a stream."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from itertools import product
from typing import Any, NamedTuple
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
from pgt_fx.core.layout import time_dims
from pgt_fx.core.lengths.functions import QuasiLinear, constant, frames
from pgt_fx.core.lengths.questions import at_most, larger, less, same, smaller, where
from pgt_fx.core.lengths.sets import ANY_LENGTH, LengthSet, NotQuasiLinear
from pgt_fx.rules import Local, Reduced, Refusal, StepOnly


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


def joined_whole(analysis: Analysis, operation: Operation) -> Lengths:
    """The lengths of video at which values that are put together element by element have as many
    elements as each other (``x[:, :, ::2] - x[:, :, 1::2]``). At others the model raises, or
    takes the one element of a short video to every one of the other value.

    Raises:
        Refusal: where the clip is no such video.
    """
    lengths, place = analysis.lengths, operation.place
    for held in _as_many(analysis, operation):
        text = "puts as many elements of one value together as of another"
        lengths = lengths.within(Condition(held, place.source, place.line, text))
    if not lengths.allows(min(analysis.spec.lengths)):
        raise Refusal(
            "at the clip's length one operand has a single element along time, which is taken to "
            "each of another operand's",
            "give a longer clip, or operands with as many elements as each other",
        )
    return lengths


def _as_many(analysis: Analysis, operation: Operation) -> Iterator[LengthSet]:
    """The lengths at which operands have as many elements along time as each other, for each two
    that have to; where they can't be told, none."""
    if not isinstance(operation.outcome, (Local, StepOnly)):
        return
    if isinstance(operation.clock, JoinClock):
        with suppress(NotQuasiLinear):
            first, *others = (total(c, analysis.spec.ratio) for c in operation.clock.sources)
            yield from (same(first, other) for other in others)
    sizes = analysis.captured.sizes
    rows = [n for n in operation.tables if n not in operation.pairs]
    for table, stream in product(rows, analysis.streams(operation.node)):
        one, other = (_along_time(analysis, n) for n in (table, stream))
        for dim in one.keys() & other.keys():
            with suppress(NotQuasiLinear):
                yield same(sizes.function(one[dim]), sizes.function(other[dim]))


def _along_time(analysis: Analysis, node: fx.Node) -> dict[int, Any]:
    """The sizes of an operand's dimensions with time, which are numbered from the last one as they
    meet those of another operand."""
    shape, dims = node.meta["val"].shape, time_dims(analysis.value(node).layout or ())
    return {d - len(shape): shape[d] for d in dims}


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
        return outputs_of(clock.law, total(clock.source, ratio))
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


def outputs_of(law: Law, n: QuasiLinear) -> QuasiLinear:
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


class Counts(NamedTuple):
    """How far a value has come in a video that goes on (:class:`pgt_fx.core.laws.Count`), as
    functions of the number of frames shown so far."""

    sure: QuasiLinear
    total: QuasiLinear


def so_far(clock: Clock, ratio: tuple[int, ...]) -> Counts:
    """How many elements of a value there are before the video has ended.

    Raises:
        NotQuasiLinear: where that repeats after too many frames.
    """
    known = _SO_FAR.setdefault(clock, {})
    if ratio not in known:
        known[ratio] = _so_far(clock, ratio)
    return known[ratio]


_SO_FAR: WeakKeyDictionary[Clock, dict[tuple[int, ...], Counts]] = WeakKeyDictionary()


def _so_far(clock: Clock, ratio: tuple[int, ...]) -> Counts:
    if isinstance(clock, InputClock):
        return Counts(*[frames(ratio[clock.path])] * 2)
    if isinstance(clock, LawClock):
        seen = so_far(clock.source, ratio)
        ready = _ready(clock.law, seen.sure)
        if clock.future == "wait":
            return Counts(ready, ready)
        count = outputs_of(clock.law, seen.total)
        return Counts(smaller(count, ready) if clock.law.provisional else count, count)
    if isinstance(clock, JoinClock):
        sure, most = so_far(clock.sources[0], ratio)
        for source in clock.sources[1:]:
            other = so_far(source, ratio)
            sure, most = larger(sure, other.sure), smaller(most, other.total)
        return Counts(most if clock.commit else smaller(most, sure), most)
    if isinstance(clock, ConcatClock):
        return Counts(*(_in_turn(clock, ratio, which) for which in (0, 1)))
    raise NotQuasiLinear(f"a {type(clock).__name__}")


def _in_turn(clock: ConcatClock, ratio: tuple[int, ...], which: int) -> QuasiLinear:
    """The elements of parts that are handed on, each when all of the parts before it are."""
    found, turn = constant(0), ANY_LENGTH
    for part in clock.parts:
        there = constant(part.length or 0)
        if part.clock is not None:
            there = so_far(part.clock, ratio)[which]
            there = smaller(there, 1) if part.first else there
        found += where(turn, there, 0)
        if part.length is not None:
            turn &= at_most(part.length, there)
    return found


def _ready(law: Law, n: QuasiLinear) -> QuasiLinear:
    """``law.ready`` of n elements."""
    if isinstance(law, Window):
        complete = larger((n + (law.left - law.span)) // law.stride + 1, 0)
        if law.right < 0:
            complete = smaller(complete, outputs_of(law, n))
        complete = where(less(n, law.minimum), 0, complete)
        return complete if law.limit is None else smaller(complete, law.limit)
    if isinstance(law, Transposed):
        return larger(smaller(n * law.stride - law.padding, outputs_of(law, n)), 0)
    if isinstance(law, Interpolate):
        complete = ((2 * n - 1) * law.scale - 1) // 2 + 1
        return where(less(n, 1), 0, larger(smaller(n * law.scale, complete), 0))
    return outputs_of(law, n)


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
