"""Pools of which a window is as long as the operand, or that keep its length, in a capture.

``F.avg_pool2d(x, x.shape[2:])`` is a mean, and ``nn.AdaptiveMaxPool3d((None, 1, 1))`` pools each
frame. torch takes the sizes of both for plain numbers: the capture would be of one length of video.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from pgt_fx.core.lengths.from_sympy import LengthReader
from pgt_fx.core.lengths.questions import equal
from pgt_fx.core.lengths.sets import NotQuasiLinear
from pgt_fx.core.torch_private import pytree

#: Pools by their names: what one over everything is.
_SLIDING: dict[str, tuple[str, int]] = {
    f"{kind}_pool{rank}d": (kind, rank) for kind in ("avg", "max") for rank in (1, 2, 3)
}
#: Adaptive pools that take plain numbers alone.
_ADAPTIVE: dict[str, int] = {
    **{f"adaptive_max_pool{rank}d": rank for rank in (1, 2, 3)},
    "adaptive_avg_pool1d": 1,
}
_NAMES = ("input", "kernel_size", "stride", "padding")
_MORE = {"avg": ("ceil_mode", "count_include_pad", "divisor_override"), "max": ("dilation",)}


def minds(func: Any, args: Any, kwargs: dict[str, Any]) -> bool:
    """Whether a call is one that :func:`spelled` may make otherwise."""
    return bool(_of_whole(func, args, kwargs))


def spelled(func: Any, args: Any, kwargs: dict[str, Any]) -> Tensor | None:
    """What such a call gives, made with sizes left open; None for any other call."""
    axes = _of_whole(func, args, kwargs)
    if not axes:
        return None
    name = func.__name__
    if name in _ADAPTIVE:
        return _adaptive(func, args, kwargs, axes)
    kind, rank = _SLIDING[name]
    given = dict(zip(_NAMES, args, strict=False)) | kwargs
    x = given["input"]
    dims = [axis - rank for axis in axes]
    x = x.mean(dims, keepdim=True) if kind == "avg" else x.amax(dims, keepdim=True)
    if len(axes) == rank:
        return x
    for key in ("kernel_size", "stride", "padding"):
        usual = given["kernel_size"] if key == "stride" else 0
        entries = _each(usual if given.get(key) in (None, [], ()) else given[key], rank)
        alone = 0 if key == "padding" else 1
        given[key] = [alone if i in axes else n for i, n in enumerate(entries)]
    given["input"] = x
    more = dict(zip(_MORE[kind], args[len(_NAMES) :], strict=False))
    out: Tensor = func(**(more | given))
    return out


def _each(value: Any, rank: int) -> list[Any]:
    return list(value) if isinstance(value, (tuple, list, torch.Size)) else [value] * rank


def _of_whole(func: Any, args: Any, kwargs: dict[str, Any]) -> list[int]:
    """The pooled axes along which the window is the operand's length, or is to be kept."""
    name = getattr(func, "__name__", "")
    rank = _ADAPTIVE.get(name) or _SLIDING.get(name, ("", 0))[1]
    if not rank or (not args and "input" not in kwargs):
        return []
    names = ("input", "output_size", "return_indices") if name in _ADAPTIVE else _NAMES
    given = dict(zip(names, args, strict=False)) | kwargs
    x = given["input"]
    if not isinstance(x, Tensor) or given.get("return_indices") or given.get("divisor_override"):
        return []
    wanted = _each(given.get("output_size" if name in _ADAPTIVE else "kernel_size"), rank)
    sizes = x.shape[-rank:]
    plain = _ones(given.get("dilation", 1), 1) and _ones(given.get("padding", 0), 0)
    more = args[len(_NAMES) :]  # dilation of a maximum, which of a mean is no argument
    if not plain or len(wanted) != rank or (more and not _plain_rest(name, more)):
        return []
    adaptive = name in _ADAPTIVE
    return [
        i
        for i, (n, size) in enumerate(zip(wanted, sizes, strict=True))
        if (n is None and adaptive) or _same(n, size)
    ]


def _plain_rest(name: str, rest: Any) -> bool:
    """Whether what is given by position after the padding changes nothing."""
    if name.startswith("avg"):
        return len(rest) < 3 or rest[2] is None
    return _ones(rest[0], 1) and not any(rest[2:])


def _ones(value: Any, usual: int) -> bool:
    return all(isinstance(n, int) and n == usual for n in pytree.tree_leaves(value))


def _same(wanted: Any, size: Any) -> bool:
    """Whether two sizes are one and the same, whatever the video; no question is asked of them."""
    if isinstance(wanted, torch.SymInt) and isinstance(size, torch.SymInt):
        difference = (wanted.node.expr - size.node.expr).expand()
        if difference == 0 or len(difference.free_symbols) != 1:
            return bool(difference == 0)
        try:
            found = LengthReader(dict.fromkeys(difference.free_symbols, 1)).function(difference)
        except NotQuasiLinear:
            return False
        return equal(found, 0)
    plain = type(wanted) is int and type(size) is int
    return plain and wanted == size != 1


def _adaptive(
    func: Callable[..., Any], args: Any, kwargs: dict[str, Any], axes: list[int]
) -> Tensor:
    """An adaptive pool that keeps some axes: over the others, with these beside the batch."""
    given = dict(zip(("input", "output_size"), args, strict=False)) | kwargs
    x: Tensor = given["input"]
    rank = _ADAPTIVE[func.__name__]
    wanted = _each(given["output_size"], rank)
    rest = [n for i, n in enumerate(wanted) if i not in axes]
    if not rest:
        return x.clone()
    kind = F.adaptive_max_pool1d, F.adaptive_max_pool2d
    kept = [x.dim() - rank + i for i in axes]
    front = list(range(len(kept)))
    x = x.movedim(kept, front)
    sizes, beside = list(x.shape[: len(kept)]), x.dim() - 1 - len(rest)
    sizes += list(x.shape[len(kept) : beside])
    x = kind[len(rest) - 1](x.flatten(0, beside - 1) if beside > 1 else x, rest)
    x = x.unflatten(0, sizes) if beside > 1 else x
    return x.movedim(front, kept)
