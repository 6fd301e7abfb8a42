"""A verification that could not have shown a fault says so: it neither holds nor is it violated."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from test_pytest_plugin import run
from torch import Tensor, nn
from typer.testing import CliRunner

import pgt_fx
from pgt_fx.cli import app
from pgt_fx.compiler.selfcheck.redraw import redraw_zeros
from pgt_fx.core.errors import BlockedError, OptionError, VerificationError
from pgt_fx.runtime.markov.window import MarkovWindow
from pgt_fx.testing.verify.causal import verify_causal
from pgt_fx.testing.verify.session import Session
from pgt_fx.training.replay import Replay

pytestmark = pytest.mark.full

CLIP = torch.zeros(1, 2, 8)


def conv(channels: int = 2) -> nn.Conv1d:
    return nn.Conv1d(2, channels, 3, padding=1)


def zeros(layer: nn.Module) -> nn.Module:
    for p in layer.parameters():
        nn.init.zeros_(p)
    return layer


class Branch(nn.Module):
    """A residual branch that starts as nothing: by a gate, a scale, or its last layer."""

    def __init__(self, last: nn.Module | None = None, gate: tuple[int, ...] | None = None) -> None:
        super().__init__()
        self.stem, self.branch = conv(), conv()
        self.last = last or nn.Identity()
        self.gate = None if gate is None else nn.Parameter(torch.zeros(gate))

    def forward(self, x: Tensor) -> Tensor:
        y = self.last(self.branch(x))
        return self.stem(x) + (y if self.gate is None else self.gate * y)


class Linear(nn.Module):
    """On channels last, as a transformer's projection."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.transpose(1, 2)).transpose(1, 2)


BORN_AT_ZERO: dict[str, Callable[[], nn.Module]] = {
    "a gate": lambda: Branch(gate=(1,)),
    "a gate without dimensions": lambda: Branch(gate=()),
    "a scale per channel": lambda: Branch(gate=(2, 1)),
    "a convolution": lambda: Branch(zeros(nn.Conv1d(2, 2, 1))),
    "a temporal convolution": lambda: Branch(zeros(conv())),
    "a projection": lambda: Branch(zeros(Linear())),
}


def faulty(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the operator on the branch gives is wrong."""
    sound = MarkovWindow.forward

    def forward(self: MarkovWindow, step: Any, x: Any, *tensors: Any) -> Any:
        y = sound(self, step, x, *tensors)
        return y if self.slot != "branch" or y is None else y + step.window(self.slot).new

    monkeypatch.setattr(MarkovWindow, "forward", forward)


@pytest.mark.parametrize("name", BORN_AT_ZERO)
def test_a_fault_behind_a_zero_is_seen(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = BORN_AT_ZERO[name]().eval()
    before = copy.deepcopy(model.state_dict())
    prog = pgt_fx.transform(model, CLIP)
    found = pgt_fx.verify(prog, chunkings=2)
    assert found.ok, str(found)
    assert "of zeros redrawn" in found.setting
    assert "weights as they are" in pgt_fx.verify(prog, chunkings=1, redraw_norms=False).setting
    faulty(monkeypatch)
    found = pgt_fx.verify(prog, chunkings=2, checks=["exact-wait"])
    assert found["exact-wait"].ok is False, str(found)
    # The user's model is left as it was.
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_which_parameters_are_drawn() -> None:
    model = nn.ModuleDict(
        {
            "scale": Branch(gate=(3, 1)),
            "wide": zeros(nn.Linear(400, 3)),
            "norm": zeros(nn.BatchNorm1d(3)),  # drawn by redraw_norms
            "frozen": zeros(nn.Linear(2, 2)).requires_grad_(False),
            "partly": nn.Linear(2, 2),
        }
    )
    partly: Any = model["partly"]
    with torch.no_grad():
        partly.weight[0].zero_()
    before = copy.deepcopy(model.state_dict())
    assert redraw_zeros(model, 0) == 3
    changed = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
    assert changed == {"scale.gate", "wide.weight", "wide.bias"}
    wide: Any = model["wide"]
    assert wide.weight.all() and 0.1 < float(wide.weight.detach().norm(dim=1).mean()) < 0.7
    again = copy.deepcopy(model)
    again.load_state_dict(before)
    redraw_zeros(again, 0)
    assert all(
        torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True)
    )


def test_a_causal_model_is_measured_with_its_gate_open() -> None:
    model = Branch(gate=(1,)).eval()
    model.stem = nn.Conv1d(2, 2, 1)  # the branch alone looks ahead
    found = verify_causal(model, CLIP)
    assert found["no-future"].ok is False
    assert "1 parameter of zeros redrawn" in found.setting


# ------------------------------------------------------------- settings that measure nothing


@pytest.mark.parametrize(
    "wrong",
    [
        {"chunkings": 0},
        {"chunkings": -2},
        {"chunkings": "a"},
        {"chunkings": 1.5},
        {"dtype": torch.int32},
        {"dtype": torch.bool},
        {"dtype": torch.complex64},
        {"dtype": "float64"},
        {"dtype": None},
    ],
)
def test_settings_under_which_nothing_is_measured(wrong: dict[str, Any]) -> None:
    prog = pgt_fx.transform(nn.Sequential(conv()).eval(), CLIP)
    name = next(iter(wrong))
    with pytest.raises(OptionError, match=f"^{name}: expected"):
        pgt_fx.verify(prog, **wrong)
    with pytest.raises(OptionError, match=f"^{name}: expected"):
        Session(prog, **wrong)
    if name == "dtype":
        with pytest.raises(OptionError, match=r"^dtype: expected"):
            verify_causal(nn.Sequential(conv()).eval(), CLIP, **wrong)


def test_no_chunkings_are_no_green_run(tmp_path: Path) -> None:
    done = run(tmp_path, "--pgt-model=shop:both_ways", "--pgt-chunkings=0")
    assert done.returncode == 1, done.stdout
    assert "chunkings: expected at least 1, got 0" in done.stdout
    assert "1 failed" in done.stdout and "passed" not in done.stdout


# ------------------------------------------------------------- models that never change


class Constant(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = conv(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) * 0 + 1


def frozen_zeros() -> nn.Module:
    return zeros(nn.Sequential(conv(), conv())).requires_grad_(False)


class Peeking(nn.Module):
    """Its answers are constant but for the frames of the step before, which leak in."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = conv()

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) * 0


@pytest.mark.parametrize("make", [Constant, frozen_zeros])
def test_a_constant_model_can_not_be_checked(make: Callable[[], nn.Module]) -> None:
    found = pgt_fx.verify(make().eval(), CLIP, chunkings=2)
    assert not found.violations, str(found)
    assert not found.ok and not found.decided
    # With other weights than these an output may well differ.
    assert found["exact-tight"].ok is (None if make is Constant else True)
    assert found["one-way-forward"].ok is None
    assert "see time-sensitive" in found["one-way-forward"].detail
    with pytest.raises(VerificationError, match="nothing could be checked"):
        found.raise_if_failed()


def test_a_constant_model_is_told_by_the_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "constant_shop.py").write_text(
        "import torch\nfrom torch import nn\n\n\n"
        "def zero():\n"
        "    layer = nn.Conv1d(2, 2, 3, padding=1).requires_grad_(False)\n"
        "    nn.init.zeros_(layer.weight)\n"
        "    return nn.Sequential(layer), torch.zeros(1, 2, 8)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    result = CliRunner().invoke(app, ["verify", "constant_shop:zero", "--chunkings=1"])
    assert result.exit_code == 2, result.output


class Attends(nn.Module):
    """Attention whose mask lets a query see two frames ahead, or its own group of frames."""

    def __init__(self, seen: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.queries, self.keys, self.seen = nn.Linear(2, 2), nn.Linear(2, 2), seen

    def forward(self, x: Tensor) -> Tensor:
        y, at = x.mT, torch.arange(x.shape[2])
        mask = self.seen(at[:, None], at[None, :])
        q, k = self.queries(y), self.keys(y)
        return nn.functional.scaled_dot_product_attention(q, k, y, attn_mask=mask)


class Gated(nn.Module):
    """A convolution along time behind a gate."""

    def __init__(self, gate: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.gate = conv(), gate

    def forward(self, x: Tensor) -> Tensor:
        return x + self.gate(self.conv(x))


NOT_TIGHT: dict[str, Callable[[], nn.Module]] = {
    "two ahead": lambda: Attends(lambda row, column: column <= row + 2),
    "groups": lambda: Attends(lambda row, column: column // 4 == row // 4),
    "shut": lambda: Gated(lambda y: y * (y > 1e9)),
}
TOLD: dict[str, Callable[[], nn.Module]] = {
    "seldom open": lambda: Gated(lambda y: nn.functional.hardshrink(y, 4.0)),
    "a bias below": lambda: Gated(lambda y: (y - 6).relu()),
}


@pytest.mark.parametrize("name", NOT_TIGHT)
def test_an_exact_set_that_may_be_larger_is_no_violation(name: str) -> None:
    torch.manual_seed(0)
    found = pgt_fx.verify(NOT_TIGHT[name]().eval(), CLIP, chunkings=1)
    assert found.ok, str(found)
    check = found["exact-tight"]
    assert check.ok is None and check.measured == "not tight"
    assert "test_verify_vacuity.py" in check.detail


@pytest.mark.parametrize("name", TOLD)
def test_a_gate_that_seldom_opens_is_opened(name: str) -> None:
    torch.manual_seed(0)
    found = pgt_fx.verify(TOLD[name]().eval(), CLIP, chunkings=1)
    assert found.ok and found["exact-tight"].ok, str(found)


def test_a_set_that_is_not_tight_is_no_fault_for_the_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gate_shop.py").write_text(
        "import torch\nfrom torch import nn\n\n\n"
        "class Gate(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.conv = nn.Conv1d(2, 2, 3, padding=1)\n\n"
        "    def forward(self, x):\n"
        "        y = self.conv(x)\n"
        "        return x + y * (y > 1e9)\n\n\n"
        "def gate():\n    return Gate(), torch.zeros(1, 2, 8)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    result = CliRunner().invoke(app, ["verify", "gate_shop:gate", "--chunkings=1"])
    assert result.exit_code == 0 and "not tight" in result.output, result.output


def test_a_mean_of_no_frame_is_refused_and_not_called_wrong() -> None:
    """Torch's is NaN: nothing follows from comparing with it."""

    class Mean(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = conv()

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x)[:, :, 2:].mean(2)

    prog = pgt_fx.transform(Mean().eval(), CLIP, pooling="running")
    assert str(prog.video_lengths) == "at least 3"
    assert pgt_fx.verify(prog, chunkings=1).ok
    with pytest.raises(BlockedError, match="needs at least one element"):
        pgt_fx.transform(Mean().eval(), CLIP[:, :, :1], time_dim=2)


def test_a_leak_in_a_constant_model_is_a_leak(monkeypatch: pytest.MonkeyPatch) -> None:
    prog = pgt_fx.transform(Peeking().eval(), CLIP)
    sound = pgt_fx.Progressive.step

    def step(self: Any, state: Any, *clip: Any, **named: Any) -> Any:
        out, following = sound(self, state, *clip, **named)
        whole = torch.empty(0, dtype=clip[0].dtype).set_(clip[0].detach().untyped_storage())
        return None if out is None else out + whole.mean(), following

    monkeypatch.setattr(pgt_fx.Progressive, "step", step)
    found = pgt_fx.verify(prog, chunkings=1, checks=["one-way-forward"])
    assert found["one-way-forward"].ok is False


def test_a_live_model_whose_answers_do_not_change_is_violated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where the model itself answers to time, a step that never changes is a fault."""
    sound = pgt_fx.Progressive.step

    def step(self: Any, state: Any, *clip: Any, **named: Any) -> Any:
        out, following = sound(self, state, *clip, **named)
        return None if out is None else out * 0, following

    torch.manual_seed(0)
    prog = pgt_fx.transform(nn.Sequential(conv()).eval(), CLIP)
    monkeypatch.setattr(pgt_fx.Progressive, "step", step)
    found = pgt_fx.verify(prog, chunkings=1, checks=["one-way-forward"])
    assert found["one-way-forward"].ok is False
    assert "changes nothing" in found["one-way-forward"].detail


# ------------------------------------------------------------- random numbers without a layer


class Random(nn.Module):
    """Two convolutions with a function of the activation and the mode between them."""

    def __init__(self, call: Callable[[Tensor, bool], Tensor]) -> None:
        super().__init__()
        self.a, self.b, self.call = conv(4), nn.Conv1d(4, 3, 1), call

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.call(self.a(x), self.training))


def attends(chance: float) -> Callable[[Tensor, bool], Tensor]:
    def call(h: Tensor, training: bool) -> Tensor:
        q = h.transpose(1, 2)
        p = chance if training else 0.0
        return F.scaled_dot_product_attention(q, q, q, dropout_p=p).transpose(1, 2)

    return call


class Layers(nn.Module):
    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.g = nn.GRU(4, 4, 2, dropout=dropout, batch_first=True)

    def forward(self, h: Tensor, training: bool) -> Tensor:
        return self.g(h.transpose(1, 2))[0].transpose(1, 2)


def path(h: Tensor, training: bool) -> Tensor:
    """Stochastic depth, as models write it."""
    keep = torch.full((h.shape[0], 1, 1), 0.5, dtype=h.dtype, device=h.device)
    return h * torch.bernoulli(keep) if training else h


RANDOM: dict[str, Callable[[Tensor, bool], Tensor]] = {
    "dropout": lambda h, training: F.dropout(h, 0.5, training),
    "alpha dropout": lambda h, training: F.alpha_dropout(h, 0.5, training),
    "noise": lambda h, training: h + torch.randn_like(h) if training else h,
    "path": path,
    "attention": attends(0.5),
    "recurrent": Layers(0.5),
}
NOT_RANDOM: dict[str, Callable[[Tensor, bool], Tensor]] = {
    "nothing": lambda h, training: h,
    "dropout of nothing": lambda h, training: F.dropout(h, 0.0, training),
    "attention": attends(0.0),
    "recurrent": Layers(0.0),
}


@pytest.mark.parametrize("name", RANDOM)
def test_random_numbers_are_replayed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    prog = pgt_fx.transform(Random(RANDOM[name]).eval(), CLIP)
    found = pgt_fx.verify(prog, chunkings=1, checks=["replayed"])["replayed"]
    assert found.ok, str(found)
    monkeypatch.setattr(Replay, "_set", lambda self, rng: None)  # the second run draws anew
    found = pgt_fx.verify(prog, chunkings=1, checks=["replayed"])["replayed"]
    assert found.ok is False, str(found)


@pytest.mark.parametrize("name", NOT_RANDOM)
def test_nothing_to_replay(name: str) -> None:
    prog = pgt_fx.transform(Random(NOT_RANDOM[name]).eval(), CLIP)
    found = pgt_fx.verify(prog, chunkings=1, checks=["replayed"])["replayed"]
    assert found.ok is None and "nothing random" in found.detail


def test_a_model_that_has_no_graph_in_train_mode() -> None:
    model = Random(lambda h, training: h * 2 if training and float(h.sum()) > 0 else h).eval()
    found = pgt_fx.verify(model, CLIP, chunkings=1, checks=["replayed"])["replayed"]
    assert found.ok is None and "train mode" in found.detail
