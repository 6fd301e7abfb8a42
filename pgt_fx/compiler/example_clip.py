"""The example clip of a model: what a clip has to be like, and clips like it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pgt_fx.capture.observe.failing_line import GRADIENTS, LAYOUTS, TYPES
from pgt_fx.capture.observe.value_contents import same
from pgt_fx.core.clip import ClipSpec
from pgt_fx.core.errors import ClipError, OtherClipError
from pgt_fx.runtime.markov.buffer import dense


class ExampleClip:
    """The example that a model was transformed with.

    Attributes:
        model: the user's module.
        spec: structure of a clip.
        leaves: tensors of the example clip, as shapes (meta tensors), and what else it has.
        dtype: of the model's weights when it was given.
    """

    def __init__(self, model: nn.Module, spec: ClipSpec, leaves: Sequence[Any]) -> None:
        self.model, self.spec, self.leaves = model, spec, list(leaves)
        self.dtype = dtype_of(model)
        self._given = spec.tensors
        self._plain = [(i, x) for i, x in enumerate(leaves) if i not in self._given]

    def made(self) -> list[Any]:
        """A clip like the example, where the model's weights are; what is in it is not defined."""
        device = next((p.device for p in self.model.parameters()), torch.device("cpu"))
        leaves = list(self.leaves)
        for i in self.spec.paths:
            dtype = self.cast(leaves[i].dtype)
            leaves[i] = torch.empty_like(leaves[i], device=device, dtype=dtype)
        return leaves

    def check(self, leaves: Sequence[Any], asked: Collection[str]) -> None:
        """Make sure that a clip is of the example's types where the model asks for them, and lies
        in memory as that where it asks for this.

        Args:
            asked: what the model asks its tensors for.

        Raises:
            OtherClipError: when its types are others.
            ClipError: when it lies otherwise, or needs a gradient and the model asks for that.
        """
        for i in self.spec.paths if TYPES in asked else ():
            expected, seen = self.cast(self.leaves[i].dtype), leaves[i].dtype
            if seen != expected:
                raise OtherClipError(
                    f"a clip of {seen}, and the model, which was captured with {expected}, asks "
                    "for the type of its tensors"
                )
        for i in self.spec.paths:
            if LAYOUTS in asked and not _in_order(leaves[i]):
                raise ClipError(
                    "the model asks how its tensors lie in memory, and this clip's axes lie there "
                    f"in another order (sizes {tuple(leaves[i].shape)}, strides "
                    f"{leaves[i].stride()}): pass clip.contiguous()"
                )
            if GRADIENTS in asked and leaves[i].requires_grad:
                raise ClipError(
                    "the model asks which of its tensors need a gradient, and this clip does: pass "
                    "clip.detach()"
                )

    def tensors_of(self, leaves: Sequence[Any]) -> list[Any]:
        """The tensors of a clip. A chunk is often a slice of a video; a model that asks for views
        of its clip needs one that is laid out as such.

        Raises:
            ClipError: when what is no tensor isn't the example's: the graph has that in it.
        """
        for i, ours in self._plain:
            if not same(given := leaves[i], ours):
                raise ClipError(
                    f"input {i} is {given!r}, and the model was captured with {ours!r}: what is no "
                    f"tensor decides what the model does; transform it anew with {given!r}"
                )
        times = self.spec.times
        tensors = [(leaves[i], times[i]) for i in self._given]
        return [x if time is None else dense(x, x) for x, time in tensors]

    def without_frames(self, sizes: Sequence[int], device: torch.device | None) -> list[Any]:
        """Leaves of a clip without frames.

        Args:
            sizes: of all paths, one after the other; -1 for their time.
            device: where the video is; None: where the model is.

        Raises:
            ClipError: when a clip has tensors that are no videos.
        """
        others = [i for i in self._given if i not in self.spec.paths]
        if others:
            raise ClipError(
                f"input {others[0]} of this model has no time axis, and a last step needs it as "
                "any other does: end the video with an empty chunk and that input, "
                "prog(video[:, :, :0], boxes, last=True)"
            )
        if device is None:
            device = next((p.device for p in self.model.parameters()), torch.device("cpu"))
        leaves, rest = list(self.leaves), [max(n, 0) for n in sizes]
        for i in self.spec.paths:
            rank = leaves[i].dim()
            dtype = self.cast(leaves[i].dtype)
            shape = rest[:rank]
            shape[self.spec.times[i] or 0] = 0
            leaves[i] = torch.empty(shape, dtype=dtype, device=device)
            rest = rest[rank:]
        return leaves

    def cast(self, dtype: torch.dtype) -> torch.dtype:
        """The dtype of a video once the model was moved to another (``prog.double()``)."""
        now = dtype_of(self.model)
        return now if now is not None and dtype == self.dtype else dtype


def _in_order(x: Tensor) -> bool:
    """Whether an axis lies inside of those before it, as in a slice of a contiguous tensor."""
    strides = [s for s, n in zip(x.stride(), x.shape, strict=True) if n > 1]
    return strides == sorted(strides, reverse=True)


def dtype_of(model: nn.Module) -> torch.dtype | None:
    """The floating-point type of a model's first parameter of such a type."""
    return next((p.dtype for p in model.parameters() if p.is_floating_point()), None)
