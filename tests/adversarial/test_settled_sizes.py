"""What a module calculates from sizes that is the same for every video, and not for every chunk:
before the first element of a window there may be none, or one, where a video has two."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from oracles import relative_error
from torch import Tensor, nn

import pgt_fx

EXACT = 1e-12


class Inner(nn.Module):
    def __init__(self, of: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.of = of

    def forward(self, y: Tensor) -> Tensor:
        return self.of(y)


class Net(nn.Module):
    """T + 1 elements, or 2T, arrive at the inner module."""

    def __init__(self, of: Callable[[Tensor], Tensor], *, twice: bool) -> None:
        super().__init__()
        self.pool = nn.MaxPool1d(2, 1, 1)
        self.conv = nn.Conv1d(1, 1, 3, padding=1)
        self.inner, self.twice = Inner(of), twice

    def forward(self, x: Tensor) -> Tensor:
        if self.twice:
            return self.inner(self.conv(x.repeat_interleave(2, dim=2)))
        return self.inner(self.pool(x))


def compares(y: Tensor) -> Tensor:
    return 3 * y if y.shape[2] < 2 else y - 1


def pads(y: Tensor) -> Tensor:
    return F.pad(y, (max(0, 2 - y.shape[2]), 0))


def scales(y: Tensor) -> Tensor:
    return y * (2.0 if y.shape[2] > 1 else 5.0)


def asks_a_truth(y: Tensor) -> Tensor:
    return y * (1 + int(y.shape[2] < 2))


def asks_the_least(y: Tensor) -> Tensor:
    return y * torch.sym_min(y.shape[2], 2)


def counts(y: Tensor) -> Tensor:
    return y[:, :, : y.shape[2] - y.shape[2] % 2]


def is_odd(y: Tensor) -> Tensor:
    return -y if y.shape[2] % 2 else 2 * y


CASES = [(f, False) for f in (compares, pads, scales, asks_a_truth, asks_the_least)]
CASES += [(counts, True), (is_odd, True)]


@pytest.mark.parametrize(("of", "twice"), CASES, ids=[f.__name__ for f, _ in CASES])
def test_a_chunk_is_not_asked_what_a_video_has_answered(
    of: Callable[[Tensor], Tensor], twice: bool
) -> None:
    torch.manual_seed(0)
    model = Net(of, twice=twice).double().eval()
    prog = pgt_fx.transform(
        model, torch.randn(1, 1, 6).double(), future="wait", time_dim=2, check=False
    )
    x = torch.randn(2, 1, 17).double()
    for cuts in ([1] * 17, [1, 2, 3, 11], [16, 1], [17]):
        outs = [out for out in prog.run(x, schedule=cuts) if out is not None]
        assert relative_error(torch.cat(outs, 2), model(x)) <= EXACT, cuts
    assert "inner" not in {str(n.target) for n in prog.inspect.step_graph.nodes}


def test_a_module_that_asks_nothing_is_called_whole() -> None:
    model = Net(lambda y: y.relu() * 2, twice=False).eval()
    prog = pgt_fx.transform(model, torch.randn(1, 1, 6), future="wait", time_dim=2, check=False)
    assert "inner" in {str(n.target) for n in prog.inspect.step_graph.nodes}
