"""A clip as the model takes it: its tensors, and which of their axes are time.

A tensor is one positional argument, a list one list argument, a tuple several positional
arguments and a dict keyword arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pgt_fx.core.errors import ClipError
from pgt_fx.core.torch_private import pytree

TimeDim = int | None | Sequence[int | None]


@dataclass(frozen=True)
class ClipSpec:
    """Structure of a clip: its pytree, and per tensor its shape, dtype and time dimension.

    Attributes:
        spec: pytree of ``(args, kwargs)``.
        shapes: sizes of each tensor of the example.
        dtypes: dtype of each.
        times: time dimension of each, None where it has none.
    """

    spec: Any
    shapes: tuple[tuple[int, ...] | None, ...]
    dtypes: tuple[torch.dtype | None, ...]
    times: tuple[int | None, ...]

    @property
    def paths(self) -> tuple[int, ...]:
        """Leaves with a time axis: the input paths."""
        return tuple(i for i, t in enumerate(self.times) if t is not None)

    @property
    def tensors(self) -> tuple[int, ...]:
        """Leaves that are tensors. What else a call is given (a flag, a number) decides what the
        model does, and is written into the capture."""
        return tuple(i for i, shape in enumerate(self.shapes) if shape is not None)

    @property
    def lengths(self) -> tuple[int, ...]:
        """Frames of the example per input path."""
        return tuple(self._shape(i)[self._time(i)] for i in self.paths)

    @property
    def ratio(self) -> tuple[int, ...]:
        """Frames of each path for one frame of the path with the fewest (1, 4 for SlowFast)."""
        least = min(self.lengths)
        return tuple(n // least for n in self.lengths)

    def _shape(self, leaf: int) -> tuple[int, ...]:
        shape = self.shapes[leaf]
        if shape is None:
            raise ClipError(f"leaf {leaf} of the clip is no tensor")
        return shape

    def _time(self, leaf: int) -> int:
        time = self.times[leaf]
        if time is None:
            raise ClipError(f"leaf {leaf} of the clip has no time axis")
        return time

    def flatten(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
        """Leaves of a clip given as call arguments.

        Raises:
            ClipError: when it is not built like the example.
        """
        leaves, spec = pytree.tree_flatten((args, kwargs))
        if spec != self.spec:
            raise ClipError(
                f"a clip like the example was expected, {describe(self.example_structure())}; "
                f"got {describe((args, kwargs))}"
            )
        return leaves

    def example_structure(self) -> Any:
        """The example's structure with shapes in place of tensors."""
        return pytree.tree_unflatten(list(self.shapes), self.spec)


def describe(clip: Any) -> str:
    """Short text of a clip's structure for error messages."""

    def word(leaf: Any) -> str:
        if isinstance(leaf, Tensor):
            return "tensor" + str(tuple(leaf.shape)).replace(" ", "")
        if isinstance(leaf, tuple):
            return "tensor" + str(leaf).replace(" ", "")
        return type(leaf).__name__

    args, kwargs = clip if isinstance(clip, tuple) and len(clip) == 2 else ((clip,), {})
    parts = []
    for value in args:
        if isinstance(value, list):
            parts.append("[" + ", ".join(word(v) for v in value) + "]")
        else:
            parts.append(word(value))
    parts += [f"{k}={word(v)}" for k, v in kwargs.items()]
    return f"({', '.join(parts)})"


def as_call(example: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """``example`` as positional and keyword arguments."""
    if isinstance(example, tuple):
        return example, {}
    if isinstance(example, dict):
        return (), example
    return (example,), {}


def read_example(example: Any, time_dim: TimeDim = None) -> tuple[ClipSpec, list[Any]]:
    """Structure of an example and its leaves.

    Args:
        example: tensor, list, tuple or dict of tensors (see the module).
        time_dim: the time dimension of every video in the clip, or one entry per tensor (None
            for a tensor without time). None: found by rank and channels: N C T H W or N T C H W
            (whichever has 3 or 1 channels), N C T for sequences of features.

    Raises:
        ClipError: when there is no tensor, or the time axis is ambiguous.
    """
    args, kwargs = as_call(example)
    leaves, spec = pytree.tree_flatten((args, kwargs))
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    if not tensors:
        raise ClipError(f"example: expected a clip made of tensors, got {type(example).__name__}")
    asked = time_dim if isinstance(time_dim, (list, tuple)) else [time_dim]
    if any(isinstance(t, bool) or not isinstance(t, int | None) for t in asked):
        raise ClipError(
            f"time_dim: expected a whole number, or one or None for each tensor, got {time_dim!r}"
        )
    if isinstance(time_dim, (list, tuple)):
        given = list(time_dim)
        if len(given) != len(tensors):
            raise ClipError(
                f"time_dim: expected one entry per tensor ({len(tensors)}), got {len(given)}"
            )
    else:
        given = [time_dim] * len(tensors)
    times: list[int | None] = []
    choose = iter(given)
    for leaf in leaves:
        if not isinstance(leaf, Tensor):
            times.append(None)
            continue
        wanted = next(choose)
        if wanted is None and isinstance(time_dim, (list, tuple)):
            times.append(None)
            continue
        times.append(_time_of(leaf, wanted))
    if all(t is None for t in times):
        seen = ", ".join(str(tuple(t.shape)) for t in tensors)
        raise ClipError(
            f"no time axis found in the example (shapes {seen}); expected a video (N, C, T, H, W)"
            " or (N, T, C, H, W), or a sequence (N, C, T); pass time_dim="
        )
    shapes = tuple(tuple(x.shape) if isinstance(x, Tensor) else None for x in leaves)
    dtypes = tuple(x.dtype if isinstance(x, Tensor) else None for x in leaves)
    out = ClipSpec(spec, shapes, dtypes, tuple(times))
    _check_rates(out)
    return out, leaves


def _check_rates(spec: ClipSpec) -> None:
    """Plans of a stream repeat with the frames of the path with the fewest: the others must have
    a whole number for each of them.

    Raises:
        ClipError: when they don't.
    """
    least = min(spec.lengths)
    if least == 0 or any(n % least for n in spec.lengths):
        frames = " and ".join(map(str, spec.lengths))
        raise ClipError(
            f"the inputs of the example have {frames} frames; expected at least one, and a whole "
            f"number of frames for each of the {least} of the input with the fewest, as of 8 and "
            "32: give an example of such lengths, or, where an input is no stream of frames, a "
            "time_dim for each tensor with None for that one"
        )


#: Sizes of an axis that is taken for channels where the shape alone says which axis is which.
CHANNELS = (1, 2, 3, 4)


def axis_hint(spec: ClipSpec) -> str:
    """A note on the time axis for a message, where it was guessed between two similar axes."""
    for i in spec.paths:
        shape = spec._shape(i)
        few = shape[2] in CHANNELS and (shape[1] in CHANNELS or spec._time(i) == 1)
        if len(shape) == 5 and few:
            other = 1 if spec._time(i) == 2 else 2
            return (
                f" Or time is another axis: of the clip {shape} axis {spec._time(i)} was taken for "
                f"time; if it is axis {other}, pass time_dim={other}."
            )
    return ""


def batch_hint(spec: ClipSpec) -> str:
    """A word on inputs whose first dimension may have been taken for the batch."""
    rows = spec._shape(spec.paths[0])[0]
    for i in spec.tensors:
        shape = spec._shape(i)
        if rows == 1 and spec.times[i] is None and shape[:1] == (1,):
            return (
                f" Or it is the input of shape {shape}, which was taken to have one entry per "
                "video, as the batch is 1 as well: if all videos share it, pass an example of two "
                "videos, or the input without that dimension."
            )
    return ""


def _time_of(x: Tensor, wanted: int | None) -> int | None:
    if wanted is not None:
        if not -x.dim() <= wanted < x.dim():
            if x.dim() < 3:
                return None
            raise ClipError(f"time_dim={wanted}: the example has {x.dim()} dimensions")
        return wanted % x.dim()
    if x.dim() == 5:
        if x.shape[2] in CHANNELS and x.shape[1] not in CHANNELS:
            return 1
        return 2
    if x.dim() == 3 and x.is_floating_point():
        return 2
    return None


def resized(
    spec: ClipSpec,
    leaves: Sequence[Any],
    *,
    batch: int,
    time: Callable[[int], int],
    space: Callable[[int], int],
) -> list[Any]:
    """Leaves like the example's with other sizes, contents undefined.

    Videos are allocated and not written: the capture never reads them. Tensors without time keep
    their contents (repeated along the batch when they have the example's batch size).
    """
    first = spec.paths[0]
    rows = spec._shape(first)[0]
    out: list[Any] = []
    for i, leaf in enumerate(leaves):
        if not isinstance(leaf, Tensor):
            out.append(leaf)
            continue
        sizes = list(leaf.shape)
        at = spec.times[i]
        if at is None:
            out.append(leaf[:1].expand(batch, *sizes[1:]).clone() if sizes[:1] == [rows] else leaf)
            continue
        sizes[0], sizes[at] = batch, time(sizes[at])
        if len(sizes) == 5:
            sizes[3:] = [space(s) for s in sizes[3:]]
        out.append(torch.empty(sizes, dtype=leaf.dtype, device=leaf.device))
    return out
