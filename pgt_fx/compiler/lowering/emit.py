"""Rewrite and emit: the captured graph becomes the graph of one step.

Temporal operators become Markov operators with a named state slot, joins get aligners, module
calls that mix no time become calls of the user's own modules; the rest stays. What an operator
becomes, its kind says (:meth:`pgt_fx.rules.Kind.emit`).
"""

from __future__ import annotations

import operator
from typing import Any

from torch import fx

from pgt_fx.capture.observe.module_calls import place
from pgt_fx.compiler.analysis.attention_memory import remembers
from pgt_fx.compiler.analysis.blocked import REMEDY
from pgt_fx.compiler.analysis.timed_graph import Analysis, Value
from pgt_fx.compiler.lowering.emission import RUN, OperatorsPlace
from pgt_fx.compiler.lowering.fold_modules import called_whole, fold
from pgt_fx.compiler.lowering.refuse_unrepresentable import check_by_hand, check_drawn
from pgt_fx.compiler.lowering.retiming import late
from pgt_fx.compiler.lowering.share_state import share
from pgt_fx.compiler.lowering.writer import Writer
from pgt_fx.core.clock_equality import same
from pgt_fx.core.clocks import JoinClock
from pgt_fx.core.devices import follow_the_clip
from pgt_fx.core.errors import BlockedError, Blocker
from pgt_fx.core.layout import LayoutError, axis_of
from pgt_fx.core.options import Options
from pgt_fx.rules.registry import Refusal
from pgt_fx.runtime.plan import Node
from pgt_fx.runtime.step_graph import Emitted, of_clip_alone


def emit(analysis: Analysis, options: Options, markov_name: str) -> Emitted:
    """Rewrite the captured graph into the graph of one step under ``options``.

    Args:
        markov_name: attribute under which the Markov operators will stand beside the model's own
            children.
    """
    return _Emitter(analysis, options, markov_name).run()


class _Emitter:
    def __init__(self, analysis: Analysis, options: Options, markov_name: str) -> None:
        self.analysis, self.options = analysis, options
        self.captured = analysis.captured
        kinds = [operation.outcome for operation in analysis.operations.values()]
        opened = frozenset(n for kind in kinds for n in kind.opened(options))
        self.regions = fold(self.captured, self._foldable, opened)
        lost = check_by_hand(self.captured, self.regions)
        check_drawn(self.captured, self.regions)
        moved = late(analysis, self.regions, self._foldable)
        self.writer = Writer(analysis, options, markov_name, moved)
        self.out = self.writer.out
        self.out.lost = lost
        self.out.whole = called_whole(self.captured, self.regions)

    def run(self) -> Emitted:
        graph = self.out.graph
        for node in self.captured.graph.nodes:
            if node.op == "call_function":
                self._located(node)
        self._output()
        times, inputs, leaves = self.analysis.spec.times, self.captured.inputs, self.writer.leaves
        timed = [times[inputs[node.name]] is not None for node in leaves]
        self.out.video = timed.index(True)
        follow_the_clip(graph, list(leaves.values())[self.out.video])
        graph.eliminate_dead_code(is_impure_node=_stateful)
        graph.lint()
        self._schedule()
        share(self.out, self.analysis.spec.ratio)
        known = {n.name for n in graph.nodes}
        made = {new.name: node.name for node, new in self.writer.env.items() if new is not node}
        self.out.made = {new: old for new, old in made.items() if new in known}
        return self.out

    def _located(self, node: fx.Node) -> None:
        """Raises BlockedError for what the analysis let pass and can't be emitted."""
        try:
            self._visit(node)
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
        clip_pools = bool(self.captured.global_pools)
        return operation.outcome.folds(self.options, clip_pools=clip_pools)

    def _visit(self, node: fx.Node) -> None:
        region = self.regions.get(node)
        if region is not None:
            if node is region.result:
                self.writer.call_module(node, region.source, region.path)
            return
        operation = self.analysis.operations.get(node.name)
        if operation is not None:
            operation.outcome.emit(OperatorsPlace(self.writer, node, operation))
        elif self._foldable(node):  # tables are made where they are used
            self.writer.copy(node)

    def _output(self) -> None:
        results: list[Any] = []
        ratio = self.analysis.spec.ratio
        for number, item in enumerate(self.analysis.outputs):
            if not isinstance(item, fx.Node):
                results.append(item)
                self.out.outputs.append(None)
                continue
            value = self.analysis.value(item)
            new = self.writer.get(item)
            if value.clock is not None:
                joined = JoinClock((value.clock,), commit=True)
                if not same(value.clock, joined, ratio):
                    slot = self.writer.names.slot(f"output{number or ''}.held")
                    new = self.writer.align(item, value.clock, joined, slot)
            layout = value.layout or ()
            self.out.outputs.append(axis_of(layout).dim if value.clock is not None else None)
            results.append(new)
        self.out.graph.output(tuple(results))

    def _schedule(self) -> None:
        prefix, spec = f"{self.writer.markov_name}.", self.analysis.spec
        leaves = self.writer.leaves
        clips = {new: self.captured.inputs[n.name] for n, new in leaves.items()}
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
            inputs = tuple(n.name for n in read if n is not self.writer.step)
            first = node.target is operator.getitem and node.args[1] == 0
            self.out.schedulable.nodes.append(Node(node.name, inputs, slot, first))


def _stateful(node: fx.Node) -> bool:
    """Nodes that must stay though nothing reads them: writes into the model's own buffers."""
    schema = getattr(node.target, "_schema", None)
    return node.op in ("placeholder", "output") or bool(schema and schema.is_mutable)
