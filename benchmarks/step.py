"""Does a progressive step cost what the plain model costs, per new frame?

First a chunk of T' = 8 frames, then steps of 7 new ones: seconds per new frame of such a step over
those of the plain model on a clip of 8, forward and forward + backward; and over the paper's way of
doing it, which computes the carried frame of every block again (recompute.py). The limit is 1.

Where the model has a temporal stride of s, s steps are timed together, after which its phase is
the same again. Of eight steps of 7 frames at a stride of 8 one has no answer and nothing to go back
from, while the plain model goes back from every clip: forward + backward is like for like in steps
of ``--new 8`` there, which the paper's way can take as well. Heads pool over all there is
(harness.any_length).

What 7 frames cost for their number alone (a GPU's tiles and aligned loads fit 8) is measured by
``--same-length``: the plain model on a clip of as many frames as the step has new ones. On a GPU
several calls are enqueued and then waited for, as in a stream (``--calls``); what its kernels alone
take is measured by ``--kernels``.

    pgt-fx bench step --space full 64
    pgt-fx bench step --models r2plus1d_18 csn_r101 --new 8
    pgt-fx bench step --compile              # the same compiled: prog.compile(), torch.compile
    pgt-fx bench step --device cuda --batch 1 16 --same-length
    pgt-fx bench step --device cuda --compile --mode reduce-overhead   # with CUDA graphs
    pgt-fx bench step --models slow_r50 --space 32 --repeat 3
"""

from __future__ import annotations

import argparse
import itertools
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch
from harness import (
    any_length,
    compilable,
    digits,
    interleaved,
    one_line,
    parser,
    prepare,
    ratio,
    save,
    show,
    spread,
)
from kernels import kernel_seconds
from recompute import NotApplicableError, recomputed
from torch import nn

import pgt_fx
from pgt_fx import zoo
from pgt_fx.runtime.torch_compile import replayed

MODELS = ["slow_r50", "slowfast_r50", "r2plus1d_18", "x3d_m", "csn_r101"]
PASSES = ("forward", "forward+backward")
LENGTH = 8
WAYS = ("plain", "step", "recompute")
#: The plain model on a clip of as many frames as a step has new ones.
SAME = "plain, as many frames"
#: Calls in a row, on a GPU: the host runs ahead of it, as in a stream.
CALLS = {"cpu": 1, "cuda": 4}


@dataclass(frozen=True)
class Size:
    """Of a clip: pixels of a side, and videos in a batch; and whether channels come last."""

    space: int
    batch: int
    channels_last: bool = False


def period(prog: pgt_fx.Progressive, new: int) -> int:
    """Steps of ``new`` frames after which the model's temporal strides are in phase again."""
    strides = [
        Fraction(stride) / r for stride, r in zip(prog.report.stride, prog.clip_ratio, strict=False)
    ]
    s = max((math.ceil(x) for x in strides), default=1)
    return math.lcm(s, new) // new


def clip(prog: pgt_fx.Progressive, frames: int, size: Size, like: torch.Tensor) -> Any:
    shapes = [(size.batch, 3, frames * r, size.space, size.space) for r in prog.clip_ratio]
    clips = [torch.randn(shape).to(like.device, like.dtype) for shape in shapes]
    if size.channels_last:
        clips = [x.to(memory_format=torch.channels_last_3d) for x in clips]
    return clips if len(clips) > 1 else clips[0]


def call(model: nn.Module, given: Any, backward: bool) -> bool:
    """Once forward (and backward, to the gradients of all parameters); whether it answered.

    With a temporal stride of 8 one step of 7 frames in 8 has no answer, and nothing to go back
    from.
    """
    # A model of two paths writes its activations into the list it is given.
    given = list(given) if isinstance(given, list) else given
    if not backward:
        with torch.inference_mode():
            return model(given) is not None
    out = model(given)
    if out is not None:
        out.float().square().mean().backward()
    return out is not None


def sides(
    model: nn.Module,
    prog: pgt_fx.Progressive,
    size: Size,
    frames: int,
    backward: bool,
    how: dict[str, Any] | None,
    *,
    calls: int = 1,
    same_length: bool = False,
) -> tuple[dict[str, Callable[[], None]], dict[str, Any]]:
    """What is compared, each doing as many steps or clips as make up a period; and notes.

    Args:
        frames: new ones of a step.
        how: options of torch.compile; None: eager.
        calls: periods in a row.
        same_length: with a plain clip of as many frames as the step's.
    """
    for one in (model, prog):
        one.train(backward)
    like = next(model.parameters())
    first, new = clip(prog, LENGTH, size, like), clip(prog, frames, size, like)
    count, notes = period(prog, frames), {}
    ways: dict[str, nn.Module] = {"plain": model, "step": prog}
    try:
        ways["recompute"] = recomputed(model, frames).train(backward)
        if how and replayed(how):
            del ways["recompute"]
            notes["no_recompute"] = "a replayed graph would write over what its blocks keep"
    except NotApplicableError as error:
        notes["no_recompute"] = str(error)
    if same_length and frames != LENGTH:
        ways[SAME] = model
    given = {"plain": first, "step": new, "recompute": new, SAME: new}

    def repeat(way: nn.Module, chunk: Any) -> Callable[[], None]:
        def run() -> None:
            for _ in range(count * calls):
                call(way, chunk, backward)

        return run

    prog.reset()
    out: dict[str, Callable[[], None]] = {}
    for name, way in ways.items():
        run: nn.Module = way
        if how is not None and name == "step":
            prog.compile(**how)
            notes |= compilations(prog, first, new, backward, count)
        elif way is not model:
            call(way, first, backward)
        if how is not None and name != "step":
            # As the steps are: sizes fixed, so that none pays for a graph of all sizes.
            run = torch.compile(way, dynamic=False, **how)  # type: ignore[assignment]
        out[name] = repeat(run, given[name])
    return out, notes


def compilations(
    prog: pgt_fx.Progressive, first: Any, new: Any, backward: bool, count: int
) -> dict[str, Any]:
    """Graphs that torch.compile makes until each of the ``count`` phases of a steady step has come
    twice, and after that; and whether it gave up on a function, whose later calls then run
    uncompiled and make no graph.

    A model with several phases takes a round to reach the steady ones: its windows still feel the
    start of the video in the first.
    """
    graphs, heard = torch._dynamo.utils.counters["stats"], _Listener()
    logger = logging.getLogger("torch._dynamo")
    logger.addHandler(heard)
    try:
        before = graphs["unique_graphs"]
        call(prog, first, backward)
        for _ in range(2 * count + (count if count > 1 else 0)):
            call(prog, new, backward)
        second = graphs["unique_graphs"]
        for _ in range(max(4, 2 * count)):
            call(prog, new, backward)
    finally:
        logger.removeHandler(heard)
    return {
        "graphs": second - before,
        "recompilations_after_second_step": graphs["unique_graphs"] - second,
        "gave_up": heard.gave_up,
    }


class _Listener(logging.Handler):
    """Listens for the warning that the limit of recompilations was hit."""

    gave_up = False

    def emit(self, record: logging.LogRecord) -> None:
        self.gave_up |= "recompile_limit" in record.getMessage()


def _key(
    name: str, size: Size, dtype: str, way: str, options: argparse.Namespace
) -> dict[str, Any]:
    mode = "compiled" if options.compile else "eager"
    if options.compile and options.mode:
        mode = f"compiled, {options.mode}"
    row = {"model": name, "space": size.space, "full": size.space == zoo.get(name).space}
    if size.channels_last:
        row["layout"] = "channels last"
    return {**row, "batch": size.batch, "dtype": dtype, "pass": way, "mode": mode}


def measure(
    name: str, size: Size, dtype: str, way: str, options: argparse.Namespace
) -> dict[str, Any]:
    """One row: a model at a size, in a dtype, one pass."""
    row, space = _key(name, size, dtype, way, options), size.space
    kind = torch.bfloat16 if dtype == "bf16" else torch.float32
    model = any_length(zoo.build(name, space=space, redraw_norms=True))
    if options.compile:
        model = compilable(model)
    prog = pgt_fx.transform(model, zoo.clip(name, space=space))
    model.to(options.device, kind)
    if size.channels_last:
        model.to(memory_format=torch.channels_last_3d)
    torch._dynamo.reset()
    new = clip(prog, options.new, size, next(model.parameters()))
    how = ({"mode": options.mode} if options.mode else {}) if options.compile else None
    calls = options.calls or CALLS[options.device]
    again = {"calls": calls, "same_length": options.same_length}
    work, notes = sides(model, prog, size, options.new, way == PASSES[1], how, **again)
    seconds = interleaved(work, options.repeat, at_least=options.seconds, device=options.device)
    each = {"plain": LENGTH, "step": options.new, "recompute": options.new, SAME: options.new}
    count = period(prog, options.new)
    frames = {k: n * count * calls * size.batch for k, n in each.items()}
    per_frame = {k: [s / frames[k] for s in v] for k, v in seconds.items()}
    row |= {"new_frames": options.new, "steps_timed_together": count, "calls": calls, **notes}
    if count > 1:
        row["answers"] = sum(call(prog, new, way == PASSES[1]) for _ in range(count))
    row["seconds_per_new_frame"] = {k: spread(v) for k, v in per_frame.items()}
    row["step_over_plain"] = ratio(per_frame, "step", "plain")
    if "recompute" in per_frame:
        row["step_over_recompute"] = ratio(per_frame, "step", "recompute")
        row["recompute_over_plain"] = ratio(per_frame, "recompute", "plain")
    if options.kernels:
        alone = {k: kernel_seconds(run) / frames[k] for k, run in work.items()}
        row["kernel_seconds_per_new_frame"] = {k: digits(s) for k, s in alone.items()}
        row["kernels_over_plain"] = digits(alone["step"] / alone["plain"])
    if SAME in per_frame:
        row["same_length_over_plain"] = ratio(per_frame, SAME, "plain")
    return row


def variant(options: argparse.Namespace) -> str:
    """Of the benchmark, as the name of its results has it."""
    parts = ("compiled" if options.compile else "", options.mode if options.compile else "")
    return "_".join(x for x in (*parts, "channels-last" * options.channels_last) if x)


def main() -> None:
    cli = parser(__doc__, "step", repeat=7, models=MODELS)
    cli.add_argument("--space", nargs="*", default=["full", "64"], help="'full' or pixels")
    cli.add_argument("--dtype", nargs="*", default=["float32", "bf16"], choices=("float32", "bf16"))
    cli.add_argument("--passes", nargs="*", default=list(PASSES), choices=PASSES)
    cli.add_argument("--new", type=int, default=7, help="new frames of a step")
    cli.add_argument("--batch", type=int, nargs="*", default=[1], help="videos in a batch")
    cli.add_argument("--calls", type=int, help="in a row; default: 1, on a GPU 4")
    cli.add_argument("--same-length", action="store_true", help="a plain clip of --new frames too")
    cli.add_argument("--kernels", action="store_true", help="the GPU's own time as well")
    cli.add_argument("--channels-last", action="store_true", help="weights and clips")
    cli.add_argument("--compile", action="store_true", help="under torch.compile")
    cli.add_argument("--mode", help="of torch.compile, for all sides")
    # A round of a small model takes a tenth of a second, and what disturbs it as long.
    cli.add_argument("--seconds", type=float, default=10.0, help="to clock for a row, at least")
    options = cli.parse_args()
    if options.kernels and options.device == "cpu":
        cli.error("--kernels: of a GPU; add --device cuda")
    if options.calls is not None and options.calls < 1:
        cli.error(f"--calls {options.calls}: expected at least 1")
    prepare(options)
    rows: list[dict[str, Any]] = []
    spaces, batches = options.space, options.batch
    cases = itertools.product(options.models, spaces, batches, options.dtype, options.passes)
    for name, space, batch, dtype, way in cases:
        pixels = zoo.get(name).space if space == "full" else int(space)
        size = Size(pixels, batch, options.channels_last)
        try:
            row = measure(name, size, dtype, way, options)
        except Exception as error:  # one that a backend can't compile must not cost the others
            row = {**_key(name, size, dtype, way, options), "failed": one_line(error)}
        rows.append(row)
        show_rows(rows[-1:])
        save("step", options, rows, variant=variant(options))
    print()
    show_rows(rows)


def show_rows(rows: list[dict[str, Any]]) -> None:
    columns = ("model", "space", "batch", "dtype", "pass", "plain ms", "step ms", "paper's ms")
    lines = []
    for row in rows:
        times = row.get("seconds_per_new_frame", {})
        ms = [1e3 * times[k]["median"] if k in times else None for k in WAYS]
        ratios = [row.get(k, {}).get("median") for k in ("step_over_plain", "step_over_recompute")]
        key = [row[k] for k in ("model", "space", "batch", "dtype", "pass")]
        lines.append([*key, *ms, *(ratios if times else (row["failed"], None))])
    show("per new frame", (*columns, "step/plain", "step/paper's"), lines)


if __name__ == "__main__":
    main()
