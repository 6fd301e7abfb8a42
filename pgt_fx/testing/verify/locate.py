"""Where a promise is broken first: the operator and the line in the user's model to look at.

The failing run is repeated with the value of every operator recorded, and compared with the run
that it should equal. Graphs are in the order of execution, so the first value that differs comes
from an operator whose operands were still right.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from fractions import Fraction
from functools import partial
from itertools import product
from typing import Any

import torch
from torch import Tensor

from pgt_fx.capture.observe.module_calls import place
from pgt_fx.compiler.selfcheck.measure import same_bits
from pgt_fx.compiler.selfcheck.places import named, place_of, slot_place, unlike_model, unlike_whole
from pgt_fx.compiler.selfcheck.recording import Record, recorded_full, recorded_run
from pgt_fx.testing.verify import locality, repeat, stream
from pgt_fx.testing.verify.field import changed, replaced_frame
from pgt_fx.testing.verify.result import Check
from pgt_fx.testing.verify.subject import Subject

#: Whether two values of the node of a name are the same.
Same = Callable[[str, Tensor, Tensor], bool]


def locate(check: Check, subject: Subject, chunkings: int) -> str:
    """The place to look at for a failed check; "" where none can be found."""
    finder = FINDERS.get(check.id)
    if finder is None:
        return ""
    try:
        with torch.enable_grad():
            return finder(check, subject, chunkings)
    except Exception as error:
        # The model is broken: that it can't be looked into must not hide what was found.
        prog, name = getattr(error, "pgt_node", (None, ""))
        with contextlib.suppress(Exception):
            return f"{place_of(prog, name)}: it raises" if prog is not None else ""
        return ""


# -- two runs that should be the same ------------------------------------------------------------


def _identical(name: str, x: Tensor, y: Tensor) -> bool:
    return same_bits(x, y)


def _first(
    prog: Any,
    pairs: Iterable[tuple[Record, Record]],
    same: Same = _identical,
    word: str = "differs",
) -> str:
    """The first operator, by step and by execution, whose values differ."""
    order = [n.name for n in prog.inspect.program.emitted.graph.nodes]
    for step, (a, b) in enumerate(pairs, 1):
        for name in order:
            x, y = a.get(name), b.get(name)
            if x is None and y is None:
                continue
            if x is None or y is None or x.shape != y.shape or not same(name, x, y):
                return f"{place_of(prog, name)}: the first value that {word}, in step {step}"
    return ""


def _one_way_forward(check: Check, subject: Subject, chunkings: int) -> str:
    chunks = locality._steps(subject, 21)
    other = subject.video(subject.frames, salt=7)
    for _, prog in locality._policies(subject):
        wanted = recorded_run(subject, prog, subject.main, chunks)
        for cut in sorted({1, len(chunks) // 2, len(chunks) - 1}):
            video = subject.joined(subject.main, other, sum(chunks[:cut]))
            got = recorded_run(subject, prog, video, chunks)
            word = f"changes when frames of step {cut + 1} do"
            found = _first(prog, zip(got[:cut], wanted[:cut], strict=True), word=word)
            if found:
                return found
    return ""


def _rows_isolated(check: Check, subject: Subject, chunkings: int) -> str:
    chunks = locality._steps(subject, 22)
    rows = subject.rows or 2
    for (_, prog), row in product(locality._policies(subject), (1, 0)):
        same = partial(_other_videos_same, _layouts(prog), rows, row)
        pair = (recorded_run(subject, prog, v, chunks) for v in locality.spoilt(subject, row))
        found = _first(prog, zip(*pair, strict=True), same, "takes from the other video")
        if found:
            return found
    return ""


def _layouts(prog: Any) -> dict[str, Any]:
    """The layout of each value of a step's graph; None for several results."""
    made, values = prog.inspect.program.emitted.made, prog.inspect.analysis.values
    return {name: getattr(values.get(of), "layout", None) for name, of in made.items()}


def _other_videos_same(
    layouts: dict[str, Any], rows: int, row: int, name: str, x: Tensor, y: Tensor
) -> bool:
    """Whether two values are the same but for one video of the batch."""
    for other in range(rows):
        parts = [locality.row_of(v, layouts.get(name), rows, other) for v in (x, y)]
        if other != row and parts[0] is not None and not same_bits(*parts):
            return False
    return True


def _deterministic(check: Check, subject: Subject, chunkings: int) -> str:
    chunks = locality._steps(subject, 41)
    for _, prog in locality._policies(subject):
        pair = (recorded_run(subject, prog, subject.main, chunks) for _ in range(2))
        found = _first(prog, zip(*pair, strict=True))
        if found:
            return found
    return ""


def _interrupted(between: Callable[[Any], object]) -> Callable[[Check, Subject, int], str]:
    def find(check: Check, subject: Subject, chunkings: int) -> str:
        chunks = locality._steps(subject, 42)
        for _, prog in locality._policies(subject):
            wanted = recorded_run(subject, prog, subject.main, chunks)
            got = recorded_run(subject, prog, subject.main, chunks, between)
            found = _first(prog, zip(got, wanted, strict=True))
            if found:
                return found
        return ""

    return find


def _reset(check: Check, subject: Subject, chunkings: int) -> str:
    chunks = subject.chunks(subject.frames, subject.length, subject.rng(31))
    second = subject.video(subject.frames, salt=10)
    for _, prog in locality._policies(subject):
        prog.__dict__["_state"] = {}
        wanted = recorded_run(subject, prog, second, chunks, fresh=False)
        prog.__dict__["_state"] = {}
        with torch.no_grad():
            subject.feed(prog, subject.cut(subject.main, chunks)[0], False)
        got = recorded_run(subject, prog, second, chunks)
        found = _first(prog, zip(got, wanted, strict=True), word="remembers the video before")
        if found:
            return found
    return ""


# -- steps beside the whole ----------------------------------------------------------------------


def _exact_wait(check: Check, subject: Subject, chunkings: int) -> str:
    prog, rng = subject.waiting, subject.rng(1)
    if subject.reference is not None and not prog.report.clip_pools:
        found = _unlike_model(subject, prog)
        if found:
            return found
    limits = (2 * subject.length, 3, subject.length)
    for number in range(chunkings):
        chunks = subject.chunks(subject.frames, limits[number % 3], rng)
        found = unlike_whole(subject, prog, subject.main, chunks, subject.exact_bound)
        if found:
            return found
    return ""


def _exact_zero(check: Check, subject: Subject, chunkings: int) -> str:
    found = _exact_wait(check, subject, chunkings) or _full(check, subject, chunkings)
    return found or _exact_tight(check, subject, chunkings)


def _exact_tight(check: Check, subject: Subject, chunkings: int) -> str:
    return "no operator: each gives what it should; it is the set that exact_frames names"


def _full(check: Check, subject: Subject, chunkings: int) -> str:
    return _unlike_model(subject, subject.answering)


def _unlike_model(subject: Subject, prog: Any) -> str:
    videos = (subject.clip, subject.main)[: 1 if subject.refusal else 2]
    found = (unlike_model(subject, prog, video, subject.exact_bound) for video in videos)
    return next((where for where in found if where), "")


# -- the state -----------------------------------------------------------------------------------


def _state(check: Check, subject: Subject, chunkings: int) -> str:
    """The entry that holds a graph, is a view, or grows."""
    length = min(subject.length, 8)
    piece = subject.video(length, salt=12)
    for _, prog in locality._policies(subject):
        prog.reset()
        sizes: list[dict[str, int]] = []
        for step in range(2 + 2 * stream.STEADY):
            with torch.set_grad_enabled(step < 2):
                subject.feed(prog, piece, False)
            sizes.append({k: v.numel() for k, v in prog.state.items()})
            faults = stream.unowned(prog.state)
            if faults:
                return slot_place(prog, faults[0].split(" ", 1)[0])
        prog.reset()
        growth = {k: n - sizes[stream.STEADY].get(k, 0) for k, n in sizes[-1].items()}
        most = max(growth, key=lambda k: growth[k])
        if growth[most] > 0:
            return slot_place(prog, most)
    return ""


# -- what has no runs to compare -----------------------------------------------------------------


def _parameter(check: Check, subject: Subject, chunkings: int) -> str:
    """The first operator that reads the parameter named in the check's detail."""
    prog = subject.answering
    captured = prog.inspect.captured
    for node in captured.graph.nodes:
        path = captured.tensors.get(node.name)
        if path is not None and f" {path};" in f"{check.detail};" and node.users:
            return str(place(next(iter(node.users))))
    _, _, name = check.detail.partition("; worst at ")
    return f"module {name.rpartition('.')[0]}" if name else ""


def _slot(check: Check, subject: Subject, chunkings: int) -> str:
    _, _, name = check.detail.partition("; worst in ")
    return slot_place(subject.answering, name) if name else ""


def _field(check: Check, subject: Subject, chunkings: int) -> str:
    """The first operator that reads outside the field that the analysis gives it."""
    prog = subject.answering
    graph, names = prog.report.graph(), prog.inspect.program.emitted.made
    before = recorded_full(subject, prog, subject.main)
    other = subject.video(subject.frames, salt=16)
    for leaf in subject.spec.paths:
        total = int(subject.main[leaf].shape[subject.spec.times[leaf] or 0])
        for frame in range(total):
            after = recorded_full(subject, prog, replaced_frame(subject, leaf, frame, other))
            for name, captured in names.items():
                known = graph.nodes.get(captured, {})
                if known.get("past") is None or name not in after:
                    continue
                node = named(prog, captured)
                for j in changed(subject, node, after[name], before[name]):
                    own = int(j * Fraction(known["stride"]))
                    if own - frame > known["past"] or frame - own > known["future"]:
                        return f"{place_of(prog, name)}: element {j} reads frame {frame}"
    return "no operator: each stays within its field; it is the report's figure for the output"


FINDERS: dict[str, Callable[[Check, Subject, int], str]] = {
    "full-equals-model": _full,
    "exact-wait": _exact_wait,
    "exact-zero": _exact_zero,
    "exact-tight": _exact_tight,
    "one-way-forward": _one_way_forward,
    "one-way-backward": _state,
    "rows-isolated": _rows_isolated,
    "state-bounded": _state,
    "reset": _reset,
    "deterministic": _deterministic,
    "state-round-trip": _interrupted(repeat.through_a_file),
    "mode-switching": _interrupted(repeat.there_and_back),
    "receptive-field": _field,
    "context": _slot,
    "gradients-equal-model": _parameter,
    "exact-gradients": _parameter,
    "replayed": _parameter,
}
