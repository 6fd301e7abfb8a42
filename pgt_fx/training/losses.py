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


def changed(then: Any, now: Any, loss_then: Tensor | None, loss_now: Tensor | None) -> str | None:
    """What of a step differs between two runs of it; None where they are the same but for rounding.

    Args:
        then, now: answers of the two runs.
    """
    pairs = [
        (a, b.detach())
        for a, b in zip(pytree.tree_leaves(then), pytree.tree_leaves(now), strict=True)
        if isinstance(a, Tensor) and (a.is_floating_point() or a.is_complex())
    ]
    bound = max((ROUNDING.get(a.dtype, ROUGH) for a, _ in pairs), default=1e-2)
    if torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda"):
        bound = ROUGH
    for a, b in pairs:
        if float(_size(a - b)) > bound * max(float(_size(a)), float(_size(b))):
            return (
                "the model answers something else when it is run again: a module of it has a "
                "memory of its own, or draws random numbers that can't be replayed"
            )
    if (loss_then is None) != (loss_now is None):
        return _IMPURE
    if loss_then is not None and loss_now is not None:
        one, other = float(loss_then), float(loss_now.detach())
        # A loss that is nearly nothing may be the difference of large numbers.
        terms = sum(float(x.abs().sum()) for x, _ in pairs)
        slack = bound * max(abs(one), abs(other)) + 1e3 * torch.finfo(loss_now.dtype).eps * terms
        if abs(one - other) > slack:  # never of what is not finite
            return f"{_IMPURE} ({one:.6g}, then {other:.6g})"
    return None


_IMPURE = (
    "loss_fn gives another loss when it is called again with the same answer: it has to be a "
    "function of its arguments alone, without memory of other steps; pass what else it needs as "
    'target, or use gradient="truncated"'
)


def _size(x: Tensor) -> Tensor:
    """The greatest magnitude; nothing for an empty tensor."""
    return x.abs().amax() if x.numel() else x.new_zeros(()).abs()
