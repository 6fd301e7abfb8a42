"""Resumed trainings: the same bits, or an error that says what differs; one training per file."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from filelock import FileLock
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR, StepLR
from torch.utils.data import DataLoader, Dataset, Subset

import pgt_fx
from pgt_fx import DPR, Schedule
from pgt_fx.core.errors import OptionError
from pgt_fx.training import CheckpointError, fit, half_cosine, identity, metrics, sgd

SCHEDULE = Schedule(4, 3)  # 10 frames


class Net(nn.Module):
    def __init__(self, drop: float = 0.3) -> None:
        super().__init__()
        self.conv = nn.Conv3d(3, 4, (3, 1, 1), padding=(1, 0, 0))
        self.norm, self.drop, self.head = nn.BatchNorm3d(4), nn.Dropout(drop), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.drop(self.norm(self.conv(x)).relu()).mean((2, 3, 4)))


class Videos(Dataset):
    """Draws from NumPy's generator, as many augmentations do."""

    def __init__(self, stride: int = 2, size: int = 4, count: int = 6) -> None:
        self.stride, self.size, self.count = stride, size, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        video = torch.full((3, 10, self.size, self.size), float(index * self.stride))
        return video + np.random.rand(), index % 3


class Own(Videos):
    """Says itself what it is."""

    def fingerprint(self) -> dict[str, Any]:
        return {"videos": self.count}

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return torch.full((3, 10, 4, 4), float(index)), index % 3


def training(
    epochs: int,
    *,
    drop: float = 0.3,
    frozen: bool = False,
    lr: float = 0.1,
    momentum: float = 0.9,
    weight_decay: float = 1e-4,
    updates: int | None = 12,
    data: Any = None,
    batch_size: int = 2,
    shuffle: bool = True,
    workers: int = 0,
    seed: int | None = None,
    **how: Any,
) -> dict[str, Tensor]:
    """Train from scratch; the weights, statistics and learning rates that came of it."""
    torch.manual_seed(0)
    np.random.seed(0)
    prog = pgt_fx.transform(Net(drop), torch.zeros(1, 3, 4, 4, 4))
    prog.norm.weight.requires_grad_(not frozen)
    optimizer = sgd(prog, lr, momentum=momentum, weight_decay=weight_decay)
    loader = DataLoader(
        data or Videos(), batch_size, shuffle, num_workers=workers,
        generator=None if seed is None else torch.Generator().manual_seed(seed),
    )  # fmt: skip
    if how.get("resume"):  # another process, another state of all generators
        torch.manual_seed(99)
        np.random.seed(99)
        if seed is not None:
            loader.generator.manual_seed(99)
    scheduler = None if updates is None else half_cosine(optimizer, updates)
    how = {"schedule": SCHEDULE, "progress": False, "scheduler": scheduler} | how
    rows = fit(prog, loader, optimizer, epochs=epochs, **how)
    rates = torch.tensor([row["lr"] for row in rows], dtype=torch.float64)
    return {**prog.state_dict(), "rates": rates}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return all(torch.equal(a[k], b[k]) for k in a)


VALIDATION = [(torch.randn(2, 3, 10, 4, 4), torch.tensor([0, 1]))]


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"seed": 5},  # a generator of the loader's own
        {"validation": DataLoader(Own(), 2), "metrics": metrics(3)},
        {"updates": None},
        {"schedule": DPR("B", 4, 3, lengths=(2, 3, 4)), "freeze_norms": True, "accumulate": 2},
    ],
)
def test_all_generators_go_on(how: dict[str, Any], tmp_path: Path) -> None:
    whole = training(4, **how)
    training(2, checkpoint=tmp_path / "c.pt", **how)
    assert same(training(4, checkpoint=tmp_path / "c.pt", resume=True, **how), whole)
    assert not same(training(4, **(how | {"lr": 0.2})), whole)


def test_a_validation_changes_nothing_of_the_training() -> None:
    assert same(training(2), training(2, validation=DataLoader(Own(), 2), metrics=metrics(3)))


#: What is changed, and what the error says was and is.
CHANGES: list[tuple[dict[str, Any], str]] = [
    ({"lr": 0.2}, r"optimizer.group 0.initial_lr was 0.1, and is now 0.2"),
    ({"momentum": 0.8}, r"momentum was 0.9, and is now 0.8"),
    ({"weight_decay": 0.0}, r"group 0.weight_decay was 0.0001, and is now 0.0"),
    ({"updates": 24}, r"scheduler.updates was 12, and is now 24"),
    ({"updates": None}, r"scheduler was HalfCosine, and is now None"),
    ({"data": Videos(stride=3)}, r"data.set.stride was 2, and is now 3"),
    ({"data": Videos(size=5)}, r"data.set.size was 4, and is now 5"),
    ({"data": Videos(count=5)}, r"data.set.length was 6, and is now 5"),
    ({"data": Subset(Videos(), [0, 1])}, r"data.set was Videos, and is now Subset"),
    ({"workers": 1}, r"data.workers was 0, and is now 1"),
    ({"batch_size": 3}, r"data.batch_size was 2, and is now 3"),
    ({"shuffle": False}, r"data.sampler was RandomSampler, and is now SequentialSampler"),
    ({"accumulate": 2}, r"accumulate was 1, and is now 2"),
    ({"gradient": "exact"}, r"gradient was truncated, and is now exact"),
    ({"keep": 2}, r"keep was 1, and is now 2"),
    ({"on": "last"}, r"on was every, and is now last"),
    ({"freeze_norms": True}, r"freeze_norms was False, and is now True"),
    ({"loss_fn": partial(F.cross_entropy, label_smoothing=0.1)}, r"label_smoothing': 0.1"),
    ({"loss_fn": nn.CrossEntropyLoss(torch.ones(3))}, r"is now CrossEntropyLoss"),
    ({"autocast": torch.autocast("cpu", torch.bfloat16)}, r"autocast was None, and is now cpu"),
    ({"scaler": torch.amp.GradScaler("cpu")}, r"scaler was None, and is now GradScaler"),
    ({"drop": 0.5}, r"model.drop was Dropout\(p=0.3.*, and is now Dropout\(p=0.5"),
    ({"frozen": True}, r"frozen parameters was \[\], and is now \['norm.weight'\]"),
    ({"schedule": Schedule(6, 2, overlap=2)}, r"schedule was Schedule.* and is now Schedule"),
    ({"settings": {"noise": 2}}, r"noise was 1, and is now 2"),
]


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("stopped") / "c.pt"
    training(1, checkpoint=path, settings={"noise": 1})
    return path


@pytest.mark.parametrize(("change", "message"), CHANGES)
def test_what_differs_is_named(change: dict[str, Any], message: str, stopped: Path) -> None:
    before = stopped.read_bytes()
    with pytest.raises(CheckpointError, match=message) as error:
        training(2, checkpoint=stopped, resume=True, **({"settings": {"noise": 1}} | change))
    assert "put this back" in str(error.value) and "init='" in str(error.value)
    assert stopped.read_bytes() == before


def test_what_a_training_is_not_made_of_may_change(tmp_path: Path) -> None:
    cycle = {"order": "cycle", "lengths": (3, 4)}
    for name, then, now in (
        ("random", DPR("B", 4, 3, seed=1, epochs=2), DPR("B", 4, 3, seed=1, epochs=9)),
        ("cycle", DPR("B", 4, 3, seed=1, **cycle), DPR("A", 4, 3, seed=2, **cycle)),
    ):
        path, moved = tmp_path / f"{name}.pt", tmp_path / f"{name} moved.pt"
        how: dict[str, Any] = {"data": Own(), "updates": None}  # more epochs at the same rate
        whole = training(3, schedule=then, **how)
        training(1, checkpoint=path, schedule=then, **how)
        shutil.move(path, moved)
        how |= {"workers": 1, "validation": VALIDATION, "metrics": metrics(3)}
        found = training(3, checkpoint=moved, resume=True, schedule=now, **how)
        assert same(found, whole)


def test_the_objects_of_a_training_go_on_with_it(tmp_path: Path) -> None:
    def parts() -> tuple[Any, ...]:
        torch.manual_seed(0)
        prog = pgt_fx.transform(Net(), torch.zeros(1, 3, 4, 4, 4))
        optimizer = sgd(prog, 0.1)
        return prog, DataLoader(Own(), 2, shuffle=True), optimizer, StepLR(optimizer, 2)

    def go(epochs: int, prog: Any, loader: Any, optimizer: Any, scheduler: Any, **how: Any) -> None:
        fit(prog, loader, optimizer, epochs=epochs, scheduler=scheduler, schedule=SCHEDULE,
            checkpoint=tmp_path / "c.pt", progress=False, **how)  # fmt: skip

    whole = parts()
    go(4, *whole)
    halves = parts()
    go(2, *halves)
    torch.rand(3)
    go(3, *halves, resume=True)
    fresh = parts()
    go(4, *fresh, resume=True)  # beside what it was at the very start
    assert same(whole[0].state_dict(), fresh[0].state_dict())
    halves[2].param_groups[0]["lr"] = 3.0
    with pytest.raises(CheckpointError, match=r"group 0.lr was .*, and is now 3.0"):
        go(5, *halves, resume=True)


def test_a_cosine_does_not_rise_again(tmp_path: Path) -> None:
    prog = pgt_fx.transform(Net(), torch.zeros(1, 3, 4, 4, 4))
    optimizer = sgd(prog, 0.1)
    scheduler = half_cosine(optimizer, 4)
    rates = []
    for _ in range(4):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates == sorted(rates, reverse=True) and optimizer.param_groups[0]["lr"] == 0
    with pytest.raises(OptionError, match="update 5 of 4"):
        scheduler.step()
    path = tmp_path / "c.pt"
    with pytest.raises(OptionError, match="made for 12 updates, and this training comes to 15"):
        training(5, checkpoint=path)
    assert not path.exists()
    training(4, checkpoint=path)
    with pytest.raises(OptionError, match="comes to 24"):
        training(8, checkpoint=path, resume=True)
    with pytest.raises(CheckpointError, match=r"scheduler.updates was 12, and is now 24"):
        training(8, updates=24, checkpoint=path, resume=True)

    def annealed(epochs: int, total: int, **how: Any) -> None:
        optimizer = sgd(prog, 0.1)
        scheduler = CosineAnnealingLR(optimizer, total)
        fit(prog, VALIDATION, optimizer, epochs=epochs, scheduler=scheduler, schedule=SCHEDULE,
            checkpoint=tmp_path / "d.pt", progress=False, **how)  # fmt: skip

    annealed(3, 3)
    with pytest.raises(CheckpointError, match=r"scheduler.T_max was 3, and is now 6"):
        annealed(6, 6, resume=True)


def test_weights_alone_begin_another_training(stopped: Path, tmp_path: Path) -> None:
    saved = torch.load(stopped, weights_only=True)
    found = training(1, lr=1e-30, updates=None, init=stopped, freeze_norms=True)
    for name, value in saved["model"].items():
        assert torch.allclose(found[name], value, atol=1e-6), name
    torch.save(saved | {"pgt_fx_checkpoint": 1}, tmp_path / "old.pt")
    training(1, init=tmp_path / "old.pt")
    with pytest.raises(CheckpointError, match="version 1, expected 2; its weights can be taken"):
        training(1, checkpoint=tmp_path / "old.pt", resume=True)
    with pytest.raises(OptionError, match="init: begins a new training"):
        training(1, checkpoint=stopped, resume=True, init=stopped)


def test_a_refused_resumption_leaves_the_model_as_it_is(stopped: Path) -> None:
    prog = pgt_fx.transform(Net(), torch.zeros(1, 3, 4, 4, 4))
    before = {k: v.clone() for k, v in prog.state_dict().items()}
    with pytest.raises(CheckpointError):
        fit(prog, VALIDATION, sgd(prog, 0.1), epochs=2, schedule=SCHEDULE, checkpoint=stopped,
            resume=True, progress=False)  # fmt: skip
    assert same(before, prog.state_dict())


def test_equal_values_are_alike_as_plain_data() -> None:
    for one, other in (
        (frozenset([0, 8]), frozenset([8, 0])),  # these go in the order in which they were added
        ({"a", "b"}, frozenset("ba")),
        (float("nan"), float("nan")),
        (torch.tensor(float("nan")), torch.tensor(float("nan"))),
        ([np.float64("nan")], [np.float64("nan")]),
    ):
        assert identity.plain(one) == identity.plain(other)
    assert identity.plain(frozenset([0, 8])) != identity.plain(frozenset([0, 9]))


def test_another_environment_is_told(stopped: Path, tmp_path: Path) -> None:
    path = tmp_path / "c.pt"
    saved = torch.load(stopped, weights_only=True)
    saved["about"]["environment"]["torch"] = "1.0"
    torch.save(saved, path)
    with pytest.warns(UserWarning, match=r"torch was 1\.0, and is now .* may be rounded"):
        training(2, checkpoint=path, resume=True, settings={"noise": 1})


def test_a_dry_run_checks_all_and_writes_nothing(stopped: Path, tmp_path: Path) -> None:
    training(2, checkpoint=tmp_path / "c.pt", dry_run=True)
    assert not list(tmp_path.iterdir())
    before = stopped.read_bytes()
    training(2, checkpoint=stopped, resume=True, settings={"noise": 1}, dry_run=True)
    assert stopped.read_bytes() == before and [p.name for p in stopped.parent.iterdir()] == ["c.pt"]
    with pytest.raises(CheckpointError, match="noise was 1, and is now not there"):
        training(2, checkpoint=stopped, resume=True, dry_run=True)


def test_two_trainings_do_not_write_one_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "c.pt"
    (tmp_path / "link.pt").symlink_to(path)
    with FileLock(tmp_path / "c.pt.lock"):
        for one in (path, tmp_path / "link.pt"):
            with pytest.raises(CheckpointError, match="another training is writing to"):
                training(1, checkpoint=one)
    assert not path.exists()
    training(1, checkpoint=tmp_path / "link.pt")
    assert path.is_file() and (tmp_path / "link.pt").is_symlink(), "what the link points to"
    assert sorted(p.name for p in tmp_path.iterdir() if p.name != "c.pt.lock") == [
        "c.pt",
        "link.pt",
    ]


@pytest.mark.parametrize("kind", [PermissionError, NotImplementedError])
def test_a_lock_that_can_not_be_had_is_an_error_that_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[Exception]
) -> None:
    def refuse(self: FileLock, *args: Any, **options: Any) -> None:
        raise kind("no locks here")

    monkeypatch.setattr(FileLock, "acquire", refuse)
    with pytest.raises(CheckpointError, match=r"c\.pt\.lock, .* can't be locked: no locks here"):
        training(1, checkpoint=tmp_path / "c.pt")


def test_a_checkpoint_that_fails_to_be_written_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "c.pt"
    training(1, checkpoint=path)
    before = path.read_bytes()

    def full(data: Any, file: Any) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space left"):
        training(2, checkpoint=path, resume=True)
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["c.pt"]


def test_an_empty_split_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    path = tmp_path / "c.pt"
    with pytest.raises(OptionError, match="validation: it gave no batch"):
        training(1, checkpoint=path, validation=[], metrics=metrics(3))
    with pytest.raises(OptionError, match="validation: it gave no batch"):
        training(1, validation=iter(()), metrics=metrics(3))
    assert not path.exists()
