"""The list of backbones, and building them and their clips."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import TypedDict, Unpack

import torch
from torch import nn

from pgt_fx.core.errors import OptionError

from . import (
    pytorchvideo_builders,
    pytorchvideo_hub,
    timm_frame_wise,
    torchvision_video,
    video_vaes,
    written_here,
)
from .clips import Clip, make_clip, space_of
from .entry import Entry, MissingPackageError, UnknownModelError
from .features import dense_features
from .norms import redraw_norms as _redraw_norms

_SOURCES = (
    torchvision_video,
    video_vaes,
    pytorchvideo_hub,
    pytorchvideo_builders,
    timm_frame_wise,
    written_here,
)
_ENTRIES = {entry.name: (entry, source.load) for source in _SOURCES for entry in source.ENTRIES}


def names(family: str | None = None) -> list[str]:
    """The names of all backbones, or of one family, sorted."""
    return sorted(n for n, (entry, _) in _ENTRIES.items() if family in (None, entry.family))


def get(name: str) -> Entry:
    """What is known of the backbone ``name``; :class:`UnknownModelError` if there is none."""
    try:
        return _ENTRIES[name][0]
    except KeyError:
        near = difflib.get_close_matches(name, _ENTRIES, n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        raise UnknownModelError(
            f"no backbone {name!r} in the zoo; {hint}pgt-fx zoo lists them, as does "
            "pgt_fx.zoo.names()"
        ) from None


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
            A model with ``Entry.fixed_pool`` is built for it, and it must be a multiple of 32.
        seed: of the random weights; the global random state is left as it was.
        redraw_norms: give every norm layer a generic weight, bias and statistics, fitted to
            random clips: see :func:`pgt_fx.zoo.redraw_norms`.
        pretrained: download the weights that the source offers, instead of random ones.

    Raises:
        UnknownModelError: no such name.
        MissingPackageError: torchvision or pytorchvideo is not installed.
        OptionError: a space that the model can't have, weights that its source does not offer,
            or ``pretrained`` with ``redraw_norms``.
    """
    entry = get(name)
    if pretrained and redraw_norms:
        raise OptionError("pretrained=True with redraw_norms=True would spoil the weights it loads")
    size = space_of(entry, space)
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed: it would also seed the accelerators, which are not put back.
        torch.default_generator.manual_seed(seed)
        model = _load(entry, size, pretrained)
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
) -> Clip:
    """A random clip (standard normal) as the model takes it.

    Args:
        name: one of :func:`names`.
        space: height and width in pixels; None: ``get(name).space``.
        frames: None: the model's own clip; a number: the frames of the video path with the
            most, the other paths in proportion; or one number per path.
        batch: clips in the batch.
        dtype: of the tensors.
        generator: a CPU generator; None draws from the global one.

    Returns:
        A tensor (batch, 3, frames, space, space); for a model of two paths a new list
        ``[slow, fast]`` of them, where the frames of the slow path are every alpha-th frame of
        the fast one. With audio the list ends with a spectrogram (batch, 1, columns, 1,
        ``Entry.audio``). For a detection model the pair of these and of boxes (batch *
        ``Entry.boxes``, 5): row of the batch, x1, y1, x2, y2 in pixels.

    Raises:
        OptionError: a space, or a number of frames, that the model can't have.
    """
    entry = get(name)
    return make_clip(entry, space_of(entry, space), frames, batch, dtype, generator)


class Built(TypedDict, total=False):
    """Arguments of :func:`build` beside the name."""

    space: int | None
    seed: int
    redraw_norms: bool
    pretrained: bool


def features(name: str, model: nn.Module | None = None, **options: Unpack[Built]) -> nn.Module:
    """Stem and stages of a backbone: its output has a time axis, dim 2.

    Args:
        name: one of :func:`names`.
        model: a model that :func:`build` returned, whose weights are then shared; None builds
            one with ``options``, which are those of :func:`build`.

    Returns:
        A module in the mode of the model.  For models of two paths it returns the list
        ``[slow, fast]``; for x3d and efficient_x3d it ends before the first squeeze-excitation.
        It takes the video of a detection model without its boxes. Half of a video autoencoder
        is dense in time as it is.

    Raises:
        FeaturesError: for transformers, of which no part is known to be dense in time.
    """
    entry = get(name)
    if model is not None and options:
        raise TypeError(f"{', '.join(options)}: options of a model that is already built")
    whole = build(name, **options) if model is None else model
    return whole if entry.family == "VAE" else dense_features(whole)


def _load(entry: Entry, size: int, pretrained: bool) -> nn.Module:
    try:
        return _ENTRIES[entry.name][1](entry, size, pretrained)
    except ModuleNotFoundError as error:
        raise MissingPackageError(
            f"{entry.name} is built by {entry.source}, and the package {error.name!r} is not "
            "installed: pip install 'pgt_fx[zoo]'"
        ) from error
