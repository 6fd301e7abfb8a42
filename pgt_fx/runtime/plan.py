"""The plan of a step: what every operator of the emitted graph has to do, in integers.

It is a pure function of the frames seen before and after the step; no tensor is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from pgt_fx.core.counts import counted
from pgt_fx.core.errors import StateError
from pgt_fx.core.laws import Clock, ConcatClock, Law
from pgt_fx.runtime.work import (
    ConcatDue,
    Due,
    MemoryDue,
    PoolDue,
    align_due,
    memory_due,
    window_due,
)


@dataclass(frozen=True)
class WindowItem:
    """A windowed operator: its law and the clocks of its operand and its result."""

    law: Law
    source: Clock
    out: Clock
    mean: str = ""


@dataclass(frozen=True)
class AlignItem:
    """One operand of a join, or the model's output."""

    source: Clock
    out: Clock


@dataclass(frozen=True)
class PoolItem:
    """A reduction over time; ``running`` when it carries."""

    source: Clock
    running: bool


@dataclass(frozen=True)
class ScanItem:
    """A scan along time.

    Attributes:
        source: clock of its operand.
        states: what it carries, in elements of its result.
        tells: beside its elements it gives the state that it ends in, which the last step has
            whether it brings elements or not.
    """

    source: Clock
    states: int
    tells: bool = False


@dataclass(frozen=True)
class MemoryItem:
    """Keys or values of an attention over time.

    Attributes:
        source: clock of the keys or values.
        size: how many elements of earlier steps are carried; None: all.
    """

    source: Clock
    size: int | None


@dataclass(frozen=True)
class TableItem(MemoryItem):
    """A table made in each step, for elements with clock ``source``; nothing is carried."""


@dataclass(frozen=True)
class ConcatItem:
    """Values one after the other along time.

    Attributes:
        out: knows the clocks of the parts.
        names: of the nodes that give the parts.
    """

    out: ConcatClock
    names: tuple[str, ...]


Work = Due | ConcatDue | PoolDue | MemoryDue
Item = ConcatItem | WindowItem | AlignItem | PoolItem | ScanItem | MemoryItem


@dataclass(frozen=True)
class Node:
    """One node of the emitted graph: what it reads, and its stateful work if it has any.

    Attributes:
        first: it takes the first of several results: of a scan, those with an element per frame.
    """

    name: str
    inputs: tuple[str, ...]
    slot: str | None = None
    first: bool = False


@dataclass
class Schedulable:
    """What :func:`plan` needs of an emitted graph.

    Attributes:
        clips: name of each input with time -> its input path.
    """

    nodes: list[Node] = field(default_factory=list)
    items: dict[str, Item] = field(default_factory=dict)
    clips: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """What is due in one step.

    Attributes:
        due: slot -> work.
        idle: names of the nodes that have nothing to do.
        silent: names of the nodes without a result (the idle ones among them).
    """

    due: Mapping[str, Work]
    idle: frozenset[str]
    silent: frozenset[str]


def plan(graph: Schedulable, before: tuple[int, ...], after: tuple[int, ...], last: bool) -> Plan:
    """Plan the step that takes the model from ``before`` to ``after`` frames per path.

    A last step may bring no frames: it gives what is still due at the end of the video.

    Raises:
        StateError: when an operator would have elements to work on without the value, pooled over
            time, that they are combined with.
    """
    due: dict[str, Work] = {}
    idle: set[str] = set()
    silent = {name for name, path in graph.clips.items() if after[path] == before[path]}
    told: set[str] = set()  # scans that have their last state to give, and no elements
    for node in graph.nodes:
        if node.slot is None:
            none = silent | told if node.first else silent
            missing = [name for name in node.inputs if name in none]
            if missing:
                idle.add(node.name)
                silent.add(node.name)
            continue
        fed = not any(name in silent for name in node.inputs)
        item = graph.items[node.slot]
        if isinstance(item, ConcatItem):
            parts = _concat_due(item.out, before, after, last)
            due[node.slot] = parts
            for name, part in zip(item.names, parts.parts, strict=True):
                if name in silent and part.new > 0:
                    raise _unfed(node.slot, part.new)
            if not parts.outs:
                silent.add(node.name)
                if not any(part.new for part in parts.parts):
                    idle.add(node.name)
            continue
        now, then = item.source.at(after, last), item.source.at(before, False)
        if isinstance(item, PoolItem):
            new = now.total - then.total
            if not fed and new > 0:  # they would be missing from all that is pooled later
                raise _unfed(node.slot, new)
            due[node.slot] = PoolDue(then.total > 0, new)
            speaks = new > 0 or (item.running and last and then.total > 0)
            runs = speaks
        elif isinstance(item, (ScanItem, MemoryItem)):
            if isinstance(item, ScanItem):
                new = now.total - then.total
                due[node.slot] = PoolDue(then.total > 0, new)
            else:
                seen = memory_due(then, now, item.size)
                # Where a step stands in the video matters to a table alone.
                table = isinstance(item, TableItem)
                due[node.slot] = seen if table else replace(seen, before=min(seen.before, 1))
                new = now.total - then.sure
            speaks = runs = fed and new > 0
            if not fed and new > 0:
                raise _unfed(node.slot, new)
            if isinstance(item, ScanItem) and item.tells and last and then.total > 0 and new == 0:
                speaks = runs = True
                told.add(node.name)
        else:
            out_now, out_then = item.out.at(after, last), item.out.at(before, False)
            if isinstance(item, WindowItem):
                work = window_due(item.law, then, now, out_then, out_now, mean=item.mean)
            else:
                work = align_due(then, now, out_then, out_now)
            due[node.slot] = work
            speaks = work.outs > 0
            runs = fed or speaks
            if not fed and work.new > 0:
                raise _unfed(node.slot, work.new)
        if not runs:
            idle.add(node.name)
        if not speaks:
            silent.add(node.name)
    return Plan(due, frozenset(idle), frozenset(silent))


def _concat_due(
    out: ConcatClock, before: tuple[int, ...], after: tuple[int, ...], last: bool
) -> ConcatDue:
    moments = ((before, False), (after, last))
    (then, now) = ([part.at(*moment) for part in out.parts] for moment in moments)
    (out_then, out_now) = (out.parts_at(*moment) for moment in moments)
    return ConcatDue(tuple(map(align_due, then, now, out_then, out_now)))


def _unfed(slot: str, count: int) -> StateError:
    return StateError(
        f"{slot}: {counted(count, 'element')} are due that depend on a value pooled over "
        "this step's frames, of which there are none; feed longer chunks"
    )
