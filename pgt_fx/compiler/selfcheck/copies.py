"""Copies of a program and of its model to compare, with weights under which a fault shows."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor

from pgt_fx.capture.passes.alias_analysis import Aliases, written_by
from pgt_fx.compiler.analysis.longest_step import longest_step
from pgt_fx.compiler.selfcheck.draws import seeded
from pgt_fx.compiler.selfcheck.measure import error
from pgt_fx.compiler.selfcheck.redraw import redraw_norms, redraw_zeros, redrawn
from pgt_fx.compiler.selfcheck.trials import BOUNDS, Trials
from pgt_fx.compiler.selfcheck.videos import Video, device_of, first_line
from pgt_fx.core.errors import PgtError
from pgt_fx.core.options import Changes
from pgt_fx.core.torch_private import NormBase, written_count
from pgt_fx.runtime.progressive import Progressive

#: Parameters up to which a second video in the batch costs nothing to speak of.
SMALL = 2_000_000
#: Least variance of norms, in mean squares: at the smallest frames they see few elements. With less
#: r2plus1d_18 at 8 pixels rounds a hundred times as much, and is measured again in float64.
FLOOR = 1.0


class Unfit(Exception):
    """The model can't be run on random videos."""


class Trial(Trials):
    """A copy of a progressive model and of its model, whose norms and zeros are drawn anew.

    Args:
        side: of the frames; None: the example's.
        dtype: to run in; None: the weights' own.

    Raises:
        Unfit: when the model can't be copied, or fails on a random clip.
    """

    def __init__(self, prog: Progressive, side: int | None, dtype: torch.dtype | None) -> None:
        made = prog.inspect
        own = next((x for x in made.clip.dtypes if x and x.is_floating_point), torch.float32)
        kind, lengths = dtype or made.cast(own), prog.video_lengths
        super().__init__(made.clip, made.example, device_of(prog), 0, kind, allowed=lengths)
        self.gradients = torch.is_grad_enabled()
        # Half precision rounds by more than many a fault: all that differs is measured again.
        self.bound, _ = BOUNDS.get(kind, BOUNDS[torch.float32])
        small = sum(p.numel() for p in prog.parameters()) <= SMALL
        self.rows = prog.inspect.captured.rows or (2 if small else 1)
        if side is not None:
            self.space = lambda n: min(n, side)
        try:
            taken = copy.deepcopy(prog, _shared(prog) if dtype is None else {})
        except Exception as reason:
            raise Unfit(f"the model can't be copied: {first_line(reason)}") from reason
        captured = taken.inspect.captured
        if dtype is not None:
            taken.to(dtype)
        self.anew = taken.inspect.captured is not captured
        self.prog, self.model = taken, taken.inspect.model
        self.pooled, self.typed = bool(captured.global_pools), captured.typed
        t, longest = self.length, longest_step(taken.inspect.analysis)
        fits = [n for n in (1, t, lengths.near(longest_of(t))) if lengths.allows(n)]
        self.lengths = sorted({n for n in fits if longest is None or n <= longest} | {t})
        # Each video is the beginning of the next longer one.
        self.longest = self.video(self.lengths[-1], salt=2)
        self._redraw()

    def _redraw(self) -> None:
        self._answers: dict[int, Any] = {}
        norms = [m for m in self.model.modules() if isinstance(m, NormBase)]
        fitted = {id(buffer) for norm in norms for buffer in norm.buffers()}
        # Those made under inference_mode count no writes, and can't be written outside of it.
        buffers = [b for b in self.model.buffers() if not b.is_inference()]
        before = [(b, written_count(b)) for b in buffers if id(b) not in fitted]
        try:
            redraw_zeros(self.model, self.seed)
            # Norms are fitted to what arrives at each before it runs: its answer is the model's.
            generator = torch.Generator().manual_seed(0)
            seeded(lambda: redraw_norms(self.model, generator, self._answer_longest, FLOOR))
        except Exception as reason:
            raise Unfit(_fails(reason)) from reason
        if any(written_count(b) != version for b, version in before):
            self._answers.clear()  # it keeps something for the next call
        self._training = any(m.training for m in self.model.modules())
        self._kept = [(b, written_count(b), b.clone()) for b in buffers]

    def _answer_longest(self) -> None:
        """Run the model on the longest video that it takes: on frames beside those that norms are
        fitted to it may round a hundred times as much."""
        for n in sorted({self.length, self.length if self.pooled else self.lengths[-1]})[::-1]:
            try:
                self._answers[n] = self.plain(self.first(n))
                return
            except Exception:
                if n == self.length:
                    raise

    def alone(self, run: Callable[[], Any], seed: int = 0) -> Any:
        """What a run gives that finds the model as if there had been none before: the same buffers,
        which a warm-up writes, and the same random numbers."""
        for number, (buffer, version, value) in enumerate(self._kept):
            # In train mode norms write their statistics without a count.
            if self._training or written_count(buffer) != version:
                with torch.no_grad():
                    buffer.copy_(value)
                self._kept[number] = (buffer, written_count(buffer), value)
        return seeded(run, seed)

    def leaves_otherwise(self, prog: Progressive, video: Video) -> tuple[float, str] | None:
        """How far the buffers are off that a call of the program leaves in train mode
        (statistics of norms, counters), and in words; None where they are the model's."""
        if not self._training:
            return None
        names = {id(b): name for name, b in self.model.named_buffers()}
        found: list[dict[str, Tensor]] = []
        for run in (partial(self.plain, video), partial(self.full, prog, video)):
            self.alone(run)
            found.append({names[id(b)]: b.clone() for b, *_ in self._kept})
        model, own = found
        gaps = {name: error(own[name], model[name]) for name in model if model[name].numel()}
        worst = max(gaps, key=lambda name: gaps[name], default="")
        if not worst or gaps[worst] <= self.bound:
            return None
        return gaps[worst], f"leaves another {worst} in train mode, by {gaps[worst]:.0e}"

    @cached_property
    def answer(self) -> Any:
        """The model's own answer to a clip.

        Raises:
            Unfit: when it has none.
        """
        try:
            return self.answered(self.length)
        except Exception as reason:
            raise Unfit(_fails(reason)) from reason

    def answered(self, frames: int) -> Any:
        """The model's own answer to the first frames of the video."""
        if frames not in self._answers:
            return self.alone(partial(self.plain, self.first(frames)))
        return self._answers[frames]

    def first(self, frames: int) -> Video:
        """The first frames of the video. A copy: some models write into the clip they are given."""
        whole = [x.clone() if isinstance(x, Tensor) else x for x in self.longest]
        return self.cut(whole, [frames])[0]

    def single(self, frames: int) -> Video:
        """Another video, as a batch of one."""
        rows, self.rows = self.rows, 1
        try:
            return self.video(frames, salt=3)
        finally:
            self.rows = rows

    @cached_property
    def programs(self) -> list[Progressive]:
        """The program, and under ``future="zero"`` the waiting one of the same graph."""
        if self.prog.options.future == "wait":
            return [self.prog]
        exact = Changes(operator="mco", future="wait", pooling="running", strict=False)
        try:
            waiting = self.prog.replace(**exact)
        except PgtError:
            return [self.prog]
        return [self.prog, waiting] if all_exact(waiting) else [self.prog]


def longest_of(clip: int) -> int:
    """Frames of the longest video: two clips and three."""
    return 2 * clip + 3


def _shared(prog: Progressive) -> dict[int, Any]:
    """What a copy has in common with its original, for :func:`copy.deepcopy`: the parameters that
    nothing writes, which are nearly all of a model's memory."""
    captured, model = prog.inspect.captured, prog.inspect.model
    writers = [node for node in captured.graph.nodes if written_by(node)]
    if writers:
        aliases = Aliases(captured.graph)
        roots = {aliases.root(target).name for node in writers for target in written_by(node)}
        named = dict(model.named_parameters(remove_duplicate=False))
        if any(captured.tensors.get(name) in named for name in roots):
            return {}
    written = redrawn(model)
    return {id(p): p for p in model.parameters() if id(p) not in written}


def _fails(reason: Exception) -> str:
    kind = f"{type(reason).__name__}: {first_line(reason)}"
    return f"the model itself fails on random videos: {kind}"


def all_exact(prog: Progressive) -> bool:
    """Whether all outputs are claimed to be the model's."""
    return bool(prog.inspect.all_exact)
