"""Runs without compute: models that mind tensors without data are run another way, and none is
changed by it."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import pgt_fx
from pgt_fx.capture.probe import meta_run as probing
from pgt_fx.capture.probe.meta_run import probe
from pgt_fx.core.clip import read_example


class Conv(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv1d(4, 4, 3, padding=1), nn.BatchNorm1d(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x))


class MakesItsOwn(Conv):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + torch.ones(4, 1)


class KeepsItsOwn(Conv):
    def __init__(self) -> None:
        super().__init__()
        self.kept = [torch.ones(4, 1)]

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.kept[0]


class Minds(Conv):
    def forward(self, x: Tensor) -> Tensor:
        if x.is_meta:
            raise NotImplementedError("no kernel for this")
        return super().forward(x)


class AsksForTheDevice(Conv):
    def forward(self, x: Tensor) -> Tensor:
        if x.device.type == "meta":
            raise RuntimeError("unknown device")
        return super().forward(x)


@pytest.mark.parametrize("kind", [MakesItsOwn, KeepsItsOwn, Minds, AsksForTheDevice])
def test_what_fails_without_data_alone_is_run_with_a_device(
    kind: type[nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[str] = []
    for name in ("_on_meta", "_on_fake"):
        way = getattr(probing, name)

        def noted(*args: Any, name: str = name, way: Any = way) -> None:
            ran.append(name)
            way(*args)

        monkeypatch.setattr(probing, name, noted)
    torch.manual_seed(0)
    model, video = kind().eval(), torch.randn(2, 4, 24)
    prog = pgt_fx.transform(model, video[:, :, :8], time_dim=2, future="wait")
    assert ran == ["_on_meta", "_on_fake"]
    outs = [out for out in prog.run(video, schedule=[8, 8, 8]) if out is not None]
    assert torch.allclose(torch.cat(outs, 2), model(video), atol=1e-6)


class OneLength(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.ones(1, 4, 8))

    def forward(self, x: Tensor) -> Tensor:
        return x.matmul(self.table.transpose(1, 2))


def test_sizes_that_do_not_go_together_are_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probing, "_on_fake", None)
    spec, leaves = read_example(torch.randn(2, 4, 8))
    assert probe(OneLength(), spec.spec, leaves).error is None
    found = probe(OneLength(), spec.spec, [torch.randn(2, 4, 9)])
    assert isinstance(found.error, RuntimeError) and "[8, 9] X [8, 4]" in str(found.error)


class WrongNorm(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.norm(x))


@pytest.mark.parametrize(
    ("channels", "shape", "fails"),
    [(4, (1, 4, 9), False), (5, (1, 4, 9), True), (4, (1, 4, 1), True), (4, (4,), True)],
)
def test_a_norm_that_does_not_fit_is_told(
    channels: int, shape: tuple[int, ...], fails: bool
) -> None:
    model = WrongNorm(channels)
    spec, _ = read_example(torch.randn(1, 4, 9))
    error = probe(model, spec.spec, [torch.randn(shape)]).error
    assert (error is not None) == fails
    if fails:
        with pytest.raises(type(error), match=re.escape(str(error)[:30])):
            model(torch.randn(shape))


class LaidOutAnew(WrongNorm):
    """Reads what a relu made by a view, which its input's strides would not allow."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x[:1].expand_as(x)).view(-1)


class ChangedInPlace(WrongNorm):
    def forward(self, x: Tensor) -> Tensor:
        self.norm(x).unsqueeze_(0)
        torch.relu(x).unsqueeze_(0)
        return torch.bmm(torch.relu(x), x.new_ones(4, x.shape[2], 1))


@pytest.mark.parametrize("kind", [LaidOutAnew, ChangedInPlace])
def test_what_is_passed_by_has_the_strides_and_is_a_tensor_of_its_own(
    kind: type[WrongNorm], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probing, "_on_fake", None)
    model, x = kind(4).eval(), torch.randn(4, 4, 9)
    model(x.clone())
    spec, leaves = read_example(x)
    assert probe(model, spec.spec, leaves).error is None


class FourAtATime(Conv):
    def forward(self, x: Tensor) -> Tensor:
        if x.shape[2] % 4:
            raise ValueError(f"{x.shape[2]} frames, where a multiple of 4 is needed")
        return super().forward(x)


def test_an_error_of_the_model_itself_about_sizes_is_told_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(probing, "_on_fake", None)
    spec, _ = read_example(torch.randn(2, 4, 8))
    found = probe(FourAtATime(), spec.spec, [torch.randn(2, 4, 9)])
    assert isinstance(found.error, ValueError) and "multiple of 4" in str(found.error)


@pytest.mark.parametrize("kind", [Conv, Minds])
def test_the_model_is_as_it_was(kind: type[nn.Module]) -> None:
    model = kind().train()
    parameters, buffers = dict(model.named_parameters()), dict(model.named_buffers())
    values = {k: v.clone() for k, v in [*parameters.items(), *buffers.items()]}
    spec, leaves = read_example(torch.randn(2, 4, 8))
    assert probe(model, spec.spec, leaves).error is None
    now = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    assert all(now[k] is v for k, v in {**parameters, **buffers}.items())
    assert all(torch.equal(now[k], v) for k, v in values.items())
