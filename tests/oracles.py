"""What a progressive model must answer, written from the definition.

Nothing here knows the compiler: the oracles run the plain model, or its own
modules, on prefixes of the video. A mistake in the compiler's arithmetic can
therefore not be repeated here.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

#: Modules that may read along time in inputs of (N, C, T) or (N, C, T, H, W).
TEMPORAL_MODULES: tuple[type[nn.Module], ...] = (
    nn.Conv1d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose3d,
    nn.MaxPool1d,
    nn.MaxPool3d,
    nn.AvgPool1d,
    nn.AvgPool3d,
    nn.LPPool1d,
    nn.LPPool3d,
    nn.Upsample,
)

#: Where time lies in what those modules take and give.
MODULE_TIME_DIM = 2


# ---------------------------------------------------------------- the cut mask


def is_temporal(module: nn.Module) -> bool:
    """A module that mixes time as one window; own ones say so by ``temporal = True``."""
    return isinstance(module, TEMPORAL_MODULES) or getattr(module, "temporal", False) is True


def is_join(module: nn.Module) -> bool:
    """A module of several operands, element i with element i; says ``temporal_join = True``."""
    return getattr(module, "temporal_join", False) is True


def _outermost(model: nn.Module, wanted: Callable[[nn.Module], bool]) -> Iterator[nn.Module]:
    """Modules that satisfy `wanted` and lie in no other such module; each once."""
    seen: set[int] = set()

    def walk(module: nn.Module) -> Iterator[nn.Module]:
        if id(module) in seen:
            return
        seen.add(id(module))
        if wanted(module):
            yield module
        else:
            for child in module.children():
                yield from walk(child)

    yield from walk(model)


@contextmanager
def _replaced(
    model: nn.Module, make: Callable[[nn.Module, Callable[..., Any]], Callable[..., Any]]
) -> Iterator[None]:
    """Every temporal module's and join's ``forward`` replaced by ``make(module, forward)``."""
    modules = list(_outermost(model, lambda m: is_temporal(m) or is_join(m)))
    before = [m.__dict__.get("forward") for m in modules]
    try:
        for module in modules:
            module.forward = make(module, module.forward)  # type: ignore[method-assign]
        yield
    finally:
        for module, forward in zip(modules, before, strict=True):
            if forward is None:
                module.__dict__.pop("forward", None)
            else:
                module.forward = forward  # type: ignore[method-assign]


def _prefix(x: Tensor, length: int, dim: int = MODULE_TIME_DIM) -> Tensor:
    return x.narrow(dim, 0, length)


def _nothing(forward: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """What `forward` gives for `x`, but of no element in time: other sizes are right."""
    shape = list(x.shape)
    for length in (8, 64, 512):  # long enough for any window that a test builds
        shape[MODULE_TIME_DIM] = length
        try:
            return _prefix(forward(x.new_zeros(shape)), 0)
        except RuntimeError:
            continue
    raise AssertionError("a temporal module refuses even 512 elements")


def _attempt(forward: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """`forward(x)`, or no element where the input is too short for a single window."""
    if x.shape[MODULE_TIME_DIM] == 0:
        return _nothing(forward, x)
    try:
        return forward(x)
    except RuntimeError:
        # The window does not fit yet. Should the reason be another one, then it
        # stands in the way of the dummy as well, and `_nothing` raises.
        return _nothing(forward, x)


def cut_masked(
    model: nn.Module,
    video: Tensor | Sequence[Tensor],
    cuts: Sequence[int] | Sequence[Sequence[int]],
    time_dims: int | Sequence[int] = 2,
) -> Any:
    """The whole video through `model`, each window blind to what lies behind its cut.

    `video` is one tensor, or a list of tensors for a model that takes a list.
    `cuts` are the numbers of frames seen after each step, n_1 < … < n_P = T: one
    integer each, or for a list of inputs one integer per input. `time_dims` is
    where time lies in the input(s).

    A first pass runs the plain model on every prefix and notes how many elements
    each temporal module was given and has answered: what it answers to the prefix
    n_p, but not to n_{p-1}, is what it emits at step p. The second pass runs the
    whole video, where each temporal module computes those elements from the
    elements that it had been given by then, and from no others. What it emitted
    earlier, cut or not, is what the modules behind it read.
    """
    several = not isinstance(video, Tensor)
    inputs = list(video) if several else [video]  # type: ignore[list-item]
    dims = [time_dims] * len(inputs) if isinstance(time_dims, int) else list(time_dims)
    steps = [[c] * len(inputs) if isinstance(c, int) else list(c) for c in cuts]
    for i, (x, dim) in enumerate(zip(inputs, dims, strict=True)):
        ends = [s[i] for s in steps]
        assert ends == sorted(set(ends)) and ends[0] > 0, f"cuts must rise: {ends}"
        assert ends[-1] == x.shape[dim], "the last cut must be the video's end"

    # seen[module][call] = [(elements in, elements out) at cut 1, cut 2, …]
    seen: dict[nn.Module, list[list[tuple[int, int]]]] = {}

    def noting(
        module: nn.Module, forward: Callable[..., Any], calls: dict[nn.Module, int]
    ) -> Callable[..., Any]:
        if is_join(module):

            def join(*operands: Tensor) -> Any:
                # Where one branch is late, the join gives the common prefix.
                shortest = min(x.shape[MODULE_TIME_DIM] for x in operands)
                return forward(*(_prefix(x, shortest) for x in operands))

            return join

        def note(x: Tensor) -> Tensor:
            y = _attempt(forward, x)
            call = calls.get(module, 0)
            calls[module] = call + 1
            per_call = seen.setdefault(module, [])
            if call == len(per_call):
                per_call.append([])
            per_call[call].append((x.shape[MODULE_TIME_DIM], y.shape[MODULE_TIME_DIM]))
            return y

        return note

    def masking(
        module: nn.Module, forward: Callable[..., Any], calls: dict[nn.Module, int]
    ) -> Callable[..., Any]:
        if is_join(module):
            return forward

        def mask(x: Tensor) -> Tensor:
            call = calls.get(module, 0)
            calls[module] = call + 1
            notes = seen[module][call]
            assert notes[-1][0] == x.shape[MODULE_TIME_DIM], "the last prefix is the whole video"
            pieces, given = [], 0
            for had, gives in notes:
                assert gives >= given, "what was emitted cannot be taken back"
                if gives > given:
                    y = forward(_prefix(x, had))
                    pieces.append(y.narrow(MODULE_TIME_DIM, given, gives - given))
                given = gives
            return torch.cat(pieces, MODULE_TIME_DIM)

        return mask

    def run(make: Any, lengths: Sequence[int]) -> Any:
        calls: dict[nn.Module, int] = {}
        clip = [_prefix(x, n, d) for x, n, d in zip(inputs, lengths, dims, strict=True)]
        with _replaced(model, lambda m, f: make(m, f, calls)):
            return model(clip if several else clip[0])

    with torch.no_grad():
        for lengths in steps:
            run(noting, lengths)
        # A model may not call a module for a short prefix that it calls for a long
        # one: then the notes do not line up, and the oracle would be wrong.
        for module, per_call in seen.items():
            for notes in per_call:
                assert len(notes) == len(steps), f"{type(module).__name__}: a call was skipped"
        return run(masking, steps[-1])


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
