"""Numbers that a model makes of its batch and its space: frozen by a capture at other sizes."""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from judge import REFUSED, RIGHT, Along, Case, judge
from torch import Tensor, nn

SPACE = (1, 2, 8, 16, 16)
OTHERS = [(1, 2, 8, 32, 32), (3, 2, 8, 16, 16), (1, 2, 8, 24, 16)]


class Strided(nn.Module):
    """Half the space; then what a case does; then time again."""

    def __init__(self, then: object) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv3d(2, 4, 3, padding=1, stride=(1, 2, 2))
        self.along = nn.Conv1d(4, 3, 3, padding=1)
        self.then = then

    def forward(self, x: Tensor) -> Tensor:
        return self.along(self.then(self.conv(x)))  # type: ignore[operator]


def _unfolded(y: Tensor) -> Tensor:
    size = y.shape[3] // 2
    return y.unfold(3, size, size).mean((3, 4, 5))


def _cropped(y: Tensor) -> Tensor:
    low = int(y.shape[3] * 0.25)
    return y[:, :, :, low : y.shape[3] - low].mean((3, 4))


def _grid(y: Tensor) -> Tensor:
    h = torch.linspace(-1, 1, y.shape[3], dtype=y.dtype)
    w = torch.linspace(-1, 1, y.shape[4], dtype=y.dtype)
    return (y * h[:, None] * w).sum((3, 4))


SIZES = {
    "mean by hand": lambda y: y.sum((3, 4)) / float(y.shape[-1] * y.shape[-2]),
    "sum over a size": lambda y: y.sum((3, 4)) / (y.shape[-1] * y.shape[-2]),
    "square root": lambda y: y.sum((3, 4)) / math.sqrt(y.shape[-1]),
    "power": lambda y: y.sum((3, 4)) * y.shape[-1] ** -0.5,
    "logarithm": lambda y: y.mean((3, 4)) * math.log(1 + y.shape[3]),
    "int of a half": lambda y: y[..., : int(y.shape[-1] / 2)].mean((3, 4)),
    "half": lambda y: y[..., : y.shape[-1] // 2].mean((3, 4)),
    "ceil of a half": lambda y: y[..., : math.ceil(y.shape[-1] / 2)].mean((3, 4)),
    "rounded": lambda y: y[..., : round(y.shape[-1] * 0.3) + 1].mean((3, 4)),
    "negative start": lambda y: y[..., -(y.shape[-1] // 3 + 1) :].mean((3, 4)),
    "cropped": _cropped,
    "topk": lambda y: y.flatten(3).topk(int(y.shape[-1] * 0.5), dim=3)[0].mean(3),
    "kth value": lambda y: y.flatten(3).kthvalue(y.shape[-1] // 2 + 1, dim=3)[0],
    "pool of half": lambda y: F.avg_pool3d(y, (1, y.shape[3] // 2, y.shape[4] // 2)).amax((3, 4)),
    "pool along time and all of space": lambda y: F.avg_pool3d(
        F.pad(y, (0, 0, 0, 0, 1, 0)), (2, y.size(3), y.size(4)), stride=1
    ).mean((3, 4)),
    "unfold": _unfolded,
    "linspace": _grid,
    "arange": lambda y: (y * torch.arange(y.shape[-1], dtype=y.dtype)).mean((3, 4)),
    "eye": lambda y: (y * torch.eye(y.shape[3], y.shape[4], dtype=y.dtype)).sum((3, 4)),
    "full of a size": lambda y: y.mean((3, 4)) * torch.full((1,), y.shape[3], dtype=y.dtype),
    "tensor of a size": lambda y: y.mean((3, 4)) * torch.tensor(float(y.shape[3])),
    "adaptive pool": lambda y: F.adaptive_avg_pool3d(
        y, (None, y.shape[3] // 4, y.shape[4] // 4)
    ).amax((3, 4)),
    "interpolated": lambda y: (
        F.interpolate(y.flatten(1, 2), size=(y.shape[3] // 2, y.shape[4] // 2), mode="bilinear")
        .unflatten(1, (4, -1))
        .amax((3, 4))
    ),
    "shifted by a half": lambda y: (y * y.roll(y.shape[-1] // 2, -1)).mean((3, 4)),
    "padded to a multiple": lambda y: F.avg_pool3d(
        F.pad(y, (0, -y.shape[4] % 3, 0, -y.shape[3] % 3)), (1, 3, 3)
    ).mean((3, 4)),
    "branch on space": lambda y: y.mean((3, 4)) * (2 if y.shape[3] > 10 else 3),
    "branch on area": lambda y: y.mean((3, 4)) * (2 if y.shape[3] * y.shape[4] >= 128 else 3),
    "branch on aspect": lambda y: y.mean((3, 4)) * (2 if y.shape[3] == y.shape[4] else 3),
    "branch on remainder": lambda y: y.mean((3, 4)) * (2 if y.shape[3] % 8 else 3),
    "table by size": lambda y: y.mean((3, 4)) * {8: 2.0, 16: 3.0, 12: 5.0}[y.shape[3]],
    "range of rows": lambda y: sum(y[:, :, :, i].mean(3) * (i + 1) for i in range(y.shape[3])),
    "batch as a number": lambda y: y.mean((3, 4)) * float(y.shape[0]),
    "batch as a divisor": lambda y: y.mean((3, 4)) / y.shape[0],
    "branch on batch": lambda y: y.mean((3, 4)) * (2 if y.shape[0] == 1 else 3),
    "range of the batch": lambda y: torch.stack(
        [y[i].mean((2, 3)) * (i + 1) for i in range(y.shape[0])]
    ),
    "str of a size": lambda y: y.mean((3, 4)) * len(str(int(y.shape[3]))),
    "bits of a size": lambda y: y.mean((3, 4)) * int(y.shape[3]).bit_length(),
}


@pytest.mark.parametrize("name", SIZES)
def test_a_number_of_the_space_or_the_batch(name: str) -> None:
    case = Case(lambda: Strided(SIZES[name]), RIGHT, SPACE, (3, 9), OTHERS)
    assert judge(case) == RIGHT


def test_an_assertion_in_a_helper_refuses_what_the_model_refuses() -> None:
    def even(y: Tensor) -> Tensor:
        assert y.shape[3] % 2 == 0
        return y

    case = Case(
        lambda: Along(lambda s, y: even(y)), RIGHT, others=[(1, 2, 8, 6, 4), (1, 2, 8, 5, 4)]
    )
    assert judge(case) == RIGHT


@functools.lru_cache
def _doubled(side: int) -> int:
    return side * 2


def _told(y: Tensor) -> Tensor:
    """Sizes in texts that nobody but a person reads."""
    print(f"features of {tuple(y.shape)}")
    logging.getLogger(__name__).warning("%s and %d rows", y.shape, y.shape[0])
    logging.getLogger(__name__).debug(f"{y.shape[2]:4d} frames")
    assert y.shape[1] == 2, f"channels of {y.shape}"
    if y.dim() != 5:
        raise ValueError(f"not a video: {y.shape}")
    return y


FIVE = {(8, 8): 2.0, (16, 8): 3.0, (12, 12): 5.0}
TEXTS: dict[str, Callable[[Tensor], float]] = {
    "f-string": lambda y: {"8": 2.0, "16": 3.0}.get(f"{y.shape[3]}", 5.0),
    "format": lambda y: 2 if f"{y.shape[3]:03d}" == "008" else 3,
    "format of a half": lambda y: 2 if f"{y.shape[3] / 2:.1f}" == "4.0" else 3,
    "str": lambda y: 2 if str(y.shape[3]) == "8" else 3,
    "repr": lambda y: 2 if repr(y.shape[3]) == "8" else 3,
    "percent d": lambda y: 2 if "%d" % y.size(3) == "8" else 3,  # noqa: UP031
    "percent s": lambda y: 2 if "%s" % y.size(3) == "8" else 3,  # noqa: UP031
    "str of a condition": lambda y: len(str(y.shape[3] > 8)),
    "str of space": lambda y: len(str(tuple(y.shape[3:]))),
    "length of a text": lambda y: len(f"{y.shape[3]}"),
    "key": lambda y: {8: 2.0, 16: 3.0}.get(y.shape[3], 5.0),
    "pair as a key": lambda y: FIVE.get(tuple(y.shape[3:]), 7.0),
    "sizes as a key": lambda y: FIVE.get(y.shape[3:], 7.0),
    "member of a set": lambda y: 2 if y.shape[3] in {8, 24} else 3,
    "hash": lambda y: 2 if hash(y.shape[3]) == 8 else 3,
    "remembered": lambda y: _doubled(y.shape[3]),
    "batch": lambda y: 2 if f"{y.shape[0]}" == "1" else 3,
}


@pytest.mark.parametrize("name", TEXTS)
def test_a_size_that_is_written_out(name: str) -> None:
    """Of a size that leaves Python's numbers as a text or a key the graph has one value."""
    case = Case(
        lambda: Strided(lambda y: y.mean((3, 4)) * TEXTS[name](y)),
        RIGHT,
        SPACE,
        (3, 9),
        [(2, 2, 8, 16, 8), (1, 2, 8, 12, 12)],
    )
    assert judge(case) == RIGHT


def test_a_size_in_a_message_is_no_condition() -> None:
    assert judge(Case(lambda: Along(lambda s, y: _told(y)), others=[(2, 2, 8, 6, 4)])) == RIGHT


FRAMES = {
    "text": lambda y: y * len(f"{y.shape[2]}"),
    "all sizes": lambda y: y * len(str(y.shape)),
    "key": lambda y: y * {8: 2.0}.get(y.shape[2], 3.0),
    "format": lambda y: y * (2 if f"{y.shape[2]:02d}" == "08" else 3),
}


@pytest.mark.parametrize("name", FRAMES)
def test_a_number_of_frames_that_is_written_out_is_refused_with_its_line(name: str) -> None:
    case = Case(lambda: Along(lambda s, y: FRAMES[name](y)), REFUSED, says="y.shape")
    assert judge(case) == REFUSED
