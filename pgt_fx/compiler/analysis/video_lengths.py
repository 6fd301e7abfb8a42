"""Conditions on the length of a whole video, and on what precedes a stream in a concatenation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from itertools import product
from typing import Any

from torch import fx

from pgt_fx.capture.guards.length_guard import Condition, Lengths
from pgt_fx.compiler.analysis.length_tables import PairTable
from pgt_fx.compiler.analysis.timed_graph import Analysis, Operation
from pgt_fx.core.clocks import Part
from pgt_fx.core.counts import counted
from pgt_fx.core.layout import time_dims
from pgt_fx.core.lengths.questions import at_most, same
from pgt_fx.core.lengths.sets import LengthSet, NotQuasiLinear
from pgt_fx.rules import Refusal


def whole_groups(analysis: Analysis, operation: Operation, entries: int) -> Lengths:
    """The lengths of video at which a view that takes frames in groups finds whole groups as well.

    Raises:
        Refusal: where they can't be determined.
    """
    if operation.clock is None:
        return analysis.lengths
    try:
        held = same(operation.clock.count_of_video(analysis.spec.ratio) % entries, 0)
        place, text = operation.place, f"takes frames in groups of {entries}"
        return analysis.lengths.within(Condition(held, place.source, place.line, text))
    except NotQuasiLinear as error:
        reason = f"takes elements in groups, at lengths that can't be determined ({error})"
        raise Refusal(reason) from error


def not_empty(analysis: Analysis, operation: Operation) -> Lengths:
    """The lengths of video at which what is padded has elements: a padding of none
    (``F.pad(x[:, :, 1:] - x[:, :, :-1], (1, 0))`` of one frame) makes elements without any frame,
    which a stream does not.

    Raises:
        Refusal: where they can't be determined.
    """
    if operation.clock is None:
        return analysis.lengths
    try:
        held = ~at_most(operation.clock.count_of_video(analysis.spec.ratio), 0)
    except NotQuasiLinear as error:
        raise Refusal(f"pads elements at lengths that can't be determined ({error})") from error
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
    that have to; where they can't be determined, none."""
    if not operation.outcome.even:
        return
    made = operation.outcome.layout
    if any(one and time_dims(one, 2) for one in (made if isinstance(made, list) else [made])):
        return  # each query beside each key, of which there may be another number
    # Its own join, and not one that an operand is from.
    joined = operation.joined.joined if operation.joined is not None else ()
    if joined:
        with suppress(NotQuasiLinear):
            first, *others = (clock.count_of_video(analysis.spec.ratio) for clock in joined)
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
        Refusal: where they can't be determined.
    """
    limit, most = table.made.limit, max(table.entries)
    if limit is None or operation.clock is None:
        return analysis.lengths
    try:
        held = at_most(operation.clock.count_of_video(analysis.spec.ratio) * most, limit)
    except NotQuasiLinear as error:
        raise Refusal(f"cuts a table to a length that can't be determined ({error})") from error
    place, text = operation.place, f"has a table for {counted(limit // most, 'frame')}"
    return analysis.lengths.within(Condition(held, place.source, place.line, text))


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
