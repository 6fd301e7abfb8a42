"""Receptive fields: theoretical, from the analysis, and effective, from gradients.

The effective temporal receptive field of an output frame is how the magnitude of its gradient
spreads over the frames of the video (PGT paper, Fig. 5), averaged over random inputs as by Luo et
al. 2016 (arXiv 1701.04128, section 4). They differentiate one unit at the centre; here it is a
random ±1 combination of all numbers of the output frame, or of those at its centre: with random
signs the gradients of many units don't cancel in the same way in every video.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from pgt_fx.compiler.selfcheck.measure import leaves
from pgt_fx.compiler.selfcheck.redraw import redraw_norms
from pgt_fx.core.clip import resized
from pgt_fx.core.errors import ClipError, OptionError
from pgt_fx.core.schedule import Schedule
from pgt_fx.core.torch_private import pytree
from pgt_fx.erf.result import CURVES, Curve, Receptive
from pgt_fx.erf.target import Feed, Target
from pgt_fx.runtime.progressive import Progressive

__all__ = ["Curve", "Position", "Receptive", "measure"]

Position = Literal["all", "centre"]


def measure(
    prog: Progressive,
    *,
    steps: int = 5,
    length: int | None = None,
    inputs: int = 8,
    seed: int = 0,
    output: int | None = None,
    position: Position = "all",
    redraw: bool = True,
    progress: Callable[[str, int, int], object] | None = None,
) -> Receptive:
    """Receptive field of one output frame: original on a clip, on the whole video, progressive.

    Works on a copy, in eval mode. Of several tensors that the model returns the first is measured;
    of a model whose answer is pooled over time, the last step's answer.

    Args:
        prog: under ``future="zero"`` or ``"wait"``, with any operator.
        steps: P, at least two.
        length: T', frames of a step in the path with the fewest; None: the example's.
        inputs: random videos (standard normal) to average over.
        seed: of videos, signs and redrawn norms.
        output: which output frame, counted over the video; None: the one whose own frame is
            nearest to the middle of the last step.
        position: "all" numbers of the output frame, or those at its spatial "centre".
        redraw: give norm layers generic weights first: as built, many backbones have residual
            branches of weight zero. False for trained weights.
        progress: called before each gradient with what it is of, its number and how many.

    Raises:
        OptionError: for a figure that makes no sense, or an output frame that isn't there.
        ClipError: for steps too short to give an output frame, and where there is no gradient.
    """
    if not isinstance(prog, Progressive):
        raise OptionError(
            f"prog: expected a progressive model (pgt_fx.transform(model)), got {prog!r}"
        )
    _check(steps, length, inputs, position)
    copied = copy.deepcopy(prog).eval().requires_grad_(False)
    schedule = Schedule(length or max(2, min(copied.inspect.clip.lengths)), steps)
    videos = _Videos(copied, seed)
    target = Target(copied, schedule, output)
    redrawn = 0
    if redraw:
        clip = videos.draw(schedule.length, batch=2, salt=0)
        generator = torch.Generator().manual_seed(seed)
        model = copied.inspect.model.eval()
        redrawn = redraw_norms(model, generator, lambda: videos.call(model, clip))
    gradients = _Gradients(target, videos, position)
    sums = {kind: [[0.0] * (schedule.frames * r) for r in target.ratio] for kind in CURVES}
    total = inputs * len(CURVES)
    for number in range(total):
        video, kind = number // len(CURVES), list(CURVES)[number % len(CURVES)]
        if progress is not None:
            progress(f"video {video + 1}: {CURVES[kind]}", number, total)
        found = gradients.of(kind, video)
        sums[kind] = [_added(a, b) for a, b in zip(sums[kind], found, strict=True)]
    for kind, masses in sums.items():
        if not any(any(mass) for mass in masses):
            raise ClipError(f"{CURVES[kind]}: the output's gradient is zero for every frame")
    return target.found(sums, inputs, redrawn)


def _check(steps: int, length: int | None, inputs: int, position: str) -> None:
    for name, value, least in (
        ("steps", steps, 2),
        ("length", 2 if length is None else length, 2),
        ("inputs", inputs, 1),
    ):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise OptionError(f"{name}: expected a whole number of at least {least}, got {value!r}")
    if position not in ("all", "centre"):
        raise OptionError(f"position: expected 'all' or 'centre', got {position!r}")


def _added(a: list[float], b: list[float]) -> list[float]:
    return [x + y for x, y in zip(a, b, strict=True)]


class _Videos:
    """Random videos like the example, as leaves of a clip."""

    def __init__(self, prog: Progressive, seed: int) -> None:
        self.spec, self.seed = prog.inspect.clip, seed
        self._leaves = prog.inspect.example
        self._rows = prog.inspect.captured.rows
        weights = next((p for p in prog.parameters() if p.is_floating_point()), None)
        self._device = torch.device("cpu") if weights is None else weights.device
        self._dtype = None if weights is None else weights.dtype
        for path, leaf in enumerate(self.spec.paths):
            dtype = self._leaves[leaf].dtype
            if not dtype.is_floating_point:
                raise ClipError(f"input {path} is {dtype}: no gradient with respect to its frames")

    def draw(self, frames: int, *, batch: int = 1, salt: int = 0) -> list[Any]:
        """``frames`` frames, in the path with the fewest, of standard normal noise."""
        generator = torch.Generator().manual_seed(self.seed * 100_003 + salt)
        batch = self._rows or batch
        out = resized(self.spec, self._leaves, batch=batch, time=lambda n: n, space=lambda n: n)
        out = [x.to(self._device) if isinstance(x, Tensor) and not x.is_meta else x for x in out]
        for leaf, r in zip(self.spec.paths, self.spec.ratio, strict=True):
            shape = list(out[leaf].shape)
            shape[self.spec.times[leaf] or 0] = frames * r
            noise = torch.randn(shape, generator=generator, dtype=torch.float64, device="cpu")
            out[leaf] = noise.to(self._device, self._dtype or out[leaf].dtype)
        return out

    def call(self, function: Callable[..., Any], video: list[Any]) -> Any:
        """``function`` of a video given by leaves."""
        args, kwargs = pytree.tree_unflatten(video, self.spec.spec)
        return function(*args, **kwargs)

    def cut(self, video: list[Any], first: int, end: int) -> list[Any]:
        """Views of frames ``first`` to ``end``, counted in the path with the fewest."""
        out = list(video)
        for leaf, r in zip(self.spec.paths, self.spec.ratio, strict=True):
            out[leaf] = out[leaf].narrow(self.spec.times[leaf] or 0, first * r, (end - first) * r)
        return out


class _Gradients:
    """Magnitudes of one output frame's gradient, per frame of the video."""

    def __init__(self, target: Target, videos: _Videos, position: str) -> None:
        self.target, self.videos, self.position = target, videos, position
        self.prog = target.prog

    @torch.enable_grad()
    def of(self, kind: str, number: int) -> list[list[float]]:
        """Per input path and frame the sum of |gradient| over all else, of one random video."""
        spec, feed = self.videos.spec, self.target.feeds[kind]
        video = self.videos.draw(self.target.schedule.frames, salt=number + 1)
        frames = [video[leaf].requires_grad_() for leaf in spec.paths]
        out = self._progressive(video) if kind == "progressive" else self._whole(video, feed)
        unit = self._combined(self._frame(out, feed.local), number)
        found = torch.autograd.grad(unit, frames, allow_unused=True)
        return [
            self._per_frame(torch.zeros_like(x) if g is None else g, spec.times[leaf] or 0)
            for x, g, leaf in zip(frames, found, spec.paths, strict=True)
        ]

    def _per_frame(self, gradient: Tensor, time: int) -> list[float]:
        mass: Tensor = gradient.double().abs().movedim(time, 0).flatten(1).sum(1)
        if not bool(mass.isfinite().all()):
            raise ClipError("the gradient is not finite")
        return mass.tolist()

    def _whole(self, video: list[Any], feed: Feed) -> Any:
        """What one step over all of these frames answers: the original model."""
        return self.videos.call(self.prog.full, self.videos.cut(video, feed.start, feed.end))

    def _progressive(self, video: list[Any]) -> Any:
        """The answer of the step that gives the output; the states before it keep their graph."""
        target, state, out = self.target, self.prog.init_state(), None
        for p in range(target.answers + 1):
            last = p == len(target.chunks) - 1
            step = functools.partial(self.prog.step, state, last=last, detach=False)
            piece = self.videos.cut(video, target.cuts[p], target.cuts[p + 1])
            out, state = self.videos.call(step, piece)
        return out

    def _frame(self, out: Any, index: int | None) -> Tensor:
        """The output frame, or the whole answer where it is pooled over time."""
        tensor = leaves(out)[self.target.number] if out is not None else None
        if tensor is None:
            raise ClipError("the step gives no answer")
        if not tensor.requires_grad:
            raise ClipError(f"the output ({tensor.dtype}) can't be differentiated by the video")
        time = self.prog.time_dims[self.target.number]
        return tensor if index is None or time is None else tensor.select(time, index)

    def _combined(self, frame: Tensor, number: int) -> Tensor:
        """A random ±1 combination of the frame's numbers, the same for all curves of a video."""
        if self.position == "centre":
            if frame.dim() != 4:
                raise OptionError(
                    "position: 'centre' is for outputs (N, C, T, H, W) or (N, T, C, H, W); the "
                    f"output frame is {tuple(frame.shape)}"
                )
            frame = frame[..., frame.shape[-2] // 2, frame.shape[-1] // 2]
        generator = torch.Generator().manual_seed(self.videos.seed * 100_003 + number)
        signs = torch.randint(0, 2, frame.shape, generator=generator, device="cpu") * 2 - 1
        return (frame * signs.to(frame)).sum()
