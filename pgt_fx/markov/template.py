"""An operator with its captured arguments, some of which are filled in at each step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Hole:
    """Stands for the number-th operand in a template's arguments."""

    number: int


@dataclass(frozen=True)
class Template:
    """``call(*args, **kwargs)`` with a :class:`Hole` for every operand.

    Hole 0 is the tensor that has time; the others are weights and sizes.
    """

    call: Callable[..., Any]
    args: tuple[Any, ...] = ()
    kwargs: tuple[tuple[str, Any], ...] = ()

    def __call__(self, *operands: Any) -> Tensor:
        named = {name: _filled(value, operands) for name, value in self.kwargs}
        return self.call(*[_filled(a, operands) for a in self.args], **named)


def _filled(value: Any, operands: tuple[Any, ...]) -> Any:
    # No closure that calls itself: it would keep the operands alive until the next collection.
    if isinstance(value, Hole):
        return operands[value.number]
    if isinstance(value, (list, tuple)):
        return [_filled(v, operands) for v in value]
    return value
