"""The paper's optimizer and its learning rate (section 4): SGD, half-period cosine, warm-up."""

from __future__ import annotations

import math
from typing import Any

from torch import nn
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import LRScheduler

from pgt_fx.core.counts import counted
from pgt_fx.core.errors import OptionError


def sgd(
    model: nn.Module, lr: float, *, momentum: float = 0.9, weight_decay: float = 1e-4
) -> Optimizer:
    """SGD with Nesterov momentum; norms and biases are not decayed.

    Losses are summed over steps, so that ``lr`` goes with one step's loss times P.

    Raises:
        OptionError: for a rate that is not above 0, a momentum outside 0 … 1 (1 excluded), a
            negative weight decay, what is no finite number, or a model without a parameter to
            train.
    """
    if not isinstance(model, nn.Module):
        raise OptionError(f"model: expected a torch.nn.Module, got {model!r}")
    _number("lr", lr, "a number above 0", lambda x: x > 0)
    _number("momentum", momentum, "a number from 0 up to below 1", lambda x: 0 <= x < 1)
    _number("weight_decay", weight_decay, "a number from 0 on", lambda x: x >= 0)
    decayed: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for parameter in model.parameters():
        if parameter.requires_grad:
            (decayed if parameter.dim() > 1 else others).append(parameter)
    if not decayed and not others:
        raise OptionError(
            "model: it has no parameter with requires_grad; there is nothing to train"
        )
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return SGD([g for g in groups if g["params"]], lr=lr, momentum=momentum, nesterov=momentum > 0)


def half_cosine(optimizer: Optimizer, updates: int, *, warm_up: int = 0) -> HalfCosine:
    """Half a period of a cosine down to 0 over ``updates`` updates, after a linear warm-up.

    Args:
        updates: of the whole training, warm-up included; call ``step()`` after each. One more is
            an error: a cosine would rise again.
        warm_up: updates from a tenth of the rate up to the rate.

    Raises:
        OptionError: for other numbers, and by ``step()`` when the updates are over.
    """
    if not isinstance(optimizer, Optimizer):
        raise OptionError(f"optimizer: expected a torch.optim.Optimizer, got {optimizer!r}")
    for name, value in (("updates", updates), ("warm_up", warm_up)):
        if isinstance(value, bool) or not isinstance(value, int):
            raise OptionError(f"{name}: expected a whole number, got {value!r}")
    if updates < 1:
        raise OptionError(f"updates: expected a whole number from 1 on, got {updates}")
    if not 0 <= warm_up < updates:
        raise OptionError(f"warm_up: expected 0 … updates - 1 = {updates - 1}, got {warm_up}")
    return HalfCosine(optimizer, updates, warm_up)


class HalfCosine(LRScheduler):
    """See :func:`half_cosine`. The rate is a function of the number of the update alone."""

    def __init__(self, optimizer: Optimizer, updates: int, warm_up: int) -> None:
        self.updates, self.warm_up = updates, warm_up
        super().__init__(optimizer)

    def get_lr(self) -> list[Any]:
        done = self.last_epoch
        if done > self.updates:
            raise OptionError(
                f"half_cosine: update {done} of {self.updates}: its learning rate is 0 from here "
                "on; make it for all updates of the training"
            )
        if done < self.warm_up:
            factor = 0.1 + 0.9 * done / self.warm_up
        else:
            part = (done - self.warm_up) / (self.updates - self.warm_up)
            factor = (1 + math.cos(math.pi * part)) / 2
        return [rate * factor for rate in self.base_lrs]


def check_parameters(model: nn.Module, optimizer: Optimizer) -> None:
    """Before a training: whether an optimizer updates anything of the model.

    Raises:
        OptionError: when it is another model's.
    """
    updated = {id(p) for group in optimizer.param_groups for p in group["params"]}
    # Of a model that is all frozen: a loss may have parameters of its own.
    trained = [id(p) for p in model.parameters() if p.requires_grad]
    if trained and updated.isdisjoint(trained):
        raise OptionError(
            "optimizer: it has none of the model's parameters, and would train nothing of it; make "
            "it from prog.parameters()"
        )


def check_updates(scheduler: LRScheduler | None, updates: int, *, resume: bool) -> None:
    """Before a training: whether its learning rate is made for as many updates.

    Args:
        updates: of the training, those before a resumption included.

    Raises:
        OptionError: when there are more.
    """
    if not isinstance(scheduler, HalfCosine):
        return
    needed = updates if resume else scheduler.last_epoch + updates
    if needed > scheduler.updates:
        raise OptionError(
            f"scheduler: half_cosine is made for {counted(scheduler.updates, 'update')}, and "
            f"this training comes to {needed}; make it for {needed}"
        )


def _number(name: str, value: Any, expected: str, holds: Any) -> None:
    real = isinstance(value, int | float) and not isinstance(value, bool)
    if not real or not math.isfinite(value) or not holds(value):
        raise OptionError(f"{name}: expected {expected}, got {value!r}")
