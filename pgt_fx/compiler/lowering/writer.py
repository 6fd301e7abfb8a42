"""The graph of a step while it is built, and the map from captured nodes to its nodes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, fx, nn

from pgt_fx.capture.observe.module_calls import place
from pgt_fx.compiler.analysis.timed_graph import Analysis
from pgt_fx.compiler.lowering.clip_sizes import size_of_clip
from pgt_fx.core.clock_equality import same
from pgt_fx.core.clocks import Clock
from pgt_fx.core.devices import in_any_layout
from pgt_fx.core.errors import CaptureError
from pgt_fx.core.layout import LayoutError
from pgt_fx.core.options import Options
from pgt_fx.rules.registry import Refusal
from pgt_fx.runtime.autocast_types import MixedTypes
from pgt_fx.runtime.markov.align import MarkovAlign
from pgt_fx.runtime.plan_items import AlignItem, Item
from pgt_fx.runtime.step_graph import Emitted, Names, identifier

STEP = "step"


class Writer:
    """The graph of a step under way.

    Attributes:
        out: the graph and what belongs to it.
        env: captured node -> the new node that gives its value.
        names: of slots.
        step: the new graph's first input.
        leaves: the clip's tensors, captured node -> input of the new graph.
        late: operators to be run late, with the clock of their operand and result
            (:mod:`pgt_fx.compiler.lowering.retiming`).
    """

    def __init__(
        self,
        analysis: Analysis,
        options: Options,
        markov_name: str,
        late: Mapping[fx.Node, Clock],
    ) -> None:
        self.analysis, self.options, self.markov_name = analysis, options, markov_name
        self.captured, self.late = analysis.captured, late
        self.out = Emitted(fx.Graph(), types=MixedTypes(analysis.captured, analysis.spec))
        self.env: dict[fx.Node, Any] = {}
        self.names = Names(self.captured)
        self.joins = {o.joined: o.node.name for o in analysis.operations.values() if o.joined}
        self.step = self.out.graph.placeholder(STEP)
        self.leaves: dict[fx.Node, fx.Node] = {}
        for node in self.captured.graph.nodes:
            if node.op == "placeholder" and node.name in self.captured.inputs:
                leaf = self.out.graph.placeholder(identifier(node.name))
                self.leaves[node] = self.env[node] = leaf

    def get(self, node: fx.Node) -> Any:
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

    def copy(self, node: fx.Node) -> None:
        """The captured call as it is."""
        of_clip = size_of_clip(node, self.captured, self.leaves)
        args = fx.map_arg(of_clip or node.args, self.get)
        self.env[node] = self.out.graph.create_node(
            "call_function",
            in_any_layout(node.target),
            args,
            fx.map_arg(node.kwargs, self.get),
            name=node.name,
        )

    def call_module(self, node: fx.Node, source: fx.Node, path: str) -> None:
        """A module of the model, called whole on one operand, gives a value."""
        given = self.waiting(node, source, path) or self.get(source)
        self.env[node] = self.out.graph.create_node(
            "call_module", path, (given,), name=identifier(path)
        )

    def fresh(self, target: Any, *args: Any, **kwargs: Any) -> fx.Node:
        """A node that stands for none of the captured graph's."""
        new = self.out.graph.call_function(target, args, kwargs)
        self.env[new] = new
        return new

    def constant(self, label: str, value: Tensor) -> fx.Node:
        """A node that gives a tensor known beforehand."""
        name = identifier(label)
        while name in self.out.constants:
            name += "_"
        self.out.constants[name] = value
        new = self.out.graph.create_node("get_attr", f"{self.markov_name}.constants.{name}")
        self.env[new] = new
        return new

    def markov(self, module: nn.Module, slot: str, args: tuple[Any, ...], item: Item) -> fx.Node:
        """A call of a Markov operator; ``args``: new nodes."""
        name = identifier(slot)
        while name in self.out.markov:
            name += "_"
        self.out.markov[name] = module
        self.out.schedulable.items[slot] = item
        new = self.out.graph.create_node(
            "call_module", f"{self.markov_name}.{name}", (self.step, *args), name=name
        )
        self.env[new] = new
        return new

    # -- what waits ----------------------------------------------------------------------------

    def clock(self, node: fx.Node) -> Clock | None:
        """The clock of a value as it is made here: a late one's is that of its join."""
        return self.late.get(node) or self.analysis.value(node).clock

    def waiting(self, node: fx.Node, source: fx.Node, label: str) -> fx.Node | None:
        """The operand of a late operator, held back; None where it is as late, or nothing is."""
        wanted, clock = self.late.get(node), self.clock(source)
        if wanted is None or clock is None or same(clock, wanted, self.analysis.spec.ratio):
            return None
        slot = self.names.slot(f"{label}.held")
        self.out.owner[slot] = self.joins[wanted]
        return self.align(source, clock, wanted, slot)

    def align(self, operand: fx.Node, clock: Clock, joined: Clock, slot: str) -> fx.Node:
        """An operand whose elements wait until their join asks for them.

        Raises:
            Refusal: where its elements can't be taken one by one.
        """
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
        return self.markov(module, slot, (self.get(operand),), AlignItem(clock, joined))
