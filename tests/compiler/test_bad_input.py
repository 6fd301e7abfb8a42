"""What was given wrongly is said in the project's own words, and before the work is done."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import Result
from oracles import relative_error
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset
from torch.utils.flop_counter import FlopCounterMode
from typer.testing import CliRunner

import pgt_fx
from pgt_fx import DPR, Schedule
from pgt_fx.cli import app
from pgt_fx.core.errors import CaptureError, ClipError, CompileError, OptionError, PgtError
from pgt_fx.inference import predict
from pgt_fx.training import backward, fit
from pgt_fx.training.checkpoint import CheckpointError

FRAMES = 12


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv1d(2, 4, 3, padding=1), nn.ReLU(), nn.Conv1d(4, 3, 3, padding=1))


@pytest.fixture(scope="module")
def prog() -> pgt_fx.Progressive:
    return pgt_fx.transform(net(), torch.zeros(1, 2, 8))


def video() -> Tensor:
    return torch.randn(1, 2, FRAMES, generator=torch.Generator().manual_seed(0))


def loss(output: Tensor, target: Any = None) -> Tensor:
    return output.square().mean()


# -- schedules and chunks ------------------------------------------------------------------------

USES: dict[str, Callable[[pgt_fx.Progressive, Any], Any]] = {
    "run": lambda prog, s: prog.run(video(), schedule=s),
    "chunks": lambda prog, s: prog.chunks(video(), schedule=s),
    "backward": lambda prog, s: backward(prog, video(), loss, schedule=s),
    "predict": lambda prog, s: predict(prog, video(), schedule=s),
    "answers": lambda prog, s: prog.answers(s),
    "exact_frames": lambda prog, s: prog.exact_frames(s),
}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize(
    ("schedule", "told"),
    [
        (DPR(), "which draws them; use its .base"),
        (8, "expected a Schedule or a list of lengths of steps, got 8"),
        ("x", "expected a Schedule or a list of lengths of steps, got 'x'"),
        ([4.5, 7.5], "expected whole numbers of frames, got 4.5"),
        ([True, 11], "expected whole numbers of frames, got True"),
        (["4", "8"], "expected whole numbers of frames, got '4'"),
    ],
    ids=str,
)
def test_what_is_no_schedule(prog: pgt_fx.Progressive, use: str, schedule: Any, told: str) -> None:
    with pytest.raises(OptionError) as refused:
        USES[use](prog, schedule)
    assert told in str(refused.value)
    assert str(refused.value).startswith(("schedule:", "chunks:"))


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize(
    "schedule",
    [
        (4, 8),
        [np.int64(4), np.int32(8)],
        np.array([4, 8]),
        torch.tensor([4, 8]),
        Schedule(4, 2, overlap=0),
    ],
    ids=["tuple", "numpy's numbers", "array", "tensor", "schedule"],
)
def test_what_is_a_schedule(prog: pgt_fx.Progressive, use: str, schedule: Any) -> None:
    if isinstance(schedule, Schedule):
        wanted = [4, 4]
    else:
        wanted = [4, 8]
    found = USES[use](prog, schedule)
    if use in ("answers", "exact_frames"):
        assert found == USES[use](prog, wanted)


def test_lengths_for_each_path(prog: pgt_fx.Progressive) -> None:
    with pytest.raises(ClipError, match="one for each of the 1 input paths"):
        prog.exact_frames([[3, 3]])
    assert prog.exact_frames([[3], [3]]) == prog.exact_frames([3, 3])
    for call in (prog.answers, prog.exact_frames):
        with pytest.raises(ClipError, match="at least one frame"):
            call([3, 0, 4])
    assert prog.answers([]) == []
    assert prog.answers(Schedule(4, 3)) == [True] * 3


@pytest.mark.parametrize("clip", [torch.zeros(12), torch.zeros(1, 2, 3, 4), None, 3], ids=str)
def test_a_video_of_another_rank(prog: pgt_fx.Progressive, clip: Any) -> None:
    calls: list[Callable[[], Any]] = [
        lambda: prog.run(clip),
        lambda: prog.lengths(clip),
        lambda: prog.full(clip),
        lambda: prog(clip),
        lambda: backward(prog, clip, loss),
        lambda: predict(prog, clip),
    ]
    for call in calls:
        with pytest.raises(ClipError, match="expected a tensor of 3 dimensions"):
            call()


# -- compiled steps ------------------------------------------------------------------------------


@pytest.mark.parametrize("view", ["progressive", "stream"])
def test_the_cost_of_a_compiled_model_is_counted(view: Any) -> None:
    plain = pgt_fx.transform(net(), torch.zeros(1, 2, 8), future="wait", pooling="running")
    compiled = plain.replace()
    compiled.compile(backend="aot_eager")
    compiled.run(video(), schedule=[2] * 6)
    options = {"view": view, "schedule": [2] * 6, "temporal": 2}
    wanted = predict(plain, video(), **options)
    found = predict(compiled, video(), **options)
    assert found.cost == wanted.cost and wanted.cost is not None and wanted.cost.total > 0
    assert relative_error(found.scores, wanted.scores) <= 1e-6


def test_whoever_counts_operations_sees_those_of_a_compiled_model() -> None:
    plain = pgt_fx.transform(net(), torch.zeros(1, 2, 8))
    compiled = plain.replace()
    compiled.compile(backend="eager")
    counts = []
    for prog in (compiled, plain):
        with FlopCounterMode(display=False) as counter:
            prog.run(video(), schedule=[2] * 6)
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] > 0


def test_layers_that_are_thawed_one_after_the_other() -> None:
    torch.manual_seed(0)
    layers = [nn.Conv1d(2, 3, 3, padding=1), *(nn.Conv1d(3, 3, 3, padding=1) for _ in range(9))]
    model = nn.Sequential(*layers).requires_grad_(False)
    prog = pgt_fx.transform(model, torch.zeros(1, 2, 8))
    plain = prog.replace()
    prog.compile(backend="eager")
    for layer in reversed(layers):
        layer.requires_grad_(True)
        grads = []
        for one in (plain, prog):
            model.zero_grad()
            backward(one, video(), loss, schedule=[4] * 3)
            grads.append(layer.weight.grad.clone())
        assert relative_error(grads[1], grads[0]) <= 1e-6


def test_a_step_that_is_compiled_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pgt_fx.runtime.torch_compile.MOST_RENEWALS", 0)
    model = net()
    prog = pgt_fx.transform(model, torch.zeros(1, 2, 8))
    prog.compile(backend="eager")
    # An option of torch's that monkeypatch can't put back.
    with torch._dynamo.config.patch(recompile_limit=1):
        prog.run(video(), schedule=[4] * 3)
        model[2].requires_grad_(False)
        with pytest.raises(CompileError, match="again and again") as refused:
            prog.run(video(), schedule=[4] * 3)
    assert "prog.compile()" in str(refused.value)


# -- training ------------------------------------------------------------------------------------


class Videos(IterableDataset[tuple[Tensor, Tensor]]):
    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for seed in range(3):
            yield torch.randn(2, 8, generator=torch.Generator().manual_seed(seed)), torch.zeros(3)


def test_a_loader_that_does_not_know_its_length() -> None:
    updated = []
    for loader in (DataLoader(Videos(), 1), DataLoader(list(Videos()), 1)):
        prog = pgt_fx.transform(net(), torch.zeros(1, 2, 8))
        optimizer = torch.optim.SGD(prog.parameters(), 0.1)
        rows = fit(
            prog, loader, optimizer, epochs=1, loss_fn=loss, accumulate=2, progress=False,
            schedule=Schedule(4),
        )  # fmt: skip
        assert rows[0]["updates"] == 2
        updated.append(prog.state_dict())
    assert all(torch.equal(updated[0][name], updated[1][name]) for name in updated[0])


@pytest.mark.parametrize(
    ("place", "told"), [("nowhere/c.pt", "there is no folder"), (".", "is a folder")]
)
def test_where_no_checkpoint_can_be_written(tmp_path: Path, place: str, told: str) -> None:
    prog = pgt_fx.transform(net(), torch.zeros(1, 2, 8))
    before = prog.state_dict()["0.weight"].clone()
    optimizer = torch.optim.SGD(prog.parameters(), 0.1)
    with pytest.raises(CheckpointError, match=told):
        fit(
            prog, DataLoader(Videos(), 1), optimizer, epochs=1, loss_fn=loss, progress=False,
            checkpoint=tmp_path / place,
        )  # fmt: skip
    assert torch.equal(before, prog.state_dict()["0.weight"])


# -- the command line ----------------------------------------------------------------------------

FACTORIES = """
    import torch
    from torch import nn

    def needs(size): return nn.Conv1d(3, 4, 3, padding=1)
    def missing(): return torch.load("nowhere.pt")
    def fails(): raise RuntimeError("no GPU")
    def asserts(): assert False, "not so"
    def good(): return nn.Sequential(nn.Conv1d(3, 4, 3, padding=1)), torch.zeros(1, 3, 8)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "bad_factories.py").write_text(textwrap.dedent(FACTORIES))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", list(__import__("sys").path))
    return tmp_path


def call(*args: str) -> Result:
    return CliRunner().invoke(app, list(args), env={"COLUMNS": "200", "TERM": "dumb"})


@pytest.mark.parametrize("command", ["verify", "analyze", "doctor"])
@pytest.mark.parametrize(
    ("factory", "told"),
    [
        ("needs", "missing 1 required positional argument: 'size'"),
        ("missing", "FileNotFoundError"),
        ("fails", "RuntimeError: no GPU"),
        ("asserts", "AssertionError: not so"),
    ],
)
def test_a_factory_that_fails_is_no_violation(
    folder: Path, command: str, factory: str, told: str
) -> None:
    found = call(command, f"bad_factories:{factory}")
    assert found.exit_code == 2, found.output
    assert told in found.output and f"calling bad_factories:{factory}() failed" in found.output


@pytest.mark.parametrize(
    ("command", "option"), [("verify", "--output"), ("verify", "--save"), ("doctor", "--html")]
)
def test_a_folder_in_place_of_a_file_is_told_before_anything_is_done(
    folder: Path, command: str, option: str
) -> None:
    found = call(command, "bad_factories:fails", option, str(folder))
    assert found.exit_code == 2 and "no GPU" not in found.output, found.output
    assert "is a folder; expected a file" in found.output


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ('[run]\ndevice = "cuda:9"', "[run] device: 'cuda:9' can't be used here"),
        ('[run]\ndevice = "gpu"', "[run] device: 'gpu' can't be used here"),
        ("[optim]\naccumulate = 0", "[optim] accumulate: expected at least 1, got 0"),
        ("[optim]\nepochs = 0", "[optim] epochs: expected at least 1, got 0"),
        ("[optim]\nlr = -1.0", "[optim] lr: expected a number above 0, got -1.0"),
        ("[optim]\nlr = nan", "[optim] lr: expected a number above 0, got nan"),
        ("[data]\nbatch = 0", "[data] batch: expected at least 1, got 0"),
        ("[data]\nsize = -3", "[data] size: expected at least 1, got -3"),
        ("[data]\nworkers = -1", "[data] workers: expected at least 0, got -1"),
        ("[data]\nstride = 0", "[data] stride: expected at least 1, got 0"),
    ],
)
def test_a_training_that_can_not_be(folder: Path, lines: str, told: str) -> None:
    (folder / "train.toml").write_text(f'[model]\nname = "slow_r50"\n{lines}\n')
    found = call("train", "train.toml")
    assert found.exit_code == 2 and not isinstance(found.exception, PgtError), found.output
    assert told in found.output


def test_a_clip_that_is_too_short_for_the_head_is_told_how_long_it_has_to_be() -> None:
    model = nn.Sequential(
        nn.Conv3d(3, 4, 3, padding=1), nn.AvgPool3d((16, 1, 1)), nn.Flatten(), nn.Linear(64, 2)
    )
    with pytest.raises(CaptureError, match="takes 16 frames, and the example has 8") as error:
        pgt_fx.transform(model.eval(), torch.zeros(1, 3, 8, 4, 4))
    assert error.value.place is not None and error.value.place.op.endswith("avg_pool3d")
    with pytest.raises(CaptureError) as other:  # one that no length mends
        pgt_fx.transform(nn.Conv3d(5, 4, 3), torch.zeros(1, 3, 8, 4, 4))
    assert "takes" not in str(other.value)
