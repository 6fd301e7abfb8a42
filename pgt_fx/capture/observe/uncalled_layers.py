"""Layers that have no part in what a model computes, though the module around them is called.

The forward of such a module has another branch, for an argument that was left out: an upsampling
that works along time only when it is given a cache. The branch that runs is converted, which may
not be the one that the user means.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from torch import nn

from pgt_fx.capture.observe.module_calls import ModuleCall
from pgt_fx.core.clip import ClipSpec
from pgt_fx.core.hints import hints_for
from pgt_fx.core.torch_private import pytree

#: Paths that a line names; the others are counted.
MOST_NAMED = 3


def find_idle(program: Any, calls: Iterable[ModuleCall]) -> tuple[str, ...]:
    """Paths of the layers of which no parameter is read, inside of modules that are called.

    Args:
        program: what ``torch.export`` gave.
        calls: of the model's modules; the model itself is called as well.
    """
    called = {"", *(call.path for call in calls)}
    named = program.graph_signature.inputs_to_parameters
    read: dict[str, bool] = {}
    for node in program.graph.nodes:
        if node.name in named:
            owner = named[node.name].rpartition(".")[0]
            read[owner] = read.get(owner, False) or bool(node.users)
    return tuple(
        path
        for path, any_read in read.items()
        if path and not any_read and path.rpartition(".")[0] in called and path not in called
    )


def warn_idle(model: nn.Module, idle: Sequence[str], spec: ClipSpec) -> None:
    """Tell of idle layers that would work along time, and that another argument may run."""
    along = [
        path
        for path in idle
        if _along_time(model.get_submodule(path)) and _has_other_ways(model, path)
    ]
    if not along:
        return
    given = pytree.tree_unflatten(list(spec.shapes), spec.spec)
    left = ", ".join(f"{name}=" for name in _left_out(model, given))
    arguments = f" (its arguments {left} were left out)" if left else ""
    warnings.warn(
        "\n".join(
            [
                f"{type(model).__name__}: layers along time are not run by the call that is "
                f"converted{arguments}, and have no part in what the steps compute: "
                f"{listed(along)}",
                *hints_for(model, along),
            ]
        ),
        stacklevel=3,
    )


def listed(paths: Collection[str]) -> str:
    """A few of some paths, and how many more there are."""
    first, more = list(paths)[:MOST_NAMED], len(paths) - MOST_NAMED
    return ", ".join(first) + (f" and {more} more" if more > 0 else "")


def _along_time(layer: nn.Module) -> bool:
    """Whether it is a convolution with a window along time: the first axis of its kernel."""
    weight = getattr(layer, "weight", None)
    return weight is not None and weight.dim() in (3, 5) and weight.shape[2] > 1


def _has_other_ways(model: nn.Module, path: str) -> bool:
    """Whether the module around a layer takes more than its input."""
    return len(_arguments(model.get_submodule(path.rpartition(".")[0]))) > 1


def _left_out(model: nn.Module, given: tuple[Any, Any]) -> list[str]:
    return [name for name in _arguments(model)[len(given[0]) :] if name not in given[1]]


def _arguments(module: nn.Module) -> list[str]:
    parameters = inspect.signature(module.forward).parameters.values()
    return [p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
