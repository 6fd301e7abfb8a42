"""How much is carried from step to step, beside what must be, and what naive delays would carry?

Counted from the analysis, per model of the zoo under ``future="wait"``; nothing is run or timed.
Three figures, in bytes for a batch of one at the model's own size, once a stream is under way:

- *carried*: what the report says, ``report.state_bytes``.
- *lower bound*: a window of span k (dilation included) and stride s has to hold k − s elements of
  its input between two steps; of the windows that read the same value the largest counts, as one
  tail could serve all. Temporal shifts, delays at joins and at the output, running pools and
  memories of attention count nothing. No placement of delays can carry less. (What is carried is
  counted at the fullest phase, at which a window may hold up to s − 1 elements more.)
- *naive delays*: what the windows carry now, once for those that read the same value, and at every
  join each operand that comes early held back at the join itself, a delay for each.

    pgt-fx bench state
    pgt-fx bench state --models slow_r50 r3d_18
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from harness import digits, one_line, parser, prepare, save, show

import pgt_fx
from pgt_fx import zoo
from pgt_fx.compiler.analysis.timed_graph import Analysis
from pgt_fx.compiler.lowering.retiming import early
from pgt_fx.compiler.lowering.state_bytes import element_bytes, example_sizes
from pgt_fx.core.laws import Window
from pgt_fx.runtime.plan_items import AlignItem


def lower_bound(analysis: Analysis) -> int:
    """Bytes that the windows must hold."""
    sizes, most = example_sizes(analysis), defaultdict[str, int](int)
    for operation in analysis.operations.values():
        law = operation.outcome.sliding()
        if not isinstance(law, Window):
            continue
        source = analysis.streams(operation.node)[0]
        held = max(0, law.span - law.stride)
        size = element_bytes(analysis, source, sizes, pooled=False)
        most[source.name] = max(most[source.name], held * size)
    return sum(most.values())


def naive_delays(analysis: Analysis) -> int:
    """Bytes of delays that stand at the joins themselves."""
    sizes, total = example_sizes(analysis), 0
    for operation in analysis.operations.values():
        if operation.joined is None:
            continue
        for operand in dict.fromkeys(operation.joins):
            clock = analysis.value(operand).clock
            if clock is not None:
                ahead = early(clock, operation.joined, analysis.spec.ratio)
                total += ahead * element_bytes(analysis, operand, sizes, pooled=False)
    return total


def measure(name: str) -> dict[str, Any]:
    """One row; the reason where the model can't be looked at."""
    try:
        model, example = zoo.build(name), zoo.clip(name)
        prog = pgt_fx.transform(model, example, future="wait", pooling="running", strict=False)
        report, analysis = prog.report, prog.inspect.analysis
        emitted = prog.inspect.program.emitted
    except Exception as error:  # each package has its own errors; none may end the survey
        return {"model": name, "refused": one_line(error)}
    by_row = {row.name: row.state_bytes for row in report.rows if row.state_bytes}
    aligned = _aligned(analysis, emitted)
    carried, least = report.state_bytes, lower_bound(analysis)
    naive = carried - aligned + naive_delays(analysis)
    return {
        "model": name,
        "clip": report.clip,
        "carried": carried,
        "of_that_delays": aligned,
        "lower_bound": least,
        "naive_delays": naive,
        "carried_over_lower_bound": digits(carried / least) if least else None,
        "carried_over_naive": digits(carried / naive) if naive else None,
        "grows": report.grows,
        "largest": dict(sorted(by_row.items(), key=lambda x: -x[1])[:5]),
    }


def _aligned(analysis: Analysis, emitted: Any) -> int:
    """Bytes that are carried now as delays: in front of joins and of the model's output."""
    sizes, total = example_sizes(analysis), 0
    for slot, item in emitted.schedulable.items.items():
        own = slot not in emitted.shared and not slot.startswith("output")
        if isinstance(item, AlignItem) and own:
            size = element_bytes(analysis, emitted.origin[slot], sizes, pooled=False)
            total += size * early(item.source, item.out, analysis.spec.ratio)
    return total


def main() -> None:
    cli = parser(__doc__, "state", models=[], allocator="default")
    options = cli.parse_args()
    prepare(options)
    rows: list[dict[str, Any]] = []
    lines = []
    for name in options.models or zoo.names():
        row = measure(name)
        rows.append(row)
        save("state", options, rows)
        kinds = ("carried", "of_that_delays", "lower_bound", "naive_delays")
        kb = [None if k not in row else digits(row[k] / 1e3) for k in kinds]
        ratios = [row.get("carried_over_lower_bound"), row.get("carried_over_naive")]
        lines.append((name, *kb, *ratios, row.get("refused", "")))
    columns = ("model", "carried kB", "of that delays", "lower bound", "naive delays")
    show("state", (*columns, "over bound", "over naive", ""), lines)


if __name__ == "__main__":
    main()
