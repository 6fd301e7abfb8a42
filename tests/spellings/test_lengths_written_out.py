"""Lengths written out in forward: bounds of slices, kernels of pools, targets, pads and views."""

from __future__ import annotations

import pytest
from spelled import Spelling, hold

CASES: dict[str, Spelling] = {
    "all but the last": Spelling(lambda m, x: m.conv(x)[:, :, : x.shape[2] - 1]),
}


@pytest.mark.parametrize("name", CASES)
def test_it_is_exact_or_refused_for_what_it_computes(name: str) -> None:
    hold(CASES[name])
