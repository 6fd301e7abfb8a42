"""Guards: the conditions under which the captured graph is the model, in words.

Each is kept, and checked where it can change: what depends on a clip's sizes and types in the first
step of a video, a video's length when it ends, what depends on the model itself before each video.
Where one does not hold the model is captured anew, or an error names the line.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from pgt_fx.capture.captured import in_frames
from pgt_fx.capture.observe.failing_line import DEVICES, GRADIENTS, INFERENCE, LAYOUTS, TYPES
from pgt_fx.capture.observe.surroundings import VARIABLE
from pgt_fx.compiler.analysis.timed_graph import Analysis

_OF_WEIGHTS = {
    GRADIENTS: "gradients are on or off, and the weights need or have some, as in the capture",
    DEVICES: "the weights are where they were in the capture",
}
Checked = Literal["each clip", "each video", "last step", "never"]
#: Lines that are named of one condition; a deep model asks the same on many.
MOST_LINES = 3


@dataclass(frozen=True)
class Guard:
    """A condition under which a progressive model is the model that it was made of.

    Attributes:
        words: the condition: "videos of 4n + 1 frames".
        checked: when: "each clip" (its sizes and types), "each video" (the model, before the first
            step), "last step" (the length of the video), "never": where it does not hold the model
            gives no answer that another one could differ from.
        otherwise: what happens where it does not hold: "refused", "captured anew" or "answered".
        because: lines of the model that asked for it, ``"model.py:12: if x.shape[2] > 300:"``.
    """

    words: str
    checked: Checked
    otherwise: Literal["refused", "captured anew", "answered"]
    because: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [f"\n    because of {line}" for line in self.because[:MOST_LINES]]
        more = len(self.because) - MOST_LINES
        lines += [f"\n    and of {more} other lines"] if more > 0 else []
        return f"{self.words} (else {self.otherwise})" + "".join(lines)


def guards_of(analysis: Analysis) -> tuple[Guard, ...]:
    """The guards of a graph, those of its lengths first."""
    return (*_of_lengths(analysis), *_of_clips(analysis), *_of_the_model(analysis))


def _of_lengths(analysis: Analysis) -> Iterator[Guard]:
    clip = analysis.captured.clip
    if clip is not None:
        words = f"steps of {in_frames(clip.frames)}, a clip"
        yield Guard(words, "each clip", "captured anew", (clip.because,))
        return
    if analysis.lengths.numbers.is_all:
        return
    lines = [c.place for c in analysis.lengths.conditions if c.place]
    words = f"videos of {analysis.lengths} frames"
    yield Guard(words, "last step", "refused", tuple(dict.fromkeys(lines)))


def _of_clips(analysis: Analysis) -> Iterator[Guard]:
    captured, spec = analysis.captured, analysis.spec
    for path, fixed in captured.fixed.items():
        shape = list(spec.shapes[spec.paths[path]] or ())
        shown = [
            str(fixed[d]) if d in fixed else "T" if d == spec.times[spec.paths[path]] else "any"
            for d in range(len(shape))
        ]
        yield Guard(f"clips of sizes ({', '.join(shown)})", "each clip", "captured anew")
    branches = captured.branches
    asked = [] if branches is None else branches.asked
    times = frozenset() if branches is None else branches.times
    lines = [f"{a.where}: {a.line}" for a in asked if not a.expr.free_symbols & times]
    if lines:
        words = "clips for which what the model asks of batch and space has the same answer"
        yield Guard(words, "each clip", "captured anew", tuple(dict.fromkeys(lines)))
    if TYPES in captured.surroundings:
        words = "clips of the example's types, and weights of theirs"
        yield Guard(words, "each clip", "captured anew")
    if LAYOUTS in captured.surroundings:
        words = "clips that lie in memory with their axes in order"
        yield Guard(words, "each clip", "refused")
    if GRADIENTS in captured.surroundings:
        yield Guard("clips that need no gradient", "each clip", "refused")


def _of_the_model(analysis: Analysis) -> Iterator[Guard]:
    captured = analysis.captured
    of_tensors = {TYPES, LAYOUTS, INFERENCE, *_OF_WEIGHTS}
    for question, words in _OF_WEIGHTS.items():
        if question in captured.surroundings:
            yield Guard(words, "each clip", "captured anew")
    for question in sorted(captured.surroundings - of_tensors):
        words = f"{question}() answers as in the capture"
        if question.startswith(VARIABLE):
            name = question.removeprefix(VARIABLE)
            words = f"the environment's variable {name} is as in the capture"
        yield Guard(words, "each clip", "captured anew")
    if captured.checks:
        lines = tuple(f"{place.source}: {place.line}" for place in captured.checks)
        words = "values at which the model raises no error: its own checks are left out"
        yield Guard(words, "never", "answered", tuple(dict.fromkeys(lines)))
    read = [] if captured.values is None else captured.values.read
    if read:
        words = f"masks let the same frames through, as read from {', '.join(read)}"
        yield Guard(words, "each video", "captured anew")
    words = "modules, their modes, hooks and attributes are those of the capture"
    yield Guard(words, "each video", "captured anew")
