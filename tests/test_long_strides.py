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
from pgt_fx.alike import same, samples
from pgt_fx.timeline import Clock, InputClock, JoinClock, LawClock, Window

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
