"""What a measurement of receptive fields found: curves over the frames, and their figures."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import accumulate
from typing import Any

from rich.console import Console, Group
from rich.text import Text

from pgt_fx.core.counts import counted
from pgt_fx.core.text_tables import Fitted

#: Share of the gradient's mass that the effective width holds.
HELD = 0.95

Interval = tuple[int, int]  # first and last frame, both in it


@dataclass(frozen=True)
class Curve:
    """How the gradient of one output frame spreads over the frames of one input path.

    Frames are numbered from the video's first; intervals are (first, last), both in them.

    Attributes:
        own: the output's own frame: the last one for an answer that is pooled over time.
        step: the frames that were fed with it; those of the clip for a clip.
        theory: the frames that it can depend on, by the analysis, among those that were fed.
        mass: per frame of the video its share of the gradient (sum 1, or all 0 where the output
            doesn't depend on this path).
    """

    own: int
    step: Interval
    theory: Interval
    mass: tuple[float, ...]

    @property
    def reach(self) -> Interval | None:
        """First and last frame with a gradient other than zero; None where all are zero."""
        seen = [frame for frame, m in enumerate(self.mass) if m > 0]
        return (seen[0], seen[-1]) if seen else None

    @property
    def width(self) -> int:
        """Effective width in frames: the shortest run of them that holds 95 % of the mass."""
        if self.reach is None:
            return 0
        sums = [0.0, *accumulate(self.mass)]
        # The sum of all is 1 up to rounding.
        held = HELD * sums[-1]
        best, first = len(self.mass), 0
        for end in range(1, len(sums)):
            while sums[end] - sums[first + 1] >= held:
                first += 1
            if sums[end] - sums[first] >= held:
                best = min(best, end - first)
        return best

    @property
    def std(self) -> float:
        """Standard deviation of the mass along time, in frames."""
        mean = sum(f * m for f, m in enumerate(self.mass))
        return sum(m * (f - mean) ** 2 for f, m in enumerate(self.mass)) ** 0.5

    @property
    def before(self) -> float:
        """Share of the mass before the current step: what earlier steps handed on."""
        return sum(self.mass[: self.step[0]])

    @property
    def after(self) -> float:
        """Share of the mass after the current step."""
        return sum(self.mass[self.step[1] + 1 :])

    def to_dict(self) -> dict[str, Any]:
        """Plain data (JSON-able), the figures included."""
        figures = {k: getattr(self, k) for k in ("reach", "width", "std", "before", "after")}
        return asdict(self) | figures


#: The curves by attribute, with what they are in words.
CURVES = {
    "clip": "original, on a clip",
    "original": "original, long view",
    "progressive": "progressive",
}


@dataclass(frozen=True)
class Receptive:
    """Theoretical and effective temporal receptive field of one output frame.

    Lists have one entry per input path in :attr:`paths`.

    Attributes:
        model: its name or class.
        options: operator, future, pooling of the progressive model.
        length, steps: T' in frames of the path with the fewest, and P.
        output: which output frame, counted over the video; None for an answer pooled over time.
        inputs: random videos over which the gradient's magnitude was averaged.
        redrawn: norm layers that were given generic weights; 0 where they were left.
        paths: input paths that the output reads.
        frames: frames of the video.
        cuts: first frame of each step but the first.
        trf: frames that one output element reads (TRF); None: all of time.
        past, future: how many of them lie before and after its own; None: all.
        stride: frames per output element, as text ("8", "1/2").
        clip: curves of the original model on a clip: the T' frames of the output's step alone.
        original: of the original model on the whole video (original long view).
        progressive: of the progressive model, fed the video in steps; the gradient is not cut
            between the steps, though training cuts it.
    """

    model: str
    options: dict[str, str]
    length: int
    steps: int
    output: int | None
    inputs: int
    redrawn: int
    paths: tuple[int, ...]
    frames: tuple[int, ...]
    cuts: tuple[tuple[int, ...], ...]
    trf: tuple[int | None, ...]
    past: tuple[int | None, ...]
    future: tuple[int | None, ...]
    stride: tuple[str, ...]
    clip: tuple[Curve, ...]
    original: tuple[Curve, ...]
    progressive: tuple[Curve, ...]

    def curves(self) -> Iterator[tuple[int, str, Curve]]:
        """(position in :attr:`paths`, attribute, curve) of all."""
        for at in range(len(self.paths)):
            for name in CURVES:
                yield at, name, getattr(self, name)[at]

    def to_dict(self) -> dict[str, Any]:
        """Plain data (JSON-able)."""
        plain = {k: v for k, v in self.__dict__.items() if k not in CURVES}
        return plain | {name: [c.to_dict() for c in getattr(self, name)] for name in CURVES}

    @property
    def setting(self) -> str:
        """What was measured, in words."""
        steps = f"{counted(self.steps, 'step')} of {counted(self.length, 'frame')}"
        redrawn = f", norms redrawn: {self.redrawn}" if self.redrawn else ""
        options = ", ".join(f"{k}={v}" for k, v in self.options.items())
        if self.output is None:
            what = "the answer of the last step, pooled over time"
        else:
            own = ", ".join(str(c.own) for c in self.progressive)
            what = f"output frame {self.output}, whose own frame is {own}"
        videos = counted(self.inputs, "random video")
        return f"{what}; {steps}, {options}; mean over {videos}{redrawn}"

    def __rich__(self) -> Group:
        several = len(self.paths) > 1
        columns = ("path",) * several + ("curve", "can read", "reads", "95 % width")
        columns += ("std", "before step", "after step")
        numbers = range(1 + several, len(columns))
        title = f"{self.model}: effective receptive field"
        table = Fitted(columns, title=title, right=numbers, whole=numbers)
        for at, name, curve in self.curves():
            table.add_row(
                *(str(self.paths[at]),) * several,
                CURVES[name],
                interval(curve.theory),
                interval(curve.reach),
                str(curve.width),
                f"{curve.std:.1f}",
                percent(curve.before),
                percent(curve.after),
            )
        lines = [self.setting, *(self._path(at) for at in range(len(self.paths)))]
        return Group(table, Text(""), Text("\n".join(lines)))

    def _path(self, at: int) -> str:
        """What is known of one path, in words."""
        path = f"path {self.paths[at]}: " if len(self.paths) > 1 else ""
        cuts = ", ".join(str(cut) for cut in self.cuts[at])
        frames = f"{path}frames 0 … {self.frames[at] - 1}, steps from 0, {cuts}"
        trf, past, future = self.trf[at], self.past[at], self.future[at]
        if trf is None:
            return f"{frames}; theoretical receptive field: all of time"
        field = f"{counted(trf, 'frame')}, {past} before and {future} after its own"
        return f"{frames}; theoretical receptive field: {field}, stride {self.stride[at]}"

    def __str__(self) -> str:
        stream = io.StringIO()
        Console(file=stream, width=140, color_system=None).print(self)
        return "\n".join(line.rstrip() for line in stream.getvalue().splitlines())


def interval(value: Interval | None) -> str:
    """As text: ``8 … 75``."""
    return "nothing" if value is None else f"{value[0]} … {value[1]}"


def percent(share: float) -> str:
    """A share as text; "0 %" is exactly zero."""
    if share == 0:
        return "0 %"
    return "< 0.1 %" if share < 1e-3 else f"{100 * share:.{0 if share >= 0.1 else 1}f} %"
