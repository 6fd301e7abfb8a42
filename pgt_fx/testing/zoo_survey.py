"""Convert a backbone and measure the result: one row of the zoo's table.

>>> from pgt_fx.testing.zoo_survey import survey
>>> survey("r3d_18", space=32).kind
'exact'
"""

from __future__ import annotations

import re
import time
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from pgt_fx.compiler.report import Report
from pgt_fx.compiler.transform import analyze, transform
from pgt_fx.core.counts import counted
from pgt_fx.core.errors import BlockedError, CaptureError, ExactnessError, PgtError, SelfCheckError
from pgt_fx.core.torch_private import pytree
from pgt_fx.runtime.progressive import Progressive
from pgt_fx.testing.verify.contract import verify
from pgt_fx.testing.verify.outcome import in_words
from pgt_fx.zoo.clips import SPATIAL_STRIDE
from pgt_fx.zoo.cost import gflops, view_space
from pgt_fx.zoo.registry import build, clip, features, get

#: The promises that are measured for the table; ``pgt-fx verify`` measures all of them.
PROMISES = (
    "full-equals-model",
    "exact-wait",
    "exact-zero",
    "one-way-forward",
    "one-way-backward",
    "rows-isolated",
    "state-bounded",
    "reset",
)
EXACT, PROGRESSIVE, STEP_ONLY, REFUSED = "exact", "progressive", "step-only", "refused"
KINDS = (EXACT, PROGRESSIVE, STEP_ONLY, REFUSED)


@dataclass
class Row:
    """One backbone in the table.

    Attributes:
        kind: "exact": under ``future="wait"`` the steps together give the model's own answer;
            "progressive": it carries information from step to step, and some operators work
            within each step; "step-only": nothing is carried; "refused".
        reasons: why it is not exact, or why it is refused.
        source: the package that builds it.
        parameters: how many.
        clip: sizes of the example's tensors; the figures are those of such a clip.
        trf, stride, look_ahead: temporal receptive field, input frames per output element and
            frames after its own that an output element reads, per path; None: all of time.
        latency: frames until an output is exact, of the slowest path; None: all.
        state: bytes carried between steps, for a batch of one.
        gflops: 10⁹ multiply-adds of a view (:func:`pgt_fx.zoo.cost.view_space`).
        seconds: of one conversion.
        space: height and width at which the promises were measured.
        promises: id -> True: holds, False: violated, None: not checked.
        errors: what kept promises from being checked and says nothing about the model; then the
            row is no measurement, and the table does not take it.
        stages: temporal receptive field of the stages before the head, squeeze-excitations left
            out, in frames of the path with the most; for models of which the paper prints it.
    """

    name: str
    source: str
    kind: str = ""
    reasons: list[str] = field(default_factory=list)
    parameters: int = 0
    clip: list[list[int]] = field(default_factory=list)
    trf: list[int | None] = field(default_factory=list)
    stride: list[str] = field(default_factory=list)
    look_ahead: list[int | None] = field(default_factory=list)
    latency: int | None = None
    state: int = 0
    gflops: float | None = None
    seconds: float = 0.0
    space: int = 0
    promises: dict[str, bool | None] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    stages: int | None = None

    @property
    def ok(self) -> bool:
        """Whether no promise is violated."""
        return False not in self.promises.values()

    def to_dict(self) -> dict[str, Any]:
        """As plain data (JSON-able); "errors" where there are any."""
        return {k: v for k, v in asdict(self).items() if v or k != "errors"}


def survey(name: str, *, space: int | None = None, check: bool = True) -> Row:
    """Convert a backbone, and measure what comes of it.

    Args:
        name: one of :func:`pgt_fx.zoo.names`.
        space: height and width to measure the promises at; None: the smallest that the model can
            be built for, as they don't depend on it.
        check: measure the promises; False: the figures alone.

    Raises:
        MissingPackageError: what builds the model is not installed.
    """
    entry = get(name)
    row = Row(name, entry.source)
    model = build(name)
    example = clip(name)
    row.parameters = sum(p.numel() for p in model.parameters())
    row.clip = [list(x.shape) for x in _tensors(example)]
    row.gflops = gflops(name, space=view_space(entry))
    row.stages = None if entry.trf is None else stages_field(name)
    started = time.perf_counter()
    try:
        prog = transform(model, example, strict=False, pooling="running", check=False)
    except (CaptureError, BlockedError) as error:
        row.kind, row.reasons = REFUSED, _refusal(error)
        return row
    row.seconds = time.perf_counter() - started
    if prog.report.steps:  # where a step is a clip, its attention is all that can carry anything
        prog = prog.replace(attention="memory")
    _figures(row, prog)
    del model, prog
    if check:
        row.space = _space(name) if space is None else space
        _promises(row)
    return row


def stages_field(name: str) -> int | None:
    """The temporal receptive field of a backbone's stages, in frames of the path with the most;
    None: all of time. Squeeze-excitations, which look at all of time, are left out."""
    model = build(name, space=SPATIAL_STRIDE)
    for module in list(model.modules()):
        for at, child in module.named_children():
            if type(child).__name__ == "SqueezeExcitation":
                setattr(module, at, nn.Identity())
    body = _LastPath(features(name, model)) if len(get(name).clip) > 1 else features(name, model)
    return analyze(body, clip(name, space=SPATIAL_STRIDE)).receptive_field[-1]


class _LastPath(nn.Module):
    """What a model of several paths gives for the last of them."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, paths: list[Tensor]) -> Tensor:
        last: Tensor = self.module(paths)[-1]
        return last


def _figures(row: Row, prog: Progressive) -> None:
    report = prog.report
    row.trf, row.stride = report.receptive_field, report.stride
    row.look_ahead, row.latency = report.look_ahead, report.latency
    row.state = report.state_bytes
    try:
        prog.replace(future="wait", strict=True)
        row.kind = EXACT
    except ExactnessError:
        row.kind = PROGRESSIVE if _carries(prog) else STEP_ONLY
        row.reasons = _why(prog.replace(future="wait", strict=False).report)


def _carries(prog: Progressive) -> bool:
    """Whether anything before the head is handed on."""
    return any(r.state_bytes for r in prog.report.rows if r.verdict != "running")


def _why(report: Report) -> list[str]:
    """The reasons for which it is not exact, each once, with how many operators have it."""
    return _grouped([(f"{r.what} {r.reason}", r.name) for r in report.inexact])


def _grouped(found: list[tuple[str, str]]) -> list[str]:
    """Reasons, each once, with the first place where it holds and how many there are."""
    places: dict[str, list[str]] = {}
    for reason, place in found:
        places.setdefault(reason, []).append(place)
    return [
        f"{reason} ({counted(len(names), 'operator')}, {names[0]} first)"
        for reason, names in places.items()
    ]


def _refusal(error: Exception) -> list[str]:
    if isinstance(error, BlockedError):
        return _grouped([(b.reason, str(b.place)) for b in error.blockers])
    # What torch says of the sizes that don't fit is left out.
    return [re.sub(r": \w+Error: .*? (?=A table, )", ". ", " ".join(str(error).split()))]


def _promises(row: Row) -> None:
    model = build(row.name, space=row.space, redraw_norms=True)
    example = clip(row.name, space=row.space)
    try:
        prog = transform(model, example, strict=False)
    except SelfCheckError as error:  # the promises say more
        prog = transform(model, example, strict=False, check=False)
        cause = error.__cause__
        if cause is None or isinstance(cause, PgtError):
            row.promises = {"self-check": False}
        else:
            row.errors = [f"self-check: {in_words(cause)}"]
    if prog.report.steps:
        prog = prog.replace(attention="memory")
    found = verify(prog, checks=PROMISES, chunkings=2, redraw_norms=False)
    row.promises |= {c.id: c.ok for c in found.checks}
    row.errors += [f"{c.id}: {c.detail}" for c in found.errors]


def _space(name: str) -> int:
    entry = get(name)
    if entry.fixed_space or entry.channels != 3:  # latents are small as they are
        return entry.space
    return SPATIAL_STRIDE


def _tensors(example: Any) -> list[torch.Tensor]:
    leaves = pytree.tree_leaves(example)
    return [x for x in leaves if isinstance(x, torch.Tensor)]
