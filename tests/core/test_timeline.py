"""The laws of time beside what torch does: how many outputs, of which inputs, from when on."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pgt_fx.core.clock_equality import same
from pgt_fx.core.clocks import (
    Clock,
    ConcatClock,
    Count,
    InputClock,
    JoinClock,
    LawClock,
    Part,
)
from pgt_fx.core.law import Law
from pgt_fx.core.laws import Interpolate, Repeat, Transposed, Window

LENGTHS = range(1, 21)
Operator = Callable[[Tensor], Tensor]


def apply(operator: Operator, x: Tensor) -> Tensor | None:
    """The operator's answer to (T,), or None where it has none."""
    try:
        y = operator(x[None, None])
    except RuntimeError:
        return None
    return y[0, 0] if y.shape[2] else None


def reads(operator: Operator, n: int) -> list[set[int]]:
    """Per output of a linear operator the inputs that matter to it: its answer to each alone."""
    try:
        columns = operator(torch.eye(n, dtype=torch.float64)[:, None])[:, 0]
    except RuntimeError:
        return []
    return [set((column.abs() > 1e-9).nonzero()[:, 0].tolist()) for column in columns.T]


def check(law: Law, operator: Operator, *, taps: bool = True) -> None:
    """count, taps, need and ready of a law against an operator on 1 to 20 elements."""
    torch.manual_seed(0)
    video = torch.rand(60, dtype=torch.float64) + 1
    for n in LENGTHS:
        y = apply(operator, video[:n])
        made = 0 if y is None else len(y)
        if y is None and law.count(n) > 0:
            continue  # some operators refuse inputs shorter than their kernel, padding or not
        assert law.count(n) == made, f"{n} elements make {made} outputs"
        if taps:
            for j, seen in enumerate(reads(operator, n)):
                told = {t for t in law.taps(j) if 0 <= t < n}
                assert seen == told, f"output {j} of {n} elements"
                assert not told or law.need(j) <= min(told)
        settled = outputs_settled(operator, video, n)
        assert law.ready(n) == settled, f"{law}: {n} elements settle {settled}"
        if getattr(law, "limit", None) is None or law.ready(n) < law.limit:
            assert law.need(law.ready(n)) >= law.keep(law.ready(n), n), "what is needed is carried"


def outputs_settled(operator: Operator, video: Tensor, n: int) -> int:
    """How many outputs are the same for all videos that begin with these `n` elements."""
    agree = 10**9
    first = None
    for more, seed in itertools.product([0, 1, 2, 3, 5, 9, 14], [1, 2]):
        generator = torch.Generator().manual_seed(seed)
        tail = torch.rand(more, dtype=torch.float64, generator=generator) + 3
        y = apply(operator, torch.cat([video[:n], tail]))
        y = torch.empty(0, dtype=torch.float64) if y is None else y
        if first is None:
            first = y
            agree = len(y)
            continue
        # Outputs that only longer videos have are settled if all of these agree on them.
        if len(y) < agree:
            agree = len(y)
        gaps = ((y[:agree] - first[:agree]).abs() > 1e-12).nonzero()
        if len(gaps):
            agree = int(gaps[0])
    return agree


def conv_windows() -> list[Window]:
    values = itertools.product((1, 2, 3, 5), (1, 2, 3, 4), (1, 2, 3), (0, 1, 2, 4))
    return [Window(k, s, d, p, p) for k, s, d, p in values]


@pytest.mark.parametrize("stride", [1, 2, 3, 4])
def test_windows_are_convolutions(stride: int) -> None:
    for law in conv_windows():
        if law.stride == stride:
            weight = torch.ones(1, 1, law.kernel, dtype=torch.float64)

            def conv(x: Tensor, law: Window = law, weight: Tensor = weight) -> Tensor:
                return F.conv1d(x, weight, None, law.stride, law.left, law.dilation)

            check(law, conv)


@pytest.mark.parametrize("ceil", [False, True])
def test_windows_are_pools(ceil: bool) -> None:
    for k, s, d, p in itertools.product((1, 2, 3, 4), (1, 2, 3, 5), (1, 2), (0, 1, 2)):
        if 2 * p > k:
            continue  # torch refuses these

        def pool(x: Tensor, k: int = k, s: int = s, d: int = d, p: int = p) -> Tensor:
            return F.max_pool1d(x, k, s, p, d, ceil)

        law = Window(k, s, d, p, p, ceil)
        for n in LENGTHS:
            y = apply(pool, torch.rand(n).double())
            assert law.count(n) == (0 if y is None else len(y)), (law, n)

        if d == 1:

            def mean(x: Tensor, k: int = k, s: int = s, p: int = p) -> Tensor:
                return F.avg_pool1d(x, k, s, p, ceil)

            for n in LENGTHS:
                for j, seen in enumerate(reads(mean, n)):
                    assert seen == {t for t in law.taps(j) if 0 <= t < n}, (law, n, j)


def test_windows_are_paddings_and_slices() -> None:
    for left, right in itertools.product((-2, -1, 0, 1, 3), repeat=2):
        check(
            Window(1, 1, 1, left, right),
            lambda x, left=left, right=right: F.pad(x, (left, right)),
        )
    for start, step, limit in itertools.product((0, 1, 3), (1, 2, 3), (None, 2, 4)):
        stop = None if limit is None else start + step * limit
        check(
            Window(1, step, 1, -start, 0, limit=limit),
            lambda x, start=start, stop=stop, step=step: x[:, :, start:stop:step],
        )


@pytest.mark.parametrize("mode", ["replicate", "reflect"])
def test_windows_are_paddings_of_other_modes(mode: str) -> None:
    for left, right in itertools.product((0, 1, 2, 4), repeat=2):
        law = Window(1, 1, 1, left, right, mode=mode)
        for n in LENGTHS:
            x = torch.arange(n, dtype=torch.float64)
            y = apply(lambda x, a=left, b=right: F.pad(x, (a, b), mode=mode), x)
            assert law.count(n) == (0 if y is None else len(y)), (law, n)
            if y is not None:
                told = [law.stands_for(t, n) for j in range(len(y)) for t in law.taps(j)]
                assert told == y.tolist(), (law, n)


def test_transposed_convolutions() -> None:
    for k, s, d, p, extra in itertools.product((1, 2, 3, 4), (1, 2, 3), (1, 2), (0, 1, 2), (0, 1)):
        if extra >= max(s, d):
            continue
        weight = torch.ones(1, 1, k, dtype=torch.float64)

        def up(x: Tensor, s: int = s, d: int = d, p: int = p, e: int = extra, w: Tensor = weight):
            return F.conv_transpose1d(x, w, None, s, p, e, 1, d)

        law = Transposed(k, s, d, p, extra)
        for n in LENGTHS:
            y = apply(up, torch.rand(n).double())
            assert law.count(n) == (0 if y is None else len(y)), (law, n)
            for j, seen in enumerate(reads(up, n)):
                assert seen == {t for t in law.taps(j) if 0 <= t < n}, (law, n, j)
            # Settled by law: no later element is read by an output before ready(n).
            longer = reads(up, n + 6)
            ready = law.ready(n)
            assert all(max(seen, default=0) < n for seen in longer[:ready]), (law, n)
            if ready < len(longer) and ready < law.count(n):
                later = [j for j, seen in enumerate(longer) if any(t >= n for t in seen)]
                assert not later or min(later) >= ready, (law, n)


@pytest.mark.parametrize("scale", [1, 2, 3, 4, 5])
def test_upsampling(scale: int) -> None:
    check(Repeat(scale), lambda x: F.interpolate(x, scale_factor=scale))
    law = Interpolate(scale)
    for n in LENGTHS:
        linear = lambda x: F.interpolate(x, scale_factor=scale, mode="linear")
        assert law.count(n) == n * scale
        whole, prefix = reads(linear, n + 5), law.ready(n)
        assert all(max(seen) < n for seen in whole[:prefix])
        assert prefix == len(whole) or max(whole[prefix]) >= n, (scale, n)
        for j, seen in enumerate(reads(linear, n)):
            assert seen <= {min(t, n - 1) for t in law.taps(j)}, (scale, n, j)


# ------------------------------------------------------------------------------- clocks


def test_a_clock_counts_what_is_settled_and_what_is_handed_on() -> None:
    law = Window(3, 1, 1, 1, 1)
    wait, zero = (LawClock(law, InputClock(f, 0)) for f in ("wait", "zero"))
    assert [wait.at((n,), False).total for n in range(5)] == [0, 0, 1, 2, 3]
    assert [zero.at((n,), False).total for n in range(5)] == [0, 1, 2, 3, 4]
    assert wait.at((4,), True) == zero.at((4,), True) == Count(4, 4)
    pad = LawClock(Window(1, 1, 1, 0, 2), InputClock("zero", 0))
    assert pad.at((3,), False) == Count(3, 5)
    assert JoinClock((pad,), commit=True).at((3,), False) == Count(5, 5)


def test_a_join_gives_the_common_prefix() -> None:
    source = InputClock("wait", 0)
    late, early = LawClock(Window(7, 1, 1, 3, 3), source), LawClock(Window(3, 1, 1, 1, 1), source)
    join = JoinClock((late, early))
    assert [join.at((n,), False).total for n in (3, 4, 9)] == [0, 1, 6]
    assert join.at((9,), True).total == 9 and join.paths == {0}


def test_two_clocks_are_the_same_when_they_always_agree() -> None:
    source = InputClock("wait", 0)
    one = LawClock(Window(3, 1, 1, 1, 1), source)
    twice = LawClock(Window(1, 1, 1, -1), LawClock(Window(1, 1, 1, 1), source))
    assert same(one, LawClock(Window(1, 1, 1, 0, 0), one), (1,))
    assert not same(one, source, (1,))
    assert not same(twice, one, (1,))
    assert not same(InputClock("wait", 0), InputClock("wait", 1), (1, 1))


def padded_in_front(layers: int) -> tuple[Clock, list[Clock]]:
    """A stack of residual blocks with the first frame put in front twice, as causal convolutions of
    video autoencoders have it; the clocks that are joined."""
    clock: Clock = InputClock("wait", 0)
    ends = [clock]
    for _ in range(layers):
        first = Part(clock, 1, first=True)
        clock = LawClock(Window(3), ConcatClock((first, first, Part(clock))))
        ends.append(clock)
    return ends[0], ends


def test_comparing_clocks_takes_time_in_the_depth_and_no_power_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What a comparison has counted is known to the next one."""
    counted = 0
    sound = ConcatClock._at

    def _at(self: ConcatClock, frames: tuple[int, ...], last: bool) -> Count:
        nonlocal counted
        counted += 1
        return sound(self, frames, last)

    monkeypatch.setattr(ConcatClock, "_at", _at)
    calls = []
    for layers in (10, 20):
        first, ends = padded_in_front(layers)
        counted = 0
        assert all(same(clock, first, (1,)) for clock in ends)
        calls.append(counted)
    assert calls[1] < 3 * calls[0]
