"""What is verified is the program that was given, beside the model as it is now."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import pgt_fx
from pgt_fx.compiler.specialize import Source
from pgt_fx.runtime.progressive import Progressive

EQUAL = ("full-equals-model", "exact-wait", "exact-zero")


def band(frames: int, width: int) -> Tensor:
    """Frames see themselves and ``width - 1`` before them."""
    at = torch.arange(frames)
    back = at[:, None] - at[None, :]
    return torch.where((back >= 0) & (back < width), 0.0, float("-inf"))


class Masked(nn.Module):
    """Attention under a causal mask that a buffer holds; ``typed``: a type is written in its graph,
    so that it is captured anew in another one."""

    def __init__(self, typed: bool) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(4, 4) for _ in range(3))
        self.register_buffer("mask", band(64, 3))
        self.typed = typed

    def forward(self, x: Tensor) -> Tensor:
        x = x.transpose(1, 2)
        mask = self.mask[: x.shape[1], : x.shape[1]]
        mask = mask.float() if self.typed else mask
        weights = (self.query(x) @ self.key(x).transpose(1, 2) + mask).softmax(-1)
        return (weights @ self.value(x)).transpose(1, 2)


class Stack(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv1d(4, 4, 3, padding=1), nn.Conv1d(4, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x).tanh())


def transformed(model: nn.Module, **options: Any) -> Progressive:
    return pgt_fx.transform(model.eval(), torch.zeros(2, 4, 10), **options)


@pytest.mark.parametrize("typed", [False, True], ids=["plain", "typed"])
@pytest.mark.parametrize("future", ["wait", "zero"])
def test_a_mask_that_changed_after_the_transform_is_seen(
    future: str, typed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    prog = transformed(Masked(typed), future=future)
    monkeypatch.setattr(Source, "renew", lambda self: None)  # which would see it itself
    broken = f"exact-{future}"
    assert pgt_fx.verify(prog, checks=EQUAL).ok
    prog.get_buffer("mask").copy_(band(64, 8))
    x = torch.randn(2, 4, 30)
    found = torch.cat(prog.run(x, schedule=[5] * 6), 2)
    assert (found - prog.inspect.model(x)).abs().max() > 0.1  # it really is stale
    verification = pgt_fx.verify(prog, checks=EQUAL)
    assert verification[broken].ok is False and not verification.ok, str(verification)
    assert "aten.matmul" in verification[broken].where
    copied = pgt_fx.verify(copy.deepcopy(prog), checks=EQUAL)  # a copy is as stale
    assert copied[broken].ok is False, str(copied)
    anew = transformed(prog.inspect.model, future=future)
    assert pgt_fx.verify(anew, checks=EQUAL).ok


def test_the_reference_is_the_model_as_it_is_now() -> None:
    torch.manual_seed(0)
    model = Stack()
    prog = transformed(model)
    with torch.no_grad():
        model.first.weight.mul_(3)
    assert pgt_fx.verify(prog, checks=EQUAL).ok
    # A program with other weights than the model's: as if they had been written into it.
    prog.inspect.program.model = copy.deepcopy(model)
    emitted = prog.inspect.program.emitted
    for node in emitted.graph.nodes:
        if node.op == "get_attr" and node.target == "first.weight":
            node.target = "second.weight"
    prog.inspect.program._modules_by_work.clear()
    assert pgt_fx.verify(prog, checks=EQUAL)["full-equals-model"].ok is False


def test_one_frame_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault that shows in a video of a single frame alone."""
    sound = Progressive.step

    def step(self: Any, state: Any, *clip: Any, last: bool = False, **more: Any) -> Any:
        out, state_after = sound(self, state, *clip, last=last, **more)
        alone = last and not state and clip[0].shape[2] == 1
        return (out * 2 if alone else out), state_after

    monkeypatch.setattr(Progressive, "step", step)
    verification = pgt_fx.verify(transformed(Stack()), checks=EQUAL)
    assert verification["full-equals-model"].ok is False
    assert "differs for a video of 1 frame" in verification["full-equals-model"].detail
    assert verification["exact-wait"].ok is False
    assert "worst for a video of 1 frame" in verification["exact-wait"].detail


class Claimed:
    """Lengths that a program says it keeps to: 4n + 1, at least 5."""

    def allows(self, frames: int) -> bool:
        return frames >= 5 and frames % 4 == 1

    def fit(self, frames: int) -> int:
        return next(n for n in range(frames, frames + 9) if self.allows(n))

    near = fit


def test_lengths_on_both_sides_of_a_bound_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    prog = transformed(Stack())
    assert pgt_fx.verify(prog, checks=EQUAL).ok
    monkeypatch.setattr(Progressive, "video_lengths", property(lambda self: Claimed()))
    found = pgt_fx.verify(prog, checks=EQUAL)["full-equals-model"]
    assert found.ok is False and found.measured == "lengths not kept"
    assert "a video of 1, 4, 6 frames is answered, not refused" in found.detail
