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

from pgt_fx.training.wrappers import data_parallel, unwrapped

__all__ = ["broadcast_buffers", "reduce_gradients", "unwrapped"]


def broadcast_buffers(prog: nn.Module) -> None:
    """Rank 0's running statistics for all, as DistributedDataParallel does in its forward."""
    parallel = data_parallel(prog)
    if parallel is None or not parallel.broadcast_buffers:
        return
    group = parallel.process_group
    for buffer in parallel.module.buffers():
        dist.broadcast(buffer, dist.get_global_rank(group, 0), group=group)


def reduce_gradients(prog: nn.Module) -> None:
    """Average the gradients over all ranks: one reduction per dtype and device.

    A parameter without gradient on every rank keeps none; without it on some, it counts as zero.
    """
    parallel = data_parallel(prog)
    if parallel is None:
        return
    group: Any = parallel.process_group
    parameters = [p for p in parallel.module.parameters() if p.requires_grad]
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
