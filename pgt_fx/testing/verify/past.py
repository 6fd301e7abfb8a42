"""The context that each step carries on, compared with a second copy of the paper's recursion."""

from __future__ import annotations

from dataclasses import replace

from pgt_fx.compiler.selfcheck.recursion import recursion
from pgt_fx.core.counts import counted
from pgt_fx.testing.verify.locality import _steps
from pgt_fx.testing.verify.result import Check
from pgt_fx.testing.verify.subject import Subject


def context(check: Check, subject: Subject, chunkings: int) -> Check:
    """Operators of kernel 3, stride 1 and padding 1, the paper's, are watched: what each was given,
    and what it handed on."""
    prog = subject.answering
    if prog.options.markov.exact:
        return replace(check, detail="operator='mco' hands on the last elements: see exact-wait")
    chunks = _steps(subject, 51)
    with recursion(prog) as watch:
        subject.run(prog, subject.main, chunks)
    detail = (
        f"{counted(watch.compared, 'context')} of {counted(len(watch.names), 'operator')}, steps "
        f"{chunks}"
    )
    if not watch.compared:
        return replace(check, detail=f"{detail}: none of kernel 3, stride 1, padding 1")
    bound = subject.exact_bound
    detail += f"; worst in {watch.where}" if watch.worst > bound else ""
    return replace(check, ok=watch.worst <= bound, measured=watch.worst, bound=bound, detail=detail)
