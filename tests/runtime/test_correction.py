"""Convolutions whose past is added afterwards: the same frames, and only where it pays."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import ends, random_chunks, relative_error
from torch import Tensor, nn

import pgt_fx
from pgt_fx.runtime.markov import correction, window


@pytest.fixture(autouse=True)
def small_ones_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(correction._WORTH_ELEMENTS, "cpu", 0)


@pytest.fixture
def corrected(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Lengths of the steps that were taken without a copy."""
    steps: list[int] = []
    run = correction.Correction.run

    def counted(self: correction.Correction, x: Tensor, *others: Tensor) -> Tensor:
        steps.append(x.shape[2])
        return run(self, x, *others)

    monkeypatch.setattr(correction.Correction, "run", counted)
    yield steps


CONVS = {
    "conv1d": (nn.Conv1d(4, 6, 3, padding=1), (4,)),
    "depthwise": (nn.Conv3d(4, 4, 3, padding=1, groups=4, bias=False), (4, 5, 6)),
    "factorised, k=5": (nn.Conv3d(4, 3, (5, 1, 1), padding=(2, 0, 0)), (4, 5, 6)),
    "depthwise, factorised": (
        nn.Conv3d(4, 4, (5, 1, 1), padding=(2, 0, 0), groups=4),
        (4, 5, 6),
    ),
    "depthwise, a pixel in four": (
        nn.Conv3d(4, 4, (5, 1, 1), (1, 2, 2), (2, 0, 0), groups=4),
        (4, 5, 6),
    ),
    "depthwise, k=3 alone": (nn.Conv1d(4, 4, 3, padding=1, groups=4), (4,)),
    "k=7 in two groups": (nn.Conv3d(4, 6, (7, 3, 1), padding=(3, 1, 0), groups=2), (4, 5, 6)),
    "strided and dilated in space": (
        nn.Conv3d(4, 6, 3, (1, 2, 1), (1, 2, 0), (1, 2, 1)),
        (4, 9, 6),
    ),
    "joints": (nn.Conv2d(4, 6, (3, 1), padding=(1, 0)), (4, 9)),
    '"same"': (nn.Conv3d(4, 6, 3, padding="same"), (4, 5, 6)),
}


def video_of(sizes: Sequence[int], frames: int) -> Tensor:
    generator = torch.Generator().manual_seed(frames)
    shape = (2, sizes[0], frames, *sizes[1:])
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def steps_of(prog: pgt_fx.Progressive, video: Tensor, chunks: Sequence[int]) -> list[Tensor]:
    prog.reset()
    last = [n == len(chunks) - 1 for n in range(len(chunks))]
    pieces = video.split(list(chunks), 2)
    return [prog(piece, last=end) for piece, end in zip(pieces, last, strict=True)]


@pytest.mark.parametrize("name", CONVS)
def test_each_step_is_the_convolution_of_all_frames_so_far(name: str, corrected: list[int]) -> None:
    """future="zero" by its definition: all of the past, and zeros behind the step (DESIGN §3)."""
    model, sizes = CONVS[name]
    model = model.double()
    video, chunks = video_of(sizes, 25), [8, 7, 4, 6]
    prog = pgt_fx.transform(model, video[:, :, :9], time_dim=2)
    with torch.no_grad():
        outs = steps_of(prog, video, chunks)
        for out, end in zip(outs, ends(chunks), strict=True):
            expected = model(video[:, :, :end])[:, :, end - out.shape[2] :]
            assert relative_error(out, expected) <= 1e-13
    assert corrected == chunks
    for out, with_copy in zip(outs, steps_of(prog, video, chunks), strict=True):
        assert with_copy.requires_grad
        assert relative_error(out, with_copy) <= 1e-13
    assert corrected == chunks, "with gradients the input is copied"


@given(st.integers(0, 2**16), st.sampled_from(["conv1d", "depthwise", "k=7 in two groups"]))
@settings(max_examples=25, deadline=None)
def test_any_chunks_and_states_between_the_two_ways(seed: int, name: str) -> None:
    """What one way carries the other goes on with; chunks shorter than the kernel are copied."""
    import random

    model, sizes = CONVS[name]
    model = model.double()
    rng = random.Random(seed)
    video = video_of(sizes, 23)
    chunks = random_chunks(23, 9, rng)
    prog = pgt_fx.transform(model, video[:, :, :9], time_dim=2)
    state = prog.init_state(video[:, :, :1])
    for n, (piece, end) in enumerate(zip(video.split(chunks, 2), ends(chunks), strict=True)):
        with torch.set_grad_enabled(rng.random() < 0.5):
            out, state = prog.step(state, piece, last=n == len(chunks) - 1)
        expected = model(video[:, :, :end])[:, :, end - out.shape[2] :]
        assert relative_error(out, expected) <= 1e-12


@pytest.mark.parametrize(
    ("model", "options"),
    [
        (nn.Conv1d(4, 6, 3, padding=1), {"future": "wait"}),
        (nn.Conv1d(4, 6, 3, padding=1), {"operator": "cmco-max"}),
        (nn.Conv1d(4, 6, 3, padding=1, stride=2), {}),
        (nn.Conv1d(4, 6, 3, padding=2, dilation=2), {}),
        (nn.Conv1d(4, 6, 3), {}),
        (nn.Conv1d(4, 6, 3, padding=1, padding_mode="replicate"), {}),
        (nn.MaxPool1d(3, 1, 1), {}),
    ],
)
def test_others_are_copied(model: nn.Module, options: dict[str, str], corrected: list[int]) -> None:
    video = video_of((4,), 24)
    prog = pgt_fx.transform(model.double(), video[:, :, :8], time_dim=2, **options)  # type: ignore[arg-type]
    with torch.no_grad():
        steps_of(prog, video, [8, 8, 8])
    assert not corrected


def test_autocast_small_inputs_and_half_precision_are_copied(
    corrected: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two results rounded and added are rounded thrice; and two calls cost more than a copy."""
    model, video = nn.Conv1d(4, 6, 3, padding=1), video_of((4,), 16).float()
    prog = pgt_fx.transform(model, video[:, :, :8])
    with torch.no_grad():
        with torch.autocast("cpu", torch.bfloat16):
            steps_of(prog, video, [8, 8])
        prog.bfloat16()
        steps_of(prog, video.bfloat16(), [8, 8])
        prog.float()
        monkeypatch.setitem(correction._WORTH_ELEMENTS, "cpu", 10**6)
        steps_of(prog, video, [8, 8])
    assert not corrected


def test_no_input_is_laid_out_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> None:
        raise AssertionError("copied")

    video = video_of((4,), 16)
    prog = pgt_fx.transform(nn.Conv1d(4, 6, 3, padding=1).double(), video[:, :, :8])
    monkeypatch.setattr(window, "padded", never)
    with torch.no_grad():
        assert len(steps_of(prog, video, [8, 8])) == 2
    with pytest.raises(AssertionError, match="copied"):
        steps_of(prog, video, [8, 8])


def test_frames_carried_in_another_type_are_copied(corrected: list[int]) -> None:
    """Autocast that ends within a video."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv3d(4, 4, 1), nn.Conv3d(4, 4, 3, padding=1)).eval()
    x = torch.randn(1, 4, 12, 6, 6)
    prog = pgt_fx.transform(model, x[:, :, :4])
    with torch.no_grad():
        with torch.autocast("cpu", torch.bfloat16):
            prog(x[:, :, :4])
        second = prog(x[:, :, 4:8])
        assert second.dtype == torch.float32 and not corrected
        prog(x[:, :, 8:])
    assert corrected
    plain = pgt_fx.transform(model, x[:, :, :4]).run(x, schedule=[4, 4, 4])[1]
    assert relative_error(second, plain) < 2e-2
