"""The zoo's table: ``table.json`` and ``README.md`` are written by ``pgt-fx zoo --check``."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

from pgt_fx.core.counts import counted
from pgt_fx.testing.zoo_survey import KINDS, REFUSED, Row
from pgt_fx.zoo.cost import VIEW, view_space
from pgt_fx.zoo.registry import get, names

#: Steps and views in the GFLOPs column, in the paper's notation: P = 5, three spatial crops.
STEPS, VIEWS = 5, 3

#: Stands before and after the summary in the project's README.
MARK = "<!-- zoo-summary -->"

HEADER = """# The zoo

Written by `pgt-fx zoo --check`: every model is built with random weights and generic norms,
converted, and its promises are measured.

- **exact**: under `future="wait"` the steps together give the model's own answer, however the video
  is cut. **progressive**: information is carried from step to step, and some operators work within
  each step (their reasons are below). **step-only**: nothing is carried. **refused**: `transform`
  says why and converts nothing.
- TRF (temporal receptive field), look-ahead and latency are in input frames, those of two paths
  one after the other; *all* is all of the video. For a model that ends in a pool over all of time
  they are those of what it pools; a head that pools a window of fixed length counts as one. The
  stride is in input frames per element.
- State: carried between two steps under the paper's policy, `future="zero"`, batch of one, float32,
  at the clip's size. The exact answers carry more: `pgt-fx bench state`.
- GFLOPs × P × v: a view of 256×256 pixels (one multiply-add counted as one), P = {steps} steps,
  v = {views} views; † at the size of the clip: the model takes no other, or latents.
- Checked: promises of `pgt-fx verify` that were measured and hold, on frames of {space}.
"""


def write_table(folder: Path, rows: Sequence[Row]) -> None:
    """Put rows into ``table.json``, in place of older ones of these models, and write
    ``README.md`` of all of them. A row with errors is no measurement, and leaves the older one."""
    file = folder / "table.json"
    known = read_table(file) | {row.name: row for row in rows if not row.errors}
    kept = [known[name] for name in sorted(known) if name in names()]
    file.write_text(json.dumps([row.to_dict() for row in kept], indent=1) + "\n")
    (folder / "README.md").write_text(to_markdown(kept))
    above = folder.parent / "README.md"
    if above.is_file():
        _put_summary(above, summary(kept))


def _put_summary(file: Path, text: str) -> None:
    """Write the summary between the marks of a document that has them."""
    before, mark, rest = file.read_text().partition(MARK)
    _, again, after = rest.partition(MARK)
    if mark and again:
        file.write_text(f"{before}{MARK}\n{text}\n{MARK}{after}")


def read_table(file: Path) -> dict[str, Row]:
    """Rows by the names of their models; none where there is no such file."""
    if not file.is_file():
        return {}
    return {row["name"]: Row(**row) for row in json.loads(file.read_text())}


def to_markdown(rows: Sequence[Row]) -> str:
    """The document."""
    rows = sorted(rows, key=lambda r: (KINDS.index(r.kind), r.name))
    spaces = sorted({r.space for r in rows if r.space})
    space = " or ".join(f"{s}×{s}" for s in spaces) + " pixels"
    parts = [HEADER.format(steps=STEPS, views=VIEWS, space=space), summary(rows), ""]
    parts += [
        "| model | from | params | clip | TRF | stride | look-ahead | latency | state | "
        "GFLOPs × P × v | becomes | checked | transform |",
        "|---|---|---:|---|---:|---:|---:|---:|---:|---:|---|---|---:|",
    ]
    notes: dict[str, int] = {}
    parts += [_line(row, notes) for row in rows]
    if notes:
        parts += ["", "## Reasons", ""]
        parts += [f"{number}. {_escaped(text)}" for text, number in notes.items()]
    said = [(r.name, get(r.name)) for r in rows]
    paper = [(n, e) for n, e in said if e.gflops is not None or e.trf is not None]
    if paper:
        parts += ["", "## Beside the paper's figures", ""]
        parts += [
            "| model | GFLOPs here | paper | TRF of the stages here | paper | |",
            "|---|---:|---:|---:|---:|---|",
        ]
        by_name = {r.name: r for r in rows}
        for name, entry in paper:
            row = by_name[name]
            parts.append(
                f"| {name} | {_number(row.gflops)} | {_number(entry.gflops)} | "
                f"{row.stages or ''} | {entry.trf or ''} | {entry.note} |"
            )
    return "\n".join(parts) + "\n"


def summary(rows: Sequence[Row]) -> str:
    """How many of each, in words."""
    counts = {kind: sum(r.kind == kind for r in rows) for kind in KINDS}
    violated = [r.name for r in rows if not r.ok]
    text = f"{counted(len(rows), 'model')}: " + ", ".join(
        f"{n} {kind}" for kind, n in counts.items()
    )
    held = sum(bool(r.promises) and r.ok and not r.errors for r in rows)
    errors = [r.name for r in rows if r.errors]
    text += f". {held} of the {len(rows) - counts[REFUSED]} that are converted keep their promises"
    text += f"; not so {', '.join(violated)}" if violated else ""
    return text + (f"; not checked because of an error {', '.join(errors)}." if errors else ".")


def _line(row: Row, notes: dict[str, int]) -> str:
    marks = []
    for reason in row.reasons:
        marks.append(str(notes.setdefault(_general(reason, row.kind == REFUSED), len(notes) + 1)))
    becomes = row.kind + (f" ({', '.join(dict.fromkeys(marks))})" if marks else "")
    clip = " + ".join("×".join(map(str, size[1:])) for size in row.clip)
    if row.kind == REFUSED:
        measured = ["", "", "", "", ""]
        checked, seconds = "", ""
    else:
        latency = "all" if row.latency is None else str(row.latency)
        stride = ", ".join(row.stride)
        measured = [_frames(row.trf), stride, _frames(row.look_ahead), latency, _size(row.state)]
        held = [name for name, ok in row.promises.items() if ok]
        failed = [name for name, ok in row.promises.items() if ok is False]
        checked = f"**violated: {', '.join(failed)}**" if failed else f"{len(held)} hold"
        seconds = f"{row.seconds:.1f} s"
    mark = "" if view_space(get(row.name)) == VIEW else "†"
    cost = "" if row.gflops is None else f"{_number(row.gflops)}{mark} × {STEPS} × {VIEWS}"
    cells = [
        row.name,
        row.source,
        f"{row.parameters / 1e6:.1f} M",
        clip,
        *measured,
        cost,
        becomes,
        checked,
        seconds,
    ]
    return f"| {' | '.join(cells)} |"


def _general(reason: str, refused: bool) -> str:
    """A reason without the number of its operators, which models share; where the model is
    refused, with the first of them."""
    if not reason.endswith(" first)"):
        return reason
    text, _, rest = reason.partition(" (")
    place = re.sub(r"^\d+ operators?, ", "", rest.removesuffix(" first)"))
    return f"{text}: {place}" if refused else text


def _frames(values: Sequence[int | None]) -> str:
    return ", ".join("all" if v is None else str(v) for v in values)


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB"


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")
