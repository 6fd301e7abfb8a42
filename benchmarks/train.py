"""What does training on P steps cost beside the whole video in one backward?

For P = 1 … 16 steps of T' = 8 frames that overlap by one: truncated gradients (one loss per step),
exact ones (those of the whole video), the whole video in one backward, and that with
torch.utils.checkpoint around every stage or every block. Seconds interleaved in one process; peaks
of memory each in a process of its own (on a GPU by its allocator). Where one way crosses another is
said in words.

Norms are in eval mode, so that "exact" and "whole" give the same gradients; the error is in the
JSON. Weights, their gradients and the video are not in the tensors' peak.

    pgt-fx bench train
    pgt-fx bench train --models r3d_18 --space 32 --steps 1 2 --repeat 1
"""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from harness import (
    any_length,
    digits,
    in_a_process,
    interleaved,
    parser,
    peak_bytes,
    prepare,
    process_bytes,
    ratio,
    save,
    show,
    spread,
)
from recompute import BLOCKS
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils.checkpoint import checkpoint

import pgt_fx
from pgt_fx import Schedule, zoo
from pgt_fx.training import backward

WAYS = ("truncated", "exact", "whole", "checkpoint per stage", "checkpoint per block")
#: What the others are compared with.
WHOLE = "whole"
#: Numbers in a video that is differentiated in float64 as well: its activations take twice as much.
MOST_IN_DOUBLE = 3_000_000


class Setting:
    """A model and all ways of differentiating it over a video."""

    def __init__(
        self, name: str, space: int, length: int, steps: int, device: str, batch: int = 1
    ) -> None:
        self.schedule = Schedule(length, steps)
        self.model = any_length(zoo.build(name, space=space, redraw_norms=True)).to(device)
        self.zero = pgt_fx.transform(self.model, zoo.clip(name, space=space)).eval()
        self.wait = self.zero.replace(future="wait", pooling="running", strict=False).eval()
        generator = torch.Generator().manual_seed(1)
        frames = self.schedule.frames
        videos = [
            torch.randn(batch, 3, frames * r, space, space, generator=generator).to(device)
            for r in self.zero.clip_ratio
        ]
        self.video: Any = videos if len(videos) > 1 else videos[0]
        self.label = torch.ones(batch, dtype=torch.long, device=device)

    def work(self, way: str) -> Callable[[], object]:
        """Forward and backward of the video, to the gradients of all parameters."""
        how: dict[str, Any] = {"schedule": self.schedule}
        if way == "truncated":
            return lambda: backward(self.zero, self.video, F.cross_entropy, self.label, **how)
        if way == "exact":
            # The loss that the whole video has: of the last step's answer.
            how |= {"gradient": "exact", "on": "last"}
            return lambda: backward(self.wait, self.video, F.cross_entropy, self.label, **how)
        model = self.model if way == WHOLE else checkpointed(self.model, way.rpartition(" ")[2])
        model.zero_grad(set_to_none=False)

        def whole() -> None:
            video = list(self.video) if isinstance(self.video, list) else self.video
            F.cross_entropy(model(video), self.label).backward()

        return whole

    def gradients(self, way: str) -> list[Tensor]:
        self.model.zero_grad()
        self.work(way)()
        found = [p.grad.clone() for p in self.model.parameters() if p.grad is not None]
        self.model.zero_grad()
        return found

    def to(self, dtype: torch.dtype) -> None:
        self.model.to(dtype)
        self.video = pytree.tree_map(lambda x: x.to(dtype), self.video)

    @property
    def numbers(self) -> int:
        """In the video."""
        return sum(x.numel() for x in pytree.tree_leaves(self.video))


def checkpointed(model: nn.Module, around: str) -> nn.Module:
    """A copy whose stages, or residual blocks and all else at the first level, are recomputed."""
    model = copy.deepcopy(model)
    # The model is in eval mode and has no dropout that acts: there is nothing random to replay.
    wrap = partial(checkpoint, use_reentrant=False, preserve_rng_state=False)
    # pytorchvideo keeps its stages in a list; torchvision's are the model's own children.
    stages: list[nn.Module] = list(getattr(model, "blocks", model.children()))
    blocks = [m for s in stages for m in s.modules() if type(m).__name__ in BLOCKS]
    inside = {id(m) for b in blocks for m in b.modules()}
    rest = [s for s in stages if not any(id(m) in inside for m in s.modules())]
    for module in stages if around == "stage" else [*blocks, *rest]:
        module.forward = partial(wrap, module.forward)  # type: ignore[method-assign]
    return model


def gradient_errors(setting: Setting) -> dict[str, float]:
    """Largest difference of the exact gradients from the whole video's, over the largest; and of
    the whole video's own from those in float64, where that fits."""
    exact, whole = setting.gradients("exact"), setting.gradients(WHOLE)
    found = {"exact_gradient_error": _distance(exact, whole)}
    if setting.numbers <= MOST_IN_DOUBLE:
        setting.to(torch.float64)
        precise = [g.float() for g in setting.gradients(WHOLE)]
        setting.to(torch.float32)
        found["whole_gradient_rounding"] = _distance(whole, precise)
    return found


def _distance(a: list[Tensor], b: list[Tensor]) -> float:
    def largest(tensors: Iterable[Tensor]) -> float:
        return max(float(t.abs().max()) for t in tensors)

    return digits(largest(x - y for x, y in zip(a, b, strict=True)) / largest(b))


@torch.no_grad()
def state_bytes(setting: Setting) -> int:
    """Of the state that stands between the last two steps."""
    state: dict[str, Tensor] = {}
    for args, kwargs in setting.wait.chunks(setting.video, schedule=setting.schedule)[:-1]:
        _, state = setting.wait.step(state, *args, **kwargs)
    return sum(v.nbytes for v in state.values())


def one(given: dict[str, Any]) -> dict[str, int]:
    """Peaks of one way, in a process of its own."""
    way, device = given.pop("way"), given["device"]
    setting = Setting(**given)
    for parameter in setting.model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    work, before = setting.work(way), process_bytes()
    work()
    process = process_bytes() - before
    return {"tensor_bytes": peak_bytes(work, device), "process_bytes": process}


def measure(name: str, steps: int, options: argparse.Namespace) -> dict[str, Any]:
    """One row: all ways at one number of steps."""
    given = {"name": name, "space": options.space, "length": options.length, "steps": steps}
    given |= {"device": options.device, "batch": options.batch}
    setting = Setting(**given)
    row: dict[str, Any] = {"model": name, "steps": steps, "frames": setting.schedule.frames}
    row["batch"] = options.batch
    row["state_bytes"] = state_bytes(setting)
    row |= gradient_errors(setting)
    sides = {way: setting.work(way) for way in options.ways}
    seconds = interleaved(sides, options.repeat, device=options.device)
    if options.device != "cpu":
        # Its allocator counts what each way adds to what is there.
        found = {way: {"tensor_bytes": peak_bytes(do, options.device)} for way, do in sides.items()}
    del sides, setting
    row["seconds"] = {way: spread(s) for way, s in seconds.items()}
    if WHOLE in seconds:
        row["time_over_whole"] = {way: ratio(seconds, way, WHOLE) for way in seconds}
    if options.device == "cpu":
        found = {way: in_a_process(__file__, {"way": way, **given}) for way in options.ways}
    row["peaks"] = found
    return row


def crossings(rows: list[dict[str, Any]]) -> list[str]:
    """From how many steps on a way of ours holds less, or takes less time, than another."""
    out = []
    for model in dict.fromkeys(r["model"] for r in rows):
        mine = sorted((r for r in rows if r["model"] == model), key=lambda r: r["steps"])
        for ours in ("truncated", "exact"):
            for other in WAYS[2:]:
                for unit, of in (("memory", _memory), ("time", _seconds)):
                    found = [(r["steps"], of(r, ours), of(r, other)) for r in mine]
                    known = [(p, a < b) for p, a, b in found if a is not None and b is not None]
                    if known:
                        where = _from(known)
                        out.append(f"{model}: {ours} takes less {unit} than {other} {where}")
    return out


def _from(known: list[tuple[int, bool]]) -> str:
    """At which numbers of steps a comparison holds."""
    holds, last = [steps for steps, less in known if less], known[-1][0]
    if not holds:
        return f"at no P up to {last}"
    if holds == [steps for steps, _ in known][-len(holds) :]:
        return f"from P = {holds[0]} on (measured up to {last})"
    return f"at P = {', '.join(map(str, holds))} only"


def _memory(row: dict[str, Any], way: str) -> float | None:
    return row["peaks"].get(way, {}).get("tensor_bytes")


def _seconds(row: dict[str, Any], way: str) -> float | None:
    return row["seconds"].get(way, {}).get("median")


def main() -> None:
    cli = parser(__doc__, "train", repeat=3, models=["slow_r50"])
    cli.add_argument("--space", type=int, default=128, help="pixels; of slow_r50 a multiple of 32")
    cli.add_argument("--batch", type=int, default=1, help="videos")
    cli.add_argument("--length", type=int, default=8, help="T'")
    cli.add_argument("--steps", type=int, nargs="*", default=[1, 2, 4, 8, 16], help="P")
    cli.add_argument("--ways", nargs="*", default=list(WAYS), choices=WAYS)
    options = cli.parse_args()
    prepare(options)
    if options.one is not None:
        print(json.dumps(one(json.loads(options.one))))
        return
    rows = []
    for name in options.models:
        for steps in options.steps:
            rows.append(measure(name, steps, options))
            show_row(rows[-1])
            save("train", options, rows, norms="eval", crossings=crossings(rows))
    for line in crossings(rows):
        print(line)


def show_row(row: dict[str, Any]) -> None:
    whole = _memory(row, WHOLE)
    lines = []
    for way, seconds in row["seconds"].items():
        peak = _memory(row, way)
        time = row.get("time_over_whole", {}).get(way, {}).get("median")
        over = peak / whole if peak and whole else None
        lines.append((way, seconds["median"], time, peak and peak / 1e6, over))
    columns = ("way", "seconds", "over whole", "peak MB", "over whole")
    show(f"{row['model']}, P = {row['steps']} ({row['frames']} frames)", columns, lines)


if __name__ == "__main__":
    main()
