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

from pgt_fx.capture.inputs import ClipSpec, axis_hint, resized
from pgt_fx.capture.lines import OURS, place_of, short, watching
from pgt_fx.capture.probe import clip_pools, probe, quiet, unchanged
from pgt_fx.capture.spelling import Spelling
from pgt_fx.errors import CaptureError, Place


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

    def has_time(self, size: Any) -> bool:
        """Whether a size depends on the length of the video."""
        if not isinstance(size, (torch.SymInt, torch.SymFloat)):
            return False
        return bool(size.node.expr.free_symbols & self.time_symbols)


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
    sample, numbers = _sizes(model, spec, leaves, pools)
    program, calls, fixed = _export(model, spec, sample, numbers)
    if _space_fixed(program, spec, leaves, sample):
        # An operator holds the space fixed: then at the clip's size, not at the sample's.
        sample, numbers = _sizes(model, spec, leaves, pools, wide=False)
        program, calls, fixed = _export(model, spec, sample, numbers)
    return _captured(program, model, spec, calls, tuple(numbers), fixed)


def _export(
    model: nn.Module, spec: ClipSpec, sample: Sequence[Any], numbers: Sequence[int]
) -> tuple[Any, dict[str, ModuleCall], Place | None]:
    """The exported program, its module calls, and the call that fixed the number of frames."""
    args, kwargs = pytree.tree_unflatten(list(sample), spec.spec)
    with (
        quiet(),
        unchanged(model),
        warnings.catch_warnings(),
        _recorded(model) as calls,
        watching(model, spec.times) as lines,
        Spelling(numbers),
    ):
        warnings.simplefilter("ignore")
        try:
            with _lenient_solver():
                program = torch.export.export(
                    model,
                    args,
                    kwargs or None,
                    dynamic_shapes=_dynamic(model, spec, sample),
                    strict=False,
                )
        except Exception as error:
            raise CaptureError(_explain(error), place_of(error)) from error
    return program, calls, lines.fixed


def _space_fixed(
    program: Any, spec: ClipSpec, leaves: Sequence[Any], sample: Sequence[Any]
) -> bool:
    """Whether the capture fixed an axis at a size that is not the clip's."""
    users = [n for n in program.graph.nodes if n.name in program.graph_signature.user_inputs]
    for leaf, node in enumerate(users):
        value = node.meta.get("val")
        if spec.times[leaf] is None or not isinstance(value, Tensor):
            continue
        for d, s in enumerate(value.shape):
            wide = sample[leaf].shape[d] != leaves[leaf].shape[d]
            if d not in (0, spec.times[leaf]) and wide and is_fixed(s):
                return True
    return False


def is_fixed(size: Any) -> bool:
    """Whether a size of the capture is a number, also where it is written as an expression."""
    return isinstance(size, int) or not size.node.expr.free_symbols


@contextlib.contextmanager
def _lenient_solver() -> Iterator[None]:
    """Let the capture go on where sympy can't solve a condition on sizes.

    The solver only simplifies conditions for the messages of ``torch.export``; whether the graph
    holds at other lengths is checked here (:func:`_refuse_branches`). sympy gives up on floors of
    floors, as strided pools make them.
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


def _sizes(
    model: nn.Module, spec: ClipSpec, leaves: Sequence[Any], pools: str, *, wide: bool = True
) -> tuple[list[Any], list[int]]:
    """A sample to capture at: longer and wider than the clip, so that no size collapses to 1."""
    two_paths = len(spec.paths) > 1
    stretches = (
        [lambda t: 3 * t, lambda t: 4 * t]
        if two_paths
        else [
            lambda t: 2 * t + 3,
            lambda t: 4 * t,
        ]
    )
    at_clip = None
    error: Exception | None = None
    for stretch in stretches:
        for widen in (lambda s: 2 * s, lambda s: s) if wide else (lambda s: s,):
            sample = resized(spec, leaves, batch=2, time=stretch, space=widen)
            run = probe(model, spec.spec, sample)
            if run.error is None and pools != "global":
                return sample, []
            error = run.error or error
            if not run.pools and run.error is None:
                return sample, []  # "global", and there is no pool to take so
            if pools == "window" or not run.pools:
                continue
            if at_clip is None:
                at_clip = probe(model, spec.spec, list(leaves))
                if at_clip.error is not None:
                    raise CaptureError(
                        f"the model does not run on its example clip: {at_clip.error}",
                        place_of(at_clip.error),
                    ) from at_clip.error
            numbers = clip_pools(at_clip.pools, run.pools)
            if numbers and probe(model, spec.spec, sample, numbers).error is None:
                return sample, numbers
            if run.error is None:
                return sample, []
    if probe(model, spec.spec, list(leaves)).error is not None:
        raise CaptureError(
            f"the model does not run on its example clip: {error}", place_of(error)
        ) from error
    lengths = ", ".join(str(tuple(s(t) for t in spec.lengths)) for s in stretches)
    raise CaptureError(
        f"the model runs at {spec.lengths} frames and at no other length tried ({lengths}): "
        f"{type(error).__name__}: {' '.join(str(error).split())[:300]}\n"
        "A table, a layer or a reshape in it has one entry per frame of the clip. Pass the part of "
        "the model in front of it, or replace it by one that takes any length." + axis_hint(spec),
        place_of(error),
    ) from error


def _dynamic(model: nn.Module, spec: ClipSpec, sample: Sequence[Any]) -> dict[str, Any]:
    """``dynamic_shapes`` for the export: every axis of a video but the channels may vary."""
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
        if leaf.dim() == 5:
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
    users = [
        n
        for n in program.graph.nodes
        if n.op == "placeholder" and n.name in set(signature.user_inputs)
    ]
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
    _refuse_branches(program, frozenset(symbols), tuple(lengths))
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
    )


def _refuse_branches(program: Any, symbols: frozenset[sympy.Symbol], sample: Sequence[int]) -> None:
    """Refuse a graph for which the model's Python compared the length of the video.

    Conditions that torch itself asks while capturing (how a ceil-mode window falls, whether a
    size is 1) don't bind the rules here, which compute every length anew. A condition asked by
    the model's own code chose the branch that was captured, and another one for other lengths.

    Raises:
        CaptureError: naming the condition and the line.
    """
    values = [n.meta.get("val") for n in program.graph.nodes if n.op == "placeholder"]
    shapes: list[Any] = [s for v in values if isinstance(v, Tensor) for s in v.shape]
    sizes = [s for s in shapes if isinstance(s, torch.SymInt)]
    if not sizes:
        return
    env: Any = sizes[0].node.shape_env
    table = getattr(env, "backed_var_to_val", None) or env.var_to_val  # renamed within torch 2
    least = min(sample)
    for guard in env.guards:
        expr: Any = guard.expr
        frame: Any = getattr(guard.sloc, "framework_loc", None)
        if not isinstance(expr, sympy.Basic) or not (expr.free_symbols & symbols):
            continue
        file = getattr(frame, "filename", "")
        line = (getattr(frame, "line", "") or "").strip()
        if not file or file.startswith(OURS) or line.startswith("assert"):
            continue
        for n in (*range(1, 2 * least), 3 * least, 7 * least):
            at = {
                s: sympy.Integer(int(v)) * (sympy.Rational(n, least) if s in symbols else 1)
                for s, v in table.items()
            }
            if expr.xreplace(at) == sympy.false:
                where = f"{short(file)}:{frame.lineno}"
                raise CaptureError(
                    f"{where}: {line}\n    the model branches in Python on the number of frames "
                    f"({expr} held in the capture, and does not at {n} frames), so that no one "
                    "graph is the model. Write the branch with tensor operators, or leave it "
                    "outside the model"
                )
