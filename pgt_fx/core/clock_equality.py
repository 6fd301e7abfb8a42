"""Whether clocks agree: looked at where they can differ, whatever their strides.

Two values whose clocks agree need no aligner where they are joined; to take two for alike that are
not would lose elements where a cut falls between them.
"""

from __future__ import annotations

import math
from dataclasses import replace

from pgt_fx.core.laws import Clock, ConcatClock, InputClock, JoinClock, LawClock

#: Moments at which clocks are compared, at most.
MOST = 1 << 12


def moments(ratio: tuple[int, ...], *clocks: Clock) -> list[tuple[int, ...]]:
    """Frame counts that tell clocks apart: a video's first frames, and a period behind warm-up.

    Counts are linear with a period from some frame on; two periods there show any difference
    that lasts. None at all where that would be more than :data:`MOST`: nothing is known then.
    """
    warm_up = max(c.warm_up for c in clocks)
    end = max(97, warm_up) + 2 * math.lcm(*(c.stride for c in clocks)) + 1
    return [tuple(n * r for r in ratio) for n in range(end)] if end <= MOST else []


def samples(ratio: tuple[int, ...], *clocks: Clock) -> tuple[list[Clock], list[tuple[int, ...]]]:
    """Clocks and moments to compare them at, each of which is looked at.

    What the clocks have in common says nothing of how they differ: where all follow one value, they
    are given as functions of its count alone, which is soon at the end of its warm-up, however
    deep in a model they are and however the paths of a clip are fed.
    """
    first, *others = (_followed(clock) for clock in clocks)
    shared = [c for c in first if all(c in other for other in others)]
    if not shared:
        return list(clocks), moments(ratio, *clocks)
    if len(ratio) == 1 and isinstance(shared[0], InputClock):  # they are that already
        return list(clocks), moments(ratio, *clocks)
    known: dict[Clock, Clock] = {shared[0]: InputClock(clocks[0].future, 0)}
    found = [_put(clock, known) for clock in clocks]
    return found, moments((1,), *found)


def _followed(clock: Clock) -> tuple[Clock, ...]:
    """The values whose counts, one by one, decide a clock; the nearest first."""
    if clock.followed is None:
        behind: tuple[Clock, ...] = ()
        if isinstance(clock, LawClock):
            behind = _followed(clock.source)
        elif isinstance(clock, (JoinClock, ConcatClock)):
            sources = clock.sources
            each = [_followed(source) for source in sources]
            behind = tuple(c for c in each[0] if all(c in one for one in each))
            if isinstance(clock, ConcatClock):  # its constants are there from the first frame on
                behind = tuple(c for c in behind if isinstance(c, InputClock))
        clock.followed = (clock, *behind) if clock.firm and clock.dense else behind
    return clock.followed


def _put(clock: Clock, known: dict[Clock, Clock]) -> Clock:
    """The clock with others in the place of those it follows."""
    if clock not in known:
        if isinstance(clock, LawClock):
            known[clock] = LawClock(clock.law, _put(clock.source, known))
        elif isinstance(clock, JoinClock):
            sources = tuple(_put(source, known) for source in clock.sources)
            known[clock] = JoinClock(sources, commit=clock.commit)
        elif isinstance(clock, ConcatClock):
            parts = [
                p if p.clock is None else replace(p, clock=_put(p.clock, known))
                for p in clock.parts
            ]
            known[clock] = ConcatClock(tuple(parts))
        else:
            raise AssertionError("a clock of another input")
    return known[clock]


def covers(a: Clock, b: Clock, ratio: tuple[int, ...]) -> bool:
    """Whether a whole video has as many elements by the first clock as by the second, or more."""
    (one, other), times = samples(ratio, a, b)
    return bool(times) and all(
        one.at(frames, True).total >= other.at(frames, True).total for frames in times
    )


def same(a: Clock, b: Clock, ratio: tuple[int, ...]) -> bool:
    """Whether two clocks always agree, as far as can be told: to take two that do for two that
    don't costs an operator with nothing to do, and no more.

    Clocks of different input paths are never taken to agree: the paths may be fed unevenly.
    """
    if a is b:
        return True
    if a.paths != b.paths or len(a.paths) > 1:
        return False
    (one, other), times = samples(ratio, a, b)
    if not times and isinstance(a, LawClock) and isinstance(b, LawClock):
        return a.law == b.law and same(a.source, b.source, ratio)
    return bool(times) and all(
        one.at(frames, last) == other.at(frames, last) for frames in times for last in (False, True)
    )
