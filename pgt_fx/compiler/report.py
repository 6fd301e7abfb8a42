"""The report: what the analysis found, as a table that a person wants to read."""

from __future__ import annotations

import io
import math
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from textwrap import indent
from typing import Any

import networkx as nx
from rich.console import Console, Group
from rich.text import Text
from torch import fx

from pgt_fx.capture.observe.uncalled_layers import listed
from pgt_fx.compiler.analysis.attention_memory import grows, memory_size, remembers
from pgt_fx.compiler.analysis.latency import until_final
from pgt_fx.compiler.analysis.longest_step import longest_step
from pgt_fx.compiler.analysis.operator_graph import network
from pgt_fx.compiler.analysis.receptive_field import Reach, reaches
from pgt_fx.compiler.analysis.walk import Analysis, Operation, Value, analyze_graph
from pgt_fx.compiler.guards import Guard, guards_of
from pgt_fx.compiler.lowering.state_bytes import state_bytes
from pgt_fx.core.counts import counted, plural
from pgt_fx.core.errors import ExactnessError, Place
from pgt_fx.core.options import Options
from pgt_fx.core.text_tables import Fitted
from pgt_fx.rules import Concatenated, Local, Reduced, Scanned, StepOnly, Windowed
from pgt_fx.runtime.step_graph import Emitted

EXACT, STEP, RUNNING, TRAINING = "exact", "step", "running", "step (training)"
CONTEXT = "context"
#: What is said of a buffer that each call in train mode writes, and its answer is computed from.
MOVING = "buffer that each call moves on"
MOVED = (
    "is written in train mode before the answer is computed from it (the power iteration of a "
    "spectral norm): once in each step, where the model does so once for the whole video"
)


@dataclass(frozen=True)
class Row:
    """One operator that does more than work frame by frame.

    Attributes:
        name: dotted path in the user's model, with the operator where a module has several.
        what: the operator in short words.
        verdict: "exact" (its state reproduces the model), "running" (exact once the video has
            ended), "step" (computed within each step), "step (training)", "context" (the past of a
            step is an aggregate: CMCO, PMCO).
        reason: why, for verdicts other than exact.
        past, future: frames that its result reads before and after its own; None: all of time.
        stride: frames per element of its result.
        state_bytes: carried by it, for a batch of one at the example's size.
        source: ``file.py:line``.
    """

    name: str
    what: str
    verdict: str
    reason: str
    past: int | None
    future: int | None
    stride: str
    state_bytes: int
    source: str
    line: str

    @property
    def place(self) -> str:
        """The operator with the user's line."""
        return f"{self.name}: {self.what}" + (f" ({self.source}: {self.line})" * bool(self.source))


@dataclass(frozen=True)
class Report:
    """What is known of a model without running it.

    Attributes:
        model: class of the model.
        clip: sizes of the example.
        options: operator, future, pooling.
        rows: one per temporal operator.
        local: how many operators work frame by frame.
        receptive_field: frames that one output element reads (TRF), per input path; None: all.
        stride: input frames per output element, per input path.
        look_ahead: frames after its own that an output element reads, per path; None: all.
        latency: frames of the slowest path to wait for an output that is exact; None: all.
        state_bytes: carried between steps, for a batch of one at the example's size.
        exact: whether the outputs of ``future="wait"`` are the model's own.
        clip_pools: pools over exactly the clip that were taken as pools over all of time.
        grows: whether the state grows with the video: a causal attention that sees all of the past.
            ``state_bytes`` is then what it is after one clip.
        lengths: frames that a whole video may have, in words ("4n + 1").
        idle: layers of the model that have no part in what it computes for such a clip, though the
            module around them is called: another argument of its forward may run them.
        longest_step: most frames of a step, of the slowest path, where the model has tables of a
            fixed length; None: any number.
        guards: the conditions under which all of this holds.
        checked: what :func:`pgt_fx.transform` compared with the model itself, or why it did not.
    """

    model: str
    clip: list[tuple[int, ...]]
    options: dict[str, Any]
    rows: list[Row]
    local: int
    receptive_field: list[int | None]
    stride: list[str]
    look_ahead: list[int | None]
    latency: int | None
    state_bytes: int
    exact: bool
    clip_pools: int
    grows: bool
    lengths: str
    longest_step: int | None
    guards: tuple[Guard, ...]
    idle: list[str]
    checked: str
    _graph: nx.DiGraph = field(repr=False, compare=False)
    _strict: bool = field(repr=False, compare=False)

    @property
    def inexact(self) -> list[Row]:
        """Operators that no bounded state reproduces, and buffers that every step moves on."""
        return [row for row in self.rows if row.verdict in (STEP, CONTEXT) or row.what == MOVING]

    def check_strict(self) -> None:
        """Refuse ``future="wait"`` where it can't be kept.

        Raises:
            ExactnessError: listing the operators, unless the caller passed ``strict=False``.
        """
        open_ = [r for r in self.inexact if r.what != MOVING]  # training, as a norm's statistics
        rows = [r for r in open_ if r.reason.endswith(GATED) or not _is_pooled(r)]
        if self.options["future"] != "wait" or not self._strict or not rows:
            return
        lines = "\n".join(f"  {i}. {r.place}\n    {r.reason}" for i, r in enumerate(rows, 1))
        raise ExactnessError(
            f'future="wait" promises the model\'s own outputs, and no bounded state reproduces '
            f"{counted(len(rows), 'operator')} of it:\n{lines}\n"
            "Take the part of the model in front of them, or pass strict=False: these operators "
            "are then computed within each step."
            + (
                ""
                if self.options["operator"] == "mco"
                else " With operator='mco' the past is exact."
            ),
            [row.place for row in rows],
        )

    def to_dict(self) -> dict[str, Any]:
        """The report as plain data (JSON-able)."""
        plain = {k: v for k, v in self.__dict__.items() if not k.startswith("_")}
        guards = [asdict(guard) for guard in self.guards]
        return plain | {"rows": [asdict(row) for row in self.rows], "guards": guards}

    def graph(self) -> nx.DiGraph:
        """Operators and how values flow: nodes carry op, module, verdict, stride and reach."""
        return self._graph.copy()

    def __rich__(self) -> Group:
        title = f"{self.model}: {len(self.rows)} temporal operators, {self.local} frame by frame"
        columns = ("operator", "what", "verdict", "past", "future", "stride", "state", "line")
        table = Fitted(columns, title=title, right=(3, 4, 5, 6), whole=(2, 3, 4, 5, 6))
        for r in self.rows:
            style = {"exact": "green", "running": "green", "step": "red"}.get(r.verdict, "yellow")
            table.add_row(
                r.name,
                r.what,
                Text(r.verdict, style=style),
                _inf(r.past),
                _inf(r.future),
                r.stride,
                size(r.state_bytes) if r.state_bytes else "",
                r.source,
            )
        lines = [f"{k:18}{v}" for k, v in self._summary().items()]
        parts: list[Any] = [table, Text(""), Text("\n".join(lines))]
        reasons = dict.fromkeys(r.reason for r in self.rows if r.reason)
        for reason in reasons:
            names = [r.name for r in self.rows if r.reason == reason]
            parts += [Text(""), Text(f"{reason}:"), Text("  " + ", ".join(names))]
        if self.guards:
            parts += [Text(""), Text("holds for:")]
            parts += [Text(indent(str(guard), "  ")) for guard in self.guards]
        return Group(*parts)

    def _summary(self) -> dict[str, str]:
        return (
            {
                "receptive field": _paths(self.receptive_field, "frame"),
                "temporal stride": ", ".join(self.stride),
                "look-ahead": _paths(self.look_ahead, "frame"),
                "latency": f"{_frames(self.latency)} until an output is exact",
                "state": f"{size(self.state_bytes)} at {', '.join(map(str, self.clip))}"
                + (" after one clip; it grows with the video" if self.grows else ""),
                "policy": ", ".join(f"{k}={v}" for k, v in self.options.items()),
                "exact": "outputs under future='wait' are the model's own"
                if self.exact
                else (
                    f"{counted(len(self.inexact), 'operator')} "
                    f"{plural(len(self.inexact), 'depends', 'depend')} on how the video is cut"
                ),
            }
            | (
                {
                    "clip pools": (
                        f"{counted(self.clip_pools, 'pool')} over the clip taken over all of time"
                    )
                }
                if self.clip_pools
                else {}
            )
            | ({"videos": f"of {self.lengths} frames"} if self.lengths != "any number" else {})
            | (
                {"longest step": f"{counted(self.longest_step, 'frame')}"}
                if self.longest_step
                else {}
            )
            | ({"not run": listed(self.idle)} if self.idle else {})
            | {"self-check": self.checked}
        )

    def __str__(self) -> str:
        stream = io.StringIO()
        Console(file=stream, width=150, color_system=None).print(self)
        return "\n".join(line.rstrip() for line in stream.getvalue().splitlines())


GATED = "and is combined with single frames again"


def _is_pooled(row: Row) -> bool:
    return row.what.endswith(("all time", "element"))


def _inf(value: int | None) -> str:
    return "all" if value is None else str(value)


def _frames(value: int | None) -> str:
    return "all frames" if value is None else counted(value, "frame")


def _paths(values: list[int | None], unit: str) -> str:
    return ", ".join(counted(v, unit) if v is not None else "all of time" for v in values)


def size(count: int) -> str:
    """Bytes as text."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count} B"


def make_report(
    analysis: Analysis, options: Options, emitted: Emitted, model: str, checked: str
) -> Report:
    """Collect the report of a model under some options.

    Args:
        model: name of its class.
        checked: what the self-check has compared.
    """
    reach = reaches(analysis)
    gates = _gates(analysis)
    by_slot = state_bytes(analysis, emitted)
    rows = []
    for operation in analysis.operations.values():
        frames = isinstance(operation.outcome, Local) and not operation.joins
        if frames and not operation.tables:
            continue
        row = _row(analysis, operation, options, reach, gates, by_slot)
        if row is not None:
            rows.append(row)
    rows += [_moving(memory.place) for memory in analysis.captured.moving]
    total = sum(count for slot, count in by_slot.items() if not slot.startswith("@"))
    output = next((o for o in analysis.outputs if isinstance(o, fx.Node)), None)
    fields = _fields(analysis, output, reach)
    local = sum(isinstance(o.outcome, Local) for o in analysis.operations.values())
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
        latency=None
        if any(f.future is None for f in fields)
        else _latency(analysis, output, min((f.stride for f in fields), default=Fraction(1))),
        state_bytes=total,
        exact=exact,
        clip_pools=len(analysis.captured.global_pools),
        grows=grows(analysis, options),
        lengths=str(analysis.lengths),
        longest_step=longest_step(analysis),
        guards=guards_of(analysis),
        idle=list(analysis.captured.idle),
        checked=checked,
        _graph=network(analysis, reach),
        _strict=options.strict,
    )


def _row(
    analysis: Analysis,
    operation: Operation,
    options: Options,
    reach: dict[str, dict[int, Reach]],
    gates: set[str],
    state: dict[str, int],
) -> Row | None:
    where = operation.place
    found = reach.get(operation.node.name, {})
    worst = max(
        found.values(), key=lambda r: math.inf if r.field is None else r.field, default=None
    )
    past = future = None
    stride = ""
    if worst is not None:
        past, future, stride = worst.past, worst.future, str(worst.stride)
    what, verdict, reason = _verdict(analysis, operation, options, gates)
    name = _name(where)
    return Row(
        name,
        what,
        verdict,
        reason,
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


def _verdict(
    analysis: Analysis, operation: Operation, options: Options, gates: set[str]
) -> tuple[str, str, str]:
    """What an operator is in short words, its verdict, and the reason."""
    outcome = operation.outcome
    verdict, reason = EXACT, ""
    if isinstance(outcome, Windowed):
        what = outcome.what
        if not options.markov.exact and outcome.law.recalls:
            verdict, reason = CONTEXT, _past_of(options)
    elif isinstance(outcome, Concatenated):
        what = outcome.what
    elif isinstance(outcome, Scanned):
        what = outcome.what
        if operation.node.name in gates:
            verdict, reason = STEP, f"its last state is that of all of time {GATED}"
        elif outcome.keys and outcome.window is None:
            reason = "carries keys and values of all frames so far: its state grows with the video"
    elif isinstance(outcome, Reduced):
        what = outcome.what
        gated = operation.node.name in gates
        verdict = RUNNING if options.pooling == "running" and not gated else STEP
        if gated:
            reason = f"is taken over all of time {GATED}"
        elif operation.node.name in analysis.apart and not _returned(analysis, operation):
            verdict = EXACT
        elif options.pooling == "step":
            reason = "is taken over each step's frames; pooling='running' gives the model's answer"
        elif options.pooling == "markov":
            verdict = STEP
            reason = "is taken over each step's frames and one of the past"
    elif isinstance(outcome, StepOnly):
        what = operation.place.op.removeprefix("aten.")
        verdict, reason = (TRAINING if outcome.training else STEP), outcome.reason
        if remembers(operation, options):
            past = memory_size(analysis, operation, options)
            reason += f"; finds {'all' if past is None else counted(past, 'element')} of the past"
    elif operation.joins:
        what = "join of operands with different delays"
    else:
        what = "beside a table of the frames' positions"
    return what, verdict, reason


def reproduces(analysis: Analysis, options: Options) -> bool:
    """Whether the outputs under ``future="wait"`` are the model's own: ``Report.exact``, alone."""
    gates = _gates(analysis)
    verdicts = (_verdict(analysis, o, options, gates) for o in analysis.operations.values())
    moving = bool(analysis.captured.moving)
    return not moving and all(verdict not in (STEP, CONTEXT) for _, verdict, _ in verdicts)


def _returned(analysis: Analysis, operation: Operation) -> bool:
    """Whether what a reduction gives is returned as it is."""
    nodes = [o for o in analysis.outputs if isinstance(o, fx.Node)]
    values = [analysis.value(n) for n in nodes]
    return any(v.clock is None and operation.node.name in v.pooled for v in values)


def _past_of(options: Options) -> str:
    markov = options.markov
    past = {
        "none": "the last elements",
        "avg": "an average of all elements",
        "max": "the maximum of all elements",
    }
    steps = f", averaged over all steps with momentum {markov.momentum}" if markov.momentum else ""
    return f"finds {past[markov.aggregate]} of the step before in its past{steps}"


def _name(where: Place) -> str:
    op = where.op.removeprefix("aten.")
    return where.module or op


def _gates(analysis: Analysis) -> set[str]:
    """Reductions over time whose result is combined with single frames again."""
    out: set[str] = set()
    for value in analysis.values.values():
        for one in value if isinstance(value, list) else [value]:
            if one.clock is not None:
                out |= one.pooled
    return out


def _fields(
    analysis: Analysis, output: fx.Node | None, reach: dict[str, dict[int, Reach]]
) -> list[Reach]:
    """Reach of the output; of what is pooled where the output is pooled over time."""
    if output is None:
        return []
    if output.name in reach:
        return [reach[output.name][p] for p in sorted(reach[output.name])]
    value = analysis.value(output)
    found: dict[int, Reach] = {}
    for name in sorted(value.pooled):
        for source in analysis.operations[name].node.all_input_nodes:
            for path, one in reach.get(source.name, {}).items():
                if path not in found or _larger(one, found[path]):
                    found[path] = one
    return [found[p] for p in sorted(found)]


def _larger(one: Reach, other: Reach) -> bool:
    """Whether a receptive field is the larger one; all of time is the largest."""
    return other.field is not None and (one.field is None or one.field > other.field)


def _latency(analysis: Analysis, output: fx.Node | None, stride: Fraction) -> int | None:
    """Frames from an element's own frame to the moment it is final, under ``future="wait"``.

    Args:
        stride: frames per element of the output.
    """
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
    for source in sources:
        clock = analysis.value(source).clock
        if clock is None or analysis.value(source).pooled:
            return None
        late = until_final(clock, analysis.spec.ratio, stride)
        if late is None:
            return None
        worst = max(worst, late)
    return worst
