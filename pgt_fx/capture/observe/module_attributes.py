"""Python attributes of a model's modules: those that a capture has read, and those that forward
changes.

A capture reads ``self.scale`` once. Where it has another value later, the graph is no longer the
model. And where a call leaves a value for the next one (a counter, the last mean), the calls of a
stream would not be those of the model: they are the steps of one video.
"""

from __future__ import annotations

import operator
import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from pgt_fx.capture.observe.globals_read import CLASS, GLOBAL, Elsewhere, line_of
from pgt_fx.capture.observe.model_lines import calling_place
from pgt_fx.capture.observe.value_contents import content, is_of_torch, is_settled
from pgt_fx.core.errors import Place
from pgt_fx.core.torch_private import TorchDispatchMode, pytree

#: What every module has. Hooks, children and modes are looked at elsewhere; of parameters and
#: buffers the sizes alone are frozen by a capture.
_OF_MODULE = frozenset(vars(nn.Module()))
_WEIGHTS = ("_parameters", "_buffers")


class PythonState:
    """The attributes of a model's modules at one time."""

    def __init__(self, model: nn.Module) -> None:
        self._paths = [path for path, _ in model.named_modules()]
        self._own = [vars(module) for module in model.modules()]
        self._seen = [dict(own) for own in self._own]
        self._weights = [own[kind] for own in self._own for kind in _WEIGHTS]
        self._known = [dict(one) for one in self._weights]
        self._sizes = [_sizes(one) for one in self._known]
        self._shared = _shared(self._weights)
        self._modules = list(model.modules())
        self._kinds = _kinds(self._modules)
        self._apart = frozenset(map(id, self._modules))
        elsewhere = Elsewhere(self._modules)
        kinds = [*_users(self._modules), *elsewhere.classes]
        self._classes = {kind: self._content(_of_class(kind)) for kind in kinds}
        self._variables = [(v, self._content(v.value)) for v in elsewhere.variables.values()]
        #: Values that may change without being replaced.
        self._open = [
            (number, name, value, self._content(value))
            for number, own in enumerate(self._own)
            for name, value in own.items()
            if name not in _OF_MODULE and not (isinstance(value, nn.Module) or is_settled(value))
        ]

    def _content(self, value: Any) -> Any:
        return content(value, self._apart)

    def changes(self) -> Iterator[str]:
        """Names of the attributes that have another value now."""
        for number, (own, seen) in enumerate(zip(self._own, self._seen, strict=True)):
            if _differ(own, seen):
                names = [name for name in {**seen, **own} if name not in _OF_MODULE]
                found = [n for n in names if not _same(own.get(n, ...), seen.get(n, ...))]
                yield from (self._name(number, name) for name in found)
                if not found:
                    seen.clear()
                    seen.update(own)
        for number, name, value, known in self._open:
            if self._own[number].get(name) is value and self._content(value) != known:
                yield self._name(number, name)
        kinds = _kinds(self._modules)
        if kinds != self._kinds:
            pairs = zip(self._paths, kinds, self._kinds, strict=True)
            yield from (f"{path or 'model'}.__class__" for path, now, then in pairs if now != then)
        for kind, known in self._classes.items():
            if self._content(_of_class(kind)) != known:
                yield f"{CLASS}{kind.__qualname__}"
        for variable, known in self._variables:
            if self._content(variable.value) != known:
                yield variable.name
        for place, (now, before) in enumerate(zip(self._weights, self._known, strict=True)):
            if _differ(now, before):
                if _shared(self._weights) != self._shared:
                    yield "weights that are shared"
                if _sizes(now) != self._sizes[place]:
                    number = place // len(_WEIGHTS)
                    yield from (
                        self._name(number, name)
                        for name, size in {**self._sizes[place], **_sizes(now)}.items()
                        if _sizes(now).get(name) != self._sizes[place].get(name)
                    )
                else:
                    before.clear()
                    before.update(now)

    def _name(self, number: int, name: str) -> str:
        return ".".join(filter(None, (self._paths[number], name)))


def _kinds(modules: Sequence[nn.Module]) -> list[Any]:
    return [(type(m), type(m).forward) for m in modules]


def _users(modules: Sequence[nn.Module]) -> list[type]:
    """The classes of a model that are no part of torch."""
    found = dict.fromkeys(kind for m in modules for kind in type(m).__mro__)
    return [kind for kind in found if kind is not object and not is_of_torch(kind)]


def _of_class(kind: type) -> dict[str, Any]:
    """What a class itself holds: values that all of its objects read, and its functions with what
    they keep (a default, a variable of the function around them)."""
    own = {k: v for k, v in vars(kind).items() if not k.startswith("__")}
    slots = (types.GetSetDescriptorType, types.MemberDescriptorType)
    inner = {k: getattr(v, "__func__", getattr(v, "fget", v)) for k, v in own.items()}
    return {k: v for k, v in inner.items() if not isinstance(v, slots)}


def _shared(weights: Sequence[dict[str, Any]]) -> list[int]:
    """For each weight the number of the first that it is the same as."""
    first: dict[int, int] = {}
    flat = [x for one in weights for x in one.values() if x is not None]
    return [first.setdefault(id(x), number) for number, x in enumerate(flat)]


def _differ(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two dictionaries hold other objects: most of a model is as it was."""
    return list(one) != list(other) or not all(map(operator.is_, one.values(), other.values()))


def _same(one: Any, other: Any) -> bool:
    if one is other:
        return True
    if isinstance(one, Tensor) or isinstance(other, Tensor) or type(one) is not type(other):
        return False
    return content(one) == content(other)


def _sizes(tensors: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(t.shape) for name, t in tensors.items() if t is not None}


# ------------------------------------------------------------------------- what forward leaves


@contextmanager
def changing(model: nn.Module) -> Iterator[list[str]]:
    """Names of the attributes that calls of the model change; filled when the block is left."""
    names: list[str] = []
    state = PythonState(model)
    try:
        yield names
    finally:
        names.extend(state.changes())


@dataclass(frozen=True)
class Memory:
    """An attribute that forward reads before it writes another value into it.

    Attributes:
        name: ``"encoder.count"``.
        place: where it is written.
    """

    name: str
    place: Place


def memories(
    model: nn.Module,
    names: Sequence[str],
    video: Sequence[Tensor],
    run: Callable[[AbstractContextManager[Any]], Any],
) -> list[Memory]:
    """Which of the attributes that forward changes are a memory of the call before.

    One that is written before it is read is none, nor one that is a function of sizes alone: a
    table of positions, made again when a longer clip comes. Such a one is the same after a second
    call, and is not calculated from the video. torch's own modules have none.

    Args:
        names: attributes that a call of forward changes.
        video: the tensors of the clip.
        run: calls the model with them, without data, and with a mode innermost.
    """
    outside = Elsewhere(list(model.modules()))
    others = {v.name: v for v in outside.variables.values()}
    names = [n for n in names if n.startswith((CLASS, GLOBAL)) or "." in n or hasattr(model, n)]
    elsewhere = [name for name in names if name.startswith(CLASS)]
    names = [n for n in names if not n.startswith(CLASS) and not _of_torch(model, n)]
    found: dict[str, _Access] = {}

    def value_of(name: str) -> Any:
        return others[name].value if name in others else _value(model, name)

    before = [x for name in names for x in _tensors(value_of(name))]
    tainted = _Tainted([*video, *before])
    complete, once = True, {}
    with _watched(model, [name for name in names if name not in others], found):
        try:
            run(tainted)
            once = {name: _plain(value_of(name)) for name in names}
            run(tainted)
        except Exception:
            complete = False  # then what it did up to there is all that is known
    codes = {f"{CLASS}{kind.__qualname__}": (kind, code) for kind, code in outside.classes.items()}
    out = []
    for name in elsewhere:
        kind, code = codes.get(name, (object, None))
        place = Place(name) if code is None else line_of(code, kind.__name__, name)
        out.append(Memory(name, place))
    for name in names:
        access = found.get(name, _Access())
        if complete and access.place is not None and not access.read_first:
            continue
        value = value_of(name)
        of_video = any(x in tainted.known for x in _tensors(value))
        if complete and not of_video and _plain(value) == once[name] and _holds_sizes(value):
            continue
        if name in others:
            out.append(Memory(name, others[name].place))
            continue
        place = access.place or access.read_at or Place("attribute")
        module, _, attribute = name.rpartition(".")
        out.append(Memory(name, Place(f"self.{attribute}", module, place.source, place.line)))
    return out


def _of_torch(model: nn.Module, name: str) -> bool:
    """Whether an attribute is one of a module of torch, which keeps references to its weights."""
    return not name.startswith(GLOBAL) and is_of_torch(
        type(model.get_submodule(name.rpartition(".")[0]))
    )


def _tensors(value: Any) -> list[Tensor]:
    return [x for x in pytree.tree_leaves(value) if isinstance(x, Tensor)]


def _holds_sizes(value: Any) -> bool:
    """Whether a value may be made of sizes. A flag that was set is another thing, as what the
    first call does then the second one does not; and of an object nothing is known."""
    leaves = pytree.tree_leaves(value)
    sizes = (Tensor, int, float, torch.SymInt, torch.SymFloat)
    return bool(leaves) and all(isinstance(x, sizes) and not isinstance(x, bool) for x in leaves)


def _plain(value: Any) -> Any:
    """A value with sizes in place of tensors."""
    leaves, spec = pytree.tree_flatten(value)
    return [tuple(x.shape) if isinstance(x, Tensor) else x for x in leaves], spec


@dataclass
class _Access:
    read_first: bool = False
    read_at: Place | None = None
    place: Place | None = None


class _Tainted(TorchDispatchMode):
    """Follows what is calculated from some tensors."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        super().__init__()
        self.known: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
        self._add(tensors)

    def _add(self, tensors: Sequence[Tensor]) -> None:
        for tensor in tensors:
            self.known[tensor] = True

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if any(x in self.known for x in _tensors((args, kwargs))):
            self._add(_tensors(out))
        return out


@contextmanager
def _watched(model: nn.Module, names: Sequence[str], found: dict[str, _Access]) -> Iterator[None]:
    """Note for each attribute whether it is read before it is written, and where it is written."""
    of: dict[str, set[str]] = {}
    for name in names:
        path, _, attribute = name.rpartition(".")
        of.setdefault(path, set()).add(attribute)
    with ExitStack() as stack:
        for path, attributes in of.items():
            module = model.get_submodule(path)
            plain = type(module)

            def read(self: Any, name: str, path: str = path, own: set[str] = attributes) -> Any:
                if name in own:
                    access = found.setdefault(".".join(filter(None, (path, name))), _Access())
                    access.read_first |= access.place is None
                    access.read_at = access.read_at or calling_place(getattr)
                return super(type(self), self).__getattribute__(name)

            def write(
                self: Any, name: str, value: Any, path: str = path, own: set[str] = attributes
            ) -> None:
                if name in own:
                    access = found.setdefault(".".join(filter(None, (path, name))), _Access())
                    access.place = access.place or calling_place(setattr)
                super(type(self), self).__setattr__(name, value)

            names_ = {
                "__getattribute__": read,
                "__setattr__": write,
                "__module__": plain.__module__,
            }
            module.__class__ = type(plain.__name__, (plain,), names_)
            stack.callback(setattr, module, "__class__", plain)
        yield


def _value(model: nn.Module, name: str) -> Any:
    path, _, attribute = name.rpartition(".")
    return vars(model.get_submodule(path)).get(attribute)
