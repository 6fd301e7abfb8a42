"""``pgt_fx.verify``: the promises of a progressive model, measured.

Nothing is concluded from the analysis: what it claims (the exact frames, the latency, whether the
outputs under ``future="wait"`` are the model's own) is compared with what comes out when videos
are disturbed, cut, and differentiated.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, TypedDict

import torch
from torch import nn

from pgt_fx.compiler.transform import transform
from pgt_fx.core.errors import OptionError
from pgt_fx.runtime.progressive import Progressive
from pgt_fx.testing.verify.promises import CHECKS, check_names
from pgt_fx.testing.verify.required import LIMITS, requirements
from pgt_fx.testing.verify.result import Verification
from pgt_fx.testing.verify.session import Session, settings_of


class Settings(TypedDict, total=False):
    """Arguments of :func:`verify` beside the model and its example."""

    checks: Collection[str] | None
    chunkings: int
    seed: int
    dtype: torch.dtype
    redraw_norms: bool
    video: Any
    frames: int | None
    require: str | Collection[str]
    max_look_ahead: int | None
    max_state: int | str | None
    progress: Callable[[str, int, int], object] | None


def verify(
    prog_or_model: nn.Module,
    example: Any = None,
    *,
    checks: Collection[str] | None = None,
    chunkings: int = 5,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
    redraw_norms: bool = True,
    video: Any = None,
    frames: int | None = None,
    require: str | Collection[str] = (),
    max_look_ahead: int | None = None,
    max_state: int | str | None = None,
    progress: Callable[[str, int, int], object] | None = None,
) -> Verification:
    """Measure what a progressive model promises. It works on copies, in eval mode.

    Args:
        prog_or_model: what :func:`pgt_fx.transform` returned, or a model to be transformed.
        example: of a model, as for ``transform``; not to be given with a progressive one.
        checks: ids of the checks to make; None: all. "time-sensitive" is always made, and what is
            required.
        chunkings: random ways to cut the video, with steps of 1 to 2T' frames.
        seed: of the videos, the cuts and the redrawn norms.
        dtype: to measure in. A model that can't run in it is measured in its own.
            What fails there in another dtype than float64 is repeated in float64, and is called
            rounding where it holds and stays within what the model itself rounds.
        redraw_norms: give norm layers generic weights and statistics first: model zoos start the
            last norm of each residual branch at zero, which hides what its operators do. So does
            any other trainable parameter that is all zero (a gate, a scale, a convolution): it
            is given some value as well.
        video: measure equality on this video, as the model takes it; None: on noise.
        frames: length of the videos, in frames of the path with the fewest; None: 2 to 3 T'.
        require: what has to hold, where else it may turn out to be absent without a violation: a
            word or several. "exact": under future="wait" the outputs are the model's own; "causal":
            no output reads frames after its own; "one-way": no answer and no gradient reaches
            across a step; "gradients": they are the model's own. The id of a check does as well.
            A model with ``future="wait"`` and ``strict`` promises "exact" by itself.
        max_look_ahead: most frames after its own that an output may read, in each input path.
        max_state: most bytes that may be carried from step to step, as a number or such as "4MiB":
            with the clip's space and dtype, a batch of one, and the model's own options.
        progress: called before each check with its id, its number and how many there are.

    Returns:
        a :class:`~pgt_fx.testing.verify.result.Verification`. What is required and not there is a
        violation; what is required and could not be checked is ``unanswered``. Neither is ``ok``.

    Raises:
        VerificationError: the model itself fails on a clip like the example.
        OptionError, ClipError: for bad arguments.
        CaptureError, BlockedError: as for ``transform``.

    Example:
        >>> pgt_fx.verify(model, clip, require="exact", max_state="4MiB").raise_if_failed()
    """
    settings_of(chunkings, dtype)
    required = requirements(require, max_look_ahead, max_state)
    if isinstance(prog_or_model, Progressive):
        if example is not None:
            raise OptionError("example: a progressive model has its example; pass it alone")
        prog = prog_or_model
    else:
        prog = transform(prog_or_model, example, check=False)  # measured and reported here
    check_names("checks", checks or (), [name for name, *_ in CHECKS])
    always = {"time-sensitive", *required.checks}
    chosen = [name for name, *_ in CHECKS if checks is None or name in {*checks, *always}]
    chosen += [name for name in LIMITS if name in always]
    total = len(chosen) + 1
    tell = progress or (lambda *_: None)
    tell("copying the model", 0, total)
    session = Session(prog, chunkings, seed, dtype, redraw_norms, video, frames, required)
    for number, name in enumerate(chosen, 1):
        tell(name, number, total)
        session.check(name)
    tell("done", total, total)
    return session.verification()
