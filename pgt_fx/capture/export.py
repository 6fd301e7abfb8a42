"""Capture: ``torch.export`` with symbolic batch, time and space, as a graph of ATen operators.

An axis whose size contains the time symbol is time; everything else the analysis follows by its
rules and checks against these sizes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sympy
import torch
from torch import Tensor, fx, nn

from pgt_fx.capture.captured import Captured, WholeClip
from pgt_fx.capture.guards.length_guard import (
    Condition,
    Lengths,
    OtherBranch,
    allowed_lengths,
    sizes_of_unused_slices,
)
from pgt_fx.capture.guards.size_guard import Branches, unlike_clip, without_time
from pgt_fx.capture.guards.view_lengths import frames_in_groups
from pgt_fx.capture.observe.call_overrides import TooComplicated
from pgt_fx.capture.observe.failing_line import place_of
from pgt_fx.capture.observe.module_calls import place
from pgt_fx.capture.observe.size_questions import squeezed
from pgt_fx.capture.observe.uncalled_layers import find_idle
from pgt_fx.capture.probe.frame_loops import check_caches, check_loops
from pgt_fx.capture.probe.meta_run import probe
from pgt_fx.capture.probe.sample_sizes import (
    LIKE_CLIP,
    Sample,
    Stretch,
    check_pads,
    check_ways,
    find_sample,
    lies_otherwise,
)
from pgt_fx.capture.torch_export import Exported, clip_nodes, export, is_fixed
from pgt_fx.core.clip import ClipSpec, resized
from pgt_fx.core.errors import CaptureError, LoopError
from pgt_fx.core.lengths.sets import ANY_LENGTH, LengthSet
from pgt_fx.core.torch_private import pytree

#: Operations in the expression of a size at which the capture goes on without symbolic space. Those
#: of convolutional backbones have up to 5; a shifted-window transformer comes to hundreds, and to
#: minutes of arithmetic on them.
LONGEST_SIZE = 40
#: Captures at other lengths, at most, until one goes the way that the model goes at the clip's.
ATTEMPTS = 4


def capture(
    model: nn.Module, spec: ClipSpec, leaves: Sequence[Any], pools: str = "auto"
) -> Captured:
    """Capture ``model`` on clips like the example.

    Args:
        spec, leaves: structure and tensors of an example clip.
        pools: ``clip_pools`` option: "auto" | "window" | "global".

    Raises:
        CaptureError: when the model doesn't run, or runs at the clip's length alone.
        LoopError: when it loops over its frames in Python.
    """
    stretches: tuple[Stretch, ...] | None = None
    like_clip, own = ANY_LENGTH, False
    first: CaptureError | None = None
    for _ in range(ATTEMPTS):
        try:
            return _capture(model, spec, leaves, pools, stretches, own)
        except OtherBranch as error:
            # A sample of a length at which the model answers what it asked as at the clip's.
            first = first or error
            like_clip &= error.like_clip
            frames = _like_clip(like_clip, min(spec.lengths))
            if frames is None:
                break
            stretches, own = (_to_length(min(spec.lengths), frames),), own or error.mixed
        except LoopError:
            raise
        except CaptureError as error:
            first = first or error
            if len(spec.paths) > 1 or stretches is not None:
                break
            stretches = LIKE_CLIP  # perhaps it takes lengths of one form only (4n + 1)
    raise first or CaptureError("the model could not be captured at any length that was tried")


def _like_clip(lengths: LengthSet, clip: int) -> int | None:
    """A length to capture at: longer than the clip where there is one."""
    lengths -= LengthSet.of([clip])
    found = lengths.next(2 * clip + 3)
    found = lengths.previous(2 * clip + 3) if found is None else found
    return None if found is None or found < 2 else found


def _to_length(clip: int, frames: int) -> Stretch:
    return lambda t: t * frames // clip


def _capture(
    model: nn.Module,
    spec: ClipSpec,
    leaves: Sequence[Any],
    pools: str,
    stretches: Sequence[Stretch] | None,
    own: bool,
) -> Captured:
    """One capture; with ``own`` at the batch and the space of the clip from the start."""
    batch, wide = (_rows(spec), False) if own else (2, True)
    sample, found = _exported(model, spec, leaves, pools, stretches, batch, wide)
    for _ in range(2):
        # An operator holds the batch or the space fixed, or the model's Python goes another way at
        # the clip's own: then it is captured at the clip's, not at the sample's.
        other = unlike_clip(found.program.graph, found.questions, spec, sample.leaves)
        own_batch = other.batch or _fixed(found.program, spec, leaves, sample.leaves, batch=True)
        own_space = other.space or _fixed(found.program, spec, leaves, sample.leaves, batch=False)
        if not own_batch and not own_space:
            return _captured(found, model, spec, sample.pools)
        batch = _rows(spec) if own_batch else batch
        wide = wide and not own_space
        sample, found = _exported(model, spec, leaves, pools, stretches, batch, wide)
    other = unlike_clip(found.program.graph, found.questions, spec, sample.leaves)
    if other.asked is not None:
        raise CaptureError(
            f"{other.asked.where}: {other.asked.line}\n    the model branches in Python on its "
            f"batch or space ({other.asked}, and is not so at the example's sizes). Write the "
            "branch with tensor operators, or leave it outside the model"
        )
    return _captured(found, model, spec, sample.pools)


def _exported(
    model: nn.Module,
    spec: ClipSpec,
    leaves: Sequence[Any],
    pools: str,
    stretches: Sequence[Stretch] | None,
    batch: int,
    wide: bool,
) -> tuple[Sample, Exported]:
    sample = find_sample(model, spec, leaves, pools, wide=wide, stretches=stretches, batch=batch)
    check_loops(model, spec, sample.leaves, sample.calls)
    check_caches(model, spec, sample.leaves, sample.tails)
    check_ways(model, spec, leaves, sample.noted)
    try:
        found = export(model, spec, sample, limit=LONGEST_SIZE)
    except TooComplicated:  # windows of a fixed size, padded to: space is then the clip's
        check_pads(model, spec, sample.leaves)
        sample = find_sample(
            model, spec, leaves, pools, wide=False, stretches=stretches, batch=batch
        )
        found = export(model, spec, sample, space=False)
    noted = sample.noted
    found.sized = noted.sized
    if noted.tried or noted.layouts:
        found.tried = list(noted.tried)
        found.layouts = [(place.source, place.line) for place, _ in noted.layouts]
        found.questions.freeze(spec.times, sample.leaves, *(found.tried or found.layouts)[0])
    if noted.layouts:
        # Torch answers for two frames or more, and notes where the answer is another one.
        found.lies_otherwise = lies_otherwise(model, spec, leaves, 1, noted)
    return sample, found


def _rows(spec: ClipSpec) -> int:
    return (spec.shapes[spec.paths[0]] or (1,))[0]


def _fixed(
    program: Any, spec: ClipSpec, leaves: Sequence[Any], sample: Sequence[Any], *, batch: bool
) -> bool:
    """Whether the capture fixed the batch, or space, at a size that is not the clip's."""
    for leaf, node in clip_nodes(program, spec).items():
        value = node.meta.get("val")
        if spec.times[leaf] is None or not isinstance(value, Tensor):
            continue
        for d, s in enumerate(value.shape):
            wide = sample[leaf].shape[d] != leaves[leaf].shape[d]
            if d != spec.times[leaf] and (d == 0) == batch and wide and is_fixed(s):
                return True
    return False


def _captured(
    found: Exported,
    model: nn.Module,
    spec: ClipSpec,
    numbers: tuple[int, ...],
    clip_of: WholeClip | None = None,
) -> Captured:
    program, fixed_by = found.program, found.fixed_by
    signature = program.graph_signature
    tensors = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    constants = {
        name: program.constants[target]
        for name, target in signature.inputs_to_lifted_tensor_constants.items()
    }
    clip = clip_nodes(program, spec)
    inputs = {node.name: leaf for leaf, node in clip.items()}
    symbols: set[sympy.Symbol] = set()
    sizes: dict[int, dict[int, int]] = {}
    lengths = []
    fixed = []
    for leaf, node in clip.items():
        at = spec.times[leaf]
        value: Any = node.meta["val"]
        if at is None or not isinstance(value, Tensor):
            continue
        length: Any = value.shape[at]
        sizes[len(sizes)] = {
            d: int(s)
            for d, s in enumerate(value.shape)
            if (d != at or clip_of is not None) and is_fixed(s)
        }
        if is_fixed(length):
            fixed.append(int(length))
            lengths.append(int(length))
        else:
            symbols |= length.node.expr.free_symbols
            lengths.append(int(length.node.hint))
    if fixed and clip_of is None:
        raise CaptureError(
            f"the captured graph holds the number of frames fixed at {fixed[0]}: "
            f"{'this line' if fixed_by else 'some operator of the model'} takes the frames apart "
            "one by one, compares their number with a constant, or reshapes by it. Pass the part "
            "of the model in front of it, or make it take any length.",
            fixed_by,
        )
    groups = [
        Condition(LengthSet.remainders(n, [0]), where.source, where.line, f"has frames in {n}s")
        for node, n in frames_in_groups(program.graph_module.graph, frozenset(symbols))
        for where in [place(node)]
        if min(spec.lengths) % n == 0
    ]
    for condition in groups:
        if min(lengths) not in condition.lengths:
            other = OtherBranch(f"{condition.place}: {condition.text}")
            other.like_clip, other.mixed = condition.lengths, False
            raise other
    questions = found.questions
    at_clip = questions.at(without_time(spec))
    times = frozenset(symbols) | questions.along(spec.times)
    asked = questions.asked

    measured = [] if found.sized is None else sizes_of_unused_slices(program.graph)

    def lengths_at(other: Mapping[Any, Any]) -> Lengths:
        if clip_of is not None:
            return _whole_clips(clip_of)
        clip, tried = min(spec.lengths), {*found.tried, *found.layouts}
        out = allowed_lengths(
            program, times, lengths, clip, questions.asked, other, tried, measured
        )
        for condition in groups:
            out = out.within(condition)
        if found.lies_otherwise:
            longer = LengthSet.interval(2, None)
            out = out.within(Condition(longer, *found.layouts[0], "not so at one frame"))
        return out

    resting = (*asked, *questions.frozen(times), *squeezed(program.graph, times))
    mixed = any(a.expr.free_symbols & times and a.expr.free_symbols - times for a in asked)
    return Captured(
        graph=program.graph_module.graph,
        tensors=tensors,
        constants=constants,
        inputs=inputs,
        out_spec=program.call_spec.out_spec,
        calls=found.calls,
        time_symbols=frozenset(symbols),
        global_pools=numbers,
        training=model.training,
        fixed=sizes,
        lengths=lengths_at(at_clip),
        branches=Branches(
            questions,
            spec,
            resting,
            times,
            frozenset()  # a module that is given a clip asks of it what it asked of the example
            if clip_of is not None
            else frozenset(
                c for a in questions.asked if a.expr.free_symbols & times for c in a.calls
            )
            | questions.settled,
            lengths_at if mixed else None,
        ),
        typed=_names_a_type(program.graph_module.graph)
        or any(c.is_floating_point() for c in constants.values()),
        by_hand=found.by_hand,
        drawn=found.drawn,
        kept=found.kept,
        memories=found.memories,
        surroundings=found.surroundings,
        seeded=found.seeded,
        tried=frozenset(found.tried),
        sized=found.sized,
        idle=find_idle(program, found.calls.values()),
        checks=list(dict.fromkeys(place for place, _ in found.checks)),
        opened=frozenset(key for _, keys in found.checks for key in keys),
        clip=clip_of,
    )


def capture_clip(model: nn.Module, spec: ClipSpec, leaves: Sequence[Any], because: str) -> Captured:
    """Capture ``model`` at the length of the example: every step is then such a clip, and what its
    Python asks of the number of frames is answered as there.

    Args:
        because: why it can't be captured at any length (:attr:`WholeClip.because`).

    Raises:
        CaptureError: when the model doesn't run, or can't be captured at that length either.
        LoopError: when it keeps a cache for its next call.
    """
    clip_of = WholeClip(spec.lengths, because)
    batch = 2
    while True:
        # Frames of a symbolic size would take three times as long, and most such models have a
        # table of their places; for frames of another size the model is captured anew.
        sample = _clip_sample(model, spec, leaves, batch)
        check_caches(model, spec, sample.leaves, sample.tails)
        check_ways(model, spec, leaves, sample.noted)
        found = export(model, spec, sample, space=False, time=False)
        other = unlike_clip(found.program.graph, found.questions, spec, sample.leaves)
        fixed = _fixed(found.program, spec, leaves, sample.leaves, batch=True)
        if batch == _rows(spec) or not (other.batch or fixed):
            return _captured(found, model, spec, (), clip_of)
        batch = _rows(spec)


def _clip_sample(model: nn.Module, spec: ClipSpec, leaves: Sequence[Any], batch: int) -> Sample:
    """Leaves of the clip's length, with more rows where the model takes them."""
    run = None
    for count in dict.fromkeys((batch, _rows(spec))):
        sample = resized(spec, leaves, batch=count, time=lambda t: t, space=lambda s: s)
        run = probe(model, spec.spec, sample)
        if run.error is None:
            return Sample(sample, run.noted, run.calls, run.tails)
    error = None if run is None else run.error
    raise CaptureError(
        f"the model does not run on its example clip: {error}", place_of(error)
    ) from error


def _whole_clips(clip: WholeClip) -> Lengths:
    frames = min(clip.frames)
    return Lengths().within(Condition(LengthSet.remainders(frames, [0]), text=clip.because))


def _names_a_type(graph: fx.Graph) -> bool:
    leaves = (x for n in graph.nodes for x in pytree.tree_leaves((n.args, n.kwargs)))
    return any(isinstance(x, torch.dtype) and x.is_floating_point for x in leaves)
