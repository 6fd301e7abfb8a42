"""Sizes of parts of a video that torch answers for long videos: a slice of five frames has five.

What the model's Python makes of them is a number in the graph, or a branch: a video of another size
there is refused, or answered as the model answers it.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import pgt_fx
from pgt_fx.core.errors import ClipError

Body = Callable[[Tensor], Tensor]
LENGTHS = range(1, 40)


class Model(nn.Module):
    def __init__(self, body: Body) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


def answered(body: Body, clip: int) -> set[int]:
    """The lengths that are answered, each as the model does; the others are refused."""
    model = Model(body)
    prog = pgt_fx.transform(model, torch.randn(1, 3, clip), time_dim=2, check=False)
    found = set()
    for frames in LENGTHS:
        x = torch.randn(1, 3, frames)
        if not prog.video_lengths.allows(frames):
            with pytest.raises(ClipError):
                prog.full(x)
            continue
        assert torch.allclose(prog.full(x), model(x), atol=1e-5), frames
        found.add(frames)
    return found


def _scaled(x: Tensor, by: float) -> Tensor:
    return x * by


READ: dict[str, tuple[Body, int]] = {
    "its mean, by hand": (
        lambda x: x - x[:, :, :5].sum(2, keepdim=True) / x[:, :, :5].shape[2],
        5,
    ),
    "five from the third on": (lambda x: _scaled(x, x[:, :, 2:7].shape[2]), 7),
    "the last five": (lambda x: _scaled(x, x[:, :, -5:].size(2)), 5),
    "how many there are": (lambda x: x + len(x[:, :, :5].unbind(2)), 5),
    "numbers in it": (lambda x: _scaled(x, x[0, 0, :5].numel()), 5),
    "filled up to three": (lambda x: F.pad(x, (3 - x[:, :, :3].shape[2], 0)), 3),
    "a branch": (lambda x: x * (2 if x[:, :, :5].shape[2] % 5 == 0 else 3), 5),
    "a loop over it": (
        lambda x: torch.cat(
            [x[:, :, i : i + 1] * i for i in range(x[:, :, :4].shape[2])] + [x[:, :, 4:]], 2
        ),
        4,
    ),
}


@pytest.mark.parametrize("name", READ)
def test_a_slice_whose_size_is_read(name: str) -> None:
    body, least = READ[name]
    assert answered(body, 8) == {n for n in LENGTHS if n >= least}


def test_a_slice_whose_size_is_not_read_takes_any_video() -> None:
    """The size of the video itself is no slice's."""
    body: Body = lambda x: x.view(x.shape) - x[:, :, :5].mean(2, keepdim=True)
    assert answered(body, 8) == set(LENGTHS)


def _rounded_up(x: Tensor, kernel: int, stride: int, padding: int, dilation: int) -> Tensor:
    return F.max_pool1d(x, kernel, stride, padding, dilation, ceil_mode=True)


POOLS: dict[str, Body] = {
    "stride beyond the kernel": lambda x: _rounded_up(x, 2, 4, 0, 1),
    "padded and dilated": lambda x: _rounded_up(x, 2, 4, 1, 2),
    "within the kernel": lambda x: _rounded_up(x, 3, 2, 1, 1),
    "a mean": lambda x: F.avg_pool1d(x, 3, 4, 1, ceil_mode=True),
    "a norm": lambda x: F.lp_pool1d(x, 2, 2, 3, ceil_mode=True),
    "in space as well": lambda x: F.max_pool3d(
        x[..., None, None], (2, 1, 1), (4, 1, 1), ceil_mode=True
    ),
}


@pytest.mark.parametrize("clip", [8, 11, 13])
@pytest.mark.parametrize("name", POOLS)
def test_a_branch_on_what_a_pool_that_rounds_up_gives(name: str, clip: int) -> None:
    """torch drops a last window that begins after the end by a branch of its own."""

    def way(frames: int) -> bool:
        try:
            return POOLS[name](torch.zeros(1, 3, frames)).shape[2] % 3 == 1
        except RuntimeError:  # of too few frames
            return not way(clip)

    def body(x: Tensor) -> Tensor:
        return x * (2 if POOLS[name](x).shape[2] % 3 == 1 else 3)

    assert answered(body, clip) >= {n for n in LENGTHS if way(n) == way(clip) and n >= 3}
