"""The result of a capture: the graph, and the conditions under which it is the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import sympy
import torch
from torch import Tensor, fx

from pgt_fx.capture.guards.length_guard import Lengths, known_sizes
from pgt_fx.capture.guards.size_guard import Branches
from pgt_fx.capture.guards.symbolic_sizes import SYMBOLIC, Sizes
from pgt_fx.capture.guards.view_lengths import lengths_of_views
from pgt_fx.capture.observe.custom_gradients import ByHand
from pgt_fx.capture.observe.module_attributes import Memory
from pgt_fx.capture.observe.module_calls import ModuleCall
from pgt_fx.capture.observe.python_random import Drawn
from pgt_fx.core.counts import plural
from pgt_fx.core.errors import ClipError, Place
from pgt_fx.core.lengths.sets import LengthSet


@dataclass(frozen=True)
class WholeClip:
    """A model that is captured at the length of its clip: a step is a clip.

    Attributes:
        frames: of a clip, per input path.
        because: why other lengths are none for this graph, with the line of the model that is known
            of; one sentence without a full stop.
    """

    frames: tuple[int, ...]
    because: str

    def __str__(self) -> str:
        return f"a step is a clip of {in_frames(self.frames)}, because {self.because}"

    def check(self, chunks: Sequence[tuple[int, ...]]) -> None:
        """Make sure that chunks, in frames per path, are whole clips.

        Raises:
            ClipError: naming the first that is none.
        """
        for chunk in chunks:
            if tuple(chunk) != self.frames:
                raise ClipError(
                    f"a step of this model is a clip of {in_frames(self.frames)}, got a chunk of "
                    f"{' and '.join(map(str, chunk))}"
                )


def in_frames(numbers: Sequence[int]) -> str:
    """``"8 and 32 frames"``, of the paths of an input."""
    return f"{' and '.join(map(str, numbers))} {plural(max(numbers), 'frame')}"


class ReadValues(Protocol):
    """What was read from parameters and buffers during the capture, and in the passes after it."""

    @property
    def read(self) -> list[str]:
        """Attribute paths of the tensors that were read."""
        ...

    def changed(self, tensors: Mapping[str, Tensor]) -> list[str]:
        """Those of which something that was concluded no longer holds."""
        ...


@dataclass
class Captured:
    """The captured graph of a model whose modules are in certain modes (train or eval).

    Attributes:
        graph: fx graph of ATen operators; every node's ``meta["val"]`` has symbolic sizes.
        tensors: placeholder name -> attribute path in the model, for parameters and buffers.
        constants: placeholder name -> tensor made in forward and lifted by the capture.
        inputs: placeholder name -> leaf of the clip.
        out_spec: pytree of the model's output.
        calls: key of the module stack -> what a hook saw of that call.
        time_symbols: the symbols in the sizes of the inputs' time axes.
        global_pools: numbers of the pools that were taken to mean "pool the clip".
        training: the mode.
        fixed: input path -> dimension -> size that the capture fixed (channels; sometimes space).
        lengths: of the whole videos for which the graph is the model.
        branches: the conditions on sizes on which the model's Python branched.
        typed: whether a floating-point type is written in the graph or in its constants, as that of
            the weights may be.
        dtype: of the weights when it was captured.
        by_hand: calls that say what a gradient is to be, which the graph doesn't hold.
        drawn: modules that drew random numbers from Python, which the graph holds as constants.
        kept: attributes of modules that forward changes.
        memories: those among them that the next call reads.
        moving: buffers that each call in train mode writes before the answer is computed from them.
        surroundings: what the model's Python asked of them (gradients, autocast, types).
        seeded: lines on which it seeds torch's random numbers.
        tried: lines on which an error of a call is caught, and the model goes on another way.
        sized: the first line on which it reads a size of a tensor that is no input.
        values: evaluates what depends on sizes, parameters and buffers alone.
        idle: layers that have no part in what the model computes, though the module around them is
            called.
        checks: lines of the model that only raise an error by the values of tensors, which the
            graph leaves out.
        opened: keys of module calls that can't be made whole: what is around them (autocast), or in
            them (a check of values), is not for a chunk.
        rehooked: modules of which a hook was added or removed since it was captured.
        clip: of a model that is captured at the length of its clip; None where time is followed.
        clip_keys: its attentions over the frames of the clip
            (:class:`pgt_fx.capture.attention.clip_keys.ClipKeys`).
    """

    graph: fx.Graph
    tensors: dict[str, str]
    constants: dict[str, Tensor]
    inputs: dict[str, int]
    out_spec: Any
    calls: dict[str, ModuleCall]
    time_symbols: frozenset[sympy.Symbol]
    global_pools: tuple[int, ...]
    training: bool
    fixed: dict[int, dict[int, int]] = field(default_factory=dict)
    lengths: Lengths = field(default_factory=Lengths)
    branches: Branches | None = None
    typed: bool = False
    dtype: torch.dtype | None = None
    by_hand: list[ByHand] = field(default_factory=list)
    drawn: list[Drawn] = field(default_factory=list)
    kept: frozenset[str] = frozenset()
    memories: list[Memory] = field(default_factory=list)
    moving: list[Memory] = field(default_factory=list)
    surroundings: frozenset[str] = frozenset()
    seeded: list[Place] = field(default_factory=list)
    tried: frozenset[tuple[str, str]] = frozenset()
    sized: Place | None = None
    values: ReadValues | None = field(default=None, repr=False)
    idle: tuple[str, ...] = ()
    checks: list[Place] = field(default_factory=list)
    opened: frozenset[str] = frozenset()
    rehooked: frozenset[str] = frozenset()
    clip: WholeClip | None = None
    clip_keys: list[Any] = field(default_factory=list)
    _timed: dict[Any, bool] = field(default_factory=dict, repr=False)
    _sizes: Sizes | None = field(default=None, repr=False)
    _valid: LengthSet | None = field(default=None, repr=False)

    @property
    def rows(self) -> int | None:
        """Videos in a batch, where the graph is the model for some numbers alone: the example's."""
        fixed = next((f[0] for f in self.fixed.values() if 0 in f), None)
        return fixed if fixed is not None or self.branches is None else self.branches.rows

    def has_time(self, size: Any) -> bool:
        """Whether a size of a tensor depends on the length of the video. ``T // (T // 2)``, the
        last one of ``x.view(N, C, T // 2, 2)``, does not: no other video has such a view."""
        if not isinstance(size, SYMBOLIC):
            return False
        expr: Any = size.node.expr
        if expr not in self._timed:
            sizes = self.sizes
            self._timed[expr] = bool(expr.free_symbols & self.time_symbols) and (
                sizes.grows(size) or (sizes.varies(size) and self._where_it_holds().varies(size))
            )
        return self._timed[expr]

    def varies(self, size: torch.SymInt | torch.SymFloat | torch.SymBool) -> bool:
        """Whether a number differs between two videos that the model takes."""
        return self.sizes.varies(size)

    @property
    def sizes(self) -> Sizes:
        """Sizes as functions of the number of frames, of the videos that the model takes."""
        if self._sizes is None:
            self._sizes = Sizes(known_sizes(self._size()), self.time_symbols)
        return self._sizes.of(self.lengths.numbers)

    def _where_it_holds(self) -> Sizes:
        """Those for the videos of which the model can make its views."""
        sizes = self.sizes
        if self._valid is None:
            self._valid = lengths_of_views(self.graph, sizes)
        both = self._valid & sizes.lengths
        one = both.least is None or both.next(both.least + 1) is None
        return sizes if one else sizes.of(both)

    def _size(self) -> torch.SymInt:
        values = [n.meta.get("val") for n in self.graph.nodes if n.op == "placeholder"]
        shapes: list[Any] = [s for v in values if isinstance(v, Tensor) for s in v.shape]
        return next(s for s in shapes if isinstance(s, torch.SymInt))
