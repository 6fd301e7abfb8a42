"""Float noise is told apart from meaning: what fails in float32 is repeated in float64."""

from __future__ import annotations

import pytest
import torch
from mutants import MUTANTS, progressive
from torch import Tensor, nn

import pgt_fx
from pgt_fx.testing.verify.session import ROUGHEST, Session
from pgt_fx.testing.verify.training import gradient_rounding

pytestmark = pytest.mark.full


class Offset(nn.Module):
    """Sound, and rough in float32: a mean over time of values far from zero."""

    def __init__(self, size: float) -> None:
        super().__init__()
        self.conv = nn.Conv1d(3, 4, 3, padding=1)
        self.head = nn.Linear(4, 4)
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        return self.head((self.conv(x) + self.size).mean(2) - self.size)


def offset(size: float) -> pgt_fx.Progressive:
    torch.manual_seed(0)
    return pgt_fx.transform(Offset(size).eval(), torch.zeros(2, 3, 8), time_dim=2)


def test_rounding_is_no_failure() -> None:
    ids = {"exact-wait"}
    found = pgt_fx.verify(offset(3e3), dtype=torch.float32, checks=ids)
    check = found["exact-wait"]
    assert isinstance(check.measured, float) and check.measured > 1e-4, "too smooth to test with"
    assert found.ok, str(found)
    assert "in float32 is rounding: holds in float64" in check.detail
    assert pgt_fx.verify(offset(3e3), checks=ids).ok


def test_a_fault_in_float32_is_still_one() -> None:
    mutant = next(m for m in MUTANTS if m.name == "dilation left out of the past")
    with mutant.plant():
        found = pgt_fx.verify(
            progressive(), dtype=torch.float32, checks={"exact-wait"}, chunkings=3
        )
    check = found["exact-wait"]
    assert check.ok is False and "also in float64, so it is no rounding" in check.detail


def test_what_float32_alone_breaks_by_much_is_no_rounding(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from pgt_fx.runtime.markov import window

    original = window.owned

    def owned(x: Tensor) -> Tensor:
        tail = original(x)
        return tail * 1.3 if x.dtype == torch.float32 else tail

    monkeypatch.setattr(window, "owned", owned)
    found = pgt_fx.verify(progressive(), dtype=torch.float32, checks={"exact-wait"}, chunkings=3)
    check = found["exact-wait"]
    assert check.ok is False and "is too much" in check.detail, str(found)


class Rough(nn.Module):
    """A norm divides by what is left of numbers far from zero; in eval mode nothing is lost."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv1d(3, 4, 3, padding=1), nn.BatchNorm1d(4)
        self.drop, self.last = nn.Dropout(0.5), nn.Conv1d(4, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return self.last(self.drop(self.norm(y + 1e4 if self.training else y)).tanh())


def test_gradients_are_compared_with_how_they_round_themselves() -> None:
    torch.manual_seed(0)
    prog = pgt_fx.transform(Rough().eval(), torch.zeros(2, 3, 8))
    session = Session(prog, dtype=torch.float32)
    exact = session._double
    assert exact is not None
    in_eval, in_training = (
        gradient_rounding(session.subject, exact, training=mode) for mode in (False, True)
    )
    assert in_eval < 1e-5 and 1e-3 < in_training < 0.5, "dropout would make it one"
    allowed, words = session._own_rounding("replayed", session.subject, exact)
    assert allowed == min(in_training, ROUGHEST), "behind more a fault could hide"
    assert f"gradients round by {in_training:.0e}" in words
    assert session._own_rounding("exact-wait", session.subject, exact)[0] < 1e-5
