"""Wrappers around a progressive model in training, and how a step passes through them.

Wrappers that act in place (accelerate's mixed precision, ``fully_shard``, hooks) take part through
a call of the model (:mod:`pgt_fx.runtime.module_call`). ``DistributedDataParallel`` is left
out of the steps, see :mod:`pgt_fx.training.parallel`. Lightning Fabric's module casts and
autocasts, and refuses any backward but Fabric's own: its precision is applied here, its guard left
out.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from pgt_fx.core.errors import OptionError
from pgt_fx.runtime.progressive import Progressive

#: Names of wrappers (by class) that a step can't go through, and what to do instead.
_INSTEAD = {
    "OptimizedModule": "torch.compile(prog) would compile the planning of each step as well; "
    "prog.compile() compiles the steps in place: call that, and pass prog",
    "DataParallel": "DataParallel copies the model for each call, and a step's state is lost with "
    "the copy; use DistributedDataParallel(prog)",
    "FullyShardedDataParallel": "FullyShardedDataParallel gives the model flat parameters, which "
    "its operators can't read; use torch.distributed.fsdp.fully_shard(prog), which works in place",
}


def fabric_layer(prog: nn.Module) -> Any:
    """Lightning Fabric's module, None where ``prog`` is none. It is not imported for that."""
    for name in ("lightning.fabric.wrappers", "lightning_fabric.wrappers"):
        kind = getattr(sys.modules.get(name), "_FabricModule", None)
        if kind is not None and isinstance(prog, kind):
            return prog
    return None


def data_parallel(prog: nn.Module) -> DistributedDataParallel | None:
    """``DistributedDataParallel`` around a model, also within Fabric's module."""
    fabric = fabric_layer(prog)
    layer = prog if fabric is None else fabric._forward_module
    return layer if isinstance(layer, DistributedDataParallel) else None


def unwrapped(prog: nn.Module) -> Progressive:
    """The progressive model itself.

    Raises:
        OptionError: for another kind of module, or a wrapper that steps can't go through.
    """
    fabric = fabric_layer(prog)
    inner = prog if fabric is None else fabric._forward_module
    inner = inner.module if isinstance(inner, DistributedDataParallel) else inner
    if isinstance(inner, Progressive):
        return inner
    name = type(inner).__name__
    if _holds_one(inner) and name in _INSTEAD:
        raise OptionError(f"prog: {_INSTEAD[name]}")
    raise OptionError(
        "expected a progressive model (pgt_fx.transform(model)), or DistributedDataParallel or "
        f"Fabric's module around one, got {name}"
        + ("; pass the progressive model inside" if _holds_one(inner) else "")
    )


def _holds_one(module: Any) -> bool:
    return isinstance(module, nn.Module) and any(isinstance(m, Progressive) for m in _all(module))


def _all(module: nn.Module) -> list[nn.Module]:
    # A compiled module hands attributes on to the one inside; DataParallel has it as a child.
    return [*module.children(), getattr(module, "_orig_mod", module)]


class Around:
    """What a model is wrapped into, as far as its steps go through it.

    Attributes:
        call: how to call a step; None: as the model is.
        scaler: of the wrapper, which scales losses and unscales gradients in its optimizer's step.
        rough: whether operators run in low precision inside of the call.
        sharded: whether parameters are gathered for the time of the call (``fully_shard``).
    """

    def __init__(self, prog: nn.Module) -> None:
        self.inner = unwrapped(prog)
        fabric = fabric_layer(prog)
        self._precision = None if fabric is None else fabric._strategy.precision
        self.call: Callable[..., Any] | None = None if fabric is None else self._as_fabric_does
        self.scaler: Any = getattr(self._precision, "scaler", None)
        precision = str(getattr(self._precision, "precision", "32-true"))
        self._accelerated = "_original_forward" in vars(self.inner)
        self.rough = self._accelerated or precision not in ("32-true", "64-true")
        self.sharded = any(c.__name__ == "FSDPModule" for c in type(self.inner).__mro__)

    def _as_fabric_does(self, *args: Any, **named: Any) -> Any:
        precision: Any = self._precision
        args, named = precision.convert_input((args, named))
        with precision.forward_context():
            out = self.inner(*args, **named)
        return precision.convert_output(out)

    def check(self, gradient: str, scaler: Any) -> None:
        """Raises OptionError where gradients would be wrong."""
        if self.sharded and gradient == "exact":
            raise OptionError(
                'gradient="exact": fully_shard gathers the parameters where an answer is '
                'differentiated, and this differentiates states as well; use gradient="truncated", '
                "or DistributedDataParallel"
            )
        if self._accelerated and scaler is None and _accelerate_precision() == "fp16":
            raise OptionError(
                "scaler: the model was prepared by accelerate for float16, whose optimizer divides "
                "the gradients by a scale; pass scaler=accelerator.scaler"
            )


def _accelerate_precision() -> str | None:
    state = getattr(sys.modules.get("accelerate.state"), "AcceleratorState", None)
    return None if state is None else state().mixed_precision
