"""One call of ``torch.export``, with batch, time and space symbolic."""

from __future__ import annotations

import contextlib
import inspect
import warnings
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import Dim

from pgt_fx.capture.guards.symbolic_sizes import expression
from pgt_fx.capture.observe.call_overrides import Spelling, TooComplicated
from pgt_fx.capture.observe.custom_gradients import ByHand, gradients_by_hand
from pgt_fx.capture.observe.eager_numbers import numbers_as_sizes
from pgt_fx.capture.observe.eager_types import types_as_eager
from pgt_fx.capture.observe.failing_line import draws_alone, place_of, watching
from pgt_fx.capture.observe.globals_read import CLASS, GLOBAL
from pgt_fx.capture.observe.module_attributes import Memory, changing
from pgt_fx.capture.observe.module_calls import ModuleCall, recorded
from pgt_fx.capture.observe.python_random import Drawn, drawn
from pgt_fx.capture.observe.size_questions import Questions, listening
from pgt_fx.capture.observe.surroundings import surroundings
from pgt_fx.capture.observe.value_contents import generator_state
from pgt_fx.capture.probe.meta_run import leaves_behind, quiet, unchanged
from pgt_fx.capture.probe.sample_sizes import Sample
from pgt_fx.capture.torch_patches import POOL_SIZES, SOLVER, VIEWS
from pgt_fx.core.clip import ClipSpec
from pgt_fx.core.errors import CaptureError, Place, of_this_machine
from pgt_fx.core.torch_private import pytree


@dataclass
class Exported:
    """What one capture gave.

    Attributes:
        program: the exported program.
        calls: key of the module stack -> what a hook saw of that call.
        fixed_by: the call that fixed the number of frames, if one did.
        noted: how many calls the spelling had to see.
        questions: what the model's Python asked of sizes.
        by_hand: calls that say what a gradient is to be.
        drawn: modules that drew random numbers of Python's.
        kept: attributes that forward changes.
        memories: those among them that the next call reads.
        surroundings: what the model's Python asked of them.
        seeded: lines on which it seeds torch's random numbers.
        sized: the first line on which it reads a size of a tensor that is no input.
        tried: lines of the model on which an error of a call would be caught.
        layouts: lines on which it asks how a tensor lies in memory.
        checks: checks of values that were left out, each with the module calls around it.
        lies_otherwise: whether the answers are others in a video of one frame.
    """

    program: Any
    calls: dict[str, ModuleCall]
    fixed_by: Place | None
    noted: int
    questions: Questions
    by_hand: list[ByHand]
    drawn: list[Drawn]
    kept: frozenset[str]
    memories: list[Memory]
    surroundings: frozenset[str]
    seeded: list[Place]
    sized: Place | None = None
    tried: list[tuple[str, str]] = field(default_factory=list)
    layouts: list[tuple[str, str]] = field(default_factory=list)
    checks: list[tuple[Place, tuple[str, ...]]] = field(default_factory=list)
    lies_otherwise: bool = False


def export(
    model: nn.Module,
    spec: ClipSpec,
    sample: Sample,
    *,
    space: bool = True,
    limit: int | None = None,
    time: bool = True,
) -> Exported:
    """Export ``model`` at the sample's sizes; with ``time=False`` at its number of frames alone.

    To see every call of the model costs a capture a fifth of its time. So they are seen in those
    modules alone in which a run without compute made one that matters; and in all, in a second
    export, when the first one fails, makes other calls than that run, or fixes the number of
    frames, so that the error names the line.

    Raises:
        CaptureError: when the model can't be captured, or calls other pools then than in a run.
        TooComplicated: when a size is an expression of more than ``limit`` operations.
    """
    noted = sample.noted
    if model not in noted.modules:
        with contextlib.suppress(CaptureError):
            found = _export(model, spec, sample, space, limit, noted.modules, time)
            if found.noted == noted.count and not (time and _time_fixed(found.program, spec)):
                return found
    found = _export(model, spec, sample, space, limit, None, time)
    if found.noted != noted.count and (sample.pools or sample.tables):
        raise CaptureError(
            f"the model makes {found.noted} calls of pools, pads or tables while it is captured, "
            f"and {noted.count} when it is run: which of them stand for the whole clip can't be "
            "determined. Take a branch on torch.compiler.is_exporting() out of the model, or pass "
            'clip_pools="window".'
        )
    return found


def _time_fixed(program: Any, spec: ClipSpec) -> bool:
    for leaf, node in clip_nodes(program, spec).items():
        at, value = spec.times[leaf], node.meta.get("val")
        if at is not None and isinstance(value, Tensor) and is_fixed(value.shape[at]):
            return True
    return False


def _export(
    model: nn.Module,
    spec: ClipSpec,
    sample: Sample,
    space: bool,
    limit: int | None,
    modules: Collection[nn.Module] | None,
    time: bool,
) -> Exported:
    """Calls are seen inside ``modules``; in all of the model when it is None."""
    spelling = Spelling(sample.pools, sample.tables, limit)
    args, kwargs = pytree.tree_unflatten(list(sample.leaves), spec.spec)
    running: list[str] = []
    with (
        quiet(),
        unchanged(model),
        changing(model) as kept,
        surroundings() as around,
        types_as_eager(list(model.modules())),
        warnings.catch_warnings(),
        drawn(running) as numbers,
        recorded(model, running) as calls,
        listening(model, running) as questions,
        numbers_as_sizes(list(model.modules()), lambda: _clip_frames(questions, spec)),
        gradients_by_hand(running) as by_hand,
        watching(model, spec.times, spelling, modules) as lines,
    ):
        warnings.simplefilter("ignore")
        lines.begin(running)
        try:
            with lenient_solver(), pool_sizes_without_a_branch(), sizes_as_asked():
                program = torch.export.export(
                    model,
                    args,
                    kwargs or None,
                    dynamic_shapes=_dynamic(model, spec, sample.leaves, space, time),
                    strict=False,
                )
        except TooComplicated:
            raise
        except Exception as error:
            if of_this_machine(error):
                raise
            raise CaptureError(_explain(error), place_of(error)) from error
    # An export puts back what was assigned; a run without compute has seen it.
    kept = list(dict.fromkeys([*kept, *sample.noted.kept]))
    memories = leaves_behind(model, spec.spec, sample.leaves, kept) if kept else []
    own = [memory for memory in memories if _draws(model, memory.name)]
    numbers += [Drawn((m.name.rpartition(".")[0],), m.place.op) for m in own]
    return Exported(
        program,
        calls,
        lines.fixed,
        spelling.noted.count,
        questions,
        by_hand,
        numbers,
        frozenset(kept),
        [memory for memory in memories if memory not in own],
        frozenset(around.asked | sample.noted.asked),
        around.seeded,
        checks=lines.checks,
    )


def _clip_frames(questions: Questions, spec: ClipSpec) -> dict[Any, int]:
    """The symbols of the time axes, with the numbers of frames of the clip."""
    along = questions.along(spec.times)
    leaves = {s: leaf for s, (leaf, _) in questions.symbols.items() if s in along}
    return {s: spec.lengths[spec.paths.index(leaf)] for s, leaf in leaves.items()}


def _draws(model: nn.Module, name: str) -> bool:
    """Whether an attribute is a generator of random numbers of a module in train mode: it may be
    drawn from in each step, as those of Python are, where the module is called whole."""
    path, _, attribute = name.rpartition(".")
    if name.startswith((CLASS, GLOBAL)):
        return False
    module = model.get_submodule(path)
    return module.training and generator_state(vars(module).get(attribute)) is not None


def clip_nodes(program: Any, spec: ClipSpec) -> dict[int, fx.Node]:
    """The placeholders of the clip's tensors, by their number among its leaves; what is no tensor
    is written into the graph."""
    names = {x for x in program.graph_signature.user_inputs if isinstance(x, str)}
    nodes = [n for n in program.graph.nodes if n.op == "placeholder" and n.name in names]
    nodes = [n for n in nodes if isinstance(n.meta.get("val"), Tensor)]
    return dict(zip(spec.tensors, nodes, strict=True))


def is_fixed(size: Any) -> bool:
    """Whether a size of the capture is a number, also where it is written as an expression."""
    return isinstance(size, int) or not size.node.expr.free_symbols


def lenient_solver() -> contextlib.AbstractContextManager[None]:
    """Let the capture go on where sympy can't solve a condition on sizes.

    The solver only simplifies conditions for the messages of ``torch.export``; at which lengths
    the graph holds is found in :mod:`pgt_fx.capture.guards.length_guard`. sympy gives up on floors
    of floors, as strided pools make them.
    """

    def make(solve: Callable[[Any], None]) -> Callable[[Any], None]:
        def lenient(self: Any) -> None:
            with contextlib.suppress(NotImplementedError):
                solve(self)

        return lenient

    return SOLVER.replaced(make)


def pool_sizes_without_a_branch() -> contextlib.AbstractContextManager[None]:
    """Give the size of a pool that rounds up as one expression, true at every length: the lesser of
    the windows that there are when the last may be cut off, and those that begin before the end of
    the frames and the padding in front of them.
    """

    def make(plain: Callable[..., Any]) -> Callable[..., Any]:
        def size(
            length: Any, kernel: Any, before: Any, after: Any, stride: Any, dilation: Any, up: bool
        ) -> Any:
            if not up or not isinstance(length, torch.SymInt):
                return plain(length, kernel, before, after, stride, dilation, up)
            reach = dilation * (kernel - 1) + 1
            windows = (length + before + after - reach + stride - 1) // stride + 1
            return torch.sym_min(windows, (length + before - 1) // stride + 1)

        return size

    return POOL_SIZES.replaced(make)


def sizes_as_asked() -> contextlib.AbstractContextManager[None]:
    """Let a view have the sizes that it was asked for.

    Torch cuts a view's dimensions out of those of its operand, and what is left of one by a
    division: it is the same number, but another expression, out of which the next view makes a
    longer one.
    """

    def make(view: Callable[..., Any]) -> Callable[..., Any]:
        def as_asked(x: Any, *shape: Any, allow_copy: bool) -> Any:
            out = view(x, *shape, allow_copy=allow_copy)
            one = len(shape) == 1 and isinstance(shape[0], (list, tuple, torch.Size))
            asked = tuple(shape[0]) if one else shape
            inferred = any(isinstance(n, int) and n == -1 for n in asked)
            if inferred or [*map(expression, asked)] == [*map(expression, out.shape)]:
                return out
            if not x.is_contiguous():
                return out
            strides: list[Any] = [1]
            for n in reversed(asked[1:]):
                strides.insert(0, strides[0] * n)
            return torch.as_strided(out, asked, strides[: len(asked)])

        return as_asked

    return VIEWS.replaced(make)


def _explain(error: Exception) -> str:
    if draws_alone(error):
        return (
            "draws random numbers with a generator of its own, which a graph can't hold: draw them "
            "without generator=, or outside the model"
        )
    text = " ".join(str(error).split())
    return (
        f"torch.export could not capture the model: {type(error).__name__}: {text[:600]}\n"
        "What the model does in Python with values or sizes of tensors has to be written with "
        "tensor operators, or the part that stands in the way left outside the model."
    )


def _dynamic(
    model: nn.Module, spec: ClipSpec, sample: Sequence[Any], space: bool, time: bool
) -> dict[str, Any]:
    """``dynamic_shapes`` for the export: every axis of a video but the channels may vary, its space
    only with ``space``, its frames only with ``time``."""
    first = spec.paths[0]
    rows = sample[first].shape[0]
    leaves: list[Any] = []
    for i, leaf in enumerate(sample):
        if not isinstance(leaf, Tensor):
            leaves.append(None)
            continue
        at = spec.times[i]
        if at is None:
            leaves.append({0: Dim.AUTO} if leaf.dim() and leaf.shape[0] == rows else None)
            continue
        dims = {0: Dim.AUTO} | ({at: Dim.AUTO} if time else {})
        if leaf.dim() == 5 and space:
            dims |= {3: Dim.AUTO, 4: Dim.AUTO}
        leaves.append(dims)
    args, kwargs = pytree.tree_unflatten(leaves, spec.spec)
    out: dict[str, Any] = {}
    given = list(args)
    for name, parameter in inspect.signature(model.forward).parameters.items():
        rest = {k: v for k, v in kwargs.items() if k not in out}
        if parameter.kind is parameter.VAR_POSITIONAL:
            out |= {name: tuple(given)} if given else {}
        elif parameter.kind is parameter.VAR_KEYWORD:
            out |= {name: rest} if rest else {}
        elif given and parameter.kind is not parameter.KEYWORD_ONLY:
            out[name] = given.pop(0)
        elif name in kwargs:
            out[name] = kwargs[name]
    return out
