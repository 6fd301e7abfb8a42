"""Outputs whose gradient would be wrong: a backward through them raises."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pgt_fx.core.errors import Blocker, GradientError


class _Refused(torch.autograd.Function):
    """Gives what it is given, and refuses to be differentiated."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, anchor: Tensor, blockers: Sequence[Blocker]) -> Tensor:
        ctx.blockers = blockers
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> Any:
        raise GradientError(list(ctx.blockers))


def without_gradients(outputs: Sequence[Any], blockers: Sequence[Blocker]) -> list[Any]:
    """The outputs of a step, of which no gradient is right: to ask for one raises a
    :class:`~pgt_fx.errors.GradientError`."""
    if not torch.is_grad_enabled():
        return list(outputs)
    # Where an operator gives no gradient at all, the answer would not say that it needs one.
    return [
        _Refused.apply(x, torch.zeros((), requires_grad=True), blockers)
        if isinstance(x, Tensor) and (x.is_floating_point() or x.is_complex())
        else x
        for x in outputs
    ]
