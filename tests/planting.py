"""How faults are planted: the models that they show on, and a register of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

import pgt_fx
from pgt_fx.runtime.progressive import Progressive
from pgt_fx.runtime.work import Due
from pgt_fx.testing.verify.result import Verification


class Subject(nn.Module):
    """Every kind of window, a join of different delays, norm and dropout; dense in time."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv1d(3, 6, 5, padding=2)
        self.norm = nn.BatchNorm1d(6)
        self.dilated = nn.Conv1d(6, 6, 3, padding=2, dilation=2)
        self.branch = nn.Conv1d(6, 6, 3, padding=1)
        self.drop = nn.Dropout(0.3)
        self.down = nn.Conv1d(6, 6, 3, stride=2, padding=1)
        self.highest = nn.MaxPool1d(3, 1, 1)
        self.mean = nn.AvgPool1d(3, 1, 1, count_include_pad=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x)).tanh()
        x = self.dilated(x) + self.branch(self.drop(x))
        x = self.highest(self.down(x) - 2.0)  # below 0, so that padding with 0 would win
        return self.mean(x)


class Pooled(nn.Module):
    """The same under a mean over all of time."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = Subject(), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x)
        return self.head(x.mean(2) + x.amax(2))


CLIP = torch.zeros(2, 3, 8)


class Apart(nn.Module):
    """A first frame apart that comes late, and the rest, which has to wait for it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.rest = nn.Conv1d(3, 4, 7), nn.Conv1d(3, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.first(x)[:, :, :1], self.rest(x)[:, :, 1:]], 2)


def progressive(kind: type[nn.Module] = Subject, **options: Any) -> Progressive:
    """Made anew: a plan or a graph bound before a fault was planted would hide it."""
    torch.manual_seed(0)
    return pgt_fx.transform(kind().eval(), CLIP, time_dim=2, **options)


@dataclass(frozen=True)
class Mutant:
    """A planted fault.

    Attributes:
        name: what is wrong.
        check: id of the check that ought to catch it.
        plant: a context in which the fault is there.
        kind: the model on which it shows.
        options: of the transform.
    """

    name: str
    check: str
    plant: Callable[[], Any]
    kind: type[nn.Module] = Subject
    options: tuple[tuple[str, Any], ...] = ()


MUTANTS: list[Mutant] = []


def mutant(
    name: str, check: str, kind: type[nn.Module] = Subject, **options: Any
) -> Callable[[Callable[[], Any]], Callable[[], Any]]:
    def register(plant: Callable[[], Any]) -> Callable[[], Any]:
        MUTANTS.append(Mutant(name, check, plant, kind, tuple(options.items())))
        return plant

    return register


def verify(mutant: Mutant | None, checks: set[str] | None = None) -> Verification:
    """All checks, or some, on the model with the fault (None: without any)."""
    options = dict(mutant.options) if mutant else {}
    kind = mutant.kind if mutant else Subject
    if mutant is None:
        return pgt_fx.verify(progressive(kind, check=False, **options), checks=checks, chunkings=3)
    with mutant.plant():  # which the self-check would see as well
        return pgt_fx.verify(progressive(kind, check=False, **options), checks=checks, chunkings=3)


def patched(target: Any, name: str, make: Callable[[Any], Any]) -> Any:
    """``target.name`` replaced by ``make(original)``."""
    return mock.patch.object(target, name, make(getattr(target, name)))


def changed_due(change: Callable[..., Due]) -> Any:
    """The work of windowed operators, changed: ``change(due, law, before, after)``."""
    from pgt_fx.runtime import plan_items

    def make(original: Any) -> Any:
        def window_due(law, before, after, out_before, out_after, *, mean=""):  # type: ignore[no-untyped-def]
            found = original(law, before, after, out_before, out_after, mean=mean)
            return change(found, law, before, after)

        return window_due

    return patched(plan_items, "window_due", make)


def caught(found: Verification) -> set[str]:
    """Ids of the checks that a fault breaks, or lets end in an error: in neither case is it ok."""
    return {c.id for c in (*found.violations, *found.errors)}
