"""What a hunt among seven hundred small models found: answered wrongly, or refused in other words
than this package's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from judge import PARTLY, RIGHT, Along, Case, judge
from torch import Tensor, nn


def _convs() -> nn.ModuleList:
    torch.manual_seed(2)
    return nn.ModuleList(nn.Conv3d(2, 2, (3, 1, 1), padding=(1, 0, 0)) for _ in range(3))


def _weights() -> nn.ParameterList:
    return nn.ParameterList(nn.Parameter(conv.weight.detach()) for conv in _convs())


def _later(s: Any, y: Tensor) -> Tensor:
    for part in s.parts[: 1 + y.shape[2] // 20]:
        y = part(y).tanh()
    return y


def _weighed(s: Any, y: Tensor, weights: Any) -> Tensor:
    return sum((F.conv3d(y, w, padding=(1, 0, 0)) for w in weights), torch.zeros_like(y))


# The clip has 8 frames, and the self-check looks at up to 19: the other layer comes with the 20th.
CONTAINERS: dict[str, tuple[Callable[[Any, Tensor], Tensor], Callable[[], nn.Module]]] = {
    "layers of a list": (_later, _convs),
    "one of a list": (lambda s, y: s.parts[y.shape[2] // 20](y), _convs),
    "one from the end": (lambda s, y: s.parts[-1 - y.shape[2] // 20](y), _convs),
    "first of a sequence": (
        lambda s, y: s.parts[: 1 + y.shape[2] // 20](y),
        lambda: nn.Sequential(*_convs()),
    ),
    "one of a sequence": (
        lambda s, y: s.parts[y.shape[2] // 20](y),
        lambda: nn.Sequential(*_convs()),
    ),
    "one weight of a list": (
        lambda s, y: _weighed(s, y, [s.parts[y.shape[2] // 20]]),
        _weights,
    ),
    "weights of a list": (
        lambda s, y: _weighed(s, y, s.parts[: 1 + y.shape[2] // 20]),
        _weights,
    ),
}


@pytest.mark.parametrize("name", CONTAINERS)
def test_layers_that_the_number_of_frames_picks_out_of_a_container_of_torch(name: str) -> None:
    then, parts = CONTAINERS[name]
    case = Case(lambda: Along(then, parts=parts()), PARTLY, frames=(8, 19, 20, 24), says="20")
    assert judge(case) == PARTLY


def _training(child: str) -> Callable[[Any, Tensor], Tensor]:
    return lambda s, y: y * (3.0 if s.get_submodule(child).training else 1.0)


MODES: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "a convolution": (lambda: Along(_training("conv")), "conv"),
    "an activation": (lambda: Along(_training("act"), act=nn.ReLU()), "act"),
    "one in a list": (lambda: Along(_training("parts.1"), parts=_convs()), "parts.1"),
}


@pytest.mark.parametrize("name", MODES)
def test_the_mode_of_a_layer_that_has_none_by_itself_is_asked_for(name: str) -> None:
    make, child = MODES[name]
    assert judge(Case(make, change=lambda model: model.get_submodule(child).train())) == RIGHT


def _hooked() -> nn.Module:
    model = Along(lambda s, y: y)
    model.conv.register_forward_hook(lambda conv, args, y: y * 3 if conv.training else y)
    return model


def test_a_hook_that_asks_for_the_mode_of_its_layer() -> None:
    assert judge(Case(_hooked, change=lambda model: model.conv.train())) == RIGHT
