"""The figure of a receptive field, as the PGT paper's Fig. 5: original beside progressive."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pgt_fx.core.counts import counted
from pgt_fx.core.errors import OptionError, PgtError
from pgt_fx.erf.result import Curve, Interval, Receptive, percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

KINDS = (".png", ".svg", ".pdf")

# Okabe and Ito's palette: told apart with any colour vision, and in grey by its lightness.
ORIGINAL, PROGRESSIVE, LONG_VIEW, READABLE = "#56B4E9", "#D55E00", "#222222", "#E8E8E8"
STYLE = {
    "font.size": 7.5,
    "axes.titlesize": 7.5,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "svg.fonttype": "none",
    "svg.hashsalt": "pgt_fx",
    "pdf.fonttype": 42,
}


class PlotError(PgtError, ImportError):
    """matplotlib is not installed."""


def check(path: Path) -> None:
    """Whether a figure can be written to ``path``; to be known before hours of measuring.

    Raises:
        PlotError: matplotlib is not installed.
        OptionError: an unknown kind of file, or no such folder.
    """
    if path.suffix.lower() not in KINDS:
        raise OptionError(f"{path}: expected a file name that ends in {', '.join(KINDS)}")
    if not path.parent.is_dir():
        raise OptionError(f"{path}: there is no folder {path.parent}")
    if path.is_dir():
        raise OptionError(f"{path} is a folder; expected the name of a file")
    if not os.access(path.parent, os.W_OK):
        raise OptionError(f"{path}: no permission to write into {path.parent}")
    _matplotlib()


def save(found: Receptive, path: str | Path) -> Path:
    """Write the figure; the kind of file follows from the name. Returns the path.

    Raises:
        PlotError, OptionError: as :func:`check`.
    """
    path = Path(path)
    check(path)
    figure = draw(found)
    # No date in the file: the same measurement gives the same bytes.
    dated = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
    with _matplotlib().rc_context(STYLE):
        figure.savefig(path, dpi=200, metadata=dated.get(path.suffix.lower()))
    return path


def draw(found: Receptive) -> Figure:
    """Two panels per input path: the original model on the left, the progressive on the right.

    Raises:
        PlotError: matplotlib is not installed.
    """
    matplotlib = _matplotlib()
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    rows = len(found.paths)
    with matplotlib.rc_context(STYLE):
        layout = ConstrainedLayoutEngine(w_pad=0.05, h_pad=0.05, wspace=0.04)
        figure = Figure(figsize=(7.2, 0.7 + 1.7 * rows), layout=layout)
        panels = figure.subplots(rows, 2, sharey="row", sharex="row", squeeze=False)
        for at, (left, right) in enumerate(panels):
            _original(left, found, at)
            _progressive(right, found, at)
            for axes in (left, right):
                _decorate(axes, found, at)
            several = f"input path {found.paths[at]}\n" if rows > 1 else ""
            left.set_ylabel(f"{several}share of the gradient")
        for axes in panels[-1]:
            axes.set_xlabel(_abscissa(found))
        pooled = ": the last step's answer, pooled over time" if found.output is None else ""
        figure.suptitle(found.model + pooled, x=0.012, ha="left", fontsize=8.5, fontweight="bold")
        handles = {h.get_label(): h for p in panels.flat for h in p.get_legend_handles_labels()[0]}
        figure.legend(
            handles=list(handles.values()),
            loc="outside lower center",
            ncols=len(handles),
            frameon=False,
            columnspacing=2.4,
        )
    return figure


def _matplotlib() -> Any:
    try:
        import matplotlib
    except ImportError as error:
        raise PlotError(
            "the figure is drawn by matplotlib, which is not installed: pip install 'pgt_fx[plot]'"
        ) from error
    return matplotlib


def _original(axes: Axes, found: Receptive, at: int) -> None:
    clip = found.clip[at]
    past, future = found.past[at], found.future[at]
    first, last = _ends(found, at)
    first = first if past is None else max(first, -past)
    _readable(axes, first, last if future is None else min(last, future))
    _filled(axes, clip, ORIGINAL)
    _line(axes, found.original[at])
    for edge in (clip.step[0], clip.step[1] + 1):
        _cut(axes, edge - clip.own)
    trf = found.trf[at]
    _title(
        axes,
        f"Original, on a clip of {_size(clip.step)} frames",
        f"TRF {'all of time' if trf is None else trf}, {_size(clip.theory)} in the clip, "
        f"effective width {clip.width}",
    )


def _progressive(axes: Axes, found: Receptive, at: int) -> None:
    curve = found.progressive[at]
    _readable(axes, *(frame - curve.own for frame in curve.theory))
    _filled(axes, curve, PROGRESSIVE)
    _line(axes, found.original[at])
    for cut in found.cuts[at]:
        _cut(axes, cut - curve.own)
    operator = found.options["operator"]
    if "(" in operator:  # a MarkovOperator has no name, and its fields would fill the panel
        operator = "custom operator"
    _title(
        axes,
        f"Progressive, {counted(found.steps, 'step')} of "
        f"{counted(_size(found.clip[at].step), 'frame')} ({operator})",
        f"reach {_size(curve.theory)}, effective width {curve.width}, "
        f"{percent(curve.before)} from earlier steps",
    )


def _size(frames: Interval) -> int:
    return frames[1] - frames[0] + 1


def _filled(axes: Axes, curve: Curve, colour: str) -> None:
    axes.stairs(curve.mass, _edges(curve), fill=True, color=colour, zorder=2)


def _line(axes: Axes, curve: Curve) -> None:
    label = "original, the whole video at once"
    axes.stairs(curve.mass, _edges(curve), color=LONG_VIEW, linewidth=0.8, label=label, zorder=3)


def _edges(curve: Curve) -> list[float]:
    """Left edges of the frames and the last right one; the output's own frame is centred at 0."""
    return [frame - curve.own - 0.5 for frame in range(len(curve.mass) + 1)]


def _readable(axes: Axes, first: int, last: int) -> None:
    """Frames ``first`` to ``last``, relative to the output's own."""
    label = "theoretical receptive field"
    axes.axvspan(first - 0.5, last + 0.5, color=READABLE, lw=0, label=label, zorder=0)


def _cut(axes: Axes, frame: int) -> None:
    """A boundary of a step, between the frame and the one before it."""
    axes.axvline(
        frame - 0.5,
        color="#777777",
        lw=0.7,
        ls=(0, (4, 3)),
        label="boundary of the clip, of a step",
        zorder=1,
    )


def _title(axes: Axes, title: str, figures: str) -> None:
    axes.set_title(f"{title}\n{figures}", loc="left", linespacing=1.4)


def _decorate(axes: Axes, found: Receptive, at: int) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    first, last = _ends(found, at)
    margin = 0.5 + 0.01 * found.frames[at]
    axes.set_xlim(first - margin, last + margin)
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:g} %"))
    axes.tick_params(length=2.5)


def _ends(found: Receptive, at: int) -> Interval:
    """First and last frame of the panels of a path, relative to the output's own.

    The clip's output may stand elsewhere in the video than the one that it is compared with.
    """
    owns = found.progressive[at].own, found.clip[at].own
    return -max(owns), found.frames[at] - 1 - min(owns)


def _abscissa(found: Receptive) -> str:
    own = "the last" if found.output is None else "the output frame's own"
    return f"input frame, relative to {own}"
