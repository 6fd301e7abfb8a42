"""Branches of the model's Python on its batch and its space: at which sizes the graph is the model.

Those on the number of frames are in :mod:`pgt_fx.capture.guards.length_guard`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import fx

from pgt_fx.capture.guards.length_guard import Lengths
from pgt_fx.capture.observe.size_questions import Asked, Questions, squeezed
from pgt_fx.core.clip import ClipSpec
from pgt_fx.core.errors import CaptureError, OtherClipError


@dataclass
class Branches:
    """What was asked of the sizes that a capture is symbolic in, and what the graph rests on.

    Attributes:
        questions: what was asked.
        asked: the conditions that the graph rests on.
        times: the symbols of the time axes.
        calls: keys of the module calls in which something was asked of the number of frames: a
            module that is called whole would ask again, of a chunk.
        lengths_at: the lengths allowed at other sizes; None where they are the same at all.
    """

    questions: Questions
    spec: ClipSpec
    asked: tuple[Asked, ...]
    times: frozenset[Any]
    calls: frozenset[str]
    lengths_at: Callable[[Mapping[Any, Any]], Lengths] | None = None
    _known: set[tuple[int, ...]] = field(default_factory=set, repr=False)

    def check(self, sizes: Sequence[int]) -> None:
        """Make sure that the model goes the captured way at the sizes of a video.

        Args:
            sizes: of all paths, one after the other; -1 for their time.

        Raises:
            OtherClipError: naming the line that goes another way.
        """
        if not self.asked or (key := tuple(sizes)) in self._known:
            return
        shapes: list[tuple[int, ...] | None] = [None] * len(self.spec.shapes)
        rest = list(sizes)
        for leaf in self.spec.paths:
            rank = len(self.spec.shapes[leaf] or ())
            shapes[leaf], rest = tuple(rest[:rank]), rest[rank:]
        at = self.questions.at(shapes)
        wrong = next((a for a in self.asked if not a.holds(at)), None)
        if wrong is None and self.lengths_at is not None:
            mixed = next(a for a in self.asked if a.expr.free_symbols & self.times)
            wrong = None if self._same_lengths(self.lengths_at, at) else mixed
        if wrong is not None:
            named = ", ".join(str(tuple(s)).replace("-1", "T") for s in shapes if s is not None)
            raise OtherClipError(
                f"at a clip of size {named} the model takes another branch than in the capture: "
                f"{wrong.where}: {wrong.line}\n    ({wrong})"
            )
        self._known.add(key)
        while len(self._known) > 256:
            self._known.pop()

    @property
    def rows(self) -> int | None:
        """The example's batch where something was asked of it, else None."""
        batch = {s for s, (_, dim) in self.questions.symbols.items() if dim == 0}
        shape = self.spec.shapes[self.spec.paths[0]] or (None,)
        return shape[0] if any(a.expr.free_symbols & batch for a in self.asked) else None

    def _same_lengths(self, lengths: Callable[..., Lengths], at: Mapping[Any, Any]) -> bool:
        """Whether conditions on frames and other sizes hold for the lengths at which they hold at
        the clip's own sizes."""
        try:
            return lengths(at) == lengths(self.questions.at(without_time(self.spec)))
        except CaptureError:
            return False


def without_time(spec: ClipSpec) -> list[tuple[int, ...] | None]:
    """Shapes of the example, its lengths not known."""
    return [
        None if shape is None else tuple(-1 if d == t else s for d, s in enumerate(shape))
        for shape, t in zip(spec.shapes, spec.times, strict=True)
    ]


@dataclass(frozen=True)
class Unlike:
    """A question that is answered otherwise at the clip's own sizes, and which of them make the
    difference."""

    asked: Asked | None
    batch: bool
    space: bool


def unlike_clip(
    graph: fx.Graph, questions: Questions, spec: ClipSpec, sample: Sequence[Any]
) -> Unlike:
    """What is answered otherwise at the clip's own batch and space than at the sample's."""
    times = questions.along(spec.times)
    at_clip = questions.at(spec.shapes)
    shapes = [
        None if shape is None else tuple(sample[leaf].shape)
        for leaf, shape in enumerate(spec.shapes)
    ]
    for leaf in spec.paths:  # at the clip's length, so that only the other sizes differ
        time, shape = spec.times[leaf], shapes[leaf]
        if shape is not None:
            own = (spec.shapes[leaf] or ())[time or 0]
            shapes[leaf] = tuple(own if d == time else s for d, s in enumerate(shape))
    at_sample = questions.at(shapes)
    wrong, batch, space = None, False, False
    for a in (*questions.asked, *questions.frozen(times), *squeezed(graph, times)):
        if a.holds(at_clip) or not a.holds(at_sample):
            continue
        wrong = wrong or a
        free = a.expr.free_symbols - times
        dims = {questions.symbols[s][1] for s in free if s in questions.symbols}
        batch, space = batch or 0 in dims, space or bool(dims - {0})
    return Unlike(wrong, batch, space)
