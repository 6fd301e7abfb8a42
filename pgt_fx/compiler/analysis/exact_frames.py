"""Which output frames equal the original model's, found by arithmetic alone (DESIGN §5).

At every cut, an element whose window reaches behind the last known element was computed with a
padding that stands for a real frame: it is touched. Touched elements touch what reads them.
"""

from __future__ import annotations

import math
from collections.abc import Container
from dataclasses import dataclass
from typing import Any

from torch import fx

from pgt_fx.compiler.analysis.walk import Analysis, Operation, Value
from pgt_fx.core.clocks import Clock, Count
from pgt_fx.core.errors import ClipError
from pgt_fx.core.options import Options
from pgt_fx.core.schedule import check_lengths
from pgt_fx.rules import Concatenated, Reduced, Scanned, StepOnly, Windowed
from pgt_fx.runtime.chunks import check_ratio


def lengths_per_path(chunks: Any, ratio: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Frames of each step in each input path.

    Args:
        chunks: one length per step, of the path with the fewest frames, or one for each path.
        ratio: frames of each path to one of that path.

    Raises:
        OptionError: for what are no lengths.
        ClipError: for lengths below 1, of another number of paths, or that add up to a video
            whose paths don't have the example's lengths to one another.
    """
    given = chunks if isinstance(chunks, list | tuple) else check_lengths("chunks", chunks)
    lengths = [
        tuple(check_lengths("chunks", n))
        if isinstance(n, list | tuple)
        else tuple(check_lengths("chunks", [n])[0] * r for r in ratio)
        for n in given
    ]
    if any(len(n) != len(ratio) for n in lengths):
        raise ClipError(
            f"chunks: expected one length per step, or one for each of the {len(ratio)} input "
            f"paths, got {list(chunks)}"
        )
    if not lengths or min(min(n) for n in lengths) < 1:
        raise ClipError(f"chunks: expected lengths of at least one frame, got {list(chunks)}")
    check_ratio(ratio, [sum(n) for n in zip(*lengths, strict=True)])
    return lengths


def exact_frames(analysis: Analysis, options: Options, chunks: list[tuple[int, ...]]) -> list[bool]:
    """One flag per element of the model's first output; see ``Progressive.exact_frames``."""
    return _Marks(analysis, options, chunks).run()


def _elements(value: Value) -> int:
    """Elements of an output's time axis for one of its timeline: several where those of a frame
    are merged with it."""
    merged = [dim for dim in value.layout or () if any(f.time for f in dim)]
    return math.prod(f.size for dim in merged for f in dim if not f.time)


@dataclass(frozen=True)
class Context:
    """What one operator carries under CMCO and PMCO.

    Attributes:
        replaced: elements of its operand in whose place it carries something else.
        history: whether it carries any, for a momentum average to go on from.
    """

    replaced: frozenset[int] = frozenset()
    history: bool = False


class _Marks:
    """Touched elements of every value, step by step."""

    def __init__(self, analysis: Analysis, options: Options, chunks: list[tuple[int, ...]]) -> None:
        self.analysis, self.options = analysis, options
        self.cuts = [tuple(0 for _ in chunks[0])]
        for chunk in chunks:
            self.cuts.append(tuple(a + b for a, b in zip(self.cuts[-1], chunk, strict=True)))
        self.touched: dict[str, list[bool]] = {}
        self.pooled: dict[str, bool] = {}
        self.firsts: dict[str, bool] = {}  # of a first frame taken apart
        self.contexts: dict[str, Context] = {}

    def run(self) -> list[bool]:
        output = next(o for o in self.analysis.outputs if isinstance(o, fx.Node))
        value = self.analysis.value(output)
        marks: list[bool] = []
        single = False
        for number in range(1, len(self.cuts)):
            self._step(number)
            if value.clock is None:
                single = self._from_pools(value)
            else:
                old = value.clock.at(self.cuts[number - 1], False).total
                new = self._now(value.clock, number).total
                found = self.touched[output.name]
                marks += [found[j] or self._from_pools(value) for j in range(old, new)]
        if value.clock is None:
            return [not single]
        return [not m for m in marks for _ in range(_elements(value))]

    def _now(self, clock: Clock, number: int) -> Count:
        return clock.at(self.cuts[number], number == len(self.cuts) - 1)

    def _from_pools(self, value: Value) -> bool:
        return any(self.pooled.get(name, False) for name in value.pooled)

    def _step(self, number: int) -> None:
        for node in self.analysis.captured.graph.nodes:
            operation = self.analysis.operations.get(node.name)
            if operation is None:
                self._pass_on(node, number)
            else:
                self._operation(node, operation, number)

    def _pass_on(self, node: fx.Node, number: int) -> None:
        """Inputs are never touched; an item of several results is as touched as the whole."""
        value = self.analysis.values.get(node.name)
        if not isinstance(value, Value) or value.clock is None:
            return
        if node.op == "placeholder":
            self.touched[node.name] = [False] * self._now(value.clock, number).total
        elif node.args and isinstance(node.args[0], fx.Node):
            self.touched[node.name] = self.touched.get(node.args[0].name, [])

    def _operation(self, node: fx.Node, operation: Operation, number: int) -> None:
        outcome = operation.outcome
        sources = self.analysis.streams(node)
        values = operation.value if isinstance(operation.value, list) else [operation.value]
        clock = next((v.clock for v in values if v.clock is not None), None)
        if isinstance(outcome, Reduced):
            self._reduction(node, operation, sources, number)
            return
        alone = len(self.cuts) == 2
        whole = isinstance(outcome, StepOnly) and not alone
        if clock is None:
            self.pooled[node.name] = whole or any(any(self.touched[s.name]) for s in sources)
            return
        marks = self.touched.setdefault(node.name, [])
        before = clock.at(self.cuts[number - 1], False).sure
        now = self._now(clock, number)
        del marks[before:]
        if isinstance(outcome, StepOnly) and outcome.restarts and number == 1:
            whole = False
        gate = any(self._from_pools(v) for v in values if v.clock is not None)
        for j in range(before, now.total):
            if whole or gate:
                marks.append(True)
            elif isinstance(outcome, Windowed):
                replaced = self.contexts[node.name].replaced if node.name in self.contexts else ()
                marks.append(self._window(outcome, sources[0], j, number, replaced))
            elif isinstance(outcome, Scanned):
                marks.append(self._scanned(outcome, sources, marks, j))
            elif isinstance(outcome, Concatenated):
                marks.append(self._part(outcome, j))
            else:
                marks.append(any(self.touched[s.name][j] for s in sources))
        if isinstance(outcome, Scanned):  # its last state is that of the frames so far
            last = number == len(self.cuts) - 1
            self.pooled[node.name] = any(marks) or not (alone or last)
        if isinstance(outcome, Windowed) and not self.options.markov.exact:
            self._hand_on(node, outcome, sources[0], number)

    def _part(self, outcome: Concatenated, j: int) -> bool:
        """An element of a concatenation is as touched as it was in the part that it is from."""
        for node, length in zip(outcome.parts, outcome.lengths, strict=True):
            if length is None or j < length:
                value = self.analysis.value(node)
                if value.timed:
                    return self.touched[node.name][j]
                return any(self.firsts[name] for name in value.pooled)
            j -= length
        return False

    def _scanned(self, outcome: Scanned, sources: list[fx.Node], marks: list[bool], j: int) -> bool:
        """A scan is touched from the first touched element on; an attention by the keys it sees."""
        if not outcome.keys:
            return any(marks[-1:]) or self.touched[sources[0].name][j]
        first = 0 if outcome.window is None else max(0, j - outcome.window)
        return any(self.touched[s.name][j] for s in sources) or any(
            any(self.touched[s.name][first:j]) for s in outcome.keys
        )

    def _window(
        self, outcome: Windowed, source: fx.Node, j: int, number: int, replaced: Container[int]
    ) -> bool:
        clock = self.analysis.value(source).clock
        if clock is None:
            return False
        known = self._now(clock, number).total
        real = clock.at(self.cuts[-1], True).total
        marks = self.touched[source.name]
        law = outcome.law
        for tap in law.taps(j):
            if tap >= known and known < real and (tap < real or outcome.mode != "constant"):
                return True  # a padding stands where a real frame will, or copies another one
            at = law.stands_for(tap, known)
            if at is not None and 0 <= at < known and (marks[at] or at in replaced):
                return True
        return False

    def _hand_on(self, node: fx.Node, outcome: Windowed, source: fx.Node, number: int) -> None:
        """What the next step finds in place of carried elements (CMCO, PMCO)."""
        law, markov = outcome.law, self.options.markov
        of, out = self.analysis.value(source).clock, self.analysis.value(node).clock
        dtype = source.meta["val"].dtype
        if of is None or out is None or not dtype.is_floating_point:
            return
        then, now = of.at(self.cuts[number - 1], False), self._now(of, number)
        old, new = out.at(self.cuts[number - 1], False), self._now(out, number)
        if now.total == then.sure and new.total == old.sure:
            return  # idle: it carries what it carried
        before = self.contexts.get(node.name, Context())
        first, end = law.context(new.sure, now.sure)
        seen = now.total - max(0, min(law.keep(old.sure, then.sure), then.sure))
        pooled = markov.aggregate != "none" and (seen != end - first)
        replaced = frozenset(range(first, end))
        if not pooled and not (markov.momentum and before.history):
            replaced &= before.replaced
        self.contexts[node.name] = Context(replaced, end > first)

    def _reduction(
        self, node: fx.Node, operation: Operation, sources: list[fx.Node], number: int
    ) -> None:
        alone = len(self.cuts) == 2
        last = number == len(self.cuts) - 1
        running = self.options.pooling == "running"
        outcome = operation.outcome
        marks = self.touched[sources[0].name]
        self.firsts[node.name] = any(marks[:1])
        if isinstance(outcome, Reduced) and outcome.how in ("first", "last") and marks:
            # Only one element is read: the step policy's last step has the video's last element.
            at = 0 if outcome.how == "first" else -1
            wrong = marks[at] or not (alone or (last if at else running))
        else:
            wrong = any(marks) or not (alone or (running and last))
        pools = any(
            self._from_pools(v)
            for s in sources
            if isinstance(v := self.analysis.values[s.name], Value)
        )
        self.pooled[node.name] = wrong or pools
