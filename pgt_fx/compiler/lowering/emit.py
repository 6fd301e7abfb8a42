"""Rewrite and emit: the captured graph becomes the graph of one step.

Temporal operators become Markov operators with a named state slot, joins get aligners, module
calls that mix no time become calls of the user's own modules; the rest stays.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn

from pgt_fx.capture.observe.clip_table_op import clip_rows
from pgt_fx.capture.observe.module_calls import place
from pgt_fx.capture.observe.recurrent_op import run_layers
from pgt_fx.capture.passes.expand_like import grown
from pgt_fx.compiler.analysis.attention_memory import memory_size, remembers, table_memory
from pgt_fx.compiler.analysis.length_tables import table_graph
from pgt_fx.compiler.analysis.walk import REMEDY, Analysis, Operation, Value
from pgt_fx.compiler.lowering.call_arguments import (
    argument,
    arguments,
    listed,
    size_of_clip,
    template,
    with_memories,
)
from pgt_fx.compiler.lowering.fold_modules import Region, called_whole, fold
from pgt_fx.compiler.lowering.refuse_unrepresentable import check_by_hand, check_drawn
from pgt_fx.compiler.lowering.retiming import late
from pgt_fx.compiler.lowering.share_state import share
from pgt_fx.core.clock_equality import same
from pgt_fx.core.clocks import Clock, JoinClock
from pgt_fx.core.counts import counted
from pgt_fx.core.devices import follow_the_clip, in_any_layout
from pgt_fx.core.errors import BlockedError, Blocker, CaptureError
from pgt_fx.core.layout import LayoutError, axis_of, time_dims
from pgt_fx.core.options import Options
from pgt_fx.core.torch_private import schema_if_any
from pgt_fx.rules import Concatenated, Local, Reduced, Scanned, StepOnly, Windowed
from pgt_fx.rules.registry import Refusal, SizeAtHand
from pgt_fx.runtime.autocast_types import MixedTypes
from pgt_fx.runtime.markov.align import MarkovAlign
from pgt_fx.runtime.markov.concat import MarkovConcat
from pgt_fx.runtime.markov.head import MarkovHead
from pgt_fx.runtime.markov.memory import MarkovMemory, causal_mask
from pgt_fx.runtime.markov.pool import MarkovPool
from pgt_fx.runtime.markov.scan import MarkovRecurrent, MarkovScan
from pgt_fx.runtime.markov.space_pad import SpacePad
from pgt_fx.runtime.markov.table import MarkovPairs, MarkovTable
from pgt_fx.runtime.markov.window import MarkovWindow
from pgt_fx.runtime.plan import (
    AlignItem,
    ConcatItem,
    Item,
    MemoryItem,
    Node,
    PoolItem,
    ScanItem,
    TableItem,
    WindowItem,
)
from pgt_fx.runtime.step_graph import Emitted, Names, identifier, note, of_clip_alone

STEP = "step"
#: Operators that stand for something while the model is captured, and what runs in their place.
RUN: dict[Any, Any] = {
    torch.ops.pgt_fx.clip_table.default: clip_rows,
    torch.ops.pgt_fx.grown.default: grown,
}


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
        self.out = Emitted(fx.Graph(), types=MixedTypes(analysis.captured, analysis.spec))
        self.env: dict[fx.Node, Any] = {}
        self.names = Names(self.captured)
        self.regions = fold(self.captured, self._foldable)
        self.out.lost = check_by_hand(self.captured, self.regions)
        check_drawn(self.captured, self.regions)
        self.out.whole = called_whole(self.captured, self.regions)
        self.late = late(analysis, self.regions, self._foldable)
        self.joins = {o.joined: o.node.name for o in analysis.operations.values() if o.joined}

    def run(self) -> Emitted:
        graph = self.out.graph
        self.step = graph.placeholder(STEP)
        self.leaves = {}
        for node in self.captured.graph.nodes:
            if node.op == "placeholder" and node.name in self.captured.inputs:
                self.leaves[node] = self.env[node] = graph.placeholder(identifier(node.name))
        for node in self.captured.graph.nodes:
            if node.op == "call_function":
                self._located(node, self._visit)
        self._output()
        times, inputs = self.analysis.spec.times, self.captured.inputs
        timed = [times[inputs[node.name]] is not None for node in self.leaves]
        self.out.video = timed.index(True)
        follow_the_clip(graph, list(self.leaves.values())[self.out.video])
        graph.eliminate_dead_code(is_impure_node=self._stateful)
        graph.lint()
        self._schedule()
        share(self.out, self.analysis.spec.ratio)
        known = {n.name for n in graph.nodes}
        made = {new.name: node.name for node, new in self.env.items() if new is not node}
        self.out.made = {new: old for new, old in made.items() if new in known}
        return self.out

    def _located(self, node: fx.Node, emitted: Callable[[fx.Node], None]) -> None:
        """Raises BlockedError for what the analysis let pass and can't be emitted."""
        try:
            emitted(node)
        except (Refusal, LayoutError) as refusal:
            remedy = getattr(refusal, "remedy", "") or REMEDY
            raise BlockedError([Blocker(place(node), str(refusal), remedy)]) from refusal

    def _foldable(self, node: fx.Node) -> bool:
        operation = self.analysis.operations.get(node.name)
        if operation is None:  # no operand has time
            known = self.analysis.values.get(node.name)
            return not isinstance(known, Value) or known.table is None
        if operation.joins or operation.tables or "pgt_written" in node.meta or node.target in RUN:
            return False
        if remembers(operation, self.options):
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
            if self._foldable(node):  # tables are made where they are used
                self._copy(node)
        elif remembers(operation, self.options):
            self._attention(node, operation)
        elif isinstance(operation.outcome, Windowed):
            self._window(node, operation, operation.outcome)
        elif isinstance(operation.outcome, Reduced):
            self._reduce(node, operation, operation.outcome)
        elif isinstance(operation.outcome, Scanned):
            self._scan(node, operation, operation.outcome)
        elif isinstance(operation.outcome, Concatenated):
            self._concat(node, operation, operation.outcome)
        else:
            self._local(node, operation)

    # -- nodes ---------------------------------------------------------------------------------

    def _get(self, node: fx.Node) -> Any:
        """The new node for an operand; parameters are fetched from the model where first used."""
        if node in self.env:
            return self.env[node]
        if node.name in self.captured.tensors:
            target = self.captured.tensors[node.name]
        elif node.name not in self.captured.constants:
            raise CaptureError(
                "is captured with something that is no tensor, as the transforms of torch.func "
                "are: write what it is for with tensor operators, or leave it outside the model",
                place(next(iter(node.users), node)),
            )
        else:
            target = f"{self.markov_name}.constants.{node.name}"
            self.out.constants[node.name] = self.captured.constants[node.name]
        self.env[node] = self.out.graph.create_node("get_attr", target, name=identifier(target))
        return self.env[node]

    def _map(self, value: Any) -> Any:
        return fx.map_arg(value, self._get)

    def _copy(self, node: fx.Node) -> None:
        of_clip = size_of_clip(node, self.captured, self.leaves)
        args, kwargs = self._map(of_clip or node.args), self._map(node.kwargs)
        self.env[node] = self.out.graph.create_node(
            "call_function", in_any_layout(node.target), args, kwargs, name=node.name
        )

    def _call_module(self, node: fx.Node, region: Region) -> None:
        source = self._waiting(node, region.source, region.path) or self._get(region.source)
        new = self.out.graph.create_node(
            "call_module", region.path, (source,), name=identifier(region.path)
        )
        self.env[node] = new

    def _local(self, node: fx.Node, operation: Operation) -> None:
        aligned = self._aligned(node, operation) | self._tables(node, operation)
        if node in self.late:
            source = self.analysis.streams(node)[0]
            held = self._waiting(node, source, self.names.label(node))
            aligned |= {} if held is None else {source: held}
        args, kwargs = arguments(node, getattr(operation.outcome, "args", {}))
        args = [self._size(node, a, aligned) for a in args]
        self._new_call(node, RUN.get(node.target, node.target), args, kwargs, aligned)

    def _size(self, node: fx.Node, argument: Any, aligned: dict[fx.Node, fx.Node]) -> Any:
        """A size that is to be read from the operand at hand (the first one)."""
        if isinstance(argument, (list, tuple)):
            return [self._size(node, a, aligned) for a in argument]
        if not isinstance(argument, SizeAtHand):
            return argument
        first = node.all_input_nodes[0]
        operand = aligned.get(first) or self._get(first)
        whole, *others = (
            self._fresh(torch.ops.aten.sym_size.int, operand, dim) for dim in argument.dims
        )
        for other in others:
            whole = self._fresh(operator.mul, whole, other)
        return whole

    def _fresh(self, target: Any, *args: Any) -> fx.Node:
        """A node that stands for none of the captured graph's."""
        new = self.out.graph.call_function(target, args)
        self.env[new] = new
        return new

    def _tables(self, node: fx.Node, operation: Operation) -> dict[fx.Node, fx.Node]:
        """The tables among the operands, as far as a step needs them."""
        out: dict[fx.Node, fx.Node] = {}
        for operand in operation.tables:
            known = self.analysis.value(operand)
            if known.table is None or operation.clock is None:
                raise AssertionError("no table")
            slot = self.names.slot(f"{self.names.label(node)}.table")
            where = place(node).source or place(node).module
            size: int | None = 0
            made: nn.Module
            pairs = operation.pairs.get(operand)
            if pairs is not None:
                inputs = list(pairs.made.inputs)
                run = fx.GraphModule({}, pairs.made.graph)
                made = MarkovPairs(slot, run, pairs.dims, pairs.entries, where)
                size = table_memory(self.analysis, node, self.options)
            else:
                graph, inputs = table_graph(self.captured, operand, known.table)
                dim = time_dims(known.layout or (), 1)[0]
                run = fx.GraphModule({}, graph)
                made = MarkovTable(slot, run, known.table.kind, dim, where)
            given = (torch.device("cpu"), *(self._get(n) for n in inputs))  # follows the clip
            self.out.owner[slot] = node.name
            out[operand] = self._markov(made, slot, given, TableItem(operation.clock, size))
        return out

    def _attention(self, node: fx.Node, operation: Operation) -> None:
        """One product of an attention, with a memory in front of its keys or values."""
        aligned = self._aligned(node, operation) | self._tables(node, operation)
        outcome = operation.outcome
        if not isinstance(outcome, (Scanned, StepOnly)):
            raise AssertionError("an attention that carries no keys")
        size = memory_size(self.analysis, operation, self.options)
        label = self.names.label(node)
        args, kwargs = arguments(node, getattr(outcome, "args", {}))
        query = args[0]
        names = ("keys", "values") if len(outcome.keys) == 2 else ("memory",)
        memories: dict[fx.Node, fx.Node] = {}
        for name, operand in zip(names, outcome.keys, strict=True):
            if operand in memories:  # keys that are the values as well are carried once
                continue
            slot = self.names.slot(f"{label}.{name}")
            module = MarkovMemory(slot, self.analysis.axis(operand))
            given = aligned.get(operand) or self._get(operand)
            self.out.origin[slot], self.out.owner[slot] = operand, node.name
            if operation.clock is None:
                raise AssertionError("an attention without a clock")
            item = MemoryItem(operation.clock, size)
            memory = self._markov(module, slot, (given,), item)
            self.env[memory] = memories[operand] = memory
        if argument(node, "is_causal", default=False):
            keys = memories[outcome.keys[0]]
            mask = self._fresh(causal_mask, aligned.get(query) or self._get(query), keys)
            args, kwargs = arguments(node, {"is_causal": False, "attn_mask": mask})
        args = with_memories(node, args, memories)
        self._new_call(node, node.target, args, kwargs, aligned)
        how = "all frames so far" if size is None else f"{counted(size, 'element')} of the past"
        self.out.notes[self.env[node].name] = note(node, f"attends to {how} and this step")

    def _new_call(
        self, node: fx.Node, target: Any, args: Any, kwargs: Any, aligned: dict[fx.Node, fx.Node]
    ) -> None:
        def mapped(n: fx.Node) -> Any:
            return aligned.get(n) or self._get(n)

        self.env[node] = self.out.graph.create_node(
            "call_function",
            in_any_layout(target),
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
            clock = self._clock(operand)
            if clock is None or same(clock, operation.joined, self.analysis.spec.ratio):
                continue
            slot = self.names.slot(f"{self.names.label(node)}.held")
            out[operand] = self._align(operand, clock, operation.joined, slot)
            self.out.owner[slot] = node.name
        return out

    def _clock(self, node: fx.Node) -> Clock | None:
        """The clock of a value as it is made here: a late one's is that of its join."""
        return self.late.get(node) or self.analysis.value(node).clock

    def _waiting(self, node: fx.Node, source: fx.Node, label: str) -> fx.Node | None:
        """The operand of a late operator, held back; None where it is as late, or nothing is."""
        wanted, clock = self.late.get(node), self._clock(source)
        if wanted is None or clock is None or same(clock, wanted, self.analysis.spec.ratio):
            return None
        slot = self.names.slot(f"{label}.held")
        self.out.owner[slot] = self.joins[wanted]
        return self._align(source, clock, wanted, slot)

    def _align(self, operand: fx.Node, clock: Clock, joined: Clock, slot: str) -> fx.Node:
        try:
            axis = self.analysis.axis(operand)
        except LayoutError as error:
            raise Refusal(
                "some of the values joined here come later than others, but where they would wait "
                f"{error}",
                "join them while time is an axis of its own, or the outermost or innermost of the "
                "axes merged with it",
            ) from error
        module = MarkovAlign(slot, axis)
        self.out.origin[slot] = operand
        return self._markov(module, slot, (self._get(operand),), AlignItem(clock, joined))

    def _markov(self, module: nn.Module, slot: str, args: tuple[Any, ...], item: Item) -> fx.Node:
        name = identifier(slot)
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
        args, kwargs = arguments(node, outcome.args)
        if isinstance(outcome.call, SpacePad):
            args, kwargs = [source], {}
        call, others = template(outcome.call or node.target, args, kwargs, source)
        slot = self.names.slot(self.names.label(node))
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
        self.out.notes[new.name] = note(node, outcome.what)

    def _reduce(self, node: fx.Node, operation: Operation, outcome: Reduced) -> None:
        aligned = self._aligned(node, operation)
        args, kwargs = arguments(node, {})
        source = argument(node, outcome.source)
        pooling = self.options.pooling
        if pooling == "step" or (pooling == "markov" and outcome.how in ("first", "last")):
            self._new_call(node, node.target, args, kwargs, aligned)
            self.out.notes[self.env[node].name] = note(node, f"{outcome.what}: of this step")
            return
        clock = operation.joined or self.analysis.value(source).clock
        if clock is None:
            raise AssertionError("a reduction without a clock")
        slot = self.names.slot(self.names.label(node))
        call, others = template(node.target, args, kwargs, source)
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
        self.out.notes[new.name] = note(node, f"{outcome.what}: {which}")

    def _scan(self, node: fx.Node, operation: Operation, outcome: Scanned) -> None:
        aligned = self._aligned(node, operation)
        source = argument(node, outcome.source)
        clock = operation.joined or self.analysis.value(source).clock
        if clock is None:
            raise AssertionError("a scan without a clock")
        args, kwargs = arguments(node, {})
        slot = self.names.slot(self.names.label(node))
        module: nn.Module
        if outcome.how == "recurrent":
            call, others = template(listed, args, kwargs, source)
            module = MarkovRecurrent(slot, run_layers, call, len(outcome.layout) - 1)
        else:
            call, others = template(node.target, args, kwargs, source)
            module = MarkovScan(slot, outcome.how, call, self.analysis.axis(source).dim)
        inputs = (aligned.get(source) or self._get(source), *(self._get(n) for n in others))
        self.out.origin[slot], self.out.owner[slot] = node, node.name
        item = ScanItem(clock, outcome.states, isinstance(outcome.layout, list))
        new = self._markov(module, slot, inputs, item)
        self.env[node] = new
        self.out.notes[new.name] = note(node, outcome.what)

    def _concat(self, node: fx.Node, operation: Operation, outcome: Concatenated) -> None:
        clock = operation.clock
        if clock is None or not isinstance(operation.value, Value):
            raise AssertionError("a concatenation without a clock")
        timed = [self.analysis.value(n).timed for n in outcome.parts]
        axes = [
            self.analysis.axis(n) if has else None
            for n, has in zip(outcome.parts, timed, strict=True)
        ]
        slot = self.names.slot(self.names.label(node))
        inputs = tuple(self._get(n) for n in outcome.parts)
        module = MarkovConcat(slot, axes, time_dims(operation.value.layout or (), 1)[0])
        self.out.origin[slot], self.out.owner[slot] = node, node.name
        new = self._markov(module, slot, inputs, ConcatItem(clock, tuple(n.name for n in inputs)))
        self.env[node] = new
        self.out.notes[new.name] = note(node, outcome.what)

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
                    slot = self.names.slot(f"output{number or ''}.held")
                    new = self._align(item, value.clock, joined, slot)
            layout = value.layout or ()
            self.out.outputs.append(axis_of(layout).dim if value.clock is not None else None)
            results.append(new)
        self.out.graph.output(tuple(results))

    # -- plan ----------------------------------------------------------------------------------

    def _stateful(self, node: fx.Node) -> bool:
        """Nodes that must stay though nothing reads them: writes into the model's own buffers."""
        schema = schema_if_any(node.target)
        return node.op in ("placeholder", "output") or bool(schema and schema.is_mutable)

    def _schedule(self) -> None:
        prefix, spec = f"{self.markov_name}.", self.analysis.spec
        clips = {self.leaves[n]: self.captured.inputs[n.name] for n in self.leaves}
        self.out.schedulable.clips = {
            node.name: spec.paths.index(leaf) for node, leaf in clips.items() if leaf in spec.paths
        }
        for node in self.out.graph.nodes:
            if node.op not in ("call_module", "call_function"):
                continue
            slot = None
            if node.op == "call_module" and node.target.startswith(prefix):
                slot = str(self.out.markov[node.target.removeprefix(prefix)].slot)
            read = () if of_clip_alone(node) else node.all_input_nodes
            inputs = tuple(n.name for n in read if n is not self.step)
            first = node.target is operator.getitem and node.args[1] == 0
            self.out.schedulable.nodes.append(Node(node.name, inputs, slot, first))
