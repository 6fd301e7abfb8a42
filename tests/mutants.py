"""Planted faults, each a bug that somebody could write, and the check that ought to catch it.

``python tests/mutants.py`` prints the table of mutant × check (``--markdown`` for a document).
Here are those of the state, of what the analysis claims and of training. Those of operators are in
``mutants_of_operators.py``; of tables, attention, buffers and guards in ``mutants_of_parts.py``.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any
from unittest import mock

import torch
from planting import (
    CLIP,
    MUTANTS,
    Mutant,
    Pooled,
    Subject,
    caught,
    mutant,
    patched,
    progressive,
    verify,
)
from torch import Tensor

from pgt_fx.compiler.analysis.timed_graph import Analysis
from pgt_fx.core import clocks
from pgt_fx.runtime.markov import window
from pgt_fx.runtime.markov.window import MarkovWindow
from pgt_fx.runtime.program import Program
from pgt_fx.runtime.progressive import Progressive
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


# After the others, in the order of the table.
import mutants_of_operators  # noqa: E402, F401
import mutants_of_parts  # noqa: E402, F401

if __name__ == "__main__":
    import warnings

    warnings.simplefilter("ignore")
    print(table("--markdown" in sys.argv))
