"""One figure for each question, from the JSON of its benchmark."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from headline import videos

Run = dict[str, Any]
BLUE, ORANGE, GREEN, PINK, SKY = "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9"
COLOURS = (BLUE, ORANGE, GREEN, PINK, SKY, "#7f7f7f", "#e69f00")


def draw(run: Run, path: Path) -> bool:
    """Write the figure of a run; False when there is nothing in it to draw."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    how = PLOTS[run["benchmark"]]
    fig = how(run, plt)
    if fig is None:
        return False
    for axis in fig.axes:
        for side in ("top", "right"):
            axis.spines[side].set_visible(False)
    fig.tight_layout()
    fig.savefig(path, dpi=130)
    plt.close(fig)
    return True


def _bars(plt: Any, names: list[str], series: dict[str, list[float | None]], **how: Any) -> Any:
    """Horizontal bars, a group for each name."""
    height = 0.8 / len(series)
    tall = max(2.4, (0.16 + 0.2 * len(series)) * len(names) + 1.4)
    fig, axis = plt.subplots(figsize=(8, tall))
    for number, (label, values) in enumerate(series.items()):
        at = [y + (number - (len(series) - 1) / 2) * height for y in range(len(names))]
        shown = [v or 0 for v in values]
        axis.barh(at, shown, height, color=COLOURS[number], label=label)
    axis.set_yticks(range(len(names)), names, fontsize=8)
    # Half a group above the first and below the last: a share of all would grow with their number.
    axis.set_ylim(len(names) - 0.5, -0.5)
    axis.set_title(how["title"], loc="left")
    axis.set_xlabel(how["unit"])
    if "line" in how:
        axis.axvline(how["line"], color="0.3", lw=1, ls="--", label=how["line_label"])
    axis.grid(axis="x", color="0.92")
    axis.set_axisbelow(True)
    axis.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return fig


def step(run: Run, plt: Any) -> Any:
    rows = [r for r in run["rows"] if "step_over_plain" in r]
    if not rows:
        return None

    def name(r: dict[str, Any]) -> str:
        # Several videos at once, and steps of another length, have bars of their own.
        new = f", {r['new_frames']} new" if r.get("new_frames", 7) != 7 else ""
        how = f", {r['layout']}" if "layout" in r else ""
        how += f", {r['calls']} in a row" if r.get("calls", 1) > 1 else ""
        return f"{r['model']}, {r['space']} px{videos(r)}, {r['dtype']}{new}{how}"

    names = list(dict.fromkeys(map(name, rows)))
    series: dict[str, list[float | None]] = {}
    for way in dict.fromkeys(r["pass"] for r in rows):
        for key, label in (("step_over_plain", "step"), ("recompute_over_plain", "paper's way")):
            found = {name(r): r[key]["median"] for r in rows if r["pass"] == way and key in r}
            series[f"{label}, {way}"] = [found.get(n) for n in names]
    title = "Time per new frame over the plain model on a clip of 8"
    limit = {"line": 1.0, "line_label": "plain model"}
    return _bars(plt, names, series, title=title, unit="ratio of seconds", **limit)


def stream(run: Run, plt: Any) -> Any:
    names = [r["way"] for r in run["rows"]]
    ms = {"time": [1e3 * r["seconds_per_frame"]["median"] for r in run["rows"]]}
    title = f"Dense features of {run['options']['frames']} frames"
    return _bars(plt, names, ms, title=title, unit="milliseconds per frame")


def train(run: Run, plt: Any) -> Any:
    """Over P; over the number of videos, where P is the same throughout."""
    model, first = run["rows"][0]["model"], run["rows"][0]
    rows = [r for r in run["rows"] if r["model"] == model]
    over, label = "steps", "number of steps P"
    if len({r["steps"] for r in rows}) == 1:
        over, label = "batch", f"videos at once, P = {first['steps']}"
    along = [r.get(over, 1) for r in rows]
    fig, axes = plt.subplots(1, 2, figsize=(10, 4))
    for number, way in enumerate(first["seconds"]):
        peaks = [r["peaks"][way].get("tensor_bytes", float("nan")) / 1e6 for r in rows]
        seconds = [r["seconds"][way]["median"] for r in rows]
        for axis, values in zip(axes, (peaks, seconds), strict=True):
            axis.plot(along, values, marker="o", color=COLOURS[number], label=way)
    for axis, title in zip(axes, ("Peak memory, MB", "Time, seconds"), strict=True):
        axis.set_title(f"{title}, {model}, forward + backward", loc="left", fontsize=10)
        axis.set_xlabel(label)
        axis.set_xticks(along)
        axis.set_ylabel(title.partition(", ")[2])
        axis.set_ylim(bottom=0)
        axis.grid(color="0.92")
        axis.legend(fontsize=8, frameon=False)
    return fig


def scale(run: Run, plt: Any) -> Any:
    fig, axes = plt.subplots(1, 3, figsize=(12, 3.6))
    curves = (
        ("Time per step", "milliseconds", "seconds_per_step", 1e3),
        ("State", "MB", "state_bytes", 1e-6),
        ("Memory of the process", "MB", "process_bytes", 1e-6),
    )
    for axis, (title, unit, key, factor) in zip(axes, curves, strict=True):
        for number, row in enumerate(run["rows"]):
            frames = [p["frames"] for p in row["points"]]
            values = [factor * p[key] for p in row["points"]]
            axis.plot(frames, values, color=COLOURS[number], label=row["model"])
        axis.set_title(title, loc="left")
        axis.set_xlabel("frames streamed")
        axis.set_ylabel(unit)
        axis.set_ylim(bottom=0)
        axis.grid(color="0.92")
        axis.legend(fontsize=8, frameon=False)
    return fig


def compile_time(run: Run, plt: Any) -> Any:
    rows = [r for r in run["rows"] if "transform_over_export" in r]
    if not rows:
        return None
    ways = ("export", "transform")
    series = {k: [r["seconds"][k]["median"] for r in rows] for k in ways}
    title = "transform beside torch.export.export alone"
    return _bars(plt, [r["model"] for r in rows], series, title=title, unit="seconds")


def state(run: Run, plt: Any) -> Any:
    rows = [r for r in run["rows"] if r.get("lower_bound")]
    if not rows:
        return None
    kinds = {"naive delays": "naive_delays", "carried": "carried"}
    series = {label: [r[k] / r["lower_bound"] for r in rows] for label, k in kinds.items()}
    names = [f"{r['model']} ({r['lower_bound'] / 1e6:.3g} MB)" for r in rows]
    title, limit = "Bytes carried between steps over the lower bound", {"line": 1.0}
    unit = "ratio of bytes (the lower bound stands beside the name)"
    return _bars(plt, names, series, title=title, unit=unit, line_label="lower bound", **limit)


PLOTS: dict[str, Callable[[Run, Any], Any]] = {
    f.__name__: f for f in (step, stream, train, scale, compile_time, state)
}
