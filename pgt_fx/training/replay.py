"""Replay of a step: the same random numbers, and no second update of running statistics."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from pgt_fx.core.torch_private import NormBase, written_count


class Replay:
    """The moment before a step's first run; as a context, its second run.

    Random generators (torch's on the CPU and the devices of the model, Python's, NumPy's) are set
    to that moment and put back afterwards; so are buffers that a step may read and write (a
    warm-up's counter). Those of norms are written in training and not read there: they get back
    what they had before the second run, which is what the first run has made of them.

    Args:
        before: that of the step before; what no step writes is kept once for all of them.
    """

    def __init__(self, model: nn.Module, before: Replay | None = None) -> None:
        self._model = model
        known = {} if before is None else before._buffers
        self._buffers: dict[int, tuple[Tensor, int, Tensor]] = {}
        for buffer in _read_and_written(model):
            kept = known.get(id(buffer))
            if kept is None or kept[1] != written_count(buffer):
                kept = (buffer, written_count(buffer), buffer.detach().clone())
            self._buffers[id(buffer)] = kept
        self._devices = sorted({p.device.index or 0 for p in model.parameters() if p.is_cuda})
        self._rng = self._now()

    def _now(self) -> tuple[Any, list[Any], Any, Any]:
        on_devices = [torch.cuda.get_rng_state(d) for d in self._devices]
        numpy = sys.modules.get("numpy")  # what was not imported has drawn nothing
        of_numpy = None if numpy is None else numpy.random.get_state()
        return torch.get_rng_state(), on_devices, random.getstate(), of_numpy

    def _set(self, rng: tuple[Any, list[Any], Any, Any]) -> None:
        torch.set_rng_state(rng[0])
        for device, state in zip(self._devices, rng[1], strict=True):
            torch.cuda.set_rng_state(state, device)
        random.setstate(rng[2])
        if rng[3] is not None:
            sys.modules["numpy"].random.set_state(rng[3])

    def __enter__(self) -> None:
        self._after = self._now()
        self._kept = [(b, b.clone()) for b in self._model.buffers()]
        self._set(self._rng)
        with torch.no_grad():
            for buffer, version, value in self._buffers.values():
                if written_count(buffer) != version:
                    buffer.copy_(value)

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


def _read_and_written(model: nn.Module) -> Iterator[Tensor]:
    for module in model.modules():
        if not isinstance(module, NormBase):
            yield from module.buffers(recurse=False)
