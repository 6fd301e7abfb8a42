"""Measurements on outputs: errors, equality to the last bit, videos cut in pieces.

Nothing here knows how a progressive model works.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from pgt_fx.core.torch_private import pytree

INF = float("inf")
#: How many times the median magnitude no value of a model is that it computes from its video.
FAR = 1e6


def leaves(output: Any) -> list[Tensor | None]:
    """The tensors of an output, None where there is none."""
    if output is None:
        return []
    return [x for x, _ in parts(output) if x is None or isinstance(x, Tensor)]


def parts(output: Any) -> Iterator[tuple[Any, bool]]:
    """The leaves of an output, and of its dataclasses the fields without a value as well, which are
    none of its pytree's: an answer of which a part is not due has as many as a whole one.

    Yields:
        each, and whether it is one of the pytree's.
    """
    for x in pytree.tree_leaves(output, is_leaf=lambda x: x is None or _has_fields(x)):
        if not _has_fields(x):
            yield x, True
            continue
        for field in dataclasses.fields(x):
            value = getattr(x, field.name) if field.init else None
            if value is not None:
                yield from parts(value)
            elif field.init:
                yield None, False


def _has_fields(x: Any) -> bool:
    return dataclasses.is_dataclass(x) and type(x) in pytree.SUPPORTED_NODES


def error_per_element(got: Tensor, wanted: Tensor, dim: int) -> list[float]:
    """Greatest difference per element along ``dim``, over the greatest magnitude of ``wanted``.

    The same value on both sides, NaN and infinity included, is no difference; NaN on one side
    is an infinite one. Magnitudes far above the others (:data:`FAR`) that are the same on both
    sides are left out: a mask is filled with -1e9, say, beside which no other value would count.
    """
    a, b = _numbers(got), _numbers(wanted)
    same = (a == b) | (a.isnan() & b.isnan())
    sizes = b.abs()
    usual = sizes[(sizes > 0) & b.isfinite()]
    if usual.numel():
        near = ~same & b.isfinite() | (sizes <= FAR * usual.median())
        usual = sizes[near]
    scale = usual.max().clamp_min(1e-300) if usual.numel() else b.new_ones(())
    gap = torch.where(same, torch.zeros_like(a), (a - b).abs() / scale).nan_to_num(nan=INF)
    return gap.movedim(dim, 0).reshape(gap.shape[dim], -1).amax(1).tolist()


def _numbers(x: Tensor) -> Tensor:
    """In double precision; of complex numbers both parts, in a last dimension of their own."""
    x = x.detach()
    return (torch.view_as_real(x.resolve_conj()) if x.is_complex() else x).to(torch.float64)


def error(got: Any, wanted: Any) -> float:
    """Greatest relative difference over all tensors; infinite where structure or shapes differ."""
    left, right = leaves(got), leaves(wanted)
    if len(left) != len(right) or not right:
        return INF
    worst = 0.0
    for a, b in zip(left, right, strict=True):
        if a is None or b is None:  # one without elements is none
            if any(x is not None and x.numel() for x in (a, b)):
                return INF
            continue
        if a.shape != b.shape:
            return INF
        if b.numel():
            worst = max(worst, *error_per_element(a.reshape(1, -1), b.reshape(1, -1), 0))
    return worst


def unlike(got: Any, wanted: Any) -> str:
    """How two answers differ in what is no value of a tensor: containers, types, plain numbers and
    words; "" for not at all. A tensor that is None on one side is not due."""
    found = _difference(got, wanted)
    if found == _BUILT:
        return f"gives {_kinds(got)}, and the model {_kinds(wanted)}"
    return found


#: What :func:`_difference` says of two answers that are put together in another way.
_BUILT = "built"


def _difference(got: Any, wanted: Any) -> str:
    if got is None or wanted is None:
        late = got if wanted is None else wanted
        due = any(x is not None and not isinstance(x, Tensor) for x, _ in parts(late))
        return _BUILT if due else ""
    left, of_left = _inside(got)
    right, of_right = _inside(wanted)
    if of_left != of_right or isinstance(got, Tensor) != isinstance(wanted, Tensor):
        return _BUILT
    if of_left is not None:
        return next(filter(None, map(_difference, left, right)), "")
    if isinstance(got, Tensor):
        same = got.dtype == wanted.dtype
        return "" if same else f"gives numbers of {got.dtype}, and the model of {wanted.dtype}"
    if type(got) is not type(wanted) or (got != wanted and not (got != got and wanted != wanted)):
        return f"gives {got!r}, and the model {wanted!r}"
    return ""


def _inside(output: Any) -> tuple[list[Any], Any]:
    """What a container holds, and what kind it is; of anything else nothing, and None."""
    if _has_fields(output):
        fields = [f.name for f in dataclasses.fields(output) if f.init]
        return [getattr(output, name) for name in fields], (type(output), fields)
    inside, kind = pytree.tree_flatten(output, is_leaf=lambda x: x is not output)
    return ([], None) if kind.is_leaf() else (inside, kind)


def _kinds(output: Any) -> Any:
    """The containers of an output, with the names of types for what is in them."""
    return pytree.tree_map(lambda x: type(x).__name__, output)


def shapes(output: Any) -> str:
    """Shapes as text."""
    return ", ".join("none" if x is None else str(tuple(x.shape)) for x in leaves(output)) or "none"


def same_bits(a: Any, b: Any) -> bool:
    """Equal to the last bit; NaN equals NaN."""
    left, right = leaves(a), leaves(b)
    if len(left) != len(right):
        return False
    return all(
        x is y
        or (x is not None and y is not None and x.shape == y.shape and _identical(x.detach(), y))
        for x, y in zip(left, right, strict=True)
    )


def _identical(x: Tensor, y: Tensor) -> bool:
    return bool(((x == y) | ((x != x) & (y != y))).all())


def time_dims(shorter: Any, longer: Any) -> list[int | None]:
    """Per tensor of an output the dimension that grows with the video; None where none does."""
    out: list[int | None] = []
    for a, b in zip(leaves(shorter), leaves(longer), strict=True):
        pairs = zip(a.shape, b.shape, strict=True) if a is not None and b is not None else ()
        dims = [d for d, (m, n) in enumerate(pairs) if m != n]
        out.append(dims[0] if dims else None)
    return out


def assembled(outputs: Sequence[Any], dims: Sequence[int | None]) -> list[Tensor | None]:
    """What all steps answered: along time put one after the other, else the last answer."""
    out: list[Tensor | None] = []
    for number, dim in enumerate(dims):
        given = [x for y in outputs if y is not None and (x := leaves(y)[number]) is not None]
        if not given:
            out.append(None)
        else:
            out.append(given[-1] if dim is None else torch.cat(given, dim))
    return out


def random_chunks(total: int, longest: int, rng: random.Random) -> list[int]:
    """Lengths from 1 to ``longest`` that make up ``total``."""
    chunks: list[int] = []
    while (left := total - sum(chunks)) > 0:
        chunks.append(rng.randint(1, min(longest, left)))
    return chunks


def storage_of(tensor: Tensor) -> tuple[int, int]:
    """Address and size in bytes of what keeps a tensor alive."""
    storage = tensor.untyped_storage()
    return storage.data_ptr(), storage.nbytes()
