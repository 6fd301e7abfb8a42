"""Planted faults in the steps of windows, joins, pools and heads, and in the paper's operators; see
``mutants.py``."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest import mock

import torch
from planting import Apart, Pooled, changed_due, mutant, patched
from torch import Tensor

from pgt_fx.core import clocks
from pgt_fx.runtime.markov import align, buffer, concat, context, pool, window
from pgt_fx.runtime.markov.window import MarkovWindow
from pgt_fx.runtime.progressive import Progressive
from pgt_fx.runtime.work import Due

# -- windows -------------------------------------------------------------------------------------


@mutant("the future leaks by one frame", "one-way-forward")
def _leak() -> Any:
    def make(original: Any) -> Any:
        def step(self, state, *clip, last=False, detach=True, **named):  # type: ignore[no-untyped-def]
            (x,) = clip
            whole = x._base if x._base is not None and x._base.shape[1] == x.shape[1] else None
            if whole is not None and not last:
                end = (x.storage_offset() - whole.storage_offset()) // x.stride(2) + x.shape[2]
                if end < whole.shape[2]:
                    x = torch.cat([x[:, :, :-1], whole[:, :, end : end + 1]], 2)
            return original(self, state, x, last=last, detach=detach, **named)

        return step

    return patched(Progressive, "step", make)


@mutant("stale phase of a strided window", "exact-wait")
def _phase() -> Any:
    def change(d: Due, law: Any, before: Any, after: Any) -> Due:
        strided = getattr(law, "stride", 1) > 1 and before.sure > 0 and d.outs > 0
        return replace(d, trim=d.trim + 1, right=d.right + 1) if strided else d

    return changed_due(change)


@mutant("padding put again at every step", "exact-wait")
def _padding() -> Any:
    def change(d: Due, law: Any, before: Any, after: Any) -> Due:
        if getattr(law, "kernel", 1) != 5 or d.held < 1 or not d.outs:
            return d
        return replace(d, skip=d.skip + 1, left=d.left + 1)

    return changed_due(change)


@mutant("no padding at the end of the video", "exact-wait")
def _no_end() -> Any:
    def make(original: Any) -> Any:
        def step(self, state, *clip, last=False, detach=True, **named):  # type: ignore[no-untyped-def]
            return original(self, state, *clip, last=False, detach=detach, **named)

        return step

    return patched(Progressive, "step", make)


@mutant("max pooling padded with 0", "full-equals-model")
def _fill() -> Any:
    def make(original: Any) -> Any:
        def forward(self, step, x, *tensors):  # type: ignore[no-untyped-def]
            with mock.patch.object(self, "fill", 0.0):
                return original(self, step, x, *tensors)

        return forward

    return patched(MarkovWindow, "forward", make)


@mutant("divisor of average pools ignores the ends", "full-equals-model")
def _divisor() -> Any:
    return changed_due(lambda d, law, before, after: replace(d, divisors=()))


@mutant("tail one element short, filled with zeros", "exact-wait")
def _short() -> Any:
    def make(original: Any) -> Any:
        def owned(x: Tensor) -> Tensor:
            tail = original(x)
            if tail.shape[2] > 1:
                tail[:, :, 0] = 0
            return tail

        return owned

    return patched(window, "owned", make)


@mutant("tail shifted by one element", "exact-wait")
def _shifted() -> Any:
    def make(original: Any) -> Any:
        return lambda x: original(x).roll(1, 2)

    return patched(window, "owned", make)


@mutant("dilation left out of the past", "exact-wait")
def _dilation() -> Any:
    def change(d: Due, law: Any, before: Any, after: Any) -> Due:
        if getattr(law, "dilation", 1) == 1 or not d.held or not d.outs:
            return d
        return replace(d, skip=d.skip + 1, left=d.left + 1)

    return changed_due(change)


@mutant("the zero future is a copy of the last frame", "full-equals-model")
def _replicated() -> Any:
    def make(original: Any) -> Any:
        def padded(tail, x, dim, left, right, mode, value):  # type: ignore[no-untyped-def]
            x, whole = original(tail, x, dim, left, 0, mode, value)
            return (buffer.filled(x, dim, 0, right, "replicate", value) if right else x), whole

        return padded

    return patched(window, "padded", make)


# -- joins, pools, heads -------------------------------------------------------------------------


@mutant("aligner off by one", "exact-wait")
def _aligner() -> Any:
    from pgt_fx.runtime import plan_items

    def make(original: Any) -> Any:
        def align_due(*counts: Any) -> Due:
            d = original(*counts)
            return replace(d, skip=d.skip + 1, outs=d.outs - 1) if d.outs > 1 else d

        return align_due

    return patched(plan_items, "align_due", make)


@mutant("aligner forgets what it holds", "exact-wait")
def _held() -> Any:
    def make(original: Any) -> Any:
        return lambda x: torch.zeros_like(original(x))

    return patched(align, "owned", make)


@mutant("running mean weighted by steps, not frames", "exact-wait", Pooled)
def _weights() -> Any:
    def make(original: Any) -> Any:
        def forward(self, step, x, *others):  # type: ignore[no-untyped-def]
            with _counted(step):
                return original(self, step, x, *others)

        return forward

    return patched(pool.MarkovPool, "forward", make)


@contextmanager
def _counted(step: Any) -> Any:
    """Each step that brings elements counts as one."""
    seen = step.due
    halved = {
        k: replace(d, before=min(d.before, 1), new=min(d.new, 1)) if hasattr(d, "before") else d
        for k, d in seen.items()
    }
    step.due = halved
    try:
        yield
    finally:
        step.due = seen


@mutant("running maximum forgotten", "exact-wait", Pooled)
def _maximum() -> Any:
    def make(original: Any) -> Any:
        def _merge(self, carried, part, count):  # type: ignore[no-untyped-def]
            return part if self.how == "max" else original(self, carried, part, count)

        return _merge

    return patched(pool.MarkovPool, "_merge", make)


@mutant("what waits behind a first frame is forgotten", "exact-wait", Apart)
def _waiting() -> Any:
    def make(original: Any) -> Any:
        def aligned(step, slot, due, axis, x):  # type: ignore[no-untyped-def]
            step.state = {k: torch.zeros_like(v) if k == slot else v for k, v in step.state.items()}
            return original(step, slot, due, axis, x)

        return aligned

    return patched(concat, "aligned", make)


@mutant("a stream does not wait for the first frame", "exact-wait", Apart)
def _impatient() -> Any:
    def make(original: Any) -> Any:
        def parts_at(self, frames, last):  # type: ignore[no-untyped-def]
            return [part.at(frames, last) for part in self.parts]

        return parts_at

    return patched(clocks.ConcatClock, "parts_at", make)


# -- the paper's operators -----------------------------------------------------------------------


@mutant("momentum applied to the wrong side", "context", operator="pmco")
def _momentum() -> Any:
    def make(original: Any) -> Any:
        def blended(markov, new, history, dim):  # type: ignore[no-untyped-def]
            other = replace(markov, momentum=1 - markov.momentum) if markov.momentum else markov
            return original(other, new, history, dim)

        return blended

    return patched(window, "blended", make)


@mutant("aggregate without the carried context", "context", operator="cmco-avg")
def _aggregate() -> Any:
    def make(original: Any) -> Any:
        return lambda markov, seen, tail, dim: original(
            markov, seen.narrow(dim, 1, seen.shape[dim] - 1), tail, dim
        )

    return patched(window, "context_of", make)


@mutant("maximum in place of the average", "context", operator="cmco-avg")
def _max_for_avg() -> Any:
    def make(original: Any) -> Any:
        return lambda x, count, dim, how: original(x, count, dim, "max")

    return patched(context, "pooled", make)
