"""Which output frame a receptive field is measured of, and what it can read. Integers only."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from torch import fx

from pgt_fx.compiler.analysis.receptive_field import Reach, reaches
from pgt_fx.core.counts import counted
from pgt_fx.core.errors import ClipError, OptionError
from pgt_fx.core.schedule import Schedule
from pgt_fx.erf.result import CURVES, Curve, Interval, Receptive
from pgt_fx.rules.kinds.verdicts import CONTEXT
from pgt_fx.runtime.progressive import Progressive


@dataclass(frozen=True)
class Feed:
    """What one curve's model is fed, in frames of the path with the fewest.

    Attributes:
        start, end: the frames, ``end`` not in them.
        index: which of the output frames that they give; None where they give one answer.
        local: which of those that the last of several steps gives.
        step: the frames of the output's own step, half-open too.
    """

    start: int
    end: int
    index: int | None
    local: int | None
    step: Interval


class Target:
    """One output frame of a video in steps.

    Attributes:
        number: position of the measured tensor in the model's flat output: the first.
        index: which output frame, counted over the video; None for a pooled answer.
        step: number of the step that holds the output's own frame.
        answers: number of the step that gives the output.
        feeds: per curve what is fed for it.

    Raises:
        OptionError: for an output frame that isn't there.
        ClipError: where no output frame exists, or none that depends on a frame.
    """

    def __init__(self, prog: Progressive, schedule: Schedule, index: int | None) -> None:
        self.prog, self.schedule = prog, schedule
        self.ratio = prog.clip_ratio
        self.chunks = schedule.chunks()
        self.cuts = [sum(self.chunks[:p]) for p in range(len(self.chunks) + 1)]
        self._analysis = prog.inspect.analysis
        outputs = self._analysis.outputs
        self.number = next(k for k, o in enumerate(outputs) if isinstance(o, fx.Node))
        node: fx.Node = outputs[self.number]
        self._clock = self._analysis.value(node).clock
        self._sources = [node] if self._clock is not None else self._pooled(node)
        self._reach = self._read_by(self._sources)
        self.index = self._chosen(index)
        self.step, self.answers = self._steps()
        self.feeds = self._feeds()

    # -- the output ----------------------------------------------------------------------------

    def _pooled(self, node: fx.Node) -> list[fx.Node]:
        """What has time and is reduced to ``node``, which has none."""
        names = sorted(self._analysis.value(node).pooled)
        return [s for n in names for s in self._analysis.streams(self._analysis.operations[n].node)]

    def _read_by(self, sources: list[fx.Node]) -> dict[int, Reach]:
        """Per input path that the sources read, the widest reach."""
        found = reaches(self._analysis)
        out: dict[int, Reach] = {}
        for source in sources:
            for path, one in found.get(source.name, {}).items():
                if path not in out or _wider(one, out[path]):
                    out[path] = one
        if not out:
            raise ClipError("the model's first output depends on no frame of the video")
        return dict(sorted(out.items()))

    def _count(self, frames: int, last: bool) -> int:
        """Output frames once ``frames`` frames were shown."""
        if self._clock is None:
            return 1
        return self._clock.at(tuple(frames * r for r in self.ratio), last).total

    def _chosen(self, index: int | None) -> int | None:
        if self._clock is None:
            if index is not None:
                raise OptionError("output: the model's answer is pooled over time; it has no frame")
            return None
        total = self._count(self.schedule.frames, True)
        if not total:
            raise ClipError(
                f"a video of {counted(self.schedule.frames, 'frame')} gives no output frame"
            )
        if index is None:
            last = self.cuts[-1] - Fraction(1, self.ratio[next(iter(self._reach))])
            return self._nearest(total, (self.cuts[-2] + last) / 2)
        if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < total:
            raise OptionError(
                f"output: expected 0 … {total - 1} for a video of "
                f"{counted(self.schedule.frames, 'frame')}, "
                f"got {index!r}"
            )
        return index

    def _frame(self, index: int, start: int = 0) -> Fraction:
        """An output's own frame in the path with the fewest, that of a video from ``start`` on."""
        path, reach = next(iter(self._reach.items()))
        return start + Fraction(int(index * reach.stride), self.ratio[path])

    def _nearest(self, count: int, frame: Fraction, start: int = 0) -> int:
        """Which of ``count`` outputs stands nearest to a frame; of two the later."""
        return min(range(count), key=lambda i: (abs(self._frame(i, start) - frame), -i))

    def _steps(self) -> tuple[int, int]:
        last = len(self.chunks) - 1
        if self.index is None:
            return last, last
        own = self._frame(self.index)
        step = max(p for p, cut in enumerate(self.cuts[:-1]) if cut <= own)
        counts = [self._count(self.cuts[p + 1], p == last) for p in range(last + 1)]
        return step, next(p for p, count in enumerate(counts) if count > self.index)

    def _feeds(self) -> dict[str, Feed]:
        step = self.cuts[self.step], self.cuts[self.step + 1]
        start, length = max(0, step[1] - self.schedule.length), self.schedule.length
        in_clip = None
        if self.index is not None:
            count = self._count(length, True)
            if not count:
                raise ClipError(
                    f"length: a clip of {counted(length, 'frame')} gives no output frame"
                )
            in_clip = self._nearest(count, self._frame(self.index), start)
        end, local = self.cuts[self.answers + 1], self.index
        if local is not None:
            local -= self._count(self.cuts[self.answers], False)
        return {
            "clip": Feed(start, step[1], in_clip, in_clip, (start, step[1])),
            "original": Feed(0, self.schedule.frames, self.index, self.index, step),
            "progressive": Feed(0, end, self.index, local, step),
        }

    # -- what it can read ----------------------------------------------------------------------

    def _own(self, kind: str, path: int) -> int:
        feed, scale = self.feeds[kind], self.ratio[path]
        last = feed.end * scale - 1
        if feed.index is None:
            return last
        return min(feed.start * scale + int(feed.index * self._reach[path].stride), last)

    def _theory(self, kind: str, path: int) -> Interval:
        """The frames that the output can depend on, of those fed.

        For a progressive model with operators that combine all of time, or with an aggregate as
        context (CMCO, PMCO: that of a step holds that of the step before), a bound: the video's
        first frame.
        """
        feed, reach, scale = self.feeds[kind], self._reach[path], self.ratio[path]
        first, last = feed.start * scale, feed.end * scale - 1
        own = self._own(kind, path)
        if self._clock is not None and reach.past is not None and reach.future is not None:
            first, last = max(first, own - reach.past), min(last, own + reach.future)
        if kind != "progressive":
            return first, last
        if any(row.verdict == CONTEXT for row in self.prog.report.rows):
            return 0, last
        if self._clock is None and self.prog.options.pooling == "step":
            first = min((self._added(path, s) for s in self._sources), default=first)
        return first, last

    def _added(self, path: int, source: fx.Node) -> int:
        """The first frame read by what the last step adds to a reduction over time."""
        reach, clock = self._reach[path], self._analysis.value(source).clock
        if clock is None or reach.past is None:
            return 0
        frames = tuple(self.cuts[-2] * r for r in self.ratio)
        return max(0, int(clock.at(frames, False).sure * reach.stride) - reach.past)

    # -- results -------------------------------------------------------------------------------

    def found(self, masses: dict[str, list[list[float]]], inputs: int, redrawn: int) -> Receptive:
        """The curves; ``masses[curve][path]`` are gradients per frame of the video."""
        paths, options = tuple(self._reach), self.prog.options
        none = Reach(Fraction(1), None, None, None)  # of an answer that is pooled over time
        fields = [none if self._clock is None else r for r in self._reach.values()]
        return Receptive(
            model=type(self.prog.inspect.model).__name__,
            options={k: str(getattr(options, k)) for k in ("operator", "future", "pooling")},
            length=self.schedule.length,
            steps=len(self.chunks),
            output=self.index,
            inputs=inputs,
            redrawn=redrawn,
            paths=paths,
            frames=tuple(self.schedule.frames * self.ratio[p] for p in paths),
            cuts=tuple(tuple(c * self.ratio[p] for c in self.cuts[1:-1]) for p in paths),
            trf=tuple(r.field for r in fields),
            past=tuple(r.past for r in fields),
            future=tuple(r.future for r in fields),
            stride=tuple(str(r.stride) for r in self._reach.values()),
            **{k: tuple(self._curve(k, p, masses[k][p]) for p in paths) for k in CURVES},
        )

    def _curve(self, kind: str, path: int, mass: list[float]) -> Curve:
        first, end = (frame * self.ratio[path] for frame in self.feeds[kind].step)
        whole = sum(mass) or 1.0
        return Curve(
            own=self._own(kind, path),
            step=(first, end - 1),
            theory=self._theory(kind, path),
            mass=tuple(m / whole for m in mass),
        )


def _wider(one: Reach, other: Reach) -> bool:
    """Whether a reach is the wider of two; one without a bound is the widest."""
    return other.field is not None and (one.field is None or one.field > other.field)
