"""What a model asks of its surroundings: gradients, autocast, types, captures, random numbers."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
from judge import REFUSED, Along, Case, judge
from oracles import relative_error
from torch import Tensor
from torch.compiler import is_compiling, is_exporting

import pgt_fx


def _own_block(s: Any, y: Tensor) -> Tensor:
    with torch.no_grad():
        return y * (5 if torch.is_grad_enabled() else 7)


QUESTIONS: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "gradients": lambda s, y: y * (2 if torch.is_grad_enabled() else 3),
    "gradients in a block of its own": _own_block,
    "inference mode": lambda s, y: y * (2 if torch.is_inference_mode_enabled() else 3),
    "autocast": lambda s, y: y * (2 if torch.is_autocast_enabled("cpu") else 3),
    "type of autocast": lambda s, y: (
        y * (2 if torch.get_autocast_dtype("cpu") == torch.float16 else 3)
    ),
    "type of a value": lambda s, y: y * (2 if y.dtype == torch.float64 else 3),
    "type of the weights": lambda s, y: y * (2 if s.conv.weight.dtype == torch.float64 else 3),
    "default type": lambda s, y: y * (2 if torch.get_default_dtype() == torch.float32 else 3),
    "compiling": lambda s, y: y * (2 if torch.compiler.is_compiling() else 3),
    "compiling, imported": lambda s, y: y * (2 if is_compiling() else 3),
    "exporting, imported": lambda s, y: y * (2 if is_exporting() else 3),
    "dynamo": lambda s, y: y * (2 if torch._dynamo.is_compiling() else 3),
    "traced": lambda s, y: y * (2 if torch.jit.is_tracing() else 3),
    "onnx": lambda s, y: y * (2 if torch.onnx.is_in_onnx_export() else 3),
}
WHERE: dict[str, Callable[[], Any]] = {
    "with gradients": contextlib.nullcontext,
    "without": torch.no_grad,
    "inference": torch.inference_mode,
    "bfloat16": lambda: torch.autocast("cpu", torch.bfloat16),
    "float16": lambda: torch.autocast("cpu", torch.float16),
}


@pytest.mark.parametrize("name", QUESTIONS)
@pytest.mark.parametrize("made", ["with gradients", "inference"])
def test_a_question_is_answered_as_in_the_model(name: str, made: str) -> None:
    model = Along(QUESTIONS[name]).eval()
    video = torch.randn(1, 2, 11, 4, 4)
    with WHERE[made]():
        prog = pgt_fx.transform(model, video[:, :, :8], future="wait")
    for where, context in WHERE.items():
        with context():
            assert relative_error(prog.full(video), model(video)) < 1e-6, where
    prog.double()
    assert relative_error(prog.full(video.double()), model(video.double())) < 1e-12
    prog.float()
    assert relative_error(prog.full(video), model(video)) < 1e-6


def test_the_type_of_the_clip() -> None:
    """Frames of bytes are scaled: the graph for frames of floats would not."""

    class Scales(Along):
        def forward(self, x: Tensor) -> Tensor:
            if x.dtype == torch.uint8:
                x = x.float() / 255
            return super().forward(x)

    model = Scales(lambda s, y: y).eval()
    video = torch.randint(0, 255, (1, 2, 11, 4, 4), dtype=torch.uint8)
    prog = pgt_fx.transform(model, torch.randn(1, 2, 8, 4, 4), future="wait")
    assert relative_error(prog.full(video), model(video)) < 1e-6
    assert relative_error(prog.full(video.float()), model(video.float())) < 1e-6


def _seeds(s: Any, y: Tensor) -> Tensor:
    torch.manual_seed(0)
    return y + torch.rand_like(y)


def _forks(s: Any, y: Tensor) -> Tensor:
    with torch.random.fork_rng():
        torch.random.manual_seed(0)
        return y + torch.rand_like(y)


def _generator(s: Any, y: Tensor) -> Tensor:
    return y + torch.rand(y.shape, generator=torch.Generator().manual_seed(1), dtype=y.dtype)


def _own_generator(s: Any, y: Tensor) -> Tensor:
    return y + torch.empty_like(y).normal_(generator=s.generator)


DRAWS = {
    "seed": (_seeds, "seeds torch's random numbers"),
    "fork": (_forks, "seeds torch's random numbers"),
    "generator": (_generator, "a generator of its own"),
    "generator kept": (_own_generator, "normal_"),
}


@pytest.mark.parametrize("name", DRAWS)
def test_random_numbers_that_begin_anew_in_each_step(name: str) -> None:
    then, says = DRAWS[name]
    make = lambda: Along(then, generator=torch.Generator().manual_seed(3))
    assert judge(Case(make, REFUSED, says=says)) == REFUSED
