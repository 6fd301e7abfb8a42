"""Planted faults, each a bug that somebody could write, and the check that ought to catch it.

``python tests/mutants.py`` prints the table of mutant × check (``--markdown`` for a document).
Those of tables, attention, buffers and guards are in ``mutants_of_parts.py``.
"""

from __future__ import annotations

import sys
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest import mock

import torch
from planting import (
    CLIP,
    MUTANTS,
    Apart,
    Mutant,
    Pooled,
    Subject,
    caught,
    changed_due,
    mutant,
    patched,
    progressive,
    verify,
)
from torch import Tensor

from pgt_fx.compiler.analysis.timed_graph import Analysis
from pgt_fx.core import clocks
from pgt_fx.runtime.markov import align, buffer, concat, context, pool, window
from pgt_fx.runtime.markov.window import MarkovWindow
from pgt_fx.runtime.program import Program
from pgt_fx.runtime.progressive import Progressive
from pgt_fx.runtime.work import Due
from pgt_fx.testing.verify.promises import CHECKS
from pgt_fx.training import gradients, replay

__all__ = ["CLIP", "MUTANTS", "Mutant", "Pooled", "Subject", "caught", "progressive", "verify"]


# -- the state -----------------------------------------------------------------------------------


@mutant("state not forgotten by reset", "reset")
def _no_reset() -> Any:
    return patched(Progressive, "reset", lambda _: lambda self: None)


@mutant("state is a view of the activation", "state-bounded")
def _view() -> Any:
    return patched(window, "owned", lambda _: lambda x: x)


@mutant("state shared between the rows of a batch", "rows-isolated")
def _shared() -> Any:
    def make(original: Any) -> Any:
        return lambda x: original(x).flip(0)

    return patched(window, "owned", make)


@mutant("state keeps the autograd graph", "state-bounded")
def _graph() -> Any:
    def make(original: Any) -> Any:
        def step(self, state, *clip, last=False, detach=True, **named):  # type: ignore[no-untyped-def]
            return original(self, state, *clip, last=last, detach=False, **named)

        return step

    return patched(Progressive, "step", make)


@mutant("gradient flows through the carried state", "one-way-backward")
def _gradient() -> Any:
    return _graph()


@mutant("state grows: the tail keeps all it ever held", "state-bounded")
def _grows() -> Any:
    def make(original: Any) -> Any:
        def run(self, state, leaves, work):  # type: ignore[no-untyped-def]
            kept = {k: v for k, v in state.items() if k != "stem.log"}
            outputs, carried = original(self, kept, leaves, work)
            log = state.get("stem.log")
            new = leaves[0].detach().clone()
            carried["stem.log"] = new if log is None else torch.cat([log, new], 2)
            return outputs, carried

        return run

    return patched(Program, "run", make)


@mutant("clock lost when a state is loaded", "state-round-trip")
def _clock() -> Any:
    original = Progressive.state

    def setter(self: Any, value: dict[str, Tensor]) -> None:
        value = dict(value)
        if "clock.frames" in value:
            value["clock.frames"] = value["clock.frames"] + 1
        original.fset(self, value)  # type: ignore[misc]

    return mock.patch.object(Progressive, "state", property(original.fget, setter))


@mutant("switching the mode forgets the state", "mode-switching")
def _mode() -> Any:
    def make(original: Any) -> Any:
        def train(self, mode=True):  # type: ignore[no-untyped-def]
            if mode:
                self.__dict__["_state"] = {}
            return original(self, mode)

        return train

    return patched(Progressive, "train", make)


@mutant("uninitialised memory in the tail", "deterministic")
def _random() -> Any:
    def make(original: Any) -> Any:
        def owned(x: Tensor) -> Tensor:
            return original(x) + 1e-3 * torch.randn_like(x)

        return owned

    return patched(window, "owned", make)


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
    from pgt_fx.runtime import plan

    def make(original: Any) -> Any:
        def align_due(*counts: Any) -> Due:
            d = original(*counts)
            return replace(d, skip=d.skip + 1, outs=d.outs - 1) if d.outs > 1 else d

        return align_due

    return patched(plan, "align_due", make)


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


# -- what the analysis claims --------------------------------------------------------------------


@mutant("exact set too wide", "exact-zero")
def _wide() -> Any:
    def make(original: Any) -> Any:
        return lambda self, chunks: [True] * len(original(self, chunks))

    return patched(Progressive, "exact_frames", make)


@mutant("exact set too narrow", "exact-tight")
def _narrow() -> Any:
    def make(original: Any) -> Any:
        def exact_frames(self, chunks):  # type: ignore[no-untyped-def]
            flags = original(self, chunks)
            return [f and i != flags.index(True) for i, f in enumerate(flags)]

        return exact_frames

    return patched(Progressive, "exact_frames", make)


@mutant("analysed receptive field too small", "receptive-field")
def _field() -> Any:
    from pgt_fx.compiler import make_report

    def make(original: Any) -> Any:
        def reach_of_output(analysis: Analysis, output: Any, reach: Any) -> Any:
            found = original(analysis, output, reach)
            return [replace(f, future=f.future - 1, field=f.field - 1) for f in found]

        return reach_of_output

    return patched(make_report, "reach_of_output", make)


@mutant("outputs one too late at the end", "exact-wait")
def _late() -> Any:
    def make(original: Any) -> Any:
        def at(self, frames, last):  # type: ignore[no-untyped-def]
            found = original(self, frames, last)
            return replace(found, sure=found.sure - 1, total=found.total - 1) if last else found

        return at

    return patched(clocks.JoinClock, "at", make)


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


# -- training ------------------------------------------------------------------------------------


@mutant("statistics updated twice", "replayed")
def _twice() -> Any:
    def make(original: Any) -> Any:
        def __exit__(self: Any, *error: Any) -> None:
            self._kept = []
            original(self, *error)

        return __exit__

    return patched(replay.Replay, "__exit__", make)


@mutant("dropout not replayed", "replayed")
def _dropout() -> Any:
    return patched(replay.Replay, "_set", lambda _: lambda self, rng: None)


@mutant("gradient of an operator reversed", "gradients-equal-model")
def _reversed() -> Any:
    def make(original: Any) -> Any:
        def forward(self, *args):  # type: ignore[no-untyped-def]
            out = original(self, *args)
            return None if out is None else 2 * out.detach() - out  # the same value

        return forward

    return patched(MarkovWindow, "forward", make)


@mutant("cotangent of the state dropped", "exact-gradients")
def _cotangent() -> Any:
    def make(original: Any) -> Any:
        def _pull(self, loss, state, cotangents, leaves):  # type: ignore[no-untyped-def]
            return original(self, loss, state, {}, leaves)

        return _pull

    return patched(gradients.Run, "_pull", make)


@mutant("loss of the last step counted twice", "exact-gradients")
def _double() -> Any:
    def make(original: Any) -> Any:
        def _pull(self, loss, state, cotangents, leaves):  # type: ignore[no-untyped-def]
            loss = 2 * loss if loss is not None and not state else loss
            return original(self, loss, state, cotangents, leaves)

        return _pull

    return patched(gradients.Run, "_pull", make)


def table(markdown: bool) -> str:
    """Mutant × check: X where it is caught, (X) by the check that ought to."""
    names = [c[0] for c in CHECKS[1:]]
    found = [(one, caught(verify(one))) for one in MUTANTS]
    if markdown:
        lines = ["| planted fault | caught by | and by |", "|---|---|---|"]
        for one, ids in found:
            ought = f"`{one.check}`" if one.check in ids else f"**not** by `{one.check}`"
            others = ", ".join(f"`{n}`" for n in names if n in ids - {one.check})
            lines.append(f"| {one.name} | {ought} | {others} |")
        return "\n".join(lines)
    rows = [
        [one.name, *("(X)" * (n == one.check) or "X" if n in ids else "" for n in names)]
        for one, ids in found
    ]
    legend = [f"{chr(97 + i)} = {n}" for i, n in enumerate(names)]
    width = max(len(r[0]) for r in rows)
    lines = [" " * width + " " + "".join(f"{chr(97 + i):^4}" for i in range(len(names)))]
    lines += [f"{r[0]:{width}} " + "".join(f"{m:^4}" for m in r[1:]) for r in rows]
    return "\n".join([*lines, "", ", ".join(legend)])


import mutants_of_parts  # noqa: E402, F401 (behind the others in the table)

if __name__ == "__main__":
    import warnings

    warnings.simplefilter("ignore")
    print(table("--markdown" in sys.argv))
