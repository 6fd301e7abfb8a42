"""Rewrite and emit: the captured graph becomes the graph of one step.

Temporal operators become Markov operators with a named state slot, joins get aligners, module
calls that mix no time become calls of the user's own modules; the rest stays.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn

from pgt_fx.analysis import Analysis, Operation, Value
from pgt_fx.capture.export import module_path, place
from pgt_fx.capture.fold import Region, fold
from pgt_fx.layout import axis_of, time_dims
from pgt_fx.markov.align import MarkovAlign
from pgt_fx.markov.head import MarkovHead
from pgt_fx.markov.pool import MarkovPool
from pgt_fx.markov.template import Hole, Template
from pgt_fx.markov.window import MarkovWindow
from pgt_fx.options import Options
from pgt_fx.plan import AlignItem, Item, Node, PoolItem, Schedulable, WindowItem
from pgt_fx.rules import Local, Reduced, StepOnly, Windowed
from pgt_fx.rules.shift import SpacePad
from pgt_fx.timeline import Clock, JoinClock, same

STEP = "step"


@dataclass
class Emitted:
    """The graph of one step, with what is needed to plan and to run it.

    Attributes:
        graph: fx graph; ``self`` in its code is the user's model with a ``markov`` module added.
        markov: the Markov operators by attribute name.
        schedulable: for :func:`pgt_fx.plan.plan`.
        notes: node name -> what to print beside it.
        outputs: per output of the model, the time dimension (None without one).
        origin: slot -> captured node whose elements it carries.
        owner: slot -> name of the captured node that it serves.
        constants: tensors lifted by the capture, by attribute name.
        made: node of the graph -> captured node whose value it gives.
    """

    graph: fx.Graph
    markov: dict[str, nn.Module] = field(default_factory=dict)
    schedulable: Schedulable = field(default_factory=Schedulable)
    notes: dict[str, str] = field(default_factory=dict)
    outputs: list[int | None] = field(default_factory=list)
    origin: dict[str, fx.Node] = field(default_factory=dict)
    owner: dict[str, str] = field(default_factory=dict)
    constants: dict[str, Tensor] = field(default_factory=dict)
    made: dict[str, str] = field(default_factory=dict)


def emit(analysis: Analysis, options: Options, markov_name: str) -> Emitted:
    """Rewrite the captured graph into the graph of one step under ``options``.

    Args:
        markov_name: attribute under which the Markov operators will stand beside the model's own
            children.
    """
    return _Emitter(analysis, options, markov_name).run()


class _Emitter:
    def __init__(self, analysis: Analysis, options: Options, markov_name: str) -> None:
        self.analysis, self.options, self.markov_name = analysis, options, markov_name
        self.captured = analysis.captured
        self.out = Emitted(fx.Graph())
        self.env: dict[fx.Node, Any] = {}
        self.slots: set[str] = set()
        self.regions = fold(self.captured, self._foldable)

    def run(self) -> Emitted:
        graph = self.out.graph
        self.step = graph.placeholder(STEP)
        self.leaves = {}
        for node in self.captured.graph.nodes:
            if node.op == "placeholder" and node.name in self.captured.inputs:
                self.leaves[node] = self.env[node] = graph.placeholder(node.name)
        for node in self.captured.graph.nodes:
            if node.op == "call_function":
                self._visit(node)
        self._output()
        graph.eliminate_dead_code(is_impure_node=self._stateful)
        graph.lint()
        self._schedule()
        known = {n.name for n in graph.nodes}
        made = {new.name: node.name for node, new in self.env.items()}
        self.out.made = {new: old for new, old in made.items() if new in known}
        return self.out

    def _foldable(self, node: fx.Node) -> bool:
        operation = self.analysis.operations.get(node.name)
        if operation is None:
            return True  # no operand has time
        if operation.joins or "pgt_written" in node.meta:
            return False
        if isinstance(operation.outcome, Reduced):
            # A pool over the clip that is taken over all time is not what its module computes.
            return self.options.pooling == "step" and not self.captured.global_pools
        return isinstance(operation.outcome, (Local, StepOnly))

    def _visit(self, node: fx.Node) -> None:
        region = self.regions.get(node)
        if region is not None:
            if node is region.result:
                self._call_module(node, region)
            return
        operation = self.analysis.operations.get(node.name)
        if operation is None:
            self._copy(node)
        elif isinstance(operation.outcome, Windowed):
            self._window(node, operation, operation.outcome)
        elif isinstance(operation.outcome, Reduced):
            self._reduce(node, operation, operation.outcome)
        else:
            self._local(node, operation)

    # -- names ---------------------------------------------------------------------------------

    def _label(self, node: fx.Node) -> str:
        """A dotted name that the user recognises: the module, and the operator where needed."""
        path = module_path(node)
        op = place(node).op.removeprefix("aten.").rstrip("_")
        module = self._leaf(path)
        return path if path and module else f"{path}.{op}" if path else op

    def _leaf(self, path: str) -> bool:
        return path in self._leaves_of_model()

    def _leaves_of_model(self) -> frozenset[str]:
        if not hasattr(self, "_leaf_paths"):
            paths = {c.path for c in self.captured.calls.values()}
            inner = {p.rsplit(".", 1)[0] for p in paths if "." in p}
            self._leaf_paths = frozenset(paths - inner)
        return self._leaf_paths

    def _slot(self, label: str) -> str:
        slot, number = label, 2
        while slot in self.slots:
            slot, number = f"{label}#{number}", number + 1
        self.slots.add(slot)
        return slot

    # -- nodes ---------------------------------------------------------------------------------

    def _get(self, node: fx.Node) -> Any:
        """The new node for an operand; parameters are fetched from the model where first used."""
        if node in self.env:
            return self.env[node]
        if node.name in self.captured.tensors:
            target = self.captured.tensors[node.name]
        else:
            target = f"{self.markov_name}.constants.{node.name}"
            self.out.constants[node.name] = self.captured.constants[node.name]
        self.env[node] = self.out.graph.create_node("get_attr", target, name=_identifier(target))
        return self.env[node]

    def _map(self, value: Any) -> Any:
        return fx.map_arg(value, self._get)

    def _copy(self, node: fx.Node) -> None:
        args, kwargs = self._map(node.args), dict(self._map(node.kwargs))
        if isinstance(kwargs.get("device"), torch.device):
            # A buffer made in forward lives where the clip does, not where it was captured.
            clip = next(iter(self.leaves.values()))
            kwargs["device"] = self.out.graph.call_function(getattr, (clip, "device"))
        self.env[node] = self.out.graph.create_node(
            "call_function", node.target, args, kwargs, name=node.name
        )

    def _call_module(self, node: fx.Node, region: Region) -> None:
        new = self.out.graph.create_node(
            "call_module", region.path, (self._get(region.source),), name=_identifier(region.path)
        )
        self.env[node] = new

    def _local(self, node: fx.Node, operation: Operation) -> None:
        aligned = self._aligned(node, operation)
        args, kwargs = _arguments(node, getattr(operation.outcome, "args", {}))
        self._new_call(node, node.target, args, kwargs, aligned)

    def _new_call(
        self, node: fx.Node, target: Any, args: Any, kwargs: Any, aligned: dict[fx.Node, fx.Node]
    ) -> None:
        def mapped(n: fx.Node) -> Any:
            return aligned.get(n) or self._get(n)

        self.env[node] = self.out.graph.create_node(
            "call_function",
            target,
            fx.map_arg(tuple(args), mapped),
            fx.map_arg(kwargs, mapped),
            name=node.name,
        )

    def _aligned(self, node: fx.Node, operation: Operation) -> dict[fx.Node, fx.Node]:
        """Aligners for the operands of a join, where they can have anything to do."""
        out: dict[fx.Node, fx.Node] = {}
        if operation.joined is None:
            return out
        for operand in operation.joins:
            if operand in out:
                continue
            clock = self.analysis.value(operand).clock
            if clock is None or same(clock, operation.joined, self.analysis.spec.ratio):
                continue
            slot = self._slot(f"{self._label(node)}.held")
            out[operand] = self._align(operand, clock, operation.joined, slot)
            self.out.owner[slot] = node.name
        return out

    def _align(self, operand: fx.Node, clock: Clock, joined: Clock, slot: str) -> fx.Node:
        module = MarkovAlign(slot, self.analysis.axis(operand))
        self.out.origin[slot] = operand
        return self._markov(module, slot, (self._get(operand),), AlignItem(clock, joined))

    def _markov(self, module: nn.Module, slot: str, args: tuple[Any, ...], item: Item) -> fx.Node:
        name = _identifier(slot)
        while name in self.out.markov:
            name += "_"
        self.out.markov[name] = module
        self.out.schedulable.items[slot] = item
        return self.out.graph.create_node(
            "call_module", f"{self.markov_name}.{name}", (self.step, *args), name=name
        )

    def _window(self, node: fx.Node, operation: Operation, outcome: Windowed) -> None:
        source = self.analysis.streams(node)[0]
        clock = self.analysis.value(source).clock
        value = operation.value
        if clock is None or not isinstance(value, Value) or value.clock is None:
            raise AssertionError("a window without a clock")
        args, kwargs = _arguments(node, outcome.args)
        if isinstance(outcome.call, SpacePad):
            args, kwargs = [source], {}
        call, others = _template(outcome.call or node.target, args, kwargs, source)
        slot = self._slot(self._label(node))
        layout = value.layout or ()
        module = MarkovWindow(
            slot,
            call,
            self.analysis.axis(source),
            time_dims(layout, 1)[0],
            outcome.law,
            fill=outcome.fill,
            mode=outcome.mode,
            what=outcome.what,
            markov=self.options.markov,
        )
        inputs = (self._get(source), *(self._get(n) for n in others))
        item = WindowItem(outcome.law, clock, value.clock, outcome.mean)
        self.out.origin[slot], self.out.owner[slot] = source, node.name
        new = self._markov(module, slot, inputs, item)
        self.env[node] = new
        self.out.notes[new.name] = _note(node, outcome.what)

    def _reduce(self, node: fx.Node, operation: Operation, outcome: Reduced) -> None:
        aligned = self._aligned(node, operation)
        args, kwargs = _arguments(node, {})
        source = _argument(node, outcome.source)
        pooling = self.options.pooling
        if pooling == "step" or (pooling == "markov" and outcome.how in ("first", "last")):
            self._new_call(node, node.target, args, kwargs, aligned)
            self.out.notes[self.env[node].name] = _note(node, f"{outcome.what}: of this step")
            return
        clock = operation.joined or self.analysis.value(source).clock
        if clock is None:
            raise AssertionError("a reduction without a clock")
        slot = self._slot(self._label(node))
        call, others = _template(node.target, args, kwargs, source)
        module: nn.Module
        if pooling == "markov":
            module = MarkovHead(slot, call, self.analysis.axis(source), self.options.markov)
        else:
            correction = float(outcome.options.get("correction", 1.0))
            dims, keepdim = outcome.dims, outcome.keepdim
            module = MarkovPool(slot, outcome.how, call, dims, keepdim, correction)
        extras = (self._get(n) for n in others)
        inputs = (aligned.get(source) or self._get(source), *extras)
        self.out.origin[slot] = source if pooling == "markov" else node
        self.out.owner[slot] = node.name
        new = self._markov(module, slot, inputs, PoolItem(clock, pooling == "running"))
        self.env[node] = new
        which = "so far" if pooling == "running" else "of this step, beside one of the past"
        self.out.notes[new.name] = _note(node, f"{outcome.what}: {which}")

    def _output(self) -> None:
        results: list[Any] = []
        ratio = self.analysis.spec.ratio
        for number, item in enumerate(self.analysis.outputs):
            if not isinstance(item, fx.Node):
                results.append(item)
                self.out.outputs.append(None)
                continue
            value = self.analysis.value(item)
            new = self._get(item)
            if value.clock is not None:
                joined = JoinClock((value.clock,), commit=True)
                if not same(value.clock, joined, ratio):
                    slot = self._slot(f"output{number or ''}.held")
                    new = self._align(item, value.clock, joined, slot)
            layout = value.layout or ()
            self.out.outputs.append(axis_of(layout).dim if value.clock is not None else None)
            results.append(new)
        self.out.graph.output(tuple(results))

    # -- plan ----------------------------------------------------------------------------------

    def _stateful(self, node: fx.Node) -> bool:
        """Nodes that must stay though nothing reads them: writes into the model's own buffers."""
        schema = getattr(node.target, "_schema", None)
        return node.op in ("placeholder", "output") or bool(schema and schema.is_mutable)

    def _schedule(self) -> None:
        prefix = f"{self.markov_name}."
        for node in self.out.graph.nodes:
            if node.op not in ("call_module", "call_function"):
                continue
            slot = None
            if node.op == "call_module" and node.target.startswith(prefix):
                slot = str(self.out.markov[node.target.removeprefix(prefix)].slot)
            inputs = tuple(n.name for n in node.all_input_nodes if n is not self.step)
            self.out.schedulable.nodes.append(Node(node.name, inputs, slot))


def _template(call: Any, args: Any, kwargs: Any, source: fx.Node) -> tuple[Template, list[fx.Node]]:
    """The operator with holes for its operands, and the operands besides ``source``."""
    others: list[fx.Node] = []

    def hole(n: fx.Node) -> Any:
        if n is source:
            return Hole(0)
        if n not in others:
            others.append(n)
        return Hole(others.index(n) + 1)

    filled = fx.map_arg(tuple(args), hole)
    named = fx.map_arg(kwargs, hole)
    return Template(call, tuple(filled), tuple(named.items())), others


def _identifier(path: str) -> str:
    text = "".join(c if c.isalnum() else "_" for c in path).strip("_")
    return f"_{text}" if text[:1].isdigit() else text


def _argument(node: fx.Node, name: str) -> Any:
    for position, argument in enumerate(node.target._schema.arguments):  # type: ignore[union-attr]
        if argument.name == name:
            if position < len(node.args) and not argument.kwarg_only:
                return node.args[position]
            return node.kwargs.get(name)
    raise KeyError(name)


def _arguments(node: fx.Node, changes: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """Arguments of a call with some changed, positional as far as the schema allows."""
    args: list[Any] = list(node.args)
    kwargs = dict(node.kwargs)
    for position, argument in enumerate(node.target._schema.arguments):  # type: ignore[union-attr]
        if argument.name not in changes:
            continue
        value = changes[argument.name]
        if argument.kwarg_only or argument.name in kwargs:
            kwargs[argument.name] = value
            continue
        while len(args) <= position:
            args.append(node.target._schema.arguments[len(args)].default_value)  # type: ignore[union-attr]
        args[position] = value
    return args, kwargs


def _note(node: fx.Node, what: str) -> str:
    where = place(node)
    source = f"{where.source}  {where.line}  | " if where.source else ""
    return f"{source}{what}"
