"""Python that looks at the number of frames: branches, remainders, loops, at any length."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from judge import PARTLY, REFUSED, RIGHT, Along, Case, judge
from torch import Tensor


def _split(y: Tensor) -> Tensor:
    return torch.cat([part * (i + 1) for i, part in enumerate(y.split(256, 2))], 2)


def _halves(y: Tensor) -> Tensor:
    return y * 2 if y.shape[2] // 200 else y * 3


def _helper(y: Tensor, limit: int) -> Tensor:
    assert y.shape[2] < limit, "too long"
    return y


# Lengths on both sides of what the model asks. Where no graph but one is the model for all
# lengths of a video, those of the clip's kind are answered and the others refused.
BRANCHES = {
    "above 300": (lambda s, y: y * (2 if y.shape[2] > 300 else 3), (299, 300, 301), PARTLY),
    "exactly 70": (lambda s, y: y * (2 if y.shape[2] == 70 else 3), (69, 70, 71, 140), PARTLY),
    "one of two": (
        lambda s, y: y * (2 if y.shape[2] in (500, 600) else 3),
        (499, 500, 501, 600),
        PARTLY,
    ),
    "floor as truth": (lambda s, y: _halves(y), (199, 200, 201), PARTLY),
    "odd remainder": (
        lambda s, y: y * (2 if (y.shape[2] * 7) % 31 == 3 else 3),
        (8, 26, 27, 28, 58),
        PARTLY,
    ),
    "number that grows late": (
        lambda s, y: y * float(1 + y.shape[2] // 7000),
        (24, 300),
        RIGHT,
    ),
    "split in long videos": (lambda s, y: _split(y), (255, 256, 257, 512, 513), PARTLY),
    "group of three": (
        lambda s, y: y.unflatten(2, (y.shape[2] // 3, 3)).flip(3).flatten(2, 3),
        (9, 12, 10),
        PARTLY,
    ),
    "even": (lambda s, y: y * (2 if y.shape[2] % 2 else 3), (7, 8, 9, 10), PARTLY),
    "more than one": (lambda s, y: y * (2 if y.shape[2] > 1 else 3), (1, 2, 3), PARTLY),
    "at least five": (lambda s, y: y * (2 if y.shape[2] >= 5 else 3), (3, 4, 5, 6), PARTLY),
    "elements": (lambda s, y: y * (2 if y.numel() > 500 else 3), (8, 15, 16), PARTLY),
    "between": (lambda s, y: y * (2 if 5 < y.shape[2] < 50 else 3), (5, 6, 49, 50), PARTLY),
    "not twelve": (lambda s, y: y * (2 if y.shape[2] != 12 else 3), (11, 12, 13), PARTLY),
    "either of two": (
        lambda s, y: y * (2 if y.shape[2] < 4 or y.shape[2] > 40 else 3),
        (3, 4, 40, 41),
        PARTLY,
    ),
    "log of a length": (lambda s, y: y * math.log(y.shape[2]), (8, 9), PARTLY),
    "root of a length": (lambda s, y: y / math.sqrt(y.shape[2]), (8, 9), PARTLY),
    "float of a length": (lambda s, y: y * float(y.shape[2]), (8, 9), PARTLY),
    "length in a tensor": (lambda s, y: y * torch.tensor(y.shape[2]), (8, 9), PARTLY),
    "assertion": (lambda s, y: _helper(y, 100), (99, 100), RIGHT),
    "asserted multiple": (lambda s, y: _quarter(y), (8, 9, 12), RIGHT),
    "minimum": (lambda s, y: y * min(y.shape[2], 16), (8, 15, 16, 17), PARTLY),
    "maximum": (lambda s, y: y * max(y.shape[2], 16), (8, 15, 16, 17), PARTLY),
    "bit length": (lambda s, y: y * int(y.shape[2]).bit_length(), (7, 8, 15, 16), PARTLY),
    "range": (lambda s, y: sum(y * i for i in range(y.shape[2])), (8, 9), PARTLY),
    "while": (lambda s, y: _while(y), (7, 8, 15, 16), PARTLY),
    "sevenths": (lambda s, y: y * (2 if y.shape[2] % 7 == 1 else 3), (7, 8, 15, 16), PARTLY),
    "elevenths": (lambda s, y: y * (2 if y.shape[2] % 11 < 4 else 3), (8, 11, 12, 19), PARTLY),
    "square": (lambda s, y: y * (2 if y.shape[2] ** 2 > 400 else 3), (20, 21), PARTLY),
    "half above ten": (lambda s, y: y * (2 if y.shape[2] // 2 > 10 else 3), (21, 22), PARTLY),
    "ratio": (lambda s, y: y * (2 if y.shape[2] / 3 > 10.5 else 3), (31, 32), PARTLY),
}


def _quarter(y: Tensor) -> Tensor:
    assert not y.shape[2] % 4
    return y


def _while(y: Tensor) -> Tensor:
    left = y.shape[2]
    while left > 1:
        y, left = y * 1.5, left // 2
    return y


@pytest.mark.parametrize("name", BRANCHES)
def test_a_branch_on_the_length(name: str) -> None:
    then, frames, expected = BRANCHES[name]
    found = judge(Case(lambda: Along(then), expected, frames=frames))
    # A number that only one length has may as well be refused for the clip.
    assert found in (expected, REFUSED) if expected == PARTLY else found == expected


POOLS = {
    "kernel that grows": lambda s, y: F.avg_pool3d(y, (1 + y.shape[2] // 16, 1, 1), 1),
    "kernel of all": lambda s, y: F.avg_pool3d(y, (y.shape[2], 1, 1)),
    "stride of a quarter": lambda s, y: F.avg_pool3d(y, (2, 1, 1), (max(1, y.shape[2] // 8), 1, 1)),
    "pad by remainder": lambda s, y: F.pad(y, (0, 0, 0, 0, 0, -y.shape[2] % 4)),
    "slice of a half": lambda s, y: y[:, :, : y.shape[2] // 2],
    "slice but for a third": lambda s, y: y[:, :, : y.shape[2] - y.shape[2] // 3],
    "slice of at most 20": lambda s, y: y[:, :, :20],
    "slice from 20 on": lambda s, y: torch.cat([y, y[:, :, 20:] * 2], 2),
    "every k-th": lambda s, y: y[:, :, :: 1 + y.shape[2] // 16],
    "repeat": lambda s, y: y.repeat_interleave(1 + y.shape[2] // 16, 2),
    "chunks": lambda s, y: torch.cat([c * (i + 1) for i, c in enumerate(y.chunk(4, 2))], 2),
    "shift by a length": lambda s, y: y.roll(y.shape[2] // 2, 2),
    "reversed": lambda s, y: y.flip(2),
    "last of few": lambda s, y: y[:, :, min(6, y.shape[2] - 1)],
    "interpolated to a length": lambda s, y: F.interpolate(y, size=(y.shape[2] * 2 // 3, 4, 4)),
}


@pytest.mark.parametrize("name", POOLS)
def test_an_argument_made_of_the_length(name: str) -> None:
    options = {"pooling": "running"}  # of one over all of time
    frames = (5, 8, 9, 15, 16, 17, 20, 21, 33)
    judge(Case(lambda: Along(POOLS[name]), frames=frames, options=options))


def test_time_in_the_batch_by_a_constant_number_of_frames() -> None:
    """``view(nt // 8, 8, …)``: a clip's frames, whatever the video's."""

    def grouped(s: object, y: Tensor) -> Tensor:
        n, c, t, h, w = y.shape
        z = y.transpose(1, 2).reshape(n * t, c, h, w)
        z = z.view(n * t // 8, 8, c, h, w)
        z = torch.cat([z[:, 1:, :1], z[:, -1:, :1]], 1)
        return z.reshape(n, t, 1, h, w).transpose(1, 2)

    judge(Case(lambda: Along(grouped), frames=(8, 16, 24, 12)))
