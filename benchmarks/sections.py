"""One table for each question, from the JSON of its benchmark."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from headline import alike, videos

Run = dict[str, Any]
#: What some runs of `step` tell as well.
TITLES = {
    "kernels_over_plain": "step over plain, kernels alone",
    "same_length_over_plain": "plain on as many frames, over plain",
}


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    """Markdown."""
    rule = "|".join(["---", *["---:"] * (len(columns) - 1)])
    lines = [f"| {' | '.join(columns)} |", f"|{rule}|"]
    return lines + [f"| {' | '.join(map(cell, row))} |" for row in rows]


def cell(value: object) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
    return str(value).replace("|", "\\|").replace("\n", " ")


def middle(found: dict[str, Any] | float | None) -> str | None:
    """A median with its quartiles; a number alone as it is."""
    if not found:
        return None
    if isinstance(found, float):
        return f"{found:.3g}"
    if "low" not in found:
        return f"{found['median']:.3g}"
    return f"{found['median']:.3g} ({found['low']:.3g}–{found['high']:.3g})"


def step(run: Run) -> list[str]:
    rows = []
    names = ["model", "space", "dtype", "pass"]
    if any(row.get("batch", 1) > 1 for row in run["rows"]):
        names.insert(2, "batch")
    names += [n for n in ("layout", "calls") if any(row.get(n, 1) != 1 for row in run["rows"])]
    if len({row.get("new_frames", 7) for row in run["rows"]}) > 1:
        names.append("new_frames")
    more = [k for k in TITLES if any(k in row for row in run["rows"])]
    for row in run["rows"]:
        key = [row.get(name) for name in names]
        if "failed" in row:
            rows.append([*key, None, None, row["failed"], None, *(None for _ in more)])
            continue
        times = row["seconds_per_new_frame"]
        ms = [1e3 * times[k]["median"] for k in ("plain", "step")]
        ratios = [middle(row.get(k)) for k in ("step_over_plain", "step_over_recompute", *more)]
        rows.append([*key, *ms, *ratios])
    columns = (*(n.replace("_", " ") for n in names), "plain, ms/frame", "step, ms/frame")
    titles = ("step over plain", "step over the paper's", *(TITLES[k] for k in more))
    out = table((*columns, *titles), rows)
    notes = {r["model"]: r["no_recompute"] for r in run["rows"] if "no_recompute" in r}
    lines = [f"- {name}, the paper's way: {why}" for name, why in notes.items()]
    for row in run["rows"]:
        if not alike(row):
            lines.append(
                f"- {row['model']}, {row['dtype']}, {row['pass']}: {row['answers']} of "
                f"{row['steps_timed_together']} steps have an answer to go back from, while the "
                "plain model goes back from every clip: not like for like, and not in the first "
                "table (see the section of 8 new frames)"
            )
        if "graphs" in row:
            later = row["recompilations_after_second_step"]
            more = "; gave up at the limit of recompilations" if row["gave_up"] else ""
            lines.append(
                f"- {row['model']}, {row['space']} px, {row['dtype']}, {row['pass']}: "
                f"{row['graphs']} graphs until each steady phase has come twice, {later} later"
                f"{more}"
            )
    return [*out, "", *lines]


def stream(run: Run) -> list[str]:
    rows = [
        (
            row["way"],
            1e3 * row["seconds_per_frame"]["median"],
            row["frames_per_second"],
            middle(row["ours_over_this"]),
            middle(row.get("ours_alike_over_this")),
            row["tensor_bytes"] / 1e6 if "tensor_bytes" in row else row.get("error"),
            row["latency_frames"],
            1e3 * row["latency_seconds_of_compute"],
            row["max_error"],
            row.get("note", ""),
        )
        for row in run["rows"]
    ]
    columns = ("way", "ms/frame", "frames/s", "ours in chunks over this", "ours alike over this")
    latency = ("latency, frames", "latency, ms of compute")
    out = table((*columns, "peak MB", *latency, "max error", ""), rows)
    return [*out, "", *(f"- left out: {k}: {v}" for k, v in run.get("missing", {}).items())]


def train(run: Run) -> list[str]:
    rows = []
    for row in run["rows"]:
        whole = row["peaks"].get("whole", {}).get("tensor_bytes")
        for way, seconds in row["seconds"].items():
            found = row["peaks"][way]
            peak = found.get("tensor_bytes")
            over = peak / whole if peak and whole else None
            time = middle(row.get("time_over_whole", {}).get(way))
            shown = peak / 1e6 if peak else found.get("error")
            key = (f"{row['model']}{videos(row)}", row["steps"], row["frames"], way)
            rows.append((*key, seconds["median"], time, shown, over))
    columns = ("model", "P", "frames", "way", "seconds", "time over whole", "peak MB")
    errors = [row["exact_gradient_error"] for row in run["rows"]]
    out = [
        *table((*columns, "memory over whole"), rows),
        "",
        *(f"- {line}" for line in run["crossings"]),
    ]
    out.append(f"- exact gradients against the whole video's: {max(errors):.2g}, relative")
    own = [r["whole_gradient_rounding"] for r in run["rows"] if "whole_gradient_rounding" in r]
    if own:
        out.append(f"- the whole video's own against those in float64: up to {max(own):.2g}")
    return out


def scale(run: Run) -> list[str]:
    rows = []
    for row in run["rows"]:
        peaks = row["peak_long_over_short"]
        times = middle({k: 1e3 * v for k, v in row["seconds_per_step"].items()})
        ratios = [peaks.get("tensor_bytes"), peaks.get("process_bytes")]
        ratios.append(row.get("heap_long_over_short"))
        shown = [None if r is None else f"{r:.4f}" for r in ratios]
        grown = row.get("growth_bytes", {}).get("process_bytes")
        shown.append(None if grown is None else f"{grown / 1e6:.1f}")
        state = row["state_bytes"] / 1e3
        rows.append((row["model"], times, row["second_half_over_first"], state, *shown))
    o = run["options"]
    over = f"{o['frames']} over {o['short']} frames"
    columns = ("model", "ms/step", "second half over first", "state kB", f"tensors, {over}")
    process = (f"process that gives freed blocks back, {over}", f"process as it is, {over}")
    return table((*columns, *process, "growth of the former, MB"), rows)


def compile_time(run: Run) -> list[str]:
    rows = []
    for row in run["rows"]:
        times = [row["seconds"].get(k, {}).get("median") for k in ("export", "transform")]
        refused = "; ".join(f"{k}: {v}" for k, v in row.get("refused", {}).items())
        rows.append((row["model"], *times, middle(row.get("transform_over_export")) or refused))
    return table(("model", "export, s", "transform, s", "transform over export"), rows)


def state(run: Run) -> list[str]:
    rows = []
    for row in run["rows"]:
        kinds = ("carried", "of_that_delays", "lower_bound", "naive_delays")
        mb = [row[k] / 1e6 if k in row else None for k in kinds]
        ratios = [row.get(k) for k in ("carried_over_lower_bound", "carried_over_naive")]
        note = row.get("refused") or ("grows with the video" if row.get("grows") else "")
        rows.append((row["model"], *mb, *ratios, note))
    columns = ("model", "carried MB", "of that delays", "lower bound", "naive delays")
    return table((*columns, "over bound", "over naive", ""), rows)


SECTIONS: dict[str, Callable[[Run], list[str]]] = {
    f.__name__: f for f in (step, stream, train, scale, compile_time, state)
}
