"""The outputs of a model whose windows see no frame after their cut, computed from the definition.

This is what ``future="zero"`` must give. Nothing here knows the compiler: the plain model's own
modules are run on prefixes of the video, so a mistake in the compiler's arithmetic can't be
repeated here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

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
            module.forward = make(module, module.forward)
        yield
    finally:
        for module, forward in zip(modules, before, strict=True):
            if forward is None:
                module.__dict__.pop("forward", None)
            else:
                module.forward = forward


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
    """The whole video through `model`; no window sees a frame after its cut.

    `video` is one tensor, or a list of tensors for a model that takes a list.
    `cuts` are the numbers of frames seen after each step, n_1 < … < n_P = T: one
    integer each, or for a list of inputs one integer per input. `time_dims` is
    where time lies in the input(s).

    A first pass runs the plain model on every prefix and notes how many elements
    each temporal module was given and has answered: what it answers to the prefix
    n_p, but not to n_{p-1}, is what it emits at step p. The second pass runs the
    whole video, where each temporal module computes those elements from the
    elements that it had been given by then, and from no others. What it emitted
    earlier, cut or not, is what the modules after it read.
    """
    several = not isinstance(video, Tensor)
    inputs: list[Tensor] = [video] if isinstance(video, Tensor) else list(video)
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
