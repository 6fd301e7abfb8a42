"""A program: the emitted graph bound to the user's model, run for one step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from typing import Any

import torch
from torch import Tensor, fx, nn

from pgt_fx.capture.silent_graphs import silent
from pgt_fx.core.devices import bring
from pgt_fx.core.errors import StateError
from pgt_fx.core.torch_private import is_in_torch_dispatch_mode
from pgt_fx.runtime.chunks import CLOCK
from pgt_fx.runtime.hoist_lookups import hoisted
from pgt_fx.runtime.markov.concat import MarkovConcat
from pgt_fx.runtime.markov.pool import MarkovPool
from pgt_fx.runtime.markov.space_pad import SpacePad
from pgt_fx.runtime.markov.window import MarkovWindow
from pgt_fx.runtime.plan import Plan
from pgt_fx.runtime.plan_cache import SteadyPlans
from pgt_fx.runtime.refused_gradients import without_gradients
from pgt_fx.runtime.step_graph import Emitted, of_clip_alone
from pgt_fx.runtime.torch_compile import CompiledSteps, run_eagerly
from pgt_fx.runtime.torch_functions import with_torch_functions


class Program:
    """The steps of one model in one mode under one set of options.

    The generated code runs with ``self`` being the user's model, to which the Markov operators
    are added under one name. Where operators have nothing to do (at a video's start, or when
    chunks are shorter than the temporal stride), a shorter graph is run: the same without them.
    """

    def __init__(
        self,
        emitted: Emitted,
        model: nn.Module,
        markov_name: str,
        ratio: tuple[int, ...],
        plans: SteadyPlans | None = None,
    ) -> None:
        self.emitted, self.markov_name, self.ratio = emitted, markov_name, ratio
        self.plans = plans or SteadyPlans(emitted.schedulable, ratio)
        self.plan = self.plans.plan
        self.markov = nn.Module()
        for name, module in emitted.markov.items():
            self.markov.add_module(name, module)
        self.constants = nn.Module()
        for name, tensor in emitted.constants.items():
            self.constants.register_buffer(name, tensor.clone(), persistent=False)
        self.markov.add_module("constants", self.constants)
        self.model = model
        # One child more than the model's. A model whose children are replaced is captured anew.
        self._children = {**model._modules, markov_name: self.markov}
        self._own_name = f"{markov_name}_own"
        while self._own_name in self._children:
            self._own_name += "_"
        self._children[self._own_name] = _sharing(model)
        self.compiled: CompiledSteps | None = None
        found = (m for m in emitted.markov.values() if isinstance(m, MarkovWindow | MarkovConcat))
        self._mixed = [m for m in found if _may_widen(m)]
        self._modules_by_work: dict[tuple[frozenset[str], frozenset[str]], fx.GraphModule] = {}
        self._known: set[str] = set()

    def bound_to(self, model: nn.Module) -> Program:
        """The same program, not made anew, on a copy of the model."""
        return Program(self.emitted, model, self.markov_name, self.ratio, self.plans)

    @property
    def slots(self) -> frozenset[str]:
        """Names of the stateful operators."""
        return frozenset(self.emitted.schedulable.items)

    @property
    def places(self) -> frozenset[str]:
        """Names of the operators that carry something of their own from step to step."""
        live = {n.slot for n in self.emitted.schedulable.nodes if n.slot is not None}
        return frozenset(live - self.emitted.shared.keys())

    @property
    def sums(self) -> dict[str, str]:
        """See :attr:`pgt_fx.runtime.markov.pool.MarkovPool.sums`, of all pools."""
        pools = [m for m in self.emitted.markov.values() if isinstance(m, MarkovPool)]
        return {name: kind for pool in pools for name, kind in pool.sums.items()}

    def answers(self, work: Plan) -> bool:
        """Whether a step has an output."""
        output = next(n for n in self.emitted.graph.nodes if n.op == "output")
        return any(n.name not in work.silent for n in output.all_input_nodes)

    def run(
        self,
        state: Mapping[str, Tensor],
        leaves: Sequence[Any],
        work: Plan,
        *,
        eager: bool = False,
    ) -> tuple[list[Any], dict[str, Tensor]]:
        """Run one step; with ``eager`` as it is, also where steps are compiled.

        Returns:
            the model's outputs, flat, None where none is due; and the carried tensors.

        Raises:
            StateError: when the state has entries of another model.
        """
        if not state.keys() <= self._known:
            foreign = [k for k in state if not self.knows(k)]
            if foreign:
                raise StateError(
                    f"the state has an entry {foreign[0]!r} that this model doesn't know; it is "
                    "another model's, or was made under other options or in the other mode"
                )
            self._known.update(state)
        module = self.module(work)
        if self._mixed:
            self._set_types(leaves)
        if self.emitted.constants:
            bring(self.constants, leaves[self.emitted.video])
        # Whoever looks at every operation (a counter of them) sees none of a compiled step.
        if self.compiled is None or eager or is_in_torch_dispatch_mode(include_infra_modes=False):
            outputs, carried = run_eagerly(module, state, leaves, work)
        else:
            outputs, carried = self.compiled.run(module, state, leaves, work)
        for name, tensor in state.items():
            # An operator that had nothing to do keeps what it carries.
            if name not in carried and name not in CLOCK and self._idle(name, work):
                carried[name] = tensor
        if self.emitted.lost:
            outputs = without_gradients(outputs, self.emitted.lost)
        return outputs, carried

    def _set_types(self, leaves: Sequence[Any]) -> None:
        """Tell the operators that may have the elements of one of several types alone of which
        type the model's answer is: under autocast the capture does not know it."""
        emitted, found = self.emitted, dict[str, torch.dtype]()
        if emitted.types is not None:
            found = emitted.types.of(self.model, leaves, leaves[emitted.video])
        for module in self._mixed:
            gives = found.get(emitted.owner[module.slot])
            if module.gives != gives:
                module.gives = gives

    def knows(self, name: str) -> bool:
        """Whether a state entry belongs to this program."""
        return name in CLOCK or self._slot_of(name) is not None

    def _slot_of(self, name: str) -> str | None:
        items = self.emitted.schedulable.items
        if name in items:
            return name
        stem = name.rsplit(".", 1)[0]
        return stem if stem in items else None

    def _idle(self, name: str, work: Plan) -> bool:
        slot = self._slot_of(name)
        return any(n.slot == slot and n.name in work.idle for n in self.emitted.schedulable.nodes)

    def module(self, work: Plan | None = None) -> fx.GraphModule:
        """The graph module for a step; without a plan, that of a step in which all operators
        have something to do."""
        key = (work.idle, work.silent) if work else (frozenset[str](), frozenset[str]())
        if key not in self._modules_by_work:
            empty = key[1] & self.emitted.schedulable.clips.keys()
            whole = not key[0] and not empty
            graph = self.emitted.graph if whole else without(self.emitted.graph, key[0], empty)
            self._modules_by_work[key] = self._bind(graph)
        return self._modules_by_work[key]

    def _bind(self, graph: fx.Graph) -> fx.GraphModule:
        """A graph module whose ``self`` is the model: it shares the model's own dictionaries, so
        that whatever moves or replaces a parameter is seen."""
        root = _sharing(self.model)
        root._modules = self._children
        graph = with_torch_functions(graph)
        for node in graph.nodes:
            first = str(node.target).partition(".")[0]
            if node.op in ("call_module", "get_attr") and first in _OF_GRAPHS:
                node.target = f"{self._own_name}.{node.target}"
        with graph.on_generate_code(lambda _: hoisted(graph)):
            module = silent(fx.GraphModule(root, graph, type(self.model).__name__))
        module._modules, module._parameters = self._children, self.model._parameters
        module._buffers = self.model._buffers
        return module


def _may_widen(module: MarkovWindow | MarkovConcat) -> bool:
    return isinstance(module, MarkovConcat) or isinstance(module.call.call, SpacePad)


#: Names that a child of the model may have, and that are something else on a graph module.
_OF_GRAPHS = frozenset(dir(fx.GraphModule(nn.Module(), fx.Graph())))


def _sharing(model: nn.Module) -> nn.Module:
    """A module with the children, the parameters and the buffers of another one: the same
    dictionaries."""
    other = nn.Module()
    other._modules, other._parameters = model._modules, model._parameters
    other._buffers = model._buffers
    return other


def without(graph: fx.Graph, idle: frozenset[str], empty: Set[str] = frozenset()) -> fx.Graph:
    """The graph without the nodes named; their results are None.

    Args:
        empty: inputs without frames: None to all that would read them, but sizes and device.
    """
    out = fx.Graph()
    env: dict[fx.Node, Any] = {}
    known: dict[fx.Node, Any] = {}  # the empty inputs too
    for node in graph.nodes:
        if node.name in idle:
            env[node] = known[node] = None
            continue
        given = known if of_clip_alone(node) else env
        args = fx.map_arg(node.args, given.__getitem__)
        kwargs = fx.map_arg(node.kwargs, given.__getitem__)
        known[node] = out.create_node(node.op, node.target, args, kwargs, name=node.name)
        env[node] = None if node.name in empty else known[node]
    out.eliminate_dead_code(is_impure_node=lambda n: n.op != "get_attr")
    return out
