"""What a certificate says beside the checks: the model in two digests, settings and versions."""

from __future__ import annotations

import ctypes
import hashlib
import platform
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pgt_fx import __version__
from pgt_fx.progressive import Progressive


def record_of(
    prog: Progressive, evaluated: Progressive, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Plain data (JSON-able).

    Args:
        prog: the progressive model as the user has it.
        evaluated: a copy in eval mode under the same options.
        settings: arguments of ``verify``.
    """
    options = prog.options
    markov = {"aggregate": options.markov.aggregate, "momentum": options.markov.momentum}
    return {
        "model": {
            "name": type(prog._source.model).__name__,
            "given": {},
            "clip": [list(s) for s in prog._source.spec.shapes if s is not None],
            "structure": structure(prog, evaluated),
            "weights": weights(prog),
        },
        "settings": {
            **settings,
            "options": {"operator": markov, "future": options.future, "pooling": options.pooling},
        },
        "versions": {
            "pgt_fx": __version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
            "machine": platform.machine(),
        },
    }


def structure(prog: Progressive, evaluated: Progressive) -> str:
    """Digest of the captured graph, of the code of a step, and of names, shapes and dtypes of
    parameters and buffers.

    Comments and line numbers of the model's source don't count; another release of torch may
    capture another graph, and then it differs.
    """
    emitted = evaluated._program().emitted.graph
    lines = [str(evaluated._captured().graph), emitted.python_code("self").src]
    for name, x in [*prog.named_parameters(), *prog.named_buffers()]:
        lines.append(f"{name} {tuple(x.shape)} {x.dtype}")
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _bytes(flat: Tensor) -> Any:
    """The memory of a tensor of bytes on the CPU, as it is: torch's way there is through NumPy,
    which may not be installed."""
    return (ctypes.c_uint8 * flat.numel()).from_address(flat.data_ptr())


def weights(model: nn.Module) -> str:
    """Digest of all parameters and buffers, bit by bit."""
    digest = hashlib.sha256()
    for name, x in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(x.shape)} {x.dtype}\n".encode())
        flat = x.detach().cpu().contiguous().reshape(-1)
        if flat.numel():
            digest.update(_bytes(flat.view(torch.uint8)))
    return digest.hexdigest()
