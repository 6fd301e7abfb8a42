"""Models that loop over their frames in Python: detected by three runs without compute, as a
capture would unroll the loop for minutes and then fix the length. And models made for one iteration
of such a loop, whose capture takes long as well, only to refuse each tensor of their cache.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from pgt_fx.capture.observe.model_lines import calling_place
from pgt_fx.capture.probe.meta_run import Stopped, probe
from pgt_fx.capture.probe.returned_caches import Tail
from pgt_fx.core.clip import ClipSpec
from pgt_fx.core.counts import counted
from pgt_fx.core.errors import LoopError, Place
from pgt_fx.core.torch_private import pytree

#: A run is longer than the clip by a multiple of so many frames: some models take 4n + 1 alone.
LIKE_CLIP = 16


@dataclass(frozen=True)
class _Turn:
    """One call of a module: the line that makes it, and the arguments that are containers with
    tensors in them."""

    module: nn.Module
    place: Place
    containers: list[str]


class _Turns:
    """The calls of modules in a run, which ends at the first that is one more than they had.

    Its hook is a method: what a function keeps in its variables is a model's, and put back when the
    run has ended (:mod:`pgt_fx.capture.observe.snapshots`).
    """

    def __init__(self, most: Mapping[nn.Module, int]) -> None:
        self.seen: list[_Turn] = []
        self._most = most

    def before(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        turn = _Turn(module, calling_place(type(module)), _containers(module, args, kwargs))
        self.seen.append(turn)
        # Modules inside of this one are called later: it is the outermost.
        if sum(t.module is module for t in self.seen) > self._most[module]:
            raise Stopped


def check_loops(
    model: nn.Module,
    spec: ClipSpec,
    sample: Sequence[Any],
    calls: Mapping[nn.Module, int],
) -> None:
    """Refuse a model that calls one of its modules the more often, the longer the video is.

    Three lengths are compared: the clip's, the sample's and a third. The third is like the clip's
    modulo every number by which models tell lengths apart, so that one that branches on the number
    of frames is not taken for one that loops.

    Args:
        spec: structure of an example clip.
        sample: leaves of a run that is longer than the clip.
        calls: how often that run called each module.

    Raises:
        LoopError: naming the outermost module inside the loop, the line that calls it, and the
            arguments in which it is handed a cache.
    """
    paths = {module: path for path, module in model.named_modules()}
    # Of modules without weights (an activation) many are called from several places.
    more = {m: n for m, n in calls.items() if n > 1 and paths.get(m) and _has_weights(m)}
    least, longest = min(spec.lengths), min(_lengths(spec, sample))
    if not more or least >= longest:
        return
    run = probe(model, spec.spec, of_length(spec, sample, least))
    fewer = {m: run.calls[m] for m, n in more.items() if run.calls[m] < n}
    if run.error is not None or not fewer:
        return
    longer = least + LIKE_CLIP * ((longest - least) // LIKE_CLIP + 1)
    turns = _Turns(more)
    with ExitStack() as stack:
        for module in fewer:
            handle = module.register_forward_pre_hook(turns.before, with_kwargs=True)
            stack.callback(handle.remove)
        error = probe(model, spec.spec, of_length(spec, sample, longer)).error
    if isinstance(error, Stopped):
        looped = turns.seen[-1].module
        counts = {least: fewer[looped], longest: more[looped], longer: more[looped] + 1}
        raise _refusal(paths[looped], [t for t in turns.seen if t.module is looped], counts)


def _has_weights(module: nn.Module) -> bool:
    return next(module.parameters(), None) is not None


def _lengths(spec: ClipSpec, leaves: Sequence[Any]) -> list[int]:
    return [int(leaves[i].shape[spec._time(i)]) for i in spec.paths]


def of_length(spec: ClipSpec, leaves: Sequence[Any], length: int) -> list[Any]:
    """Leaves of other lengths, in the path with the fewest frames ``length``; contents undefined.
    Batch and space stay: a loop over those has as many turns."""
    out = list(leaves)
    for i, ratio in zip(spec.paths, spec.ratio, strict=True):
        sizes = list(leaves[i].shape)
        sizes[spec._time(i)] = length * ratio
        out[i] = leaves[i].new_empty(sizes)
    return out


def _refusal(path: str, turns: Sequence[_Turn], seen: Mapping[int, int]) -> LoopError:
    (few, once), (some, more), (many, most) = seen.items()
    counts = f"{once}, {more} and at least {most} times for {few}, {some} and {many} frames"
    caches = dict.fromkeys(name for turn in turns for name in turn.containers)
    own = f", with a cache of its own ({', '.join(caches)})" if caches else ""
    without = f", without {' and '.join(caches)}" if caches else ""
    where = turns[-1].place
    error = LoopError(
        f"the model loops over the frames in Python{own}: {path} is called {counts}. No one graph "
        "is the model for every length, and what the loop carries from turn to turn is not seen.",
        Place(where.op, path, where.source, where.line),
    )
    error.advice = (
        f"Pass the module inside the loop, {path} of the class {type(turns[-1].module).__name__}, "
        f"where that computes what the loop does when it is called once, with the whole video"
        f"{without}. Else write a module that does. What the loop carried, the steps then carry."
    )
    return error


def _containers(module: nn.Module, args: Any, kwargs: Any) -> list[str]:
    try:
        given = inspect.signature(module.forward).bind_partial(*args, **kwargs).arguments
    except TypeError:
        given = kwargs
    return [
        name
        for name, value in given.items()
        if not isinstance(value, Tensor)
        and any(isinstance(leaf, Tensor) for leaf in pytree.tree_leaves(value))
    ]


def check_caches(
    model: nn.Module,
    spec: ClipSpec,
    sample: Sequence[Any],
    tails: Sequence[Tail | None],
) -> None:
    """Refuse a model that returns, beside its answer, the last frames of what is inside of it, and
    that takes something of the like as an argument: no one graph of it is the model of a video.

    Args:
        spec: structure of an example clip.
        sample: leaves of a run that is longer than the clip.
        tails: of the tensors that it returned.

    Raises:
        LoopError: naming the line that takes the frames.
    """
    several = [t for t in tails if t is not None and t.count > 1]
    if not several or len(several) == len(tails) or not (optional := _optional(model, spec)):
        return
    other = probe(model, spec.spec, of_length(spec, sample, min(spec.lengths))).tails
    if len(other) != len(tails):
        return
    found = [
        a
        for a, b in zip(tails, other, strict=True)
        if a is not None and b is not None and a.count == b.count > 1 and a.size != b.size
    ]
    if not found:
        return
    beside = counted(len(found), "tensor")
    error = LoopError(
        f"the model is made for one chunk of a video in a loop: beside its answer it returns "
        f"{beside} with the last frames of what is inside of it, a cache for the next chunk "
        f"(see {' and '.join(optional)}).",
        found[0].place,
    )
    error.advice = (
        "Pass a module that computes the same over the whole video, and takes and returns no "
        "cache: steps carry by themselves what they need."
    )
    raise error


def _optional(model: nn.Module, spec: ClipSpec) -> list[str]:
    """Arguments that the example doesn't give, and that are None without."""
    try:
        signature = inspect.signature(model.forward)
        nothing: list[Any] = [None] * spec.spec.num_leaves
        args, kwargs = pytree.tree_unflatten(nothing, spec.spec)
        given = signature.bind_partial(*args, **kwargs).arguments
    except (TypeError, ValueError):
        return []
    named = signature.parameters.values()
    return [p.name for p in named if p.default is None and p.name not in given]
