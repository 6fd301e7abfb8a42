"""Data parallel training: the gradients of all steps are averaged over ranks once.

``DistributedDataParallel`` reduces within each backward, from hooks that its forward arms. A
progressive run has several backwards per update, whose last may not reach every parameter, so the
steps are run on the module inside, where no hook is armed, and the sums are averaged at the end.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from pgt_fx.errors import OptionError
from pgt_fx.progressive import Progressive


def unwrapped(prog: nn.Module) -> Progressive:
    """The progressive model itself.

    Raises:
        OptionError: for another kind of module.
    """
    inner = prog.module if isinstance(prog, DistributedDataParallel) else prog
    if not isinstance(inner, Progressive):
        raise OptionError(
            f"expected a progressive model (pgt_fx.transform(model)) or DistributedDataParallel "
            f"around one, got {type(inner).__name__}"
        )
    return inner


def broadcast_buffers(prog: nn.Module) -> None:
    """Rank 0's running statistics for all, as DistributedDataParallel does in its forward."""
    if not isinstance(prog, DistributedDataParallel) or not prog.broadcast_buffers:
        return
    group = prog.process_group
    for buffer in prog.module.buffers():
        dist.broadcast(buffer, dist.get_global_rank(group, 0), group=group)


def reduce_gradients(prog: nn.Module) -> None:
    """Average the gradients over all ranks: one reduction per dtype and device.

    A parameter without gradient on every rank keeps none; without it on some, it counts as zero.
    """
    if not isinstance(prog, DistributedDataParallel):
        return
    group: Any = prog.process_group
    parameters = [p for p in prog.module.parameters() if p.requires_grad]
    if not parameters:
        return
    has = torch.tensor([float(p.grad is not None) for p in parameters], device=parameters[0].device)
    dist.all_reduce(has, group=group)
    buckets: dict[tuple[torch.dtype, torch.device], list[nn.Parameter]] = {}
    for parameter, count in zip(parameters, has.tolist(), strict=True):
        if count:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            buckets.setdefault((parameter.grad.dtype, parameter.device), []).append(parameter)
    for bucket in buckets.values():
        gradients = [_gradient(p) for p in bucket]
        flat = torch.cat([g.reshape(-1) for g in gradients])
        dist.all_reduce(flat, group=group)
        flat /= dist.get_world_size(group)
        for gradient, part in zip(
            gradients, flat.split([g.numel() for g in gradients]), strict=True
        ):
            gradient.copy_(part.view_as(gradient))


def _gradient(parameter: nn.Parameter) -> Tensor:
    if parameter.grad is None:
        raise ValueError("a parameter without gradient in a bucket")
    return parameter.grad
