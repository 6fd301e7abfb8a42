"""Several processes are one training, or are refused before anything is written."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.data.distributed import DistributedSampler
from typer.testing import CliRunner

import pgt_fx
from pgt_fx import Schedule
from pgt_fx.cli import app
from pgt_fx.core.errors import OptionError
from pgt_fx.training import CheckpointError, fit, sgd


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv3d(3, 4, (3, 1, 1), padding=(1, 0, 0)), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(x).relu().mean((2, 3, 4)))


def train(prog: nn.Module, epochs: int, path: Path, **how: Any) -> list[dict[str, float]]:
    random = torch.Generator().manual_seed(0)
    data = TensorDataset(torch.randn(4, 3, 10, 2, 2, generator=random), torch.arange(4) % 3)
    parallel = dist.is_initialized()
    loader = DataLoader(data, 1, sampler=DistributedSampler(data) if parallel else None)
    return fit(prog, loader, sgd(prog, 0.05), epochs=epochs, schedule=Schedule(4, 3),
               checkpoint=path, progress=False, **how)  # fmt: skip


def make() -> pgt_fx.Progressive:
    torch.manual_seed(1)
    return pgt_fx.transform(Net(), torch.zeros(1, 3, 4, 2, 2))


#: Set by torchrun, Open MPI, MPICH and srun in each process that they start.
@pytest.mark.parametrize(
    "name", ["WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"]
)
def test_a_launcher_of_several_processes_is_refused(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(name, "2")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OptionError, match=rf"{name}=2 .*DistributedDataParallel\(prog\)"):
        train(make(), 1, tmp_path / "c.pt")
    for more in ([], ["--dry-run"]):
        found = CliRunner().invoke(app, ["train", "config.toml", *more])
        said = " ".join(found.output.split())
        assert found.exit_code == 2 and f"{name}=2 in the environment" in said
        assert "DistributedDataParallel(prog)" in said
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "value"), [("WORLD_SIZE", "1"), ("WORLD_SIZE", ""), ("SLURM_NTASKS", "4")]
)
def test_one_process_is_one_training(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(name, value)  # a batch script of four tasks is one process
    assert train(make(), 1, tmp_path / "c.pt")[0]["updates"] == 4


def test_processes_without_data_parallel_are_refused(tmp_path: Path) -> None:
    prog = make()
    with (
        mock.patch.object(dist, "is_initialized", return_value=True),
        mock.patch.object(dist, "get_world_size", return_value=2),
        pytest.raises(OptionError, match=r"torch.distributed runs 2 processes, and each would"),
    ):
        fit(prog, [], sgd(prog, 0.05), epochs=1, checkpoint=tmp_path / "c.pt")
    assert not list(tmp_path.iterdir())


def _rank(rank: int, folder: Path) -> None:
    os.environ |= {"WORLD_SIZE": "2", "RANK": str(rank)}
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    torch.set_num_threads(1)
    prog, path = make(), folder / "c.pt"
    with pytest.raises(OptionError, match="2 processes, and each would train a whole model"):
        train(prog, 1, path)
    dist.barrier()
    assert not path.exists()
    whole = make()
    train(DistributedDataParallel(whole), 2, folder / "whole.pt")
    train(DistributedDataParallel(prog), 1, path)
    prog = make()
    rows = train(DistributedDataParallel(prog), 2, path, resume=True)
    assert rows[-1]["updates"] == 4  # two of the four videos on each rank
    assert all(
        torch.equal(a, b) for a, b in zip(prog.parameters(), whole.parameters(), strict=True)
    )
    torch.save(prog.state_dict(), folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_data_parallel_is_one_training_and_goes_on(tmp_path: Path) -> None:
    mp.spawn(_rank, args=(tmp_path,), nprocs=2)
    a, b = (torch.load(tmp_path / f"{r}.pt", weights_only=True) for r in (0, 1))
    assert all(torch.equal(a[k], b[k]) for k in a)
    with pytest.raises(CheckpointError, match="ranks was 2, and is now 1"):
        train(make(), 3, tmp_path / "c.pt", resume=True)
