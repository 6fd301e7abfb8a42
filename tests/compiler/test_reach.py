"""Receptive fields that the report names, against those that gradients show."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor, nn

import pgt_fx


class Branches(nn.Module):
    """Convolutions of several dilations beside one another."""

    def __init__(self, dilations: list[int], causal: bool) -> None:
        super().__init__()
        self.causal = causal
        self.convs = nn.ModuleList([nn.Conv1d(4, 4, 3, dilation=d) for d in dilations])

    def forward(self, x: Tensor) -> Tensor:
        out = []
        for conv in self.convs:
            d = conv.dilation[0]
            pads = (2 * d, 0) if self.causal else (d, d)
            out.append(conv(nn.functional.pad(x, pads)))
        return torch.stack(out).sum(0) + x


def measured(model: nn.Module, frames: int = 512) -> tuple[int, int]:
    """Frames before and after its own that an output frame depends on."""
    x = torch.randn(1, 4, frames, dtype=torch.float64, requires_grad=True)
    middle = frames // 2
    model.double()(x)[:, :, middle].sum().backward()
    read = x.grad.abs().sum((0, 1)).nonzero().flatten()
    return middle - int(read.min()), int(read.max()) - middle


@pytest.mark.parametrize("seed", range(6))
def test_branches_of_several_dilations(seed: int) -> None:
    draw = random.Random(seed)
    torch.manual_seed(seed)
    model = nn.Sequential(
        *[
            Branches(draw.sample([1, 2, 4, 8, 16], draw.randint(1, 4)), draw.random() < 0.3)
            for _ in range(draw.randint(1, 3))
        ]
    )
    report = pgt_fx.analyze(model, torch.randn(1, 4, 64))
    past, future = measured(model)
    assert report.look_ahead == [future]
    assert report.receptive_field == [past + 1 + future]


def test_three_blocks_of_four_dilations() -> None:
    model = nn.Sequential(*[Branches([1, 2, 4, 8], False) for _ in range(3)])
    assert pgt_fx.analyze(model, torch.randn(1, 4, 64)).receptive_field == [49]


@pytest.mark.parametrize("dilation", [300, 1000, 5000])
def test_a_field_of_thousands_of_frames_is_measured(dilation: int) -> None:
    conv = nn.Conv1d(1, 1, 3, dilation=dilation, padding=dilation)
    report = pgt_fx.analyze(conv, torch.zeros(1, 1, 8), time_dim=2)
    assert report.receptive_field == [2 * dilation + 1]
    assert report.look_ahead == [dilation]


def test_a_field_that_is_too_large_to_be_measured_is_not_given_as_less() -> None:
    conv = nn.Conv1d(1, 1, 3, dilation=40_000, padding=40_000)
    report = pgt_fx.analyze(conv, torch.zeros(1, 1, 8), time_dim=2)
    assert report.receptive_field == [None]
