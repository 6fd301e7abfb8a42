"""What a loss must be: a scalar tensor, and under exact gradients the same when computed again."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from pgt_fx.errors import OptionError

#: By type: relative differences of two runs of a step that pass for rounding. Kernels differ with
#: and without gradients, in low precision by much; other random numbers make more of it.
ROUNDING = {torch.float64: 1e-6, torch.float32: 1e-2}
ROUGH = 0.1


def check_loss(loss: Any) -> Tensor | None:
    """The loss of a step, None where ``loss_fn`` gives none.

    Raises:
        OptionError: for anything but a real tensor of one element.
    """
    if loss is None:
        return None
    if isinstance(loss, Tensor) and loss.numel() == 1 and loss.is_floating_point():
        return loss.reshape(())
    if isinstance(loss, Tensor):
        got = f"a tensor of shape {tuple(loss.shape)}, {str(loss.dtype).removeprefix('torch.')}"
    else:
        got = f"{type(loss).__name__}"
    raise OptionError(
        f"loss_fn: expected a scalar tensor, got {got}; return one number with its graph, e.g. the "
        "mean (and what else you want to know through a variable of your own)"
    )


def another_answer(then: Any, now: Any) -> str | None:
    """What to say where a step answers something else the second time, but for rounding."""
    bound = _bound(now)
    pairs = zip(_numbers(then), _numbers(now), strict=True)
    if all(float(_size(a - b)) <= bound * float(_size(b)) or a.isnan().any() for a, b in pairs):
        return None
    return (
        "the model answers something else when it is run again: a module of it has a memory of its "
        "own, or draws random numbers that can't be replayed"
    )


def same_bits(then: Any, now: Any) -> bool:
    """Whether two answers are equal without rounding, as they mostly are."""
    return all(map(torch.equal, _numbers(then), _numbers(now)))


def another_loss(then: Tensor | None, now: Tensor | None, answer: Any, equal: bool) -> str | None:
    """What to say where the loss of a step is another one the second time.

    Args:
        equal: whether the answers have the same bits: then the losses differ by the order of sums.
    """
    if then is None or now is None:
        return None if then is now else IMPURE
    one, other = float(then), float(now.detach())
    # A loss that is nearly nothing may be the difference of large numbers.
    terms = sum(float(x.abs().sum()) for x in _numbers(answer))
    eps = torch.finfo(now.dtype).eps
    bound = min(1e3 * eps, _bound(answer)) if equal else _bound(answer)
    slack = bound * max(abs(one), abs(other)) + (10 if equal else 1e3) * eps * terms
    # Never of what is not finite.
    return f"{IMPURE} ({one:.6g}, then {other:.6g})" if abs(one - other) > slack else None


def _numbers(answer: Any) -> list[Tensor]:
    flat = [x.detach() for x in pytree.tree_leaves(answer) if isinstance(x, Tensor)]
    return [x for x in flat if x.is_floating_point() or x.is_complex()]


def _bound(answer: Any) -> float:
    if torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda"):
        return ROUGH
    return max((ROUNDING.get(x.dtype, ROUGH) for x in _numbers(answer)), default=1e-2)


IMPURE = (
    "loss_fn gives another loss when it is called again with the same answer: it has to be a "
    "function of its arguments alone, without memory of other steps; pass what else it needs as "
    'target, or use gradient="truncated"'
)


def _size(x: Tensor) -> Tensor:
    """The greatest magnitude; nothing for an empty tensor."""
    return x.abs().amax() if x.numel() else x.new_zeros(()).abs()
