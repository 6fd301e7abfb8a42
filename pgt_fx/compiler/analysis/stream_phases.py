"""Moments of a steady stream, one for each of its phases: what a step carries there is what it
carries in any later step of that phase."""

from __future__ import annotations

import math
from collections.abc import Iterable

from pgt_fx.core.clocks import Clock
from pgt_fx.core.law import Law
from pgt_fx.core.lengths.questions import at_most
from pgt_fx.core.lengths.sets import NotQuasiLinear

#: Phases that are looked at, at most.
MOST = 1024
#: The moments to use where the phases can't be determined.
USUAL = range(160, 160 + 32)


def phases(
    clocks: Iterable[Clock], ratio: tuple[int, ...], windows: Iterable[tuple[Law, Clock]] = ()
) -> range:
    """Numbers of frames, of the path with the fewest, over which all of the clocks repeat.

    Args:
        windows: operators with the clocks of what they read: none of them feels the start there.
    """
    start, period = 1, 1
    try:
        for clock in set(clocks):
            for counts in clock.counts_so_far(ratio):
                last = counts.pieces[-1]
                start, period = max(start, last.start), math.lcm(period, len(last.values))
        for law, source in windows:
            # Of a value that ends before, or is never there, nothing is carried in the end.
            there = at_most(law.shiftable_from, source.counts_so_far(ratio).sure).least
            start = max(start, there or 1)
    except NotQuasiLinear:
        return USUAL
    return range(start, start + min(period, MOST))
