"""Attention found in a graph of one clip, and where in the clip its keys stand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pgt_fx.capture.attention.clip_attention import ClipAttention, find_clip_attention
from pgt_fx.capture.attention.clip_places import Coordinates, Grid
from pgt_fx.capture.captured import Captured
from pgt_fx.capture.export import capture_clip
from pgt_fx.capture.passes.pipeline import clean
from pgt_fx.core.clip import read_example

FRAMES, SIDE = 4, 6


class Tokens(nn.Module):
    """Queries, keys and values of (frame, place) after a class token, and what ``how`` does."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.qkv = how, nn.Linear(4, 12)
        self.token = nn.Parameter(torch.randn(1, 1, 4))
        self.pool = nn.Conv3d(4, 4, 3, (1, 2, 2), 1)

    def forward(self, x: Tensor) -> Tensor:
        y = x.flatten(2).transpose(1, 2)
        y = torch.cat([self.token.expand(len(y), -1, -1), y], 1)
        q, k, v = self.qkv(y).chunk(3, -1)
        out: Tensor = getattr(self, self.how)(q, k, v)
        return out.mean(1)

    def fused(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v)

    def spelled(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.dropout((q @ k.mT / 2).softmax(-1), 0.1, self.training) @ v

    def batched(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return torch.bmm(torch.bmm(q, k.transpose(1, 2)).softmax(2), v)

    def einsum(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        weights = torch.einsum("nqc,nkc->nqk", q, k).softmax(-1)
        return torch.einsum("nqk,nkc->nqc", weights, v)

    def written(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scores = q @ k.mT
        scores[:, 1:, 1:] += q[:, 1:, :1]
        return scores.softmax(-1) @ v

    def rolled(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Windows of two frames, which roll by one."""

        def window(x: Tensor) -> Tensor:
            x = x[:, 1:].unflatten(1, (FRAMES, -1)).roll(-1, 1)
            return x.unflatten(1, (FRAMES // 2, 2)).flatten(2, 3)

        return F.scaled_dot_product_attention(*map(window, (q, k, v))).flatten(1, 2)

    def pooled(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        def pool(x: Tensor) -> Tensor:
            frames = x[:, 1:].transpose(1, 2).unflatten(2, (FRAMES, SIDE, SIDE))
            return torch.cat([x[:, :1], self.pool(frames).flatten(2).transpose(1, 2)], 1)

        return F.scaled_dot_product_attention(q, pool(k), pool(v))

    def sigmoid(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return (q @ k.mT).sigmoid() @ v

    def over_queries(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return (q @ k.mT).softmax(1) @ v

    def cubed(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return (q @ k.mT).pow(3).softmax(-1) @ v


def found(how: str) -> tuple[Captured, list[ClipAttention], Coordinates]:
    model, x = Tokens(how).eval(), torch.randn(1, 4, FRAMES, SIDE, SIDE)
    spec, leaves = read_example(x, 2)
    captured = clean(capture_clip(model, spec, leaves, "it is so"), FRAMES)
    times: dict[int, Any] = dict(enumerate(spec.times))
    attentions = find_clip_attention(captured, times).attentions
    tensors = dict(model.named_parameters())
    shapes = dict(enumerate(spec.shapes))
    return captured, attentions, Coordinates(captured, times, shapes, tensors, attentions)


@pytest.mark.parametrize("how", ["fused", "spelled", "batched", "einsum", "written"])
def test_attention_is_found_however_it_is_spelled(how: str) -> None:
    _, (one,), places = found(how)
    assert (one.softmax is None) == (how == "fused")
    keys, rows = places.keys(one), places.rows(one)
    assert keys is not None and rows is not None and keys.over_time
    for where in (keys, rows):
        grid = Grid(where)
        assert grid.where[0] is None and grid.regular  # the class token, and all others
        assert [f for f, _ in filter(None, grid.where)] == [n // 36 for n in range(4 * 36)]
        assert grid.first(1 + 2 * 36 + 5) == 1 + 5 and grid.last(1 + 5) == 1 + 3 * 36 + 5
        assert grid.first(0) == 0


@pytest.mark.parametrize("how", ["sigmoid", "over_queries", "cubed"])
def test_what_is_no_such_attention(how: str) -> None:
    assert not found(how)[1]


def test_windows_hold_the_frames_that_have_rolled_into_them() -> None:
    _, (one,), places = found("rolled")
    keys = places.keys(one)
    assert keys is not None and keys.over_time
    assert [sorted({*row}) for row in keys.frames.tolist()] == [[1.0, 2.0], [0.0, 3.0]]


def test_pooled_keys_are_where_they_were_pooled_from() -> None:
    _, (one,), places = found("pooled")
    keys = places.keys(one)
    assert keys is not None
    grid = Grid(keys)
    assert grid.regular and len(grid.where) == 1 + FRAMES * 9 and grid.frames == [0, 1, 2, 3]
