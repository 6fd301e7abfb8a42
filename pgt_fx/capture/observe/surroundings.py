"""Questions of the model's Python about its surroundings: whether gradients or autocast are on, the
type of its tensors, an environment variable; and whether it is being captured, which is answered as
in eager Python.

The capture freezes an answer. So the questions are recorded, and the model is captured anew where
the answers differ.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from pgt_fx.capture.observe.failing_line import DEVICES, GRADIENTS, INFERENCE, LAYOUTS, TYPES
from pgt_fx.capture.observe.model_lines import asking_frame, calling_place, is_ours
from pgt_fx.capture.replacing import Make, caller
from pgt_fx.capture.torch_patches import ASKED, CAPTURING, SEEDING, VARIABLES
from pgt_fx.core.errors import Place

#: Before the name of a variable of the process's environment.
VARIABLE = "os.environ: "


def answers(model: nn.Module, questions: frozenset[str]) -> tuple[Any, ...]:
    """What the surroundings are now, as far as the model has asked."""
    out: list[Any] = []
    for question in sorted(questions):
        if question == TYPES:
            weights = next((p.dtype for p in model.parameters() if p.is_floating_point()), None)
            out += [weights, *_autocast()]
        elif question == GRADIENTS:
            flags = [(p.requires_grad, p.grad is None) for p in model.parameters()]
            out += [torch.is_grad_enabled(), *flags]
        elif question == DEVICES:
            out.append(next((p.device for p in model.parameters()), None))
        elif question.startswith(VARIABLE):
            out.append(os.environ.get(question.removeprefix(VARIABLE)))
        elif question in (LAYOUTS, INFERENCE):
            continue  # of the clip's own, and of what is refused
        elif "autocast" in question:
            out += _autocast()
        else:
            patch = ASKED[question]
            out.append(getattr(patch.home, patch.name)())
    return tuple(out)


def _autocast() -> list[Any]:
    devices = ("cpu", "cuda")
    return [
        torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        for device in devices
    ]


#: Whether gradients and inference mode were on where a capture was asked for: it is made without.
_OUTSIDE: ContextVar[dict[str, bool] | None] = ContextVar("outside", default=None)
_SWITCHED = ("torch.is_grad_enabled", "torch.is_inference_mode_enabled")


@contextmanager
def as_outside() -> Iterator[None]:
    """Answer the model, while it is captured, with what is on where this is entered."""
    found = {question: bool(getattr(torch, question[6:])()) for question in _SWITCHED}
    token = _OUTSIDE.set(found)
    try:
        yield
    finally:
        _OUTSIDE.reset(token)


@contextmanager
def gradients_as_outside(asked: frozenset[str]) -> Iterator[None]:
    """Have gradients on or off in a capture as they are for its caller, for a model that asks what
    has a gradient. Others are captured with gradients, so that blocks without them show in the
    graph."""
    outside = (_OUTSIDE.get() or {}).get("torch.is_grad_enabled", True)
    with torch.set_grad_enabled(outside) if GRADIENTS in asked else nullcontext():
        yield


@dataclass
class Surroundings:
    """What a model has done with its surroundings.

    Attributes:
        asked: questions.
        seeded: lines on which it seeds torch's random numbers.
    """

    asked: set[str] = field(default_factory=set)
    seeded: list[Place] = field(default_factory=list)


@contextmanager
def surroundings() -> Iterator[Surroundings]:
    """Note what the model asks of its surroundings; tell it that nothing is captured."""
    found = Surroundings()
    with ExitStack() as stack:
        for seeding in SEEDING:
            stack.enter_context(seeding.replaced(_noting_seed(found.seeded)))
        for question, patch in ASKED.items():
            stack.enter_context(patch.replaced(_noting(question, found.asked)))
        stack.enter_context(VARIABLES.replaced(_noting_variable(found.asked)))
        for function in CAPTURING:
            stack.enter_context(function.replaced(_as_eager))
        yield found


def _noting_seed(seeded: list[Place]) -> Make:
    def make(plain: Callable[..., Any]) -> Callable[..., Any]:
        def noting(*args: Any, **kwargs: Any) -> Any:
            if not is_ours(caller().f_code.co_filename):
                where = calling_place(plain)
                seeded.extend([] if where in seeded else [where])
            return plain(*args, **kwargs)

        return noting

    return make


def _noting_variable(asked: set[str]) -> Make:
    """``os.environ[name]``, by which ``getenv`` and the others look a variable up as well."""

    def make(plain: Callable[..., Any]) -> Callable[..., Any]:
        def noting(self: Any, name: Any) -> Any:
            if isinstance(name, str) and asking_frame(caller()) is not None:
                asked.add(VARIABLE + name)
            return plain(self, name)

        return noting

    return make


def _noting(question: str, asked: set[str]) -> Make:
    def make(plain: Callable[..., Any]) -> Callable[..., Any]:
        inside = plain() if question in _SWITCHED else None
        outside = (_OUTSIDE.get() or {}).get(question, inside)

        def noting(*args: Any, **kwargs: Any) -> Any:
            found = plain(*args, **kwargs)
            if is_ours(caller().f_code.co_filename):
                return found
            asked.add(question)
            # The model may switch it itself: then the answer is its own.
            return outside if question in _SWITCHED and found == inside else found

        return noting

    return make


def _as_eager(plain: Callable[[], bool]) -> Callable[[], bool]:
    """A question whether something is captured: no, on lines of the model; torch's own have to
    know."""

    def answer() -> bool:
        return is_ours(caller().f_code.co_filename) and plain()

    return answer
