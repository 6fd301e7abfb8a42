"""The diagnosis of a model: refused, late, or ready to stream, and why."""

from __future__ import annotations

import copy
import io
import math
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console, Group
from rich.text import Text
from torch import nn

from pgt_fx.capture.observe.failing_line import place_of
from pgt_fx.capture.observe.uncalled_layers import warn_idle
from pgt_fx.compiler.analysis.gates import gates
from pgt_fx.compiler.analysis.receptive_field import reaches
from pgt_fx.compiler.analysis.timed_graph import Operation
from pgt_fx.compiler.lowering.state_bytes import state_bytes
from pgt_fx.compiler.programs import ModelPrograms
from pgt_fx.compiler.report import size
from pgt_fx.compiler.transform import read_model
from pgt_fx.core.clip import TimeDim, read_example
from pgt_fx.core.errors import BlockedError, Blocker, CaptureError, Place
from pgt_fx.core.hints import hinted
from pgt_fx.core.options import ClipPools, Options
from pgt_fx.core.text_tables import Fitted
from pgt_fx.core.torch_private import pytree
from pgt_fx.doctor.delay import LookAhead, delay, look_aheads
from pgt_fx.doctor.findings import Ahead, Findings, Mixing
from pgt_fx.doctor.page import page
from pgt_fx.doctor.picture import picture


@dataclass(frozen=True)
class Diagnosis(Findings):
    """What was found, and how it is shown."""

    def to_html(self) -> str:
        """A page that needs nothing else."""
        return page(self)

    def __rich__(self) -> Group:
        clip = ", ".join("×".join(map(str, s)) for s in self.clip)
        parts: list[Any] = [Text(f"{self.model}, clip {clip}", style="bold"), Text(self.summary)]
        if self.mixing:
            parts += [Text(""), _mixing_table(self.mixing)]
        if self.ahead:
            parts += [Text(""), _ahead_table(self.ahead)]
        for number, (change, names) in enumerate(self.changes.items(), 1):
            parts += [Text(""), Text(f"{number}. {change}", style="bold"), Text(_names(names))]
        return Group(*parts)

    def __str__(self) -> str:
        stream = io.StringIO()
        Console(file=stream, width=140, color_system=None).print(self)
        return "\n".join(line.rstrip() for line in stream.getvalue().splitlines())


def _names(names: list[str]) -> str:
    more = f" and {len(names) - 12} more" if len(names) > 12 else ""
    return "   " + ", ".join(names[:12]) + more


def _held(count: int | None) -> str:
    return "" if count is None else size(count)


def _ahead_table(rows: tuple[Ahead, ...]) -> Fitted:
    columns = ("operator", "what", "frames ahead", "would save", "state", "line")
    many = "looks" if len(rows) == 1 else "look"
    table = Fitted(columns, title=f"{len(rows)} {many} into the future", whole=(2, 3, 4))
    for r in rows:
        cells = (r.name, r.what, f"+{r.frames}", str(r.saves), _held(r.state_bytes), r.source)
        table.add_row(*cells)
    return table


def _mixing_table(rows: tuple[Mixing, ...]) -> Fitted:
    needs = "needs" if len(rows) == 1 else "need"
    title = f"{len(rows)} {needs} all of time, or can't be converted"
    table = Fitted(("operator", "what", "verdict", "reason", "line"), title=title, whole=(2,))
    styles = {"refused": "bold red", "step": "yellow", "running": "green"}
    for r in rows:
        verdict = Text(r.verdict, style=styles[r.verdict])
        where = f"{r.source}: {r.line}" if r.verdict == "refused" else r.source
        table.add_row(r.name, r.what, verdict, r.reason, where)
    return table


def examine(
    model: nn.Module,
    example: Any = None,
    *,
    time_dim: TimeDim = None,
    clip_pools: ClipPools = "auto",
) -> Diagnosis:
    """Look at a model; nothing is converted and nothing raised for a model that can't be.

    Args:
        model, example, time_dim, clip_pools: as for :func:`pgt_fx.transform`.

    Raises:
        ClipError, OptionError: for bad arguments.
        CaptureError: the model itself fails on the example, so there is nothing to diagnose.
    """
    source = read_model(model, example, time_dim, clip_pools)
    clip = [tuple(s) for s in source.spec.shapes if s is not None]
    name = type(model).__name__
    modes = [(m, m.training) for m in model.modules()]
    model.eval()
    try:
        with hinted(model):
            captured = source.captured()
        warn_idle(model, captured.idle, source.spec)
        analysis, blockers = source.analyzed(captured, "wait")
        state: dict[str, int] = {}
        latency, total = None, None
        if not blockers:
            options = Options(future="wait", pooling="running", strict=False)
            programs = ModelPrograms(source, options)
            state = state_bytes(programs.analysis(), programs.program().emitted)
            latency, total = programs.report.latency, programs.report.state_bytes
    except CaptureError as error:
        if example is not None:
            _run(model, example, time_dim)
        return _not_captured(name, clip, error)
    except BlockedError as error:
        rows = tuple(map(_refused, error.blockers))
        return Diagnosis(name, clip, "refused", None, None, None, (), rows)
    finally:
        for module, training in modes:  # some may be frozen
            module.training = training
    reach = reaches(analysis)
    looks = look_aheads(analysis, reach)
    late = delay(analysis, looks)
    ahead = tuple(
        _ahead(analysis.operations[n], look, late - delay(analysis, looks, [n]), state)
        for n, look in looks.items()
    )
    gated = gates(analysis)
    found = (_mixed(o, gated=o.node.name in gated) for o in analysis.operations.values())
    mixing = [row for row in found if row is not None]
    refused = [_refused(b) for b in blockers.values()]
    verdict = "refused" if refused else _verdict(mixing, late)
    best = 0 if latency is not None else None
    frames = {n: math.ceil(look.frames) for n, look in looks.items()}
    drawn = picture(analysis, blockers, frames, gated)
    rows = (*refused, *mixing)
    return Diagnosis(name, clip, verdict, latency, best, total, ahead, rows, drawn)


def _run(model: nn.Module, example: Any, time_dim: TimeDim) -> None:
    """Whether what could not be captured runs at all, as it is.

    Raises:
        CaptureError: it doesn't.
    """
    spec, leaves = read_example(example, time_dim)
    args, kwargs = pytree.tree_unflatten(leaves, spec.spec)
    try:
        with torch.no_grad():
            copy.deepcopy(model)(*args, **kwargs)
    except Exception as error:
        raise CaptureError(
            f"{type(model).__name__}: the model itself fails on its example clip: "
            f"{type(error).__name__}: {error}",
            place_of(error),
        ) from error


def _verdict(mixing: list[Mixing], late: int) -> str:
    if any(m.verdict == "step" for m in mixing):
        return "within steps"
    return "late" if late else "causal"


def _ahead(operation: Operation, look: LookAhead, saves: int, state: dict[str, int]) -> Ahead:
    where, kind = operation.place, operation.outcome
    held = state.get(f"@{operation.node.name}", 0) if state else None
    value = operation.node.meta.get("val")
    change = kind.to_look_back(5 if value is None else value.dim(), look.pad)
    frames, what = math.ceil(look.frames), kind.words(_op(where))
    return Ahead(_name(where), what, frames, saves, held, where.source, where.line, change)


def _mixed(operation: Operation, *, gated: bool) -> Mixing | None:
    where, kind = operation.place, operation.outcome
    mixing = kind.mixing(gated=gated)
    if mixing is None:
        return None
    what, change = kind.words(_op(where)), kind.to_stream(where.op, gated=gated)
    return Mixing(
        _name(where), what, mixing.verdict, mixing.reason, where.source, where.line, change
    )


def _op(where: Place) -> str:
    return where.op.removeprefix("aten.")


def _name(where: Place) -> str:
    return where.module or _op(where)


def _refused(b: Blocker) -> Mixing:
    return Mixing(
        _name(b.place), _op(b.place), "refused", b.reason, b.place.source,
        b.place.line, b.remedy,
    )  # fmt: skip


def _not_captured(name: str, clip: list[tuple[int, ...]], error: CaptureError) -> Diagnosis:
    place = error.place or Place("")
    text = str(error)
    if error.place is not None:
        text = text.split("\n", 1)[-1].strip()
    reason, _, change = text.partition("\n")
    row = Mixing(
        _name(place) or "capture", place.op or "capture", "refused", reason, place.source,
        place.line, change.strip() or "write it with tensor operators, or leave it outside",
    )  # fmt: skip
    return Diagnosis(name, clip, "refused", None, None, None, (), (row,))
