"""What a progressive model must answer, written from the definition.

Nothing here knows the compiler: the oracles run the plain model, or its own
modules, on prefixes of the video. A mistake in the compiler's arithmetic can
therefore not be repeated here.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from pgt_fx.testing.fuzz.cutmask import TEMPORAL_MODULES, cut_masked, is_join, is_temporal

__all__ = [
    "TEMPORAL_MODULES",
    "cut_masked",
    "ends",
    "error_per_frame",
    "is_join",
    "is_temporal",
    "pieces",
    "random_chunks",
    "relative_error",
    "sensitive_to_time",
    "stitch",
]

# ------------------------------------------------------------------- measures


def relative_error(a: Any, b: Any) -> float:
    """Greatest difference over the greatest magnitude of `b`; inf where shapes differ.

    Pytrees are compared leaf by leaf. NaN on one side counts as infinitely wrong; there
    is no error between empty tensors: comparing those is a mistake in the test.
    """
    left, right = pytree.tree_leaves(a), pytree.tree_leaves(b)
    assert left and right, "nothing to compare"
    if len(left) != len(right):
        return float("inf")
    worst = 0.0
    for x, y in zip(left, right, strict=True):
        assert x.numel() and y.numel(), "comparing empty tensors proves nothing"
        if x.shape != y.shape:
            return float("inf")
        error = error_per_frame(x, y, 0).max().item()
        worst = max(worst, error)
    return worst


def error_per_frame(a: Tensor, b: Tensor, dim: int) -> Tensor:
    """(T,): the greatest difference of each element along `dim`, over b's magnitude."""
    assert a.shape == b.shape, f"{tuple(a.shape)} beside {tuple(b.shape)}"
    a, b = a.detach().double(), b.detach().double()
    finite = b[b.isfinite()]
    tiny = torch.finfo(torch.float64).tiny
    scale = finite.abs().max().clamp_min(tiny) if finite.numel() else torch.tensor(1.0)
    # A max pool over padding alone gives -inf, and what follows NaN: the same on both
    # sides is no difference.
    same = (a == b) | (a.isnan() & b.isnan())
    gap = torch.where(same, torch.zeros_like(a), (a - b).abs() / scale)
    gap = torch.where(gap.isnan(), torch.full_like(gap, float("inf")), gap)
    return gap.movedim(dim, 0).reshape(gap.shape[dim], -1).amax(1)


def sensitive_to_time(
    model: nn.Module,
    video: Tensor | Sequence[Tensor],
    time_dims: int | Sequence[int] = 2,
    threshold: float = 1e-6,
) -> bool:
    """Shuffling the frames changes the output.

    Without this an equivalence proves nothing: a model that ignores time, or
    whose temporal branches weigh nothing, is equal to anything.
    """
    several = not isinstance(video, Tensor)
    inputs = list(video) if several else [video]  # type: ignore[list-item]
    dims = [time_dims] * len(inputs) if isinstance(time_dims, int) else list(time_dims)
    shuffled = []
    for x, dim in zip(inputs, dims, strict=True):
        generator = torch.Generator().manual_seed(0)
        order = torch.randperm(x.shape[dim], generator=generator)
        if torch.equal(order, torch.arange(len(order))):  # short videos: not the identity
            order = order.flip(0)
        shuffled.append(x.index_select(dim, order.to(x.device)))
    with torch.no_grad():
        straight = model(inputs if several else inputs[0])
        mixed = model(shuffled if several else shuffled[0])
    return relative_error(mixed, straight) > threshold


# ------------------------------------------------------------ videos in pieces


def random_chunks(total: int, max_len: int, rng: random.Random) -> list[int]:
    """Lengths from 1 to `max_len` that sum to `total`."""
    chunks: list[int] = []
    while (left := total - sum(chunks)) > 0:
        chunks.append(rng.randint(1, min(max_len, left)))
    return chunks


def ends(chunks: Sequence[int]) -> list[int]:
    """Frames seen after each chunk: [8, 7, 7] -> [8, 15, 22]."""
    return [sum(chunks[: i + 1]) for i in range(len(chunks))]


def pieces(
    video: Tensor | Sequence[Tensor], chunks: Sequence[int], time_dims: int | Sequence[int] = 2
) -> list[Any]:
    """`video` cut along time; of two paths the second is cut in proportion.

    `chunks` count frames of the first path; every other path must be a whole
    multiple of it (a fast pathway of alpha frames for each slow one).
    """
    if isinstance(video, Tensor):
        assert isinstance(time_dims, int)
        return list(video.split(list(chunks), time_dims))
    dims = [time_dims] * len(video) if isinstance(time_dims, int) else list(time_dims)
    total = sum(chunks)
    paths = []
    for x, dim in zip(video, dims, strict=True):
        ratio, rest = divmod(x.shape[dim], total)
        assert not rest, "the paths' lengths must be in a whole proportion"
        paths.append(x.split([c * ratio for c in chunks], dim))
    return [list(clip) for clip in zip(*paths, strict=True)]


def stitch(outputs: Sequence[Any], dim: int = 2) -> Any:
    """Outputs of successive steps put one after the other; None is no output.

    Outputs that are lists, tuples or dicts of tensors are stitched leaf by leaf.
    """
    given = [y for y in outputs if y is not None]
    assert given, "no step has answered"
    flat = [pytree.tree_flatten(y) for y in given]
    spec = flat[0][1]
    assert all(s == spec for _, s in flat), "the steps' outputs differ in structure"
    leaves = [
        torch.cat([x for x in column if x is not None], dim)
        for column in zip(*(leaves for leaves, _ in flat), strict=True)
    ]
    return pytree.tree_unflatten(leaves, spec)
