"""What the demo showed, in one picture: frames of the video, how far each output frame is from the
whole video's, and what a step takes beside it."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pgt_fx.cli.demo.story import ROUNDING, Findings
from pgt_fx.core.counts import counted
from pgt_fx.erf.figure import STYLE, check

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's palette: distinguishable with any colour vision, and in grey by lightness.
EXACT, AT_ONCE, WHOLE, CUT = "#0072B2", "#E69F00", "#555555", "#BBBBBB"
#: Smaller differences, and none, are drawn at the foot of the axis.
LEAST = 1e-8


def save(found: Findings, path: str | Path) -> Path:
    """Write the figure; .png, .svg or .pdf by the name. Returns the path.

    Raises:
        PlotError: matplotlib is not installed.
        OptionError: another kind of file, or no such folder.
    """
    path = Path(path)
    check(path)
    matplotlib: Any = import_module("matplotlib")
    figure = draw(found)
    with matplotlib.rc_context(STYLE):
        figure.savefig(path, dpi=200)
    return path


def draw(found: Findings) -> Figure:
    """The figure of matplotlib, not yet written."""
    matplotlib: Any = import_module("matplotlib")
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    with matplotlib.rc_context({**STYLE, "font.size": 9, "axes.titlesize": 9.5}):
        layout = ConstrainedLayoutEngine(w_pad=0.06, h_pad=0.06, hspace=0.06)
        figure = Figure(figsize=(9, 5.6), layout=layout)
        rows: Any = figure.subfigures(3, 1, height_ratios=(1.25, 3.1, 1.35))
        film, errors, costs = rows
        figure.suptitle(
            f"{found.model}, {counted(found.used, 'frame')} in "
            f"{counted(len(found.chunks), 'step')}: {_verdict(found)}",
            fontsize=10,
            fontweight="bold",
        )
        _film(film, found)
        _errors(errors.subplots(), found)
        _costs(costs.subplots(1, 2), found)
    return figure


def _verdict(found: Findings) -> str:
    if not found.promised:
        return "no exact stream, as operators take all of time into every frame"
    verdict = "are" if found.ok else "are NOT"
    return f"the features of the exact stream {verdict} the whole video's"


def _film(figure: Any, found: Findings) -> None:
    panels = figure.subplots(1, max(1, len(found.thumbnails)), squeeze=False)[0]
    for panel in panels:
        panel.set_axis_off()
    for panel, (number, picture) in zip(panels, found.thumbnails, strict=False):
        panel.imshow(picture, interpolation="nearest")
        panel.set_title(f"frame {number}", fontsize=7.5, pad=2)


def _errors(axes: Any, found: Findings) -> None:
    for errors, colour, label in (
        (found.errors_at_once, AT_ONCE, "future='zero': every step answers at once (the paper)"),
        (found.errors_waiting, EXACT, "future='wait': the exact stream, late by its look-ahead"),
    ):
        shown = [max(error, LEAST) for error in errors]
        axes.plot(range(len(shown)), shown, ".-", color=colour, label=label, lw=1.2, ms=4)
    axes.axhline(ROUNDING, color=WHOLE, lw=0.8, ls="--")
    axes.annotate(
        "below this line: equal up to float32 rounding",
        (0.995, ROUNDING),
        xycoords=("axes fraction", "data"),
        xytext=(0, 3),
        textcoords="offset points",
        ha="right",
        color=WHOLE,
        fontsize=7.5,
    )
    frames = 0
    count = max(len(found.errors_waiting), 1)
    for chunk in found.chunks[:-1]:
        frames += chunk
        axes.axvline(frames * count / sum(found.chunks) - 0.5, color=CUT, lw=0.6, zorder=0)
    axes.set_yscale("log")
    axes.set_ylim(LEAST / 2, 30)
    axes.set_xlim(-0.5, count - 0.5)
    axes.set_xlabel("output frame (grey lines: where one step ends and the next begins)")
    axes.set_ylabel("relative difference\nfrom the whole video")
    axes.legend(loc="upper left", framealpha=1, edgecolor="none", ncols=2, fontsize=8)


def _costs(panels: Any, found: Findings) -> None:
    rows = [
        ("a step of the exact stream", found.waiting, EXACT),
        ("the whole video in one forward", found.whole, WHOLE),
    ]
    names = [name for name, _, _ in rows]
    colours = [colour for _, _, colour in rows]
    seconds = [one.step_seconds for _, one, _ in rows]
    _bars(panels[0], "time", names, seconds, colours, "{:.2f} s")
    if any(one.memory is None for _, one, _ in rows):
        panels[1].set_axis_off()
        return
    memory = [(one.memory or 0.0) / 1e6 for _, one, _ in rows]
    _bars(panels[1], "memory at the peak", [""] * len(rows), memory, colours, "{:.0f} MB")


def _bars(
    axes: Any, title: str, names: list[str], values: list[float], colours: list[str], text: str
) -> None:
    bars = axes.barh(range(len(values)), values, color=colours, height=0.6)
    axes.bar_label(bars, [text.format(v) for v in values], padding=3, fontsize=8)
    axes.set_yticks(range(len(values)), names, fontsize=8.5)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.2 * max([*values, 1e-9]))
    axes.set_xticks([])
    axes.spines["bottom"].set_visible(False)
    axes.set_title(title, loc="left", fontsize=8.5)
