"""A step run a second time: the same random numbers, and no second update of running statistics."""

from __future__ import annotations

from types import TracebackType
from typing import Any

import torch
from torch import nn


class Replay:
    """The moment before a step's first run; as a context, its second run.

    Random generators (CPU, and the devices of the model) are set to that moment and put back
    afterwards. Buffers that the second run changes (running mean and variance, counters) get back
    what they had before it: the first run has updated them.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._devices = sorted({p.device.index or 0 for p in model.parameters() if p.is_cuda})
        self._rng = self._now()

    def _now(self) -> tuple[Any, list[Any]]:
        return torch.get_rng_state(), [torch.cuda.get_rng_state(d) for d in self._devices]

    def _set(self, rng: tuple[Any, list[Any]]) -> None:
        torch.set_rng_state(rng[0])
        for device, state in zip(self._devices, rng[1], strict=True):
            torch.cuda.set_rng_state(state, device)

    def __enter__(self) -> None:
        self._after = self._now()
        self._kept = [(b, b.clone()) for b in self._model.buffers()]
        self._set(self._rng)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._set(self._after)
        # All of them: batch norm writes its statistics without raising the tensors' versions.
        with torch.no_grad():
            for buffer, value in self._kept:
                buffer.copy_(value)
        del self._kept
