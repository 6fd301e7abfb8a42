"""Checks of values, as models make them. No test module: pytest writes its assertions anew."""

from __future__ import annotations

import torch
from torch import Tensor


def raises(y: Tensor) -> None:
    if (y.std() == 0).any():
        raise ValueError("a constant")


def raises_with_a_flag(y: Tensor, on: bool = True) -> None:
    if on and not torch.isfinite(y).all():
        words = f"not finite, of {y.dim()} dimensions"
        raise ValueError(words)


def asserts(y: Tensor) -> None:
    assert torch.isfinite(y).all(), "not finite"


def asserts_not(y: Tensor) -> None:
    assert not bool(torch.isnan(y).any())


def asserts_several(y: Tensor) -> None:
    assert (y < 1e6).all() and any([(y > -1e6).all(), torch.isfinite(y).any()])


def asserts_in_torch(y: Tensor) -> None:
    torch._assert(torch.isfinite(y).all(), "not finite")


def equal(y: Tensor) -> None:
    if torch.equal(y, torch.zeros_like(y)):
        raise ValueError("zeros")


def close(y: Tensor) -> None:
    if y.allclose(torch.zeros_like(y)):
        raise ValueError("zeros")


def goes_on(y: Tensor) -> None:
    try:
        if not torch.isfinite(y).all():
            raise ValueError
    except ValueError:
        y.zero_()


def branches(y: Tensor) -> None:
    if y.mean() > 0:
        y.mul_(2)


def ends(y: Tensor) -> None:
    if (y > 0).all():
        y.mul_(2)
        raise_it = False
        if raise_it:
            raise ValueError


def chooses(y: Tensor) -> None:
    assert (y if y.mean() > 0 else y.neg()).dim() == 5
    if max(y.mean(), y.std()) > 3:
        raise ValueError


def number(y: Tensor) -> None:
    if y.abs().max().item() > 1e6:
        raise ValueError("normalise the video")
