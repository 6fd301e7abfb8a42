"""Losses whose gradients have been computed already: another backward raises an error."""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor

from pgt_fx.core.errors import DifferentiatedError


class Differentiated(Tensor):
    """A detached loss whose gradients are in ``.grad``: a tensor like any other, but for what its
    ``backward()`` says. What is computed from it is one as well (trainers divide a loss by the
    number of accumulated batches); once a graph comes in, it is differentiated as any tensor."""

    @classmethod
    def of(cls, loss: Tensor) -> Tensor:
        """The same numbers. A tensor of another kind (a ``DTensor``) is left as it is."""
        return loss.as_subclass(cls) if type(loss) is Tensor else loss

    def backward(self, *args: Any, **how: Any) -> None:
        """Raises DifferentiatedError where there is no graph."""
        if not self.requires_grad:
            raise DifferentiatedError(
                "this loss is differentiated: pgt_fx.training.backward has put its gradients into "
                ".grad, step by step, and there is no graph left. Leave out loss.backward() "
                "(accelerator.backward, fabric.backward) and call optimizer.step(). In a "
                "LightningModule set self.automatic_optimization = False; an example is at "
                "pgt_fx.training.backward"
            )
        super().backward(*args, **how)

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Saved as a plain tensor: a checkpoint is loaded without this class."""
        return self.as_subclass(Tensor).__reduce_ex__(protocol)

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        return self.of(copy.deepcopy(self.as_subclass(Tensor), memo))

    def __format__(self, spec: str) -> str:
        return self.as_subclass(Tensor).__format__(spec)

    # torch's takes one keyword, for itself, and has no types.
    def __repr__(self, **how: Any) -> str:  # type: ignore[override]
        return repr(self.as_subclass(Tensor))
