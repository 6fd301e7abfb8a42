"""A cache of plans for a steady stream: a step in the phase of an earlier one is not planned again.

After a video's start all clocks are linear with a period, and what is due is said relative to the
data at hand; so a plan depends on where the step stands within the period alone. To plan anew
would take half a millisecond of Python in each step, which shows beside the operators of a small
model or on a fast device.
"""

from __future__ import annotations

import math

from pgt_fx.core.clocks import Clock
from pgt_fx.runtime.plan import Frames, Plan, Schedulable, plan

#: Plans kept at most; chunks of odd lengths make many.
MOST = 1024
#: Frames within which a model must have settled, else each step is planned.
LATEST = 1 << 14


class SteadyPlans:
    """:func:`pgt_fx.runtime.plan.plan`, remembered.

    Args:
        graph: what is planned.
        ratio: frames of each input path for one of the path with the fewest.

    Attributes:
        period: frames, of the path with the fewest, after which plans are the same again; 0 where
            they are not.
        settled: the same, from which on that is so.
    """

    def __init__(self, graph: Schedulable, ratio: Frames) -> None:
        self.graph, self.ratio = graph, ratio
        self._known: dict[tuple[Frames, Frames], Plan] = {}
        clocks = _clocks(graph)
        self.period = math.lcm(*(c.stride for c in clocks or ()))
        self.settled = 0 if clocks is None else _settled(clocks, ratio)
        if clocks is None or self.settled > LATEST:
            self.period = 0

    def plan(self, before: Frames, after: Frames, last: bool) -> Plan:
        """As :func:`pgt_fx.runtime.plan.plan`."""
        periods = -1
        if self.period and not last:
            seen = min(f // r for f, r in zip(before, self.ratio, strict=True))
            periods = (seen - self.settled) // self.period
        if periods < 0:
            return plan(self.graph, before, after, last)
        shift = periods * self.period
        then = tuple(f - shift * r for f, r in zip(before, self.ratio, strict=True))
        now = tuple(f - shift * r for f, r in zip(after, self.ratio, strict=True))
        if (then, now) not in self._known:
            if len(self._known) >= MOST:
                self._known.clear()
            self._known[then, now] = plan(self.graph, then, now, False)
        return self._known[then, now]


def _clocks(graph: Schedulable) -> list[Clock] | None:
    """The clocks that plans are made from; None where plans depend on more than the phase.

    A memory of all that was, a table over positions and a constant in front of a stream ask how
    far the video has come.
    """
    out: list[Clock] = []
    for item in graph.items.values():
        clocks = item.clocks
        if clocks is None:
            return None
        out += clocks
    return out


def _settled(clocks: list[Clock], ratio: Frames) -> int:
    """Frames after which no clock feels the start of the video any more."""
    low, high = 0, 1
    while high <= LATEST and not _settled_at(clocks, tuple(high * r for r in ratio)):
        low, high = high, 2 * high
    while high - low > 1 and high <= LATEST:
        middle = (low + high) // 2
        if _settled_at(clocks, tuple(middle * r for r in ratio)):
            high = middle
        else:
            low = middle
    return high


def _settled_at(clocks: list[Clock], frames: Frames) -> bool:
    """Whether after so many frames no clock feels the start of the video any more."""
    known: dict[int, bool] = {}

    def linear(clock: Clock) -> bool:
        """Whether the clock is linear, up to its period, from these frames on."""
        if id(clock) not in known:
            known[id(clock)] = clock.is_linear_from(frames) and all(map(linear, clock.sources))
        return known[id(clock)]

    return all(c.at(frames, False).sure > 0 and linear(c) for c in clocks)
