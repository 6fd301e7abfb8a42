"""The paper's optimizer and its learning rate (section 4): SGD, half-period cosine, warm-up."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, LRScheduler, SequentialLR

from pgt_fx.errors import OptionError


def sgd(
    model: nn.Module, lr: float, *, momentum: float = 0.9, weight_decay: float = 1e-4
) -> Optimizer:
    """SGD with Nesterov momentum; norms and biases are not decayed.

    Losses are summed over steps, so that ``lr`` goes with one step's loss times P.
    """
    if lr <= 0:
        raise OptionError(f"lr: expected a number above 0, got {lr!r}")
    decayed: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for parameter in model.parameters():
        if parameter.requires_grad:
            (decayed if parameter.dim() > 1 else others).append(parameter)
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return SGD([g for g in groups if g["params"]], lr=lr, momentum=momentum, nesterov=momentum > 0)


def half_cosine(optimizer: Optimizer, updates: int, *, warm_up: int = 0) -> LRScheduler:
    """Half a period of a cosine down to 0 over ``updates`` updates, after a linear warm-up.

    Args:
        updates: of the whole training, warm-up included; call ``step()`` after each.
        warm_up: updates from a tenth of the rate up to the rate.
    """
    if not 0 <= warm_up < updates:
        raise OptionError(f"warm_up: expected 0 … updates - 1 = {updates - 1}, got {warm_up}")
    cosine = CosineAnnealingLR(optimizer, updates - warm_up)
    if not warm_up:
        return cosine
    return SequentialLR(optimizer, [LinearLR(optimizer, 0.1, 1.0, warm_up), cosine], [warm_up])
