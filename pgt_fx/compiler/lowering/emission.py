"""The interface through which a kind of operator emits its nodes into the graph of a step."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from pgt_fx.capture.observe.clip_table_op import clip_rows
from pgt_fx.capture.observe.module_calls import place
from pgt_fx.capture.passes.expand_like import expand_rows
from pgt_fx.capture.silent_graphs import silent
from pgt_fx.compiler.analysis.attention_memory import memory_size, table_memory
from pgt_fx.compiler.analysis.length_tables import table_graph
from pgt_fx.compiler.analysis.timed_graph import Operation, Value
from pgt_fx.compiler.lowering.writer import Writer
from pgt_fx.core.clock_equality import same
from pgt_fx.core.clocks import Clock
from pgt_fx.core.devices import in_any_layout
from pgt_fx.core.layout import Axis, time_dims
from pgt_fx.rules.registry import SizeAtHand
from pgt_fx.runtime.markov.table import MarkovPairs, MarkovTable
from pgt_fx.runtime.plan_items import Item, TableItem
from pgt_fx.runtime.step_graph import note

#: Operators that stand for something while the model is captured, and what runs in their place.
RUN: dict[Any, Any] = {
    torch.ops.pgt_fx.clip_table.default: clip_rows,
    torch.ops.pgt_fx.expand_rows.default: expand_rows,
}


class OperatorsPlace:
    """See :class:`pgt_fx.rules.kinds.protocols.Emission`."""

    def __init__(self, writer: Writer, node: fx.Node, operation: Operation) -> None:
        self.writer, self.node, self.operation = writer, node, operation
        self.analysis, self.options = writer.analysis, writer.options
        self.streams = self.analysis.streams(node)
        self._operands = self._aligned() | self._tables() | self._late()

    # -- what a kind asks ----------------------------------------------------------------------

    @property
    def clock(self) -> Clock:
        values = self.operation.value
        values = values if isinstance(values, list) else [values]
        return _there(next((v.clock for v in values if v.clock is not None), None))

    @property
    def common(self) -> Clock:
        return _there(self.operation.clock)

    @property
    def time_dim(self) -> int:
        value = self.operation.value
        if not isinstance(value, Value):
            raise AssertionError("several results have no dimension of time in common")
        return time_dims(value.layout or (), 1)[0]

    @property
    def memory(self) -> int | None:
        return memory_size(self.analysis, self.operation, self.options)

    def timed(self, operand: fx.Node) -> bool:
        return self.analysis.value(operand).timed

    def clock_of(self, operand: fx.Node) -> Clock:
        joined = self.operation.joined if operand in self.operation.joins else None
        return _there(joined or self.analysis.value(operand).clock)

    def axis(self, operand: fx.Node) -> Axis:
        return self.analysis.axis(operand)

    def slot(self, part: str = "") -> str:
        label = self.writer.names.label(self.node)
        return self.writer.names.slot(f"{label}.{part}" if part else label)

    def given(self, operand: fx.Node) -> fx.Node:
        return self._operands.get(operand) or self.writer.get(operand)

    # -- what a kind writes --------------------------------------------------------------------

    def fresh(self, target: Any, *args: Any, **kwargs: Any) -> fx.Node:
        return self.writer.fresh(target, *args, **kwargs)

    def constant(self, label: str, value: Tensor) -> fx.Node:
        return self.writer.constant(f"{self.node.name}_{label}", value)

    def carry(
        self, module: nn.Module, slot: str, inputs: Sequence[fx.Node], item: Item, of: fx.Node
    ) -> fx.Node:
        given = tuple(self.given(n) for n in inputs)
        out = self.writer.out
        out.origin[slot], out.owner[slot] = of, self.node.name
        return self.writer.markov(module, slot, given, item)

    def call(self, args: Sequence[Any], kwargs: dict[str, Any]) -> None:
        target = in_any_layout(RUN.get(self.node.target, self.node.target))
        filled = fx.map_arg(tuple(self._size(a) for a in args), self.given)
        named = fx.map_arg(kwargs, self.given)
        new = self.writer.out.graph.create_node(
            "call_function", target, filled, named, name=self.node.name
        )
        self.result(new)

    def result(self, new: fx.Node) -> None:
        self.writer.env[self.node] = new

    def note(self, text: str) -> None:
        self.writer.out.notes[self.writer.env[self.node].name] = note(self.node, text)

    # -- its operands --------------------------------------------------------------------------

    def _size(self, argument: Any) -> Any:
        """A size that is to be read from the operand at hand (the first one)."""
        if isinstance(argument, (list, tuple)):
            return [self._size(a) for a in argument]
        if not isinstance(argument, SizeAtHand):
            return argument
        operand = self.given(self.node.all_input_nodes[0])
        whole, *others = (
            self.fresh(torch.ops.aten.sym_size.int, operand, dim) for dim in argument.dims
        )
        for other in others:
            whole = self.fresh(operator.mul, whole, other)
        return whole

    def _aligned(self) -> dict[fx.Node, fx.Node]:
        """Aligners for the operands of a join, where they can have anything to do."""
        out: dict[fx.Node, fx.Node] = {}
        joined = self.operation.joined
        if joined is None:
            return out
        for operand in self.operation.joins:
            if operand in out:
                continue
            clock = self.writer.clock(operand)
            if clock is None or same(clock, joined, self.analysis.spec.ratio):
                continue
            slot = self.slot("held")
            out[operand] = self.writer.align(operand, clock, joined, slot)
            self.writer.out.owner[slot] = self.node.name
        return out

    def _late(self) -> dict[fx.Node, fx.Node]:
        """The operand of an operator that is run late."""
        if self.node not in self.writer.late:
            return {}
        source = self.streams[0]
        held = self.writer.waiting(self.node, source, self.writer.names.label(self.node))
        return {} if held is None else {source: held}

    def _tables(self) -> dict[fx.Node, fx.Node]:
        """The tables among the operands, as far as a step needs them."""
        out: dict[fx.Node, fx.Node] = {}
        captured, get = self.analysis.captured, self.writer.get
        for operand in self.operation.tables:
            known = self.analysis.value(operand)
            if known.table is None:
                raise AssertionError("no table")
            slot = self.slot("table")
            where = place(self.node).source or place(self.node).module
            size: int | None = 0
            made: nn.Module
            pairs = self.operation.pairs.get(operand)
            if pairs is not None:
                inputs = list(pairs.made.inputs)
                run = silent(fx.GraphModule({}, pairs.made.graph))
                made = MarkovPairs(slot, run, pairs.dims, pairs.entries, where)
                size = table_memory(self.analysis, self.node, self.options)
            else:
                graph, inputs = table_graph(captured, operand, known.table)
                dim = time_dims(known.layout or (), 1)[0]
                run = silent(fx.GraphModule({}, graph))
                made = MarkovTable(slot, run, known.table.kind, dim, where)
            given = (torch.device("cpu"), *(get(n) for n in inputs))  # follows the clip
            self.writer.out.owner[slot] = self.node.name
            out[operand] = self.writer.markov(made, slot, given, TableItem(self.common, size))
        return out


def _there(clock: Clock | None) -> Clock:
    if clock is None:
        raise AssertionError("an operator on frames without a clock")
    return clock
