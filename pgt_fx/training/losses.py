"""What a loss must be: a scalar tensor, and under exact gradients the same when computed again."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pgt_fx.capture.observe.model_lines import is_ours
from pgt_fx.core.errors import OptionError, PgtError, out_of_memory
from pgt_fx.core.torch_private import pytree

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


@contextmanager
def of_labels(step: int, answer: Any, target: Any) -> Iterator[None]:
    """Around a loss: an error of torch about labels that don't fit the output is raised with both.

    What the user's own loss raises by itself passes as it is.

    Raises:
        OptionError: with the shapes and types of the answer and of the labels.
    """
    try:
        yield
    except (ValueError, RuntimeError, IndexError, TypeError) as error:
        frames = traceback.extract_tb(error.__traceback__)
        if isinstance(error, PgtError) or out_of_memory(error) or not is_ours(frames[-1].filename):
            raise
        raise OptionError(
            f"target: the loss takes no such labels for step {step}: the model answers "
            f"{_shown(answer)}, the labels are {_shown(target)}; a loss of classes, as "
            "cross_entropy, expects one whole number from 0 to classes - 1 for each video "
            f"({type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''})"
        ) from error


def _shown(value: Any) -> str:
    """Shapes, types and, of whole numbers, the range."""
    parts = []
    for x in pytree.tree_leaves(value):
        if not isinstance(x, Tensor):
            parts.append(type(x).__name__)
            continue
        text = f"{tuple(x.shape)} {str(x.dtype).removeprefix('torch.')}"
        whole = not x.is_floating_point() and not x.is_complex() and x.numel()
        parts.append(f"{text} from {x.min().item()} to {x.max().item()}" if whole else text)
    return " and ".join(parts) or "nothing"


def is_empty(value: Any) -> bool:
    """Whether labels, or a model's answer, hold no element: of a step without boxes."""
    leaves = [x for x in pytree.tree_leaves(value) if x is not None]
    empty = all(isinstance(x, Tensor) and x.numel() == 0 for x in leaves)
    return value is not None and empty


def no_loss(answer: Any) -> Tensor:
    """The loss of a step that has nothing to learn from: a sum over nothing of its answer, so that
    every parameter that it depends on has a gradient of zeros. A mean over nothing would be NaN."""
    parts = [x.reshape(-1)[:0].abs().sum() for x in _numbers(answer, detached=False)]
    return torch.stack([p.to(parts[0]) for p in parts]).sum() if parts else torch.zeros(())


@dataclass(frozen=True)
class Twice:
    """A step and its loss beside their second run. Measured where they are, and looked at when the
    gradients are whole: a device is waited for once, and not in each step.

    Attributes:
        found: whether the answers differ by more than rounding; whether they have the same bits;
            magnitude of the answers; difference and magnitude of the losses, and the losses.
        bound: relative, of answers and of losses where the answers have other bits.
        eps: of the coarsest type among the answers and the loss.
    """

    found: Tensor
    bound: float
    eps: float

    @classmethod
    def of(cls, then: Any, now: Any, *, rough: bool = False) -> Twice:
        """What an answer is beside the one of the first run; before a loss may write into it.

        Args:
            rough: whether it was computed in low precision, whatever its type.
        """
        pairs = [*zip(_numbers(then), _numbers(now), strict=True)]
        bound, like = ROUGH if rough else _bound(now), pairs[0][1] if pairs else torch.zeros(())
        differs, equal = like.new_zeros((), dtype=torch.bool), like.new_ones((), dtype=torch.bool)
        terms = like.new_zeros((), dtype=torch.float32)
        for a, b in pairs:
            close = (_size(a - b) <= bound * _size(b)) | a.isnan().any()
            differs, equal = differs | ~close, equal & (a == b).all()
            terms = terms + b.abs().sum().float()
        found = torch.stack([differs.float(), equal.float(), terms])
        return cls(found, bound, max((torch.finfo(b.dtype).eps for _, b in pairs), default=0.0))

    def and_losses(self, then: Tensor | None, now: Tensor | None) -> Twice:
        """With the losses of both runs."""
        if then is None or now is None:
            return self
        one, other = then.detach(), now.detach()
        each = [(one - other).abs(), torch.maximum(one.abs(), other.abs()), one, other]
        losses = torch.stack([x.float() for x in each]).to(self.found.device)
        eps = max(self.eps, torch.finfo(now.dtype).eps)
        return Twice(torch.cat([self.found, losses]), self.bound, eps)

    def reason(self) -> str | None:
        """What to say of what is no function of its arguments."""
        differs, equal, terms, *losses = self.found.tolist()
        if differs:
            return MEMORY
        if not losses:
            return None
        gap, size, one, other = losses
        # Equal answers: the losses differ by the order of sums. A loss that is nearly nothing may
        # be the difference of large numbers. Never of what is not finite.
        bound = min(1e3 * self.eps, self.bound) if equal else self.bound
        slack = bound * size + (10 if equal else 1e3) * self.eps * terms
        return f"{IMPURE} ({one:.6g}, then {other:.6g})" if gap > slack else None


def _numbers(answer: Any, *, detached: bool = True) -> list[Tensor]:
    flat = [x for x in pytree.tree_leaves(answer) if isinstance(x, Tensor)]
    found = [x for x in flat if x.is_floating_point() or x.is_complex()]
    return [x.detach() for x in found] if detached else found


def _bound(answer: Any) -> float:
    if torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda"):
        return ROUGH
    return max((ROUNDING.get(x.dtype, ROUGH) for x in _numbers(answer)), default=1e-2)


MEMORY = (
    "the model answers something else when it is run again: a module of it has a memory of its "
    "own, or draws random numbers that can't be replayed"
)
IMPURE = (
    "loss_fn gives another loss when it is called again with the same answer: it has to be a "
    "function of its arguments alone, without memory of other steps; pass what else it needs as "
    'target, or use gradient="truncated"'
)


def _size(x: Tensor) -> Tensor:
    """The greatest magnitude; nothing for an empty tensor."""
    return x.abs().amax() if x.numel() else x.new_zeros(()).abs()
