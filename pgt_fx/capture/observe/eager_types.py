"""What ``type`` and ``isinstance`` say in the model's code while it is captured: what they say in
eager Python, where a size is an int and a tensor a Tensor.
"""

from __future__ import annotations

import builtins
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from pgt_fx.capture.observe.globals_read import Elsewhere
from pgt_fx.capture.torch_patches import ISINSTANCE, TYPE
from pgt_fx.core.torch_private import FakeTensor, FunctionalTensor

_SIZES: dict[type, type] = {torch.SymInt: int, torch.SymFloat: float, torch.SymBool: bool}


class _Meta(type):
    def __instancecheck__(cls, value: Any) -> bool:
        return builtins.isinstance(value, builtins.type)

    def __subclasscheck__(cls, kind: Any) -> bool:
        return builtins.issubclass(kind, builtins.type)


class _Type(metaclass=_Meta):
    """Stands for ``type``, of which no instance is ever made."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        return _of(args[0]) if len(args) == 1 and not kwargs else builtins.type(*args, **kwargs)


def _of(value: Any) -> type:
    kind = builtins.type(value)
    if kind in _SIZES:
        return _SIZES[kind]
    if kind in (FakeTensor, FunctionalTensor):
        return nn.Parameter if builtins.isinstance(value, nn.Parameter) else Tensor
    return kind


def _isinstance(value: Any, kinds: Any) -> bool:
    if builtins.isinstance(value, kinds):
        return True
    size = _SIZES.get(builtins.type(value))
    return size is not None and builtins.issubclass(size, kinds)


@contextmanager
def types_as_eager(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Have them say so in the files in which the model's code stands; where one has a function of
    its own by that name it is left."""
    with ExitStack() as stack:
        for space in Elsewhere(modules).spaces:
            stack.enter_context(TYPE.put(space, _Type))
            stack.enter_context(ISINSTANCE.put(space, _isinstance))
        yield
