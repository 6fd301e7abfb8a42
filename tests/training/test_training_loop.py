"""fit: updates, metrics, checkpoints that go on bit by bit, and what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import pgt_fx
from pgt_fx import DPR, Schedule
from pgt_fx.core.errors import ClipError, OptionError
from pgt_fx.training import (
    CheckpointError,
    PerFrame,
    PerStep,
    backward,
    evaluate,
    fit,
    half_cosine,
    metrics,
    sgd,
)
from pgt_fx.training.metrics import video_scores

SCHEDULE = Schedule(4, 3)  # 10 frames


class Net(nn.Module):
    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv3d(3, 6, (3, 3, 3), padding=(1, 0, 0))
        self.norm, self.drop = nn.BatchNorm3d(6), nn.Dropout(0.3)
        self.head = nn.Linear(6, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.drop(self.norm(self.conv(x)).relu()).mean((2, 3, 4)))


def data(classes: int = 3, count: int = 12) -> TensorDataset:
    """Videos whose class is the channel that is bright."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % classes
    videos = torch.randn(count, 3, 10, 6, 6, generator=generator)
    for video, label in zip(videos, labels, strict=True):
        video[int(label) % 3] += 1.0
    return TensorDataset(videos, labels)


def make(classes: int = 3, **options: Any) -> pgt_fx.Progressive:
    torch.manual_seed(1)
    return pgt_fx.transform(Net(classes), torch.zeros(1, 3, 4, 6, 6), **options)


def frozen() -> pgt_fx.Progressive:
    """In float64, with dropout and norms that stay in eval mode: batches and updates add up."""
    prog = make().double().eval()
    prog.train = lambda mode=True: prog  # type: ignore[method-assign]
    return prog


def train(prog: pgt_fx.Progressive, epochs: int, **how: Any) -> list[dict[str, float]]:
    optimizer = sgd(prog, 0.05)
    scheduler = half_cosine(optimizer, 18, warm_up=3)
    loader = DataLoader(data(), batch_size=4, shuffle=True)
    how = {"schedule": DPR("B", 4, 3, lengths=(2, 3, 4)), "metrics": metrics(3)} | how
    return fit(prog, loader, optimizer, epochs=epochs, scheduler=scheduler, progress=False, **how)


def test_it_learns_and_tells_what_it_did(tmp_path: Path) -> None:
    prog = make()
    torch.manual_seed(3)
    held_out = DataLoader(data(), batch_size=4)
    history = train(prog, 6, validation=held_out, checkpoint=tmp_path / "c.pt")
    assert [row["epoch"] for row in history] == list(range(6))
    assert history[-1]["loss"] < 0.8 * history[0]["loss"]
    assert history[-1]["val_top1"] > 0.9 and 0 <= history[-1]["top1"] <= 1
    assert history[-1]["updates"] == 18 and history[-1]["lr"] < 1e-9 < history[0]["lr"]
    assert "top5" not in history[0]


@pytest.mark.parametrize("order", ["random", "cycle"])
def test_a_resumed_training_is_bit_for_bit_that_of_never_having_stopped(
    order: Any, tmp_path: Path
) -> None:
    schedule = DPR("B", 4, 3, lengths=(2, 3, 4), order=order, epochs=6)
    ends = []
    for stop in (None, 2):
        path = tmp_path / f"{stop}.pt"
        torch.manual_seed(3)
        prog = make()
        if stop is not None:
            train(prog, stop, checkpoint=path, schedule=schedule)
            torch.manual_seed(99)  # another process, another state of all generators
            prog = make()
            torch.rand(7)
        history = train(prog, 6, checkpoint=path, schedule=schedule, resume=stop is not None)
        ends.append((prog.state_dict(), history))
    (weights, rows), (others, their_rows) = ends
    assert all(torch.equal(weights[k], others[k]) for k in weights)
    assert not torch.equal(weights["head.weight"], make().state_dict()["head.weight"])
    for a, b in zip(rows, their_rows, strict=True):
        assert {k: v for k, v in a.items() if k != "seconds"} == {
            k: v for k, v in b.items() if k != "seconds"
        }


def test_one_update_after_all_steps() -> None:
    prog, reference = frozen(), frozen()
    videos, labels = data()[:4]
    videos = videos.double()
    optimizer = torch.optim.SGD(prog.parameters(), 0.1)
    fit(prog, [(videos, labels)], optimizer, epochs=1, schedule=SCHEDULE, progress=False)
    backward(reference, videos, F.cross_entropy, labels, schedule=SCHEDULE)
    for a, b in zip(prog.parameters(), reference.parameters(), strict=True):
        assert torch.allclose(a, b - 0.1 * b.grad, atol=1e-12)


def test_accumulated_batches_are_one_update() -> None:
    videos, labels = data()[:4]
    results = []
    for batches, accumulate in (
        ([(videos, labels)], 1),
        ([(videos[:2], labels[:2]), (videos[2:], labels[2:])], 2),
    ):
        prog = frozen()
        optimizer = torch.optim.SGD(prog.parameters(), 0.1)
        double = [(v.double(), t) for v, t in batches]
        rows = fit(prog, double, optimizer, epochs=1, schedule=SCHEDULE, accumulate=accumulate,
                   progress=False)  # fmt: skip
        assert rows[0]["updates"] == 1
        results.append(list(prog.parameters()))
    assert all(torch.allclose(a, b, atol=1e-12) for a, b in zip(*results, strict=True))


def test_several_labels_per_video_and_per_step() -> None:
    videos, labels = data()[:6]
    many = F.one_hot(labels, 3).float()
    prog = make()
    rows = fit(
        prog, [(videos, many)], sgd(prog, 0.05), epochs=2, schedule=SCHEDULE,
        loss_fn=F.binary_cross_entropy_with_logits, metrics=metrics(3, multilabel=True),
        validation=[(videos, many)], progress=False,
    )  # fmt: skip
    assert 0 < rows[-1]["mAP"] <= 1 and 0 < rows[-1]["val_mAP"] <= 1
    each = PerStep([labels, labels, labels])
    rows = fit(prog, [(videos, each)], sgd(prog, 0.05), epochs=1, schedule=SCHEDULE, progress=False)
    assert rows[0]["loss"] > 0
    with pytest.raises(OptionError, match=r"one label per step, 3 for this video .* got 2"):
        wrong = PerStep([labels, labels])
        fit(prog, [(videos, wrong)], sgd(prog, 0.05), epochs=1, schedule=SCHEDULE, progress=False)


def test_scores_are_the_mean_of_the_steps_probabilities() -> None:
    a, b = torch.tensor([[0.0, 2.0]]), torch.tensor([[3.0, -1.0]])
    one, many = torch.tensor([1]), torch.tensor([[1, 0]])
    mean = (a.softmax(1) + b.softmax(1)) / 2
    assert torch.allclose(video_scores([a, None, b], one), mean)
    assert torch.allclose(video_scores([a, b], many), (a.sigmoid() + b.sigmoid()) / 2)
    assert video_scores([None], one) is None and video_scores([a[..., None]], one) is None


def test_frozen_norms_keep_their_statistics() -> None:
    prog = make()
    before = prog.norm.running_mean.clone()
    train(prog, 1, freeze_norms=True)
    assert torch.equal(prog.norm.running_mean, before)
    train(prog, 1)
    assert not torch.equal(prog.norm.running_mean, before)


def test_the_learning_rate_warms_up_and_falls_along_half_a_cosine() -> None:
    import math

    optimizer = sgd(make(), 1.0)
    scheduler = half_cosine(optimizer, 20, warm_up=4)
    rates = []
    for _ in range(20):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates[0] == pytest.approx(0.1) and rates[4] == pytest.approx(1.0)
    for i in range(16):
        assert rates[4 + i] == pytest.approx((1 + math.cos(math.pi * i / 16)) / 2)
    decays = {g["weight_decay"]: {p.dim() for p in g["params"]} for g in optimizer.param_groups}
    assert decays[0.0] == {1} and 1 not in decays[1e-4]


def test_a_checkpoint_is_data_and_is_refused_when_it_is_not_this_trainings(tmp_path: Path) -> None:
    path = tmp_path / "c.pt"
    prog = make()
    with pytest.raises(CheckpointError, match=r"no checkpoint .*c\.pt; leave out resume"):
        train(prog, 1, checkpoint=path, resume=True)
    train(prog, 1, checkpoint=path)
    assert not list(tmp_path.glob("*.part"))
    saved = torch.load(path, weights_only=True)  # nothing in it is executed
    assert saved["pgt_fx_checkpoint"] == 2

    with pytest.raises(CheckpointError, match=r"'head.weight' is \(3, 6\) there and \(4, 6\)"):
        train(make(4), 2, checkpoint=path, resume=True)
    with pytest.raises(CheckpointError, match=r"schedule was DPR.* and is now Schedule"):
        train(prog, 2, checkpoint=path, resume=True, schedule=SCHEDULE)
    with pytest.raises(CheckpointError, match=r"options was"):
        other = prog.replace(operator="cmco-max")
        train(other, 2, checkpoint=path, resume=True)
    torch.save(saved | {"pgt_fx_checkpoint": 7}, path)
    with pytest.raises(CheckpointError, match="version 7, expected 2"):
        train(prog, 2, checkpoint=path, resume=True)
    torch.save({"weights": torch.zeros(2)}, path)
    with pytest.raises(CheckpointError, match="not a checkpoint of a pgt_fx training"):
        train(prog, 2, checkpoint=path, resume=True)
    torch.save(saved, path)
    path.write_bytes(path.read_bytes()[:-400])
    with pytest.raises(CheckpointError, match="can't be read as a checkpoint"):
        train(prog, 2, checkpoint=path, resume=True)

    class Evil:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "executed",)

    torch.save(saved | {"about": Evil()}, path)
    with pytest.raises(CheckpointError, match="can't be read as a checkpoint"):
        train(prog, 2, checkpoint=path, resume=True)
    assert not (tmp_path / "executed").exists()


def test_bad_input() -> None:
    prog = make()
    with pytest.raises(ClipError, match="needs a video of 36 frames, got 10"):
        train(prog, 1, schedule=Schedule(8, 5))
    for name, wrong in (("accumulate", 0), ("accumulate", 1.5), ("epochs", True), ("epochs", -1)):
        with pytest.raises(OptionError, match=f"{name}: expected a whole number from 1 on, got"):
            train(prog, **({"epochs": 1} | {name: wrong}))
    with pytest.raises(OptionError, match="from which checkpoint"):
        train(prog, 1, resume=True)
    with pytest.raises(OptionError, match="loader: it gave no batch"):
        fit(prog, [], sgd(prog, 0.1), epochs=1, progress=False)
    with pytest.raises(OptionError, match="lr: expected a number above 0"):
        sgd(prog, 0.0)
    for name, wrong in (
        ("momentum", 1.5),
        ("weight_decay", -1.0),
        ("lr", float("nan")),
        ("lr", True),
    ):
        with pytest.raises(OptionError, match=f"{name}: expected a number .*, got {wrong}"):
            sgd(prog, **({"lr": 0.1} | {name: wrong}))
    with pytest.raises(OptionError, match=r"warm_up: expected 0 … updates - 1 = 4, got 5"):
        half_cosine(sgd(prog, 0.1), 5, warm_up=5)


def test_an_optimizer_of_another_model_is_refused() -> None:
    """It would train nothing, and the losses would not say so."""
    mine, other = make(), make()
    with pytest.raises(OptionError, match="optimizer: it has none of the model's parameters"):
        fit(mine, DataLoader(data(), 6), sgd(other, 0.1), epochs=1, dry_run=True)
    loss = nn.Linear(3, 3)  # trained on top of a frozen model
    mine.requires_grad_(False)
    optimizer = torch.optim.SGD(loss.parameters(), lr=0.1)
    before = loss.weight.detach().clone()
    fit(
        mine,
        DataLoader(data(), 6),
        optimizer,
        epochs=1,
        schedule=SCHEDULE,
        loss_fn=lambda out, target: F.cross_entropy(loss(out), target),
        progress=False,
    )
    assert not torch.equal(loss.weight, before)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"on": "lst"}, "on: expected one of every, last, got 'lst'"),
        ({"gradient": "exat"}, "did you mean 'exact'"),
        ({"gradient": "exact", "keep": 2}, "keep: is for gradient"),
    ],
)
def test_a_dry_run_checks_the_options_of_backward(options: dict[str, Any], message: str) -> None:
    prog = make()
    with pytest.raises(OptionError, match=message):
        fit(prog, DataLoader(data(), 6), sgd(prog, 0.1), epochs=1, dry_run=True, **options)


def test_a_model_that_is_not_progressive_is_not_evaluated() -> None:
    loader = DataLoader(data(), 6)
    with pytest.raises(OptionError, match=r"expected a progressive model .* got Linear"):
        evaluate(nn.Linear(2, 2), loader, {})
    assert "val_top1" in evaluate(make(), loader, metrics(3), SCHEDULE)


def test_labels_of_steps_and_frames_go_to_the_device_with_the_video() -> None:
    from pgt_fx.training.loop import to

    one, device = torch.tensor([1]), torch.device("meta")
    each, frames = PerStep([one, {"boxes": one}]), PerFrame(torch.zeros(1, 4), 1)
    moved = to((one, [each, frames], "name"), device)
    assert moved[0].device == device and moved[2] == "name"
    first, second = moved[1][0].targets
    assert first.device == device and second["boxes"].device == device
    assert moved[1][1].target.device == device and moved[1][1].dim == 1
    assert each.targets[0] is one, "the user's own stays where it is"


def test_labels_of_steps_are_no_labels_of_a_validation() -> None:
    videos, labels = data()[:6]
    each, prog = PerStep([labels] * 3), make()
    rows = fit(
        prog, [(videos, each)], sgd(prog, 0.05), epochs=1, schedule=SCHEDULE,
        metrics=metrics(3), validation=[(videos, each)], progress=False,
    )  # fmt: skip
    assert "val_top1" not in rows[0] and rows[0]["loss"] > 0


class Extra(nn.Conv3d):
    """Keeps something of its own in checkpoints."""

    note = "a"

    def get_extra_state(self) -> Any:
        return {"note": self.note}

    def set_extra_state(self, state: Any) -> None:
        self.note = state["note"]


def test_a_training_goes_on_with_what_modules_keep_of_their_own(tmp_path: Path) -> None:
    def prog() -> pgt_fx.Progressive:
        net = Net()
        net.conv = Extra(3, 6, (3, 3, 3), padding=(1, 0, 0))
        return pgt_fx.transform(net, torch.zeros(1, 3, 4, 6, 6))

    how: dict[str, Any] = {"schedule": SCHEDULE, "progress": False, "checkpoint": tmp_path / "c.pt"}
    batch = [data()[:4]]
    first = prog()
    first.conv.note = "b"
    fit(first, batch, sgd(first, 0.05), epochs=1, **how)
    second = prog()
    rows = fit(second, batch, sgd(second, 0.05), epochs=2, resume=True, **how)
    assert second.conv.note == "b" and [row["epoch"] for row in rows] == [0, 1]


def test_any_seed_draws_clips(tmp_path: Path) -> None:
    from pgt_fx.training import folder

    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "v.mp4").write_bytes(b"")
    starts = []

    def read(path: Path, **how: Any) -> Tensor:
        starts.append(how["start"])
        return torch.zeros(3, 4, 8, 8)

    with (
        mock.patch.object(folder.files, "count", return_value=10_000),
        mock.patch.object(folder.files, "read", side_effect=read),
    ):
        for seed in (1, 20240101, 20240102, 2**62):
            videos = folder.VideoFolder(tmp_path, frames=4, stride=1, size=8, train=True, seed=seed)
            assert videos[0][0].shape == (3, 4, 8, 8)
    assert len(set(starts)) == 4
