"""The paper's own way of carrying context: prepend it in every block and compute it again.

In the authors' code each residual block with a temporal convolution gets the last frame of what it
was given in the step before in front of its input, runs on all of it with zero padding at both
ends, and drops the first output: 8 frames of work for 7 new ones. Here the same for any model
whose temporal convolutions stand in residual blocks or alone.

The outputs are those of the Markov operators (MCO) where a block has one temporal convolution
and nothing else that looks at other frames. They differ where it has two (one carried frame
stands for two), and where it has a squeeze-excitation, whose mean takes the carried frame in.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn

BLOCKS = frozenset({"ResBlock", "BasicBlock", "Bottleneck"})


class NotApplicableError(ValueError):
    """The model does along time what whole carried frames can't express; the text says what."""


class Carried(nn.Module):
    """A block with the last frames of its input of the step before in front of its input.

    Args:
        block: any module that takes and gives NCTHW tensors.
        frames: how many frames are carried.
        stride: the block's temporal stride; ``frames`` is a multiple of it.
    """

    def __init__(self, block: nn.Module, frames: int, stride: int = 1) -> None:
        super().__init__()
        self.block, self.frames, self.stride = block, frames, stride
        self.past: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[2] % self.stride:
            raise NotApplicableError(f"{x.shape[2]} frames at a temporal stride of {self.stride}")
        whole = x if self.past is None else torch.cat([self.past, x], 2)
        out = self.block(whole)
        if self.past is not None:
            out = out[:, :, self.frames // self.stride :]
        # Of storage of its own, or the whole activation would stay alive until the next step.
        self.past = x[:, :, -self.frames :].detach().clone()
        return out


class Recomputed(nn.Module):
    """A copy of a model in which every block carries its input; call it step after step."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = copy.deepcopy(model)
        for path, frames, stride in _blocks(self.model):
            parent, _, name = path.rpartition(".")
            holder: Any = self.model.get_submodule(parent)
            setattr(holder, name, Carried(getattr(holder, name), frames, stride))

    def reset(self) -> None:
        """Forget the video."""
        for module in self.modules():
            if isinstance(module, Carried):
                module.past = None

    def forward(self, clip: Any) -> Any:
        # A model of two paths writes its activations into the list it is given.
        return self.model(list(clip) if isinstance(clip, list) else clip)


def recomputed(model: nn.Module, new_frames: int) -> Recomputed:
    """The model in steps of ``new_frames``, the paper's way.

    Raises:
        NotApplicableError: for a temporal stride inside that doesn't divide the steps' frames.
    """
    for path, _, stride in _blocks(model):
        if stride > 1 and new_frames % stride and not path.endswith("conv_fast_to_slow"):
            raise NotApplicableError(
                f"{path} has a temporal stride of {stride}, and a step of {new_frames} frames is "
                "no multiple of it: which frame is carried would change from step to step"
            )
    return Recomputed(model)


def _blocks(model: nn.Module) -> list[tuple[str, int, int]]:
    """Path, carried frames and temporal stride of what gets its past in front of its input."""
    found: list[tuple[str, int, int]] = []
    for path, module in model.named_modules():
        if any(path.startswith(f"{outer}.") for outer, _, _ in found):
            continue
        if type(module).__name__ not in BLOCKS and not isinstance(module, nn.Conv3d):
            continue
        convs = [m for m in module.modules() if isinstance(m, nn.Conv3d)]
        past = max((int(m.padding[0]) for m in convs if m.kernel_size[0] > 1), default=0)
        if past:
            # The strides of a block's shortcut and of its branch are the same.
            stride = max(int(m.stride[0]) for m in convs)
            found.append((path, stride * math.ceil(past / stride), stride))
    return found
