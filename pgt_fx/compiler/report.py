"""The report: what the analysis found, as a table that a person wants to read."""

from __future__ import annotations

import io
from dataclasses import asdict, dataclass, field
from textwrap import indent
from typing import Any

import networkx as nx
from rich.console import Console, Group
from rich.text import Text

from pgt_fx.capture.observe.uncalled_layers import listed
from pgt_fx.compiler.guards import Guard
from pgt_fx.core.counts import counted, plural
from pgt_fx.core.errors import ExactnessError
from pgt_fx.core.text_tables import Fitted
from pgt_fx.rules.kinds.verdicts import CONTEXT, STEP

#: What is said of a buffer that each call in train mode writes, and its answer is computed from.
MOVING = "buffer that each call moves on"


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
        steps: of a model whose step is a clip, that it is and why: "a step is a clip of 16 frames,
            because of model.py:12: …"; else "".
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
    steps: str
    guards: tuple[Guard, ...]
    idle: list[str]
    checked: str
    _refused: tuple[Row, ...] = field(repr=False, compare=False)
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
        rows = self._refused
        if self.options["future"] != "wait" or not self._strict or not rows:
            return
        lines = "\n".join(f"  {i}. {r.place}\n    {r.reason}" for i, r in enumerate(rows, 1))
        raise ExactnessError(
            f'future="wait" promises the model\'s own outputs, and no bounded state reproduces '
            f"{counted(len(rows), 'operator')} of it:\n{lines}\n"
            "Take the part of the model in front of them, or pass strict=False: these operators "
            "are then computed within each step."
            + (f" Here {self.steps}." if self.steps else "")
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
                if self.longest_step and not self.steps
                else {}
            )
            | ({"steps": self.steps} if self.steps else {})
            | ({"not run": listed(self.idle)} if self.idle else {})
            | {"self-check": self.checked}
        )

    def __str__(self) -> str:
        stream = io.StringIO()
        Console(file=stream, width=150, color_system=None).print(self)
        return "\n".join(line.rstrip() for line in stream.getvalue().splitlines())


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
