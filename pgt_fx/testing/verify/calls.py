"""The operators that a plain model calls, with what they gave and the line that called them.

No graph is captured: the model runs as it is, so this works on models that can't be exported.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from pgt_fx.capture.observe.model_lines import calling_place
from pgt_fx.compiler.selfcheck.measure import leaves
from pgt_fx.core.errors import Place


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
            place = calling_place(func, self.inside[-1] if self.inside else "")
            self.calls.append(Call(place, given))
        return out
