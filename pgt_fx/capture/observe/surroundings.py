"""What the model's Python asks of its surroundings: whether gradients are on, autocast, the type of
its tensors, a variable of the environment; and whether it is being captured, to which
it gets the answer of eager Python.

An answer is frozen by the capture. So the questions are noted, and the model is captured anew where
they would be answered otherwise.
"""

from __future__ import annotations

import os
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
import torch._dynamo.external_utils
import torch.compiler
import torch.onnx
from torch import nn

from pgt_fx.capture.observe.failing_line import (
    DEVICES,
    GRADIENTS,
    INFERENCE,
    LAYOUTS,
    TYPES,
    asking_frame,
    calling_place,
    is_ours,
)
from pgt_fx.core.errors import Place

#: Questions whose answers a capture freezes.
ASKED: dict[str, tuple[Any, str]] = {
    f"torch.{name}": (torch, name)
    for name in (
        *("is_grad_enabled", "is_inference_mode_enabled", "get_default_dtype"),
        *("is_autocast_enabled", "is_autocast_cpu_enabled", "get_autocast_dtype"),
        *("get_autocast_cpu_dtype", "get_autocast_gpu_dtype", "get_float32_matmul_precision"),
        *("are_deterministic_algorithms_enabled", "get_deterministic_debug_mode"),
    )
    if hasattr(torch, name)
}
#: Before the name of a variable of the process's environment.
VARIABLE = "os.environ: "
#: What sets torch's random numbers to a place of their own.
SEEDING = [
    (home, name)
    for home in (torch, torch.random, torch.cuda)
    for name in ("manual_seed", "manual_seed_all", "seed", "set_rng_state", "fork_rng")
    if hasattr(home, name)
]
#: Python functions that tell whether the model is being captured.
CAPTURING: tuple[Any, ...] = (
    torch.compiler.is_compiling,
    torch.compiler.is_dynamo_compiling,
    torch.compiler.is_exporting,
    torch._dynamo.external_utils.is_compiling,
    torch.onnx.is_in_onnx_export,
    torch.jit.is_tracing,
)


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
            home, name = ASKED[question]
            out.append(getattr(home, name)())
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
    """Have the model told, while it is captured, what is on where this is entered."""
    found = {question: bool(getattr(torch, question[6:])()) for question in _SWITCHED}
    token = _OUTSIDE.set(found)
    try:
        yield
    finally:
        _OUTSIDE.reset(token)


@contextmanager
def gradients_as_outside(asked: frozenset[str]) -> Iterator[None]:
    """Have gradients be on or off in a capture as they are where it is asked for, for a model that
    asks what has a gradient; for others it is made with gradients, which blocks without them are
    then seen in."""
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
        for home, name in SEEDING:
            plain = getattr(home, name)
            stack.callback(setattr, home, name, plain)
            setattr(home, name, _noting_seed(plain, found.seeded))
        for question, (home, name) in ASKED.items():
            plain = getattr(home, name)
            stack.callback(setattr, home, name, plain)
            setattr(home, name, _noting(plain, question, found.asked))
        plain = os._Environ.__getitem__
        stack.callback(setattr, os._Environ, "__getitem__", plain)
        os._Environ.__getitem__ = _noting_variable(plain, found.asked)  # type: ignore[method-assign]
        for function in dict.fromkeys(CAPTURING):
            stack.enter_context(_told_as_eager(function))
        yield found


def _noting_seed(plain: Callable[..., Any], seeded: list[Place]) -> Callable[..., Any]:
    def noting(*args: Any, **kwargs: Any) -> Any:
        if not is_ours(sys._getframe(1).f_code.co_filename):
            where = calling_place(plain)
            seeded.extend([] if where in seeded else [where])
        return plain(*args, **kwargs)

    return noting


def _noting_variable(plain: Callable[..., Any], asked: set[str]) -> Callable[..., Any]:
    """``os.environ[name]``, by which ``getenv`` and the others look a variable up as well."""

    def noting(self: Any, name: Any) -> Any:
        if isinstance(name, str) and asking_frame(sys._getframe(1)) is not None:
            asked.add(VARIABLE + name)
        return plain(self, name)

    return noting


def _noting(plain: Callable[..., Any], question: str, asked: set[str]) -> Callable[..., Any]:
    inside = plain() if question in _SWITCHED else None
    outside = (_OUTSIDE.get() or {}).get(question, inside)

    def noting(*args: Any, **kwargs: Any) -> Any:
        found = plain(*args, **kwargs)
        if is_ours(sys._getframe(1).f_code.co_filename):
            return found
        asked.add(question)
        # The model may switch it itself: then the answer is its own.
        return outside if question in _SWITCHED and found == inside else found

    return noting


@contextmanager
def _told_as_eager(function: types.FunctionType) -> Iterator[None]:
    """Have a function of torch answer False on lines of the model. Its code is replaced and not its
    name: a model may have imported it."""
    own, plain = function.__code__, types.FunctionType(function.__code__, function.__globals__)
    _PLAIN[function.__name__, function.__module__] = plain
    made = compile(
        _TOLD.format(name=function.__name__, module=function.__module__), "<told>", "exec"
    )
    space: dict[str, Any] = {}
    exec(made, space)
    function.__code__ = space["told"].__code__
    try:
        yield
    finally:
        function.__code__ = own
        del _PLAIN[function.__name__, function.__module__]


_TOLD = """
def told():
    from pgt_fx.capture.observe.surroundings import told_on
    return told_on({name!r}, {module!r})
"""
_PLAIN: dict[tuple[str, str], Callable[[], bool]] = {}


def told_on(name: str, module: str) -> bool:
    """The answer on the line that asks: torch's own have to know."""
    return is_ours(sys._getframe(2).f_code.co_filename) and _PLAIN[name, module]()
