"""Python values as they were before a run: lists, dictionaries, objects, iterators, generators of
random numbers, wherever the model's code reaches them.
"""

from __future__ import annotations

import copy
import random
import types
import warnings
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from pgt_fx.capture.observe.globals_read import Elsewhere, is_open
from pgt_fx.capture.observe.value_contents import (
    PLAIN,
    content,
    generator_state,
    is_array,
    is_filled,
    is_iterator,
    pairs,
)


@contextmanager
def restored(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Put back, when the block is left, what it has changed in the values of modules, in globals
    and in classes. Functions that keep their results forget them: what a run without data has made
    is for nobody else."""
    elsewhere = Elsewhere(modules)
    kept = _Kept()
    for module in modules:
        kept.look(vars(module))
    for variable in elsewhere.variables.values():
        if variable.key in variable.home:
            kept.entry(variable.home, variable.key)
    for kind in {*elsewhere.classes, *(k for m in modules for k in type(m).__mro__)}:
        if is_open(kind):
            kept.of_class(kind)
    for function in elsewhere.memoised:
        function.cache_clear()
    try:
        yield
    finally:
        for function in elsewhere.memoised:
            function.cache_clear()
        kept.put_back()


class _Kept:
    """Values as they were when they were looked at."""

    def __init__(self) -> None:
        self._back: list[Callable[[], Any]] = []
        self._seen: dict[int, Any] = {}
        self._iterators: dict[int, tuple[Any, Any, Any]] = {}

    def put_back(self) -> None:
        for put_back in reversed(self._back):
            put_back()

    def _was(self, value: Any) -> Any:
        """The value; of an iterator that has gone on since one that stands where it stood."""
        _, copied, before = self._iterators.get(id(value), (None, value, None))
        return value if copied is value or content(value) == before else copied

    def entry(self, home: Any, key: str) -> None:
        """One entry of a dictionary, and what is in it."""
        old = home[key]

        def put_back() -> None:
            if home.get(key, ...) is not self._was(old):
                home[key] = self._was(old)

        self._back.append(put_back)
        self.look(old)

    def of_class(self, kind: type) -> None:
        """The values of a class, which are set otherwise than those of a dictionary."""
        own = {k: v for k, v in vars(kind).items() if not k.startswith("__") and not callable(v)}
        own = {k: v for k, v in own.items() if not hasattr(v, "__get__")}

        def put_back() -> None:
            for name, value in own.items():
                if vars(kind).get(name, ...) is not self._was(value):
                    setattr(kind, name, self._was(value))

        self._back.append(put_back)
        for value in own.values():
            self.look(value)

    def look(self, value: Any) -> None:
        """Note how a value, and what is in it, is put back."""
        queue = [value]
        while queue:
            value = queue.pop()
            if isinstance(value, (*PLAIN, Tensor, type, types.ModuleType)):
                continue
            if id(value) not in self._seen:
                self._seen[id(value)] = value
                queue += self._look(value)

    def _look(self, value: Any) -> Iterable[Any]:
        """Note the value alone; what is in it is returned."""
        note = self._back.append
        if isinstance(value, dict):
            old = pairs(value)
            note(lambda: _refill(value, [(k, self._was(v)) for k, v in old]))
            return [v for _, v in old]
        if isinstance(value, (list, deque)):
            items = list(value)
            note(lambda: _refill(value, [self._was(v) for v in items]))
            return items
        if isinstance(value, (set, bytearray)):
            copied = value.copy()
            note(lambda: _refill(value, copied))
            return ()
        if isinstance(value, tuple):
            return value
        if (state := generator_state(value)) is not None:
            note(lambda: _rewind(value, state))
            return ()
        if is_array(value):
            if value.flags.writeable:
                array = value.copy()
                note(lambda: value.__setitem__(..., array))
            return ()
        if isinstance(value, types.FunctionType):
            cells = [c for c in value.__closure__ or () if is_filled(c)]
            inside = [c.cell_contents for c in cells]
            note(lambda: self._fill(cells, inside))
            return [*inside, value.__defaults__, value.__kwdefaults__, vars(value)]
        if is_iterator(value):
            self._iterators[id(value)] = (value, _copied(value), content(value))
            return ()
        own = getattr(value, "__dict__", None)
        plain = is_open(type(value)) or isinstance(value, types.SimpleNamespace)
        return [own] if plain and isinstance(own, dict) and not isinstance(value, nn.Module) else ()

    def _fill(self, cells: Sequence[types.CellType], inside: Sequence[Any]) -> None:
        for cell, value in zip(cells, inside, strict=True):
            cell.cell_contents = self._was(value)


def _refill(value: Any, old: Any) -> None:
    if len(value) == len(old):
        both = zip(value, old, strict=True) if isinstance(value, (list, deque)) else ()
        if isinstance(value, dict):
            now = [part for pair in pairs(value) for part in pair]
            both = zip(now, [part for pair in old for part in pair], strict=True)
        if not isinstance(value, (set, bytearray)) and all(a is b for a, b in both):
            return
    value.clear()
    if isinstance(value, dict):  # as it was held, whatever its class makes of writing it
        own = OrderedDict if isinstance(value, OrderedDict) else dict
        for key, entry in old:
            own.__setitem__(value, key, entry)
        return
    (value.update if isinstance(value, set) else value.extend)(old)


def _rewind(value: Any, state: Any) -> None:
    if isinstance(value, random.Random):
        value.setstate(state)
    elif hasattr(value, "set_state"):
        value.set_state(state)
    else:
        getattr(value, "bit_generator", value).state = state


def _copied(value: Any) -> Any:
    """An iterator that stands where this one does; one that can't be copied is itself."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # later Pythons do without for those of itertools
            return copy.deepcopy(value)  # as those that it goes through go on with it
    except Exception:  # whatever is in it
        return value
