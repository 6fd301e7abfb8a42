"""Elements of one frame, one after the other, as elements of time: ``(T, k)`` becomes ``T * k``.

A model writes it as a view. As an operator of its own it has a law: output j reads input j // k.
"""

from __future__ import annotations

import torch
from torch import Tensor


def in_a_row(x: Tensor, dim: int) -> Tensor:
    """Dimensions ``dim`` (time) and ``dim + 1`` of ``x`` as one."""
    return x.flatten(dim, dim + 1)


@torch.library.custom_op("pgt_fx::interleave", mutates_args=())
def interleave(x: Tensor, dim: int) -> Tensor:
    """See :func:`in_a_row`."""
    return in_a_row(x, dim).clone()


@interleave.register_fake
def _shape(x: Tensor, dim: int) -> Tensor:
    sizes = list(x.shape)
    return x.new_empty([*sizes[:dim], sizes[dim] * sizes[dim + 1], *sizes[dim + 2 :]])
