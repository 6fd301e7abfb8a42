"""The past that a step reads: the paper's MCO, CMCO and PMCO (section 3.2; DESIGN §7)."""

from __future__ import annotations

import torch
from torch import Tensor

from pgt_fx.core.errors import OptionError
from pgt_fx.core.options import MarkovOperator


def averages(x: Tensor) -> bool:
    """Whether elements can be summarised; of whole numbers and flags the last ones are carried."""
    return x.is_floating_point() or x.is_complex()


def context_of(markov: MarkovOperator, seen: Tensor, tail: Tensor, dim: int) -> Tensor:
    """f_past of the next step, before momentum.

    Args:
        seen: all elements that the operator was given in this step, its carried context included
            (as in the authors' code); no padding.
        tail: the last of them, those that the context stands for (MCO).
        dim: time dimension.

    Returns:
        as many elements as ``tail``: itself, or an aggregate of ``seen`` pooled to that number
        (CMCO).
    """
    if markov.aggregate == "none":
        return tail
    if markov.aggregate == "max" and seen.is_complex():
        raise OptionError(
            "operator: complex numbers have no greatest; use aggregate='avg' or 'none' for a model "
            f"whose activations are {seen.dtype}"
        )
    return pooled(seen, tail.shape[dim], dim, markov.aggregate)


def blended(markov: MarkovOperator, new: Tensor, history: Tensor | None, dim: int) -> Tensor:
    """The momentum average c_p = (1-m)·g + m·c_{p-1} over all steps (PMCO).

    Args:
        new: g, context of this step alone.
        history: c_{p-1}; None in the first step, whose average is g.
    """
    if not markov.momentum or history is None:
        return new
    history = pooled(history, new.shape[dim], dim, "avg").to(new.dtype)
    return torch.lerp(new, history, markov.momentum)


def pooled(x: Tensor, count: int, dim: int, how: str) -> Tensor:
    """``x`` pooled adaptively to ``count`` elements along ``dim``; "avg" or "max"."""
    n = x.shape[dim]
    if n == count:
        return x
    # Bins as in torch.nn.functional.adaptive_avg_pool1d, on any dimension of any rank.
    bins = [(i * n // count, -(-(i + 1) * n // count)) for i in range(count)]
    parts = [x.narrow(dim, a, b - a) for a, b in bins]
    if how == "max":
        return torch.cat([p.amax(dim, keepdim=True) for p in parts], dim)
    return torch.cat([p.mean(dim, keepdim=True) for p in parts], dim)
