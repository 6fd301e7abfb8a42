"""Errors of operators that the model catches: which way it goes then depends on the sizes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
from judge import PARTLY, REFUSED, RIGHT, Along, Case, judge
from torch import Tensor


def _pairs(y: Tensor) -> Tensor:
    n, c, t, h, w = y.shape
    return y.view(n, c, t // 2, 2, h, w).flatten(2, 3) * 2


def _rows(y: Tensor) -> Tensor:
    n, c, t, h, w = y.shape
    return y.view(n, c, t, h // 2, 2, w).flatten(3, 4) * 2


def _caught(then: Callable[[Tensor], Tensor]) -> Callable[[Any, Tensor], Tensor]:
    def run(s: Any, y: Tensor) -> Tensor:
        try:
            return then(y)
        except (RuntimeError, IndexError):
            return y * 3

    return run


def _suppressed(s: Any, y: Tensor) -> Tensor:
    with contextlib.suppress(RuntimeError):
        y = _rows(y)
    return y


def _told_otherwise(s: Any, y: Tensor) -> Tensor:
    try:
        return y.view(*y.shape[:3], -1).mean(3)[..., None, None]
    except RuntimeError as error:
        raise ValueError(f"not a video: {y.shape}") from error


def _finally(s: Any, y: Tensor) -> Tensor:
    try:
        return y * 2
    finally:
        s.done = 1


# Even and odd sizes, lengths on both sides of what a call takes.
WAYS: dict[str, tuple[Callable[[Any, Tensor], Tensor], int, str]] = {
    "pairs of frames": (_caught(_pairs), 4, PARTLY),
    "pairs of rows": (_caught(_rows), 4, PARTLY),
    "pairs of rows, odd": (_caught(_rows), 5, REFUSED),
    "suppressed": (_suppressed, 4, PARTLY),
    "table of a clip": (_caught(lambda y: y + torch.ones(8, 1, 1, dtype=y.dtype)), 4, REFUSED),
    "twelve frames": (_caught(lambda y: y.narrow(2, 0, 12) * 2), 4, REFUSED),
    "entry of a table": (_caught(lambda y: y * torch.ones(1)[y.shape[2] - 8]), 4, REFUSED),
    "fails always": (_caught(lambda y: y @ torch.ones(7, 7)), 4, REFUSED),
    "fails never": (_caught(torch.relu), 4, RIGHT),
    "raises another": (_told_otherwise, 4, RIGHT),
    "finally": (_finally, 4, RIGHT),
}


@pytest.mark.parametrize("name", WAYS)
def test_a_way_that_is_taken_after_an_error(name: str) -> None:
    then, side, expected = WAYS[name]
    others = [(1, 2, 8, 5, 5), (2, 2, 8, 6, 4)]
    frames = (1, 2, 3, 7, 8, 11, 12, 13, 16)
    case = Case(lambda: Along(then), expected, (1, 2, 8, side, side), frames, others)
    found = judge(case)
    assert found in (expected, RIGHT) if expected == PARTLY else found == expected


def test_the_line_of_the_error_is_named() -> None:
    then = _caught(lambda y: y.narrow(2, 0, 12))
    assert judge(Case(lambda: Along(then), REFUSED, says="y.narrow(2, 0, 12)")) == REFUSED
