"""Conditions on sizes that the model's own Python evaluates while it is captured, and the answers.

A branch is frozen by the capture: the graph is the model where every answer is the same. torch
keeps the conditions that its sizes may break as guards, but not those that it answers from the
range of a size: a batch of 2 stands for all but 0 and 1, so that ``x.shape[0] == 1`` leaves no
trace. So the question itself is recorded: a truth value asked for on a line of the model, or by a
function of torch to which the line passes it (``torch._assert``, ``torch._check``).

A size that the model turns into a number (``float(h * w)``, the kernel of a pool) is frozen as
well: the graph is the model where the size has that value. So is one that it formats (``f"{h}"``)
or looks up in a dictionary, unless the text is only a message.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

import sympy
import torch
from torch import Tensor, fx, nn

from pgt_fx.capture.observe.model_lines import asking_frame, calling_place, library, written_at
from pgt_fx.capture.observe.module_calls import call_stack, place
from pgt_fx.capture.observe.statements import only_said
from pgt_fx.capture.replacing import Make, caller
from pgt_fx.capture.schema import schema_name
from pgt_fx.capture.torch_patches import (
    ASSERTIONS,
    BRANCHES,
    FLOATS,
    INTEGERS,
    MADE_OF_SIZES,
    WRITTEN,
)
from pgt_fx.core.torch_private import pytree


@dataclass(frozen=True)
class Asked:
    """A condition on sizes, and the answer that the capture gave.

    Attributes:
        expr: the condition.
        answer: what it was in the capture.
        where, line: of the model.
        calls: keys of the module calls that were running, the innermost last.
    """

    expr: Any
    answer: bool
    where: str
    line: str
    calls: tuple[str, ...] = ()

    def holds(self, at: Mapping[Any, Any]) -> bool:
        """Whether the answer is the same where the sizes are these; a condition on sizes that are
        not known holds."""
        found = self.expr.xreplace(dict(at))
        return found not in (sympy.true, sympy.false) or bool(found) == self.answer

    def given(self, at: Mapping[Any, Any]) -> Any:
        """What has to be true of the other sizes where these are so."""
        found = self.expr.xreplace(dict(at))
        return found if self.answer else sympy.Not(found)

    def __str__(self) -> str:
        return f"{self.expr} was {'true' if self.answer else 'false'} in the capture"


@dataclass
class Questions:
    """What a capture was asked.

    Attributes:
        asked: the conditions, each once for each line and module call.
        numbers: sizes that became a number, each as the condition that it has this value.
        settled: keys of the module calls that compared or calculated sizes with a result that is
            the same at all sizes of a video (``T + 1 < 2``), of which nothing is left in the graph.
        symbols: symbol of a size -> number of the clip's leaf, and dimension.
    """

    asked: list[Asked] = field(default_factory=list)
    numbers: list[Asked] = field(default_factory=list)
    settled: set[str] = field(default_factory=set)
    symbols: dict[Any, tuple[int, int]] = field(default_factory=dict)

    def frozen(self, times: frozenset[Any]) -> list[Asked]:
        """The sizes other than numbers of frames that became a number."""
        return [a for a in self.numbers if not a.expr.free_symbols & times]

    def freeze(
        self, times: Sequence[int | None], sample: Sequence[Any], where: str, line: str
    ) -> None:
        """Have the graph be the model at these sizes alone, but for the number of frames."""
        for symbol, (leaf, dim) in self.symbols.items():
            if dim != times[leaf]:
                equal = sympy.Eq(symbol, int(sample[leaf].shape[dim]), evaluate=False)
                self.numbers.append(Asked(equal, True, where, line))

    def along(self, times: Sequence[int | None]) -> frozenset[Any]:
        """The symbols of the time axes."""
        return frozenset(s for s, (leaf, dim) in self.symbols.items() if dim == times[leaf])

    def at(self, shapes: Sequence[Sequence[int] | None]) -> dict[Any, Any]:
        """The symbols' values for leaves of these shapes; -1 is not known."""
        values = {}
        for symbol, (leaf, dim) in self.symbols.items():
            shape = shapes[leaf]
            if shape is not None and shape[dim] >= 0:
                values[symbol] = sympy.Integer(shape[dim])
        return values


@contextmanager
def listening(model: nn.Module, running: Sequence[str]) -> Iterator[Questions]:
    """Note what is asked of sizes on lines that are not torch's own.

    Args:
        running: keys of the module calls that are running; changes as they are called.
    """
    found = Questions()
    known: set[tuple[Any, ...]] = set()

    def entered(module: nn.Module, args: Any, kwargs: Any) -> None:
        if not found.symbols:
            found.symbols.update(_symbols(pytree.tree_leaves((args, kwargs))))

    def note(expr: Any, answer: bool, frame: FrameType | None) -> None:
        if frame is None or not getattr(expr, "free_symbols", None):
            return
        where, line = written_at(frame)
        key = (expr, answer, where, tuple(running))
        if key not in known:
            known.add(key)
            found.asked.append(Asked(expr, answer, where, line, tuple(running)))

    def listens(plain: Callable[[Any], bool]) -> Callable[[Any], bool]:
        def heard(self: Any) -> bool:
            expr = getattr(self.node, "expr", None)  # after the answer it may be a plain one
            answer = plain(self)
            note(expr, answer, asking_frame(caller()))
            return answer

        return heard

    def asserts(plain: Callable[..., bool]) -> Callable[..., bool]:
        def heard(self: Any, file: str, line: int) -> bool:
            expr = self.expr
            answer = plain(self, file, line)
            note(expr, answer, asking_frame(caller()))
            return answer

        return heard

    handle = model.register_forward_pre_hook(entered, with_kwargs=True)
    try:
        with (
            BRANCHES.replaced(listens),
            ASSERTIONS.replaced(asserts),
            _numbers_of_sizes(found, running),
            _settled(found, running),
            _written_as_numbers(),
        ):
            yield found
    finally:
        handle.remove()


@contextmanager
def _numbers_of_sizes(found: Questions, running: Sequence[str]) -> Iterator[None]:
    """Note each size of which a number is made, by the model or by torch for an operator of it."""
    known: set[tuple[Any, ...]] = set()

    def note(expr: Any, value: float) -> None:
        key = (expr, tuple(running))
        if running and key not in known:
            known.add(key)
            where, equal = calling_place(int), sympy.Eq(expr, sympy.sympify(value), evaluate=False)
            found.numbers.append(Asked(equal, True, where.source, where.line, tuple(running)))

    def noting(plain: Callable[..., Any]) -> Callable[..., Any]:
        def guard(self: Any, file: str, line: int) -> Any:
            expr = self.expr  # afterwards it may be a number
            value = plain(self, file, line)
            if getattr(expr, "free_symbols", None):
                note(expr, value)
            return value

        return guard

    with INTEGERS.replaced(noting), FLOATS.replaced(noting):
        yield


@contextmanager
def _settled(found: Questions, running: Sequence[str]) -> Iterator[None]:
    """Note the module calls in which a line of the model calculates from sizes what is the same at
    all of them. A chunk may have sizes that no video has at that place, as where a window has no
    element yet: a module that is called whole would calculate something else of them."""

    def noting(plain: Callable[..., None]) -> Callable[..., None]:
        def made(self: Any, expr: Any, *args: Any, **kwargs: Any) -> None:
            plain(self, expr, *args, **kwargs)
            if not running or running[-1] in found.settled or _has_symbol(expr):
                return
            if asking_frame(caller()) is not None:
                found.settled.update(running)

        return made

    with MADE_OF_SIZES.replaced(noting):
        yield


def _has_symbol(expr: Any) -> bool:
    """Whether an expression has a symbol. torch makes tens of thousands of them in a capture, and
    sympy's own ``free_symbols`` gathers all that there are: the first one ends this."""
    if not isinstance(expr, sympy.Basic):  # a plain number of the model's own
        return True
    return any(map(_has_symbol, expr.args)) if expr.args else isinstance(expr, sympy.Symbol)


#: Libraries that keep what they have made for a size, and make it anew for one without a hash.
_MEMOISING = ("einops",)
#: What is made of a size where it is written out or looked up, by the name of the method.
_WHOLE: dict[str, Callable[..., Any]] = {
    "__repr__": repr,
    "__str__": str,
    "__format__": format,
    "__hash__": hash,
}


@contextmanager
def _written_as_numbers() -> Iterator[None]:
    """Have a size that a line of the model writes out, or looks up in a dictionary, be a number."""
    with ExitStack() as stack:
        for patch, of in WRITTEN:
            stack.enter_context(patch.replaced(_written(patch.name, of)))
        yield


def _written(name: str, of: Callable[[Any], Any]) -> Make:
    whole = _WHOLE[name]

    def make(plain: Callable[..., Any]) -> Callable[..., Any]:
        def written(self: Any, *args: Any) -> Any:
            if _writes(caller(), name):
                return whole(of(self), *args)
            if any(args) and self.node.hint is not None:  # in a message, with a width
                return whole(of(self.node.hint), *args)
            return plain(self, *args)

        return written

    return make


def _writes(frame: FrameType, name: str) -> bool:
    """Whether a text or a hash that is asked for in a frame decides something in the model."""
    if name == "__hash__" and library(frame.f_code.co_filename) in _MEMOISING:
        return False
    asking = asking_frame(frame)
    return asking is not None and not only_said(asking)


def _symbols(leaves: Sequence[Any]) -> dict[Any, tuple[int, int]]:
    out: dict[Any, tuple[int, int]] = {}
    for number, leaf in enumerate(leaves):
        for dim, s in enumerate(leaf.shape if isinstance(leaf, Tensor) else ()):
            if isinstance(s, torch.SymInt) and isinstance(s.node.expr, sympy.Symbol):
                out.setdefault(s.node.expr, (number, dim))
    return out


def squeezed(graph: fx.Graph, times: frozenset[Any]) -> list[Asked]:
    """``squeeze(dim)`` of a video asks whether the size is 1, and has another rank if it is."""
    out = []
    for node in graph.nodes:
        if schema_name(node).rstrip("_") not in ("aten::squeeze", "aten::squeeze_copy"):
            continue
        source: Any = node.args[0]
        shape, given = source.meta["val"].shape, node.args[1] if len(node.args) > 1 else ()
        if not any(_free(s) & times for s in shape):
            continue  # then any later operator is given what the model's own is given
        for dim in given if isinstance(given, (list, tuple)) else [given]:
            free = _free(shape[dim])
            if free and not free & times:
                expr = sympy.Eq(shape[dim].node.expr, 1)
                where = place(node)
                answer = bool(shape[dim].node.hint == 1)
                out.append(Asked(expr, answer, where.source, where.line, tuple(call_stack(node))))
    return out


def _free(size: Any) -> frozenset[Any]:
    return frozenset(size.node.expr.free_symbols) if isinstance(size, torch.SymInt) else frozenset()
