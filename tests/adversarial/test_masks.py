"""Masks in all their spellings: what is read of them is read whole, and again when they change."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from judge import REFUSED, RIGHT, Case, judge
from torch import Tensor, nn

Mask = Callable[[Any, int], Tensor]


class Attends(nn.Module):
    """Attention over the frames of (N, C, T) under a mask."""

    def __init__(self, mask: Mask, fused: bool, **tensors: Tensor) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.mask, self.fused = nn.Conv1d(4, 4, 3, padding=1), mask, fused
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor)

    def forward(self, x: Tensor) -> Tensor:
        rows = self.conv(x).transpose(1, 2)
        seen = self.mask(self, rows.shape[1])
        if self.fused:
            return F.scaled_dot_product_attention(rows, rows, rows, seen).transpose(1, 2)
        weights = (rows @ rows.transpose(1, 2)).masked_fill(~seen, float("-inf"))
        return (weights.softmax(-1) @ rows).transpose(1, 2)


def causal(side: int, window: int | None = None) -> Tensor:
    seen = torch.ones(side, side, dtype=torch.bool).tril()
    return seen if window is None else seen.triu(1 - window)


def entry(mask: Tensor, row: int, column: int) -> Tensor:
    mask = mask.clone()
    mask[row, column] = True
    return mask


def cut(s: Any, frames: int) -> Tensor:
    return s.seen[:frames, :frames]


def distance(frames: int) -> Tensor:
    at = torch.arange(frames)
    return at[:, None] - at


def threshold(s: Any, frames: int) -> Tensor:
    d = distance(frames)
    return (d >= 0) & ((d <= 3) | (d > s.seen))


MASKS: dict[str, tuple[Mask, Tensor, str]] = {
    "causal table": (cut, causal(64), RIGHT),
    "window of a table": (cut, causal(64, 4), RIGHT),
    "table that looks ahead far on": (cut, entry(causal(64), 40, 41), REFUSED),
    "window with an entry far back": (cut, entry(causal(64, 4), 40, 2), RIGHT),
    "short table": (cut, causal(20), RIGHT),
    "threshold in a buffer": (threshold, torch.tensor(30), RIGHT),
    "table made in forward": (lambda s, t: causal(100)[:t, :t], torch.zeros(1), RIGHT),
    "made for the video": (lambda s, t: causal(t, 5), torch.zeros(1), RIGHT),
    "distance": (lambda s, t: (distance(t) >= 0) & (distance(t) < 6), torch.zeros(1), RIGHT),
}


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("fused", [True, False])
def test_a_mask(name: str, fused: bool) -> None:
    mask, seen, expected = MASKS[name]
    frames = (3, 9, 20, 33, 45, 64)
    case = Case(lambda: Attends(mask, fused, seen=seen), expected, (1, 4, 8), frames)
    assert judge(case) == expected


CHANGES: dict[str, Callable[[Any], Any]] = {
    "copied into": lambda m: m.seen.copy_(causal(64, 9)),
    "loaded": lambda m: m.load_state_dict({**m.state_dict(), "seen": causal(64, 2)}),
    "replaced": lambda m: setattr(m, "seen", causal(64, 7)),
    "through data": lambda m: m.seen.data.copy_(causal(64, 11)),
    "one entry through data": lambda m: m.seen.data.__setitem__((30, 20), True),
}


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("fused", [True, False])
def test_a_mask_that_is_changed(name: str, fused: bool) -> None:
    change = CHANGES[name]
    case = Case(
        lambda: Attends(cut, fused, seen=causal(64, 4)),
        sizes=(1, 4, 8),
        frames=(9, 33),
        change=change,
    )
    judge(case)


def test_what_is_refused_once_is_refused_always() -> None:
    """An attention that is causal no more: no later video is answered either."""
    from pgt_fx import transform
    from pgt_fx.core.errors import PgtError

    model = Attends(cut, False, seen=causal(64, 4)).eval()
    prog = transform(model, torch.randn(1, 4, 8), future="wait")
    prog.full(torch.randn(1, 4, 20))
    model.seen.fill_(True)
    for _ in range(3):
        with pytest.raises(PgtError, match="relates every frame"):
            prog.full(torch.randn(1, 4, 20))


class Gated(nn.Module):
    """Subtracts the mean of all frames in one mode, or where it is asked to."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.on = nn.Conv3d(2, 2, (3, 1, 1), padding=(1, 0, 0)), False

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        if self.training or self.on or x.shape[3] > 6 or not torch.is_grad_enabled():
            y = y - y.mean(2, keepdim=True)
        return y


@pytest.mark.parametrize("how", ["mode", "attribute", "space", "gradients"])
def test_each_graph_promises_what_it_can_keep(how: str) -> None:
    from pgt_fx import transform
    from pgt_fx.core.errors import PgtError

    model = Gated().eval()
    prog = transform(model, torch.randn(1, 2, 8, 4, 4), future="wait", check=False)
    video = torch.randn(1, 2, 12, 8 if how == "space" else 4, 4)
    model.on = how == "attribute"
    prog.train(how == "mode")
    for _ in range(2):
        with (
            torch.set_grad_enabled(how != "gradients"),
            pytest.raises(PgtError, match="all of time"),
        ):
            prog.full(video)
