"""Models that take boxes beside the video (AVA): the boxes of a step go with that step."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from oracles import relative_error
from torch import Tensor

import pgt_fx
from pgt_fx import PerStep, zoo
from pgt_fx.errors import ClipError
from pgt_fx.training import backward

EXACT = 1e-9
MODELS = ["slow_r50_detection", pytest.param("slowfast_r50_detection", marks=pytest.mark.slow)]


def example(name: str, clips: int = 1) -> tuple[Any, Tensor]:
    frames = clips * max(zoo.get(name).clip)
    generator = torch.Generator().manual_seed(1)
    return zoo.clip(name, space=64, frames=frames, dtype=torch.float64, generator=generator)


def build(name: str) -> Any:
    return zoo.build(name, space=64, redraw_norms=True).double()


def boxes(count: int, seed: int = 0) -> Tensor:
    """(count, 5): row of the batch, x1, y1, x2, y2 in pixels."""
    corner = torch.rand(count, 2, generator=torch.Generator().manual_seed(seed)).double() * 30
    return torch.cat([torch.zeros(count, 1).double(), corner, corner + 20], 1)


def fresh(video: Any) -> Any:
    """SlowFast writes into the list that it is given."""
    return list(video) if isinstance(video, list) else video


def cut(video: Any, frames: int, end: int) -> Any:
    """Frames ``frames`` … ``end`` of the path with the fewest."""
    if isinstance(video, Tensor):
        return video[:, :, frames:end]
    ratio = video[1].shape[2] // video[0].shape[2]
    return [video[0][:, :, frames:end], video[1][:, :, frames * ratio : end * ratio]]


@pytest.mark.parametrize("name", MODELS)
def test_the_whole_video_in_steps_scores_its_boxes_as_the_model_does(name: str) -> None:
    """With running pools the last step answers for all frames, with the boxes that it is given."""
    model, (video, _) = build(name), example(name, clips=1)
    prog = pgt_fx.transform(model, (fresh(video), boxes(2)), future="wait", pooling="running")
    frames, final = min(zoo.get(name).clip), boxes(3, seed=2)
    state: Any = prog.init_state()
    with torch.no_grad():
        for at in range(frames):
            last = at == frames - 1
            given = final if last else boxes(1 + at % 2, seed=at)
            out, state = prog.step(state, cut(video, at, at + 1), given, last=last)
        assert relative_error(out, model(fresh(video), final)) <= EXACT


@pytest.mark.parametrize("name", MODELS)
def test_a_step_answers_for_its_own_boxes(name: str) -> None:
    model, (video, _) = build(name), example(name, clips=2)
    frames = 2 * min(zoo.get(name).clip)
    prog = pgt_fx.transform(model, (cut(video, 0, frames // 2), boxes(2)))
    given = [boxes(2, seed=3), boxes(5, seed=4)]
    with torch.no_grad():
        schedule = [frames // 2] * 2
        first, second = prog.run(fresh(video), PerStep(given), schedule=schedule)
        assert first.shape == (2, 80) and second.shape == (5, 80)
        assert relative_error(first, model(cut(video, 0, frames // 2), given[0])) <= EXACT
        # The second step's scores are made of frames of both: other frames of the first one
        # change them, other boxes of the first one don't.
        alone = prog.full(cut(video, frames // 2, frames), given[1])
        assert relative_error(second, alone) > 1e-3
        other = [boxes(1, seed=9), given[1]]
        assert torch.equal(prog.run(fresh(video), PerStep(other), schedule=schedule)[1], second)
        moved = [given[0], given[1] + torch.tensor([0, 8, 8, 8, 8]).double()]
        assert not torch.equal(prog.run(fresh(video), PerStep(moved), schedule=schedule)[1], second)


def test_training_with_boxes_and_labels_of_each_step() -> None:
    model, (video, _) = build("slow_r50_detection"), example("slow_r50_detection", clips=2)
    prog = pgt_fx.transform(model, (video[:, :, :4], boxes(2)))
    given = PerStep([boxes(2), boxes(3)])
    labels = PerStep([torch.ones(2, 80).double(), torch.zeros(3, 80).double()])
    found = backward(
        prog, (video, given), F.binary_cross_entropy, labels, schedule=[4, 4], gradient="exact"
    )
    assert len(found.losses) == 2 and all(loss > 0 for loss in found.losses)
    assert all(p.grad is not None for p in prog.parameters())


def test_bad_boxes_are_told() -> None:
    video, given = example("slow_r50_detection", clips=2)
    prog = pgt_fx.transform(build("slow_r50_detection"), (video[:, :, :4], given))
    with pytest.raises(ClipError, match="one value per step, 2 for this video"):
        prog.run(video, PerStep([given]), schedule=[4, 4])
    with pytest.raises(ClipError, match="PerStep"):
        prog(video, PerStep([given, given]))
    with pytest.raises(ClipError):
        prog(video)
