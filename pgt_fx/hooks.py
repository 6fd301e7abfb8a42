"""Hooks that the user puts on modules of the model, or takes off, before or after a transform.

Those of a module that is called whole are called with it. Those of a module that is cut open are in
the graph, as they were when it was captured; but a gradient passes through its operators alone, so
that a backward hook there could not be called.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn

from pgt_fx.capture.calls import Whole
from pgt_fx.errors import BlockedError, Blocker, Place

#: Of each module that has some, the numbers of its hooks: torch gives every hook another one.
Hooks = tuple[tuple[int, ...], ...]
_FORWARD = ("_forward_hooks", "_forward_pre_hooks")
_BACKWARD = ("_backward_hooks", "_backward_pre_hooks")


def hooked(modules: Sequence[nn.Module]) -> list[dict[int, Any]]:
    """Where the hooks of the modules stand."""
    return [vars(m)[kind] for m in modules for kind in (*_FORWARD, *_BACKWARD)]


def hooks_of(places: Sequence[dict[int, Any]]) -> Hooks:
    """Looked at in every step, and so without a loop of Python's."""
    return tuple(map(tuple, filter(None, places)))


def paths_of(model: nn.Module) -> dict[int, str]:
    """The module on which each hook is, by the hook's number."""
    return {
        number: path
        for path, module in model.named_modules()
        for place in hooked([module])
        for number in place
    }


@contextmanager
def without_backward(model: nn.Module) -> Iterator[None]:
    """No backward hooks meanwhile: they are no operators of the model, and torch would write some
    into the graph for them."""
    places = [vars(m)[kind] for m in model.modules() for kind in _BACKWARD]
    saved = [(place, dict(place)) for place in places if place]
    for place, _ in saved:
        place.clear()
    try:
        yield
    finally:
        for place, hooks in saved:
            place.update(hooks)


def check_backward(model: nn.Module, whole: Whole) -> None:
    """Refuse backward hooks that no step would call.

    Raises:
        BlockedError: listing the modules.
    """
    open_ones = [
        path
        for path, module in model.named_modules()
        if any(vars(module)[kind] for kind in _BACKWARD) and path not in whole
    ]
    if open_ones:
        reason = (
            "the module is not called whole in a step, so that its backward hook would not be "
            "called, and the gradients would be others than the model's"
        )
        remedy = "take the hook off, or put it on prog, on a tensor or on a parameter"
        raise BlockedError(
            [
                Blocker(Place("backward hook", path or "the model"), reason, remedy)
                for path in open_ones
            ]
        )
