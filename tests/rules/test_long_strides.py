"""Clocks that differ late or seldom, and clips whose paths have unlike rates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from oracles import relative_error, stitch
from torch import Tensor, nn
from torch.nn import functional as F

import pgt_fx
from pgt_fx.core.clock_equality import same, samples
from pgt_fx.core.clocks import Clock, InputClock, JoinClock, LawClock
from pgt_fx.core.errors import ClipError
from pgt_fx.core.laws import Window

EXACT = 1e-9


class Of(nn.Module):
    """A function of (N, 3, T) and of a convolution."""

    def __init__(self, call: Callable[[Tensor, nn.Module], Tensor]) -> None:
        super().__init__()
        self.conv, self.call = nn.Conv1d(3, 3, 3, padding=1), call

    def forward(self, x: Tensor) -> Tensor:
        return self.call(x, self.conv)


def seldom(x: Tensor, conv: nn.Module) -> Tensor:
    """One frame apart, at every hundredth frame alone."""
    return F.avg_pool1d(x, 100, 100) * F.avg_pool1d(F.pad(x, (0, 1)), 101, 100)


def very_seldom(x: Tensor, conv: nn.Module) -> Tensor:
    return F.avg_pool1d(x, 3000, 3000) * F.avg_pool1d(F.pad(x, (0, 1)), 3001, 3000)


def late(x: Tensor, conv: nn.Module) -> Tensor:
    """One frame apart between the hundredth frame and the 150th alone."""
    return x[:, :, 100:150] + conv(x)[:, :, 100:150]


def grouped(x: Tensor, conv: nn.Module) -> Tensor:
    """Of as many elements at every fourth frame; in between one has more."""
    pooled = F.avg_pool1d(x, 4, 4).repeat_interleave(4, 2)
    return conv(x * 2) + F.pad(pooled, (0, 1))[:, :, :-1]


CASES = [
    (seldom, 150, 301, [[301], [50] * 6 + [1], [100, 100, 101], [1] * 301]),
    (very_seldom, 6002, 9001, [[9001], [3000, 3000, 3001], [3000, 1, 2999, 3001]]),
    (late, 201, 201, [[201], [101, 100], [1] * 201, [60, 65, 76], [149, 1, 51]]),
    (grouped, 16, 40, [[40], [1] * 40, [5, 3, 9, 23], [16, 1, 23]]),
]


@pytest.mark.parametrize("case", CASES, ids=lambda c: c[0].__name__)
@pytest.mark.parametrize("future", ["wait", "zero"])
def test_operands_that_are_seldom_apart_are_joined(case: Any, future: str) -> None:
    call, clip, frames, chunkings = case
    torch.manual_seed(0)
    model = Of(call).double().eval()
    example = torch.zeros(1, 3, clip, dtype=torch.float64)
    prog = pgt_fx.transform(model, example, future=future, time_dim=2)
    video = torch.randn(1, 3, frames, dtype=torch.float64)
    with torch.no_grad():
        wanted = model(video)
        for chunks in chunkings:
            prog.reset()
            clips = video.split(chunks, 2)
            answers = [prog(c, last=n == len(chunks) - 1) for n, c in enumerate(clips)]
            got = stitch(answers, 2)
            assert got.shape == wanted.shape, chunks
            exact = prog.exact_frames(chunks)
            assert all(exact) or future == "zero"
            if any(exact):
                flags = torch.tensor(exact)
                assert relative_error(got[:, :, flags], wanted[:, :, flags]) < EXACT, chunks


def chain(source: Clock, laws: Sequence[Window]) -> Clock:
    for law in laws:
        source = LawClock(law, source)
    return source


def test_clocks_are_compared_over_all_of_their_period() -> None:
    frames = InputClock("wait", 0)
    often, seldom = Window(100, 100), Window(101, 100, right=1)
    assert not same(chain(frames, [often]), chain(frames, [seldom]), (1,))
    assert same(chain(frames, [often]), chain(frames, [Window(100, 100)]), (1,))
    # Longer than is looked at: alike where they are made alike, else not known to be.
    far = Window(5000, 5000)
    assert same(chain(frames, [far]), chain(frames, [Window(5000, 5000)]), (1,))
    assert not same(chain(frames, [far]), chain(frames, [Window(2500, 2500), Window(2, 2)]), (1,))


def test_what_clocks_have_in_common_is_not_looked_at() -> None:
    """Else a deep model's warm-up would have to be looked at for each of its joins."""
    deep = chain(InputClock("wait", 0), [Window(3, 2, left=1, right=1)] * 40)
    branch = chain(deep, [Window(3, left=1, right=1)])
    (one, other), times = samples((1,), deep, branch)
    assert isinstance(one, InputClock) and 90 < len(times) < 200
    assert not same(deep, branch, (1,)) and other.at((7,), False).total == 6
    assert same(JoinClock((deep, branch)), branch, (1,))


def test_a_fast_path_is_compared_at_each_of_its_frames() -> None:
    """Also at those that a slow path of a quarter of them has no frame for."""
    fast = InputClock("wait", 1)
    assert not same(chain(fast, [Window(4, 4)]), chain(fast, [Window(1, 4)]), (1, 4))


# --------------------------------------------------------------------- rates of two paths


class TwoPaths(nn.Module):
    """One path, and a second one with ``rate`` of its frames for one of the first."""

    def __init__(self, rate: int) -> None:
        super().__init__()
        self.slow, self.fast = (nn.Conv1d(3, 3, 3, padding=1) for _ in range(2))
        self.rate = rate

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.slow(a).repeat_interleave(self.rate, 2) + self.fast(b)


@pytest.mark.parametrize("lengths", [(8, 12), (12, 8), (8, 33), (6, 6, 9)])
def test_rates_that_are_no_whole_multiples_are_refused(lengths: tuple[int, ...]) -> None:
    class Any3(nn.Module):
        def forward(self, *x: Tensor) -> Tensor:
            return x[0].repeat_interleave(3, 2) + x[1].repeat_interleave(2, 2)

    clips = tuple(torch.zeros(1, 3, n) for n in lengths)
    frames = " and ".join(map(str, lengths))
    with pytest.raises(ClipError, match=f"have {frames} frames; expected .* a whole number"):
        pgt_fx.transform(Any3().eval(), clips, future="wait", time_dim=2)


@pytest.mark.parametrize("rate", [1, 3])
def test_paths_of_whole_rates_may_be_fed_unevenly(rate: int) -> None:
    torch.manual_seed(0)
    model = TwoPaths(rate).double().eval()
    clips = tuple(torch.zeros(1, 3, n, dtype=torch.float64) for n in (8, 8 * rate))
    prog = pgt_fx.transform(model, clips, future="wait", time_dim=2)
    a, b = (torch.randn(1, 3, n, dtype=torch.float64) for n in (24, 24 * rate))
    with torch.no_grad():
        wanted = model(a, b)
        for first, second in (([8, 8, 8], [7 * rate, 9 * rate, 8 * rate]), ([1] * 24, [rate] * 24)):
            prog.reset()
            pairs = list(zip(a.split(first, 2), b.split(second, 2), strict=True))
            got = stitch([prog(*p, last=n == len(pairs) - 1) for n, p in enumerate(pairs)], 2)
            assert relative_error(got, wanted) < EXACT, first


def test_an_input_that_is_no_stream_may_have_any_length() -> None:
    class Guided(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv1d(3, 3, 3, padding=1)

        def forward(self, x: Tensor, words: Tensor) -> Tensor:
            return self.conv(x) * words.mean(2, keepdim=True)

    torch.manual_seed(0)
    model = Guided().double().eval()
    words = torch.randn(1, 3, 5, dtype=torch.float64)
    clip = (torch.zeros(1, 3, 8, dtype=torch.float64), words)
    prog = pgt_fx.transform(model, clip, future="wait", time_dim=[2, None])
    video = torch.randn(1, 3, 17, dtype=torch.float64)
    with torch.no_grad():
        got = stitch([prog(video[:, :, :9], words), prog(video[:, :, 9:], words, last=True)], 2)
        assert relative_error(got, model(video, words)) < EXACT
