"""Checks of what short videos of small frames don't reach: steady streams, convolutions that need
no copy of their input, a batch of one."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from pgt_fx.compiler.selfcheck.compare import INF, Difference, dims_of, tried
from pgt_fx.compiler.selfcheck.copies import Trial
from pgt_fx.compiler.selfcheck.measure import assembled, error
from pgt_fx.core.counts import counted
from pgt_fx.core.errors import StateError
from pgt_fx.runtime.markov.correction import always
from pgt_fx.runtime.markov.window import MarkovWindow
from pgt_fx.runtime.plan import Plan, Schedulable, plan
from pgt_fx.runtime.progressive import Progressive

#: Steps of a stream that are planned, of each length, and after how many periods: a prime number,
#: as the period may be the fault.
PHASES, PERIODS = 4, 53
#: Numbers in a video up to which two more runs cost nothing to speak of.
FEW = 1 << 16


def unseen(trial: Trial, *, steps: bool = True) -> Difference | None:
    """The first difference there.

    Args:
        steps: videos in steps as well, not only whole.
    """
    found = _one_row(trial)
    for prog in trial.programs if steps else ():
        found = found or _planned(trial, prog) or _corrected(trial, prog)
    return found


def _one_row(trial: Trial) -> Difference | None:
    """The clip as a batch of one, where the others are of two and the graph is for any number."""
    if trial.rows == 1 or trial.prog.inspect.captured.rows is not None:
        return None
    video = trial.single(trial.length)
    try:
        wanted = trial.alone(partial(trial.plain, video))
    except Exception:  # norms of train mode need several
        return None
    ran = tried(trial, trial.prog, trial.length, (), lambda: trial.full(trial.prog, video))
    if isinstance(ran, Difference) or ran is None:
        return ran
    gap = error(ran, wanted)
    words = f"is off by {gap:.0e} for a batch of one"
    return Difference(trial, trial.prog, video, (), gap, words) if gap > trial.bound else None


def _planned(trial: Trial, prog: Progressive) -> Difference | None:
    """Steps far on in a stream beside the plans that are remembered for a steady one."""
    plans = prog.inspect.program.plans
    for phase in range(PHASES if plans.period else 0):
        before = plans.settled + phase + PERIODS * plans.period
        for new in (1, trial.length):
            moments = [tuple(n * r for r in plans.ratio) for n in (before, before + new)]
            anew = _plan(plan, plans.graph, *moments)
            if anew is not None and plans.plan(moments[0], moments[1], False) != anew:
                words = (
                    f"plans a step of {counted(new, 'frame')} after {before} otherwise than the "
                    "plan cached for a steady stream"
                )
                video = trial.first(trial.length)
                return Difference(trial, prog, video, (), INF, words, certain=True)
    return None


def _plan(make: Any, graph: Schedulable, before: Any, after: Any) -> Plan | None:
    try:
        found: Plan = make(graph, before, after, False)
    except StateError:  # it refuses such steps
        return None
    return found


def _corrected(trial: Trial, prog: Progressive) -> Difference | None:
    """Convolutions of large frames carry their past in another way: so they do here as well."""
    windows = prog.inspect.program.emitted.markov.values()
    known = any(isinstance(m, MarkovWindow) and m.correction for m in windows)
    small = max(x.numel() for x in (trial.longest[i] for i in trial.spec.paths)) < FEW
    exact = trial.dtype in (torch.float32, torch.float64) and not trial.gradients
    if not (known and small and exact) or prog.options.future == "wait":
        return None
    t = trial.length
    chunks = (t // 2, t - t // 2) if t > 1 else (t,)
    run = partial(trial.run, prog, trial.first(t), chunks)
    plain = tried(trial, prog, t, chunks, run)
    with always():
        other = tried(trial, prog, t, chunks, run)
    for ran in (plain, other):
        if isinstance(ran, Difference) or ran is None:
            return ran
    dims = dims_of(prog, trial.answer)
    gap = error(assembled(other, dims), assembled(plain, dims))
    if gap <= trial.bound:
        return None
    words = f"is off by {gap:.0e} where convolutions do without a copy of their input"
    return Difference(trial, prog, trial.first(t), chunks, gap, words)
