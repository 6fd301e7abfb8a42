"""The conditions under which a graph is the model: listed with their lines."""

from __future__ import annotations

import json
import math

import torch
from torch import Tensor, nn

import pgt_fx


class Asks(nn.Module):
    """Asks for its length, its space, its batch, gradients and types, and reads a mask."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(2, 4, 3, padding=1)
        at = torch.arange(64)
        seen = (at[:, None] >= at) & (at[:, None] - at < 4)
        self.register_buffer("seen", torch.where(seen, 0.0, float("-inf")))

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x) / math.sqrt(x.shape[3])
        if x.shape[2] > 3:
            y = y * 2
        if x.shape[0] == 1:
            y = y + 1
        if torch.is_grad_enabled():
            y = y * 3
        rows = y.mean((3, 4)).transpose(1, 2).to(self.conv.weight.dtype)
        frames = rows.shape[1]
        weights = rows @ rows.transpose(1, 2) + self.seen[:frames, :frames]
        return (weights.softmax(-1) @ rows).transpose(1, 2)


def test_every_condition_is_listed_with_its_line() -> None:
    prog = pgt_fx.transform(Asks().eval(), torch.randn(1, 2, 8, 4, 4), future="wait")
    text = "\n".join(map(str, prog.guards))
    for words in (
        "frames (else refused)",
        "if x.shape[2] > 3:",
        "clips of sizes (1, 2, T,",
        "what the model asks of batch and space",
        "torch.is_grad_enabled() answers as in the capture (else captured anew)",
        "clips of the example's types",
        "read from seen",
        "modules, their modes, hooks and attributes",
    ):
        assert words in text, text
    assert "test_guards.py:" in text
    assert "holds for:" in str(prog.report) and "if x.shape[2] > 3:" in str(prog.report)
    assert len(json.loads(json.dumps(prog.report.to_dict()))["guards"]) == len(prog.guards)


def test_a_plain_model_holds_for_any_clip() -> None:
    prog = pgt_fx.transform(nn.Conv3d(2, 2, 3, padding=1), torch.randn(1, 2, 8, 4, 4))
    assert [g.checked for g in prog.guards] == ["each clip", "each video"]
    assert prog.guards[0].words == "clips of sizes (any, 2, T, any, any)"
