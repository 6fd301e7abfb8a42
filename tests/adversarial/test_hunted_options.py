"""Models and uses of them that a hunt found answered wrongly, or refused without a reason."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from oracles import relative_error
from torch import Tensor, nn

import pgt_fx
from pgt_fx.core.errors import BlockedError, ClipError, VerificationError
from pgt_fx.testing import assert_causal

CLIP = torch.randn(2, 4, 8, dtype=torch.float64)


class Net(nn.Module):
    """A convolution along time, and a function of it."""

    def __init__(self, then: Callable[[Tensor], Tensor], kernel: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv1d(4, 4, kernel, padding=kernel // 2)
        self.then = then
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        return self.then(torch.tanh(self.conv(x)))


def stream(prog: pgt_fx.Progressive, video: Tensor, chunks: list[int]) -> Tensor:
    """The answers of all steps, one after the other."""
    outs = [out for out in prog.run(video, schedule=chunks) if out is not None]
    return torch.cat(outs, 2)


@pytest.mark.parametrize("pool", [F.max_pool1d, F.avg_pool1d])
def test_a_pool_over_as_many_frames_as_there_are_is_no_window(
    pool: Callable[[Tensor, int], Tensor],
) -> None:
    """It is over all frames of a video, of which there is one answer at its end."""
    model = Net(lambda h: pool(h, h.shape[2])[..., 0]).double().eval()
    prog = pgt_fx.transform(model, CLIP, time_dim=2, future="wait", pooling="running", check=False)
    video = torch.randn(2, CLIP.shape[1], 21, dtype=torch.float64)
    (*_, last) = prog.run(video, schedule=[5, 1, 8, 7])
    assert relative_error(last, model(video)) < 1e-12


class DropPath(nn.Module):
    """Stochastic depth as timm writes it."""

    def __init__(self, keep: float) -> None:
        super().__init__()
        self.keep = keep

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        mask = x.new_empty((x.shape[0],) + (1,) * (x.ndim - 1)).bernoulli_(self.keep)
        return x * mask.div_(self.keep)


@pytest.mark.parametrize("gradient", ["truncated", "exact"])
def test_a_mask_drawn_into_empty_memory_is_drawn_anew_in_each_step(gradient: str) -> None:
    conv = nn.Conv1d(4, 4, 3, padding=1)
    model = nn.Sequential(conv, DropPath(0.5), nn.Conv1d(4, 4, 1)).double().train()
    prog = pgt_fx.transform(model, CLIP, time_dim=2)
    video = torch.randn(16, 4, 8, dtype=torch.float64)
    for seed in range(3):
        torch.manual_seed(seed)
        one = prog.full(video)
        torch.manual_seed(seed)
        assert torch.allclose(one, model(video), atol=1e-12)
    dropped = [(out - model[2].bias[:, None]).flatten(1).abs().amax(1) < 1e-12
               for out in prog.run(video, schedule=[4, 4])]  # fmt: skip
    assert not torch.equal(*dropped)
    found = pgt_fx.training.backward(
        prog, video, lambda out, _: out.square().sum(), schedule=[4, 4], gradient=gradient
    )
    assert found.loss > 0 and conv.weight.grad is not None


def test_memory_that_nothing_is_written_to_is_no_value() -> None:
    model = Net(lambda h: h + 0 * h.new_empty(h.shape))
    with pytest.raises(BlockedError, match="new_empty"):
        pgt_fx.transform(model, CLIP, time_dim=2)


def test_a_stream_begun_in_inference_mode_goes_on_with_gradients() -> None:
    model = Net(lambda h: h.amax(2))
    prog = pgt_fx.transform(model, CLIP, time_dim=2, future="wait", pooling="running")
    video = torch.randn(2, 4, 17, dtype=torch.float64)
    with torch.inference_mode():
        prog(video[:, :, :9])
    last = prog(video[:, :, 9:], last=True)
    assert torch.allclose(last, model(video), atol=1e-12)
    last.sum().backward()
    assert model.conv.weight.grad is not None


@pytest.fixture
def settings_of_torch() -> Iterator[None]:
    precision, mode = torch.get_float32_matmul_precision(), torch.get_deterministic_debug_mode()
    yield
    torch.set_float32_matmul_precision(precision)
    torch.set_deterministic_debug_mode(mode)


SETTINGS: dict[str, tuple[Callable[[], bool], Callable[[], None]]] = {
    "deterministic": (
        lambda: torch.are_deterministic_algorithms_enabled(),
        lambda: torch.use_deterministic_algorithms(True),
    ),
    "debug mode": (
        lambda: torch.get_deterministic_debug_mode() == 1,
        lambda: torch.set_deterministic_debug_mode("warn"),
    ),
    "precision": (
        lambda: torch.get_float32_matmul_precision() == "high",
        lambda: torch.set_float32_matmul_precision("high"),
    ),
}


VARIABLES: dict[str, Callable[[], float]] = {
    "environ": lambda: float(os.environ["PGT_FX_SCALE"]),
    "get": lambda: float(os.environ.get("PGT_FX_SCALE", "2")),
    "getenv": lambda: float(os.getenv("PGT_FX_SCALE", "2")),
    "in": lambda: 3.0 if "PGT_FX_SCALE" in os.environ else 2.0,
}


@pytest.mark.parametrize("name", VARIABLES)
def test_a_variable_of_the_environment_may_change(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    scale = VARIABLES[name]
    if name == "environ":
        monkeypatch.setenv("PGT_FX_SCALE", "1.5")
    model = Net(lambda h: scale() * h).eval()
    prog = pgt_fx.transform(model, CLIP, time_dim=2, future="wait")
    assert any("variable PGT_FX_SCALE" in guard.words for guard in prog.guards)
    video = torch.randn(2, 4, 17, dtype=torch.float64)
    before = model(video)
    assert torch.allclose(stream(prog, video, [5, 12]), before, atol=1e-12)
    monkeypatch.setenv("PGT_FX_SCALE", "5")
    assert not torch.allclose(before, model(video))
    assert torch.allclose(stream(prog, video, [5, 12]), model(video), atol=1e-12)


@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_of_torch_that_the_model_asks_for_may_change(
    name: str, settings_of_torch: None
) -> None:
    on, switch = SETTINGS[name]
    model = Net(lambda h: 2 * h if on() else 3 * h).eval()
    prog = pgt_fx.transform(model, CLIP, time_dim=2, future="wait")
    video = torch.randn(2, 4, 17, dtype=torch.float64)
    assert torch.allclose(stream(prog, video, [5, 12]), model(video), atol=1e-12)
    before = model(video)
    switch()
    assert not torch.allclose(before, model(video))
    assert torch.allclose(stream(prog, video, [5, 12]), model(video), atol=1e-12)


@pytest.mark.parametrize("which", ["a part", "all"])
def test_what_torch_compile_wraps_is_captured_as_it_was_written(which: str) -> None:
    plain = nn.Sequential(nn.Conv1d(4, 4, 3, padding=1), nn.Tanh(), nn.Conv1d(4, 4, 3, padding=1))
    model = plain = plain.double().eval()
    if which == "all":
        model = torch.compile(plain, backend="eager")
    else:
        model = nn.Sequential(torch.compile(plain[0], backend="eager"), *plain[1:])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        prog = pgt_fx.transform(model, CLIP, time_dim=2, future="wait")
    video = torch.randn(2, 4, 17, dtype=torch.float64)
    assert torch.allclose(stream(prog, video, [5, 3, 9]), plain(video), atol=1e-12)


@pytest.mark.parametrize("start, pads", [(1, (0, 1)), (2, (2, 0)), (1, (1, 1))])
@pytest.mark.parametrize("future", ["zero", "wait"])
def test_a_video_too_short_to_be_padded_is_refused(
    start: int, pads: tuple[int, int], future: str
) -> None:
    model = nn.Sequential(Net(lambda h: F.pad(h[:, :, start:], pads)), Net(torch.relu)).eval()
    prog = pgt_fx.transform(model, CLIP, time_dim=2, future=future)
    for frames in range(1, 6):
        video = torch.randn(2, 4, frames, dtype=torch.float64)
        if frames > start:
            assert torch.allclose(prog.full(video), model(video), atol=1e-12)
        else:
            with pytest.raises(ClipError, match=f"at least {start + 1}"):
                prog.full(video)


def upsampled(kernel: int, stride: int) -> nn.Module:
    """Frames halved and doubled again: even and odd outputs have their fields at other places."""
    up = nn.ConvTranspose1d(4, 4, kernel, stride, 1)
    return nn.Sequential(nn.Conv1d(4, 4, 3, stride, 1), nn.Tanh(), up).double()


def repeated() -> nn.Module:
    after = nn.Conv1d(4, 4, 3, padding=1).double()
    return Net(lambda h: after(h.repeat_interleave(2, 2)))


@pytest.mark.parametrize("make", [lambda: upsampled(4, 2), lambda: upsampled(5, 3), repeated])
def test_the_field_of_outputs_that_lie_between_frames_is_measured_rightly(
    make: Callable[[], nn.Module],
) -> None:
    prog = pgt_fx.transform(make().eval(), CLIP, time_dim=2)
    found = pgt_fx.verify(prog, checks=["receptive-field"])["receptive-field"]
    assert found.ok is True and found.measured == "0 outside", found


@pytest.mark.parametrize("figure", ["receptive_field", "look_ahead"])
def test_a_figure_of_the_report_that_is_too_small_is_found(
    figure: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    prog = pgt_fx.transform(upsampled(4, 2).eval(), CLIP, time_dim=2)
    made = pgt_fx.runtime.progressive.Progressive.report.fget

    def smaller(self: pgt_fx.Progressive) -> pgt_fx.Report:
        report = made(self)
        return replace(report, **{figure: [x - 1 for x in getattr(report, figure)]})

    monkeypatch.setattr(pgt_fx.runtime.progressive.Progressive, "report", property(smaller))
    assert pgt_fx.verify(prog, checks=["receptive-field"])["receptive-field"].ok is False


def test_a_model_that_reads_its_first_frames_alone_keeps_its_promises() -> None:
    model = Net(lambda h: h[:, :, 0]).eval()
    prog = pgt_fx.transform(model, CLIP, time_dim=2, pooling="running")
    found = pgt_fx.verify(prog, checks=["one-way-forward"])["one-way-forward"]
    assert found.ok is True, found


def in_groups(frames: int) -> Callable[[Tensor], Tensor]:
    """Attention that sees the frames before, and all of its own group."""

    def attend(h: Tensor) -> Tensor:
        h = h.transpose(1, 2)
        group = torch.arange(h.shape[1]) // frames
        seen = group[:, None] >= group[None]
        return F.scaled_dot_product_attention(h, h, h, attn_mask=seen).transpose(1, 2)

    return attend


def one_in(frames: int, which: int) -> Callable[[Tensor], Tensor]:
    """The next frame in place of its own, at one frame of each group."""

    def take(h: Tensor) -> Tensor:
        after = F.pad(h[:, :, 1:], (0, 1))
        return torch.where(torch.arange(h.shape[2]) % frames == which, after, h)

    return take


LEAKS = {
    **{f"groups of {n}": in_groups(n) for n in (2, 3, 6)},
    **{f"frame {k} of {n}": one_in(n, k) for n in (3, 5, 8) for k in range(n)},
}


@pytest.mark.parametrize("leak", LEAKS.values(), ids=LEAKS.keys())
def test_a_look_ahead_within_groups_of_frames_is_found(leak: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(VerificationError, match="changes when frames from"):
        assert_causal(Net(leak, kernel=1), CLIP, time_dim=2)
