"""The context that each step carries on, compared with a second copy of the paper's recursion.

c_p = (1-m)·g(what an operator saw in step p) + m·c_{p-1} (PGT paper, section 3.2).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pgt_fx.runtime.markov.window import MarkovWindow


@contextmanager
def recursion(prog: Any) -> Iterator[Recursion]:
    """Watch the operators of a progressive model meanwhile: what each was given, and handed on."""
    markov, operators = prog.options.markov, prog.inspect.program.emitted.markov.values()
    watch = Recursion(markov.aggregate, markov.momentum)
    windows = [module for module in operators if isinstance(module, MarkovWindow)]
    handles = [module.register_forward_hook(watch) for module in windows]
    try:
        yield watch
    finally:
        for handle in handles:
            handle.remove()


class Recursion:
    """Recomputes the context of operators that carry one element per step: stride 1, kernel 3.

    Attributes:
        names: their state entries.
        compared: how many contexts were.
        worst, where: the greatest difference, relative, and in which entry.
    """

    def __init__(self, aggregate: str, momentum: float) -> None:
        self.aggregate, self.momentum = aggregate, momentum
        self.names: set[str] = set()
        self.compared, self.worst, self.where = 0, 0.0, ""

    def __call__(self, module: Any, given: Any, out: Any) -> None:
        """A forward hook of a Markov operator."""
        step, x = given[0], given[1]
        past, after = step.state.get(module.slot), step.carried.get(module.slot)
        if x is not None and after is not None and x.is_floating_point():
            self._compare(module, past, x, after)

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
