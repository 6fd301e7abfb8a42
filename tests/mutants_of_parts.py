"""Planted faults in tables of pairs at absolute positions, attention, scans, resizing, delays,
shared tails, plans of a steady stream and guards; see ``mutants.py``."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from planting import changed_due, mutant, patched
from torch import Tensor, nn

from pgt_fx.capture import export
from pgt_fx.capture.attention.positions import COLUMN, ROW
from pgt_fx.capture.attention.step_entries import _Writer
from pgt_fx.capture.guards.length_guard import Lengths
from pgt_fx.compiler.lowering import retiming as delays
from pgt_fx.compiler.lowering import share_state as sharing
from pgt_fx.core.laws import Interpolate, Transposed
from pgt_fx.rules.kinds import attention
from pgt_fx.runtime import plan_cache as steady
from pgt_fx.runtime import torch_functions
from pgt_fx.runtime.markov import align, buffer, memory, scan, window
from pgt_fx.runtime.markov.table import MarkovPairs, MarkovTable
from pgt_fx.runtime.work import Due


class Attending(nn.Module):
    """Attention over the frames; a subclass says what is made of the scores."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(3, 4, 3, padding=1)
        self.table = nn.Parameter(torch.randn(64, 64))

    def scores(self, scores: Tensor, frames: int) -> Tensor:
        """Within five frames, with a bias by both positions."""
        at = torch.arange(0, 2 * frames, 2)
        row, column = at[:, None], at[None, :]
        scores = scores + torch.sin(0.7 * row + 0.3 * column)
        return scores.masked_fill((column > row) | (row - column > 8), -torch.inf)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x).transpose(1, 2)
        scores = self.scores(y @ y.transpose(1, 2), y.shape[1])
        return (scores.softmax(-1) @ y).transpose(1, 2)


class Learned(Attending):
    """A learned table of pairs, a bias for a frame itself, and a triangle."""

    def scores(self, scores: Tensor, frames: int) -> Tensor:
        scores = scores + self.table[:frames, :frames] + 2 * torch.eye(frames)
        hidden = torch.ones(frames, frames, dtype=torch.bool).triu(1)
        return scores.masked_fill(hidden, -torch.inf)


class Sinks(Attending):
    """The first two keys, which are seen by all, have a bias of their own."""

    def scores(self, scores: Tensor, frames: int) -> Tensor:
        bias = torch.zeros(frames, frames)
        bias[:, :2] = 1.5
        hidden = torch.ones(frames, frames, dtype=torch.bool).triu(1)
        return (scores + bias).masked_fill(hidden, -torch.inf)


class Causal(Attending):
    """Torch's own causal mask."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x).transpose(1, 2)
        return F.scaled_dot_product_attention(y, y, y, is_causal=True).transpose(1, 2)


class Positions(nn.Module):
    """A sinusoid of the frame's number, and a sum over all frames so far."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(3, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return x + torch.sin(0.4 * torch.arange(x.shape[2]))


class Summed(nn.Module):
    """The sum over all frames so far."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(3, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).cumsum(2)


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.gru = nn.Conv1d(3, 4, 3, padding=1), nn.GRU(4, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.gru(self.conv(x).transpose(1, 2))[0]
        return y.transpose(1, 2)


class Larger(nn.Module):
    """Twice as many frames, by a transposed convolution and by a linear one."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.conv = nn.ConvTranspose1d(3, 4, 4, 2, 1), nn.Conv1d(4, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(self.conv(self.up(x)), scale_factor=2.0, mode="linear")


class Mirrored(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(3, 4, 5, padding=2, padding_mode="reflect")

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class Residual(nn.Module):
    """Two windows and a join read the same value: one tail does for them."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.narrow = nn.Conv1d(3, 3, 7, padding=3), nn.Conv1d(3, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.wide(x) + self.narrow(x)


class Delayed(nn.Module):
    """What is made of each frame by itself is joined soon, and once more later."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.narrow = nn.Conv1d(3, 3, 9, padding=4), nn.Conv1d(3, 3, 3, padding=1)
        self.each = nn.Conv1d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        each = (self.each(x) * 2).tanh()
        return torch.cat([each + self.narrow(x), each * self.wide(x)], 1)


class Strided(nn.Module):
    """Every second frame: a stream is steady after few frames, with two phases."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(3, 4, 2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class Branching(nn.Module):
    """Another model for long videos."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(3, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return x * 2 if x.shape[2] > 16 else x


class Alone(Branching):
    """Another model for a batch of one."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return x * 2 if x.shape[0] == 1 else x


class Scaled(Branching):
    def forward(self, x: Tensor) -> Tensor:
        return torch.add(self.conv(x), x[:, :1], alpha=0.5)


# -- tables of pairs, at absolute positions ------------------------------------------------------


def _made_at(change: Any) -> Any:
    """Tables of pairs are made at other positions: ``change(first_row, first_column)``."""

    def make(original: Any) -> Any:
        def forward(self, step, device, *tensors):  # type: ignore[no-untyped-def]
            own = self.make

            def moved(row: int, rows: int, column: int, *rest: Any) -> Tensor:
                row, column = change(row, column)
                return own(row, rows, column, *rest)

            with mock.patch.dict(self.__dict__, {"make": moved}):
                return original(self, step, device, *tensors)

        return forward

    return patched(MarkovPairs, "forward", make)


@mutant("rows of a table of pairs are counted from the step", "exact-wait", Attending)
def _rows() -> Any:
    return _made_at(lambda row, column: (0, column))


@mutant("columns of a table of pairs are counted from the first one kept", "exact-wait", Attending)
def _columns() -> Any:
    return _made_at(lambda row, column: (row, 0))


@mutant("a table of pairs one frame late once keys are left behind", "exact-wait", Attending)
def _late_keys() -> Any:
    return _made_at(lambda row, column: (row, column + (column > 0)))


@mutant("the step of a counter is left out", "full-equals-model", Attending)
def _counter() -> Any:
    def make(original: Any) -> Any:
        return lambda self, node, roles, start, step: original(self, node, roles, start, 1)

    return patched(_Writer, "_counter", make)


def _from_zero(name: str) -> Any:
    """Something of a table of pairs is made as if each step were the first."""

    def make(original: Any) -> Any:
        def made(self, *args, **kwargs):  # type: ignore[no-untyped-def]
            with mock.patch.dict(self.first, {ROW: 0, COLUMN: 0}):
                return original(self, *args, **kwargs)

        return made

    return patched(_Writer, name, make)


@mutant("a learned table is cut from its start in each step", "exact-wait", Learned)
def _cut() -> Any:
    return _from_zero("_cut")


@mutant("the diagonal of a table is that of the step", "exact-wait", Learned)
def _diagonal() -> Any:
    return _from_zero("_identity")


@mutant("what is written for the first keys is written in each step", "exact-wait", Sinks)
def _written() -> Any:
    def make(original: Any) -> Any:
        def _written(self, operands, roles, dim, first, end):  # type: ignore[no-untyped-def]
            with mock.patch.dict(self.first, {COLUMN: self.first[ROW]}):
                return original(self, operands, roles, dim, first, end)

        return _written

    return patched(_Writer, "_written", make)


@mutant("a triangle stays where it is", "exact-wait", Learned)
def _triangle() -> Any:
    def make(original: Any) -> Any:
        def _write(self, node, roles, entry):  # type: ignore[no-untyped-def]
            if entry.kind != "triangle":
                return original(self, node, roles, entry)
            with mock.patch.dict(self.first, {ROW: self.first[COLUMN]}):
                return original(self, node, roles, entry)

        return _write

    return patched(_Writer, "_write", make)


@mutant("positions begin anew in each step", "exact-wait", Positions)
def _positions() -> Any:
    def make(original: Any) -> Any:
        def forward(self, step, device, *tensors):  # type: ignore[no-untyped-def]
            own = self.make
            anew = {"make": lambda start, *rest: own(0, *rest)}
            with mock.patch.dict(self.__dict__, anew):
                return original(self, step, device, *tensors)

        return forward

    return patched(MarkovTable, "forward", make)


# -- attention, scans ----------------------------------------------------------------------------


@mutant("an attention remembers its keys in another order", "exact-wait", Attending)
def _memory() -> Any:
    return patched(memory, "owned", lambda original: lambda x: original(x).roll(1, 1))


@mutant("a causal mask begins at the oldest key", "exact-wait", Causal)
def _causal() -> Any:
    def make(original: Any) -> Any:
        def mask(query: Tensor, key: Tensor) -> Tensor:
            return torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool).tril()

        return mask

    return patched(attention, "causal_mask", make)


@mutant("a running sum begins anew in each step", "exact-wait", Summed)
def _sum() -> Any:
    return patched(scan, "owned", lambda original: lambda x: torch.zeros_like(original(x)))


@mutant("recurrent layers begin anew in each step", "exact-wait", Recurrent)
def _recurrent() -> Any:
    return _sum()


# -- resizing, buffers, delays -------------------------------------------------------------------


def _offset(kind: type) -> Any:
    def change(d: Due, law: Any, before: Any, after: Any) -> Due:
        moves = isinstance(law, kind) and before.sure > 0 and d.offset > 0
        return replace(d, offset=d.offset - 1) if moves else d

    return changed_due(change)


@mutant("a transposed convolution goes on one output too early", "exact-wait", Larger)
def _transposed() -> Any:
    return _offset(Transposed)


@mutant("linear resizing goes on one output too early", "exact-wait", Larger)
def _resized() -> Any:
    return _offset(Interpolate)


@mutant("a reflection repeats the edge", "full-equals-model", Mirrored)
def _reflection() -> Any:
    def make(original: Any) -> Any:
        def filled(x, dim, left, right, mode, value):  # type: ignore[no-untyped-def]
            if mode != "reflect":
                return original(x, dim, left, right, mode, value)
            n = x.shape[dim]
            first, last = x.narrow(dim, 0, left).flip(dim), x.narrow(dim, n - right, right)
            return torch.cat([first, x, last.flip(dim)], dim)

        return filled

    return patched(buffer, "filled", make)


def _first_of_tail(reader: Any) -> Any:
    """A reader of a shared tail that takes its first elements and not its last ones."""

    def make(original: Any) -> Any:
        def carried_tail(state, slot, held, dim, *, others=False):  # type: ignore[no-untyped-def]
            tail = state.get(slot)
            if others and tail is not None and tail.shape[dim] > held:
                return tail.narrow(dim, 0, held)
            return original(state, slot, held, dim, others=others)

        return carried_tail

    return patched(reader, "carried_tail", make)


@mutant("a join reads the first elements of a shared tail", "exact-wait", Residual)
def _join_reads_first() -> Any:
    return _first_of_tail(align)


@mutant("a window reads the first elements of a shared tail", "exact-wait", Residual)
def _window_reads_first() -> Any:
    return _first_of_tail(window)


@mutant("a tail is shared by one that needs more", "exact-wait", Residual)
def _shares() -> Any:
    return patched(sharing, "_serves", lambda _: lambda owner, reader, held: owner is not reader)


@mutant("what waits is handed on from the start of the tail", "exact-wait", Delayed)
def _taken() -> Any:
    def make(original: Any) -> Any:
        def taken(tail, x, dim, first, end):  # type: ignore[no-untyped-def]
            return original(tail, x, dim, 0, end - first)

        return taken

    return patched(align, "taken", make)


@mutant("an operator waits for the later of its joins", "exact-wait", Delayed)
def _later() -> Any:
    def make(original: Any) -> Any:
        def _first(clocks, ratio):  # type: ignore[no-untyped-def]
            others = [c for c in clocks if c is not original(clocks, ratio)]
            return others[0] if others else original(clocks, ratio)

        return _first

    return patched(delays, "_first", make)


# -- plans, calls, guards ------------------------------------------------------------------------


@mutant("a steady stream is planned as in its other phase", "exact-wait", Strided)
def _phase() -> Any:
    def make(original: Any) -> Any:
        def __init__(self: Any, *args: Any) -> None:
            original(self, *args)
            self.period = max(self.period // 2, min(self.period, 1))

        return __init__

    return patched(steady.SteadyPlans, "__init__", make)


@mutant("a stream is called steady while it feels its start", "exact-wait")
def _too_soon() -> Any:
    return patched(steady, "_settled", lambda _: lambda clocks, ratio: 1)


@mutant("the factor of an addition is left out", "full-equals-model", Scaled)
def _factor() -> Any:
    plain = {torch.ops.aten.add.Tensor: lambda a, b, **_: torch.add(a, b)}
    return mock.patch.dict(torch_functions.TORCH_FUNCTIONS, plain)


@mutant("a branch on the number of frames is not heard", "full-equals-model", Branching)
def _unheard() -> Any:
    return patched(export, "allowed_lengths", lambda _: lambda *args: Lengths())


@mutant("a branch on the batch is not heard", "full-equals-model", Alone)
def _one_row() -> Any:
    return patched(export, "Branches", lambda _: lambda *args: None)
