"""Which modules of a model are running, and a function mode that is active in some of them only."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn
from torch.overrides import TorchFunctionMode

from pgt_fx.capture.torch_patches import MODULE_CALLS


class Running(list[nn.Module]):
    """The modules that are running, innermost last.

    Attributes:
        calls: how often each was called so far.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[nn.Module] = Counter()


@contextmanager
def followed() -> Iterator[Running]:
    """The modules that are running: a list that changes as they are called."""
    running = Running()

    def before(module: nn.Module, args: Any) -> None:
        running.append(module)
        running.calls[module] += 1

    def after(*_: Any) -> None:
        running.pop()

    with MODULE_CALLS.on(before, after, after_errors=True):
        yield running


@contextmanager
def on_inside(mode: TorchFunctionMode, modules: Collection[nn.Module]) -> Iterator[None]:
    """Have ``mode`` on while one of ``modules`` runs: a capture with it on takes a fifth more."""
    depth = 0

    def wrapped(forward: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(forward)
        def run(*args: Any, **kwargs: Any) -> Any:
            nonlocal depth
            if depth:  # one of them inside another: entered twice it would see each call twice
                return forward(*args, **kwargs)
            depth += 1
            try:
                with mode:
                    return forward(*args, **kwargs)
            finally:
                depth -= 1

        return run

    with ExitStack() as stack:
        for module in modules:
            own = vars(module)
            if "forward" in own:
                stack.callback(own.__setitem__, "forward", own["forward"])
            else:
                stack.callback(own.pop, "forward", None)
            own["forward"] = wrapped(module.forward)
        yield
