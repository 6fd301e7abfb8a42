"""What a model asks of its tensors: what has a gradient, how they lie in memory, of which type they
are, where they stand."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
from judge import PARTLY, REFUSED, RIGHT, Along, Case, judge
from oracles import relative_error
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, spectral_norm

import pgt_fx
from pgt_fx.core.errors import ClipError


def _if(asked: Callable[[Any, Tensor], bool]) -> Callable[[Any, Tensor], Tensor]:
    return lambda s, y: y * (2 if asked(s, y) else 3)


GRADIENTS = {
    "weight": lambda s, y: s.conv.weight.requires_grad,
    "value": lambda s, y: y.requires_grad,
    "graph": lambda s, y: y.grad_fn is None,
    "leaf": lambda s, y: y.is_leaf,
    "gradient": lambda s, y: s.conv.weight.grad is None,
}
WITH = {
    "gradients": contextlib.nullcontext,
    "none": torch.no_grad,
    "inference": torch.inference_mode,
}


@pytest.mark.parametrize("name", GRADIENTS)
@pytest.mark.parametrize("made", WITH)
def test_what_has_a_gradient(name: str, made: str) -> None:
    """Also after weights were frozen, or had their first gradients, since the transform."""
    model = Along(_if(GRADIENTS[name])).double().eval()
    video = torch.randn(1, 2, 11, 4, 4, dtype=torch.float64)
    with WITH[made]():
        prog = pgt_fx.transform(model, video[:, :, :8], future="wait")

    def compare() -> None:
        for where, context in WITH.items():
            with context():
                assert relative_error(prog.full(video), model(video)) < 1e-12, where

    compare()
    model.conv.weight.requires_grad_(False)
    compare()
    model.requires_grad_(False)
    compare()
    model.requires_grad_(True)
    model(video).sum().backward()
    compare()
    with pytest.raises(ClipError, match="need a gradient"):
        prog.full(video.requires_grad_())


LAYOUTS: dict[str, tuple[Callable[[Any, Tensor], bool], str]] = {
    "contiguous": (lambda s, y: y.is_contiguous(), RIGHT),
    "contiguous at one frame": (lambda s, y: y.transpose(1, 2).is_contiguous(), PARTLY),
    "channels last": (lambda s, y: y.is_contiguous(memory_format=torch.channels_last_3d), RIGHT),
    "stride of time": (lambda s, y: y.stride(2) == 16, RIGHT),
    "stride by the frames": (lambda s, y: y.stride()[1] == 128, REFUSED),
    "order of strides": (lambda s, y: y.mT.stride(-1) > y.mT.stride(-2), RIGHT),
    "offset of a frame": (lambda s, y: y[:, :, 1:].storage_offset() == 16, RIGHT),
    "offset by the frames": (lambda s, y: y[:, 1:].storage_offset() == 128, REFUSED),
    "address": (lambda s, y: y.data_ptr() % 64 == 0, REFUSED),
    "inference": (lambda s, y: y.is_inference(), REFUSED),
    "version": (lambda s, y: y._version == 0, REFUSED),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_how_a_tensor_lies_in_memory(name: str) -> None:
    asked, expected = LAYOUTS[name]
    others = [(2, 2, 8, 4, 4), (1, 2, 8, 6, 6)]
    assert judge(Case(lambda: Along(_if(asked)), expected, others=others)) == expected


def test_a_clip_that_lies_otherwise_is_refused() -> None:
    class Asks(Along):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x if x.is_contiguous() else -x)

    model = Asks(lambda s, y: y).double().eval()
    video = torch.randn(1, 2, 11, 4, 4, dtype=torch.float64)
    prog = pgt_fx.transform(model, video[:, :, :8].contiguous(), future="wait")
    assert relative_error(prog.full(video), model(video)) < 1e-12
    for lain in (torch.channels_last_3d, None):
        other = video.mT.contiguous().mT if lain is None else video.to(memory_format=lain)
        with pytest.raises(ClipError, match=r"pass clip\.contiguous\(\)"):
            prog.full(other)


TYPES = {
    "type of a value": lambda s, y: type(y) is Tensor,
    "type of a weight": lambda s, y: type(s.conv.weight) is nn.Parameter,
    "name of a type": lambda s, y: type(y).__name__ == "Tensor",
    "type of a size": lambda s, y: type(y.shape[3]) is int,
    "size is an int": lambda s, y: isinstance(y.shape[2], int),
    "type is a type": lambda s, y: isinstance(Tensor, type) and not isinstance(y, type),
    "device": lambda s, y: y.device.type == "cpu",
    "is_cpu": lambda s, y: y.is_cpu,
    "no data": lambda s, y: y.is_meta,
    "layout": lambda s, y: y.layout == torch.strided,
    "number type": lambda s, y: y.type() == "torch.DoubleTensor",
    "bytes": lambda s, y: y.element_size() == 8,
    "bytes, as an attribute": lambda s, y: y.itemsize == 8,
    "floats": lambda s, y: y.is_floating_point() and torch.is_floating_point(y),
    "promotion": lambda s, y: torch.result_type(y, 1) == torch.float64,
}


@pytest.mark.parametrize("name", TYPES)
def test_of_which_type_a_tensor_is(name: str) -> None:
    model = Along(_if(TYPES[name])).double().eval()
    video = torch.randn(1, 2, 11, 4, 4, dtype=torch.float64)
    prog = pgt_fx.transform(model, video[:, :, :8], future="wait", check=False)
    assert relative_error(prog.full(video), model(video)) < 1e-12
    prog.float()
    assert relative_error(prog.full(video.float()), model(video.float())) < 1e-6


def test_the_device_that_a_table_is_made_on_is_no_question() -> None:
    def beside(s: Any, y: Tensor) -> Tensor:
        return y + torch.arange(y.shape[2], device=y.device)[:, None, None].to(y.device)

    prog = pgt_fx.transform(Along(beside).eval(), torch.randn(1, 2, 8, 4, 4))
    assert not any("where they were" in guard.words for guard in prog.guards)
    asks = pgt_fx.transform(Along(_if(lambda s, y: y.is_cpu)).eval(), torch.randn(1, 2, 8, 4, 4))
    assert any("where they were" in guard.words for guard in asks.guards)


class Normed(nn.Module):
    """A parametrization of one's own, whose buffer each call in train mode moves on."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.register_buffer("u", torch.ones(rows))

    def forward(self, weight: Tensor) -> Tensor:
        flat = weight.flatten(1)
        if self.training:
            with torch.no_grad():
                self.u.copy_(nn.functional.normalize(flat @ (flat.t() @ self.u), dim=0))
        return weight / (self.u @ flat).norm()


def _own(conv: nn.Conv3d) -> nn.Module:
    parametrize.register_parametrization(conv, "weight", Normed(conv.out_channels))
    return conv


MOVING = {
    "parametrization": (parametrizations.spectral_norm, {"_u", "_v"}),
    "hook": (spectral_norm, {"weight_u", "weight_v"}),
    "one's own": (_own, {"u"}),
}


@pytest.mark.parametrize("name", MOVING)
@pytest.mark.parametrize("kernel", [(3, 1, 1), (1, 3, 3)])
def test_a_buffer_that_each_call_in_train_mode_moves_on(
    name: str, kernel: tuple[int, int, int]
) -> None:
    """Its power iteration runs once in each step: said, and not called exact."""
    normed, buffers = MOVING[name]
    inner = nn.Conv3d(4, 4, kernel, padding=tuple(k // 2 for k in kernel))
    model = nn.Sequential(nn.Conv3d(3, 4, (3, 1, 1), padding=(1, 0, 0)), normed(inner))
    prog = pgt_fx.transform(model.train(), torch.randn(1, 3, 8, 8, 8), future="wait")
    assert not prog.report.exact
    told = [row for row in prog.report.inexact if "once in each step" in row.reason]
    assert {row.name.rpartition(".")[2] for row in told} == buffers
    prog.eval()
    assert prog.report.exact
