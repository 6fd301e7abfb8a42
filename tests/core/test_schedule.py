"""Schedules: the paper's settings, videos that are not a multiple, and drawn schedules."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from torch import nn

import pgt_fx
from pgt_fx import DPR, Schedule
from pgt_fx.core.errors import ClipError, OptionError
from pgt_fx.inference import predict
from pgt_fx.training import backward


@pytest.mark.parametrize(
    ("length", "steps", "frames"),
    # The paper: T' x P x tau of 8x5x8 and 16x5x8 on one path, 36 and 76 frames, whose fast paths
    # (alpha 4) have 144 and 304.
    [(8, 5, 36), (16, 5, 76), (8, 1, 8), (16, 1, 16)],
)
def test_the_settings_of_the_paper(length: int, steps: int, frames: int) -> None:
    schedule = Schedule(length, steps)
    assert schedule.frames == frames == (length - 1) * steps + 1
    assert schedule.chunks() == schedule.chunks(frames) == [length] + [length - 1] * (steps - 1)
    assert sum(schedule) == frames


class TwoPaths(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.slow, self.fast = nn.Conv3d(3, 4, 1), nn.Conv3d(3, 4, 1)

    def forward(self, paths: list[torch.Tensor]) -> torch.Tensor:
        slow, fast = self.slow(paths[0]), self.fast(paths[1])
        return torch.cat([slow.mean((2, 3, 4)), fast.mean((2, 3, 4))], 1)


@pytest.mark.parametrize(("length", "frames"), [(8, (36, 144)), (16, (76, 304))])
def test_two_paths_are_cut_together(length: int, frames: tuple[int, int]) -> None:
    clip = [torch.zeros(1, 3, length * alpha, 4, 4) for alpha in (1, 4)]
    video = [torch.zeros(1, 3, n, 4, 4) for n in frames]
    prog = pgt_fx.transform(TwoPaths(), clip)
    cut = prog.chunks(video, schedule=Schedule(length, 5))
    found = [[path.shape[2] for path in args[0]] for args, _ in cut]
    rest = [length - 1, 4 * (length - 1)]
    assert found == [[length, 4 * length]] + [rest] * 4
    assert [sum(n) for n in zip(*found, strict=True)] == list(frames)


@pytest.mark.parametrize(
    ("frames", "expected"),
    # The paper's other figure for the fast path beside 76 frames; a slow path that is too long;
    # one frame too few, and fewer of them than of the slow path.
    [
        ((76, 316), (76, 304)),
        ((79, 304), (76, 304)),
        ((76, 303), (75, 300)),
        ((76, 70), (17, 68)),
    ],
)
def test_paths_of_another_ratio_are_refused_wherever_a_video_is_cut_or_ends(
    frames: tuple[int, int], expected: tuple[int, int]
) -> None:
    clip = [torch.zeros(1, 3, 16 * alpha, 4, 4) for alpha in (1, 4)]
    video = [torch.zeros(1, 3, n, 4, 4) for n in frames]
    prog = pgt_fx.transform(TwoPaths(), clip)
    seen = (
        f"the video's paths have {frames[0]} and {frames[1]} frames; expected 1 and 4 to one "
        f"another, as in the example, so that they show the same moments: {expected[0]} and "
        f"{expected[1]}; cut the longer one"
    )
    how = {"schedule": Schedule(16, 5)}
    first, rest = [video[0][:, :, :16], video[1][:, :, :64]], [video[0][:, :, 16:]]
    rest.append(video[1][:, :, 64:])
    prog(first)
    calls: list[Callable[[], object]] = [
        lambda: prog.full(video),
        lambda: prog(rest, last=True),
        lambda: prog.step(prog.step({}, first)[1], rest, last=True),
        lambda: prog.exact_frames([(16, 64), (frames[0] - 16, frames[1] - 64)]),
        lambda: predict(prog, video, view="original"),
    ]
    for options in ({}, how, {"schedule": [frames[0] - 8, 8]}):
        calls += [
            lambda options=options: prog.chunks(video, **options),
            lambda options=options: prog.run(video, **options),
            lambda options=options: predict(prog, video, **options),
            lambda options=options: backward(prog, video, lambda y, _: y.sum(), **options),
            lambda options=options: predict(prog, video, view="stream", **options),
        ]
    for number, call in enumerate(calls):
        with pytest.raises(ClipError) as error:
            call()
        assert seen in str(error.value), number
    assert all(p.grad is None for p in prog.parameters())
    # The video goes on: steps may be uneven, as long as it ends in the example's ratio.
    prog([x[:, :, :1] for x in rest])
    prog([torch.zeros(1, 3, 4, 4, 4), torch.zeros(1, 3, 19, 4, 4)], last=True)


def test_a_video_that_is_no_multiple() -> None:
    assert Schedule(8).chunks(40) == [8, 7, 7, 7, 7, 4]
    assert Schedule(8, overlap=0).chunks(20) == [8, 8, 4]
    assert Schedule(8, 5).chunks(40) == [8, 7, 7, 7, 7]  # as many steps as were asked for
    assert Schedule(8).chunks(5) == [5]
    assert Schedule(8, 5, ragged=True).chunks(30) == [8, 7, 7, 7, 1]
    with pytest.raises(ClipError, match=r"needs a video of 36 frames, got 35"):
        Schedule(8, 5).chunks(35)
    with pytest.raises(ClipError, match=r"needs a video of 30 frames, got 29"):
        Schedule(8, 5, ragged=True).chunks(29)


def test_the_lengths_and_steps_that_are_drawn() -> None:
    # P = round((T_b - 1) / (T' - 1)): section 3.3 of the paper.
    for kind, length, expected in [
        ("A", 8, {(6, 7), (8, 5), (10, 4)}),
        ("B", 8, {(4, 12), (6, 7), (8, 5)}),
        ("A", 16, {(12, 7), (16, 5), (20, 4)}),
        ("B", 16, {(8, 11), (12, 7), (16, 5)}),
    ]:
        dpr = DPR(kind, length=length, steps=5)
        assert {(s.length, s.steps) for s in dpr.schedules} == expected
        drawn = {(dpr.draw(i).length, dpr.draw(i).steps) for i in range(60)}
        assert drawn == expected
        for schedule in dpr.schedules:  # the video keeps its length
            chunks = schedule.chunks(dpr.frames)
            assert len(chunks) == schedule.steps and sum(chunks) <= dpr.frames


def test_draws_are_alike_in_every_process_and_change_with_the_seed() -> None:
    code = "from pgt_fx import DPR; print([DPR('B', seed=3).draw(i).length for i in range(40)])"
    here = [DPR("B", seed=3).draw(i).length for i in range(40)]
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert there.stdout.strip() == str(here)
    assert here != [DPR("B", seed=4).draw(i).length for i in range(40)]
    share = [here.count(n) / 40 for n in (4, 6, 8)]
    assert min(share) > 0.15, "each of three lengths about equally often"


def test_a_cycle_ends_on_the_base_schedule() -> None:
    # As the authors' code: lengths 8, 7, 6, 5 with 5, 6, 7, 9 steps, epoch by epoch.
    dpr = DPR("B", 8, 5, order="cycle", epochs=10, lengths=(8, 7, 6, 5))
    drawn = [(dpr.draw(i).length, dpr.draw(i).steps) for i in range(10)]
    assert drawn[-4:] == [(7, 6), (6, 7), (5, 9), (8, 5)]
    assert drawn[1:5] == [(8, 5), (7, 6), (6, 7), (5, 9)]
    assert DPR("A", order="cycle").draw(0).length == 10


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Schedule(0), "length: expected a whole number of at least 1, got 0"),
        (lambda: Schedule(8, 0), "steps: expected a whole number of at least 1, got 0"),
        (lambda: Schedule(8.0), "length: expected a whole number of at least 1, got 8.0"),
        (lambda: Schedule(4, overlap=4), "overlap: expected 0 … length - 1 = 3, got 4"),
        (lambda: DPR("C"), "kind: expected 'A' or 'B', got 'C'"),
        (lambda: DPR("B", length=2), "above overlap=1"),
        (lambda: DPR("B", order="loop"), "order: expected 'random' or 'cycle'"),
        (lambda: DPR("B").draw(-1), "index: expected 0 or more, got -1"),
        (lambda: Schedule(8).frames, "has no number of frames"),
    ],
)
def test_figures_that_make_no_sense(make, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(OptionError, match=message.replace("(", r"\(")):
        make()
