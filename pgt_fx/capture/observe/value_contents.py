"""The contents of a Python value, in a form to compare: whether forward, or anybody else, has
changed it in place.
"""

from __future__ import annotations

import functools
import itertools
import random
import struct
import sys
import types
import warnings
from collections import OrderedDict, deque
from collections.abc import Container, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pgt_fx.capture.observe.globals_read import is_value
from pgt_fx.core.tensor_bytes import bytes_of
from pgt_fx.core.torch_private import FakeTensor, FunctionalTensor, version_of

#: Values that are compared as they are; others by what is in them.
PLAIN = (int, float, complex, str, bytes, bool, type(None), torch.dtype, torch.device)
#: Elements of a tensor whose values are compared.
_FEW = 4096
#: How deep values are looked into, so that Python's own stack has room for it.
_DEPTH = 200
#: How many containers and objects of one value are looked into.
_MOST = 50_000


def content(value: Any, apart: Container[int] = ()) -> Any:
    """What of a value may change while it stays the same object: two contents are equal where
    Python can't tell the values apart. ``1``, ``1.0`` and ``True`` are three, ``-0.0`` is not
    ``0.0``.

    Args:
        apart: the ``id`` of objects that are not looked into, as of the modules of the model, which
            are looked at themselves. They are alive.
    """
    return _content(value, _DEPTH, {}, apart)


def same(one: Any, other: Any) -> bool:
    """Whether two plain values, or containers of such, are the same one."""
    return one is other or content(one) == content(other)


def is_settled(value: Any) -> bool:
    """Whether a value can't change while it is the same object: a number, a text, a tuple of such
    (the kernel of a convolution)."""
    bare = isinstance(value, tuple) and not hasattr(value, "__dict__")
    return isinstance(value, PLAIN) or (bare and all(map(is_settled, value)))


def is_of_torch(kind: type) -> bool:
    return kind.__module__.partition(".")[0] == "torch"


def _content(value: Any, depth: int, seen: dict[int, Any], apart: Container[int]) -> Any:
    if isinstance(value, PLAIN):
        return _exactly(value)
    if isinstance(value, Tensor):
        return id(value), version_of(value), value.dtype, value.requires_grad, _few_bytes(value)
    if depth == 0 or id(value) in seen or id(value) in apart or len(seen) > _MOST:
        return id(value)
    if isinstance(value, (type, types.ModuleType)):
        return id(value)
    if is_of_torch(type(value)) and not isinstance(value, nn.Module):
        if isinstance(value, torch.Generator):
            return id(value), bytes(bytes_of(value.get_state()))
        return tuple(value) if isinstance(value, torch.Size) else id(value)
    seen[id(value)] = value  # which keeps it: its number is given to no other one
    inner = functools.partial(_content, depth=depth - 1, seen=seen, apart=apart)
    found: list[Any] = [type(value)]
    if isinstance(value, dict):
        found += [(inner(k), inner(v)) for k, v in pairs(value)]
    elif isinstance(value, Mapping):
        found += [(inner(k), inner(v)) for k, v in value.items()]
    elif isinstance(value, (list, tuple, deque)):
        found += [inner(v) for v in value]
    elif isinstance(value, (set, frozenset)):
        found.append({_exactly(v) if isinstance(v, PLAIN) else id(v) for v in value})
    elif isinstance(value, bytearray):
        found.append(bytes(value))
    elif (drawn := generator_state(value)) is not None:
        found += [id(value), inner(drawn)]
    elif is_array(value):
        found += [value.shape, str(value.dtype), value.strides]
        found.append([inner(v) for v in value.flat] if value.dtype.hasobject else value.tobytes())
    elif isinstance(value, functools.partial):
        found += [inner(v) for v in (value.func, value.args, value.keywords)]
    elif isinstance(value, types.MethodType):
        found += [id(value.__self__), inner(value.__func__)]
    elif isinstance(value, types.FunctionType):
        cells = [c.cell_contents for c in value.__closure__ or () if is_filled(c)]
        found.append(id(value))
        found += [inner(v) for v in (cells, value.__defaults__, value.__kwdefaults__)]
    elif is_iterator(value):
        found += [id(value), inner(_position(value))]
    else:
        found.append(id(value))
        if not is_value(type(value)):
            return tuple(found)  # a logger, a lock, a file
        slots = [s for kind in type(value).__mro__ for s in _slots(kind)]
        found += [(s, inner(getattr(value, s, None))) for s in slots]
    inside = getattr(value, "__dict__", None)
    if inside:  # of a module outside of the model's own, too: its weights are in the graph
        found.append(inner(dict(inside)))
    return found


def pairs(value: dict[Any, Any]) -> list[tuple[Any, Any]]:
    """What a dictionary holds, whatever its class makes of reading it: one that gives a new object
    of the class that it holds, say. Keys of a plain one are not looked up: a size has no hash."""
    if not isinstance(value, OrderedDict):
        return list(dict.items(value))
    return [(key, dict.__getitem__(value, key)) for key in OrderedDict.__iter__(value)]


def _exactly(value: Any) -> Any:
    if isinstance(value, float):
        return type(value), struct.pack("d", value)
    if isinstance(value, complex):
        return type(value), struct.pack("dd", value.real, value.imag)
    return type(value), value


def generator_state(value: Any) -> Any:
    """Where a generator of random numbers (Python's, NumPy's) stands; None for anything else."""
    if isinstance(value, random.Random):
        return None if isinstance(value, random.SystemRandom) else value.getstate()
    numpy = sys.modules.get("numpy")
    if numpy is None:
        return None
    if isinstance(value, numpy.random.RandomState):
        return value.get_state(legacy=False)
    if isinstance(value, numpy.random.Generator):
        return value.bit_generator.state
    return value.state if isinstance(value, numpy.random.BitGenerator) else None


def is_array(value: Any) -> bool:
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(value, (numpy.ndarray, numpy.generic))


def is_iterator(value: Any) -> bool:
    """Whether a value is an iterator of Python's own, or a generator."""
    return isinstance(value, Iterator) and type(value).__module__ in ("builtins", "itertools")


def _position(value: Any) -> Any:
    """How far an iterator has come."""
    if isinstance(value, types.GeneratorType):
        frame = value.gi_frame
        return None if frame is None else (frame.f_lasti, dict(frame.f_locals))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # later Pythons do without for those of itertools
            return value.__reduce__()
    except TypeError:
        shows_state = isinstance(value, (itertools.count, itertools.repeat))
        return repr(value) if shows_state else object()  # unknown, so it counts as changed


def _slots(kind: type) -> tuple[str, ...]:
    slots = vars(kind).get("__slots__", ())
    return (slots,) if isinstance(slots, str) else tuple(slots)


def is_filled(cell: types.CellType) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:
        return False


def _few_bytes(tensor: Tensor) -> bytes | None:
    """The values of a small tensor: writes through ``.data`` or NumPy are not counted."""
    small = 0 < tensor.numel() <= _FEW and tensor.device.type == "cpu"
    if not small or tensor.layout is not torch.strided or tensor.is_quantized:
        return None
    if isinstance(tensor, (FakeTensor, FunctionalTensor)):
        return None
    flat = tensor.detach().resolve_conj().resolve_neg().contiguous().reshape(-1)
    return bytes(bytes_of(flat.view(torch.uint8)))
