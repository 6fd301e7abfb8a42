"""RESULTS.md and RESULTS.png from results.json."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

NAMES = {"slowonly": "SlowOnly-like", "slowfast": "SlowFast-like"}


def write(results: dict[str, Any], rows: list[str], out: Path) -> None:
    """One table per backbone, and one figure."""
    backbones = list(dict.fromkeys(t["backbone"] for t in results["trainings"]))
    text = [HEAD.format(**results)]
    for backbone in backbones:
        text += [f"## {NAMES[backbone]}", "", *in_words(results, backbone)]
        text += [*table(results, backbone, rows), ""]
    text += ["![order accuracy](RESULTS.png)", ""]
    (out / "RESULTS.md").write_text("\n".join(text))
    figure(results, backbones, rows, out / "RESULTS.png")


HEAD = """# What each part of the method buys on long-range order

Made by `python benchmarks/longrange/study.py` ({scale} size, {device}, torch {torch}).

A video shows two of three kinds of short events; its class is the ordered pair (6 classes, chance
0.17). *order* is the share of test videos whose class scores higher than the class of the same two
events in the other order: chance is 0.50 for whoever recognises events and can't relate them in
time, and no clip of T' frames holds both. Accuracies are mean ± standard deviation over seeds.
Seconds per epoch: median of interleaved iterations on one thread, to be read as ratios. Peak:
bytes of tensors alive at once in one iteration beyond weights, gradients and videos.
"""


def in_words(results: dict[str, Any], backbone: str) -> list[str]:
    """How far each way of training gets from the clip baseline to whole-video training."""

    def order(row: str, way: str) -> float | None:
        values = accuracies(results, backbone, row).get(way)
        return statistics.mean(values["order"]) if values else None

    low, high = order("clip", "views"), order("whole video, end to end", "original")
    if low is None or high is None or high <= low:
        return []
    shares: list[tuple[float, str]] = []
    for row in dict.fromkeys(t["row"] for t in results["trainings"]):
        found = order(row, "progressive")
        if found is not None:
            shares.append(((found - low) / (high - low), row))
    ranked = "; ".join(f"{row}: {share:.0%}" for share, row in sorted(shares, reverse=True))
    return [
        f"Order accuracy is {low:.3f} for the clip baseline and {high:.3f} for training on the "
        f"whole video. Of the way between them go, in the progressive long view: {ranked}.",
        "",
    ]


def table(results: dict[str, Any], backbone: str, rows: list[str]) -> list[str]:
    lines = [
        "| training | tested | top-1 | order | epoch, s (ratio to clip) | peak, MB |",
        "|---|---|---|---|---|---|",
    ]
    cost = results["costs"].get(backbone, {})
    clip = cost.get("clip", {}).get("seconds_per_epoch")
    for row in rows:
        for way, numbers in accuracies(results, backbone, row).items():
            spent = cost.get(row)
            epoch = peak = ""
            if spent:
                ratio = f" ({spent['seconds_per_epoch'] / clip:.1f})" if clip else ""
                epoch = f"{spent['seconds_per_epoch']:.1f}{ratio}"
                peak = f"{spent['peak_bytes'] / 1e6:.1f}"
            lines.append(
                f"| {row} | {WAYS[way]} | {spread(numbers['top1'])} | {spread(numbers['order'])} "
                f"| {epoch} | {peak} |"
            )
    return lines


WAYS = {
    "views": "10 views averaged",
    "original": "original long view (one step)",
    "progressive": "progressive long view",
}


def accuracies(
    results: dict[str, Any], backbone: str, row: str
) -> dict[str, dict[str, list[float]]]:
    """Per way of testing and per figure, one number per seed."""
    out: dict[str, dict[str, list[float]]] = {}
    mine = [t for t in results["trainings"] if (t["backbone"], t["row"]) == (backbone, row)]
    for way in WAYS:
        found = [t["test"][way] for t in mine if way in t["test"]]
        if found:
            out[way] = {k: [f[k] for f in found] for k in ("top1", "order")}
    return out


def spread(numbers: list[float]) -> str:
    if len(numbers) < 2:
        return f"{numbers[0]:.3f}"
    return f"{statistics.mean(numbers):.3f} ± {statistics.stdev(numbers):.3f}"


def figure(results: dict[str, Any], backbones: list[str], rows: list[str], path: Path) -> None:
    """Order accuracy by row: a dot per seed, a bar at the mean."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    colours = {"views": "#7f7f7f", "original": "#0072b2", "progressive": "#d55e00"}
    width, height = 5.2 * len(backbones) + 2.2, 0.34 * len(rows) + 1.6
    fig, axes = plt.subplots(1, len(backbones), figsize=(width, height), sharey=True, squeeze=False)
    for axis, backbone in zip(axes[0], backbones, strict=True):
        for y, row in enumerate(rows):
            found = accuracies(results, backbone, row)
            for number, (way, values) in enumerate(found.items()):
                at = y + (number - (len(found) - 1) / 2) * 0.26
                order = values["order"]
                axis.scatter(order, [at] * len(order), s=14, color=colours[way], alpha=0.6, lw=0)
                mean = statistics.mean(order)
                axis.plot([mean] * 2, [at - 0.12, at + 0.12], color=colours[way], lw=2.2)
        axis.axvline(0.5, color="0.6", lw=0.8, ls=":")
        axis.set_title(NAMES[backbone], fontsize=11)
        axis.set_xlim(0.4, 1.02)
        axis.set_xlabel("order accuracy (chance 0.5)")
        axis.grid(axis="y", color="0.93", lw=0.8)
        axis.set_axisbelow(True)
        for side in ("top", "right", "left"):
            axis.spines[side].set_visible(False)
        axis.tick_params(length=0)
    axes[0][0].set_yticks(range(len(rows)), rows)
    axes[0][0].invert_yaxis()
    handles = [
        plt.Line2D([], [], color=colours[way], lw=3, label=f"tested: {WAYS[way]}") for way in WAYS
    ]
    fig.legend(handles=handles, loc="lower center", ncol=3, frameon=False, fontsize=9)
    fig.tight_layout(rect=(0, 0.06, 1, 1))
    fig.savefig(path, dpi=150)
    plt.close(fig)
