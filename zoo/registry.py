"""The list of backbones, and building them and their clips."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .features import dense_features
from .norms import redraw_norms as _redraw_norms

# Every model here with a fixed spatial pool at its head divides height and width by this.
_SPATIAL_STRIDE = 32

_LOADERS = {"torchvision": "torchvision_video", "pytorchvideo": "pytorchvideo_hub"}


class UnknownModelError(KeyError):
    """No backbone of that name; the message lists the nearest names."""

    def __str__(self) -> str:  # KeyError would print the repr of the message
        return str(self.args[0])


class MissingPackageError(ImportError):
    """The package that builds this backbone is not installed."""


@dataclass(frozen=True)
class Entry:
    """What is known of a backbone without building it.

    Attributes:
        name: the name in this zoo and in its source.
        source: the package that builds it.
        clip: frames of one clip, one number per path.
        space: height and width of one clip, in pixels.
        channels: channels of the input.
        fixed_pool: whether the head pools a window of fixed height and width, so that the
            space is part of how the model is built.
        description: one line.
    """

    name: str
    source: str
    clip: tuple[int, ...]
    space: int
    fixed_pool: bool
    description: str
    channels: int = 3


_ENTRIES = {
    entry.name: entry
    for entry in (
        Entry("r3d_18", "torchvision", (16,), 112, False, "ResNet-18, 3x3x3 convolutions"),
        Entry("mc3_18", "torchvision", (16,), 112, False, "ResNet-18, 3D stem, 2D later stages"),
        Entry("r2plus1d_18", "torchvision", (16,), 112, False, "ResNet-18, (2+1)D convolutions"),
        # Trained at 128 frames; 16 is the shortest clip its temporal stride of 8 divides and
        # its head's pool over 2 elements takes.
        Entry("s3d", "torchvision", (16,), 224, True, "separable inception, temporal stride 8"),
        Entry("slow_r50", "pytorchvideo", (8,), 224, True, "SlowFast's slow path, ResNet-50"),
        Entry("c2d_r50", "pytorchvideo", (8,), 224, True, "2D ResNet-50, one temporal max pool"),
        Entry("i3d_r50", "pytorchvideo", (8,), 224, True, "inflated ResNet-50"),
        Entry("r2plus1d_r50", "pytorchvideo", (16,), 224, True, "(2+1)D ResNet-50, softmax"),
        Entry("csn_r101", "pytorchvideo", (32,), 224, True, "channel-separated ResNet-101"),
        Entry("slowfast_r50", "pytorchvideo", (8, 32), 224, True, "two paths, alpha 4"),
        Entry("x3d_xs", "pytorchvideo", (4,), 160, True, "X3D extra small, squeeze-excitation"),
        Entry("x3d_s", "pytorchvideo", (13,), 160, True, "X3D small, squeeze-excitation"),
        Entry("x3d_m", "pytorchvideo", (16,), 224, True, "X3D medium, squeeze-excitation"),
    )
}


def names() -> list[str]:
    """The names of all backbones, sorted."""
    return sorted(_ENTRIES)


def get(name: str) -> Entry:
    """What is known of the backbone ``name``; :class:`UnknownModelError` if there is none."""
    try:
        return _ENTRIES[name]
    except KeyError:
        near = difflib.get_close_matches(name, _ENTRIES, n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(names())}"
        raise UnknownModelError(f"no backbone {name!r} in the zoo; {hint}") from None


def build(
    name: str,
    *,
    space: int | None = None,
    seed: int = 0,
    redraw_norms: bool = False,
    pretrained: bool = False,
) -> nn.Module:
    """Build a backbone in eval mode, float32, on the CPU.

    Args:
        name: one of :func:`names`.
        space: height and width the model will be fed, in pixels; None: ``get(name).space``.
            Where the head pools a fixed window (``Entry.fixed_pool``) its height and width
            are set to match, and the space must be a multiple of 32.
        seed: of the random weights; the global random state is left as it was.
        redraw_norms: give every norm layer a generic weight, bias and statistics, fitted to
            random clips: see :func:`pgt_fx.zoo.redraw_norms`.
        pretrained: download the weights that the source offers, instead of random ones.

    Raises:
        UnknownModelError: no such name.
        MissingPackageError: torchvision or pytorchvideo is not installed.
        ValueError: a space that the model can't have, or ``pretrained`` with ``redraw_norms``.
    """
    entry = get(name)
    if pretrained and redraw_norms:
        raise ValueError("pretrained=True with redraw_norms=True would spoil the weights it loads")
    size = _space(entry, space)
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed: it would also seed the accelerators, which are not put back.
        torch.default_generator.manual_seed(seed)
        model = _loader(entry)(name, pretrained)
    if entry.fixed_pool and space is not None:
        _fit_head_pools(model, size)
    model.eval()
    if redraw_norms:
        generator = torch.Generator().manual_seed(seed)
        # At a small space the last stages hold a handful of elements per clip, too few for a
        # variance; at a large one a single clip has plenty, and four would be slow.
        batch = 4 if size <= 128 else 1
        example = clip(name, space=size, batch=batch, generator=generator)
        _redraw_norms(model, generator, example)
    return model


def clip(
    name: str,
    *,
    space: int | None = None,
    frames: int | Sequence[int] | None = None,
    batch: int = 1,
    dtype: torch.dtype = torch.float32,
    generator: torch.Generator | None = None,
) -> Tensor | list[Tensor]:
    """A random clip (standard normal) as the model takes it.

    Args:
        name: one of :func:`names`.
        space: height and width in pixels; None: ``get(name).space``.
        frames: None: the model's own clip; a number: the frames of the path with the most,
            the other paths in proportion; or one number per path.
        batch: clips in the batch.
        dtype: of the tensors.
        generator: a CPU generator; None draws from the global one.

    Returns:
        A tensor (batch, 3, frames, space, space); for a model of two paths a new list
        ``[slow, fast]`` of them.  The frames of the slow path are every alpha-th frame of the
        fast one.
    """
    entry = get(name)
    size = _space(entry, space)
    lengths = _lengths(entry, frames)
    shape = (batch, entry.channels, max(lengths), size, size)
    video = torch.randn(shape, dtype=dtype, generator=generator)
    if len(lengths) == 1:
        return video
    paths = []
    for length in lengths:
        if max(lengths) % length:
            # Lengths that are no multiple of each other are the caller's own cuts.
            paths.append(video[:, :, :length].clone())
        else:
            paths.append(video[:, :, :: max(lengths) // length].clone())
    return paths


def features(name: str, model: nn.Module | None = None, **options: Any) -> nn.Module:
    """Stem and stages of a backbone: its output has a time axis, dim 2.

    Args:
        name: one of :func:`names`.
        model: a model that :func:`build` returned, whose weights are then shared; None builds
            one with ``options``, which are those of :func:`build`.

    Returns:
        A module in the mode of the model.  For slowfast_r50 it returns the list
        ``[slow, fast]``; for x3d it ends before the first squeeze-excitation.
    """
    get(name)
    if model is not None and options:
        raise TypeError(f"{', '.join(options)}: options of a model that is already built")
    return dense_features(build(name, **options) if model is None else model)


def _loader(entry: Entry) -> Callable[[str, bool], nn.Module]:
    module = importlib.import_module(f".{_LOADERS[entry.source]}", __package__)

    def load(name: str, pretrained: bool) -> nn.Module:
        try:
            model: nn.Module = module.load(name, pretrained)
        except ModuleNotFoundError as error:
            raise MissingPackageError(
                f"{name} is built by {entry.source}, and the package {error.name!r} is not "
                "installed: pip install 'pgt_fx[zoo]'"
            ) from error
        return model

    return load


def _space(entry: Entry, space: int | None) -> int:
    if space is None:
        return entry.space
    if space < 1 or (entry.fixed_pool and space % _SPATIAL_STRIDE):
        rule = f"a positive multiple of {_SPATIAL_STRIDE}" if entry.fixed_pool else "positive"
        raise ValueError(f"space={space}: for {entry.name} it must be {rule}")
    return space


def _lengths(entry: Entry, frames: int | Sequence[int] | None) -> tuple[int, ...]:
    if frames is None:
        return entry.clip
    if isinstance(frames, int):
        longest = max(entry.clip)
        alphas = [longest // length for length in entry.clip]
        if frames < 1 or any(frames % alpha for alpha in alphas):
            rule = f"a positive multiple of {max(alphas)}"
            raise ValueError(f"frames={frames}: for {entry.name} it must be {rule}")
        return tuple(frames // alpha for alpha in alphas)
    lengths = tuple(frames)
    if len(lengths) != len(entry.clip) or min(lengths) < 1:
        raise ValueError(f"frames={lengths}: {entry.name} takes {len(entry.clip)} path(s)")
    return lengths


def _fit_head_pools(model: nn.Module, space: int) -> None:
    """Set height and width of the head's pool to what is left of ``space`` there.

    The hub functions of pytorchvideo pass a head pool of their own to the builder, so that
    giving one as well is a TypeError.  In these models every AvgPool3d belongs to the head and
    has no weights: setting its kernel is the same as building it with that kernel.
    """
    left = space // _SPATIAL_STRIDE
    for module in model.modules():
        if isinstance(module, nn.AvgPool3d):
            kernel = module.kernel_size
            time = kernel if isinstance(kernel, int) else kernel[0]
            module.kernel_size = (time, left, left)
