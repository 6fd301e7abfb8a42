"""How long an output waits until it is final."""

from __future__ import annotations

from fractions import Fraction

from torch import fx

from pgt_fx.compiler.analysis.timed_graph import Analysis, Value
from pgt_fx.compiler.analysis.walk import analyze_graph


def latency(analysis: Analysis, output: fx.Node | None) -> int | None:
    """Frames from an element's own frame to the moment it is final, under ``future="wait"``."""
    if output is None:
        return None
    if analysis.future != "wait":
        analysis = analyze_graph(analysis.captured, analysis.spec, "wait")
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
    ratio = analysis.spec.ratio
    for source in sources:
        clock = analysis.value(source).clock
        if clock is None or analysis.value(source).pooled:
            return None
        counts = [clock.at(tuple(n * r for r in ratio), False).sure for n in range(257)]
        if counts[-1] == 0:
            return None
        period = Fraction(128, max(1, counts[256] - counts[128]))
        for n in range(1, 257):
            for j in range(counts[n - 1], counts[n]):
                worst = max(worst, n - 1 - int(j * period))
    return worst
