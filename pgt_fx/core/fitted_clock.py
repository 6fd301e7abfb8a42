"""A clock of a window that ends where the video's length says, and not where its operand does.

``up(down(x))[:, :, : x.shape[2]]`` is without its last element where the video has an odd number of
frames; ``F.pad(x, (0, 0, 0, 0, 0, -T % 4))`` fills up the last group of four. Which elements are
the video's is then a function of its number of frames T, and an element is handed on when it is
one of every video that begins with the frames so far.
"""

from __future__ import annotations

import math

from pgt_fx.core.clocks import Clock, Count, Counts
from pgt_fx.core.law import Law
from pgt_fx.core.lengths.functions import QuasiLinear
from pgt_fx.core.lengths.questions import larger, smaller


class FittedClock(Clock):
    """The outputs of an operator with ``law`` on a value with clock ``source``, of which a video of
    T frames has ``whole(T)``.

    Args:
        law: how the outputs read the operand; with as much padding at the end as there ever is.
        whole: how many there are. It never falls: no element of a video is none of a longer one.
        ratio: frames of each input path for one of the path with the fewest.
    """

    # ``law`` says not where its elements end.
    def __init__(self, law: Law, source: Clock, whole: QuasiLinear, ratio: tuple[int, ...]) -> None:
        base = min(_inputs(source), key=lambda clock: ratio[min(clock.paths)])
        self._make(law, source, base, whole, ratio[min(base.paths)], source.count_of_video(ratio))

    def _make(
        self,
        law: Law,
        source: Clock,
        base: Clock,
        whole: QuasiLinear,
        each: int,
        there: QuasiLinear,
    ) -> None:
        extra = whole - law.count_of(there)
        periods = [len(f.pieces[-1].values) for f in (whole, extra)]
        settled = max(whole.starts[-1], extra.starts[-1])
        super().__init__(
            source.future,
            source.paths,
            math.lcm(source.stride * law.period, *periods),
            max(settled, source.warm_up + source.stride * (law.counts_linear_from + 2)),
            (source, base),
        )
        self.window, self.source, self.base, self.each = law, source, base, each
        self.whole, self.there, self.extra, self.settled = whole, there, extra, settled
        self.firm = self.firm or not law.provisional
        self.dense = False

    def _at(self, frames: tuple[int, ...], last: bool) -> Count:
        seen, now = self.source.at(frames, last), self.base.at(frames, last).total // self.each
        if now < 1:
            return Count(0, 0)
        whole = _number(self.whole, now)
        if last:
            return Count(whole, whole)
        sure = min(self.window.ready(seen.sure), whole)
        if self.future == "wait":
            return Count(sure, sure)
        total = max(0, self.window.count(seen.total) + _number(self.extra, now))
        return Count(min(sure, total) if self.window.provisional else total, total)

    def _count_of_video(self, ratio: tuple[int, ...]) -> QuasiLinear:
        return self.whole

    def _counts_so_far(self, ratio: tuple[int, ...]) -> Counts:
        seen = self.source.counts_so_far(ratio)
        sure = smaller(self.window.ready_of(seen.sure), self.whole)
        if self.future == "wait":
            return Counts(sure, sure)
        total = larger(self.window.count_of(seen.total) + self.extra, 0)
        return Counts(smaller(sure, total) if self.window.provisional else total, total)

    def is_linear_from(self, frames: tuple[int, ...]) -> bool:
        there = self.source.at(frames, False).sure >= self.window.shiftable_from
        return there and self.base.at(frames, False).total // self.each >= self.settled

    def _on(self, sources: tuple[Clock, ...]) -> Clock:
        source, base = sources
        found = FittedClock.__new__(FittedClock)
        found._make(self.window, source, base, self.whole, self.each, self.there)
        return found


def _inputs(clock: Clock) -> list[Clock]:
    """The input clocks that a clock is made from."""
    found: dict[Clock, None] = {}
    seen: set[Clock] = set()
    queue = [clock]
    while queue:
        one = queue.pop()
        if one in seen:
            continue
        seen.add(one)
        queue += one.sources
        if not one.sources:
            found[one] = None
    return list(found)


def _number(f: QuasiLinear, length: int) -> int:
    value = f(length)
    return 0 if value is None else int(value)
