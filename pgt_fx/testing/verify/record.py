"""What a certificate records besides the checks: two digests of the model, settings, versions."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from pgt_fx import __version__
from pgt_fx.core.tensor_bytes import bytes_of
from pgt_fx.runtime.progressive import Progressive

#: Kinds of certificates; one without a kind is of a progressive model.
PROGRESSIVE, CAUSAL = "progressive", "causal"


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
            "name": type(prog.inspect.model).__name__,
            "given": {},
            "clip": [list(s) for s in prog.inspect.clip.shapes if s is not None],
            "structure": structure(prog, evaluated),
            "weights": weights(prog),
        },
        "settings": {
            **settings,
            "options": {"operator": markov, "future": options.future, "pooling": options.pooling},
        },
        "versions": _versions(),
    }


def record_of_causal(
    model: nn.Module, clip: Sequence[Sequence[int]], settings: Mapping[str, Any]
) -> dict[str, Any]:
    """The same for a model that was measured as it is.

    Args:
        model: as the user has it.
        clip: sizes of its inputs.
        settings: arguments of ``verify_causal``.
    """
    return {
        "kind": CAUSAL,
        "model": {
            "name": type(model).__name__,
            "given": {},
            "clip": [list(s) for s in clip],
            "structure": modules(model),
            "weights": weights(model),
        },
        "settings": dict(settings),
        "versions": _versions(),
    }


def _versions() -> dict[str, str]:
    return {
        "pgt_fx": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
    }


def modules(model: nn.Module) -> str:
    """Digest of the modules with their settings, as far as they print them, and of names, shapes
    and dtypes of parameters and buffers: of a model that is not captured. What its ``forward`` does
    with them is measured."""
    lines = [f"{name} {type(m).__qualname__} {m.extra_repr()}" for name, m in model.named_modules()]
    for name, x in [*model.named_parameters(), *model.named_buffers()]:
        lines.append(f"{name} {tuple(x.shape)} {x.dtype}")
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def structure(prog: Progressive, evaluated: Progressive) -> str:
    """Digest of the captured graph, of the code of a step, and of names, shapes and dtypes of
    parameters and buffers.

    Comments and line numbers of the model's source don't count; another release of torch may
    capture another graph, and then it differs.
    """
    emitted = evaluated.inspect.program.emitted.graph
    lines = [str(evaluated.inspect.captured.graph), emitted.python_code("self").src]
    for name, x in [*prog.named_parameters(), *prog.named_buffers()]:
        lines.append(f"{name} {tuple(x.shape)} {x.dtype}")
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def weights(model: nn.Module) -> str:
    """Digest of all parameters and buffers, bit by bit."""
    digest = hashlib.sha256()
    for name, x in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(x.shape)} {x.dtype}\n".encode())
        flat = x.detach().cpu().contiguous().reshape(-1)
        if flat.numel():
            digest.update(bytes_of(flat.view(torch.uint8)))
    return digest.hexdigest()
