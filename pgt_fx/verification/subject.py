"""What is measured: copies of the model and of its progressive form, and videos to feed them."""

from __future__ import annotations

import copy
import random
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from pgt_fx.capture.inputs import as_call, resized
from pgt_fx.errors import ClipError, VerificationError
from pgt_fx.progressive import Progressive
from pgt_fx.verification.measure import leaves, time_dims
from pgt_fx.verification.redraw import redraw_norms

#: Greatest relative error that passes for rounding, and what is certainly more than rounding.
BOUNDS = {torch.float64: (1e-9, 1e-13), torch.float32: (1e-4, 1e-6)}
OTHER_BOUNDS = (5e-2, 1e-2)

Video = list[Any]  # leaves of a clip, as the spec numbers them


class Subject:
    """One model under measurement, in eval mode.

    Attributes:
        model: a copy of the user's module.
        answering: its progressive form that answers at once (``future="zero"``).
        waiting: the one that waits until it is exact (``future="wait"``, ``pooling="running"``).
        length: T', frames of the example in the path with the fewest.
        frames: frames of the videos, in that path.
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
        self.seed, self.redrawn = seed, 0
        self.spec = prog._source.spec
        self.length = min(self.spec.lengths)
        self._leaves = prog._source.leaves
        self._device = next((p.device for p in prog.parameters()), torch.device("cpu"))
        self.given = None if video is None else self._read(video)
        self.frames = self._frames(frames)
        self.note = ""
        self._copies(prog, dtype, redraw)
        # From here on it is the progressive model that may fail; contract.py makes checks of that.

    def prepare(self) -> None:
        """What all checks need of the progressive model: its answer to the whole video."""
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
        taken = copy.deepcopy(prog).eval().to(dtype)
        self.model = taken._source.model.eval()
        # Some models write into the clip they are given: a copy each time.
        if redraw:
            clip = self.video(self.length, batch=2, salt=11)
            generator = torch.Generator().manual_seed(self.seed)
            self.redrawn = redraw_norms(self.model, generator, lambda: self.plain(clip))
        self.clip = self.video(self.length, salt=1)
        self.clip_output = self.plain(self.clip)
        self.answering = taken.replace(future="zero", strict=False).eval()
        exact = {"operator": "mco", "future": "wait", "pooling": "running"}
        self.waiting = taken.replace(**exact, strict=False).eval()
        self.main = self.video(self.frames, salt=2)
        self.reference, self.refusal = self._reference()

    def _unfit(self, prog: Progressive, error: Exception) -> VerificationError:
        return VerificationError(
            f"{type(prog._source.model).__name__}: the model itself fails on a clip like the "
            f"example: {type(error).__name__}: {first_line(error)}"
        )

    def _frames(self, wanted: int | None) -> int:
        if self.given is not None:
            there = self.count(self.given)
            if wanted is not None and wanted > there:
                raise ClipError(f"frames={wanted}: the video given has {there}")
            return wanted or there
        if wanted is None:
            t = self.length
            return max(6, 2 * t + 3 if t <= 16 else t + t // 2 + 3)
        if wanted < 3:
            raise ClipError(f"frames={wanted}: expected at least 3")
        return wanted

    def _read(self, video: Any) -> Video:
        return self.spec.flatten(*as_call(video))

    def _time_dims(self) -> list[int | None]:
        """Where time lies in the output: what differs between two lengths of video."""
        shorter = self.full(self.answering, self.clip)
        if self.frames >= 2 * self.length:
            return time_dims(shorter, self.whole)
        other = self.video(2 * self.length + 3, salt=3)
        return time_dims(shorter, self.full(self.answering, other))

    def _reference(self) -> tuple[Any, str]:
        """The model's own answer to the whole video, or the reason why it gives none."""
        try:
            return self.plain(self.main), ""
        except Exception as error:
            return None, f"{type(error).__name__}: {first_line(error)}"

    # -- videos --------------------------------------------------------------------------------

    @property
    def ratio(self) -> tuple[int, ...]:
        return self.spec.ratio

    def rng(self, salt: int) -> random.Random:
        return random.Random(self.seed * 1009 + salt)

    def count(self, video: Video) -> int:
        """Frames of a video in the path with the fewest."""
        return min(int(video[i].shape[self.spec.times[i] or 0]) for i in self.spec.paths)

    def video(self, frames: int, *, batch: int = 1, salt: int = 0) -> Video:
        """A video of standard normal noise, or the start of the video that was given."""
        enough = self.given is not None and self.count(self.given) >= frames
        if self.given is not None and enough and batch == 1 and salt == 2:
            return [self._cast(x) for x in self.cut(self.given, [frames])[0]]
        source = self._leaves
        scaled = iter(self.ratio)
        lengths = {i: frames * r for i, r in zip(self.spec.paths, scaled, strict=True)}
        out = resized(self.spec, source, batch=batch, time=lambda n: n, space=lambda n: n)
        generator = torch.Generator().manual_seed(self.seed * 1000 + salt)
        for i in self.spec.paths:
            shape = list(out[i].shape)
            shape[self.spec.times[i] or 0] = lengths[i]
            out[i] = self._noise(shape, source[i].dtype, generator)
        return [self._cast(x) for x in out]

    def _noise(self, shape: list[int], dtype: torch.dtype, generator: torch.Generator) -> Tensor:
        if dtype.is_floating_point:
            return torch.randn(shape, generator=generator, dtype=torch.float64)
        return torch.randint(0, 2, shape, generator=generator).to(dtype)

    def _cast(self, x: Any) -> Any:
        if not isinstance(x, Tensor):
            return x
        x = x.to(self._device)
        return x.to(self.dtype) if x.is_floating_point() else x

    def cut(self, video: Video, chunks: Sequence[int]) -> list[Video]:
        """Views of successive pieces; lengths are of the path with the fewest frames."""
        pieces, start = [], 0
        for n in chunks:
            piece = list(video)
            for i, r in zip(self.spec.paths, self.ratio, strict=True):
                piece[i] = video[i].narrow(self.spec.times[i] or 0, start * r, n * r)
            pieces.append(piece)
            start += n
        return pieces

    def joined(self, first: Video, second: Video, frames: int) -> Video:
        """``frames`` frames of one video, then the rest of another one."""
        out = list(first)
        for i, r in zip(self.spec.paths, self.ratio, strict=True):
            dim, n = self.spec.times[i] or 0, frames * r
            rest = second[i].narrow(dim, n, second[i].shape[dim] - n)
            out[i] = torch.cat([first[i].narrow(dim, 0, n), rest], dim)
        return out

    def shuffled(self, video: Video) -> Video:
        """The frames in another order, the same in proportion for every path."""
        order = list(range(self.count(video)))
        self.rng(5).shuffle(order)
        if order == sorted(order):
            order.reverse()
        out = list(video)
        for i, r in zip(self.spec.paths, self.ratio, strict=True):
            index = torch.tensor([n * r + k for n in order for k in range(r)])
            out[i] = video[i].index_select(self.spec.times[i] or 0, index.to(video[i].device))
        return out

    def args(self, video: Video) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Call arguments, in containers of their own."""
        return pytree.tree_unflatten(list(video), self.spec.spec)

    # -- calls ---------------------------------------------------------------------------------

    def plain(self, video: Video, model: nn.Module | None = None) -> Any:
        """The model's own answer (or another model's)."""
        args, kwargs = self.args([x.clone() if isinstance(x, Tensor) else x for x in video])
        with torch.no_grad():
            return (model or self.model)(*args, **kwargs)

    def full(self, prog: nn.Module, video: Video) -> Any:
        """The whole video in one step."""
        args, kwargs = self.args(video)
        with torch.no_grad():
            return prog.full(*args, **kwargs)  # type: ignore[operator]

    def feed(self, prog: nn.Module, piece: Video, last: bool) -> Any:
        """One step, as a user makes it."""
        args, kwargs = self.args(piece)
        return prog(*args, last=last, **kwargs)

    def run(self, prog: Any, video: Video, chunks: Sequence[int]) -> list[Any]:
        """All steps of a video, from a reset on; without gradient."""
        prog.reset()
        pieces = self.cut(video, chunks)
        with torch.no_grad():
            return [self.feed(prog, p, n == len(pieces) - 1) for n, p in enumerate(pieces)]

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
        norms = f"{self.redrawn} norm layers redrawn" if self.redrawn else "weights as they are"
        what = "the video given" if self.given is not None else "noise"
        return (
            f"{self.frames} frames of {what} ({size}), {short(self.dtype)}{self.note}, {norms}, "
            f"eval mode"
        )


def short(dtype: torch.dtype) -> str:
    """Name of a dtype without its module."""
    return str(dtype).removeprefix("torch.")


def first_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return text[0][:200] if text else ""


def count_tensors(output: Any) -> int:
    """Tensors that an output really has."""
    return sum(x is not None for x in leaves(output))
