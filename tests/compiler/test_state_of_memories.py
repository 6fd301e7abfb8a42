"""The report's figure of what a memory carries is what it carries once it is full."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import pgt_fx
from pgt_fx import AttentionMemory


class Attends(nn.Module):
    """Attention over time: causal and over the last frames alone, or over all."""

    def __init__(self, window: int = 0) -> None:
        super().__init__()
        self.window = window

    def forward(self, x: Tensor) -> Tensor:  # (N, T, C)
        if not self.window:
            return F.scaled_dot_product_attention(x, x, x)
        t = torch.arange(x.shape[1], device=x.device)
        age = t[:, None] - t
        seen = (age >= 0) & (age < self.window)
        return F.scaled_dot_product_attention(x, x, x, attn_mask=seen)


def carried(prog: pgt_fx.Progressive, frames: int) -> int:
    """Bytes in the state after so many frames, one at a time."""
    for _ in range(frames):
        prog(torch.randn(1, 1, 8))
    return sum(x.nbytes for name, x in prog.state.items() if not name.startswith("clock"))


@pytest.mark.parametrize("window", [5, 50])
def test_a_causal_window_is_told_full(window: int) -> None:
    prog = pgt_fx.transform(Attends(window), torch.randn(1, 8, 8), future="wait", time_dim=1)
    assert prog.report.state_bytes == carried(prog, 70) > 0


@pytest.mark.parametrize("clips", [1, 3])
def test_a_memory_of_clips_is_told_full(clips: int) -> None:
    memory = AttentionMemory(clips=clips)
    prog = pgt_fx.transform(Attends(), torch.randn(1, 8, 8), attention=memory, time_dim=1)
    assert prog.report.state_bytes == carried(prog, 40) > 0
