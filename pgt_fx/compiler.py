"""The compiler: capture → analyze → rewrite → emit → verify, each stage called by name."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from pgt_fx.capture.guess import guess_example
from pgt_fx.capture.inputs import TimeDim, read_example
from pgt_fx.checking.selfcheck import self_check
from pgt_fx.options import Options, check_clip_pools
from pgt_fx.progressive import Progressive, Source
from pgt_fx.report import Report


def transform(
    model: nn.Module,
    example: Any = None,
    *,
    operator: Any = "mco",
    future: str = "zero",
    pooling: str = "step",
    time_dim: TimeDim = None,
    clip_pools: str = "auto",
    strict: bool = True,
    attention: Any = "step",
    check: bool = True,
) -> Progressive:
    """Turn a video model into a progressive one. The model is not changed; weights are shared.

    Args:
        model: any ``nn.Module`` that ``torch.export`` can capture.
        example: one clip as the model takes it: a tensor (one positional argument), a list of
            tensors (one list argument), a tuple (several positional arguments) or a dict (keyword
            arguments). Videos are (N, C, T, H, W) or (N, T, C, H, W), sequences (N, C, T). None:
            found by trying the usual clips without computing anything.
        operator: what is carried from the past: "mco" (DESIGN §7; the paper's section 3.2).
        future: what stands behind the last frame of a step. "zero": padding, as in the paper;
            every step answers at once. "wait": nothing; outputs come when they are exact.
        pooling: reductions over time cover the "step" (the paper's training) or are "running"
            over all frames so far (the last step's answer is then the model's own).
        time_dim: the time dimension, where it can't be told from the example.
        clip_pools: a pool over exactly the clip is a "window" like any other, or "global": a pool
            over all of time. "auto": window where the model runs at other lengths, else global.
        strict: with ``future="wait"``, refuse what can't be exact; False: report it.
        attention: what attention over time without a causal mask sees: the "step", or a "memory"
            of the keys and values of the clip before beside it; ``AttentionMemory(clips)`` for
            another size. With a causal mask it is exact, whatever is said here.
        check: compare what was made with the model, on copies and short random videos, and refuse
            what differs; ``prog.report`` says on which. It takes up to as long as the rest.

    Returns:
        a :class:`~pgt_fx.progressive.Progressive` in the model's mode (train or eval).

    Raises:
        CaptureError: the model can't be captured with a symbolic time axis.
        BlockedError: operators that mix time have no rule; all are listed.
        ExactnessError: ``future="wait"`` with operators that no bounded state reproduces.
        SelfCheckError: what was made does not give what the model gives.
        OptionError, ClipError: for bad arguments.
    """
    options = Options(operator, future, pooling, strict, attention)  # type: ignore[arg-type]
    source = capture_source(model, example, time_dim, clip_pools)
    prog = Progressive(source, options)
    prog._captured()  # capture
    prog._analysis()  # analyze
    prog._program()  # rewrite and emit
    if options.future == "wait" and strict:
        prog.report.check_strict()  # verify what the options promise
    if check:
        prog._note(self_check(prog))  # and that it is so
    return prog


def analyze(
    model: nn.Module, example: Any = None, *, time_dim: TimeDim = None, clip_pools: str = "auto"
) -> Report:
    """The report of a model, nothing rewritten; arguments and errors as :func:`transform`."""
    source = capture_source(model, example, time_dim, clip_pools)
    return Progressive(source, Options(strict=False)).report


def capture_source(model: nn.Module, example: Any, time_dim: TimeDim, clip_pools: str) -> Source:
    """The model with the structure of its clip; the capture itself is made when needed."""
    check_clip_pools(clip_pools)
    if example is None:
        example = guess_example(model)
    spec, leaves = read_example(example, time_dim)
    # Only sizes are kept of the videos: an example may be large.
    kept = [
        torch.empty_like(x, device="meta") if isinstance(x, Tensor) and t is not None else x
        for x, t in zip(leaves, spec.times, strict=True)
    ]
    return Source(model, spec, kept, clip_pools)
