"""The trace of a compilation: its stages and passes, each with its time and the graph after it.

Stages announce themselves with :func:`stage`; nothing is recorded unless a caller asks for it
(:func:`recorded`), as printing a graph takes time.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from time import perf_counter


@dataclass(frozen=True)
class Stage:
    """One stage or pass that has run.

    Attributes:
        name: ``"capture"``, or ``"capture/functionalize"`` for a pass of it.
        ms: how long it took, in milliseconds, with the passes in it.
        graph: the graph after it, as text, or the timelines after the analysis; "" where it makes
            none.
        nodes: how many nodes the graph has.
        changed: whether its text is another than before the stage.
    """

    name: str
    ms: float
    graph: str = ""
    nodes: int = 0
    changed: bool = True


@dataclass
class Trace:
    """The stages and passes of a compilation, in the order in which they ended.

    ``print(trace)`` shows a table of them and, below it, the graph after each that changed it.
    """

    stages: list[Stage] = field(default_factory=list)

    def __getitem__(self, name: str) -> Stage:
        for one in self.stages:
            if one.name == name:
                return one
        names = ", ".join(one.name for one in self.stages)
        raise KeyError(f"no stage {name!r}; there are {names}")

    def table(self) -> str:
        """One line per stage: its name, its milliseconds, the size of the graph after it."""
        wide = max((len(one.name) for one in self.stages), default=5)
        lines = [f"{'stage':{wide}}  {'ms':>9}  nodes"]
        for one in self.stages:
            size = f"{one.nodes:5d}" if one.nodes else "    -"
            same = "" if one.changed or not one.graph else "  (unchanged)"
            lines.append(f"{one.name:{wide}}  {one.ms:9.1f}  {size}{same}")
        return "\n".join(lines)

    def __str__(self) -> str:
        parts = [self.table()]
        for one in self.stages:
            if one.graph and one.changed:
                parts.append(f"-- after {one.name} --\n{one.graph}")
        return "\n\n".join(parts) + "\n"


class IllegalGraph(AssertionError):
    """A stage of the compiler left in the graph what the next one does not expect: a fault of the
    compiler, never of the model."""


def checks_stages() -> bool:
    """Whether graphs are checked between the stages: with ``PGT_FX_CHECK_STAGES=1`` in the
    environment, as in this project's tests."""
    return os.environ.get("PGT_FX_CHECK_STAGES", "") not in ("", "0")


_RECORDING: ContextVar[Trace | None] = ContextVar("pgt_fx_trace", default=None)


@contextmanager
def recorded() -> Iterator[Trace]:
    """Record the stages that run meanwhile in this thread."""
    trace = Trace()
    token = _RECORDING.set(trace)
    try:
        yield trace
    finally:
        _RECORDING.reset(token)


@contextmanager
def stage(name: str, graph: Callable[[], object] | None = None) -> Iterator[None]:
    """A stage, or a pass of one, named by a path: ``"capture/functionalize"``.

    Args:
        graph: gives the graph after it (anything with a text, and ``nodes``); called only where
            somebody records.
    """
    trace = _RECORDING.get()
    if trace is None:
        yield
        return
    start = perf_counter()
    yield
    ms = (perf_counter() - start) * 1000
    made = None if graph is None else graph()
    text = "" if made is None else str(made).strip()
    before = next((one.graph for one in reversed(trace.stages) if one.graph), "")
    count = len(list(getattr(made, "nodes", ())))
    trace.stages.append(Stage(name, ms, text, count, text != before))
