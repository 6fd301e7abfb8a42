"""Trees of modules with some of them replaced, and the others shared."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TypeVar

from torch import nn

M = TypeVar("M", bound=nn.Module)


def rebuilt(module: nn.Module, replace: Callable[[nn.Module], nn.Module | None]) -> nn.Module:
    """A module with some of its submodules replaced; the one given stays as it is.

    Args:
        module: any module.
        replace: gives the module to put in the place of one, or None to leave it; called from
            the outside in, and not on what is inside a module that it replaces.

    Returns:
        What ``replace`` makes of the module; or a shallow copy of it, of the same class and with
        the same parameters and buffers, which holds the replaced submodules and the containers
        of such, copied likewise; or the module itself, where nothing in it is replaced.
    """
    made = replace(module)
    if made is not None:
        return made
    children = {
        name: child if child is None else rebuilt(child, replace)
        for name, child in module._modules.items()
    }
    if all(child is module._modules[name] for name, child in children.items()):
        return module
    twin = copy.copy(module)
    twin._modules = children
    return twin


def under(kind: type[M], module: nn.Module) -> M:
    """The same module under another class, most often one it derives from.

    The parameters, buffers and settings are shared; only the methods are those of ``kind``.
    """
    twin = kind.__new__(kind)
    twin.__dict__.update(module.__dict__)
    return twin
