"""Clips as the models take them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pgt_fx.core.errors import OptionError

from .entry import Entry

#: A tensor, one for each path of a model with several, or either beside the boxes of a detection
#: model.
Clip = Tensor | list[Tensor] | tuple[Tensor | list[Tensor], Tensor]

# Every model here that is built for one height and width divides them by this.
SPATIAL_STRIDE = 32


def space_of(entry: Entry, space: int | None) -> int:
    """Height and width asked for, in pixels; the entry's own for None.

    Raises:
        OptionError: a space that the model can't have.
    """
    if space is None or space == entry.space:
        return entry.space
    if entry.fixed_space:
        raise OptionError(
            f"space={space}: {entry.source} builds {entry.name} for {entry.space} pixels only"
        )
    if space < 1 or (entry.fixed_pool and space % SPATIAL_STRIDE):
        rule = f"a positive multiple of {SPATIAL_STRIDE}" if entry.fixed_pool else "positive"
        raise OptionError(f"space={space}: for {entry.name} it must be {rule}")
    return space


def make_clip(
    entry: Entry,
    size: int,
    frames: int | Sequence[int] | None,
    batch: int,
    dtype: torch.dtype,
    generator: torch.Generator | None,
    device: torch.device | str | None = None,
) -> Clip:
    """A random clip; see :func:`pgt_fx.zoo.clip`."""
    lengths = _lengths(entry, frames)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, dtype=dtype, generator=generator, device=device)

    sound = draw(batch, 1, lengths[-1], 1, entry.audio) if entry.audio else None
    paths = _paths(lengths[:-1] if entry.audio else lengths, batch, entry.channels, size, draw)
    if sound is not None:
        paths.append(sound)
    video = paths[0] if len(paths) == 1 else paths
    return (video, _boxes(entry.boxes, batch, size, draw)) if entry.boxes else video


def _paths(
    lengths: tuple[int, ...], batch: int, channels: int, size: int, draw: Any
) -> list[Tensor]:
    video = draw(batch, channels, max(lengths), size, size)
    if len(lengths) == 1:
        return [video]
    paths = []
    for length in lengths:
        if max(lengths) % length:
            # Lengths that are no multiple of each other are the caller's own cuts.
            paths.append(video[:, :, :length].clone())
        else:
            paths.append(video[:, :, :: max(lengths) // length].clone())
    return paths


def _boxes(count: int, batch: int, size: int, draw: Any) -> Tensor:
    """(batch * count, 5): row of the batch, x1, y1, x2, y2 in pixels, at least a quarter wide."""
    corner = draw(batch * count, 2).sigmoid() * size / 2
    far = corner + size / 4 + draw(batch * count, 2).sigmoid() * size / 4
    row = torch.arange(batch, device=corner.device, dtype=corner.dtype).repeat_interleave(count)
    return torch.cat([row[:, None], corner, far], dim=1)


def _lengths(entry: Entry, frames: int | Sequence[int] | None) -> tuple[int, ...]:
    if frames is None:
        return entry.clip
    if isinstance(frames, int):
        shortest, longest = min(entry.clip), max(entry.clip)
        if entry.audio:
            longest = max(entry.clip[:-1])
        alpha = longest // shortest
        if frames < 1 or frames % alpha:
            raise OptionError(
                f"frames={frames}: for {entry.name} it must be a positive multiple of {alpha}"
            )
        lengths = tuple(frames // alpha * length // shortest for length in entry.clip)
    else:
        lengths = tuple(frames)
        if len(lengths) != len(entry.clip) or min(lengths) < 1:
            raise OptionError(f"frames={lengths}: {entry.name} takes {len(entry.clip)} path(s)")
    if entry.fixed_frames and lengths != entry.clip:
        raise OptionError(
            f"frames={frames}: {entry.name} has a table of positions for {entry.clip[0]} frames "
            "and takes no other number"
        )
    return lengths
