"""Whether two clocks count alike: they are compared where they can differ, whatever their strides.

Two values whose clocks agree need no aligner where they are joined. Taking clocks for equal that
are not would lose elements where a cut falls between them.
"""

from __future__ import annotations

import math

from pgt_fx.core.clocks import Clock, InputClock

#: Moments at which clocks are compared, at most.
MOST = 1 << 12


def moments(ratio: tuple[int, ...], *clocks: Clock) -> list[tuple[int, ...]]:
    """Frame counts that tell clocks apart: a video's first frames, and a period after warm-up.

    Counts are linear with a period from some frame on; two periods there show any difference
    that lasts. None at all where that would be more than :data:`MOST`: nothing is known then.
    """
    warm_up = max(c.warm_up for c in clocks)
    end = max(97, warm_up) + 2 * math.lcm(*(c.stride for c in clocks)) + 1
    return [tuple(n * r for r in ratio) for n in range(end)] if end <= MOST else []


def samples(ratio: tuple[int, ...], *clocks: Clock) -> tuple[list[Clock], list[tuple[int, ...]]]:
    """Clocks and moments to compare them at, each of which is looked at.

    What the clocks have in common says nothing of how they differ. So where one value's count
    decides all of them, they are given as functions of that count alone, which is soon at the end
    of its warm-up, however deep in a model they are and however the paths of a clip are fed.
    """
    first, *others = (clock.decisive() for clock in clocks)
    shared = [c for c in first if all(c in other for other in others)]
    if not shared:
        return list(clocks), moments(ratio, *clocks)
    if len(ratio) == 1 and not shared[0].sources:  # they are functions of the input already
        return list(clocks), moments(ratio, *clocks)
    known: dict[Clock, Clock] = {shared[0]: InputClock(clocks[0].future, 0)}
    found = [clock.on(known) for clock in clocks]
    return found, moments((1,), *found)


def covers(a: Clock, b: Clock, ratio: tuple[int, ...]) -> bool:
    """Whether a whole video has as many elements by the first clock as by the second, or more."""
    (one, other), times = samples(ratio, a, b)
    return bool(times) and all(
        one.at(frames, True).total >= other.at(frames, True).total for frames in times
    )


def same(a: Clock, b: Clock, ratio: tuple[int, ...]) -> bool:
    """Whether two clocks always agree, as far as is known. Where that is not known they are taken
    to differ, which costs an operator that has nothing to do, and no more.

    Clocks of different input paths are never taken to agree: the paths may be fed unevenly.
    """
    if a is b:
        return True
    if a.paths != b.paths or len(a.paths) > 1:
        return False
    (one, other), times = samples(ratio, a, b)
    if not times and a.law is not None and a.law == b.law:
        return same(a.sources[0], b.sources[0], ratio)
    return bool(times) and all(
        one.at(frames, last) == other.at(frames, last) for frames in times for last in (False, True)
    )
