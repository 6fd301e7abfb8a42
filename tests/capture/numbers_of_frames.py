"""Models that make plain numbers of their number of frames, in a file that does nothing with `int`,
`float` and `divmod` but call them."""

from __future__ import annotations

from torch import Tensor


def twice(x: Tensor) -> Tensor:
    return x * 2


def by_half(x: Tensor) -> Tensor:
    return x * (2 if int(x.shape[2] / 2) * 2 <= x.shape[2] else 3)


def by_float(x: Tensor) -> Tensor:
    return x * (2 if float(x.shape[2]) > 0.5 else 3)


def by_remainder(x: Tensor) -> Tensor:
    return x * (2 if divmod(x.shape[2], 4)[1] < 4 else 3)


def eight(x: Tensor) -> Tensor:
    return x[:, :, :8] * 2
