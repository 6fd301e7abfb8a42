"""What do truncated and exact gradients hold at once, beside the whole video in one backward?

Peak bytes of tensors made during one forward and backward (weights, gradients and the video are
there before), by number of steps: ``python benchmarks/gradient_memory.py --out FILE.json``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from peak_memory import PeakMemory

import pgt_fx
from pgt_fx import Schedule, zoo
from pgt_fx.training import backward


def measure(work: Callable[[], object], prog: torch.nn.Module) -> int:
    """Peak bytes beyond what is there before; gradients exist already."""
    prog.zero_grad(set_to_none=False)
    with PeakMemory() as memory:
        work()
    return memory.peak


Ways = dict[str, Callable[[], object]]


def ways(
    model: torch.nn.Module, zero: pgt_fx.Progressive, wait: pgt_fx.Progressive, steps: Schedule
) -> tuple[torch.Tensor, Ways]:
    """A video that the schedule fills, and what is compared on it."""
    space = zero.report.clip[0][-1]
    video, label = torch.randn(1, 3, steps.frames, space, space), torch.tensor([1])

    def run(prog: pgt_fx.Progressive, gradient: str) -> object:
        return backward(prog, video, F.cross_entropy, label, schedule=steps, gradient=gradient)

    return video, {
        "truncated": lambda: run(zero, "truncated"),
        "exact": lambda: run(wait, "exact"),
        "whole": lambda: F.cross_entropy(model(video), label).backward(),
    }


@torch.no_grad()
def state_bytes(prog: pgt_fx.Progressive, video: torch.Tensor, steps: Schedule) -> int:
    """Of the state that stands between the last two steps."""
    state: dict[str, torch.Tensor] = {}
    for clip in video.split(steps.chunks(), dim=2)[:-1]:
        _, state = prog.step(state, clip)
    return sum(v.nbytes for v in state.values())


def one_row(
    work: Ways, video: torch.Tensor, steps: Schedule, rounds: int, wait: pgt_fx.Progressive
) -> dict[str, Any]:
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for call in work.values():
        call()  # gradients exist from here on, and each step's graph has been bound
    for _ in range(rounds):  # A B C A B C …
        for name, call in work.items():
            start = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - start)
    pairs = {n: zip(seconds[n], seconds["whole"], strict=True) for n in ("truncated", "exact")}
    return {
        "steps": steps.steps,
        "frames": steps.frames,
        "state_bytes": state_bytes(wait, video, steps),
        "peak_bytes": {name: measure(call, wait) for name, call in work.items()},
        "time_over_whole": {n: statistics.median(a / b for a, b in p) for n, p in pairs.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="r3d_18", help="a name of the zoo")
    parser.add_argument("--space", type=int, default=64)
    parser.add_argument("--length", type=int, default=8, help="T'")
    parser.add_argument("--steps", type=int, nargs="*", default=[1, 2, 4, 8])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    torch.set_num_threads(2)
    model = zoo.build(options.model, space=options.space, redraw_norms=True)
    zero = pgt_fx.transform(model, zoo.clip(options.model, space=options.space)).eval()
    wait = zero.replace(future="wait", pooling="running", strict=False).eval()
    rows = []
    for count in options.steps:
        steps = Schedule(options.length, count)
        video, work = ways(model, zero, wait, steps)
        rows.append(one_row(work, video, steps, options.rounds, wait))
        print(json.dumps(rows[-1]), flush=True)
    one = rows[0]["peak_bytes"]
    for row in rows:
        boundary = row["state_bytes"] * (row["steps"] - 1)
        row["truncated_over_one_step"] = row["peak_bytes"]["truncated"] / one["truncated"]
        row["exact_over_one_step_and_states"] = row["peak_bytes"]["exact"] / (
            one["exact"] + boundary
        )
        print(
            f"P={row['steps']:3}: truncated / P=1 {row['truncated_over_one_step']:.3f}, exact / "
            f"(P=1 + states) {row['exact_over_one_step_and_states']:.3f}, whole / exact "
            f"{row['peak_bytes']['whole'] / row['peak_bytes']['exact']:.2f}"
        )
    if options.out:
        result = {
            "question": "peak memory of gradients by number of steps",
            "model": options.model,
            "space": options.space,
            "length": options.length,
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            "rows": rows,
        }
        options.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
