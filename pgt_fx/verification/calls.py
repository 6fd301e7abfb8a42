"""The operators that a plain model calls, with what they gave and the line that called them.

No graph is captured: the model runs as it is, so this works on models that can't be exported.
"""

from __future__ import annotations

import linecache
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode, resolve_name

from pgt_fx.errors import Place
from pgt_fx.verification.measure import leaves

_TORCH = os.path.dirname(torch.__file__) + os.sep


@dataclass(frozen=True)
class Call:
    """One call of an operator: what it gave, and where it stands."""

    place: Place
    outputs: tuple[Tensor, ...]


@contextmanager
def calls_of(model: nn.Module) -> Iterator[list[Call]]:
    """Every call that ``model`` makes meanwhile is recorded, results copied."""
    recorder = _Recorder()
    handles = []
    for path, module in model.named_modules():
        handles.append(module.register_forward_pre_hook(recorder.entering(path)))
        handles.append(module.register_forward_hook(recorder.left, always_call=True))
    try:
        with recorder:
            yield recorder.calls
    finally:
        for handle in handles:
            handle.remove()


class _Recorder(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call] = []
        self.inside: list[str] = []

    def entering(self, path: str) -> Any:
        def enter(module: nn.Module, args: Any) -> None:
            self.inside.append(path)

        return enter

    def left(self, module: nn.Module, args: Any, output: Any) -> None:
        if self.inside:
            self.inside.pop()

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        given = tuple(x.detach().clone() for x in leaves(out) if x is not None)
        if given:
            source, line = _line()
            module = self.inside[-1] if self.inside else ""
            self.calls.append(Call(Place(_name(func), module, source, line), given))
        return out


def _name(func: Any) -> str:
    return resolve_name(func) or getattr(func, "__name__", str(func))


def _line() -> tuple[str, str]:
    """The innermost line that is neither torch's nor this package's own."""
    frame = sys._getframe(1)
    while frame is not None:
        path = frame.f_code.co_filename
        if path != __file__ and not path.startswith(_TORCH):
            text = linecache.getline(path, frame.f_lineno).strip()
            return f"{'/'.join(path.split(os.sep)[-2:])}:{frame.f_lineno}", text
        frame = frame.f_back  # type: ignore[assignment]
    return "", ""
