"""Do 10,000 frames cost more per step, or more memory, than 100?

Streams a video through a small backbone and records time per step, bytes of state and memory of
the process as curves; then the peaks of 100 and of all frames, each in a process of its own: of
tensors, and of the process under a C allocator that gives every large block back when it is freed
(glibc's thresholds), so that it is what is in use. The same under the allocator as it is counts the
holes in its heap, too, which take some thousand steps to settle.

    pgt-fx bench scale
    pgt-fx bench scale --frames 400 --short 80
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import time
from typing import Any

import psutil
import torch
from harness import (
    digits,
    forget_peak,
    in_a_process,
    parser,
    peak_bytes,
    prepare,
    process_bytes,
    save,
    show,
    spread,
    synchronize,
)

import pgt_fx
from pgt_fx import zoo

POINTS = 100  # of each curve
#: glibc: blocks of this size on are mapped, and unmapped when freed; one heap for all threads.
GIVE_BACK = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"}


def stream(name: str, space: int, device: str) -> tuple[pgt_fx.Progressive, Any]:
    """The features of a zoo model, exact and late, and a chunk of one frame to repeat."""
    model = zoo.features(name, space=space, redraw_norms=True).to(device)
    example = zoo.clip(name, space=space)
    return pgt_fx.transform(model, example, future="wait", strict=False), example


def run(prog: pgt_fx.Progressive, space: int, frames: int, chunk: int, device: str) -> None:
    prog.reset()
    with torch.inference_mode():
        for start in range(0, frames, chunk):
            clips = _chunk(prog, min(chunk, frames - start), space, device)
            prog(clips, last=start + chunk >= frames)


def _chunk(prog: pgt_fx.Progressive, frames: int, space: int, device: str) -> Any:
    clips = [torch.randn(1, 3, frames * r, space, space, device=device) for r in prog.clip_ratio]
    return clips if len(clips) > 1 else clips[0]


def curves(prog: pgt_fx.Progressive, name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Per group of successive steps the median time, the state and the process's memory."""
    process, chunk = psutil.Process(), options.chunk
    steps = options.frames // chunk
    group = max(1, steps // POINTS)
    points: list[dict[str, Any]] = []
    seconds: list[float] = []
    prog.reset()
    with torch.inference_mode():
        for number in range(steps):
            clips = _chunk(prog, chunk, options.space, options.device)
            synchronize(options.device)
            start = time.perf_counter()
            prog(clips)
            synchronize(options.device)
            seconds.append(time.perf_counter() - start)
            if len(seconds) == group:
                gc.collect()
                points.append(
                    {
                        "frames": (number + 1) * chunk,
                        "seconds_per_step": digits(statistics.median(seconds)),
                        "state_bytes": sum(t.nbytes for t in prog.state.values()),
                        "process_bytes": process.memory_info().rss,
                    }
                )
                seconds = []
    later = points[len(points) // 10 :]  # the first steps warm up
    half = len(later) // 2
    times = [p["seconds_per_step"] for p in later]
    return {
        "model": name,
        "seconds_per_step": spread(times),
        "second_half_over_first": digits(
            statistics.median(times[half:]) / statistics.median(times[:half])
        ),
        "state_bytes": max(p["state_bytes"] for p in later),
        "points": points,
    }


def one(given: dict[str, Any]) -> dict[str, int]:
    """Peaks of a stream of so many frames; on the CPU in a process of its own, and of that too."""
    name, frames, chunk, device = (given[k] for k in ("model", "frames", "chunk", "device"))
    prog, _ = stream(name, given["space"], device)
    run(prog, given["space"], 4 * chunk, chunk, device)  # what is made once, such as graphs

    def work() -> None:
        run(prog, given["space"], frames, chunk, device)

    if device != "cpu":
        return {"tensor_bytes": peak_bytes(work, device)}
    forget_peak()
    work()
    process = process_bytes()
    return {"process_bytes": process, "tensor_bytes": peak_bytes(work, device)}


def main() -> None:
    cli = parser(__doc__, "scale", models=["r3d_18"], allocator="default")
    cli.add_argument("--space", type=int, default=32)
    cli.add_argument("--frames", type=int, default=10_000)
    cli.add_argument("--short", type=int, default=100, help="frames to compare the peaks with")
    cli.add_argument("--chunk", type=int, default=8)
    options = cli.parse_args()
    prepare(options)
    if options.one is not None:
        print(json.dumps(one(json.loads(options.one))))
        return
    # The last step, which answers for all that waited, is the peak: it has a whole chunk in both.
    options.short += -options.short % options.chunk
    rows = []
    for name in options.models:
        prog, _ = stream(name, options.space, options.device)
        row = curves(prog, name, options)
        given = {"model": name, "space": options.space, "chunk": options.chunk}
        given["device"] = options.device
        for frames in (options.short, options.frames):
            work = {**given, "frames": frames}
            if options.device == "cpu":
                row[f"peak_{frames}"] = in_a_process(__file__, work, GIVE_BACK)
                row[f"heap_{frames}"] = in_a_process(__file__, work)
            else:
                row[f"peak_{frames}"] = one(work)
        short, long = row[f"peak_{options.short}"], row[f"peak_{options.frames}"]
        row["growth_bytes"] = {k: long[k] - short[k] for k in short if k in long}
        row["peak_long_over_short"] = {k: digits(long[k] / short[k]) for k in short if k in long}
        both = (options.short, options.frames)
        heaps = [row.get(f"heap_{n}", {}).get("process_bytes") for n in both]
        row["heap_long_over_short"] = digits(heaps[1] / heaps[0]) if all(heaps) else None
        rows.append(row)
    save("scale", options, rows)
    columns = (
        "model",
        "ms/step",
        "2nd half/1st",
        "state kB",
        "peak long/short: tensors, process, heap",
    )
    lines = []
    for row in rows:
        peaks = row["peak_long_over_short"]
        found = [peaks.get(k) for k in ("tensor_bytes", "process_bytes")]
        all_three = ", ".join(map(str, [*found, row["heap_long_over_short"]]))
        ms, state = 1e3 * row["seconds_per_step"]["median"], row["state_bytes"] / 1e3
        lines.append((row["model"], ms, row["second_half_over_first"], state, all_three))
    show(f"{options.frames} frames in chunks of {options.chunk}", columns, lines)


if __name__ == "__main__":
    main()
