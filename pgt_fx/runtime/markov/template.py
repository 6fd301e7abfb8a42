"""An operator with its captured arguments, some of which are filled in at each step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from pgt_fx.runtime.torch_functions import torch_function_for


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
    _run: Callable[..., Any] = field(init=False, repr=False, compare=False)
    _fixed: list[Any] | None = field(init=False, repr=False, compare=False)
    _holes: list[tuple[int, int]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # Most arguments are the same in every step: they are laid out once. As plain lists: those
        # of a graph are of a class of its own, which torch.compile does not know.
        plain = not self.kwargs and not any(_has_hole(a) for a in self.args if _nested(a))
        fixed = [_filled(a, ()) if _nested(a) else a for a in self.args] if plain else None
        holes = [(at, a.number) for at, a in enumerate(self.args) if isinstance(a, Hole)]
        object.__setattr__(self, "_run", torch_function_for(self.call))
        object.__setattr__(self, "_fixed", fixed)
        object.__setattr__(self, "_holes", holes)

    def __call__(self, *operands: Any) -> Tensor:
        fixed = self._fixed
        if fixed is not None:
            args = fixed.copy()
            for at, number in self._holes:
                args[at] = operands[number]
            return self._run(*args)
        named = {name: _filled(value, operands) for name, value in self.kwargs}
        return self.call(*[_filled(a, operands) for a in self.args], **named)


def _nested(value: Any) -> bool:
    return isinstance(value, (list, tuple))


def _has_hole(value: Any) -> bool:
    if isinstance(value, Hole):
        return True
    return _nested(value) and any(_has_hole(v) for v in value)


def _filled(value: Any, operands: tuple[Any, ...]) -> Any:
    # No closure that calls itself: it would keep the operands alive until the next collection.
    if isinstance(value, Hole):
        return operands[value.number]
    if _nested(value):
        return [_filled(v, operands) for v in value]
    return value
