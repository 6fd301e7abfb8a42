"""An attention of a model that takes whole clips, with keys and values of the clips before (DESIGN
§6)."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import fx

from pgt_fx.capture.attention.clip_attention import Turn
from pgt_fx.capture.attention.clip_keys import ClipKeys, Table
from pgt_fx.capture.schema import named
from pgt_fx.core.counts import counted
from pgt_fx.core.options import AttentionMemory, Options
from pgt_fx.rules.kinds.per_step import StepOnly
from pgt_fx.rules.kinds.protocols import Emission, Standing
from pgt_fx.rules.kinds.verdicts import STEP, Verdict
from pgt_fx.runtime.markov import clip_memory
from pgt_fx.runtime.plan_items import ClipsItem

SEES = "attends over the frames of the clip"


@dataclass(frozen=True)
class ClipAttends(StepOnly):
    """The sum of an attention over the frames of a clip: the whole of it where keys and values of
    the clips before are carried (``attention="memory"``).

    Attributes:
        found: its products, and what stands between them.
    """

    found: ClipKeys | None = None

    attends: ClassVar[bool] = True

    @property
    def name(self) -> str:
        return "steponly"

    @property
    def keys(self) -> ClipKeys:
        if self.found is None:
            raise AssertionError("no attention")
        return self.found

    def remembers(self, options: Options) -> bool:
        return options.memory is not None

    def memory(self, options: Options, clip: int) -> int | None:
        return 0 if options.memory is None else options.memory.whole_clips

    def opened(self, options: Options) -> tuple[fx.Node, ...]:
        if options.memory is None:
            return ()
        rotary = self.keys.rotary
        inner = () if rotary is None else _Turning(self.keys).read
        return (*self.keys.attention.read, *inner)

    def verdict(self, standing: Standing) -> Verdict:
        memory = standing.options.memory
        if memory is None:
            return Verdict(standing.op, STEP, SEES)
        clips = counted(memory.whole_clips, "clip")
        how = "beside" if memory.beside else "in place of"
        words = f"{SEES}; finds the keys of {clips} before {how} its own; {self._positions(memory)}"
        return Verdict(standing.op, STEP, words)

    def _positions(self, memory: AttentionMemory) -> str:
        """What is made of their positions."""
        tables = [t for t in self.keys.tables.values() if t.kind == "table"]
        if self.keys.turned:
            if self.keys.rotary is None:
                return "rotary positions are those that they had in their clip"
            return "rotary positions are continued"
        if not tables:
            return "their positions are those that they had in their clip"
        if memory.positions == "none" or self.keys.farthest is None:
            why = "" if memory.positions == "none" else ", as where they stand can't be determined"
            return f"nothing is added of the table of positions for them{why}"
        if all(t.near is not None for t in tables):
            return "the table of positions is read by distance, and beyond its end by its end"
        return "the table of positions is continued by its farthest entry"

    def emit(self, step: Emission) -> None:
        memory = step.options.memory
        if memory is None:
            super().emit(step)
            return
        _Writing(step, self.keys, memory).write()
        clips = counted(memory.whole_clips, "clip")
        step.note(f"attends to the keys of {clips} before, and to those of this step")


class _Writing:
    """One attention in the graph of a step."""

    def __init__(self, step: Emission, keys: ClipKeys, memory: AttentionMemory) -> None:
        self.step, self.found, self.memory = step, keys, memory
        self.attention = keys.attention

    def write(self) -> None:
        keys, values = self._keys(), self._values()
        if self.attention.softmax is None:
            self.step.result(self._whole(keys, values))
        else:
            self.step.result(self._spelled(self.attention.softmax, keys, values))

    # -- what is carried -----------------------------------------------------------------------

    def _keys(self) -> fx.Node:
        step, side = self.step, self.attention.keys
        item = ClipsItem(step.common, self.memory.whole_clips)
        slot = step.slot("keys")
        if self.found.rotary is None:
            module = clip_memory.MarkovClips(slot, side.dim)
            return step.carry(module, slot, (side.node,), item, of=side.node)
        turning, rotary = _Turning(self.found), self.found.rotary
        turned = clip_memory.MarkovTurnedClips(
            slot,
            side.dim,
            turning.module(),
            tuple(dim for _, dim in rotary.phases),
            rotary.first,
            rotary.last,
            rotary.share,
        )
        return step.carry(turned, slot, turning.read, item, of=rotary.source)

    def _values(self) -> fx.Node:
        step, side = self.step, self.attention.values
        slot = step.slot("values")
        module = clip_memory.MarkovClips(slot, side.dim)
        item = ClipsItem(step.common, self.memory.whole_clips)
        return step.carry(module, slot, (side.node,), item, of=side.node)

    # -- spelled as products -------------------------------------------------------------------

    def _spelled(self, softmax: fx.Node, keys: fx.Node, values: fx.Node) -> fx.Node:
        step, attention = self.step, self.attention
        past = step.fresh(torch.ops.aten.sym_size.int, keys, attention.keys.dim)
        there = self._again(attention.product, {attention.keys.node: keys})
        for turn in attention.before:
            there = self._before(turn, there, past)
        rest = list(named(softmax).values())[2:]
        scores = self._given(softmax.args[0])
        pair = step.fresh(
            clip_memory.normalised, there, scores, softmax.target, rest, self.memory.beside
        )
        old, own = (step.fresh(operator.getitem, pair, k) for k in (0, 1))
        last: Any = softmax
        for turn in attention.after:
            own = self._again(turn.node, {turn.map: own})
            old = (
                step.fresh(clip_memory.rows_as, old, own)
                if turn.how == "view"
                else self._again(turn.node, {turn.map: old})
            )
            last = turn.node
        total = self._again(attention.sum, {last: own})
        other = self._again(attention.sum, {last: old, attention.values.node: values})
        return step.fresh(operator.add, total, other)

    def _before(self, turn: Turn, there: fx.Node, past: fx.Node) -> fx.Node:
        """The map of the carried keys after one operator on the way to the softmax."""
        step = self.step
        if turn.how == "whole":
            return there
        if turn.how == "view":
            return step.fresh(clip_memory.rows_as, there, self._given(turn.node))
        if turn.how == "same":
            return self._again(turn.node, {turn.map: there})
        table = self.found.tables[turn.node]
        if turn.how == "written":
            added = step.fresh(clip_memory.written, self._given(turn.node), self._given(turn.map))
            found = self._entries(turn.node, table, added, past)
            return there if found is None else step.fresh(operator.add, there, found)
        operand = next(n for n in turn.node.all_input_nodes if n is not turn.map)
        found = self._entries(turn.node, table, self._given(operand), past)
        if found is None:
            return there
        return self._again(turn.node, {turn.map: there, operand: found})

    def _entries(self, node: fx.Node, table: Table, given: fx.Node, past: fx.Node) -> Any:
        """What is added for carried keys; None: nothing."""
        step, count = self.step, self._count()
        if table.kind == "mask":
            columns = torch.arange(count)
        elif self.found.farthest is None or self.memory.positions == "none":
            return None
        else:
            columns = torch.tensor(self.found.farthest)
        at = step.constant(f"{node.name}_columns", columns)
        if table.kind == "table" and table.near is not None:
            near = step.constant(f"{node.name}_near", table.near)
            return step.fresh(clip_memory.continued, given, past, near, at)
        return step.fresh(clip_memory.chosen, given, past, at)

    def _count(self) -> int:
        side = self.attention.keys
        return int(side.node.meta["val"].shape[side.dim])

    # -- as one operator -----------------------------------------------------------------------

    def _whole(self, keys: fx.Node, values: fx.Node) -> fx.Node:
        step, attention = self.step, self.attention
        given = named(attention.sum)
        mask, table = given.pop("attn_mask"), None
        if isinstance(mask, fx.Node) and mask.meta["val"].shape[-1] != 1:
            past = step.fresh(torch.ops.aten.sym_size.int, keys, -2)
            known = self.found.tables[attention.sum]
            table = self._entries(attention.sum, known, self._given(mask), past)
        query, key, value = (self._given(given.pop(n)) for n in ("query", "key", "value"))
        causal = given.pop("is_causal")
        return step.fresh(
            clip_memory.attended,
            query,
            key,
            value,
            (keys, values),
            self._given(mask) if isinstance(mask, fx.Node) else None,
            table,
            causal,
            self.memory.beside,
            given,
        )

    # -- nodes ---------------------------------------------------------------------------------

    def _given(self, node: Any) -> fx.Node:
        return self.step.given(node)

    def _again(self, node: fx.Node, changed: dict[fx.Node, fx.Node]) -> fx.Node:
        """The model's own operator on other operands."""

        def operand(n: fx.Node) -> fx.Node:
            return changed[n] if n in changed else self._given(n)

        args, kwargs = fx.map_arg((node.args, node.kwargs), operand)
        return self.step.fresh(node.target, *args, **kwargs)


class _Turning:
    """The operators by which keys are turned, as a graph of their own.

    Attributes:
        read: what it is given in a step: the keys before it, those after it (which it does not
            read), the phases, and the rest.
    """

    def __init__(self, keys: ClipKeys) -> None:
        if keys.rotary is None:
            raise AssertionError("keys that are not turned")
        self.rotary, self.end = keys.rotary, keys.attention.keys.node
        self.graph = fx.Graph()
        phases = [phase for phase, _ in self.rotary.phases]
        self.env: dict[fx.Node, fx.Node] = {}
        for node in (self.rotary.source, *phases):
            self.env[node] = self.graph.placeholder(node.name)
        self._inner = self._between(set(self.env))
        others: list[fx.Node] = []
        for node in self._inner:
            for operand in node.all_input_nodes:
                if operand not in self._inner and operand not in self.env:
                    others.append(operand)
                    self.env[operand] = self.graph.placeholder(operand.name)
        for node in self._inner:
            self.env[node] = self.graph.node_copy(node, self.env.__getitem__)
        self.graph.output(self.env[self.end])
        self.read = (self.rotary.source, self.end, *phases, *others)

    def module(self) -> fx.GraphModule:
        return fx.GraphModule({}, self.graph)

    def _between(self, start: set[fx.Node]) -> list[fx.Node]:
        """The nodes on a way from the keys or the phases to the turned keys, in order."""
        leads = set(start)
        for node in self.end.graph.nodes:
            if node not in leads and not leads.isdisjoint(node.all_input_nodes):
                leads.add(node)
        needed, queue = set[fx.Node](), [self.end]
        while queue:
            node = queue.pop()
            if node in leads and node not in start and node not in needed:
                needed.add(node)
                queue += node.all_input_nodes
        return sorted(needed)
