"""What one view costs, counted without computing it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.utils.flop_counter import FlopCounterMode

from .clips import make_clip, space_of
from .entry import Entry
from .registry import build, get

VIEW = 256


def view_space(entry: Entry) -> int:
    """Height and width at which a model's cost is given: 256 pixels, as in the paper's tables; its
    own where it takes no other, or takes latents in place of pixels."""
    return entry.space if entry.fixed_space or entry.channels != 3 else VIEW


def gflops(
    name: str, *, space: int | None = VIEW, frames: int | Sequence[int] | None = None
) -> float:
    """10⁹ multiply-adds of one forward on one clip, on the meta device: no memory, no compute.

    One multiply-add counts as one, as in the tables of the paper, whose single views are of 256 x
    256 pixels. Counted are convolutions, matrix products and attention.

    Args:
        name: one of :func:`pgt_fx.zoo.names`.
        space: height and width in pixels; None: the model's own.
        frames: as in :func:`pgt_fx.zoo.clip`.

    Raises:
        OptionError: a space, or a number of frames, that the model can't have.
    """
    entry = get(name)
    size = space_of(entry, space)
    # Builders of these read numbers from tensors, and the meta device has none.
    reads = name.startswith("mvit") or entry.source == "diffusers"
    with torch.device("cpu" if reads else "meta"):
        model = build(name, space=size).to("meta")
    with torch.device("meta"):
        video = make_clip(entry, size, frames, 1, torch.float32, None)
        arguments = video if isinstance(video, tuple) else (video,)
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model(*arguments)
    return float(counter.get_total_flops()) / 2 / 1e9
