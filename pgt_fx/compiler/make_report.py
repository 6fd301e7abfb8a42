"""Make the report of a model from the analysis and from what each operator's kind says."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

from torch import fx

from pgt_fx.compiler.analysis.attention_memory import grows, memory_size
from pgt_fx.compiler.analysis.gates import gates
from pgt_fx.compiler.analysis.latency import latency
from pgt_fx.compiler.analysis.longest_step import longest_step
from pgt_fx.compiler.analysis.operator_graph import network
from pgt_fx.compiler.analysis.receptive_field import Reach, reach_of_output, reaches
from pgt_fx.compiler.analysis.timed_graph import Analysis, Operation
from pgt_fx.compiler.guards import guards_of
from pgt_fx.compiler.lowering.state_bytes import state_bytes
from pgt_fx.compiler.report import MOVING, Report, Row
from pgt_fx.core.errors import Place
from pgt_fx.core.options import Options
from pgt_fx.rules.kinds.verdicts import CONTEXT, STEP, TRAINING, Verdict
from pgt_fx.runtime.step_graph import Emitted

MOVED = (
    "is written in train mode before the answer is computed from it (the power iteration of a "
    "spectral norm): once in each step, where the model does so once for the whole video"
)


@dataclass(frozen=True)
class Stands:
    """Where one operator stands in the model, as its kind is shown it
    (:class:`pgt_fx.rules.kinds.protocols.Standing`)."""

    analysis: Analysis
    operation: Operation
    options: Options
    gates: set[str]

    @property
    def op(self) -> str:
        return self.operation.place.op.removeprefix("aten.")

    @property
    def gated(self) -> bool:
        return self.operation.node.name in self.gates

    @property
    def joins(self) -> bool:
        return bool(self.operation.joins)

    @property
    def apart(self) -> bool:
        name = self.operation.node.name
        return name in self.analysis.apart and not _returned(self.analysis, self.operation)

    @property
    def memory(self) -> int | None:
        return memory_size(self.analysis, self.operation, self.options)


def make_report(
    analysis: Analysis,
    waiting: Analysis | None,
    options: Options,
    emitted: Emitted,
    model: str,
    checked: str,
) -> Report:
    """Collect the report of a model under some options.

    Args:
        waiting: the same analysis under ``future="wait"``; None where that refuses the model.
        model: name of its class.
        checked: what the self-check has compared.
    """
    reach = reaches(analysis)
    gated = gates(analysis)
    by_slot = state_bytes(analysis, emitted)
    rows, refused = [], []
    for operation in analysis.operations.values():
        if operation.outcome.frame_by_frame and not operation.joins and not operation.tables:
            continue
        found = operation.outcome.verdict(Stands(analysis, operation, options, gated))
        row = _row(operation, found, reach, by_slot)
        rows.append(row)
        if found.depends_on_cuts and not found.excused:
            refused.append(row)
    rows += [_moving(memory.place) for memory in analysis.captured.moving]
    total = sum(count for slot, count in by_slot.items() if not slot.startswith("@"))
    output = next((o for o in analysis.outputs if isinstance(o, fx.Node)), None)
    clip = analysis.captured.clip
    fields = reach_of_output(analysis, output, reach)
    if clip is not None:
        carries = options.memory is not None
        fields = [
            Reach(Fraction(n), None if carries else 0, n - 1, None if carries else n)
            for n in clip.frames
        ]
    local = sum(o.outcome.frame_by_frame for o in analysis.operations.values())
    exact = not any(r.verdict in (STEP, CONTEXT) or r.what == MOVING for r in rows)
    return Report(
        model=model,
        clip=[tuple(s) for s in analysis.spec.shapes if s is not None],
        options={
            "operator": options.operator,
            "future": options.future,
            "pooling": options.pooling,
            "attention": options.attention,
        },
        rows=rows,
        local=local,
        receptive_field=[f.field for f in fields],
        stride=[str(f.stride) for f in fields],
        look_ahead=[f.future for f in fields],
        latency=min(clip.frames) - 1
        if clip is not None
        else None
        if waiting is None or output is None or any(f.future is None for f in fields)
        else latency(waiting, output, min((f.stride for f in fields), default=Fraction(1))),
        state_bytes=total,
        exact=exact,
        clip_pools=len(analysis.captured.global_pools),
        grows=grows(analysis, options),
        lengths=str(analysis.lengths),
        longest_step=longest_step(analysis),
        steps="" if clip is None else str(clip),
        guards=guards_of(analysis),
        idle=list(analysis.captured.idle),
        checked=checked,
        _refused=tuple(refused),
        _graph=network(analysis, reach),
        _strict=options.strict,
    )


def _row(
    operation: Operation,
    found: Verdict,
    reach: dict[str, dict[int, Reach]],
    state: dict[str, int],
) -> Row:
    where = operation.place
    worst = max(
        reach.get(operation.node.name, {}).values(),
        key=lambda r: math.inf if r.field is None else r.field,
        default=None,
    )
    past = future = None
    stride = ""
    if worst is not None:
        past, future, stride = worst.past, worst.future, str(worst.stride)
    return Row(
        where.module or where.op.removeprefix("aten."),
        found.what,
        found.verdict,
        found.reason,
        past,
        future,
        stride,
        state.get(f"@{operation.node.name}", 0),
        where.source,
        where.line,
    )


def _moving(where: Place) -> Row:
    name = ".".join(filter(None, (where.module, where.op)))
    return Row(name, MOVING, TRAINING, MOVED, None, None, "", 0, where.source, where.line)


def reproduces(analysis: Analysis, options: Options) -> bool:
    """Whether the outputs under ``future="wait"`` are the model's own: ``Report.exact``, alone."""
    gated = gates(analysis)
    operations = analysis.operations.values()
    found = (o.outcome.verdict(Stands(analysis, o, options, gated)) for o in operations)
    return not analysis.captured.moving and not any(v.depends_on_cuts for v in found)


def _returned(analysis: Analysis, operation: Operation) -> bool:
    """Whether what a reduction gives is returned as it is."""
    nodes = [o for o in analysis.outputs if isinstance(o, fx.Node)]
    values = [analysis.value(n) for n in nodes]
    return any(v.clock is None and operation.node.name in v.pooled for v in values)
