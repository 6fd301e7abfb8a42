"""Whether a stream goes on with the same parameters and mode that its state was made with."""

from __future__ import annotations

import sys
import warnings

from torch import nn

from pgt_fx.capture.observe.model_lines import is_ours
from pgt_fx.core.errors import StreamWarning
from pgt_fx.core.torch_private import written_count


class Origin:
    """What the model was at a stream's first step: its mode, and how often its parameters have
    been written to.

    Every write in place raises a parameter's version (an optimizer's step, ``load_state_dict``);
    running statistics are buffers, and a cast or a move is none. A sum of versions takes 12 µs for
    the 161 parameters of slow_r50, and the list of them 0.4 ms, once for a stream. Not seen is what
    torch does not count: the step of a fused optimizer, and writes into ``parameter.data``.
    """

    __slots__ = ("parameters", "training", "versions", "warned")

    def __init__(self, model: nn.Module) -> None:
        # Those made under inference_mode have no version: they can't be trained.
        self.parameters = [p for p in model.parameters() if not p.is_inference()]
        self.training, self.versions, self.warned = model.training, self._versions(), False

    def _versions(self) -> int:
        return sum(map(written_count, self.parameters))

    def check(self, model: nn.Module) -> None:
        """Warn, once for a stream, when the model has changed since."""
        if self.warned:
            return
        if model.training != self.training:
            what = f"the model was set to {'train' if model.training else 'eval'}()"
        elif self._versions() != self.versions:
            what = "parameters were written to (by an optimizer's step, by load_state_dict)"
        else:
            return
        self.warned = True
        warnings.warn(
            f"this step goes on with the video so far, and {what} since its first step: call "
            "reset() before another video",
            StreamWarning,
            stacklevel=_depth(),
        )


def _depth() -> int:
    """How far up the user's line is: hooks and wrappers put frames of torch's between."""
    depth, frame = 1, sys._getframe(1)
    while frame.f_back is not None and is_ours(frame.f_code.co_filename):
        depth, frame = depth + 1, frame.f_back
    return depth
