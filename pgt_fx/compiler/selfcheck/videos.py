"""Videos to measure on: noise or what the user gave, cut, joined, shuffled and cast."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pgt_fx.capture.guards.length_guard import Lengths
from pgt_fx.compiler.selfcheck.measure import random_chunks
from pgt_fx.core.clip import ClipSpec, as_call, resized
from pgt_fx.core.errors import ClipError, OptionError
from pgt_fx.core.torch_private import pytree

Video = list[Any]  # leaves of a clip, as the spec numbers them


class Videos:
    """Makes videos that a model takes.

    Attributes:
        length: T', frames of the example in the path with the fewest.
        frames: frames of the videos, in that path.
        given: the video that the user gave, or None.
        rows: videos in a batch, where the model takes no other number; else None.
        space: how large a side of a frame is, of one of the example's.
        clip_frames: frames of a step, where a step is a clip; else None.
    """

    def __init__(
        self,
        spec: ClipSpec,
        leaves: Sequence[Any],
        device: torch.device,
        seed: int,
        dtype: torch.dtype,
        video: Any = None,
        frames: int | None = None,
        allowed: Lengths = Lengths(),  # noqa: B008 (frozen)
    ) -> None:
        self.spec, self.seed, self.dtype = spec, seed, dtype
        self.allowed = allowed
        self.rows: int | None = None
        self.clip_frames: int | None = None
        self.space: Callable[[int], int] = lambda side: side
        self.length = min(spec.lengths)
        self._leaves, self._device = leaves, device
        self.given = None if video is None else self.spec.flatten(*as_call(video))
        self.frames = self._frames(frames)

    def _frames(self, wanted: int | None) -> int:
        if self.given is not None:
            there = self.count(self.given)
            if wanted is not None and wanted > there:
                raise ClipError(f"frames={wanted}: the video given has {there}")
            return wanted or there
        if wanted is None:
            t = self.length
            return self.allowed.near(max(6, 2 * t + 3 if t <= 16 else t + t // 2 + 3))
        if wanted < 3 or not self.allowed.allows(wanted):
            least = f"at least 3, and {self.allowed} as the model takes them"
            raise ClipError(f"frames={wanted}: expected {least}")
        return wanted

    def fitting(self, chunks: Sequence[int]) -> list[int]:
        """The chunks, the last one longer or shorter where the model takes videos of some lengths
        only, without those that would begin after the end of such a video."""
        if self.clip_frames is not None:
            return [self.clip_frames] * len(chunks)
        total = self.allowed.near(sum(chunks))
        first: list[int] = []
        for n in chunks[:-1]:
            if sum(first) + n >= total:
                break
            first.append(n)
        return [*first, total - sum(first)]

    def chunks(self, total: int, longest: int, rng: random.Random) -> list[int]:
        """Random lengths from 1 to ``longest`` that make up ``total``; whole clips where a step is
        a clip."""
        if self.clip_frames is not None:
            return [self.clip_frames] * (total // self.clip_frames)
        return random_chunks(total, longest, rng)

    def edges(self, most: int | None = None) -> tuple[list[int], list[int]]:
        """Lengths at which a rule ends: one frame, and both sides of the bounds of what lengths a
        video may have.

        Args:
            most: frames of a step, where it has a bound.

        Returns:
            a few that are allowed, and a few that are not.
        """
        allows, longest = self.allowed.allows, max(64, 3 * self.length)
        longest = longest if most is None else min(longest, most)
        turns = [n for n in range(2, longest + 1) if allows(n) != allows(n - 1)]
        near = sorted({1, *turns[:4], *(n - 1 for n in turns[:4])})
        return [n for n in near if allows(n)][:3], [n for n in near if not allows(n)][:3]

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
        batch = self.rows or batch
        out = resized(self.spec, source, batch=batch, time=lambda n: n, space=self.space)
        generator = torch.Generator().manual_seed(self.seed * 1000 + salt)
        for i in self.spec.paths:
            shape = list(out[i].shape)
            shape[self.spec.times[i] or 0] = lengths[i]
            out[i] = self._noise(shape, source[i].dtype, generator)
        return [self._cast(x) for x in out]

    def _noise(self, shape: list[int], dtype: torch.dtype, generator: torch.Generator) -> Tensor:
        if dtype.is_floating_point:
            return torch.randn(shape, generator=generator, dtype=torch.float64, device="cpu")
        return torch.randint(0, 2, shape, generator=generator, device="cpu").to(dtype)

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
            order_of_frames = [n * r + k for n in order for k in range(r)]
            index = torch.tensor(order_of_frames, device=video[i].device)
            out[i] = video[i].index_select(self.spec.times[i] or 0, index)
        return out

    def args(self, video: Video) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Call arguments, in containers of their own."""
        return pytree.tree_unflatten(list(video), self.spec.spec)


def device_of(model: nn.Module) -> torch.device:
    """Where a model's parameters are."""
    return next((p.device for p in model.parameters()), torch.device("cpu"))


def short(dtype: torch.dtype) -> str:
    """Name of a dtype without its module."""
    return str(dtype).removeprefix("torch.")


def measurable(dtype: object) -> torch.dtype:
    """``dtype``, where it is one to measure in.

    Raises:
        OptionError: where it is none, or not of floating-point numbers.
    """
    if isinstance(dtype, torch.dtype) and dtype.is_floating_point:
        return dtype
    raise OptionError(
        f"dtype: expected a floating-point torch.dtype, such as torch.float64, got {dtype!r}"
    )


def first_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return text[0][:200] if text else ""
