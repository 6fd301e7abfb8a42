"""``assert_causal``: a model that is meant to be causal, and the line at which it is not."""

from __future__ import annotations

import pytest
import torch
from models_for_ci import CLIP, Leaky, Net, whole
from torch import Tensor, nn

from pgt_fx.core.errors import VerificationError
from pgt_fx.testing import assert_causal
from pgt_fx.testing.verify.causal import verify_causal


def test_a_causal_model_is_one() -> None:
    found = assert_causal(Leaky(""), CLIP, time_dim=2)
    assert [c.ok for c in found.checks] == [True, True, True]
    assert assert_causal(Leaky(""), CLIP, time_dim=2, dtype=torch.float32).ok


@pytest.mark.parametrize(
    "kind, operator, line",
    [
        ("pad", "torch.nn.functional.pad", "(1, 1)"),
        ("norm", "torch.nn.functional.group_norm in norm", "self.norm(x)"),
        ("gate", "torch.Tensor.mean", "gate = x.mean("),
        ("flip", "torch.Tensor.flip", "x.flip(2)"),
        ("roll", "torch.roll", "torch.roll(x, -1, 2)"),
    ],
)
def test_a_line_that_leaks_the_future_is_named(kind: str, operator: str, line: str) -> None:
    model = Leaky(kind).train()
    weights = {k: v.clone() for k, v in model.state_dict().items()}
    found = verify_causal(model, CLIP, time_dim=2)
    check = found["no-future"]
    assert check.ok is False and not found.ok
    assert operator in check.where and line in check.where and "models_for_ci.py:" in check.where
    with pytest.raises(VerificationError, match="changes when frames from"):
        assert_causal(model, CLIP, time_dim=2)
    # It works on a copy, and leaves no hook behind.
    assert model.training and all(torch.equal(v, weights[k]) for k, v in model.state_dict().items())
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in model.modules())


def test_a_strided_model_is_asked_for_what_is_due() -> None:
    class Strided(nn.Module):
        """Looks one frame ahead, and says nothing before it has come."""

        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv1d(3, 4, 3, stride=2)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x)

    assert_causal(Strided(), CLIP, time_dim=2)


def test_nothing_is_concluded_from_what_says_nothing() -> None:
    """An answer over all frames, and a model to which time is all one."""
    model, clip = whole()
    found = verify_causal(model, clip, time_dim=2)
    assert not found.ok and not found.violations and "no output has a time axis" in str(found)
    with pytest.raises(VerificationError, match="nothing could be checked"):
        assert_causal(model, clip, time_dim=2)
    found = verify_causal(nn.Conv1d(3, 4, 1), CLIP, time_dim=2)
    assert found["no-future"].ok


def test_a_model_of_fixed_length_can_not_be_checked() -> None:
    class Table(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Parameter(torch.randn(3, 8))

        def forward(self, x: Tensor) -> Tensor:
            return x + self.table

    found = verify_causal(Table(), CLIP, time_dim=2)
    assert not found.ok and "takes no shorter video" in found["no-future"].detail


def test_a_model_that_fails_is_told() -> None:
    with pytest.raises(VerificationError, match="the model itself fails"):
        assert_causal(nn.Conv1d(5, 4, 3), CLIP, time_dim=2)


def test_a_symmetric_convolution_is_not_causal() -> None:
    with pytest.raises(VerificationError):
        assert_causal(Net((1, 1)), CLIP, time_dim=2)
    assert_causal(Net((2, 0)), CLIP, time_dim=2)
