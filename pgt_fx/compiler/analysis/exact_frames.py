"""Which output frames equal the original model's, found by arithmetic alone (DESIGN §5).

At every cut, an element whose window reaches past the last known element was computed with a
padding that stands for a real frame: it is touched. Touched elements touch what reads them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from torch import fx

from pgt_fx.capture.guards.size_guard import without_time
from pgt_fx.capture.guards.symbolic_sizes import expression
from pgt_fx.compiler.analysis.timed_graph import Analysis, Operation, Value
from pgt_fx.core.clocks import Clock, Count
from pgt_fx.core.errors import ClipError
from pgt_fx.core.options import Options
from pgt_fx.core.schedule import check_lengths
from pgt_fx.rules.kinds.protocols import Context
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
    if analysis.captured.clip is not None:
        analysis.captured.clip.check(chunks)
        return [len(chunks) == 1]  # of a longer video the model has no answer
    return _Marks(analysis, options, chunks).run()


def _elements(analysis: Analysis, output: fx.Node) -> int:
    """Elements of an output's time axis for one of its timeline, where the clip's batch and space
    are the example's: several where those of a frame are merged with it."""
    captured, value = analysis.captured, analysis.value(output)
    at = dict(captured.sizes.known)
    if captured.branches is not None:
        at |= captured.branches.questions.at(without_time(analysis.spec))
    count = 1
    for size, dim in zip(output.meta["val"].shape, value.layout or (), strict=True):
        times = [f.size for f in dim if f.time]
        if times:
            count *= int(expression(size).xreplace(at)) // math.prod(times)
    return count


@dataclass
class _Cut:
    """One operator in one step, as its kind is shown it
    (:class:`pgt_fx.rules.kinds.protocols.Cut`)."""

    walk: _Marks
    node: fx.Node
    number: int

    def __post_init__(self) -> None:
        self.options = self.walk.options
        self.streams = self.walk.analysis.streams(self.node)
        self.first, self.last = self.number == 1, self.number == len(self.walk.cuts) - 1
        self.alone = len(self.walk.cuts) == 2
        self.marks = self.walk.touched.setdefault(self.node.name, [])

    @property
    def context(self) -> Context:
        return self.walk.contexts.get(self.node.name, Context())

    @context.setter
    def context(self, value: Context) -> None:
        self.walk.contexts[self.node.name] = value

    def touched(self, operand: fx.Node) -> list[bool]:
        return self.walk.touched[operand.name]

    def element(self, operand: fx.Node, number: int) -> bool:
        analysis = self.walk.analysis
        value = analysis.value(operand)
        if value.timed:
            return self.walk.touched[operand.name][number]
        made_of = [analysis.streams(analysis.operations[n].node)[0].name for n in value.pooled]
        return any(any(self.walk.touched[name][:1]) for name in made_of)

    def pools(self) -> bool:
        values = (self.walk.analysis.values[s.name] for s in self.streams)
        return any(self.walk.from_pools(v) for v in values if isinstance(v, Value))

    def then(self, value: fx.Node) -> Count:
        return self._clock(value).at(self.walk.cuts[self.number - 1], False)

    def now(self, value: fx.Node) -> Count:
        return self._clock(value).at(self.walk.cuts[self.number], self.last)

    def whole(self, value: fx.Node) -> int:
        return self._clock(value).at(self.walk.cuts[-1], True).total

    def _clock(self, value: fx.Node) -> Clock:
        clock = self.walk.analysis.value(value).clock
        if clock is None:
            raise AssertionError("a value without time has no elements to count")
        return clock


class _Marks:
    """Touched elements of every value, step by step."""

    def __init__(self, analysis: Analysis, options: Options, chunks: list[tuple[int, ...]]) -> None:
        self.analysis, self.options = analysis, options
        self.cuts = [tuple(0 for _ in chunks[0])]
        for chunk in chunks:
            self.cuts.append(tuple(a + b for a, b in zip(self.cuts[-1], chunk, strict=True)))
        self.touched: dict[str, list[bool]] = {}
        self.pooled: dict[str, bool] = {}
        self.contexts: dict[str, Context] = {}

    def run(self) -> list[bool]:
        output = next(o for o in self.analysis.outputs if isinstance(o, fx.Node))
        value = self.analysis.value(output)
        marks: list[bool] = []
        single = False
        for number in range(1, len(self.cuts)):
            self._step(number)
            if value.clock is None:
                single = self.from_pools(value)
            else:
                old = value.clock.at(self.cuts[number - 1], False).total
                new = self._now(value.clock, number).total
                found = self.touched[output.name]
                marks += [found[j] or self.from_pools(value) for j in range(old, new)]
        if value.clock is None:
            return [not single]
        return [not m for m in marks for _ in range(_elements(self.analysis, output))]

    def _now(self, clock: Clock, number: int) -> Count:
        return clock.at(self.cuts[number], number == len(self.cuts) - 1)

    def from_pools(self, value: Value) -> bool:
        """Whether a value depends on a touched one that was pooled over time."""
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
        kind, cut = operation.outcome, _Cut(self, node, number)
        values = operation.value if isinstance(operation.value, list) else [operation.value]
        clock = next((v.clock for v in values if v.clock is not None), None)
        if clock is None:
            self.pooled[node.name] = kind.touched_whole(cut)
            return
        before = clock.at(self.cuts[number - 1], False).sure
        now = self._now(clock, number)
        del cut.marks[before:]
        gate = any(self.from_pools(v) for v in values if v.clock is not None)
        for j in range(before, now.total):
            cut.marks.append(gate or kind.touched(j, cut))
        self.pooled[node.name] = kind.touched_state(cut)
        kind.after(cut)
