"""``transform``: the stages of the compiler, one after the other, and the self-check."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from pgt_fx.capture.observe.uncalled_layers import warn_idle
from pgt_fx.capture.probe.guess_example import guess_example
from pgt_fx.capture.probe.time_axis import ask_for_time
from pgt_fx.compiler import stages
from pgt_fx.compiler.check_model import check_model
from pgt_fx.compiler.programs import ModelPrograms
from pgt_fx.compiler.report import Report
from pgt_fx.compiler.selfcheck.check import self_check
from pgt_fx.compiler.specialize import Source
from pgt_fx.core.clip import TimeDim, read_example
from pgt_fx.core.errors import ClipError, OptionError
from pgt_fx.core.hints import hinted
from pgt_fx.core.options import (
    Attention,
    AttentionMemory,
    ClipPools,
    Future,
    MarkovOperator,
    Operator,
    Options,
    Pooling,
    check_clip_pools,
)
from pgt_fx.runtime.progressive import Progressive


def transform(
    model: nn.Module,
    example: Any = None,
    *,
    operator: Operator | MarkovOperator = "mco",
    future: Future = "zero",
    pooling: Pooling = "step",
    time_dim: TimeDim = None,
    clip_pools: ClipPools = "auto",
    strict: bool = True,
    attention: Attention | AttentionMemory = "step",
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
        future: what stands after the last frame of a step. "zero": padding, as in the paper;
            every step answers at once. "wait": nothing; outputs come when they are exact.
        pooling: reductions over time cover the "step" (the paper's training) or are "running"
            over all frames so far (the last step's answer is then the model's own).
        time_dim: the time dimension of the videos in the example, or one for each of its tensors
            (None for one without time). None: (N, C, T, H, W) or (N, T, C, H, W) by the channels;
            of (N, C, T) and (N, T, C), and where channels don't tell, the axis along which the
            model takes another length.
        clip_pools: a pool over exactly the clip is a "window" like any other, or "global": a pool
            over all of time. "auto": window where the model runs at other lengths, else global.
        strict: with ``future="wait"``, refuse what can't be exact; False: report it.
        attention: what attention over time without a causal mask sees: the "step", or a "memory"
            of the keys and values of the clip before beside it; ``AttentionMemory(clips)`` for
            another size. With a causal mask it is exact, whatever is said here.
        check: compare what was made with the model, on copies and short random videos, and refuse
            what differs; ``prog.report`` says on which. It takes up to as long as the rest.

    Returns:
        a :class:`~pgt_fx.runtime.progressive.Progressive` in the model's mode (train or eval). A
        warning names layers along time that the model does not run when it is called like that.

    Raises:
        CaptureError: the model can't be captured with a symbolic time axis (``LoopError``: it loops
            over its frames in Python, with a cache of its own or without).
        BlockedError: operators that mix time have no rule; all are listed.
        ExactnessError: ``future="wait"`` with operators that no bounded state reproduces.
        SelfCheckError: what was made does not give what the model gives.
        OptionError, ClipError: for bad arguments, and where the time axis can't be determined.
    """
    options = Options(operator, future, pooling, strict, attention)
    with hinted(model):
        source = read_model(model, example, time_dim, clip_pools)
        captured = stages.capture(source)
        analysis = stages.analyze(captured, source, options)
        emitted = stages.lower(analysis, source, options)
        program = stages.bind(emitted, source)
        programs = ModelPrograms(source, options)
        programs.add(analysis, program)
        programs.promised()
        prog = Progressive(programs)
        if check:
            programs.note(self_check(prog))
    warn_idle(model, captured.idle, source.spec)
    return prog


def analyze(
    model: nn.Module,
    example: Any = None,
    *,
    time_dim: TimeDim = None,
    clip_pools: ClipPools = "auto",
) -> Report:
    """The report of a model, nothing rewritten; arguments and errors as :func:`transform`."""
    with hinted(model):
        source = read_model(model, example, time_dim, clip_pools)
        return ModelPrograms(source, Options(strict=False)).report


def read_model(model: nn.Module, example: Any, time_dim: TimeDim, clip_pools: ClipPools) -> Source:
    """The model with the structure of its clip; the capture itself is made when needed."""
    if not isinstance(model, nn.Module):
        what = f"the class {model.__name__}" if isinstance(model, type) else type(model).__name__
        raise OptionError(f"model: expected a torch.nn.Module, an instance of one, got {what}")
    check_clip_pools(clip_pools)
    check_model(model)
    if example is None:
        example = guess_example(model)
    _check_names(example)
    spec, leaves = read_example(example, time_dim)
    if time_dim is None:
        spec = ask_for_time(model, spec, leaves)
    # Only sizes are kept of the videos: an example may be large.
    kept = [
        torch.empty_like(x, device="meta") if isinstance(x, Tensor) and t is not None else x
        for x, t in zip(leaves, spec.times, strict=True)
    ]
    return Source(model, spec, kept, clip_pools)


#: Keyword arguments of a step, which no input of the model can be called by.
OF_STEPS = ("last", "detach")


def _check_names(example: Any) -> None:
    """Make sure that a step can be given the inputs of the example.

    Raises:
        ClipError: when one has the name of an option of a step.
    """
    for name in OF_STEPS if isinstance(example, dict) else ():
        if name in example:
            raise ClipError(
                f"example: an input is called {name!r}, and so is an option of a step, "
                f"prog(clip, {name}=…): give the inputs in their order, as a tuple"
            )
