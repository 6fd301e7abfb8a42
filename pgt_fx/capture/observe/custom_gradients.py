"""Custom gradients of a model: functions with a backward of their own, hooks on tensors.

A capture has the operators of the forward and none of these: where their lines become operators of
the graph, and are not run in the user's own module, autograd differentiates the forward instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import Function

from pgt_fx.capture.observe.model_lines import calling_place
from pgt_fx.capture.torch_patches import APPLIED, HOOKED
from pgt_fx.core.errors import Place
from pgt_fx.core.torch_private import pytree

#: Sizes that a function is tried at, and the most elements of a tensor where it takes no such.
SMALL, MOST = 5, 1 << 21
#: Magnitudes of what it is given and of the gradients that it is handed.
SCALES = ((1.0, 1.0), (0.02, 1e3), (20.0, 1e-3))
#: Where torch makes the functions of ``torch.library.register_autograd``: such an operator is in
#: the graph as it is, and keeps its gradient.
OF_OPERATORS = "torch._library.autograd"
#: Relative difference of gradients that passes for rounding.
BOUND = 1e-5


@dataclass(frozen=True)
class Like:
    """Size, type and device of a tensor that a function was given."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device

    def drawn(self, generator: torch.Generator, scale: float, small: bool) -> Tensor:
        """A tensor like it, in float64 where it has a gradient."""
        shape = [min(s, SMALL) for s in self.shape] if small else list(self.shape)
        if not small and torch.Size(shape).numel() > MOST:
            raise ValueError("too large to be tried")
        if self.dtype.is_floating_point or self.dtype.is_complex:
            dtype = torch.complex128 if self.dtype.is_complex else torch.float64
            x = torch.randn(shape, generator=generator, dtype=dtype, device="cpu") * scale
        else:
            x = torch.randint(0, 2, shape, generator=generator, device="cpu").to(self.dtype)
        return x.to(self.device)


@dataclass
class ByHand:
    """One call that says what a gradient is to be.

    Attributes:
        place: the line of the model.
        calls: keys of the module calls around it, innermost last.
        function: the function that was applied; None for a hook on a tensor.
        args: what it was given; tensors as :class:`Like`.
    """

    place: Place
    calls: tuple[str, ...]
    function: Any = None
    args: tuple[Any, ...] = field(default=(), repr=False)

    @cached_property
    def harmless(self) -> bool:
        """Whether the backward of the function is the gradient of its forward (it saves memory,
        say), so that autograd gives the same. Found by trying both on noise; False where that
        fails."""
        if self.function is None:
            return False
        for small in (True, False):
            try:
                with torch.enable_grad(), torch.random.fork_rng():
                    return all(self._agree(number, small) for number in range(len(SCALES)))
            except Exception:  # whatever the user's code raises at sizes that are not its own
                continue
        return False

    def _agree(self, number: int, small: bool) -> bool:
        own = self._gradients(self.function.apply, number, small)
        with APPLIED.replaced(_written_out):  # those that it applies in turn
            written = self._gradients(self.function.apply, number, small)
        finite = False
        for one, other in zip(own, written, strict=True):
            size = float(one.abs().nan_to_num(0.0, 0.0, 0.0).amax()) if one.numel() else 0.0
            if not torch.allclose(one, other, BOUND, BOUND * size, equal_nan=True):
                return False
            finite = finite or bool(one.isfinite().any())
        return finite

    def _gradients(self, apply: Callable[..., Any], number: int, small: bool) -> list[Tensor]:
        torch.manual_seed(number)
        generator = torch.Generator().manual_seed(number)
        scale, weight = SCALES[number]
        leaves: list[Tensor] = []

        def draw(like: Like) -> Tensor:
            x = like.drawn(generator, scale, small)
            if x.is_floating_point() or x.is_complex():
                leaves.append(x.requires_grad_())
                return x * 1  # it may write into what it is given
            return x

        found = apply(*pytree.tree_map_only(Like, draw, self.args))
        results = [x for x in pytree.tree_leaves(found) if isinstance(x, Tensor)]
        weights = torch.Generator().manual_seed(7 + number)
        total = torch.zeros((), dtype=torch.float64, device=leaves[0].device, requires_grad=True)
        for x in results:
            noise = torch.randn(x.shape, generator=weights, dtype=torch.float64, device="cpu")
            if x.requires_grad:
                total = total + (x * noise.to(x.device) * weight).sum().real
        gradients = torch.autograd.grad(total, leaves, allow_unused=True)
        return [
            torch.zeros_like(leaf) if g is None else g
            for g, leaf in zip(gradients, leaves, strict=True)
        ]


class _Context:
    """Stands for the context of a function whose forward is run as plain code."""

    def __init__(self, count: int) -> None:
        self.needs_input_grad = (True,) * count
        self.saved_tensors: tuple[Any, ...] = ()

    def save_for_backward(self, *tensors: Any) -> None:
        self.saved_tensors = tensors

    def _nothing(self, *_: Any) -> None:
        return None

    save_for_forward = mark_dirty = mark_non_differentiable = set_materialize_grads = _nothing


def plain(function: Any, args: Sequence[Any]) -> Any:
    """The forward of a function as a capture writes it out."""
    if function.setup_context is not Function.setup_context:
        return function.forward(*args)
    return function.forward(_Context(len(args)), *args)


def _written_out(below: Callable[..., Any]) -> Callable[..., Any]:
    return lambda cls, *args: plain(cls, args)


@contextmanager
def gradients_by_hand(running: Sequence[str]) -> Iterator[list[ByHand]]:
    """The calls that are made while it is open, in order; those inside of another left out.

    Args:
        running: keys of the module calls that run, innermost last.
    """
    found: list[ByHand] = []
    inside = False

    def note(func: Any, function: Any, args: tuple[Any, ...]) -> None:
        calls = tuple(running)
        module = calls[-1].partition("@")[0] if calls else ""
        place = calling_place(func, module)
        # Each mode that is on makes a call of a tensor's method anew.
        if function is not None or not any(c.place == place and c.calls == calls for c in found):
            found.append(ByHand(place, calls, function, _like(args)))

    def applies(below: Callable[..., Any]) -> Callable[..., Any]:
        def apply(cls: Any, *args: Any, **kwargs: Any) -> Any:
            nonlocal inside
            if inside or cls.__module__ == OF_OPERATORS:
                return below(cls, *args, **kwargs)
            note(cls, cls, args)
            inside = True
            try:
                return below(cls, *args, **kwargs)
            finally:
                inside = False

        return apply

    def hooks(below: Callable[..., Any]) -> Callable[..., Any]:
        def register_hook(self: Tensor, *args: Any) -> Any:
            if not inside:
                note(below, None, ())
            return below(self, *args)

        return register_hook

    with HOOKED.replaced(hooks), APPLIED.replaced(applies):
        yield found


def _like(args: tuple[Any, ...]) -> tuple[Any, ...]:
    def small(x: Any) -> Any:
        if isinstance(x, Tensor):
            return Like(tuple(map(_number, x.shape)), x.dtype, x.device)
        return _number(x) if isinstance(x, torch.SymInt) else x

    return tuple(pytree.tree_map(small, args))


def _number(size: Any) -> int:
    hint = size.node.hint if isinstance(size, torch.SymInt) else size
    return SMALL if hint is None else int(hint)
