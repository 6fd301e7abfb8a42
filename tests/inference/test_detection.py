"""Models that take boxes beside the video (AVA): the boxes of a step go with that step."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from oracles import relative_error
from torch import Tensor, nn

import pgt_fx
from pgt_fx import DPR, OverTime, PerStep, Schedule, zoo
from pgt_fx.core.errors import ClipError, OptionError
from pgt_fx.inference import predict
from pgt_fx.training import PerFrame, backward, fit, metrics, sgd

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


# ------------------------------------------------------------------ a small one, with its labels


class Boxes(nn.Module):
    """Scores of each box: what its row of the batch shows, weighed by the box."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.head = nn.Conv3d(3, 4, 3, padding=1), nn.Linear(4, 3)

    def forward(self, x: Tensor, boxes: Tensor) -> Tensor:
        rows = self.conv(x).tanh().mean((2, 3, 4))[boxes[:, 0].long()]
        return self.head(rows * boxes[:, 1:2])


def small(**options: Any) -> pgt_fx.Progressive:
    clip = torch.zeros(2, 3, 4, 4, 4).double(), torch.zeros(3, 5).double()
    return pgt_fx.transform(Boxes().double(), clip, **options)


def film(frames: int = 10, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, 3, frames, 4, 4, generator=generator, dtype=torch.float64)


#: Boxes and classes of a video, by the frame at which they are annotated.
SEEN = {1: (boxes(2), torch.tensor([0, 2])), 5: (boxes(3, 1), torch.tensor([1, 1, 0]))}


def seen(which: int, empty: Tensor) -> OverTime:
    def at(start: int, stop: int) -> Tensor:
        here = [found[which] for frame, found in SEEN.items() if start <= frame < stop]
        return torch.cat(here) if here else empty

    return OverTime(at)


BOXES, CLASSES = seen(0, boxes(0)), seen(1, torch.zeros(0, dtype=torch.long))


def grads(model: nn.Module) -> list[Tensor | None]:
    found = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    return found


# ------------------------------------------------------------------------- steps without boxes


@pytest.mark.parametrize("gradient", ["truncated", "exact"])
@pytest.mark.parametrize("options", [{}, {"future": "wait", "pooling": "running"}], ids=str)
def test_a_step_without_boxes_has_no_loss(gradient: str, options: Any) -> None:
    """Its loss is zero, the mean over nothing would be NaN; the other steps' are as they were."""
    prog, x = small(**options), film(12)
    how: dict[str, Any] = {"schedule": [4, 4, 4], "gradient": gradient}
    given, labels = [boxes(2), boxes(0), boxes(3, 1)], [torch.tensor([0, 2]), torch.zeros(0).long(),
                                                       torch.tensor([1, 1, 0])]  # fmt: skip
    found = backward(prog, (x, PerStep(given)), F.cross_entropy, PerStep(labels), **how)
    own = grads(prog)
    assert [float(loss) > 0 for loss in found.losses] == [True, False, True]
    assert found.loss.isfinite() and float(found.losses[1]) == 0
    assert [len(t) for t in found.targets] == [2, 0, 3]
    # A loss that is told of it gives the same.
    summed = lambda y, t: F.cross_entropy(y, t, reduction="sum") / max(1, len(t))
    other = backward(prog, (x, PerStep(given)), summed, PerStep(labels), **how)
    assert torch.allclose(found.loss, other.loss)
    for a, b in zip(own, grads(prog), strict=True):
        assert torch.allclose(a, b)


@pytest.mark.parametrize("gradient", ["truncated", "exact"])
def test_a_video_without_any_box_has_gradients_of_zero(gradient: str) -> None:
    prog = small()
    none, nothing = PerStep([boxes(0)] * 2), PerStep([torch.zeros(0).long()] * 2)
    scaler = torch.amp.GradScaler("cpu")
    found = backward(
        prog, (film(8), none), F.cross_entropy, nothing, schedule=[4, 4], gradient=gradient,
        scaler=scaler,
    )  # fmt: skip
    assert float(found.loss) == 0 and found.outputs[0].shape == (0, 3)
    assert all(g is not None and not g.any() for g in grads(prog))
    # An update with a scaler, which asks for gradients.
    backward(prog, (film(8), none), F.cross_entropy, nothing, schedule=[4, 4], scaler=scaler)
    scaler.step(torch.optim.SGD(prog.parameters(), 0.1))


def test_a_step_whose_own_labels_are_empty_has_no_loss() -> None:
    """Boxes are there, but nothing is annotated; one label for all steps is another matter."""

    def annotated(out: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(out[: len(target)], target)

    prog, given = small(), PerStep([boxes(2), boxes(3, 1)])
    labels = PerStep([torch.tensor([0, 2]), torch.zeros(0).long()])
    found = backward(prog, (film(8), given), annotated, labels, schedule=[4, 4])
    assert float(found.losses[0]) > 0 and float(found.losses[1]) == 0 and found.loss.isfinite()
    alone = backward(prog, (film(8), given), annotated, labels.targets[1], schedule=[4, 4])
    assert alone.losses[1].isnan(), "one label for all steps is handed on as it is"


def test_frames_without_labels_have_no_loss() -> None:
    """PerFrame: labels of one number per class, of which a video has none."""
    prog = pgt_fx.transform(nn.Conv1d(2, 2, 3, padding=1).double(), torch.zeros(1, 2, 8).double())
    labels = PerFrame(torch.zeros(1, 0, 8).double(), 2)
    mean = lambda y, t: (y[:, : t.shape[1]] - t).square().mean()
    found = backward(prog, torch.ones(1, 2, 8).double(), mean, labels, schedule=[4, 4])
    assert float(found.loss) == 0 and all(not g.any() for g in grads(prog))


def test_the_models_of_the_zoo_take_steps_without_boxes() -> None:
    video, _ = example("slow_r50_detection", clips=2)
    prog = pgt_fx.transform(build("slow_r50_detection"), (video[:, :, :4], boxes(2)))
    given = PerStep([boxes(2), boxes(0)])
    labels = PerStep([torch.ones(2, 80).double(), torch.zeros(0, 80).double()])
    found = backward(prog, (video, given), F.binary_cross_entropy, labels, schedule=[4, 4])
    assert found.outputs[1].shape == (0, 80) and float(found.losses[1]) == 0
    assert float(found.loss) > 0 and all(p.grad.isfinite().all() for p in prog.parameters())


# ------------------------------------------------------------------------ scores and metrics


def test_scores_of_boxes_are_one_after_the_other() -> None:
    prog, x, given = small(), film(8), [boxes(2), boxes(3, 1)]
    with torch.no_grad():
        answers = prog.eval().run(x, PerStep(given), schedule=[4, 4])
    wanted = [y.softmax(1) for y in answers]
    found = predict(prog, x, PerStep(given), schedule=[4, 4])
    assert torch.allclose(found.scores, torch.cat(wanted))
    assert all(torch.allclose(a, b) for a, b in zip(found.steps, wanted, strict=True))
    # As many boxes in each step are other boxes all the same.
    even = predict(prog, x, PerStep([boxes(2), boxes(2, 1)]), schedule=[4, 4])
    assert even.scores.shape == (4, 3)
    for last in (
        predict(prog, x, PerStep(given), schedule=[4, 4], over_steps="last"),
        predict(prog.replace(pooling="running"), x, PerStep(given), schedule=[4, 4], view="stream"),
    ):
        assert last.scores.shape == (3, 3)
    # Boxes that are the same in all steps have a mean.
    assert predict(prog, x, boxes(2), schedule=[4, 4]).scores.shape == (2, 3)


def test_what_scores_of_boxes_can_t_be_is_told_before_anything_is_run() -> None:
    prog, x, given = small(), film(8), PerStep([boxes(2), boxes(3, 1)])
    for how in ("mean", "max"):
        with pytest.raises(OptionError, match=f"no {how}; leave it out for the scores of all"):
            predict(prog, x, given, schedule=[4, 4], over_steps=how)  # type: ignore[arg-type]
    for more in ({"temporal": 2, "frames": 4}, {"spatial": 3}, {"crop": 2}):
        with pytest.raises(OptionError, match="leave these out, and call predict for each view"):
            predict(prog, x, given, schedule=[4, 4], **more)  # type: ignore[arg-type]


def test_values_of_each_step_that_are_the_videos_own_are_averaged() -> None:
    """A weight for each video and step: the answers' rows are the videos'."""

    class Weighed(nn.Module):
        def forward(self, x: Tensor, weight: Tensor) -> Tensor:
            return x.mean((2, 3, 4)) * weight

    x, weights = film(8), [torch.ones(2, 3).double(), torch.zeros(2, 3).double()]
    prog = pgt_fx.transform(Weighed(), (film(4), weights[0]))
    found = predict(prog, x, PerStep(weights), schedule=[4, 4], activation=None)
    assert torch.allclose(found.scores, x[:, :, :4].mean((2, 3, 4)) / 2)


class Counted:
    """A metric that keeps what it is shown."""

    update_called = False

    def __init__(self) -> None:
        self.shown: list[tuple[Tensor, Tensor]] = []

    def to(self, device: Any) -> Counted:
        return self

    def reset(self) -> None:
        self.shown.clear()

    def update(self, scores: Tensor, target: Tensor) -> None:
        self.shown.append((scores, target))
        self.update_called = True

    def compute(self) -> float:
        hits = torch.cat([scores.argmax(1) == target for scores, target in self.shown])
        return float(hits.double().mean())


def test_metrics_are_shown_the_boxes_of_each_step() -> None:
    prog, x = small(), film(12)
    given = PerStep([boxes(2), boxes(0), boxes(3, 1)])
    labels = PerStep([torch.tensor([0, 2]), torch.zeros(0).long(), torch.tensor([1, 1, 0])])
    metric = Counted()
    optimizer = torch.optim.SGD(prog.parameters(), 0.0)
    how: dict[str, Any] = {"epochs": 1, "schedule": Schedule(4, overlap=0), "progress": False}
    batch = [((x, given), labels)]
    (row,) = fit(prog, batch, optimizer, metrics={"hits": metric}, **how)
    assert [len(t) for _, t in metric.shown] == [2, 3]
    (row,) = fit(prog, batch, optimizer, metrics={"hits": metric}, validation=batch, **how)
    assert [len(t) for _, t in metric.shown] == [2, 3] and 0 <= row["val_hits"] <= 1
    with torch.no_grad():
        answers = prog.eval().run(x, given, schedule=[4, 4, 4])
    for (scores, _), answer in zip(metric.shown, (answers[0], answers[2]), strict=True):
        assert torch.allclose(scores, answer.float().softmax(1))
    wrong = [((x, given), PerStep([labels.targets[0]] * 3))]
    with pytest.raises(OptionError, match="step 2 has scores of 0 boxes, and labels of 2"):
        fit(prog, batch, optimizer, metrics={"hits": metric}, validation=wrong, **how)


def test_fit_with_boxes_and_several_labels_each() -> None:
    prog = small()
    many = OverTime(lambda start, stop: F.one_hot(CLASSES.at(start, stop), 3).double())
    loss = F.binary_cross_entropy_with_logits
    (row,) = fit(
        prog, [((film(), BOXES), many)], sgd(prog, 0.01), epochs=1, loss_fn=loss,
        schedule=DPR("B", 4, 3, lengths=(2, 3, 4)), metrics=metrics(3, multilabel=True),
        validation=[((film(), BOXES), many)], progress=False,
    )  # fmt: skip
    assert row["loss"] > 0 and 0 < row["mAP"] <= 1 and 0 < row["val_mAP"] <= 1


# ------------------------------------------------------------------ steps that are drawn


@pytest.mark.parametrize("gradient", ["truncated", "exact"])
def test_values_made_from_frames_are_those_of_each_step(gradient: str) -> None:
    prog, schedule = small(), Schedule(4, 3)  # 10 frames as 4, 3, 3
    cuts = [(0, 4), (4, 7), (7, 10)]
    each = [PerStep([over.at(*cut) for cut in cuts]) for over in (BOXES, CLASSES)]
    assert [len(t) for t in each[1].targets] == [2, 3, 0]
    how: dict[str, Any] = {"schedule": schedule, "gradient": gradient}
    fixed = backward(prog, (film(), each[0]), F.cross_entropy, each[1], **how)
    own = grads(prog)
    found = backward(prog, (film(), BOXES), F.cross_entropy, CLASSES, **how)
    assert torch.equal(fixed.loss, found.loss)
    assert all(torch.equal(a, b) for a, b in zip(own, grads(prog), strict=True))
    pairs = zip(prog.run(film(), BOXES, schedule=schedule), fixed.outputs, strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_they_follow_any_schedule_that_is_drawn() -> None:
    prog, asked = small(), []

    def labels(start: int, stop: int) -> Tensor:
        asked.append((start, stop))
        return CLASSES.at(start, stop)

    dpr = DPR("B", 4, 3, lengths=(2, 3, 4), order="cycle", epochs=3)
    data = [((film(), BOXES), OverTime(labels))]
    fit(prog, data, sgd(prog, 0.01), epochs=3, schedule=dpr, progress=False)
    cuts = [prog.chunks(film(), boxes(1), schedule=dpr.draw(n)) for n in range(3)]
    lengths = [[args[0].shape[2] for args, _ in cut] for cut in cuts]
    assert len({len(n) for n in lengths}) == 3
    assert asked == [(sum(n[:i]), sum(n[: i + 1])) for n in lengths for i in range(len(n))]


def test_of_two_paths_and_of_a_clip_within_a_video_they_count_the_videos_frames() -> None:
    class Two(nn.Module):
        def forward(self, slow: Tensor, fast: Tensor, boxes: Tensor) -> Tensor:
            return (slow.mean((2, 3, 4)) + fast.mean((2, 3, 4)))[boxes[:, 0].long()]

    slow, fast = film(10), film(20, seed=1)
    prog = pgt_fx.transform(Two(), (slow[:, :, :4], fast[:, :, :8], boxes(3)))
    asked = []

    def at(start: int, stop: int) -> Tensor:
        asked.append((start, stop))
        return boxes(1)

    prog.run(slow, fast, OverTime(at), schedule=Schedule(4, 3))
    assert asked == [(0, 4), (4, 7), (7, 10)]
    asked.clear()
    predict(prog, slow, fast, OverTime(at), schedule=[2, 2], frames=4)  # the clip at the centre
    assert asked == [(3, 5), (5, 7)]


def test_bad_values_over_time_are_told() -> None:
    with pytest.raises(OptionError, match=r"expected a function .* are a PerStep"):
        OverTime([1, 2])  # type: ignore[arg-type]
    with pytest.raises(ClipError, match="OverTime is for run"):
        small()(film(4), BOXES)
