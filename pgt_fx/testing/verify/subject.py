"""The subject of a verification: copies of the model and of its progressive form, and videos."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from pgt_fx.compiler.selfcheck.measure import leaves, time_dims
from pgt_fx.compiler.selfcheck.redraw import redraw_norms, redraw_zeros, redrawn_in_words
from pgt_fx.compiler.selfcheck.trials import BOUNDS, OTHER_BOUNDS, Trials
from pgt_fx.compiler.selfcheck.videos import device_of, first_line, short
from pgt_fx.core.counts import counted
from pgt_fx.core.errors import VerificationError
from pgt_fx.runtime.progressive import Progressive

#: Clips of a video, for a model whose step is a clip.
CLIPS = 3


class Subject(Trials):
    """One model under measurement, in eval mode.

    Attributes:
        model: a copy of the user's module as it is now.
        anew: the dtype is written in the captured graph, so that it is another one than the given
            program's.
        answering: its progressive form that answers at once (``future="zero"``).
        waiting: the one that waits until it is exact (``future="wait"``, ``pooling="running"``).
        length: T', frames of the example in the path with the fewest.
        frames: frames of the videos, in that path.
        longest: most frames of a step, None without a bound.
        dims: per tensor of the output its time dimension, as measured.
    """

    def __init__(
        self,
        prog: Progressive,
        dtype: torch.dtype,
        seed: int,
        redraw: bool,
        video: Any,
        frames: int | None,
    ) -> None:
        seen = prog.inspect
        self.longest = prog.report.longest_step
        leaves = seen.example
        allowed = prog.video_lengths
        device = device_of(prog)
        super().__init__(seen.clip, leaves, device, seed, dtype, video, frames, allowed)
        self.rows = prog.inspect.captured.rows
        whole = seen.captured.clip
        if whole is not None:
            self.clip_frames = min(whole.frames)
            self.frames = CLIPS * self.clip_frames
        elif self.longest is not None:
            self.frames = min(self.frames, self.longest)
        self.redrawn, self.zeros, self.note = 0, 0, ""
        self._copies(prog, dtype, redraw)
        # From here on it is the progressive model that may fail; contract.py makes checks of that.

    def prepare(self) -> None:
        """What all checks need of the progressive model: its answer to the whole video."""
        if self.clip_frames is not None:  # one step is one clip, and its answer is of all of it
            self.whole = self.full(self.answering, self.clip)
            none: list[int | None] = [None] * len(leaves(self.whole))
            self.dims = none
            return
        self.whole = self.full(self.answering, self.main)
        self.dims = self._time_dims()

    def _copies(self, prog: Progressive, dtype: torch.dtype, redraw: bool) -> None:
        try:
            self._take(prog, dtype, redraw)
        except Exception as error:
            own = next((p.dtype for p in prog.parameters() if p.is_floating_point()), dtype)
            if own == dtype:
                raise self._unfit(prog, error) from error
            self.note = f"; the model itself fails in {short(dtype)}"
            try:
                self._take(prog, own, redraw)
            except Exception as again:
                raise self._unfit(prog, again) from again

    def _take(self, prog: Progressive, dtype: torch.dtype, redraw: bool) -> None:
        self.dtype = dtype
        self.exact_bound, self.noise = BOUNDS.get(dtype, OTHER_BOUNDS)
        taken = copy.deepcopy(prog).eval()
        captured = taken.inspect.captured
        taken.to(dtype)
        self.anew = taken.inspect.captured is not captured
        self.model = taken.inspect.model
        # Some models write into the clip they are given: a copy each time.
        if redraw:
            clip = self.video(self.length, batch=2, salt=11)
            self.zeros = redraw_zeros(self.model, self.seed)
            generator = torch.Generator().manual_seed(self.seed)
            self.redrawn = redraw_norms(self.model, generator, lambda: self.plain(clip))
        # Not the one that the program runs: what that leaves in its buffers is no part of it.
        self.model = copy.deepcopy(self.model)
        self.clip = self.video(self.length, salt=1)
        self.clip_output = self.plain(self.clip)
        self.answering = _under(taken, future="zero")
        self.waiting = _under(taken, operator="mco", future="wait", pooling="running")
        self.main = self.video(self.frames, salt=2)
        self.reference, self.refusal = self._reference()

    def _unfit(self, prog: Progressive, error: Exception) -> VerificationError:
        return VerificationError(
            f"{type(prog.inspect.model).__name__}: the model itself fails on a clip like the "
            f"example: {type(error).__name__}: {first_line(error)}"
        )

    def _time_dims(self) -> list[int | None]:
        """Where time lies in the output: what differs between two lengths of video."""
        shorter = self.full(self.answering, self.clip)
        if self.frames >= 2 * self.length:
            return time_dims(shorter, self.whole)
        frames = self.allowed.near(2 * self.length + 3)
        if self.longest is not None and frames > self.longest:
            frames = max(1, self.length // 2)
        other = self.video(frames, salt=3)
        return time_dims(shorter, self.full(self.answering, other))

    def _reference(self) -> tuple[Any, str]:
        """The model's own answer to the whole video, or the reason why it gives none."""
        if self.clip_frames is not None:
            return None, "a step is a clip"
        try:
            return self.plain(self.main), ""
        except Exception as error:
            return None, f"{type(error).__name__}: {first_line(error)}"

    @property
    def dense(self) -> bool:
        """Whether the output has a time axis."""
        return any(d is not None for d in self.dims)

    def setting(self) -> str:
        """How it was measured, in words."""
        size = " and ".join(
            "×".join("T" if d == t else str(n) for d, n in enumerate(x.shape))
            for x, t in zip(self.main, self.spec.times, strict=True)
            if isinstance(x, Tensor) and t is not None
        )
        weights = redrawn_in_words(self.redrawn, self.zeros)
        what = "the video given" if self.given is not None else "noise"
        return (
            f"{counted(self.frames, 'frame')} of {what} ({size}), "
            f"{short(self.dtype)}{self.note}, {weights}, "
            f"eval mode"
        )


def _under(prog: Progressive, **changes: Any) -> Progressive:
    """Under other options. What was made of the given one is kept where these have no part in it:
    what is measured is that, and not what would be made today."""
    return prog.replace(**changes, strict=False)


def count_tensors(output: Any) -> int:
    """Tensors that an output really has."""
    return sum(x is not None for x in leaves(output))
