"""The diagnosis as one HTML file: text, tables, and the graph drawn as SVG. Nothing is fetched."""

from __future__ import annotations

from collections.abc import Callable
from html import escape

from pgt_fx.compiler.report import size
from pgt_fx.doctor.findings import Findings
from pgt_fx.doctor.picture import VERDICTS, Box, Picture

#: Verdict -> fill and stroke; readable on a light and on a dark page.
COLOURS = {
    "input": ("#e5e7eb", "#6b7280"),
    "exact": ("#bbf7d0", "#15803d"),
    "ahead": ("#fef08a", "#a16207"),
    "join": ("#f3e8ff", "#7e22ce"),
    "running": ("#bfdbfe", "#1d4ed8"),
    "step": ("#fed7aa", "#c2410c"),
    "refused": ("#fecaca", "#b91c1c"),
}
WIDE, HIGH, GAP_X, GAP_Y, MARGIN = 250, 44, 70, 30, 20

STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 76rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: 0; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
table { border-collapse: collapse; width: 100%; font-size: 14px; }
th, td { text-align: left; padding: .3rem .7rem .3rem 0; vertical-align: top;
  border-bottom: 1px solid #8884; }
td.n { text-align: right; font-variant-numeric: tabular-nums; }
code { font: 13px ui-monospace, monospace; overflow-wrap: anywhere; }
.lead { font-size: 1.1rem; } .key { display: inline-block; width: .9em; height: .9em;
  border-radius: .2em; margin: 0 .35em 0 1em; vertical-align: -.1em; border: 1.5px solid; }
.graph { overflow-x: auto; }
svg text { font: 12px system-ui, sans-serif; fill: #111827; }
svg text.note { font-size: 11px; fill: #374151; }
svg path { fill: none; stroke: #9ca3af; stroke-width: 1.4; }
"""


def page(found: Findings) -> str:
    """The whole page."""
    clip = ", ".join("×".join(map(str, s)) for s in found.clip)
    parts = [
        "<!doctype html>",
        f'<html lang="en"><head><meta charset="utf-8"><title>{escape(found.model)}: pgt_fx doctor'
        f'</title><meta name="viewport" content="width=device-width"><style>{STYLE}</style></head>',
        f"<body><h1>{escape(found.model)}</h1><p>clip {escape(clip)}</p>",
        f'<p class="lead">{escape(found.summary)}</p>',
        _mixing(found),
        _ahead(found),
        _changes(found),
    ]
    if found.picture is not None:
        parts += ["<h2>The model along time</h2>", _legend(found.picture)]
        parts += [f'<div class="graph">{drawing(found.picture)}</div>']
    return "\n".join(p for p in parts if p) + "\n</body></html>\n"


def _table(head: tuple[str, ...], rows: list[str]) -> str:
    cells = "".join(f"<th>{h}</th>" for h in head)
    return f"<table><tr>{cells}</tr>{''.join(rows)}</table>"


def _code(source: str, line: str) -> str:
    return f"<code>{escape(source)}</code><br><code>{escape(line)}</code>" if source else ""


def _mixing(found: Findings) -> str:
    if not found.mixing:
        return ""
    rows = [
        f"<tr><td><code>{escape(m.name)}</code></td><td>{escape(m.what)}</td>"
        f"<td>{_key(m.verdict)}{m.verdict}</td><td>{escape(m.reason)}</td>"
        f"<td>{_code(m.source, m.line)}</td></tr>"
        for m in found.mixing
    ]
    head = ("operator", "what", "verdict", "reason", "line")
    return f"<h2>Needs all of time, or can't be converted</h2>{_table(head, rows)}"


def _ahead(found: Findings) -> str:
    if not found.ahead:
        return ""
    rows = [
        f"<tr><td><code>{escape(a.name)}</code></td><td>{escape(a.what)}</td>"
        f'<td class="n">+{a.frames}</td><td class="n">{a.saves}</td>'
        f'<td class="n">{_held(a.state_bytes)}</td><td>{_code(a.source, a.line)}</td></tr>'
        for a in found.ahead
    ]
    head = ("operator", "what", "frames ahead", "would save", "state", "line")
    return f"<h2>Looks into the future</h2>{_table(head, rows)}"


def _changes(found: Findings) -> str:
    items = []
    for change, names in found.changes.items():
        codes = ", ".join(f"<code>{escape(n)}</code>" for n in names)
        items.append(f"<li>{escape(change)}<br><small>{codes}</small></li>")
    return f"<h2>What to change</h2><ol>{''.join(items)}</ol>" if items else ""


def _key(verdict: str) -> str:
    fill, stroke = COLOURS[verdict]
    return f'<span class="key" style="background:{fill};border-color:{stroke}"></span>'


def _legend(drawn: Picture) -> str:
    there = {b.verdict for b in drawn.boxes.values()}
    keys = [f"{_key(v)}{escape(text)}" for v, text in VERDICTS.items() if v in there]
    return f"<p>{''.join(keys)}. Frame-by-frame operators are left out.</p>"


def _held(count: int | None) -> str:
    return "" if count is None else size(count)


# -- the graph -----------------------------------------------------------------------------------


def drawing(drawn: Picture) -> str:
    """The graph as an SVG element, time flowing down."""
    boxes = drawn.boxes
    if not boxes:
        return ""
    left = min(b.column for b in boxes.values())
    right = max(b.column for b in boxes.values())
    rows = max(b.row for b in boxes.values()) + 1
    far = max((boxes[b].row - boxes[a].row for a, b in drawn.arrows), default=1)
    side = 60 if far > 1 else 0  # room for arrows that pass by a box
    width = (right - left + 1) * (WIDE + GAP_X) + 2 * MARGIN + 2 * side
    height = rows * (HIGH + GAP_Y) + 2 * MARGIN

    def corner(box: Box) -> tuple[float, float]:
        x = MARGIN + side + (box.column - left) * (WIDE + GAP_X) + GAP_X / 2
        return x, MARGIN + box.row * (HIGH + GAP_Y)

    taken = {(b.row, b.column) for b in boxes.values()}
    parts = [_arrow(boxes[a], boxes[b], corner, taken) for a, b in drawn.arrows]
    parts += [_drawn(box, *corner(box)) for box in boxes.values()]
    head = (
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
        'markerHeight="7" orient="auto"><path d="M0 0 8 4 0 8z" style="fill:#9ca3af;stroke:none"/>'
        "</marker></defs>"
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-label="the model along time">'
        f"{head}{''.join(parts)}</svg>"
    )


def _arrow(
    a: Box,
    b: Box,
    corner: Callable[[Box], tuple[float, float]],
    taken: set[tuple[int, float]],
) -> str:
    (x1, y1), (x2, y2) = corner(a), corner(b)
    start, end = (x1 + WIDE / 2, y1 + HIGH), (x2 + WIDE / 2, y2 - 2)
    between = {(row, col) for row in range(a.row + 1, b.row) for col in (a.column, b.column)}
    if not between & taken:
        bend = GAP_Y * 0.9
        way = f"C{start[0]} {start[1] + bend} {end[0]} {end[1] - bend} {end[0]} {end[1]}"
    elif abs(x1 - x2) < WIDE / 2:  # beside the boxes in between, from side to side
        start, end = (x1, y1 + HIGH * 0.7), (x2 - 2, y2 + HIGH * 0.3)
        out = min(x1, x2) - 18 - min(36, 6 * (b.row - a.row))
        way = f"C{out} {start[1]} {out} {end[1]} {end[0]} {end[1]}"
    else:  # down the gap between two lanes
        right = x2 > x1
        start = (x1 + WIDE if right else x1, y1 + HIGH / 2)
        end = (x2 - 2 if right else x2 + WIDE + 2, y2 + HIGH / 2)
        gap = x2 - GAP_X / 2 if right else x2 + WIDE + GAP_X / 2
        way = f"C{gap} {start[1]} {gap} {start[1]} {gap} {start[1] + HIGH} "
        way += f"L{gap} {end[1] - HIGH} C{gap} {end[1]} {gap} {end[1]} {end[0]} {end[1]}"
    return f'<path d="M{start[0]} {start[1]} {way}" marker-end="url(#tip)"/>'


def _drawn(box: Box, x: float, y: float) -> str:
    fill, stroke = COLOURS[box.verdict]
    title = escape("\n".join(t for t in (VERDICTS[box.verdict], box.source, box.why) if t))
    middle = x + WIDE / 2
    first = y + (19 if box.note else 27)
    text = f'<text x="{middle}" y="{first}" text-anchor="middle">{escape(box.label)}</text>'
    if box.note:
        text += (
            f'<text class="note" x="{middle}" y="{y + 35}" text-anchor="middle">'
            f"{escape(box.note)}</text>"
        )
    return (
        f'<g><title>{title}</title><rect x="{x}" y="{y}" width="{WIDE}" height="{HIGH}" rx="7" '
        f'fill="{fill}" stroke="{stroke}" stroke-width="1.5"/>{text}</g>'
    )
