"""Capture: ``torch.export`` with symbolic batch, time and space, as a graph of ATen operators.

An axis whose size contains the time symbol is time; everything else the analysis follows by its
rules and checks against these sizes.
"""

from __future__ import annotations

import contextlib
import inspect
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import sympy
import torch
import torch.fx.experimental.symbolic_shapes
from torch import Tensor, fx, nn
from torch.export import Dim
from torch.utils import _pytree as pytree

from pgt_fx.capture.inputs import ClipSpec
from pgt_fx.capture.lengths import Lengths, allowed_lengths, known_sizes
from pgt_fx.capture.lines import OURS, place_of, short, watching
from pgt_fx.capture.probe import quiet, unchanged
from pgt_fx.capture.sample import Sample, find_sample
from pgt_fx.capture.spelling import Spelling, TooComplicated
from pgt_fx.errors import CaptureError, Place

#: Operations in the expression of a size at which the capture goes on without symbolic space. Those
#: of convolutional backbones have up to 5; a shifted-window transformer comes to hundreds, and to
#: minutes of arithmetic on them.
LONGEST_SIZE = 40


@dataclass(frozen=True)
class ModuleCall:
    """One call of a submodule, as a hook saw it: whether it maps one tensor to one tensor."""

    path: str
    one_to_one: bool


@dataclass
class Captured:
    """The captured graph of one mode (train or eval) of a model.

    Attributes:
        graph: fx graph of ATen operators; every node's ``meta["val"]`` has symbolic sizes.
        tensors: placeholder name -> attribute path in the model, for parameters and buffers.
        constants: placeholder name -> tensor made in forward and lifted by the capture.
        inputs: placeholder name -> leaf of the clip.
        out_spec: pytree of the model's output.
        calls: key of the module stack -> what a hook saw of that call.
        time_symbols: the symbols in the sizes of the inputs' time axes.
        global_pools: numbers of the pools that were taken to mean "pool the clip".
        training: the mode.
        fixed: input path -> dimension -> size that the capture fixed (channels; sometimes space).
        lengths: of the whole videos for which the graph is the model.
        typed: whether a floating-point type is written in the graph, as that of the weights may be.
        dtype: of the weights when it was captured.
    """

    graph: fx.Graph
    tensors: dict[str, str]
    constants: dict[str, Tensor]
    inputs: dict[str, int]
    out_spec: Any
    calls: dict[str, ModuleCall]
    time_symbols: frozenset[sympy.Symbol]
    global_pools: tuple[int, ...]
    training: bool
    fixed: dict[int, dict[int, int]] = field(default_factory=dict)
    lengths: Lengths = field(default_factory=Lengths)
    typed: bool = False
    dtype: torch.dtype | None = None
    _timed: dict[Any, bool] = field(default_factory=dict, repr=False)

    def has_time(self, size: Any) -> bool:
        """Whether a size depends on the length of the video (``T // (T // 2)`` does not)."""
        if not isinstance(size, (torch.SymInt, torch.SymFloat)):
            return False
        expr: Any = size.node.expr
        if expr not in self._timed:
            found = expr.free_symbols & self.time_symbols
            table = known_sizes(size) if found else {}
            values = {
                expr.xreplace({s: v + (more if s in found else 0) for s, v in table.items()})
                for more in (0, 48, 96)
                if found
            }
            self._timed[expr] = len(values) > 1
        return self._timed[expr]


def capture(
    model: nn.Module, spec: ClipSpec, leaves: Sequence[Any], pools: str = "auto"
) -> Captured:
    """Capture ``model`` on clips like the example.

    Args:
        spec, leaves: structure and tensors of an example clip.
        pools: ``clip_pools`` option: "auto" | "window" | "global".

    Raises:
        CaptureError: when the model doesn't run, or runs at the clip's length alone.
    """
    try:
        return _capture(model, spec, leaves, pools)
    except CaptureError:
        if len(spec.paths) > 1:
            raise
        # Perhaps it takes lengths of one form only (4n + 1): then at one of the clip's form.
        with contextlib.suppress(CaptureError):
            return _capture(model, spec, leaves, pools, like_clip=True)
        raise


def _capture(
    model: nn.Module, spec: ClipSpec, leaves: Sequence[Any], pools: str, like_clip: bool = False
) -> Captured:
    sample = find_sample(model, spec, leaves, pools, like_clip=like_clip)
    try:
        program, calls, fixed = _export(model, spec, sample, limit=LONGEST_SIZE)
    except TooComplicated:  # windows of a fixed size, padded to: space is then the clip's
        sample = find_sample(model, spec, leaves, pools, wide=False, like_clip=like_clip)
        program, calls, fixed = _export(model, spec, sample, space=False)
    if _space_fixed(program, spec, leaves, sample.leaves):
        # An operator holds the space fixed: then at the clip's size, not at the sample's.
        sample = find_sample(model, spec, leaves, pools, wide=False, like_clip=like_clip)
        program, calls, fixed = _export(model, spec, sample)
    return _captured(program, model, spec, calls, sample.pools, fixed)


def _export(
    model: nn.Module,
    spec: ClipSpec,
    sample: Sample,
    *,
    space: bool = True,
    limit: int | None = None,
) -> tuple[Any, dict[str, ModuleCall], Place | None]:
    """The exported program, its module calls, and the call that fixed the number of frames."""
    args, kwargs = pytree.tree_unflatten(list(sample.leaves), spec.spec)
    with (
        quiet(),
        unchanged(model),
        warnings.catch_warnings(),
        _recorded(model) as calls,
        watching(model, spec.times, Spelling(sample.pools, sample.tables, limit)) as lines,
    ):
        warnings.simplefilter("ignore")
        try:
            with _lenient_solver():
                program = torch.export.export(
                    model,
                    args,
                    kwargs or None,
                    dynamic_shapes=_dynamic(model, spec, sample.leaves, space),
                    strict=False,
                )
        except TooComplicated:
            raise
        except Exception as error:
            raise CaptureError(_explain(error), place_of(error)) from error
    return program, calls, lines.fixed


def _space_fixed(
    program: Any, spec: ClipSpec, leaves: Sequence[Any], sample: Sequence[Any]
) -> bool:
    """Whether the capture fixed an axis at a size that is not the clip's."""
    for leaf, node in enumerate(_clip_nodes(program)):
        value = node.meta.get("val")
        if spec.times[leaf] is None or not isinstance(value, Tensor):
            continue
        for d, s in enumerate(value.shape):
            wide = sample[leaf].shape[d] != leaves[leaf].shape[d]
            if d not in (0, spec.times[leaf]) and wide and is_fixed(s):
                return True
    return False


def _clip_nodes(program: Any) -> list[fx.Node]:
    """The placeholders of the clip's leaves, in order."""
    names = set(program.graph_signature.user_inputs)
    return [n for n in program.graph.nodes if n.op == "placeholder" and n.name in names]


def is_fixed(size: Any) -> bool:
    """Whether a size of the capture is a number, also where it is written as an expression."""
    return isinstance(size, int) or not size.node.expr.free_symbols


@contextlib.contextmanager
def _lenient_solver() -> Iterator[None]:
    """Let the capture go on where sympy can't solve a condition on sizes.

    The solver only simplifies conditions for the messages of ``torch.export``; at which lengths
    the graph holds is found in :mod:`pgt_fx.capture.lengths`. sympy gives up on floors of floors,
    as strided pools make them.
    """
    constraints = torch.fx.experimental.symbolic_shapes.DimConstraints
    solve = constraints.solve

    def lenient(self: Any) -> None:
        with contextlib.suppress(NotImplementedError):
            solve(self)

    constraints.solve = lenient  # type: ignore[method-assign]
    try:
        yield
    finally:
        constraints.solve = solve  # type: ignore[method-assign]


def _explain(error: Exception) -> str:
    text = " ".join(str(error).split())
    return (
        f"torch.export could not capture the model: {type(error).__name__}: {text[:600]}\n"
        "What the model does in Python with values or sizes of tensors has to be written with "
        "tensor operators, or the part that stands in the way left outside the model."
    )


def _dynamic(
    model: nn.Module, spec: ClipSpec, sample: Sequence[Any], space: bool = True
) -> dict[str, Any]:
    """``dynamic_shapes`` for the export: every axis of a video but the channels may vary, its space
    only with ``space``."""
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
        dims = {0: Dim.AUTO, at: Dim.AUTO}
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


@contextlib.contextmanager
def _recorded(model: nn.Module) -> Iterator[dict[str, ModuleCall]]:
    """Hooks every module call; keys are those of the module stack in node metadata."""
    paths = {id(module): name for name, module in model.named_modules()}
    count: dict[str, int] = {}
    calls: dict[str, ModuleCall] = {}

    def before(module: nn.Module, args: Any) -> None:
        path = paths.get(id(module))
        if path is not None:
            stack.append(_key(path, count.get(path, 0)))
            count[path] = count.get(path, 0) + 1

    def after(module: nn.Module, args: Any, kwargs: Any, out: Any) -> None:
        path = paths.get(id(module))
        if path is not None and stack:
            plain = len(args) == 1 and not kwargs and isinstance(args[0], Tensor)
            calls[stack.pop()] = ModuleCall(path, plain and isinstance(out, Tensor))

    stack: list[str] = []
    hooks = [
        nn.modules.module.register_module_forward_pre_hook(before),
        nn.modules.module.register_module_forward_hook(after, with_kwargs=True),
    ]
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()


def _key(path: str, number: int) -> str:
    return f"{path}@{number}" if number else path


def call_stack(node: fx.Node) -> list[str]:
    """Keys of the module calls around a node, outermost first, the model itself left out."""
    out = []
    for key, (path, _) in node.meta.get("nn_module_stack", {}).items():
        if not path:
            continue
        number = key.rsplit("@", 1)[1] if "@" in key else ""
        out.append(f"{path}@{number}" if number else path)
    return out


def module_path(node: fx.Node) -> str:
    """Path of the innermost module whose forward made the node."""
    stack = list(node.meta.get("nn_module_stack", {}).values())
    return stack[-1][0] if stack else ""


def place(node: fx.Node) -> Place:
    """Operator, module and source line of a node; torch's own frames are passed over."""
    name = str((getattr(node.target, "_schema", None) and node.target._schema.name) or node.target)  # type: ignore[union-attr]
    frames = [part for part in (node.meta.get("stack_trace") or "").split("File ") if part.strip()]
    for frame in reversed(frames):
        head, _, line = frame.partition("\n")
        file, _, rest = head.strip().strip('"').partition('", line ')
        if file.startswith(OURS):
            continue
        number = rest.split(",")[0]
        return Place(
            name.replace("::", "."),
            module_path(node),
            f"{short(file)}:{number}",
            line.strip(),
        )
    return Place(name.replace("::", "."), module_path(node))


def _captured(
    program: Any,
    model: nn.Module,
    spec: ClipSpec,
    calls: dict[str, ModuleCall],
    numbers: tuple[int, ...],
    fixed_by: Place | None,
) -> Captured:
    signature = program.graph_signature
    tensors = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    constants = {
        name: program.constants[target]
        for name, target in signature.inputs_to_lifted_tensor_constants.items()
    }
    users = _clip_nodes(program)
    inputs = {node.name: i for i, node in enumerate(users)}
    symbols: set[sympy.Symbol] = set()
    sizes: dict[int, dict[int, int]] = {}
    lengths = []
    fixed = []
    for node in users:
        at = spec.times[inputs[node.name]]
        value: Any = node.meta["val"]
        if at is None or not isinstance(value, Tensor):
            continue
        length: Any = value.shape[at]
        sizes[len(sizes)] = {
            d: int(s) for d, s in enumerate(value.shape) if d not in (0, at) and is_fixed(s)
        }
        if is_fixed(length):
            fixed.append(int(length))
            lengths.append(int(length))
        else:
            symbols |= length.node.expr.free_symbols
            lengths.append(int(length.node.hint))
    if fixed:
        raise CaptureError(
            f"the captured graph holds the number of frames fixed at {fixed[0]}: "
            f"{'this line' if fixed_by else 'some operator of the model'} takes the frames apart "
            "one by one, compares their number with a constant, or reshapes by it. Pass the part "
            "of the model in front of it, or make it take any length.",
            fixed_by,
        )
    allowed = allowed_lengths(program, frozenset(symbols), lengths, min(spec.lengths))
    return Captured(
        graph=program.graph_module.graph,
        tensors=tensors,
        constants=constants,
        inputs=inputs,
        out_spec=program.call_spec.out_spec,
        calls=calls,
        time_symbols=frozenset(symbols),
        global_pools=numbers,
        training=model.training,
        fixed=sizes,
        lengths=allowed,
        typed=_names_a_type(program.graph_module.graph),
    )


def _names_a_type(graph: fx.Graph) -> bool:
    leaves = (x for n in graph.nodes for x in pytree.tree_leaves((n.args, n.kwargs)))
    return any(isinstance(x, torch.dtype) and x.is_floating_point for x in leaves)
