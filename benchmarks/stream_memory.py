"""Does a long stream keep its state and the process's memory flat?

Streams steps of one frame through a zoo model and records the bytes of state and the resident
memory. ``scale.py`` streams more frames in longer chunks, and compares peaks.

    pgt-fx bench stream_memory slow_r50 --steps 2000 --space 64
"""

from __future__ import annotations

import gc
import json
import statistics
import time

import psutil
import torch
from harness import parser, prepare, save
from rich.progress import track

import pgt_fx
from pgt_fx import zoo


def main() -> None:
    cli = parser(__doc__, "stream_memory")
    cli.add_argument("model", nargs="?", default="r3d_18")
    cli.add_argument("--steps", type=int, default=2000)
    cli.add_argument("--space", type=int, default=32)
    cli.add_argument("--future", default="wait")
    options = cli.parse_args()
    prepare(options)
    model = zoo.build(options.model, space=options.space, redraw_norms=True)
    example = zoo.clip(options.model, space=options.space)
    prog = pgt_fx.transform(model, example, future=options.future, pooling="running", strict=False)
    ratio = prog.clip_ratio
    process, rows = psutil.Process(), []
    with torch.inference_mode():
        for number in track(range(options.steps), description="streaming"):
            clip = [torch.randn(1, 3, r, options.space, options.space) for r in ratio]
            start = time.perf_counter()
            prog(clip if len(ratio) > 1 else clip[0])
            seconds = time.perf_counter() - start
            if number >= options.steps // 20 and number % max(1, options.steps // 40) == 0:
                gc.collect()
                state = sum(t.numel() * t.element_size() for t in prog.state.values())
                rows.append(
                    {
                        "step": number,
                        "state_bytes": state,
                        "resident_bytes": process.memory_info().rss,
                        "seconds": seconds,
                    }
                )
    resident = [row["resident_bytes"] for row in rows]
    half = len(resident) // 2
    found = {
        "state_bytes": sorted({row["state_bytes"] for row in rows}),
        "resident_second_half_over_first": round(
            statistics.median(resident[half:]) / statistics.median(resident[:half]), 4
        ),
        "resident_last_over_first": round(resident[-1] / resident[0], 4),
    }
    print(json.dumps(found, indent=2))
    save("stream_memory", options, rows, **found)


if __name__ == "__main__":
    main()
