"""The plan of a step: what every operator of the emitted graph has to do, in integers.

It is a pure function of the frames seen before and after the step; no tensor is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pgt_fx.core.counts import counted
from pgt_fx.core.errors import StateError
from pgt_fx.runtime.plan_items import Frames, Item
from pgt_fx.runtime.work import Work


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


def plan(graph: Schedulable, before: Frames, after: Frames, last: bool) -> Plan:
    """Plan the step that takes the model from ``before`` to ``after`` frames per path.

    A last step may bring no frames: it gives what is still due at the end of the video.

    Raises:
        StateError: when an operator would have elements to work on without the value, pooled over
            time, that they are combined with.
    """
    due: dict[str, Work] = {}
    idle: set[str] = set()
    silent = {name for name, path in graph.clips.items() if after[path] == before[path]}
    ended: set[str] = set()  # scans that have their last state to give, and no elements
    for node in graph.nodes:
        if node.slot is None:
            none = silent | ended if node.first else silent
            if not none.isdisjoint(node.inputs):
                idle.add(node.name)
                silent.add(node.name)
            continue
        planned = graph.items[node.slot].planned(
            before, after, last, silent.intersection(node.inputs)
        )
        if planned.unfed:
            raise _unfed(node.slot, planned.unfed)
        due[node.slot] = planned.work
        if planned.ends:
            ended.add(node.name)
        if not planned.runs:
            idle.add(node.name)
        if not planned.gives:
            silent.add(node.name)
    return Plan(due, frozenset(idle), frozenset(silent))


def _unfed(slot: str, count: int) -> StateError:
    return StateError(
        f"{slot}: {counted(count, 'element')} are due that depend on a value pooled over "
        "this step's frames, of which there are none; feed longer chunks"
    )
