"""Tensor handling along a time axis that may be merged with others."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from pgt_fx.core.counts import counted
from pgt_fx.core.errors import StateError
from pgt_fx.core.layout import Axis

#: Layouts with channels last, by number of dimensions.
_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


def split(x: Tensor, axis: Axis, length: int) -> tuple[Tensor, int]:
    """``x`` with its time axis of ``length`` elements as a dimension of its own, and which."""
    if not axis.merged:
        return x, axis.dim
    whole = x.shape[axis.dim]
    inner = axis.inner_size or 1
    if axis.outer and axis.inner:
        parts = [whole // (length * inner), length, inner]
    elif axis.outer:
        parts = [whole // length, length]
    else:
        parts = [length, whole // length]
    return x.unflatten(axis.dim, parts), axis.dim + int(axis.outer)


def merge(x: Tensor, axis: Axis) -> Tensor:
    """The inverse of :func:`split`."""
    if not axis.merged:
        return x
    return x.flatten(axis.dim, axis.dim + int(axis.outer) + int(axis.inner))


def carried_tail(
    state: Mapping[str, Tensor], slot: str, held: int, dim: int, *, others: bool = False
) -> Tensor | None:
    """The tail that an operator finds in the state.

    Args:
        others: the entry is another operator's, which carries as many elements or more.

    Raises:
        StateError: when it is not what the clocks say it is: the state is another model's, or
            was changed.
    """
    tail = state.get(slot)
    length = 0 if tail is None else tail.shape[dim]
    if others and tail is not None and length > held:
        return tail.narrow(dim, length - held, held)
    if length != held:
        raise StateError(
            f"state entry {slot!r} has {counted(length, 'element')} along time, expected {held}; "
            "go on with "
            "the state that the last step returned, or start anew with init_state()"
        )
    return tail


def carried_value(state: Mapping[str, Tensor], slot: str, before: bool) -> Tensor | None:
    """The entry of an operator that carries one value, whatever the number of elements so far.

    Args:
        before: whether elements have come in earlier steps: then there is one, else there is none.

    Raises:
        StateError: where it is not so. Without its entry the operator would begin anew in the
            middle of the video.
    """
    value = state.get(slot)
    if (value is None) is before:
        seen = "no" if before else "an"
        when = "in the middle of" if before else "before the first element of"
        raise StateError(
            f"the state has {seen} entry {slot!r} {when} the video: it was made under other "
            "options or in the other mode (train, eval), or was changed; go on with the state that "
            "the last step returned, under the same options and in the same mode, or start anew "
            "with init_state()"
        )
    return value


def joined(tail: Tensor | None, x: Tensor | None, dim: int) -> Tensor:
    """The carried tail followed by the new elements."""
    if (tail is None or tail.shape[dim] == 0) and x is not None:
        return x
    pieces = _pieces(tail, x, dim)
    # The model may write in place into what it is given.
    return beside(pieces, dim) if len(pieces) > 1 else owned(pieces[0])


def taken(
    tail: Tensor | None, x: Tensor | None, dim: int, first: int, end: int
) -> tuple[Tensor, bool]:
    """Elements ``first`` to ``end`` of the carried tail followed by the new ones, copied once.

    Returns:
        the elements, and whether they are a copy: not where they are a part of ``x`` alone.
    """
    held, parts = 0, []
    for piece in _pieces(tail, x, dim):
        count = piece.shape[dim]
        begin, stop = max(first - held, 0), min(end - held, count)
        if stop > begin:
            parts.append(piece if stop - begin == count else piece.narrow(dim, begin, stop - begin))
        held += count
    if not parts:
        return _pieces(tail, x, dim)[-1].narrow(dim, 0, 0), False
    if len(parts) > 1:
        return beside(parts, dim), True
    # The model may write in place into what it is given: never into the state.
    only_tail = tail is not None and first < tail.shape[dim]
    return (owned(parts[0]), True) if only_tail else (parts[0], False)


def beside(pieces: list[Tensor], dim: int) -> Tensor:
    """``torch.cat``; on a GPU in one kernel, where all pieces have one layout. What torch has there
    is for up to four dimensions: of more it copies piece by piece, with a kernel for any layout."""
    if pieces[0].is_cuda and pieces[0].dim() > 4 and not torch.compiler.is_compiling():
        return flat_cat(pieces, dim)
    return torch.cat(pieces, dim)


def flat_cat(pieces: list[Tensor], dim: int) -> Tensor:
    """``torch.cat`` in two dimensions, of pieces of one layout that differ in ``dim`` alone."""
    shape = list(pieces[0].shape)
    plain = all(p.is_contiguous() for p in pieces)
    last = not plain and dim >= 2 and all(channels_last(p) for p in pieces)
    same_sizes = all(_sizes(p, dim) == _sizes(pieces[0], dim) for p in pieces)
    if not (plain or last) or not same_sizes or len({p.dtype for p in pieces}) > 1:
        return torch.cat(pieces, dim)
    shape[dim] = sum(p.shape[dim] for p in pieces)

    def flat(x: Tensor) -> Tensor:
        x, at = (x.permute(0, 2, 3, 4, 1), dim - 1) if last else (x, dim)
        return x.view(math.prod(x.shape[:at]), math.prod(x.shape[at:]))

    if torch.is_grad_enabled():
        joined = torch.cat([flat(p) for p in pieces], 1)
        if not last:
            return joined.view(shape)
        return joined.view(shape[0], *shape[2:], shape[1]).permute(0, 4, 1, 2, 3)
    # Not a view: one made here could not be written to where there are gradients.
    layout = torch.channels_last_3d if last else torch.contiguous_format
    like = pieces[0]
    out = torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=layout)
    torch.cat([flat(p) for p in pieces], 1, out=flat(out))
    return out


def _sizes(x: Tensor, dim: int) -> tuple[torch.Size, torch.Size]:
    """Of all dimensions but one."""
    return x.shape[:dim], x.shape[dim + 1 :]


def _pieces(tail: Tensor | None, x: Tensor | None, dim: int) -> list[Tensor]:
    """What is there of the carried tail and the new elements.

    Raises:
        StateError: when they don't go together.
    """
    if tail is None or tail.shape[dim] == 0:
        if x is None:
            raise ValueError("neither carried nor new elements")
        return [x]
    if x is None or x.shape[dim] == 0:
        return [tail]
    if _sizes(tail, dim) != _sizes(x, dim):
        raise StateError(
            f"a state entry of sizes {tuple(tail.shape)} doesn't go with new elements of sizes "
            f"{tuple(x.shape)} (time is dimension {dim}); go on with the state that the last step "
            "returned, or start anew with init_state()"
        )
    if tail.dtype != x.dtype:  # autocast was switched between two steps
        tail = tail.to(x.dtype)
    return [tail, x]


def padded(
    tail: Tensor | None, x: Tensor | None, dim: int, left: int, right: int, mode: str, value: float
) -> tuple[Tensor, Tensor]:
    """The carried tail and the new elements with padding around them, copied once.

    Args:
        left, right, mode, value: as for :func:`filled`.

    Returns:
        all of it, and the part without the padding.
    """
    if not (left or right) or mode == "reflect":
        whole = joined(tail, x, dim)
        return filled(whole, dim, left, right, mode, value), whole
    pieces = _pieces(tail, x, dim)
    count = sum(p.shape[dim] for p in pieces)
    first = [_beyond(pieces[0], dim, left, mode, value, first=True)] if left else []
    last = [_beyond(pieces[-1], dim, right, mode, value, first=False)] if right else []
    whole = beside([*first, *pieces, *last], dim)
    return whole, whole.narrow(dim, left, count)


def filled(x: Tensor, dim: int, left: int, right: int, mode: str, value: float) -> Tensor:
    """``x`` with ``left`` elements before and ``right`` after it along ``dim``.

    ``mode`` is "constant", "replicate" or "reflect" as in ``torch.nn.functional.pad``.
    """
    if not left and not right:
        return x
    if mode == "reflect":  # element -i is element i; element n-1+i is element n-1-i
        n = x.shape[dim]
        before = [x.narrow(dim, 1, left).flip(dim)] if left else []
        after = [x.narrow(dim, n - 1 - right, right).flip(dim)] if right else []
    else:
        before = [_beyond(x, dim, left, mode, value, first=True)] if left else []
        after = [_beyond(x, dim, right, mode, value, first=False)] if right else []
    return beside([*before, x, *after], dim)


def _beyond(x: Tensor, dim: int, count: int, mode: str, value: float, *, first: bool) -> Tensor:
    """Padding before the first or after the last element."""
    if mode == "constant":
        return filled_like(x, dim, count, value)
    shape = list(x.shape)
    shape[dim] = count
    return x.narrow(dim, 0 if first else x.shape[dim] - 1, 1).expand(shape)


def filled_like(x: Tensor, dim: int, count: int, value: float) -> Tensor:
    """``count`` elements of ``value``, laid out as ``x`` is: ``cat`` keeps a layout that all of its
    operands have, and none else. Of integers minus infinity is the least."""
    if value == -math.inf and not x.is_floating_point():
        value = torch.iinfo(x.dtype).min
    shape = list(x.shape)
    shape[dim] = count
    if channels_last(x):
        out = torch.empty(
            shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last_3d
        )
        return out.fill_(value)
    return x.new_full(shape, value)


def channels_last(x: Tensor) -> bool:
    """Whether a video is laid out with its channels last, and not the other way as well."""
    last = torch.channels_last_3d
    return x.dim() == 5 and not x.is_contiguous() and x.is_contiguous(memory_format=last)


def dense(x: Tensor, like: Tensor) -> Tensor:
    """A part of ``like`` laid out as a whole tensor is: the model may ask for a view of it."""
    if channels_last(like):
        return x.contiguous(memory_format=torch.channels_last_3d)
    return x.contiguous()


def owned(x: Tensor) -> Tensor:
    """``x`` with storage of its own: a view would keep all that it is a part of alive.

    A copy would keep the strides of dimensions of one element, which are free: that of a batch of
    one depends on how long the whole was, and code compiled for a tail of 8 frames would not take
    one of 7.
    """
    if not x.numel():
        return x.new_empty(x.shape)
    last = _LAST.get(x.dim())
    if last and x.stride(-1) != 1 and x.is_contiguous(memory_format=last):
        return x.clone(memory_format=last)
    if x.is_contiguous():
        return x.clone(memory_format=torch.contiguous_format)
    return x.clone()
