"""Temporary replacements of attributes of torch (patches), per thread.

A replacement holds for the thread that asked for it: another thread, which runs a model meanwhile,
gets the original. The first to enter changes the attribute, and the last to leave restores it, in
whatever order they leave and also when one of them raises.
"""

from __future__ import annotations

import functools
import sys
import types
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from threading import RLock, get_ident
from typing import Any

from pgt_fx.core.torch_private import TRIED

#: Makes the replacement of a function; it is given what it stands in front of: the original, or a
#: replacement that the thread has put there before.
Make = Callable[[Callable[..., Any]], Callable[..., Any]]

_LOCK = RLock()
_MISSING: Any = object()


@dataclass(eq=False)
class Change(ABC):
    """Something of torch's, or of Python's, that a capture changes for a while.

    Attributes:
        where: as it is written in Python: ``"torch.SymBool.__bool__"``.
        why: what goes wrong without.
        tried: the releases of torch with which its test was run.
    """

    where: str
    why: str
    tried: tuple[str, ...] = field(default=TRIED, kw_only=True)

    @abstractmethod
    def now(self) -> Any:
        """What is there now: the same before a capture and after it."""


class _Shared(Change):
    """One that is made by the first who asks for it and unmade by the last.

    A subclass says how: ``_change`` and ``_put_back``.
    """

    @abstractmethod
    def _change(self) -> None:
        """Make the change."""

    @abstractmethod
    def _put_back(self) -> None:
        """Unmake it."""

    _users: int = 0

    @contextmanager
    def _held(self) -> Iterator[None]:
        with _LOCK:
            if not self._users:
                self._change()
            self._users += 1
        try:
            yield
        finally:
            with _LOCK:
                self._users -= 1
                if not self._users:
                    self._put_back()


@dataclass(eq=False)
class Patch(_Shared):
    """An attribute of a module or a class, a function, for which another one stands meanwhile.

    Attributes:
        home: the module or class.
        name: of the attribute.
        takes: names of the function's parameters; None for one that is written in C.
        of_class: whether it is a class method.
        optional: whether some releases of torch have no such attribute, and do without.
    """

    home: Any = None
    name: str = ""
    takes: tuple[str, ...] | None = None
    of_class: bool = field(default=False, kw_only=True)
    optional: bool = field(default=False, kw_only=True)
    _layers: dict[int, list[Callable[..., Any]]] = field(default_factory=dict, repr=False)
    _own: Any = field(default=_MISSING, repr=False)
    _plain: Any = field(default=None, repr=False)

    def now(self) -> Any:
        return vars(self.home).get(self.name, _MISSING)

    @property
    def exists(self) -> bool:
        return hasattr(self.home, self.name)

    @contextmanager
    def replaced(self, make: Make) -> Iterator[None]:
        """Have ``make(below)`` called in place of the attribute, on this thread."""
        if self.optional and not self.exists:
            yield
            return
        with self._held():
            layers = self._layers.setdefault(get_ident(), [])
            layer = make(layers[-1] if layers else self._plain)
            layers.append(layer)
            try:
                yield
            finally:
                layers.remove(layer)

    def _change(self) -> None:
        self._own = self.now()
        self._plain = self._found()
        dispatch = _by_thread(self._layers, self._plain)
        setattr(self.home, self.name, classmethod(dispatch) if self.of_class else dispatch)

    def _found(self) -> Callable[..., Any]:
        if not self.of_class:
            return getattr(self.home, self.name)
        bound = self._own.__get__

        def plain(cls: Any, *args: Any, **kwargs: Any) -> Any:
            return bound(None, cls)(*args, **kwargs)

        plain.__name__ = plain.__qualname__ = self.name
        return plain

    def _put_back(self) -> None:
        if self._own is _MISSING:  # the class has it from one above
            delattr(self.home, self.name)
        else:
            setattr(self.home, self.name, self._own)
        self._layers.clear()


def _by_thread(
    layers: dict[int, list[Callable[..., Any]]], plain: Callable[..., Any]
) -> Callable[..., Any]:
    def dispatch(*args: Any, **kwargs: Any) -> Any:
        own = layers.get(get_ident())
        return (own[-1] if own else plain)(*args, **kwargs)

    return functools.update_wrapper(dispatch, plain, updated=())


@dataclass(eq=False)
class CodePatch(Patch):
    """A function whose code is replaced and not its name: a model may have imported it. It takes
    no arguments."""

    takes: tuple[str, ...] | None = ()

    def function(self) -> types.FunctionType:
        return getattr(self.home, self.name)

    def now(self) -> Any:
        return self.function().__code__

    def _change(self) -> None:
        function = self.function()
        self._own = function.__code__
        self._plain = types.FunctionType(function.__code__, function.__globals__)
        _DISPATCHED[self.where] = _by_thread(self._layers, self._plain)
        space: dict[str, Any] = {}
        exec(compile(_DISPATCH.format(module=__name__, where=self.where), _HERE, "exec"), space)
        function.__code__ = space["dispatch"].__code__

    def _put_back(self) -> None:
        self.function().__code__ = self._own
        self._layers.clear()


#: The code of a function has its own globals: what it calls is looked up here.
_DISPATCHED: dict[str, Callable[..., Any]] = {}
_DISPATCH = """
def dispatch():
    from {module} import _DISPATCHED
    return _DISPATCHED[{where!r}]()
"""


@dataclass(eq=False)
class Setting(_Shared):
    """A setting that is one for the whole process.

    Attributes:
        enter: what sets it, and sets it back when it is left.
        read: the setting now.
    """

    enter: Callable[[], AbstractContextManager[Any]]
    read: Callable[[], Any]
    _stack: ExitStack = field(default_factory=ExitStack, repr=False)

    def now(self) -> Any:
        return self.read()

    def on(self) -> AbstractContextManager[None]:
        """Have it so meanwhile."""
        return self._held()

    def _change(self) -> None:
        self._stack.enter_context(self.enter())

    def _put_back(self) -> None:
        self._stack.close()


@dataclass(eq=False)
class Shadow(Change):
    """A builtin that files of a model see otherwise: a global of theirs stands in front of it.

    Attributes:
        name: of the builtin.
    """

    name: str
    _spaces: dict[int, tuple[dict[str, Any], int]] = field(default_factory=dict, repr=False)

    def now(self) -> Any:
        return len(self._spaces)

    @contextmanager
    def put(self, space: dict[str, Any], value: Any) -> Iterator[None]:
        """Have ``value`` stand there in the globals of a file; a global of the file's own stays."""
        with _LOCK:
            _, users = self._spaces.get(id(space), (space, 0))
            if users or self.name not in space:
                space[self.name] = value
                self._spaces[id(space)] = space, users + 1
                users += 1
        try:
            yield
        finally:
            with _LOCK:
                if users:
                    _, left = self._spaces[id(space)]
                    self._spaces[id(space)] = space, left - 1
                    if left == 1:
                        del self._spaces[id(space)]
                        space.pop(self.name, None)


@dataclass(eq=False)
class Hooks(Change):
    """Hooks on the calls of all modules.

    Attributes:
        installers: torch's functions that hang one up before, and one after a call.
        hung: the dictionaries in which they hang.
    """

    installers: tuple[Callable[..., Any], Callable[..., Any]]
    hung: Callable[[], tuple[Any, ...]]

    def now(self) -> Any:
        return [list(one) for one in self.hung()]

    @contextmanager
    def on(
        self,
        before: Callable[[Any, Any], None],
        after: Callable[[Any, Any, Any, Any], None],
        *,
        after_errors: bool = False,
    ) -> Iterator[None]:
        """Call ``before(module, args)`` and ``after(module, args, kwargs, out)`` for each call of a
        module on this thread.

        Args:
            after_errors: also after a call that raises: a model may catch it and go on.
        """
        thread = get_ident()

        def entered(module: Any, args: Any) -> None:
            if get_ident() == thread:
                before(module, args)

        def left(module: Any, args: Any, *rest: Any) -> None:
            if get_ident() == thread:  # after an error torch gives no kwargs
                kwargs, out = rest if len(rest) == 2 else ({}, *rest)
                after(module, args, kwargs, out)

        first, last = self.installers
        with ExitStack() as stack:
            stack.callback(first(entered).remove)
            stack.callback(last(left, with_kwargs=True, always_call=after_errors).remove)
            yield


def caller() -> types.FrameType:
    """The frame that calls a patched attribute; to be asked for in its replacement."""
    frame = sys._getframe(2)
    while frame.f_code.co_filename == _HERE and frame.f_back is not None:
        frame = frame.f_back
    return frame


#: This file, as frames name it.
_HERE = caller.__code__.co_filename
