"""A plan that is remembered is the plan that would be made."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import pgt_fx
from pgt_fx import zoo
from pgt_fx.runtime.plan import plan
from pgt_fx.runtime.plan_cache import LATEST, SteadyPlans
from pgt_fx.testing.fuzz import strategies


def plans_of(prog: pgt_fx.Progressive) -> SteadyPlans:
    graph = prog.inspect.program.emitted.schedulable
    return SteadyPlans(graph, prog.clip_ratio)


def compare(steady: SteadyPlans, chunks: list[int], frames: int) -> int:
    """Feeds chunks in turn over ``frames`` frames and compares; how many plans were remembered."""
    remembered, seen, number = 0, 0, 0
    while seen < frames:
        new = chunks[number % len(chunks)]
        number += 1
        before, after = (tuple(n * r for r in steady.ratio) for n in (seen, seen + new))
        at_hand = len(steady._known)
        for last in (False, True):
            assert steady.plan(before, after, last) == plan(steady.graph, before, after, last), (
                f"{before} to {after}, last={last}; settled at {steady.settled}, "
                f"period {steady.period}"
            )
        behind = steady.period > 0 and seen >= steady.settled
        remembered += behind and len(steady._known) == at_hand
        seen += new
    return remembered


@pytest.mark.parametrize("future", ["wait", "zero"])
@given(data=st.data())
def test_of_random_graphs(future: str, data: st.DataObject) -> None:
    spec = data.draw(strategies.graphs(dims=(1,)), label="spec")
    model = strategies.build(spec, 0)
    example = strategies.video(spec, strategies.example_frames(spec), seed=9)
    operator = data.draw(st.sampled_from(["mco", "cmco-avg"]), label="operator")
    prog = pgt_fx.transform(
        model, example, time_dim=2, future=future, operator=operator, strict=False
    )
    steady = plans_of(prog)
    assert steady.period > 0 and steady.settled < LATEST
    chunks = data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=3), label="chunks")
    # Every phase of these chunks comes twice, and once more after that.
    frames = steady.settled + 3 * steady.period * sum(chunks) + 2 * sum(chunks)
    assert compare(steady, chunks, min(frames, 4000)) > 0


@pytest.mark.parametrize("name", ["r2plus1d_18", "slowfast_r50", "x3d_s"])
@pytest.mark.parametrize("future", ["wait", "zero"])
def test_of_models(future: str, name: str) -> None:
    model = zoo.build(name, space=32 if name != "x3d_s" else 64)
    clip = zoo.clip(name, space=32 if name != "x3d_s" else 64)
    prog = pgt_fx.transform(model, clip, future=future, strict=False)
    steady = plans_of(prog)
    assert compare(steady, [7], steady.settled + 14 * steady.period + 100) > 3


def test_paths_fed_unevenly() -> None:
    """What counts is how far each path has come, not which step it is."""
    model = zoo.build("slowfast_r50", space=32)
    prog = pgt_fx.transform(model, zoo.clip("slowfast_r50", space=32), future="zero")
    steady = plans_of(prog)
    graph, ratio, period = steady.graph, steady.ratio, steady.period
    for extra in range(9):
        for turn in range(3):
            shift = steady.settled + turn * period
            before = (shift * ratio[0], shift * ratio[1] + extra)
            after = (before[0] + 2, before[1] + 5 + extra)
            assert steady.plan(before, after, False) == plan(graph, before, after, False)
    assert 0 < len(steady._known) <= 9


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x, x, x, need_weights=False)[0]


def test_of_a_memory_of_all_that_was() -> None:
    """It grows: its plans depend on how far the video has come, and none is remembered."""
    example = torch.randn(1, 6, 8)
    options = {"time_dim": 1, "attention": "memory", "strict": False}
    steady = plans_of(pgt_fx.transform(Attention().eval(), example, **options))
    assert steady.period == 0
    compare(steady, [3, 4], 60)
    assert not steady._known
