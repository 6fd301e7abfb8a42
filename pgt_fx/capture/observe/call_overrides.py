"""Replacements of some torch calls while a model is captured.

A replacement computes the same; it keeps sizes symbolic, or marks what a pool over the clip means
(DESIGN §6).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pgt_fx.capture.observe import whole_pools
from pgt_fx.capture.observe.clip_table_op import ClipTable, is_join, put
from pgt_fx.capture.observe.recurrent_op import KINDS, captured
from pgt_fx.core.errors import Place

POOLS: dict[Any, str] = {
    F.avg_pool3d: "mean",
    F.max_pool3d: "max",
    F.avg_pool1d: "mean",
    F.max_pool1d: "max",
}
#: Calls after which sizes grow to long expressions (windows of a fixed size, padded and shifted).
GROWING = frozenset({"pad", "constant_pad_nd", "roll"})
CONVS = (torch.conv1d, torch.conv2d, torch.conv3d, F.conv1d, F.conv2d, F.conv3d)


class TooComplicated(Exception):
    """The size of a tensor is so long an expression that the capture would take minutes."""


@dataclass
class Noted:
    """Calls that a spelling has to see: it makes them otherwise, counts them, or sizes may grow.

    Attributes:
        count: how many.
        modules: the innermost modules that made them.
        kept: attributes that the model changed meanwhile.
        asked: what it asked of its surroundings.
        read: what it has asked its tensors for, each with a line.
        layouts: the answers to ``is_contiguous()``, in order.
        sized: the first line on which it reads a size of a tensor that is no input.
        tried: lines of the model on which an error of a call would be caught.
        gradless: lines on which gradients are switched off inside a block of autocast, and whether
            it is on there.
        caught: calls that failed on such lines, for what may be their operands' sizes.
    """

    count: int = 0
    modules: list[nn.Module] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    asked: set[str] = field(default_factory=set)
    read: dict[str, Place] = field(default_factory=dict)
    layouts: list[tuple[Place, bool]] = field(default_factory=list)
    sized: Place | None = None
    tried: dict[tuple[str, str], None] = field(default_factory=dict)
    gradless: list[tuple[Place, bool]] = field(default_factory=list)
    caught: list[Place] = field(default_factory=list)


class Spelling:
    """Makes the model's torch calls while it is captured
    (:class:`pgt_fx.capture.observe.failing_line.Lines`).

    Args:
        clip_pools: numbers of the pool calls to be taken over all of time.
        tables: operands that have one row per frame of the clip.
        limit: operations in the expression of a size at which to give up.
        running: the modules that are running, innermost last.

    Attributes:
        noted: the calls for which it has to be there.
    """

    def __init__(
        self,
        clip_pools: Sequence[int] = (),
        tables: Sequence[ClipTable] = (),
        limit: int | None = None,
        running: Sequence[nn.Module] = (),
    ) -> None:
        self.limit = limit
        self.running, self.noted = running, Noted()
        self.clip_pools, self.pools = frozenset(clip_pools), 0
        self.tables, self.joins = {t.call: t for t in tables}, 0

    def __call__(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """The call, or what is made in its place.

        Raises:
            TooComplicated: when a size of the result is too long an expression.
        """
        if self._minds(func, args, kwargs):
            self.note()
        elif whole_pools.minds(func, args, kwargs):  # perhaps for the sizes of this run alone
            self._note_module()
        out = self._call(func, args, kwargs)
        if self.limit is not None and isinstance(out, Tensor):
            for s in out.shape:
                if isinstance(s, torch.SymInt) and s.node.expr.count_ops() > self.limit:
                    raise TooComplicated(str(s))
        return out

    def note(self) -> None:
        """Note a call, and the module that makes it."""
        self.noted.count += 1
        self._note_module()

    def _note_module(self) -> None:
        if self.running and self.running[-1] not in self.noted.modules:
            self.noted.modules.append(self.running[-1])

    def _minds(self, func: Any, args: Any, kwargs: dict[str, Any]) -> bool:
        """Whether a call is one that can come out otherwise here than without the spelling."""
        return (
            (bool(self.clip_pools) and func in POOLS)
            or (bool(self.tables) and is_join(func))
            or func in (torch.max_pool1d, F.max_pool1d)
            or func in KINDS
            or getattr(func, "__name__", "") in GROWING
            or (func in CONVS and any(isinstance(a, str) for a in (*args, *kwargs.values())))
        )

    def _call(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        if func in POOLS:
            number, self.pools = self.pools, self.pools + 1
            if number in self.clip_pools:
                return _over_all_time(func, args, kwargs)
        if (pooled := whole_pools.spelled(func, args, kwargs)) is not None:
            return pooled
        if is_join(func):
            number, self.joins = self.joins, self.joins + 1
            if number in self.tables:
                args = put(args, self.tables[number])
        if func is torch.max_pool1d or func is F.max_pool1d:
            return _max_pool1d(*args, **kwargs)
        if func in CONVS:
            return _conv(func, args, kwargs)
        if func in KINDS and (found := captured(func, args, kwargs)) is not None:
            return found
        return func(*args, **kwargs)


def _over_all_time(func: Any, args: Any, kwargs: dict[str, Any]) -> Tensor:
    """A pool whose first window axis is time, taken over all of it; along space the model's own."""
    names = ("input", "kernel_size", "stride")
    given = dict(zip(names, args, strict=False)) | kwargs
    x, kernel, stride = given.pop("input"), given.pop("kernel_size"), given.pop("stride", None)
    rank = 3 if "3d" in func.__name__ else 1
    if rank == 3:
        size = list(kernel) if isinstance(kernel, (tuple, list)) else [kernel] * 3
        step = size if stride in (None, [], ()) else stride
        step = list(step) if isinstance(step, (tuple, list)) else [step] * 3
        x = func(x, (1, *size[1:]), (1, *step[1:]), *args[3:], **given)
    return x.mean(-rank, keepdim=True) if POOLS[func] == "mean" else x.amax(-rank, keepdim=True)


def _max_pool1d(
    x: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """By max_pool2d: the one-dimensional operator fixes the length while it is captured."""
    if return_indices:
        return F.max_pool1d(x, kernel_size, stride, padding, dilation, ceil_mode, True)

    def one(v: Any) -> Any:
        # As it is: int() of a number that is made of the frames' fixes it, and no guard says so.
        return v[0] if isinstance(v, (tuple, list)) else v

    stride = kernel_size if stride in (None, [], ()) else stride
    out = torch.max_pool2d(
        x.unsqueeze(-2),
        [1, one(kernel_size)],
        [1, one(stride)],
        [0, one(padding)],
        [1, one(dilation)],
        ceil_mode,
    )
    return out.squeeze(-2)


def _conv(func: Callable[..., Any], args: Any, kwargs: dict[str, Any]) -> Any:
    """``padding="same"`` with an uneven amount is a pad and a convolution: written so."""
    names = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
    given = dict(zip(names, args, strict=False)) | kwargs
    if given.get("padding") != "same":
        return func(*args, **kwargs)
    kernel = given["weight"].shape[2:]
    dilation = given.get("dilation", 1)
    dilation = list(dilation) if isinstance(dilation, (tuple, list)) else [dilation]
    dilation = dilation * len(kernel) if len(dilation) == 1 else dilation
    totals = [(int(k) - 1) * int(d) for k, d in zip(kernel, dilation, strict=True)]
    if all(total % 2 == 0 for total in totals):
        return func(*args, **kwargs)
    amounts = [a for total in reversed(totals) for a in (total // 2, total - total // 2)]
    given["input"] = F.pad(given["input"], amounts)
    given["padding"] = 0
    return func(**given)
