"""What the model's code reads outside of its modules: globals of its files, attributes of other
classes, what helper functions keep.

Found by name: those that are in the code of the model's classes, and of the functions that these
name in turn. torch's, Python's and NumPy's own code is not looked into.
"""

from __future__ import annotations

import dis
import functools
import linecache
import sys
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from pgt_fx.capture.observe.model_lines import library, short
from pgt_fx.core.errors import Place

#: Before the name of a class whose own values have changed, and of a global variable.
CLASS, GLOBAL = "class ", "global "
#: Packages whose code keeps nothing of a model.
_CLOSED = frozenset(("torch", "numpy", "sympy", "pgt_fx", "torchgen", "triton"))
#: Of Python's own, those whose objects are values.
_VALUES = frozenset(
    (
        *("builtins", "types", "collections", "itertools", "random", "functools", "_random"),
        *("array", "enum", "fractions", "decimal", "contextvars", "operator"),
    )
)
_Function = types.FunctionType | types.MethodType | functools._lru_cache_wrapper | functools.partial


@dataclass(frozen=True)
class Variable:
    """A global variable that the model's code names, or the attribute of a class.

    Attributes:
        name: ``"global calls"``.
        home: the dictionary in which it is looked up.
        key: its name there.
        code: that names it.
    """

    name: str
    home: Mapping[str, Any]
    key: str
    code: types.CodeType

    @property
    def value(self) -> Any:
        return self.home.get(self.key)

    @property
    def place(self) -> Place:
        return line_of(self.code, self.key, self.name)


class Elsewhere:
    """What the code of a model's modules names.

    Attributes:
        variables: those that hold values.
        classes: classes that are no module's, whose attributes are values too, each with the code
            that names it, where it is known.
        memoised: functions that keep their results.
        spaces: the globals of the files in which the code stands.
    """

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        self.variables: dict[tuple[int, str], Variable] = {}
        self.classes: dict[type, types.CodeType | None] = {}
        self.memoised: dict[Any, None] = {}
        self._spaces: dict[int, dict[str, Any]] = {}
        self._own = {kind for m in modules for kind in type(m).__mro__}
        files = {_file_of(kind) for kind in self._own if is_open(kind)}
        self._homes = {"", *map(library, files)}
        self._functions: set[int] = set()
        self._open: list[types.FunctionType] = []
        for kind in self._own:
            self._class(kind)
        for module in modules:
            for name, value in vars(module).items():
                self._attribute(name, value)
        while self._open:
            self._code(self._open.pop())

    @property
    def spaces(self) -> list[dict[str, Any]]:
        return list(self._spaces.values())

    def _attribute(self, name: str, value: Any) -> None:
        if name in ("_parameters", "_buffers", "_modules"):
            return
        inside = [*value.values()] if isinstance(value, dict) else value if _few(value) else [value]
        for one in inside:
            if isinstance(one, _Function):
                self._function(one)
            elif not isinstance(one, type) and is_open(type(one)):
                self._class(type(one))

    def _function(self, value: Any) -> None:
        if isinstance(value, functools._lru_cache_wrapper):
            self.memoised[value] = None
            value = value.__wrapped__
        if isinstance(value, functools.partial):
            value = value.func
        if isinstance(value, types.MethodType):
            value = value.__func__
        while hasattr(value, "__wrapped__"):  # a decorator's
            self._add(value)
            value = value.__wrapped__
        self._add(value)

    def _add(self, value: Any) -> None:
        if isinstance(value, types.FunctionType) and id(value) not in self._functions:
            if not self._is_of_model(value.__globals__.get("__name__", ""), value.__code__):
                return
            self._functions.add(id(value))
            self._spaces[id(value.__globals__)] = value.__globals__
            self._open.append(value)
            for cell in value.__closure__ or ():
                inside = _inside(cell)
                if isinstance(inside, _Function):
                    self._function(inside)

    def _is_of_model(self, module: str, code: types.CodeType) -> bool:
        """Whether a function is the user's, or of a package that a class of the model is from."""
        return module.partition(".")[0] not in _SHUT and library(code.co_filename) in self._homes

    def _class(self, kind: type, code: types.CodeType | None = None) -> None:
        for base in kind.__mro__:
            if base in self.classes or not is_open(base):
                continue
            if library(_file_of(base)) not in self._homes:
                continue
            if base not in self._own:
                self.classes[base] = code
            for value in vars(base).values():
                inner = getattr(value, "__func__", None) or getattr(value, "fget", None) or value
                if isinstance(inner, _Function):
                    self._function(inner)

    def _is_value(self, kind: type) -> bool:
        if kind.__module__.partition(".")[0] in _KEPT:
            return True
        return is_open(kind) and library(_file_of(kind)) in self._homes

    def _code(self, function: types.FunctionType) -> None:
        names = _names(function.__code__)
        for name in names:
            if name in function.__globals__:
                self._named(function.__globals__, name, names, function.__code__)

    def _named(
        self, home: Mapping[str, Any], name: str, names: frozenset[str], code: types.CodeType
    ) -> None:
        value = home[name]
        if isinstance(value, types.ModuleType):
            file = getattr(value, "__file__", None) or ""
            shut = value.__name__.partition(".")[0] in _SHUT
            if not shut and library(file) in self._homes and vars(value) is not home:
                for inner in names & vars(value).keys():
                    if not isinstance(vars(value)[inner], types.ModuleType):
                        self._named(vars(value), inner, names, code)
        elif isinstance(value, type):
            if value not in self._own:
                self._class(value, code)
        elif isinstance(value, _Function):
            self._function(value)
            if isinstance(value, types.FunctionType) and id(value) in self._functions:
                self.variables[id(home), name] = Variable(GLOBAL + name, home, name, code)
        elif self._is_value(type(value)):
            self.variables[id(home), name] = Variable(GLOBAL + name, home, name, code)


#: Top packages whose functions are not looked into.
_SHUT = _CLOSED | sys.stdlib_module_names - {"__main__"}
#: Packages of whose classes the objects are values.
_KEPT = _VALUES | {"torch", "numpy"}


def is_open(kind: type) -> bool:
    """Whether a class is no part of torch, of Python or the like: its own values are a model's."""
    return kind.__module__.partition(".")[0] not in _SHUT


def is_value(kind: type) -> bool:
    """Whether objects of a class are looked into: not a logger, a lock, a file."""
    package = kind.__module__.partition(".")[0]
    return package in _KEPT or package not in sys.stdlib_module_names


def _file_of(kind: type) -> str:
    return getattr(sys.modules.get(kind.__module__), "__file__", None) or ""


def _few(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and len(value) < 64


@functools.lru_cache(maxsize=8192)
def _names(code: types.CodeType) -> frozenset[str]:
    """The names in a function's code and in that of the functions inside it."""
    inner = (c for c in code.co_consts if isinstance(c, types.CodeType))
    return frozenset(code.co_names).union(*map(_names, inner))


def _inside(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return None


def line_of(code: types.CodeType, name: str, shown: str) -> Place:
    """The first line of a function's code on which a name stands."""
    for number, found in _lines(code):
        if found == name:
            text = linecache.getline(code.co_filename, number).strip()
            return Place(shown, "", f"{short(code.co_filename)}:{number}", text)
    return Place(shown)


def _lines(code: types.CodeType) -> Iterator[tuple[int, Any]]:
    for instruction in dis.get_instructions(code):
        if instruction.positions is not None and instruction.positions.lineno is not None:
            yield instruction.positions.lineno, instruction.argval
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType):
            yield from _lines(inner)
