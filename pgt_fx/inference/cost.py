"""What a prediction costs, in the paper's notation: GFLOPs × steps × views."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Self

from torch.utils.flop_counter import FlopCounterMode
from torch.utils.module_tracker import ModuleTracker


@dataclass(frozen=True)
class Cost:
    """Multiply-adds for one video of the batch; printed as "54.5 × 5 × 30 GFLOPs".

    One multiply-add counts as one, as is usual for video models and as the paper's tables do
    (``FlopCounterMode`` counts two). Counted are convolutions, matrix products and attention;
    recurrent kernels, norms, pools and activations count nothing.

    Attributes:
        gflops: 10⁹ multiply-adds of the costliest step: that of a clip of T' frames, since the
            first step shows T' new frames and the others fewer (T' - overlap).
        steps: P, steps of each view.
        views: v, temporal × spatial, as far as they differ.
        total: 10⁹ multiply-adds of all steps and views, as counted. It is less than the product:
            frames that steps share are not computed again.
    """

    gflops: float
    steps: int
    views: int
    total: float

    def __str__(self) -> str:
        return f"{_figure(self.gflops)} × {self.steps} × {self.views} GFLOPs"


def _figure(gflops: float) -> str:
    """One decimal as in the tables; three digits for what that would round away."""
    return f"{gflops:.1f}" if gflops >= 1 or gflops == 0 else f"{gflops:.3g}"


class _Untracked(ModuleTracker):
    """In place of the counter's record of which module runs: only totals are wanted. That record
    hangs hooks on inputs that require gradients, which fails where gradients are off, and Markov
    operators get their weights as inputs."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None: ...


class Meter:
    """Counts the operations of the steps of one view; all views cost the same."""

    def __init__(self) -> None:
        self.flops: list[int] = []

    @contextmanager
    def step(self) -> Iterator[None]:
        """One step's operations, as they run."""
        counter = FlopCounterMode(display=False)
        counter.mod_tracker = _Untracked()
        with counter:
            yield
        self.flops.append(int(counter.get_total_flops()))

    def cost(self, views: int, rows: int) -> Cost:
        """Of a batch of ``rows`` videos seen in ``views`` views each."""
        each = _gmacs(self.flops, max(1, rows))  # an empty batch has no operations
        return Cost(max(each), len(each), views, sum(each) * views)


def _gmacs(flops: Sequence[int], rows: int) -> list[float]:
    return [n / 2 / 1e9 / rows for n in flops]
