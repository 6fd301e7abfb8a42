"""Which axis of an example is time: the one along which the model takes another length.

A shape alone does not tell (N, C, T) from (N, T, C), nor latents of 8 channels and 3 frames from 8
frames of 3 channels. The model does, where its weights hold the other axis fixed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pgt_fx.capture.probe.meta_run import probe
from pgt_fx.core.clip import CHANNELS, ClipSpec
from pgt_fx.core.errors import ClipError

#: Channels of an axis that is certainly not time beside another number of frames.
COLOURS = (1, 3)


def ask_for_time(model: nn.Module, spec: ClipSpec, leaves: Sequence[Any]) -> ClipSpec:
    """The structure of a clip whose time axes were guessed from its shapes, as the model has them.

    Args:
        spec: with the guess.
        leaves: of the example.

    Raises:
        ClipError: when the model takes other lengths along several axes, naming ``time_dim=``.
    """
    first = spec.paths[0]
    other = dataclasses.replace(
        spec, times=tuple(3 - t if t is not None else None for t in spec.times)
    )
    for leaf in spec.paths[1:]:
        if leaves[leaf].dim() != leaves[first].dim() and any(
            _runs(model, spec, leaves, {leaf: one}) for one in (spec, other)
        ):
            times = [spec.times[i] for i in spec.tensors]
            without = [None if i == leaf else spec.times[i] for i in spec.tensors]
            raise ClipError(
                f"the input of shape {tuple(leaves[leaf].shape)} beside a video of "
                f"{tuple(leaves[first].shape)} may be a stream that goes with it or have no time "
                f"of its own: the model takes another length of it alone. Pass time_dim={without} "
                f"(no stream) or time_dim={times}"
            )
    if len(spec.paths) > 1 or not _is_open(leaves[first]):
        return spec
    takes = [_runs(model, one, leaves, {first: one}) for one in (spec, other)]
    if all(takes) and not _is_usual(leaves[first]):
        shape, guess = tuple(leaves[first].shape), spec.times[first]
        raise ClipError(
            f"the model takes other lengths of the example {shape} along axis 1 and along axis 2: "
            f"which of them is time can't be determined. Pass time_dim={guess} or "
            f"time_dim={other.times[first]}"
        )
    return other if takes[1] and not takes[0] else spec


def _is_open(video: Tensor) -> bool:
    """Whether a shape leaves it open which axis is time."""
    if video.dim() == 5:
        return (video.shape[1] in COLOURS) == (video.shape[2] in COLOURS) or (
            video.shape[1] not in COLOURS
        )
    return video.dim() == 3


def _is_usual(video: Tensor) -> bool:
    """Whether one of two axes has as few entries as channels have."""
    return video.dim() == 5 and (video.shape[1] in CHANNELS) != (video.shape[2] in CHANNELS)


def _runs(
    model: nn.Module, spec: ClipSpec, leaves: Sequence[Any], longer: dict[int, ClipSpec]
) -> bool:
    """Whether the model takes a clip that is longer along time in some of its inputs."""
    given = list(leaves)
    for leaf, one in longer.items():
        sizes, time = list(leaves[leaf].shape), one.times[leaf] or 0
        sizes[time] = 2 * sizes[time] + 3
        given[leaf] = leaves[leaf].new_empty(sizes)
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    given = [
        torch.empty_like(x, device=device) if isinstance(x, Tensor) and x.is_meta else x
        for x in given
    ]
    return probe(model, spec.spec, given).error is None
