"""Clocks of windows that end where the video's length says."""

from __future__ import annotations

import pytest

from pgt_fx.core.clocks import InputClock, LawClock
from pgt_fx.core.fitted_clock import FittedClock
from pgt_fx.core.laws import Repeat, Window
from pgt_fx.core.lengths.functions import QuasiLinear, frames
from pgt_fx.core.lengths.questions import larger, never_falls, next_one, smaller

T = frames()
FUNCTIONS = {
    "frames": T,
    "up to four": smaller(T, 4),
    "whole pairs": T // 2 * 2,
    "whole fours, rounded up": -(-T // 4) * 4,
    "at least five": larger(T, 5),
    "what is over": T % 3,
    "down from ten": 10 - T,
    "pairs after seven": larger((T - 7) // 2, 0),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_next_value_and_whether_it_ever_falls(name: str) -> None:
    f = FUNCTIONS[name]
    following = next_one(f)
    assert [following(n) for n in range(1, 60)] == [f(n + 1) for n in range(1, 60)]
    rises = all((f(n + 1) or 0) >= (f(n) or 0) for n in range(1, 60))
    assert never_falls(f) == rises


@pytest.mark.parametrize("law", [Window(), Window(1, 2), Window(1, 1, 1, 1, 3), Repeat(2)])
@pytest.mark.parametrize("name", ["whole pairs", "whole fours, rounded up", "up to four"])
def test_no_element_is_handed_on_that_a_longer_video_has_not(law: Window, name: str) -> None:
    whole: QuasiLinear = FUNCTIONS[name]
    source = LawClock(Window(3, 1, 1, 1, 1), InputClock("wait", 0))
    clock = FittedClock(law, source, whole, (1,))
    counts = [clock.at((n,), False) for n in range(60)]
    for n, count in enumerate(counts[:40]):
        assert count.sure <= min(int(whole(m) or 0) for m in range(max(n, 1), 60))
        assert count.sure <= law.ready(source.at((n,), False).sure)
        if n:
            assert clock.at((n,), True).total == whole(n)
            assert clock.counts_so_far((1,)).sure(n) == count.sure
    # What the later ones have is reached, and all repeats after the period.
    first = clock.warm_up
    for n in range(first, first + 8):
        gain = clock.at((n + clock.stride,), False).sure - clock.at((n,), False).sure
        later = clock.at((n + 2 * clock.stride,), False).sure
        assert later - clock.at((n + clock.stride,), False).sure == gain


def test_of_another_input_it_is_the_same_function() -> None:
    source = InputClock("wait", 0)
    clock = FittedClock(Window(), source, T // 2 * 2, (1,))
    moved = clock.on({source: InputClock("wait", 0)})
    assert [moved.at((n,), False) for n in range(9)] == [clock.at((n,), False) for n in range(9)]
    assert clock.decisive() == (source,)
