"""How long a model waits, and what it carries meanwhile: exact, against counting frame by frame."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

import pgt_fx
from pgt_fx import zoo
from pgt_fx.core.laws import Interpolate, Repeat, Transposed, Window
from pgt_fx.doctor.delay import elements_ahead

#: Frames that are counted one by one: three times as many as any of these models looks at.
COUNTED = 1500


def latency(prog: pgt_fx.Progressive) -> int:
    """Most frames from an output's own frame to the one with which it is sure."""
    analysis = prog.replace(future="wait").inspect.analysis
    output = next(o for o in analysis.outputs if isinstance(o, fx.Node))
    value, ratio = analysis.value(output), prog.clip_ratio
    clocks = [value.clock]
    if value.clock is None:
        nodes = [n for p in value.pooled for n in analysis.streams(analysis.operations[p].node)]
        clocks = [analysis.value(n).clock for n in nodes]
    worst, each = 0, min(Fraction(s) for s in prog.report.stride)
    for clock in clocks:
        assert clock is not None
        done = 0
        for n in range(1, COUNTED):
            now = clock.at(tuple(n * r for r in ratio), False).sure
            for j in range(done, now):
                worst = max(worst, n - 1 - int(j * each))
            done = now
    return worst


def smallest(prog: pgt_fx.Progressive) -> int | None:
    return next((n for n in range(1, 600) if prog.answers([n], last=False)[0]), None)


class Net(nn.Module):
    def __init__(self, *layers: nn.Module, pooled: bool = False) -> None:
        super().__init__()
        self.layers, self.pooled = nn.Sequential(*layers), pooled

    def forward(self, x: Tensor) -> Tensor:
        y = self.layers(x)
        return y.mean(2) if self.pooled else y


class Apart(nn.Module):
    """The first frame apart, the others in groups of three; joined with another branch."""

    def __init__(self) -> None:
        super().__init__()
        self.deep, self.flat = nn.Conv1d(3, 3, 3, 3), nn.Conv1d(3, 3, 1, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.cat([x[:, :, :1], self.deep(x[:, :, 1:])], 2)
        return F.pad(y, (2, 0)) + F.pad(self.flat(x), (2, 0))


class Beginning(nn.Module):
    """The first outputs alone."""

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool1d(x, 4, 2)[:, :, :5]


def conv(kernel: int, stride: int = 1, padding: int = 0, dilation: int = 1) -> nn.Module:
    return nn.Conv1d(3, 3, kernel, stride, padding, dilation)


TOYS: dict[str, nn.Module] = {
    "stride 3": Net(conv(3, 3, 1)),
    "strides 3 and 5": Net(conv(5, 3, 2), conv(7, 5, 3)),
    "dilated": Net(conv(3, 2, 4, 4), conv(3, 1, 2, 2)),
    "up and down": Net(conv(5, 3, 2), nn.Upsample(scale_factor=2), conv(3, 1, 1)),
    "linear": Net(conv(3, 2, 1), nn.Upsample(scale_factor=3, mode="linear")),
    "transposed": Net(conv(3, 2, 1), nn.ConvTranspose1d(3, 3, 4, 2, 1)),
    "reflected": Net(nn.ReflectionPad1d((4, 2)), conv(7)),
    "rounded up": Net(nn.MaxPool1d(3, 2, 1, ceil_mode=True), conv(3, 1, 1)),
    "pooled": Net(conv(5, 2, 2), conv(5, 2), pooled=True),
    "long": Net(conv(400)),
    "long, and padded": Net(conv(401, 1, 200)),
    "first frame apart": Apart(),
    "beginning": Beginning(),
}
SMALL = ("r3d_18", "x3d_s", "slow_r50", "tsm_r50")


def check(prog: pgt_fx.Progressive) -> None:
    assert prog.report.latency == latency(prog)
    for future in ("wait", "zero"):
        other = prog.replace(future=future, strict=False)
        assert other.smallest_clip == smallest(other), future


@pytest.mark.parametrize("name", TOYS)
def test_waiting_is_exact(name: str) -> None:
    clip = torch.randn(1, 3, 450)
    check(pgt_fx.transform(TOYS[name].eval(), clip, time_dim=2, check=False))


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_waiting_is_exact_for_models_of_the_zoo(name: str) -> None:
    model, clip = zoo.features(name, space=32), zoo.clip(name, space=32)
    check(pgt_fx.transform(model, clip, check=False))


def test_a_long_kernel_is_seen_to_be_one() -> None:
    """Longer than what anybody would look at by default: its latency, and its state."""
    prog = pgt_fx.transform(conv(400), torch.randn(1, 3, 400), time_dim=2, future="wait")
    assert prog.report.latency == 399 and prog.smallest_clip == 400
    # The 399 frames before the one to come, of three channels in single precision.
    assert prog.report.state_bytes == 399 * 3 * 4


def test_no_step_answers_before_the_end() -> None:
    class Ends(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.avg_pool1d(x[:, :, :4], 5, 1, 2)[:, :, 3:]

    prog = pgt_fx.transform(Ends(), torch.randn(1, 3, 8), time_dim=2, future="wait")
    assert prog.smallest_clip is None and smallest(prog) is None


def test_what_recurs_is_looked_at_where_it_does() -> None:
    assert Window(100).recalls and Window(3, left=1, right=1).recalls and not Window(1).recalls
    assert Window(2, 2, left=1).recalls and not Window(2, 2).recalls
    for law in (Interpolate(31), Repeat(17), Transposed(40, 20, padding=3)):
        step = Fraction(1, getattr(law, "scale", 0) or law.stride)
        far: Any = max(max(law.taps(j)) - j * step for j in range(600, 1200))
        assert elements_ahead(law) == far
