"""What do truncated and exact gradients hold at once, beside the whole video in one backward?

Peak bytes of tensors made during one forward and backward (weights, gradients and the video are
there before), by number of steps, with one loss per step in both. ``train.py`` compares more ways,
with the whole video's own loss.

    pgt-fx bench gradient_memory
    pgt-fx bench gradient_memory --model r3d_18 --space 32 --steps 1 2 --repeat 1
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from harness import interleaved, parser, peak_bytes, prepare, ratio, save

import pgt_fx
from pgt_fx import Schedule, zoo
from pgt_fx.training import backward


def measure(work: Callable[[], object], prog: torch.nn.Module) -> int:
    """Peak bytes beyond what is there before; gradients exist already."""
    prog.zero_grad(set_to_none=False)
    return peak_bytes(work)


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
    # The warm-up makes the gradients, and binds each step's graph.
    seconds = interleaved(work, rounds)
    return {
        "steps": steps.steps,
        "frames": steps.frames,
        "state_bytes": state_bytes(wait, video, steps),
        "peak_bytes": {name: measure(call, wait) for name, call in work.items()},
        "time_over_whole": {n: ratio(seconds, n, "whole") for n in ("truncated", "exact")},
    }


def main() -> None:
    cli = parser(__doc__, "gradient_memory", repeat=3)
    cli.add_argument("--model", default="r3d_18", help="a name of the zoo")
    cli.add_argument("--space", type=int, default=112)
    cli.add_argument("--length", type=int, default=8, help="T'")
    cli.add_argument("--steps", type=int, nargs="*", default=[1, 2, 4, 8])
    options = cli.parse_args()
    prepare(options)
    model = zoo.build(options.model, space=options.space, redraw_norms=True)
    zero = pgt_fx.transform(model, zoo.clip(options.model, space=options.space)).eval()
    wait = zero.replace(future="wait", pooling="running", strict=False).eval()
    rows = []
    for count in options.steps:
        steps = Schedule(options.length, count)
        video, work = ways(model, zero, wait, steps)
        rows.append(one_row(work, video, steps, options.repeat, wait))
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
    save("gradient_memory", options, rows)


if __name__ == "__main__":
    main()
