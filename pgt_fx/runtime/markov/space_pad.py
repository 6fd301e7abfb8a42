"""The part of a padding that is not along time."""

from __future__ import annotations

from typing import Any

import torch


class SpacePad:
    """The part of an ``F.pad`` that is not along time."""

    def __init__(self, amounts: tuple[int, ...], mode: str, value: float | None) -> None:
        self.amounts, self.mode, self.value = amounts, mode, value

    def __call__(self, x: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        if not self.amounts:
            return x
        value = self.value if self.mode == "constant" else None
        return torch.nn.functional.pad(x, list(self.amounts), self.mode, value)
