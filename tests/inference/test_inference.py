"""pgt_fx.inference: views of a video, scores over frames, steps and views, and the cost."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from oracles import relative_error
from torch import Tensor, nn

import pgt_fx
from pgt_fx import Schedule
from pgt_fx.core.errors import ClipError, ExactnessError, OptionError
from pgt_fx.inference import Cost, Prediction, predict
from pgt_fx.inference.scores import Scoring
from pgt_fx.inference.views import Views, corners, starts

EXACT = 1e-9
CLASSES = 5


class Net(nn.Module):
    """Scores of a video: two temporal convs, the second strided, a mean, a linear layer."""

    def __init__(self, per_frame: bool = False) -> None:
        super().__init__()
        self.per_frame = per_frame
        self.stem = nn.Conv3d(3, 4, (3, 3, 3), padding=1)
        self.norm = nn.BatchNorm3d(4)
        self.down = nn.Conv3d(4, 6, (3, 1, 1), stride=(1 if per_frame else 2, 1, 1), padding=0)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.drop(self.down(self.norm(self.stem(x)).relu()).relu())
        if self.per_frame:
            return self.head(x.mean((3, 4)).transpose(1, 2))  # (N, T, classes)
        return self.head(x.mean((2, 3, 4)))


class TwoPaths(nn.Module):
    """A slow path and a fast one of four times its frames, joined at the slow path's rate."""

    def __init__(self) -> None:
        super().__init__()
        self.slow = nn.Conv3d(3, 4, (3, 1, 1), padding=(1, 0, 0))
        self.fast = nn.Conv3d(3, 2, (5, 1, 1), stride=(4, 1, 1), padding=(2, 0, 0))
        self.head = nn.Linear(6, CLASSES)

    def forward(self, paths: list[Tensor]) -> Tensor:
        joined = torch.cat([self.slow(paths[0]), self.fast(paths[1])], 1).relu()
        return self.head(joined.mean((2, 3, 4)))


class Gated(nn.Module):
    """Gated by a mean over all of time, which no bounded state can know beforehand."""

    def forward(self, x: Tensor) -> Tensor:
        return (x * x.mean(2, keepdim=True).sigmoid()).mean((2, 3, 4))


def video(frames: int = 13, height: int = 4, width: int = 6, rows: int = 2) -> Tensor:
    """Noise whose level changes from frame to frame and across the frame."""
    generator = torch.Generator().manual_seed(frames)

    def noise(*shape: int) -> Tensor:
        return torch.randn(rows, 3, *shape, dtype=torch.float64, generator=generator)

    return noise(frames, 1, 1) + noise(1, height, width) + noise(frames, height, width)


def drawn(model: nn.Module) -> nn.Module:
    """Random weights, such that scores differ and softmax doesn't commute with mean and max."""
    torch.manual_seed(0)
    model = model.double()
    with torch.no_grad():
        for value in model.state_dict().values():
            if value.dim() > 1:
                value.copy_(torch.randn_like(value) * (2 / value[0].numel()) ** 0.5)
            elif value.is_floating_point():
                value.copy_(torch.rand_like(value) + 0.3)
    return model.eval()


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return drawn(Net())


@pytest.fixture(scope="module")
def prog(model: nn.Module) -> pgt_fx.Progressive:
    return pgt_fx.transform(model, video(8))


@pytest.fixture(scope="module")
def framed() -> pgt_fx.Progressive:
    """One score per class and frame."""
    return pgt_fx.transform(drawn(Net(per_frame=True)), video(8))


@pytest.fixture(scope="module")
def two() -> pgt_fx.Progressive:
    return pgt_fx.transform(drawn(TwoPaths()), [video(4), video(16)])


def manual(prog: pgt_fx.Progressive, x: Tensor, lengths: list[int]) -> list[Tensor]:
    """Answers of the steps, by the object's own call."""
    prog.reset()
    out = []
    for number, clip in enumerate(x.split(lengths, 2)):
        out.append(prog(clip, last=number == len(lengths) - 1).detach())
    prog.reset()
    return out


def same(got: Tensor | None, wanted: Tensor) -> bool:
    return got is not None and relative_error(got, wanted.detach()) <= EXACT


# ------------------------------------------------------------------------- how a clip is seen


def test_original_is_the_model(model: nn.Module, prog: pgt_fx.Progressive) -> None:
    x = video(13)
    found = predict(prog, x, view="original")
    assert isinstance(found, Prediction)
    assert same(found.scores, model(x).softmax(1))
    assert len(found.steps) == 1 and same(found.steps[0], found.scores)
    # of the model's own answer, that of the steps is another one
    assert relative_error(predict(prog, x).scores, found.scores) > 1e-2


@pytest.mark.parametrize("schedule", [None, Schedule(4, 4), [1] * 13, [5, 1, 6, 1]])
def test_stream_is_the_original_view(prog: pgt_fx.Progressive, schedule: Any) -> None:
    x = video(13)
    found = predict(prog, x, view="stream", schedule=schedule)
    assert same(found.scores, predict(prog, x, view="original").scores)
    assert prog.options.future == "zero"


def test_stream_tells_what_it_knew_after_each_step(prog: pgt_fx.Progressive) -> None:
    x = video(13)
    found = predict(prog, x, view="stream", schedule=[2, 6, 5])
    waiting = prog.replace(future="wait", pooling="running")
    wanted = waiting.run(x, schedule=[2, 6, 5])
    assert found.steps[0] is None and wanted[0] is None
    assert same(found.steps[1], wanted[1].softmax(1)) and same(found.steps[2], found.scores)
    # a model replaced beforehand is taken as it is
    again = predict(waiting, x, view="stream", schedule=[2, 6, 5])
    assert torch.equal(again.scores, found.scores)


@pytest.mark.parametrize("how", ["mean", "max", "last", None])
def test_progressive_over_steps(prog: pgt_fx.Progressive, how: Any) -> None:
    x = video(13)
    answers = torch.stack([y.softmax(1) for y in manual(prog, x, [4, 3, 3, 3])])
    wanted = {"mean": answers.mean(0), "max": answers.amax(0), "last": answers[-1]}
    found = predict(prog, x, schedule=Schedule(4, 4), over_steps=how)
    assert same(found.scores, wanted[how or "mean"])
    assert len(found.steps) == 4
    assert all(same(a, b) for a, b in zip(found.steps, answers, strict=True))


def test_steps_without_an_answer_are_passed_over(prog: pgt_fx.Progressive) -> None:
    x = video(8)
    answers = prog.run(x, schedule=[4, 3, 1])
    assert answers[2] is None  # the second conv's stride leaves nothing to a single frame
    found = predict(prog, x, schedule=[4, 3, 1])
    assert same(found.scores, torch.stack(answers[:2]).softmax(2).mean(0))
    assert found.steps[2] is None and same(found.steps[1], answers[1].softmax(1))
    last = predict(prog, x, schedule=[4, 3, 1], over_steps="last")
    assert same(last.scores, answers[1].softmax(1))
    late = prog.replace(future="wait")  # the first steps have none
    answers = late.run(x, schedule=[1] * 8)
    found = predict(late, x, schedule=[1] * 8)
    assert [y is None for y in answers] == [y is None for y in found.steps] and answers[0] is None
    due = torch.stack([y for y in answers if y is not None])
    assert same(found.scores, due.softmax(2).mean(0))


def test_a_model_in_training_is_run_in_eval_and_given_back(
    model: nn.Module, prog: pgt_fx.Progressive
) -> None:
    x = video(8)
    wanted = predict(prog, x).scores
    prog.train()
    model.norm.eval()  # frozen
    try:
        before = {k: v.clone() for k, v in model.state_dict().items()}
        assert torch.equal(predict(prog, x).scores, wanted)
        assert prog.training and model.training and model.head.training
        assert not model.norm.training
        assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
        with pytest.raises(OptionError):  # put back after an error as well
            predict(prog, x, activation=lambda x: (_ for _ in ()).throw(OptionError("stop")))
        assert prog.training and not model.norm.training
    finally:
        prog.eval()


def test_scores_and_model_are_fit_for_training_afterwards() -> None:
    fresh = pgt_fx.transform(drawn(Net()), video(8))
    x = video(8)
    found = predict(fresh, x, schedule=[4, 4])
    assert not found.scores.requires_grad and not found.scores.is_inference()
    assert not any(step is None or step.is_inference() for step in found.steps)
    fresh(x).sum().backward()
    assert fresh.stem.weight.grad.abs().max() > 0


def test_a_video_under_way_is_not_disturbed(prog: pgt_fx.Progressive) -> None:
    x = video(8)
    alone = manual(prog, x, [4, 4])
    prog(x[:, :, :4])
    predict(prog, video(13))
    assert torch.equal(prog(x[:, :, 4:], last=True), alone[1])
    prog.reset()


# ------------------------------------------------------------------------- views


def test_starts_hold_the_first_and_the_last_frame() -> None:
    assert starts(20, 8, 1) == [6]
    assert starts(20, 8, 2) == [0, 12]
    assert starts(20, 8, 4) == [0, 4, 8, 12]
    assert starts(10, 8, 4) == [0, 1, 2]  # there are no more
    assert starts(8, 8, 3) == [0]


def test_corners_lie_along_the_longer_side() -> None:
    assert corners(4, 9, 4, 3) == [(0, 0), (0, 2), (0, 5)]
    assert corners(9, 4, 4, 3) == [(0, 0), (2, 0), (5, 0)]
    assert corners(6, 9, 4, 3) == [(1, 0), (1, 2), (1, 5)]
    assert corners(6, 9, 4, 1) == [(1, 2)]


def test_corners_differ() -> None:
    assert corners(4, 4, 4, 3) == [(0, 0)]
    assert corners(4, 5, 4, 3) == [(0, 0), (0, 1)]
    assert corners(5, 4, 4, 3) == [(0, 0), (1, 0)]
    assert corners(6, 6, 4, 3) == [(1, 0), (1, 1), (1, 2)]  # a square larger than the crop


@pytest.mark.parametrize("how", ["mean", "max"])
def test_temporal_views(model: nn.Module, prog: pgt_fx.Progressive, how: Any) -> None:
    x = video(20)
    clips = [x[:, :, s : s + 8] for s in (0, 6, 12)]
    each = torch.stack([model(c).softmax(1) for c in clips])
    wanted = each.mean(0) if how == "mean" else each.amax(0)
    options: dict[str, Any] = {"view": "original", "temporal": 3, "over_views": how}
    assert same(predict(prog, x, frames=8, **options).scores, wanted)
    # the example has 8 frames as well
    assert same(predict(prog, x, **options).scores, wanted)


def test_a_single_view_is_the_centre(model: nn.Module, prog: pgt_fx.Progressive) -> None:
    x = video(20)
    found = predict(prog, x, view="original", frames=8).scores
    assert same(found, model(x[:, :, 6:14]).softmax(1))


@pytest.mark.parametrize(
    ("schedule", "length"), [(Schedule(4, 3), 10), ([3, 4], 7), (Schedule(4, 3, ragged=True), 10)]
)
def test_temporal_views_are_as_long_as_the_schedule(
    prog: pgt_fx.Progressive, schedule: Any, length: int
) -> None:
    x = video(15)
    first, last = x[:, :, :length], x[:, :, 15 - length :]
    lengths = schedule if isinstance(schedule, list) else [4, 3, 3]
    steps = torch.stack(
        [torch.stack([y.softmax(1) for y in manual(prog, c, lengths)]) for c in (first, last)]
    )
    found = predict(prog, x, schedule=schedule, temporal=2)
    assert same(found.scores, steps.mean((0, 1)))
    assert all(same(a, b) for a, b in zip(found.steps, steps.mean(0), strict=True))


def test_a_long_video_under_a_short_schedule_is_seen_at_its_centre(
    prog: pgt_fx.Progressive,
) -> None:
    x, schedule = video(16), Schedule(4, 3)
    wanted = predict(prog, x[:, :, 3:13], schedule=schedule).scores
    assert same(predict(prog, x, schedule=schedule).scores, wanted)


def test_a_ragged_schedule_takes_a_shorter_video(prog: pgt_fx.Progressive) -> None:
    x, ragged = video(9), Schedule(4, 3, ragged=True)
    found = predict(prog, x, schedule=ragged)
    wanted = torch.stack(manual(prog, x, [4, 3, 2])).softmax(2).mean(0)
    assert same(found.scores, wanted)
    assert len(predict(prog, video(8), schedule=ragged).steps) == 3
    with pytest.raises(ClipError, match=r"7 frames.*needs 8"):
        predict(prog, video(7), schedule=ragged, short="refuse")


@pytest.mark.parametrize(("height", "width"), [(4, 9), (9, 4)])
def test_three_crops(model: nn.Module, prog: pgt_fx.Progressive, height: int, width: int) -> None:
    x = video(8, height, width)
    if width > height:
        crops = [x[..., :4], x[..., 2:6], x[..., 5:]]
    else:
        crops = [x[..., :4, :], x[..., 2:6, :], x[..., 5:, :]]
    wanted = torch.stack([model(c).softmax(1) for c in crops]).mean(0)
    assert same(predict(prog, x, view="original", spatial=3).scores, wanted)


def test_a_crop_smaller_than_the_frame(model: nn.Module, prog: pgt_fx.Progressive) -> None:
    x = video(8, 6, 9)
    crops = [x[..., 1:5, :4], x[..., 1:5, 2:6], x[..., 1:5, 5:]]
    wanted = torch.stack([model(c).softmax(1) for c in crops]).mean(0)
    assert same(predict(prog, x, view="original", spatial=3, crop=4).scores, wanted)
    centre = predict(prog, x, view="original", crop=4).scores
    assert same(centre, model(crops[1]).softmax(1))
    uncropped = predict(prog, x, view="original").scores
    assert same(uncropped, model(x).softmax(1))


def test_time_before_channels() -> None:
    class Swapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv3d(3, 4, (3, 1, 1), padding=(1, 0, 0))

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x.transpose(1, 2)).relu().mean((2, 3, 4))

    model = drawn(Swapped())
    x = video(12, 4, 7).transpose(1, 2)
    prog = pgt_fx.transform(model, x[:, :8])
    views = [x[:, s : s + 8, :, :, c : c + 4] for s in (0, 4) for c in (0, 1, 3)]
    wanted = torch.stack([model(v).softmax(1) for v in views]).mean(0)
    found = predict(prog, x, view="original", temporal=2, spatial=3)
    assert same(found.scores, wanted) and found.cost is not None and found.cost.views == 6


def test_views_of_two_paths_show_the_same_moments(two: pgt_fx.Progressive) -> None:
    slow, fast = video(9, 4, 6), video(36, 4, 6)
    model = two.inspect.model
    assert same(predict(two, [slow, fast], view="original").scores, model([slow, fast]).softmax(1))
    views = [
        [slow[:, :, s : s + 4, :, c : c + 4], fast[:, :, 4 * s : 4 * s + 16, :, c : c + 4]]
        for s in (0, 3, 5)
        for c in (0, 1, 2)
    ]
    wanted = torch.stack([model(v).softmax(1) for v in views]).mean(0)
    found = predict(two, [slow, fast], view="original", temporal=3, spatial=3)
    assert same(found.scores, wanted)
    # and in steps, whose chunks are cut together as well
    steps = [
        torch.stack([y.softmax(1) for y in two.run(v, schedule=[2, 2])]).mean(0) for v in views
    ]
    found = predict(two, [slow, fast], temporal=3, spatial=3, schedule=[2, 2])
    assert same(found.scores, torch.stack(steps).mean(0))
    streamed = predict(two, [slow, fast], view="stream", temporal=3, spatial=3, schedule=[3, 1])
    assert same(streamed.scores, wanted)


def test_keyword_arguments_as_a_dict_and_a_tensor_without_time() -> None:
    class Weighted(nn.Module):
        def forward(self, clip: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
            pooled = clip.mean((2, 3, 4))
            return pooled * weight, pooled

    model, x = Weighted(), video(12)
    weight = torch.rand(2, 3, dtype=torch.float64)
    prog = pgt_fx.transform(model.eval(), {"clip": video(8), "weight": weight})
    found = predict(prog, {"clip": x, "weight": weight}, view="original", frames=8, temporal=2)
    wanted = [model(x[:, :, s : s + 8], weight)[0].softmax(1) for s in (0, 4)]
    assert same(found.scores, torch.stack(wanted).mean(0))


# ------------------------------------------------------------------------- outputs


@pytest.mark.parametrize("how", ["mean", "max"])
def test_outputs_per_frame_are_reduced(framed: pgt_fx.Progressive, how: Any) -> None:
    x = video(10)
    over = (lambda y: y.mean(1)) if how == "mean" else (lambda y: y.amax(1))
    whole = framed.inspect.model(x)
    options: dict[str, Any] = {"over_frames": how, "activation": "softmax"}
    found = predict(framed, x, view="original", **options)
    assert same(found.scores, over(whole.softmax(2)))
    # frames within each step first, then the steps, which are of unequal length
    answers = [over(y.softmax(2)) for y in manual(framed, x, [6, 4])]
    found = predict(framed, x, schedule=[6, 4], **options)
    assert same(found.scores, torch.stack(answers).mean(0))
    assert all(same(a, b) for a, b in zip(found.steps, answers, strict=True))
    # streamed, all frames are equal
    found = predict(framed, x, view="stream", schedule=[6, 1, 3], **options)
    assert same(found.scores, over(whole.softmax(2)))


def test_outputs_per_frame_are_kept(framed: pgt_fx.Progressive) -> None:
    x = video(10)
    whole = framed.inspect.model(x)
    found = predict(framed, x, view="original", over_frames=None)
    assert same(found.scores, whole)
    streamed = predict(framed, x, view="stream", over_frames=None, schedule=[1] * 10)
    assert same(streamed.scores, whole)
    found = predict(framed, x, over_frames=None, schedule=[6, 4])
    answers = manual(framed, x, [6, 4])
    assert same(found.scores, torch.cat(answers, 1))
    assert all(same(a, b) for a, b in zip(found.steps, answers, strict=True))
    # crops show the same moments, and are averaged
    found = predict(framed, x, view="original", over_frames=None, spatial=3)
    crops = [framed.inspect.model(x[..., c : c + 4]) for c in (0, 1, 2)]
    assert same(found.scores, torch.stack(crops).mean(0))


def read(x: Tensor, activation: Any, time: int | None = None) -> Tensor:
    found = Scoring("mean", "mean", "mean", activation).read((x, x.argmax()), time)
    assert found is not None
    return found


def test_activation() -> None:
    x = torch.randn(2, 5)
    assert torch.equal(read(x, None), x)
    assert torch.equal(read(x, "sigmoid"), x.sigmoid())
    assert torch.equal(read(x, "softmax"), x.softmax(1))
    assert torch.equal(read(x, "auto"), x.softmax(1))
    assert torch.equal(read(x, torch.exp), x.exp())
    # a model that ends with a softmax of its own
    assert torch.equal(read(x.softmax(1), "auto"), x.softmax(1))
    assert torch.equal(read(x.softmax(1), "softmax"), x.softmax(1).softmax(1))
    # classes stand beside batch and time, wherever time is
    y = torch.randn(2, 5, 7)
    assert torch.equal(read(y, "auto", time=1), y)
    assert torch.equal(read(y, "softmax", time=1), y.softmax(2))
    assert torch.equal(read(y, "softmax", time=2), y.softmax(1))
    assert torch.equal(read(y[:, :, :1, None], "auto"), y[:, :, :1, None].softmax(1))
    half = read(x.bfloat16(), None)
    assert half.dtype == torch.float32 and torch.equal(half, x.bfloat16().float())


def test_activation_comes_before_the_averages(prog: pgt_fx.Progressive) -> None:
    x = video(13)
    answers = torch.stack(manual(prog, x, [7, 6]))
    for activation, function in (("sigmoid", torch.sigmoid), (torch.exp, torch.exp)):
        found = predict(prog, x, schedule=[7, 6], activation=activation)  # type: ignore[arg-type]
        assert same(found.scores, function(answers).mean(0))
    assert same(predict(prog, x, schedule=[7, 6], activation=None).scores, answers.mean(0))


# ------------------------------------------------------------------------- cost


def stem_macs(frames: int) -> int:
    return frames * 4 * 6 * 4 * 3 * 27


def down_macs(elements: int) -> int:
    return elements * 4 * 6 * 6 * 4 * 3


HEAD = 6 * CLASSES


def test_cost_of_one_step_is_that_of_the_convolutions(prog: pgt_fx.Progressive) -> None:
    cost = predict(prog, video(13), view="original").cost
    assert cost is not None and (cost.steps, cost.views) == (1, 1)
    assert cost.gflops == pytest.approx((stem_macs(13) + down_macs(6) + HEAD) / 1e9, rel=1e-12)
    assert cost.total == cost.gflops


def test_cost_of_steps_and_views(framed: pgt_fx.Progressive) -> None:
    # Five frames, then four and four; the second conv has no padding: three elements, then four.
    found = predict(framed, video(15), schedule=Schedule(5, 3), temporal=2)
    steps = [(5, 3), (4, 4), (4, 4)]
    each = [stem_macs(f) + down_macs(e) + e * HEAD for f, e in steps]
    assert found.cost is not None and (found.cost.steps, found.cost.views) == (3, 2)
    assert found.cost.gflops == pytest.approx(max(each) / 1e9, rel=1e-12)
    assert found.cost.total == pytest.approx(2 * sum(each) / 1e9, rel=1e-12)


def test_cost_is_per_video_and_may_be_left_out(prog: pgt_fx.Progressive) -> None:
    one, three = (predict(prog, video(8, rows=n), spatial=3).cost for n in (1, 3))
    assert one == three and one is not None and one.views == 3
    assert predict(prog, video(8), cost=False).cost is None


def test_of_no_video_there_are_no_scores_and_no_cost(prog: pgt_fx.Progressive) -> None:
    found = predict(prog, video(8, rows=0), schedule=[4, 4])
    assert found.scores.shape[0] == 0 and found.cost is not None and found.cost.total == 0
    with pytest.raises(ClipError, match="the video has 0 frames; expected at least one"):
        predict(prog, video(8)[:, :, :0])


def test_cost_reads_as_in_the_tables() -> None:
    assert str(Cost(54.46, 5, 30, 7000.0)) == "54.5 × 5 × 30 GFLOPs"
    assert str(Cost(0.01234, 1, 1, 0.01)) == "0.0123 × 1 × 1 GFLOPs"
    assert str(Cost(0.0, 1, 1, 0.0)) == "0.0 × 1 × 1 GFLOPs"


# ------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"view": "progresive"}, "view: .*did you mean 'progressive'"),
        ({"over_steps": "man"}, "over_steps: .*did you mean 'mean'"),
        ({"over_frames": "maxx"}, "over_frames: .*did you mean 'max'"),
        ({"over_views": "men"}, "over_views: .*did you mean 'mean'"),
        ({"over_views": "last"}, "over_views: expected one of mean, max"),
        ({"activation": "sofmax"}, "activation: .*did you mean 'softmax'"),
        ({"activation": 3}, "activation: expected one of auto, softmax, sigmoid, got 3"),
        ({"temporal": 0}, "temporal: expected a whole number of at least 1, got 0"),
        ({"temporal": 2.0}, "temporal: .*got 2.0"),
        ({"frames": 0}, "frames: .*at least 1"),
        ({"crop": -1}, "crop: .*at least 1"),
        ({"short": "pad"}, "short: expected one of repeat, refuse, got 'pad'"),
        ({"spatial": 2}, r"spatial: expected 1 .* or 3 .*, got 2"),
        ({"view": "original", "schedule": Schedule(4)}, "schedule: view='original' is one step"),
        ({"schedule": 8}, "schedule: expected a Schedule or a list of lengths of steps, got 8"),
        ({"schedule": []}, r"schedule: expected a Schedule or a list .*, got \[\]"),
        ({"schedule": [4, 0]}, "schedule: expected a whole number of at least 1, got 0"),
        ({"schedule": pgt_fx.DPR("B")}, r"draws them; use its \.base"),
        ({"view": "stream", "over_steps": "mean"}, "over_steps='mean': with view='stream'"),
        ({"temporal": 2}, "temporal=2: how long is a clip.*schedule=None"),
        ({"temporal": 2, "schedule": Schedule(4)}, "how long is a clip"),
        ({"frames": 12, "schedule": Schedule(4, 3)}, "frames=12: .*shows 10 of them"),
    ],
)
def test_options_that_make_no_sense(
    prog: pgt_fx.Progressive, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(OptionError, match=message):
        predict(prog, video(13), **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"frames": 14}, "the video has 13 frames, but frames=14 needs 14"),
        ({"schedule": Schedule(8, 2)}, "has 13 frames, but schedule=.* needs 15"),
        ({"frames": 4, "schedule": Schedule(4, 3)}, "needs a video of 10 frames, got 4"),
        ({"schedule": [6, 6], "temporal": 1}, "don't make up the video's 13 frames"),
        ({"schedule": [7, 7], "temporal": 2}, "has 13 frames, but schedule=.* needs 14"),
        ({"crop": 5}, "crop=5: the frames are 4 × 6; expected at most 4"),
        ({"crop": 5, "spatial": 3}, "crop=5: the frames are 4 × 6"),
    ],
)
def test_videos_too_short_or_too_small(
    prog: pgt_fx.Progressive, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ClipError, match=message):
        predict(prog, video(13), short="refuse", **options)


def test_a_video_shorter_than_the_example_in_several_views(prog: pgt_fx.Progressive) -> None:
    with pytest.raises(ClipError, match="5 frames, but the example needs 8"):
        predict(prog, video(5), view="original", temporal=2, short="refuse")


@pytest.mark.parametrize(
    ("options", "frames"),
    [
        ({"frames": 14}, 14),
        ({"schedule": Schedule(8, 2)}, 15),
        ({"schedule": [7, 8], "temporal": 2}, 15),
        ({"view": "original", "frames": 20, "temporal": 3}, 20),
    ],
)
def test_the_last_frame_of_a_short_video_is_repeated_as_in_training(
    prog: pgt_fx.Progressive, options: dict[str, Any], frames: int
) -> None:
    x = video(13)
    longer = torch.cat([x, x[:, :, -1:].expand(-1, -1, frames - 13, -1, -1)], 2)
    with pytest.warns(UserWarning, match=f"13 frames, but .* needs {frames}: its last frame is"):
        found = predict(prog, x, **options)
    schedule = options.get("schedule")
    wanted = predict(prog, longer, view=options.get("view", "progressive"), schedule=schedule)
    assert same(found.scores, wanted.scores)
    assert (found.repeated, wanted.repeated) == (frames - 13, 0)
    assert found.views == 1 and found.cost is not None and found.cost.views == 1


def test_both_paths_of_a_short_video_are_made_longer(two: pgt_fx.Progressive) -> None:
    paths = [video(5), video(20)]
    longer = [
        torch.cat([x, x[:, :, -1:].expand(-1, -1, n, -1, -1)], 2)
        for x, n in zip(paths, (3, 12), strict=True)
    ]
    with pytest.warns(UserWarning, match="its last frame is repeated"):
        found = predict(two, paths, view="original", frames=8)
    assert same(found.scores, predict(two, longer, view="original").scores)
    with pytest.raises(ClipError, match="5 and 19 frames"):
        predict(two, [video(5), video(19)], frames=8)


@pytest.mark.parametrize(
    ("height", "width", "crop", "crops"),
    [(4, 4, None, 1), (4, 4, 4, 1), (4, 5, None, 2), (6, 6, 4, 3)],
)
def test_views_that_are_the_same_are_run_and_billed_once(
    prog: pgt_fx.Progressive, height: int, width: int, crop: int | None, crops: int
) -> None:
    x = video(8, height, width)
    options: dict[str, Any] = {"view": "original", "spatial": 3, "crop": crop}
    if crops < 3:
        with pytest.warns(UserWarning, match=rf"spatial=3, but .*{crops} of 3 views differ"):
            found = predict(prog, x, **options)
    else:
        found = predict(prog, x, **options)
    side, model = crop or min(height, width), prog.inspect.model
    places = (
        [(0, 0)] if crops == 1 else [(0, 0), (0, 1)] if crops == 2 else [(1, c) for c in range(3)]
    )
    cut = [x[..., t : t + side, c : c + side] for t, c in places]
    assert same(found.scores, torch.stack([model(c).softmax(1) for c in cut]).mean(0))
    assert found.views == crops and found.cost is not None and found.cost.views == crops
    once = predict(prog, x, view="original", crop=side).cost
    assert once is not None and found.cost.total == pytest.approx(crops * once.total)


@pytest.mark.parametrize(("frames", "clips"), [(8, 1), (10, 3), (11, 4)])
def test_clips_that_are_the_same_are_run_and_billed_once(
    prog: pgt_fx.Progressive, frames: int, clips: int
) -> None:
    x, model = video(frames), prog.inspect.model
    options: dict[str, Any] = {"view": "original", "frames": 8, "temporal": 4}
    if clips < 4:
        with pytest.warns(UserWarning, match=rf"temporal=4, but .*{clips} of 4 views differ"):
            found = predict(prog, x, **options)
    else:
        found = predict(prog, x, **options)
    each = [model(x[:, :, s : s + 8]).softmax(1) for s in range(clips)]
    assert same(found.scores, torch.stack(each).mean(0))
    assert found.views == clips and found.cost is not None and found.cost.views == clips


def test_videos_unlike_the_example(prog: pgt_fx.Progressive, two: pgt_fx.Progressive) -> None:
    with pytest.raises(ClipError, match="5 dimensions like the example's"):
        predict(prog, video(8)[0])
    with pytest.raises(ClipError, match="a clip like the example was expected"):
        predict(prog, [video(8)])
    with pytest.raises(ClipError, match="a clip like the example was expected"):
        predict(prog, {"x": video(8)})
    with pytest.raises(ClipError, match=r"9 and 35 frames; expected 1 and 4 .*: 8 and 32"):
        predict(two, [video(9), video(35)], frames=4)
    with pytest.raises(ClipError, match="one size in all input paths, got 4 × 6 and 5 × 6"):
        predict(two, [video(4), video(16, 5)], crop=4)
    with pytest.raises(OptionError, match=r"got Net; use pgt_fx\.transform"):
        predict(Net(), video(8))  # type: ignore[arg-type]


def test_a_sequence_without_space_has_no_crops() -> None:
    spec = pgt_fx.transform(nn.Conv1d(3, 4, 3), torch.randn(2, 3, 8)).inspect.clip
    with pytest.raises(ClipError, match="a crop needs videos"):
        Views(1, 3).cut(spec, [torch.randn(2, 3, 8)], 8)


def test_options_that_contradict_the_output(framed: pgt_fx.Progressive) -> None:
    x = video(10)
    with pytest.raises(OptionError, match="temporal=2: with over_frames=None"):
        predict(framed, x, over_frames=None, temporal=2, frames=8)
    with pytest.raises(OptionError, match="over_steps='max': with over_frames=None"):
        predict(framed, x, over_frames=None, over_steps="max")


def test_outputs_without_classes() -> None:
    with pytest.raises(OptionError, match=r"single score of an output \(2, 1\).*sigmoid"):
        read(torch.randn(2, 1), "auto")
    with pytest.raises(OptionError, match=r"\(2, 3, T, 4\) may mean dimension 1 or 3"):
        read(torch.randn(2, 3, 6, 4), "softmax", time=2)
    with pytest.raises(OptionError, match=r"first output is torch\.int64"):
        Scoring("mean", "mean", "mean", None).read(torch.ones(2, 3, dtype=torch.long), None)


def test_a_model_that_cannot_be_streamed_says_so() -> None:
    prog = pgt_fx.transform(Gated().eval(), video(8))
    with pytest.raises(ExactnessError):
        predict(prog, video(13), view="stream")
    assert same(predict(prog, video(13), view="original").scores, Gated()(video(13)).softmax(1))
