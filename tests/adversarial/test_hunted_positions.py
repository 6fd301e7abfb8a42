"""What a hunt found in tables of positions, views in groups and pools: each is the model's own, or
refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import pgt_fx
from pgt_fx.errors import BlockedError, ClipError, PgtError


class Along(nn.Module):
    def __init__(self, of: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.of = of

    def forward(self, x: Tensor) -> Tensor:
        return self.of(x)


def plain(x: Tensor) -> Tensor:
    return x + torch.arange(x.shape[2], dtype=torch.bfloat16)


def strided(x: Tensor) -> Tensor:
    return x + torch.arange(0, 3 * x.shape[2], 3, dtype=torch.bfloat16)


def begun_late(x: Tensor) -> Tensor:
    return x * torch.arange(3, 2 * x.shape[2] + 3, 2, dtype=torch.bfloat16).cos()


def halves(x: Tensor) -> Tensor:
    return x + torch.arange(x.shape[2], dtype=torch.float16)


@pytest.mark.parametrize(("of", "frames"), [(plain, 300), (strided, 271), (halves, 2100)])
def test_positions_in_half_precision_are_the_whole_videos(
    of: Callable[[Tensor], Tensor], frames: int
) -> None:
    prog = pgt_fx.transform(Along(of), torch.zeros(1, 1, 8), future="wait", time_dim=2)
    x = torch.randn(1, 1, frames)
    for cut in (257, frames - 9):
        outs = [out for out in prog.run(x, schedule=[cut, frames - cut]) if out is not None]
        assert torch.equal(torch.cat(outs, 2), of(x)), cut


def test_half_precision_from_another_number_is_refused() -> None:
    """torch rounds its first number, and then each in a way that depends on how many there are."""
    with pytest.raises(BlockedError, match=r"in half precision[^$]*\.to\(dtype\)"):
        pgt_fx.transform(Along(begun_late), torch.zeros(1, 1, 8), future="wait", time_dim=2)


def across(x: Tensor) -> Tensor:
    y = x.reshape(-1, 4).view(-1, 2, 4) * 2
    return y.reshape(x.shape[0], -1, 4)


def test_groups_across_videos_are_refused_by_an_error_of_ours() -> None:
    try:
        prog = pgt_fx.transform(Along(across), torch.randn(2, 8, 4), future="wait", time_dim=1)
    except PgtError:
        return
    x = torch.randn(2, 12, 4)
    outs = [out for out in prog.run(x, schedule=[5, 7]) if out is not None]
    assert torch.equal(torch.cat(outs, 1), across(x))


@pytest.mark.parametrize("ceil", [False, True])
def test_an_average_over_more_frames_than_there_are(ceil: bool) -> None:
    """torch takes no kernel that is longer than what is not padded, in 3-D alone."""

    def pool(x: Tensor) -> Tensor:
        return F.avg_pool3d(x, (3, 1, 1), 1, (1, 0, 0), ceil_mode=ceil)

    prog = pgt_fx.transform(Along(pool), torch.randn(1, 2, 8, 2, 2), future="wait")
    assert str(prog.video_lengths) == "at least 3"
    for frames in (1, 2):
        x = torch.randn(1, 2, frames, 2, 2)
        with pytest.raises(RuntimeError):
            pool(x)
        with pytest.raises(ClipError, match="at least 3"):
            prog.full(x)
