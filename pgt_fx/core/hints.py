"""Advice for models of some class, shown in the error that refuses such a model.

The compiler knows no model by name. Who knows one registers a hint for its class; those for which
:mod:`pgt_fx.zoo` has a form to convert are in a table there, which is read when a message is made.

    >>> from pgt_fx import hints
    >>> hints.register("mylib.CachedVAE", "pass mylib.whole_video(vae), which has no cache")
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

from pgt_fx.core.errors import PgtError

if TYPE_CHECKING:
    from torch import nn

#: Module with a table ``HINTS``: what to call :func:`register` with.
TABLE = "pgt_fx.zoo.hints"


@dataclass(frozen=True)
class _Hint:
    text: str
    unless: frozenset[str]


_HINTS: dict[str, _Hint] = {}


def register(kind: type[nn.Module] | str, hint: str, unless: Collection[str] = ()) -> None:
    """Have ``hint`` stand in the errors and warnings about models with a module of some class.

    Args:
        kind: the class, or its name without importing it: the package and the class,
            ``"diffusers.AutoencoderKLWan"``, wherever in the package it is defined. Classes derived
            from it count.
        hint: what to do, in a sentence.
        unless: names of classes inside which the hint is not given: the module is then part of
            the form that it would advise.
    """
    _HINTS[kind if isinstance(kind, str) else _name(kind)] = _Hint(hint, frozenset(unless))


def hints_for(model: nn.Module, within: Collection[str] | None = None) -> list[str]:
    """The hints for a model: of its modules that have one the outermost, each hint once.

    Args:
        within: paths of modules; then of those alone and what is around them.
    """
    known = {name: _Hint(text, frozenset(unless)) for name, text, unless in _table()} | _HINTS
    modules = dict(model.named_modules())
    outermost: list[str] = []
    found: dict[str, None] = {}
    for path, module in modules.items():
        name = next((name for name in _names(module) if name in known), None)
        if name is None or any(_around(other, path) for other in outermost):
            continue
        if within is not None and not any(_around(path, other) for other in within):
            continue
        around = {n for other, m in modules.items() if _around(other, path) for n in _names(m)}
        if not known[name].unless & around:
            outermost.append(path)
            found[f"{name.rpartition('.')[2]}: {known[name].text}"] = None
    return list(found)


@contextmanager
def hinted(model: nn.Module) -> Iterator[None]:
    """Refusals of ``model`` that pass through are given the hints for it."""
    try:
        yield
    except PgtError as error:
        error.hint = error.hint or "\n".join(hints_for(model))
        raise


def _table() -> list[tuple[str, str, tuple[str, ...]]]:
    return import_module(TABLE).HINTS


def _around(path: str, other: str) -> bool:
    return not path or path == other or other.startswith(f"{path}.")


def _names(module: nn.Module) -> list[str]:
    return [_name(kind) for kind in type(module).__mro__]


def _name(kind: type) -> str:
    return f"{kind.__module__.partition('.')[0]}.{kind.__qualname__}"
