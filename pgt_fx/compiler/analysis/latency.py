"""How many frames a model waits for: until its first answer, and until an answer is final.

Both follow from how many elements there are after any number of frames, as exact functions of that
number (:meth:`pgt_fx.core.clocks.Clock.counts_so_far`).
"""

from __future__ import annotations

from fractions import Fraction

from torch import fx

from pgt_fx.compiler.analysis.timed_graph import Analysis, Value
from pgt_fx.core.clocks import Clock
from pgt_fx.core.lengths.questions import at_most
from pgt_fx.core.lengths.sets import (
    ANY_LENGTH,
    MOST_ONE_BY_ONE,
    NO_LENGTH,
    LengthSet,
    NotQuasiLinear,
)
from pgt_fx.runtime.plan import Node
from pgt_fx.runtime.plan_items import Item
from pgt_fx.runtime.step_graph import Emitted


def until_final(clock: Clock, ratio: tuple[int, ...], stride: Fraction) -> int | None:
    """Most frames from an element's own frame to the one with which it is final, of a value with
    this clock; None where it never is, or where this is not known.

    An element's own frame is its number times the frames per element.

    Args:
        stride: frames per element of a value that ends (``x[:, :, :5]``); of others it
            follows from their number.
    """
    try:
        counts = clock.counts_so_far(ratio).sure
    except NotQuasiLinear:
        return None
    last = counts.pieces[-1]
    period = len(last.values)
    if last.start + 2 * period > MOST_ONE_BY_ONE or not (counts(last.start + period) or 0):
        return None
    gain = last.steps[0]
    each = Fraction(period) / gain if gain else stride
    worst, done = 0, 0
    # In the last piece all repeats, one period later for as many elements as a period brings.
    for n in range(1, last.start + 2 * period):
        now = int(counts(n) or 0)
        if now > done:
            worst = max(worst, n - 1 - int(done * each))
            done = now
    return worst


def first_answers(emitted: Emitted, ratio: tuple[int, ...]) -> LengthSet:
    """The lengths of a first step that gives an output, of a video that goes on after it; what
    :func:`pgt_fx.runtime.plan.plan` plans, for all lengths at once.

    Raises:
        NotQuasiLinear: where they can't be determined.
    """
    graph = emitted.schedulable
    speaks = dict.fromkeys(graph.clips, ANY_LENGTH)
    for node in graph.nodes:
        fed = ANY_LENGTH
        for name in node.inputs:
            fed &= speaks.get(name, ANY_LENGTH)
        speaks[node.name] = fed if node.slot is None else _spoken(graph.items, node, fed, ratio)
    output = next(n for n in emitted.graph.nodes if n.op == "output")
    found = NO_LENGTH
    for operand in output.all_input_nodes:
        found |= speaks.get(operand.name, ANY_LENGTH)
    return found


def _spoken(
    items: dict[str, Item], node: Node, fed: LengthSet, ratio: tuple[int, ...]
) -> LengthSet:
    """Where a node with a state has elements to hand on that it had not before the first frame."""
    clock, before, alone = items[str(node.slot)].answers(ratio)
    found = at_most(before + 1, clock.counts_so_far(ratio).total)
    return found if alone else found & fed


def latency(analysis: Analysis, output: fx.Node, stride: Fraction) -> int | None:
    """Frames from an element's own frame to the moment it is final; None where it never is, or it
    can't be told.

    Args:
        analysis: under ``future="wait"``.
        stride: frames per element of the output.
    """
    value = analysis.value(output)
    sources = [output]
    if value.clock is None:
        sources = [
            s
            for name in value.pooled
            for s in analysis.operations[name].node.all_input_nodes
            if isinstance(v := analysis.values[s.name], Value) and v.clock is not None
        ]
    worst = 0
    for source in sources:
        clock = analysis.value(source).clock
        if clock is None or analysis.value(source).pooled:
            return None
        late = until_final(clock, analysis.spec.ratio, stride)
        if late is None:
            return None
        worst = max(worst, late)
    return worst
