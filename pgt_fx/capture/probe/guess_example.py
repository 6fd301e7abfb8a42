"""Find a clip that a model takes, by trying common shapes without compute."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import nn

from pgt_fx.capture.probe.meta_run import probe
from pgt_fx.core.clip import read_example
from pgt_fx.core.errors import ClipError

FRAMES = (8, 16, 32, 4, 13, 64)
SPACE = (224, 112, 256, 160, 182, 64)


def guess_example(model: nn.Module) -> Any:
    """A clip (zeros on the meta device) that the model runs on.

    Tried are NCTHW videos of the usual lengths and sizes, then two paths with ratios 4 and 8.

    Raises:
        ClipError: when none fits.
    """
    error: Exception | None = None
    for space, frames in itertools.product(SPACE, FRAMES):
        video = torch.empty(1, 3, frames, space, space, device="meta")
        error = _runs(model, video)
        if error is None:
            return video
        if isinstance(error, (AttributeError, TypeError, IndexError, AssertionError)):
            break  # not a question of size: the model wants another structure
    for space, alpha, frames in itertools.product((224, 256, 64), (4, 8), (8, 4, 16)):
        slow = torch.empty(1, 3, frames, space, space, device="meta")
        fast = torch.empty(1, 3, frames * alpha, space, space, device="meta")
        if _runs(model, [slow, fast]) is None:
            return [slow, fast]
    raise ClipError(
        "no usual clip fits the model; tried (1, 3, T, S, S) and [slow, fast] with T in "
        f"{FRAMES} and S in {SPACE}. The last error was: {type(error).__name__}: "
        f"{' '.join(str(error).split())[:200]}. Pass example="
    )


def _runs(model: nn.Module, example: Any) -> Exception | None:
    spec, leaves = read_example(example)
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    real = [torch.empty(x.shape, device=device, dtype=dtype) for x in leaves]
    return probe(model, spec.spec, real).error
