"""The laws of time that operators have: windows, transposed convolutions, upsampling.

Pure integers: no tensors and no torch. The interface of a law is in :mod:`pgt_fx.core.law`; the
clocks that count a value's elements are in :mod:`pgt_fx.core.clocks`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

from pgt_fx.core.law import Law, Placement
from pgt_fx.core.lengths.functions import QuasiLinear
from pgt_fx.core.lengths.questions import larger, less, smaller, where


def ceil_div(a: int, b: int) -> int:
    """Quotient rounded up; exact for any sign of ``a``."""
    return -(-a // b)


@dataclass(frozen=True)
class Window(Law):
    """Output j reads inputs ``j*stride - left + t*dilation`` for t in 0 … kernel-1.

    Convolutions, pools, pads (kernel 1), slices (kernel 1, ``left = -start``), unfold.

    Attributes:
        left, right: padding in elements; negative where the operator crops.
        ceil: round the output count up (PyTorch's ``ceil_mode``).
        mode: "constant", "replicate" or "reflect": what stands in the padding.
        limit: the operator makes at most so many outputs (``x[:limit]``).
    """

    kernel: int = 1
    stride: int = 1
    dilation: int = 1
    left: int = 0
    right: int = 0
    ceil: bool = False
    mode: str = "constant"
    limit: int | None = None

    @property
    def span(self) -> int:
        """Elements from the first that an output reads to the last."""
        return (self.kernel - 1) * self.dilation + 1

    @property
    def minimum(self) -> int:
        """Fewest elements for which the padding is defined (a reflection reads past its edge)."""
        return max(self.left, self.right, 0) + 1 if self.mode == "reflect" else 1

    @property
    def fewest(self) -> int:
        return 0 if self.ceil else max(1, self.span - self.left - self.right)

    @property
    def fewest_padded(self) -> int:
        if self.mode != "constant":
            return max(self.minimum, 1 - self.left - self.right)
        return -min(self.left, 0) - min(self.right, 0)

    def count(self, n: int) -> int:
        room = n + self.left + self.right - self.span
        if n < self.minimum:
            return 0
        outs = (ceil_div(room, self.stride) if self.ceil else room // self.stride) + 1
        outs = max(0, outs)
        # PyTorch drops a ceil-mode window that would start after the input and its left padding.
        if self.ceil and (outs - 1) * self.stride >= n + self.left:
            outs -= 1
        return outs if self.limit is None else min(outs, self.limit)

    def count_of(self, n: QuasiLinear) -> QuasiLinear:
        room = n + (self.left + self.right - self.span)
        outs = larger((-(-room // self.stride) if self.ceil else room // self.stride) + 1, 0)
        if self.ceil:
            outs = where(less((outs - 1) * self.stride, n + self.left), outs, outs - 1)
        outs = where(less(n, self.minimum), 0, outs)
        return outs if self.limit is None else smaller(outs, self.limit)

    def ready(self, n: int) -> int:
        if n < self.minimum:
            return 0
        complete = max(0, (n + self.left - self.span) // self.stride + 1)
        if self.right < 0:
            complete = min(complete, self.count(n))
        return complete if self.limit is None else min(complete, self.limit)

    def ready_of(self, n: QuasiLinear) -> QuasiLinear:
        complete = larger((n + (self.left - self.span)) // self.stride + 1, 0)
        if self.right < 0:
            complete = smaller(complete, self.count_of(n))
        complete = where(less(n, self.minimum), 0, complete)
        return complete if self.limit is None else smaller(complete, self.limit)

    def taps(self, j: int) -> Iterable[int]:
        first = self.need(j)
        return range(first, first + self.span, self.dilation)

    def stands_for(self, tap: int, n: int) -> int | None:
        if 0 <= tap < n:
            return tap
        if self.mode == "replicate":
            return 0 if tap < 0 else n - 1
        if self.mode == "reflect":
            return -tap if tap < 0 else 2 * (n - 1) - tap
        return None

    def need(self, j: int) -> int:
        return j * self.stride - self.left

    def keep(self, j: int, n: int) -> int:
        if self.limit is not None and j >= self.limit:
            return n
        first = self.need(j)
        if self.mode == "constant":
            # Negative at the start of a video: the padding is carried as elements. A window may
            # lie in the right padding alone: one element stays, to make that padding like.
            return min(first, max(n - 1, 0)) if self.right > 0 else first
        # The right end may yet have to be mirrored from the last real elements.
        history = self.right + 1 if self.mode == "reflect" else 1
        return max(0, min(first, n - history)) if self.right > 0 else max(0, first)

    def past_end(self, outs: int) -> int:
        read = (outs - 1) * self.stride - self.left + self.span - max(self.right, 0)
        return max(outs * self.stride, read)

    @property
    def context_from(self) -> int:
        first = self.span + abs(self.left) + abs(self.right) + self.minimum + self.stride
        return first if self.limit is None else min(first, self.limit * self.stride - self.left)

    def placed(self, first: int, n: int, begin: int, end: int) -> Placement:
        lead = first - self.need(begin)
        missing = self.need(end - 1) + self.span - n
        return Placement(max(0, lead), max(0, missing), max(0, -lead))

    def spanned(self, outs: int) -> int | None:
        return (outs - 1) * self.stride + self.span

    def divisors(self, begin: int, end: int, n: int, mean: str) -> tuple[int, ...]:
        if not mean:
            return ()
        counted = []
        for j in range(begin, end):
            # PyTorch clips a window to the (padded) video.
            first, stop = self.need(j), min(self.need(j) + self.span, n + self.right)
            if mean == "exclude":
                first, stop = max(first, 0), min(stop, n)
            counted.append(stop - first)
        return tuple(counted) if any(c != self.kernel for c in counted) else ()

    @property
    def averaged(self) -> int:
        return self.kernel

    @property
    def provisional(self) -> bool:
        # A shift (cropped in front, padded at the end) answers for good, as any operator does.
        return self.kernel == 1 and not (self.left < 0 < self.right)

    @property
    def identity(self) -> bool:
        return self == Window()

    @property
    def dense(self) -> bool:
        return True

    @property
    def pads_only(self) -> tuple[int, int] | None:
        return (self.left, self.right) if self.kernel == 1 else None

    @property
    def centred(self) -> int:
        plain = self.stride == self.dilation == 1 and self.mode == "constant" and self.limit is None
        even = self.right == self.left and self.kernel == 2 * self.left + 1
        return self.left if plain and even else 0

    @property
    def inputs_per_output(self) -> Fraction:
        return Fraction(self.stride)

    @property
    def period(self) -> int:
        return self.stride

    @property
    def counts_linear_from(self) -> int:
        return self.span + abs(self.left) + abs(self.right) + (self.limit or 0) * self.stride

    @property
    def shiftable_from(self) -> int:
        around = self.span + abs(self.left) + abs(self.right) + self.minimum
        return 2 * around + self.stride + (self.limit or 0) * self.stride

    def to_look_back(self, rank: int, pad: tuple[int, int] | None) -> str:
        if self.kernel == 1:
            return "shift towards the past only"
        front = self.span - self.stride
        spelled = "(" + "0, " * (2 * max(0, rank - 3)) + f"{front}, 0)"
        if pad is not None:
            now = " and ".join(str(max(n, 0)) for n in pad)
            return (
                f"pad {front} in front and 0 at the end in place of {now} in the F.pad before it: "
                f"{spelled}; train again, or fine-tune"
            )
        if self.left <= 0 and self.right <= 0:
            return (
                f"it waits for its whole window of {self.span}: let the head pool over all of time "
                "(AdaptiveAvgPool, mean) with pooling='running', or pad in front"
            )
        return (
            f"pad {front} in front and 0 at the end in place of {self.left} and {self.right}: "
            f"F.pad(x, {spelled}), and padding 0 along time in the layer; train again, "
            "or fine-tune"
        )


@dataclass(frozen=True)
class Transposed(Law):
    """Transposed convolution: input i adds to outputs ``i*stride - padding + t*dilation``."""

    kernel: int
    stride: int = 1
    dilation: int = 1
    padding: int = 0
    extra: int = 0  # output_padding

    @property
    def span(self) -> int:
        """Outputs from the first that an input adds to, to the last."""
        return (self.kernel - 1) * self.dilation + 1

    def count(self, n: int) -> int:
        return max(0, (n - 1) * self.stride - 2 * self.padding + self.span + self.extra) if n else 0

    def count_of(self, n: QuasiLinear) -> QuasiLinear:
        outs = larger((n - 1) * self.stride + (self.span + self.extra - 2 * self.padding), 0)
        return where(less(n, 1), 0, outs)

    def ready(self, n: int) -> int:
        return max(0, min(n * self.stride - self.padding, self.count(n)))

    def ready_of(self, n: QuasiLinear) -> QuasiLinear:
        return larger(smaller(n * self.stride - self.padding, self.count_of(n)), 0)

    def taps(self, j: int) -> Iterable[int]:
        at = [j + self.padding - t * self.dilation for t in range(self.kernel)]
        return sorted(a // self.stride for a in at if a % self.stride == 0)

    def need(self, j: int) -> int:
        return max(0, ceil_div(j + self.padding - (self.kernel - 1) * self.dilation, self.stride))

    def keep(self, j: int, n: int) -> int:
        # One element at least, so that a last step without new frames still has an operand.
        return max(0, min(self.need(j), n - 1))

    def past_end(self, outs: int) -> int:
        return outs // self.stride

    def placed(self, first: int, n: int, begin: int, end: int) -> Placement:
        return Placement(offset=begin + self.padding - first * self.stride)

    @property
    def identity(self) -> bool:
        return (self.kernel, self.stride, self.padding, self.extra) == (1, 1, 0, 0)

    @property
    def inputs_per_output(self) -> Fraction:
        return Fraction(1, self.stride)

    @property
    def counts_linear_from(self) -> int:
        return self.kernel * self.dilation + self.padding + self.extra

    @property
    def shiftable_from(self) -> int:
        return 2 * self.counts_linear_from


@dataclass(frozen=True)
class Upsampling(Law):
    """``scale`` outputs for each input element, of which the first ones stand at its place."""

    scale: int

    def count(self, n: int) -> int:
        return n * self.scale

    def count_of(self, n: QuasiLinear) -> QuasiLinear:
        return n * self.scale

    def past_end(self, outs: int) -> int:
        return outs // self.scale

    def placed(self, first: int, n: int, begin: int, end: int) -> Placement:
        return Placement(offset=begin - first * self.scale)

    @property
    def inputs_per_output(self) -> Fraction:
        return Fraction(1, self.scale)


@dataclass(frozen=True)
class Repeat(Upsampling):
    """Nearest upsampling by an integer: output j reads input ``j // scale``."""

    def ready(self, n: int) -> int:
        return n * self.scale

    def ready_of(self, n: QuasiLinear) -> QuasiLinear:
        return self.count_of(n)

    def taps(self, j: int) -> Iterable[int]:
        return (j // self.scale,)

    def need(self, j: int) -> int:
        return j // self.scale

    def keep(self, j: int, n: int) -> int:
        return min(self.need(j), n)

    @property
    def carries(self) -> bool:
        return False

    @property
    def provisional(self) -> bool:
        return True


@dataclass(frozen=True)
class Interpolate(Upsampling):
    """Linear upsampling by an integer, ``align_corners=False``: output j stands at
    ``(j + 1/2)/scale - 1/2`` between two input elements, clamped to the video's ends."""

    def ready(self, n: int) -> int:
        # Complete when the position is at or before the last element.
        return max(0, min(n * self.scale, ((2 * n - 1) * self.scale - 1) // 2 + 1)) if n else 0

    def ready_of(self, n: QuasiLinear) -> QuasiLinear:
        complete = ((2 * n - 1) * self.scale - 1) // 2 + 1
        return where(less(n, 1), 0, larger(smaller(n * self.scale, complete), 0))

    def taps(self, j: int) -> Iterable[int]:
        twice = 2 * j + 1 - self.scale  # position times 2*scale
        if twice <= 0:
            return (0,)
        low, rest = divmod(twice, 2 * self.scale)
        return (low, low + 1) if rest else (low,)

    def need(self, j: int) -> int:
        return min(self.taps(j))

    def keep(self, j: int, n: int) -> int:
        return max(0, min(self.need(j), n - 1))

    def to_look_back(self, rank: int, pad: tuple[int, int] | None) -> str:
        return "upsample by mode='nearest', which reads no later frame"
