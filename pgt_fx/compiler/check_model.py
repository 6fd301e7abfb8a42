"""Modules that stand in the way of a capture, whatever the model computes: refused before it."""

from __future__ import annotations

import sys

import torch
from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.nn.parameter import is_lazy

from pgt_fx.core.errors import CaptureError, Place

#: How a model is trained on several devices is said of the progressive model, not of the one it is
#: made of.
_AROUND_THE_PROGRAM = {
    DataParallel: "DistributedDataParallel(prog)",
    DistributedDataParallel: "DistributedDataParallel(prog)",
}


def check_model(model: nn.Module) -> None:
    """Make sure that a model is Python, that it is whole on one device, and that its weights have
    their sizes.

    Raises:
        CaptureError: where it, or a part of it, was compiled by ``torch.jit``, is wrapped to run on
            several devices, or waits for its first call to make its weights. It says what to pass
            in its place.
    """
    for path, module in model.named_modules():
        found = _scripted(module) or _wrapped(module) or _lazy(module)
        if found:
            raise CaptureError(found, Place(path or "the model", path))


def _scripted(module: nn.Module) -> str:
    if not isinstance(module, torch.jit.ScriptModule):
        return ""
    what = "traced" if isinstance(module, torch.jit.TopLevelTracedModule) else "scripted"
    name = getattr(module, "original_name", type(module).__name__)
    return (
        f"is {what} by torch.jit, and what it computes can't be captured: pass the model "
        f"with the Python module in its place ({name}, before torch.jit compiled it)"
    )


def _wrapped(module: nn.Module) -> str:
    for kind, wrapped in _AROUND_THE_PROGRAM.items():
        if isinstance(module, kind):
            return (
                f"is wrapped in {kind.__name__}: pass the module inside (.module), and wrap what "
                f"is made of it, {wrapped}"
            )
    # Who has made such a module has imported this; it takes a second.
    fsdp = sys.modules.get("torch.distributed.fsdp")
    kinds = () if fsdp is None else (fsdp.FSDPModule, fsdp.FullyShardedDataParallel)
    if isinstance(module, kinds):
        return (
            "is sharded over several devices: transform the model before that, and shard what is "
            "made of it, torch.distributed.fsdp.fully_shard(prog)"
        )
    return ""


def _lazy(module: nn.Module) -> str:
    own = (*module._parameters.items(), *module._buffers.items())
    names = [name for name, tensor in own if tensor is not None and is_lazy(tensor)]
    if not names:
        return ""
    return (
        f"makes its weights in its first call, and has none yet ({', '.join(names)}): call the "
        "model once on a clip, model(clip), and transform it then"
    )
