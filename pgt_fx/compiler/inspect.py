"""``prog.inspect``: what each stage of the compiler made of a model, to look at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import fx, nn

from pgt_fx.capture.captured import Captured
from pgt_fx.compiler.analysis.timed_graph import Analysis, Value
from pgt_fx.compiler.lowering.state_bytes import state_bytes
from pgt_fx.core.clip import ClipSpec
from pgt_fx.runtime.plan import Plan
from pgt_fx.runtime.program import Program
from pgt_fx.runtime.step_graph import Emitted


class Inspected(Protocol):
    """What an inspection looks at; :class:`pgt_fx.compiler.programs.ModelPrograms` is one."""

    @property
    def model(self) -> nn.Module: ...

    @property
    def spec(self) -> ClipSpec: ...

    @property
    def example(self) -> list[Any]: ...

    def cast(self, dtype: torch.dtype) -> torch.dtype: ...

    def captured(self) -> Captured: ...

    def analysis(self) -> Analysis: ...

    def program(self) -> Program: ...

    def all_exact(self) -> bool: ...


@dataclass(frozen=True)
class StateEntry:
    """What one operator carries from step to step.

    Attributes:
        name: of the entry in ``prog.state``.
        operator: node of the captured graph whose elements it carries.
        bytes: once a stream is under way, at the example's size and a batch of one.
        shared_with: entry of another operator that carries the same elements; "" for its own.
    """

    name: str
    operator: str
    bytes: int
    shared_with: str = ""


class Inspection:
    """What was made of a model as it is now, in its mode and with its hooks: read-only. A change
    to what it shows is a change to the program.

    Example:
        >>> prog.inspect.graph            # ATen operators, as captured
        >>> prog.inspect.timelines["conv3d"].clock
        >>> prog.inspect.step_graph       # what runs in a step
        >>> prog.inspect.plan(0, 8)       # what each operator has to do in the first 8 frames
        >>> prog.inspect.state            # what is carried, and how many bytes
    """

    def __init__(self, programs: Inspected) -> None:
        self._programs = programs

    @property
    def model(self) -> nn.Module:
        """The user's module."""
        return self._programs.model

    @property
    def clip(self) -> ClipSpec:
        """Structure of a clip: its tensors, and which of their axes are time."""
        return self._programs.spec

    @property
    def example(self) -> list[Any]:
        """The leaves of the example clip; of the videos their sizes alone (meta tensors)."""
        return self._programs.example

    def cast(self, dtype: torch.dtype) -> torch.dtype:
        """The type of a video now, of which that of the example is given: another one, once the
        model was moved to another (``prog.double()``)."""
        return self._programs.cast(dtype)

    @property
    def captured(self) -> Captured:
        """The capture: the graph, and what the model asked of its surroundings."""
        return self._programs.captured()

    @property
    def graph(self) -> fx.Graph:
        """The captured graph, after its passes: ATen operators."""
        return self.captured.graph

    @property
    def analysis(self) -> Analysis:
        """What the analysis found: of each value its timeline, of each operator its kind."""
        return self._programs.analysis()

    @property
    def timelines(self) -> Mapping[str, Value | list[Value]]:
        """Node of the captured graph -> which of its axes are time, and how many elements there
        are when; a list for several results."""
        return self.analysis.values

    @property
    def program(self) -> Program:
        """What runs the steps."""
        return self._programs.program()

    @property
    def all_exact(self) -> bool:
        """Whether all outputs of the steps, put one after the other, are the model's own."""
        return self._programs.all_exact()

    @property
    def emitted(self) -> Emitted:
        """The graph of a step with what is needed to plan and to run it."""
        return self.program.emitted

    @property
    def step_graph(self) -> fx.Graph:
        """The graph of a step in which every operator has something to do."""
        return self.emitted.graph

    @property
    def state(self) -> list[StateEntry]:
        """What is carried from step to step, in the order of the model."""
        emitted = self.emitted
        held = state_bytes(self.analysis, emitted)
        return [
            StateEntry(slot, node.name, held[slot], emitted.shared.get(slot, ""))
            for slot, node in emitted.origin.items()
        ]

    def plan(self, seen: int, frames: int, *, last: bool = False) -> Plan:
        """What each operator has to do in a step.

        Args:
            seen: frames before the step, of the path with the fewest.
            frames: frames that it brings.
            last: whether the video ends with it.
        """
        ratio = self.clip.ratio
        before, after = (tuple(n * r for r in ratio) for n in (seen, seen + frames))
        return self.program.plan(before, after, last)
