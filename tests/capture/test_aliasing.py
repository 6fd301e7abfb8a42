"""Answers and state share no memory: who writes into an answer changes no later one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from opinfos import OPINFOS, OpInfo
from oracles import pieces
from test_rules import build, chunkings, video
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import pgt_fx

CONVERTED = [info for info in OPINFOS if info.verdict != "refused"]
POLICIES: list[dict[str, Any]] = [
    {},
    {"future": "wait", "pooling": "running"},
    {"operator": "cmco-avg", "pooling": "markov", "attention": "memory"},
]


def answers(prog: pgt_fx.Progressive, clips: list[Any], written: bool) -> list[Any]:
    """What the steps give; overwritten as soon as it was copied, or left alone."""
    torch.manual_seed(0)
    out, state = [], prog.init_state()
    with torch.no_grad():
        for number, clip in enumerate(clips):
            given = clip.clone()
            found, state = prog.step(state, given, last=number == len(clips) - 1)
            out.append(pytree.tree_map_only(Tensor, Tensor.clone, found))
            for tensor in pytree.tree_leaves((found, given)) if written else ():
                if isinstance(tensor, Tensor) and tensor.numel():
                    tensor.fill_(True if tensor.dtype == torch.bool else 77)
    return out


@pytest.mark.parametrize("info", CONVERTED, ids=str)
def test_answers_and_clips_may_be_overwritten(info: OpInfo) -> None:
    x = video(info)
    made = pgt_fx.transform(build(info), x, time_dim=info.time, strict=False)
    for policy in POLICIES:
        prog = made.replace(**policy)
        for chunks in (chunkings(info)[1], chunkings(info)[3]):
            clips = pieces(x, chunks, info.time)
            pairs = (answers(prog, clips, written) for written in (False, True))
            for left, overwritten in zip(*pairs, strict=True):
                both = zip(pytree.tree_leaves(left), pytree.tree_leaves(overwritten), strict=True)
                assert all(a is b or torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in both)


class Pooled(nn.Module):
    """A reduction over time behind which an activation works in place."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.conv, self.how, self.act = nn.Conv3d(1, 2, 1), how, nn.Hardswish(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(getattr(self.conv(x), self.how)((2, 3, 4)))


@pytest.mark.parametrize("how", ["sum", "amax", "amin", "mean", "std"])
def test_an_activation_in_place_behind_a_running_pool(how: str) -> None:
    torch.manual_seed(0)
    # Small numbers: where an activation is zero or the identity, twice is the same as once.
    x = 0.02 * torch.randn(2, 1, 16, 3, 3, dtype=torch.float64)
    model = Pooled(how).double().eval()
    nn.init.constant_(model.conv.bias, 0.01)
    prog = pgt_fx.transform(model, x[:, :, :8], future="wait", pooling="running")
    with torch.no_grad():
        last = prog.run(x, schedule=[4, 4, 4, 4])[-1]
        assert torch.allclose(last, model(x), rtol=1e-9, atol=0)
