"""Recurrent layers as one operator of the graph: torch would unroll its own over the frames, and
the graph would be for one number of frames."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

KINDS: dict[Any, str] = {
    torch.gru: "gru",
    torch.lstm: "lstm",
    torch.rnn_tanh: "rnn_tanh",
    torch.rnn_relu: "rnn_relu",
}
_RUN = {kind: run for run, kind in KINDS.items()}


def run_layers(
    x: Tensor,
    states: Sequence[Tensor],
    weights: Sequence[Tensor],
    how: str,
    bias: bool,
    layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
) -> list[Tensor]:
    """The layers as ``nn.GRU`` and its kin call them: ``[output, hidden]``, then the cells
    of an LSTM."""
    first: Any = tuple(states) if how == "lstm" else states[0]
    settings = (bias, layers, dropout, train, bidirectional, batch_first)
    return list(_RUN[how](x, first, list(weights), *settings))


@torch.library.custom_op("pgt_fx::recurrent", mutates_args=())
def recurrent(
    x: Tensor,
    states: Sequence[Tensor],
    weights: Sequence[Tensor],
    how: str,
    bias: bool,
    layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
) -> list[Tensor]:
    """See :func:`run_layers`."""
    settings = (how, bias, layers, dropout, train, bidirectional, batch_first)
    return [y.clone() for y in run_layers(x, states, weights, *settings)]


@recurrent.register_fake
def _shapes(
    x: Tensor,
    states: Sequence[Tensor],
    weights: Sequence[Tensor],
    how: str,
    bias: bool,
    layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
) -> list[Tensor]:
    wide = states[0].shape[-1] * (2 if bidirectional else 1)
    return [x.new_empty((*x.shape[:-1], wide)), *(torch.empty_like(s) for s in states)]


def captured(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """A call of ``torch.gru`` … as the operator above; None for packed sequences."""
    if kwargs or len(args) != 9 or not isinstance(args[2], (list, tuple)):
        return None
    x, first, weights, *settings = args
    states = list(first) if isinstance(first, (list, tuple)) else [first]
    return tuple(recurrent(x, states, list(weights), KINDS[func], *settings))
