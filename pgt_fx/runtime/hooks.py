"""Hooks that the user adds to modules of the model, or removes, before or after a transform.

Hooks of a module that is called whole are called with it. Forward hooks of a module whose operators
are in the graph are captured with them; a gradient passes through the operators alone, so that a
backward hook there could not be called.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from pgt_fx.capture.observe.module_calls import Whole
from pgt_fx.core.errors import BlockedError, Blocker, Place
from pgt_fx.core.torch_private import pytree, version_of

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


class Watch:
    """Hooks that were added to modules which are called whole: whether they only look.

    One that gives another value may mix time, as nothing else that is called whole does.
    """

    def __init__(self, model: nn.Module, paths: Iterable[str]) -> None:
        self.model, self.changed = model, False
        modules = [model.get_submodule(path) for path in paths]
        self.places = [vars(m)[kind] for m in modules for kind in _FORWARD]
        self.awaited = {number for place in self.places for number in place}

    def run(self, step: Callable[[], Any]) -> Any:
        """What the step gives; where a hook gave another value it is to be run again, and what it
        wrote into the model's buffers is taken back."""
        buffers = [(buffer, buffer.detach().clone()) for buffer in self.model.buffers()]
        given = [(place, dict(place)) for place in self.places if place]
        for place, hooks in given:
            place.update({number: self._noted(number, hook) for number, hook in hooks.items()})
        try:
            found = step()
        finally:
            for place, hooks in given:
                place.update({n: hook for n, hook in hooks.items() if n in place})
        if self.changed:
            with torch.no_grad():
                for buffer, before in buffers:
                    buffer.copy_(before)
        return found

    def _noted(self, number: int, hook: Callable[..., Any]) -> Callable[..., Any]:
        def noted(module: nn.Module, *given: Any) -> Any:
            self.awaited.discard(number)
            known = [(x, version_of(x)) for x in _tensors(given)]
            out = hook(module, *given)
            ours = {id(x) for x, _ in known}
            self.changed |= any(id(x) not in ours for x in _tensors(out))
            self.changed |= any(version_of(x) != version for x, version in known)
            return out

        return noted


def _tensors(values: Any) -> list[Tensor]:
    return [x for x in pytree.tree_leaves(values) if isinstance(x, Tensor)]


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
