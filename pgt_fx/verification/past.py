"""The context that each step hands on, beside the paper's recursion written out here again."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor

from pgt_fx.markov.step import Step
from pgt_fx.markov.window import MarkovWindow
from pgt_fx.verification.locality import _steps
from pgt_fx.verification.result import Check
from pgt_fx.verification.subject import Subject


def context(check: Check, subject: Subject, chunkings: int) -> Check:
    """Operators of kernel 3, stride 1 and padding 1, the paper's, are watched: what each was given,
    and what it handed on.

    c_p = (1-m)·g(what it saw in step p) + m·c_{p-1} (PGT paper, section 3.2).
    """
    prog = subject.answering
    markov = prog.options.markov
    if markov.exact:
        return replace(check, detail="operator='mco' hands on the last elements: see exact-wait")
    chunks = _steps(subject, 51)
    watch = _Watch(markov.aggregate, markov.momentum)
    with mock.patch.object(MarkovWindow, "forward", watch.forward):
        subject.run(prog, subject.main, chunks)
    detail = f"{watch.compared} contexts of {len(watch.names)} operators, steps {chunks}"
    if not watch.compared:
        return replace(check, detail=f"{detail}: none of kernel 3, stride 1, padding 1")
    bound = subject.exact_bound
    detail += f"; worst in {watch.where}" if watch.worst > bound else ""
    return replace(check, ok=watch.worst <= bound, measured=watch.worst, bound=bound, detail=detail)


class _Watch:
    """Recomputes the context of operators that carry one element per step: stride 1, kernel 3."""

    def __init__(self, aggregate: str, momentum: float) -> None:
        self.aggregate, self.momentum = aggregate, momentum
        self.names: set[str] = set()
        self.compared, self.worst, self.where = 0, 0.0, ""
        self._forward: Any = MarkovWindow.forward

    @property
    def forward(self) -> Any:
        def forward(module: Any, step: Step, x: Tensor | None, *tensors: Any) -> Any:
            past = step.state.get(module.slot)
            out = self._forward(module, step, x, *tensors)
            after = step.carried.get(module.slot)
            if x is not None and after is not None and x.is_floating_point():
                self._compare(module, past, x, after)
            return out

        return forward

    def _compare(self, module: Any, past: Tensor | None, x: Tensor, after: Tensor) -> None:
        dim, law = module.axis.dim, module.law
        plain = (getattr(law, "kernel", 0), getattr(law, "stride", 0), getattr(law, "dilation", 0))
        held = after.shape[dim]
        blank = past is None and getattr(law, "mode", "") == "constant" and held > 1
        if plain != (3, 1, 1) or law.left != 1 or law.right != 1 or held != 1 or blank:
            return
        seen = x if past is None or not past.shape[dim] else torch.cat([past, x], dim)
        last = seen.narrow(dim, seen.shape[dim] - 1, 1)
        flat = seen.movedim(dim, -1)
        if self.aggregate == "avg":
            last = flat.mean(-1, keepdim=True).movedim(-1, dim)
        elif self.aggregate == "max":
            rows = flat.reshape(1, -1, flat.shape[-1])
            last = F.adaptive_max_pool1d(rows, 1).reshape(*flat.shape[:-1], 1).movedim(-1, dim)
        if past is not None and past.shape[dim]:
            last = (1 - self.momentum) * last + self.momentum * past
        gap = float((after - last).abs().max() / last.abs().max().clamp_min(1e-300))
        self.names.add(module.slot)
        self.compared += 1
        if gap > self.worst:
            self.worst, self.where = gap, module.slot
