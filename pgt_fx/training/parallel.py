"""Data parallel training: the gradients of all steps are averaged over ranks once.

``DistributedDataParallel`` reduces within each backward, from hooks that its forward arms. A
progressive run has several backwards per update, whose last may not reach every parameter, so the
steps are run on the module inside, where no hook is armed, and the sums are averaged at the end.
"""

from __future__ import annotations

import os
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from pgt_fx.core.errors import OptionError
from pgt_fx.training.wrappers import data_parallel, unwrapped

__all__ = ["broadcast_buffers", "reduce_gradients", "unwrapped"]


#: Variables in which a launcher gives each process the number of processes that it started.
#: (SLURM_NTASKS is not among them: a batch script that is one process has it as well.)
_LAUNCHERS = (
    *("WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE", "PMI_SIZE"),
    "SLURM_STEP_NUM_TASKS",
)
REMEDY = (
    "each would train a whole model of its own, on all of the data. To train one model on several "
    "devices, call pgt_fx.training.fit, or backward in a loop of your own, with "
    "torch.nn.parallel.DistributedDataParallel(prog) and a DistributedSampler, after "
    "torch.distributed.init_process_group()"
)


def check_one_training(prog: nn.Module | None) -> None:
    """Whether the processes that run this train one model, if they are several.

    Args:
        prog: what is trained; None: a training that can't be spread over processes.

    Raises:
        OptionError: when each of them would train a model of its own.
    """
    world = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
    layer = None if prog is None else data_parallel(prog)
    if layer is not None:
        if dist.get_world_size(layer.process_group) != world:
            raise OptionError(
                f"prog: averages its gradients over {dist.get_world_size(layer.process_group)} of "
                f"{world} processes; expected DistributedDataParallel over all of them"
            )
        return
    if world > 1:
        raise OptionError(f"torch.distributed runs {world} processes, and {REMEDY}")
    for name in _LAUNCHERS:
        value = os.environ.get(name, "")
        if value.isdecimal() and int(value) > 1:
            raise OptionError(
                f"{name}={value} in the environment: a launcher started {value} processes, and "
                f"{REMEDY}. If this is one process alone, start it without {name}"
            )


def of_rank_0(value: Any) -> Any:
    """Plain data of the first rank, for all."""
    if not dist.is_initialized():
        return value
    box = [value]
    dist.broadcast_object_list(box, 0)
    return box[0]


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
