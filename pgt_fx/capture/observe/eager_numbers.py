"""``int`` and ``float`` of a size that is computed from the number of frames, in the model's code
while it is captured: a size again.

A plain number would fix the number of frames, though ``int(t / 2)`` is a function of it like any
other, and of ``float(t)`` for a message nothing is made. Python lets no size answer ``int()`` with
a size, so that another ``int`` stands in the files of the model; in those alone that do nothing
with the name but call it, or ask whether something is one.
"""

from __future__ import annotations

import ast
import builtins
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import sympy
import torch
from torch import nn

from pgt_fx.capture.observe.globals_read import Elsewhere
from pgt_fx.capture.torch_patches import DIVMOD, FLOAT, INT

_SIZES = (torch.SymInt, torch.SymFloat)


@contextmanager
def numbers_as_sizes(
    modules: Sequence[nn.Module], times: Callable[[], Mapping[Any, int]]
) -> Iterator[None]:
    """Have them be sizes in the files in which the model's code stands; a number that is the same
    in the clip as in the capture (``1 + t // 7000``) is one, at the lengths at which it is that.

    Args:
        times: the symbols of the number of frames, with those of the clip.
    """

    def of_time(values: Sequence[Any]) -> bool:
        sizes = [v for v in values if builtins.isinstance(v, _SIZES)]
        return any(v.node.expr.free_symbols & times().keys() for v in sizes)

    def varies(values: Sequence[Any]) -> bool:
        if not of_time(values):
            return False
        (size,) = values
        at_clip = size.node.expr.xreplace({s: sympy.Integer(n) for s, n in times().items()})
        return not at_clip.is_number or builtins.float(at_clip) != builtins.float(size.node.hint)

    def quotient(a: Any, b: Any) -> tuple[Any, Any]:
        return (a // b, a % b) if of_time((a, b)) else builtins.divmod(a, b)

    shown = (
        (INT, _stands_for(int, torch.sym_int, varies)),
        (FLOAT, _stands_for(float, torch.sym_float, varies)),
        (DIVMOD, quotient),
    )
    with ExitStack() as stack:
        for space in Elsewhere(modules).spaces:
            called = _called_alone(space.get("__file__") or "")
            for shadow, value in shown:
                if shadow.name in called:
                    stack.enter_context(shadow.put(space, value))
        yield


def _stands_for(
    kind: type, of_size: Callable[[Any], Any], varies: Callable[[Sequence[Any]], bool]
) -> type:
    """A class that stands for ``int`` or ``float``, of which no instance is ever made."""

    class Meta(type):
        def __call__(cls, *args: Any, **kwargs: Any) -> Any:
            if len(args) == 1 and not kwargs and varies(args):
                return of_size(args[0])
            return kind(*args, **kwargs)

        def __instancecheck__(cls, value: Any) -> bool:
            return builtins.isinstance(value, kind)

        def __subclasscheck__(cls, other: Any) -> bool:
            return builtins.issubclass(other, kind)

    return Meta(kind.__name__, (), {})


_CHECKS = ("isinstance", "issubclass")


@cache
def _called_alone(path: str) -> frozenset[str]:
    """Those of the names that a file does nothing with but call, or ask whether something is one:
    ``dtype=int`` needs Python's own."""
    try:
        tree = ast.parse(Path(path).read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError):
        return frozenset()
    plain: set[ast.AST] = set()
    for node in ast.walk(tree):
        for part in _annotations(node):
            plain.update(ast.walk(part))
        if isinstance(node, ast.Call):
            plain.add(node.func)
            if isinstance(node.func, ast.Name) and node.func.id in _CHECKS:
                for argument in node.args[1:]:
                    plain.update(ast.walk(argument))
    names = {"int", "float", "divmod"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id in names and node not in plain:
            names.discard(node.id)
    return frozenset(names)


def _annotations(node: ast.AST) -> list[ast.expr]:
    found = [getattr(node, name, None) for name in ("annotation", "returns")]
    return [part for part in found if isinstance(part, ast.expr)]
