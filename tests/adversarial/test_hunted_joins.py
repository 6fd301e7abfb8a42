"""Values put together that have as many elements as each other at some lengths of video only: at
others the model raises, or takes the one element that a short video has to every other one."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import pgt_fx
from pgt_fx.core.errors import BlockedError, ClipError


class Joined(nn.Module):
    """Answers with a function of the clip and of a convolution of it along time."""

    def __init__(self, join: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.conv = nn.Conv1d(4, 4, 3, padding=1)
        self.join = join

    def forward(self, x: Tensor) -> Tensor:
        return self.join(x, self.conv(x))


def _rows(n: int) -> Tensor:
    return torch.arange(n, dtype=torch.float64)


#: What is joined, and the lengths, up to 12, at which both have as many elements.
JOINS: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], list[int]]] = {
    "difference of phases": (lambda x, y: y[:, :, ::2] - x[:, :, 1::2], [2, 4, 6, 8, 10, 12]),
    "channels": (lambda x, y: torch.cat([y[:, :, ::2], x[:, :, 1::2]], 1), [2, 4, 6, 8, 10, 12]),
    "where": (
        lambda x, y: torch.where(y[:, :, ::2] > 0, y[:, :, 1::2], x[:, :, ::2]),
        [2, 4, 6, 8, 10, 12],
    ),
    "windows": (
        lambda x, y: F.max_pool1d(y, 2, ceil_mode=True) * F.avg_pool1d(x, 2),
        [2, 4, 6, 8, 10, 12],
    ),
    "levels": (lambda x, y: y[:, :, ::4] + F.avg_pool1d(x, 4), [4, 8, 12]),
    "two of four": (lambda x, y: y[:, :, ::4] + x[:, :, 2::4], [3, 4, 7, 8, 11, 12]),
    "scan": (
        lambda x, y: y[:, :, ::2].cumsum(2) + x[:, :, 1::2].cumsum(2),
        [2, 4, 6, 8, 10, 12],
    ),
    "more positions": (
        lambda x, y: y[:, :, 1::2] + _rows((x.shape[2] + 1) // 2),
        [2, 4, 6, 8, 10, 12],
    ),
    "fewer positions": (lambda x, y: y[:, :, ::2] + _rows(x.shape[2] // 2), [2, 4, 6, 8, 10, 12]),
    "positions in steps": (
        lambda x, y: y[:, :, 1::2] * torch.arange(0, x.shape[2], 2, dtype=x.dtype),
        [2, 4, 6, 8, 10, 12],
    ),
    "always": (lambda x, y: y[:, :, 2:] * x[:, :, :-2] + _rows(x.shape[2] - 2), [*range(3, 13)]),
}


@pytest.mark.parametrize("name", JOINS)
def test_a_video_has_the_lengths_at_which_joined_values_have_as_many_elements(name: str) -> None:
    join, fitting = JOINS[name]
    model = Joined(join).double().eval()
    prog = pgt_fx.transform(model, torch.randn(1, 4, 8).double(), time_dim=2, future="wait")
    for frames in range(1, 13):
        video = torch.randn(1, 4, frames).double()
        prog.reset()
        with torch.no_grad():
            outputs = [prog(frame) for frame in video.split(1, dim=2)]
            if frames in fitting:
                outputs.append(prog.flush())
                found = torch.cat([out for out in outputs if out is not None], 2)
                torch.testing.assert_close(found, model(video))
            elif name != "always":
                with pytest.raises(ClipError, match="test_hunted_joins"):
                    prog.flush()


def test_a_stream_is_taken_to_a_single_element_at_no_length_of_the_clip() -> None:
    model = Joined(lambda x, y: y[:, :, 3::3] * x[:, :, 5::3]).double().eval()
    with pytest.raises(BlockedError, match="has a single element along time"):
        pgt_fx.transform(model, torch.randn(1, 4, 8).double(), time_dim=2, future="wait")


def test_a_frame_grown_to_the_video_is_refused_before_it_is_run() -> None:
    model = Joined(lambda x, y: y + x[:, :, :1].repeat(1, 1, x.shape[2])).double().eval()
    with pytest.raises(BlockedError, match="has a single element along time"):
        pgt_fx.transform(model, torch.randn(1, 4, 8).double(), time_dim=2, future="wait")


#: What is reduced, and the fewest frames of which there is an element.
REDUCED: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], int]] = {
    "energy of differences": (
        lambda x, y: (y[:, :, 1:] - y[:, :, :-1]).square().sum((1, 2)) + y.mean((1, 2)),
        2,
    ),
    "changes of sign": (lambda x, y: (y[:, :, 1:] * y[:, :, :-1] < 0).sum(2), 2),
    "sum of a tail": (lambda x, y: y[:, :, 3:].sum(2) + x.sum(2), 4),
    "mean of a tail": (lambda x, y: y[:, :, 3:].mean(2), 4),
    "largest of a valid window": (lambda x, y: F.max_pool1d(y, 5, 2).amax(2), 5),
}


@pytest.mark.parametrize("name", REDUCED)
def test_a_video_has_an_element_for_each_reduction(name: str) -> None:
    reduce, least = REDUCED[name]
    model = Joined(reduce).double().eval()
    clip = torch.randn(1, 4, 8).double()
    prog = pgt_fx.transform(model, clip, time_dim=2, future="wait", pooling="running")
    assert str(prog.video_lengths) == f"at least {least}"
    for frames in range(1, 10):
        video = torch.randn(1, 4, frames).double()
        if frames < least:
            with pytest.raises(ClipError, match="test_hunted_joins"):
                prog.full(video)
            continue
        with torch.no_grad():
            last = [out for out in prog.run(video, schedule=[1] * frames) if out is not None][-1]
            torch.testing.assert_close(last, model(video))
