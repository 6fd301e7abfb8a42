"""The self-check: ``transform`` does not return what it has not seen agree with the model."""

from __future__ import annotations

import contextlib
import copy
import random
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from mutants import MUTANTS, Mutant, progressive
from torch import Tensor, nn

import pgt_fx
from pgt_fx.compiler import specialize as source
from pgt_fx.compiler import transform as compiler
from pgt_fx.compiler.selfcheck.check import self_check
from pgt_fx.compiler.selfcheck.copies import Trial
from pgt_fx.core.errors import SelfCheckError
from pgt_fx.runtime.markov.correction import Correction
from pgt_fx.runtime.markov.window import MarkovWindow
from pgt_fx.runtime.program import Program
from pgt_fx.runtime.progressive import Progressive


@pytest.fixture(autouse=True)
def _as_for_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler, "self_check", self_check)


class Stack(nn.Module):
    """A residual branch that starts at zero, as those of model zoos do."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv3d(3, 4, (3, 3, 3), padding=1)
        self.branch = nn.Conv3d(4, 4, (3, 1, 1), padding=(1, 0, 0))
        self.norm = nn.BatchNorm3d(4)
        nn.init.zeros_(self.norm.weight)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return x + self.norm(self.branch(x))


def stack() -> Stack:
    torch.manual_seed(0)
    return Stack().eval()


CLIP = torch.zeros(1, 3, 8, 20, 24)


# -- what it finds -------------------------------------------------------------------------------

#: Faults that don't change what a program gives, or what it claims of it: of gradients, of what is
#: kept in memory, of how a video is gone on with from another process.
SILENT = {
    *("state is a view of the activation", "state keeps the autograd graph"),
    *("gradient flows through the carried state", "state grows: the tail keeps all it ever held"),
    *("clock lost when a state is loaded", "switching the mode forgets the state"),
    *("analysed receptive field too small", "statistics updated twice", "dropout not replayed"),
    *("gradient of an operator reversed", "cotangent of the state dropped"),
    "loss of the last step counted twice",
}


@pytest.mark.parametrize(
    "mutant", [m for m in MUTANTS if m.name in SILENT], ids=lambda m: m.name.replace(" ", "-")
)
def test_what_is_left_out_changes_no_output(mutant: Mutant) -> None:
    def answers() -> list[Any]:
        prog = progressive(mutant.kind, check=False, **dict(mutant.options))
        x = torch.randn(2, 3, 19, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            outputs = [prog(piece) for piece in x.split([3, 1, 7, 8], 2)]
            return [out for out in outputs if out is not None]

    wanted = answers()
    with mutant.plant():
        found = answers()
    for a, b in zip(found, wanted, strict=True):
        assert torch.equal(a, b)


def test_nine_of_ten_faults_that_change_an_output_are_found() -> None:
    """Of the planted faults of mutants.py, by the self-check alone."""
    found, missed = [], []
    for mutant in MUTANTS:
        if mutant.name in SILENT:
            continue
        with mutant.plant():
            try:
                progressive(mutant.kind, **dict(mutant.options))
                missed.append(mutant.name)
            except SelfCheckError:
                found.append(mutant.name)
    assert len(found) >= 50 and len(found) >= 9 * len(missed), missed
    assert missed == ["exact set too narrow"]  # nothing that is claimed is wrong


@contextlib.contextmanager
def off(factor: float) -> Iterator[None]:
    """Every operator along time is a little off."""
    sound = MarkovWindow.forward

    def forward(self: MarkovWindow, step: Any, x: Any, *tensors: Any) -> Any:
        out = sound(self, step, x, *tensors)
        return None if out is None else out * factor

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MarkovWindow, "forward", forward)
        yield


def test_a_difference_names_the_operator_its_line_and_what_to_do() -> None:
    with off(1.01), pytest.raises(SelfCheckError) as caught:
        pgt_fx.transform(stack(), CLIP)
    text = str(caught.value)
    assert "Stack: what was made of this model is not the model" in text
    assert "aten.conv3d in stem (compiler/test_selfcheck.py" in caught.value.where
    assert caught.value.where in text and "check=False" in text and "is off by" in text
    with off(1.01):
        assert isinstance(pgt_fx.transform(stack(), CLIP, check=False), Progressive)


def test_a_branch_that_starts_at_zero_is_seen() -> None:
    """Its norm is drawn anew, on a copy: the fault shows in that branch alone."""
    sound = MarkovWindow.forward

    def forward(self: MarkovWindow, step: Any, x: Any, *tensors: Any) -> Any:
        out = sound(self, step, x, *tensors)
        return out * 2 if self.slot == "branch" and out is not None else out

    model = stack()
    before = copy.deepcopy(model.state_dict())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MarkovWindow, "forward", forward)
        with pytest.raises(SelfCheckError, match="in branch"):
            pgt_fx.transform(model, CLIP)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_rounding_is_repeated_in_float64_and_passes() -> None:
    """1e-3 in float32 alone, as of a model that rounds much."""
    sound = MarkovWindow.forward

    def forward(self: MarkovWindow, step: Any, x: Any, *tensors: Any) -> Any:
        out = sound(self, step, x, *tensors)
        return out * 1.001 if out is not None and out.dtype == torch.float32 else out

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MarkovWindow, "forward", forward)
        assert "equals the model" in pgt_fx.transform(stack(), CLIP).report.checked
    with off(1.001), pytest.raises(SelfCheckError, match="in float64"):
        pgt_fx.transform(stack(), CLIP)


def test_convolutions_of_large_frames_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """They carry their past in another way, which is no gain for the videos of a self-check."""
    sound = Correction._lacking

    def _lacking(self: Correction, tail: Tensor, weight: Tensor) -> Tensor:
        return sound(self, tail, weight) * 2

    monkeypatch.setattr(Correction, "_lacking", _lacking)
    with pytest.raises(SelfCheckError, match="without a copy of their input"):
        pgt_fx.transform(stack(), CLIP)
    assert "equals the model" in pgt_fx.transform(stack(), CLIP, future="wait").report.checked


class Rough(nn.Module):
    """Rounds much behind the frames of the clip."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(3, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        late = torch.arange(x.shape[2], dtype=torch.float32) >= 8
        return x + (3e4 * x).sin() * late


def test_rounding_is_that_of_the_video_that_differs(monkeypatch: pytest.MonkeyPatch) -> None:
    """And not of the clip alone, of which the model may round less."""
    sound, factor = MarkovWindow.forward, 1 + torch.finfo(torch.float32).eps

    def forward(self: MarkovWindow, step: Any, x: Any, *tensors: Any) -> Any:
        out = sound(self, step, x, *tensors)
        return out * factor if out is not None and out.dtype == torch.float32 else out

    torch.manual_seed(0)
    model = Rough().eval()
    monkeypatch.setattr(MarkovWindow, "forward", forward)
    assert "equals the model" in pgt_fx.transform(model, SEQUENCE).report.checked
    factor = 1 + 100 * torch.finfo(torch.float32).eps
    with pytest.raises(SelfCheckError):
        pgt_fx.transform(model, SEQUENCE)


class Answer(nn.Module):
    """Two tensors, a plain number and a word."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(3, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Any:
        y = self.conv(x)
        return {"frames": y, "stride": 1, "of": ("all", y > 0)}


def _steps(change: Any) -> Any:
    """What each step, or the whole in one, gives is changed."""
    sound = Progressive.step

    def step(self: Progressive, state: Any, *clip: Any, last: bool = False, **more: Any) -> Any:
        out, state = sound(self, state, *clip, last=last, **more)
        return None if out is None else change(out), state

    return step


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda out: {**out, "stride": 2}, "gives 2, and the model 1"),
        (lambda out: {**out, "stride": True}, "gives True, and the model 1"),
        (lambda out: {**out, "of": list(out["of"])}, "gives {'frames': 'Tensor', "),
        (lambda out: {**out, "frames": out["frames"].double()}, "numbers of torch.float64"),
        (lambda out: {**out, "of": ("all", out["frames"] > 0.3)}, "is off by"),
        (lambda out: {**out, "of": ("all", (out["frames"] > 0).float())}, "numbers of torch.float"),
    ],
)
@pytest.mark.parametrize("future", ["zero", "wait"])
def test_types_containers_and_plain_numbers_are_compared(
    change: Any, words: str, future: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    model = Answer().eval()
    assert "equals the model" in pgt_fx.transform(model, SEQUENCE, future=future).report.checked
    monkeypatch.setattr(Progressive, "step", _steps(change))
    with pytest.raises(SelfCheckError) as caught:
        pgt_fx.transform(model, SEQUENCE, future=future)
    assert words in str(caught.value)


class Filled(nn.Module):
    """Scores, one of which does not count: it has a value that no score has."""

    def __init__(self, fill: float) -> None:
        super().__init__()
        self.conv, self.fill = nn.Conv1d(3, 4, 3, padding=1), fill

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return torch.cat([torch.full_like(y[:, :1], self.fill), y], 1)


@pytest.mark.parametrize(
    "fill", [-1e9, torch.finfo(torch.float32).min, float("-inf"), float("nan")]
)
@pytest.mark.parametrize("future", ["zero", "wait"])
def test_a_value_that_fills_does_not_hide_the_others(fill: float, future: Any) -> None:
    torch.manual_seed(0)
    model = Filled(fill).eval()
    assert "equals the model" in pgt_fx.transform(model, SEQUENCE, future=future).report.checked
    with off(1.01), pytest.raises(SelfCheckError):
        pgt_fx.transform(model, SEQUENCE, future=future)


def test_what_a_call_in_train_mode_leaves_in_buffers_is_compared(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Statistics that are updated twice change no answer."""
    sound = Program.run

    def twice(self: Program, *args: Any, **kwargs: Any) -> Any:
        sound(self, *args, **kwargs)
        return sound(self, *args, **kwargs)

    model = stack().train()
    assert "whole in train mode" in pgt_fx.transform(model, CLIP).report.checked
    monkeypatch.setattr(Program, "run", twice)
    with pytest.raises(SelfCheckError, match=r"leaves another norm\.num_batches_tracked in train"):
        pgt_fx.transform(model, CLIP)


class Limits(nn.Module):
    """Keeps a parameter within its range, as it is called."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(3, 4, 3, padding=1)
        self.scale = nn.Parameter(torch.full((), 200.0))

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            self.scale.clamp_(max=100.0)
        return self.conv(x) * self.scale


def test_weights_are_copied_only_where_they_are_written() -> None:
    prog = pgt_fx.transform(stack(), CLIP, check=False)
    ours = dict(prog.named_parameters())
    own = {k for k, p in Trial(prog, None, None).prog.named_parameters() if p is not ours[k]}
    assert own == {"norm.weight", "norm.bias"}
    copies = dict(Trial(prog, None, torch.float64).prog.named_parameters())
    assert all(p.dtype == torch.float32 and copies[k] is not p for k, p in ours.items())
    model = Limits().eval()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        prog = pgt_fx.transform(model, SEQUENCE)
    assert "equals the model" in prog.report.checked and float(model.scale.detach()) == 200.0


class Wide(nn.Module):
    """Computes in float32 whatever its weights are."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(3, 64, 9, padding=4)
        self.out = nn.Conv1d(64, 4, 9, padding=4)

    def forward(self, x: Tensor) -> Tensor:
        return self.out((100 * self.conv(x)).float().sin().to(x.dtype))


class Spectrum(nn.Module):
    """Complex numbers, and a gate of whole ones."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.other = nn.Conv1d(3, 4, 3, padding=1), nn.Conv1d(3, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Any:
        return self.conv(x).to(torch.complex64) + self.other(x) * 1j, self.conv(x) > 0


def test_both_parts_of_complex_numbers_are_compared(recwarn: pytest.WarningsRecorder) -> None:
    torch.manual_seed(0)
    prog = pgt_fx.transform(Spectrum().eval(), SEQUENCE, future="wait")
    assert "equals the model" in prog.report.checked
    assert not [w for w in recwarn if "imaginary" in str(w.message)]
    sound = MarkovWindow.forward

    def forward(self: MarkovWindow, step: Any, x: Any, *tensors: Any) -> Any:
        out = sound(self, step, x, *tensors)
        return out * 2 if self.slot == "other" and out is not None else out

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MarkovWindow, "forward", forward)
        with pytest.raises(SelfCheckError, match="in other"):
            pgt_fx.transform(Spectrum().eval(), SEQUENCE, future="wait")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_model_that_computes_in_float32_inside_is_no_alarm(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = Wide().to(dtype).eval()
    for future in ("zero", "wait"):
        prog = pgt_fx.transform(model, torch.zeros(1, 3, 8, dtype=dtype), future=future)
        assert "equals the model" in prog.report.checked, prog.report.checked


# -- on what it is made, and what is said --------------------------------------------------------


def test_the_report_says_what_was_compared() -> None:
    prog = pgt_fx.transform(stack(), CLIP)
    expected = "equals the model on videos of 1, 8, 19 frames, whole and in steps, float32"
    assert prog.report.checked == expected and expected in str(prog.report)
    assert prog.report.to_dict()["checked"] == expected
    assert copy.deepcopy(prog).report.checked == expected
    assert prog.replace(future="wait").report.checked == "not checked by itself"
    unchecked = pgt_fx.transform(stack(), CLIP, check=False)
    assert unchecked.report.checked == "not checked by itself"
    assert pgt_fx.analyze(stack(), CLIP).checked == "not checked by itself"


class Seen(nn.Module):
    """Notes the sizes of its videos."""

    def __init__(self, least: int) -> None:
        super().__init__()
        self.conv, self.least = nn.Conv3d(3, 4, (3, 3, 3), padding=1), least

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return torch.nn.functional.avg_pool3d(y, (1, self.least, self.least))


@pytest.mark.parametrize(("least", "side"), [(2, 8), (20, 24), (40, 48)])
def test_frames_are_as_small_as_the_model_takes_them(
    least: int, side: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = set()
    sound = Progressive.step

    def step(self: Progressive, state: Any, *clip: Any, **more: Any) -> Any:
        sizes.add(tuple(clip[0].shape[3:]))
        return sound(self, state, *clip, **more)

    monkeypatch.setattr(Progressive, "step", step)
    pgt_fx.transform(Seen(least).eval(), torch.zeros(1, 3, 8, 48, 64))
    assert sizes == {(min(side if side != 24 else 32, 48), min(side if side != 24 else 32, 64))}


class Larger(nn.Module):
    """Makes frames of latents, as a decoder does."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.out = nn.Conv3d(3, 4, 3, padding=1), nn.Conv3d(4, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.nn.functional.interpolate(self.conv(x), scale_factor=(1, 8, 8))
        return self.out(x)


def test_latents_are_smaller_still(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of their pixels is many of the answer's."""
    sizes = set()
    sound = Progressive.step

    def step(self: Progressive, state: Any, *clip: Any, **more: Any) -> Any:
        sizes.add(tuple(clip[0].shape[3:]))
        return sound(self, state, *clip, **more)

    monkeypatch.setattr(Progressive, "step", step)
    prog = pgt_fx.transform(Larger().eval(), torch.zeros(1, 3, 8, 16, 24))
    assert sizes == {(2, 2)} and "equals the model" in prog.report.checked
    with off(1.01), pytest.raises(SelfCheckError):
        pgt_fx.transform(Larger().eval(), torch.zeros(1, 3, 8, 16, 24))


def test_generators_model_and_modes_are_left_as_they_were() -> None:
    model = stack().train()
    model.norm.eval()
    prog = pgt_fx.transform(model, CLIP, check=False)
    torch.manual_seed(7)
    random.seed(7)
    wanted = torch.rand(3), random.random()
    torch.manual_seed(7)
    random.seed(7)
    buffers = copy.deepcopy(dict(model.named_buffers()))
    self_check(prog)
    assert torch.equal(torch.rand(3), wanted[0]) and random.random() == wanted[1]
    assert all(torch.equal(v, buffers[k]) for k, v in model.named_buffers())
    assert model.training and not model.norm.training and not prog.state


class Dropped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv1d(3, 8, 3, padding=1), nn.Conv1d(8, 4, 3, padding=1)
        self.norm, self.drop = nn.BatchNorm1d(8), nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.two(self.drop(self.norm(self.one(x))))


class Noisy(nn.Module):
    """Draws in eval mode as well."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(3, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.nn.functional.dropout(self.conv(x), 0.5, True)


class Strict(nn.Module):
    """Takes no noise."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(3, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        if x.__class__ is Tensor and not x.is_meta and bool((x < 0).any()):
            raise ValueError("pixels are from 0 to 1")
        return self.conv(x)


SEQUENCE = torch.zeros(1, 3, 8)


def test_a_model_in_train_mode_is_compared_in_both() -> None:
    prog = pgt_fx.transform(Dropped().train(), SEQUENCE)
    assert "whole in train mode, in steps in eval mode" in prog.report.checked
    assert prog.training
    with off(1.01), pytest.raises(SelfCheckError, match="in one step"):
        pgt_fx.transform(Dropped().train(), SEQUENCE)


class Warming(nn.Module):
    """Counts its calls in train mode, and reads how many there were."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(3, 4, 3, padding=1)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.calls.add_(1.0)
        return self.conv(x) * torch.tanh(self.calls * 0.3)


class Asks(nn.Module):
    """Goes another way where gradients are on, as models that can checkpoint do."""

    def __init__(self) -> None:
        super().__init__()
        self.on, self.off = nn.Conv1d(3, 4, 3, padding=1), nn.Conv1d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm1d(4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.on(x) if torch.is_grad_enabled() else self.off(x))
        return x + x.mean(1, keepdim=True) if self.on.weight.requires_grad else x


@pytest.mark.parametrize("enabled", [True, False])
def test_the_graph_is_compared_that_is_handed_out(
    enabled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that asks whether gradients are on is not captured anew without them."""
    model = nn.Sequential(Asks()).eval()
    captures = []
    sound = source.capture
    monkeypatch.setattr(source, "capture", lambda *a: captures.append(a) or sound(*a))
    with torch.set_grad_enabled(enabled):
        prog = pgt_fx.transform(model, SEQUENCE, check=False)
        before = len(captures)
        assert "equals the model" in str(self_check(prog))
        assert len(captures) == before
        assert all(x.grad_fn is None and not x.requires_grad for x in model.buffers())
        forward = MarkovWindow.forward

        def faulty(self: MarkovWindow, step: Any, x: Any, *tensors: Any) -> Any:
            out = forward(self, step, x, *tensors)
            here = self.slot.endswith("on" if enabled else "off")
            return out * 1.01 if here and out is not None else out

        monkeypatch.setattr(MarkovWindow, "forward", faulty)
        with pytest.raises(SelfCheckError):
            self_check(prog)


@pytest.mark.parametrize(("most", "frames"), [(99, 19), (18, 8)])
def test_norms_are_fitted_to_all_frames_that_the_model_takes(
    most: int, frames: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On others it may round so much that they prove nothing."""
    sound = Trial.plain

    def plain(self: Trial, video: Any, *model: nn.Module) -> Any:
        if video[0].shape[2] > most:
            raise ValueError("too many frames")
        return sound(self, video, *model)

    monkeypatch.setattr(Trial, "plain", plain)
    model = nn.Sequential(nn.Conv1d(3, 4, 3, padding=1), nn.BatchNorm1d(4)).eval()
    with torch.no_grad():
        trial = Trial(pgt_fx.transform(model, SEQUENCE, check=False), None, None)
        y = trial.model.get_submodule("0")(trial.first(frames)[0])
    fitted = trial.model.get_buffer("1.running_mean")
    shift = (fitted - y.mean((0, 2))) / y.square().mean().sqrt()
    assert float(shift.abs().max()) <= 0.2 + 1e-5  # it is disturbed by that much, and no more


class Inplace(nn.Module):
    """Writes into the clip that it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.act, self.conv = nn.ReLU(inplace=True), nn.Conv1d(3, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.act(x))


def test_each_run_finds_the_model_and_the_video_as_they_were() -> None:
    for future in ("zero", "wait"):
        prog = pgt_fx.transform(Inplace().eval(), SEQUENCE, future=future)
        assert "equals the model" in prog.report.checked
    model = Warming().train()
    prog = pgt_fx.transform(model, SEQUENCE)
    assert "whole in train mode" in prog.report.checked and not model.calls


def test_what_draws_at_random_is_compared_whole_with_the_same_numbers() -> None:
    prog = pgt_fx.transform(Noisy().eval(), SEQUENCE, future="wait")
    assert "it draws at random, so that steps were not compared" in prog.report.checked
    with off(1.01), pytest.raises(SelfCheckError):
        pgt_fx.transform(Noisy().eval(), SEQUENCE, future="wait")


class Own(nn.Module):
    """Its generator is nobody's to put back."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.drop = nn.Conv1d(3, 4, 3, padding=1), OwnNoise()

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.drop(x))


class OwnNoise(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.generator = random.Random(0)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.generator.random()


def test_what_can_not_be_compared_is_said() -> None:
    prog = pgt_fx.transform(Own().train(), SEQUENCE)
    words = (
        "not checked: the model itself answers otherwise each time, with the same random numbers"
    )
    assert prog.report.checked == words
    prog = pgt_fx.transform(Strict().eval(), SEQUENCE)
    words = "not checked: the model itself fails on random videos: ValueError: pixels are from 0"
    assert prog.report.checked.startswith(words)
    prog = pgt_fx.transform(Dropped().eval().to("meta"), SEQUENCE.to("meta"))
    assert prog.report.checked.startswith("not checked: the model's weights are on the meta device")


class Head(nn.Module):
    """A pool over exactly the clip, a convolution before it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv1d(3, 4, 3, padding=1), nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.nn.functional.avg_pool1d(self.conv(x), 8).flatten(1))


class Attends(nn.Module):
    """Attention without a mask, squeeze and excitation, and a mean over time."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.conv, self.gate = nn.Conv1d(3, 4, 3, padding=1), nn.Conv1d(4, 4, 1)

    def forward(self, x: Tensor) -> Any:
        x = self.conv(x)
        x = x * self.gate(x.mean(2, keepdim=True)).sigmoid()
        y = x.transpose(1, 2)
        return {"frames": self.attention(y, y, y)[0].transpose(1, 2), "mean": x.mean(2)}


@pytest.mark.parametrize(
    ("kind", "options", "words"),
    [
        (Head, {"clip_pools": "global"}, "8, 19 frames"),
        (Head, {"clip_pools": "global", "pooling": "running", "future": "wait"}, "8, 19 frames"),
        (Head, {"clip_pools": "global", "pooling": "markov"}, "8, 19 frames"),
        (Head, {"clip_pools": "global", "operator": "cmco-max"}, "8, 19 frames"),
        (Attends, {}, "1, 8, 19 frames"),
        (Attends, {"attention": "memory", "operator": "pmco"}, "1, 8, 19 frames"),
        (Attends, {"future": "wait", "strict": False}, "1, 8, 19 frames"),
        (Attends, {"future": "wait", "strict": False, "pooling": "running"}, "1, 8, 19 frames"),
    ],
)
def test_all_options_are_compared(kind: Any, options: dict[str, Any], words: str) -> None:
    torch.manual_seed(0)
    prog = pgt_fx.transform(kind().eval(), SEQUENCE, **options)
    assert words in prog.report.checked, prog.report.checked
    with off(1.01), pytest.raises(SelfCheckError):
        pgt_fx.transform(kind().eval(), SEQUENCE, **options)


def test_answers_that_are_not_finite_prove_nothing() -> None:
    model = nn.Conv1d(3, 4, 3, padding=1)
    nn.init.constant_(model.weight, float("nan"))
    prog = pgt_fx.transform(model, SEQUENCE)
    assert "not checked" in prog.report.checked and "look at its weights" in prog.report.checked


class Averaged(nn.Module):
    """Its mean is of more digits than the model's, step by step: in half precision these differ."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(3, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).mean(2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_small_fault_in_half_precision_is_told_from_rounding(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One per cent is less than bfloat16 rounds, and plain to see in float64."""
    torch.manual_seed(0)
    model, clip = Averaged().eval().to(dtype), torch.randn(1, 3, 8).to(dtype)
    options: Any = {"time_dim": 2, "future": "wait", "pooling": "running"}
    sound = pgt_fx.transform(model, clip, **options)
    assert sound.report.checked.endswith("float64")  # the rounding was looked at, and let pass
    plain = MarkovWindow._apply_to
    monkeypatch.setattr(MarkovWindow, "_apply_to", lambda self, *given: 1.01 * plain(self, *given))
    with pytest.raises(SelfCheckError, match=r"in float64, .* is off by [0-9]e-0[23]"):
        pgt_fx.transform(model, clip, **options)
