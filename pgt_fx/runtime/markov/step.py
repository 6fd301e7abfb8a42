"""What the operators of one step share: the incoming state, the outgoing state and what is due."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from pgt_fx.runtime.work import ConcatDue, Due, MemoryDue, PoolDue


class Step:
    """One step under way. Reads ``state``; what is to be carried goes to ``carried``.

    Attributes:
        state: named tensors as the last step left them; never written.
        carried: named tensors for the next step.
        due: operator name -> what it has to do.
    """

    __slots__ = ("carried", "due", "state")

    def __init__(self, state: Mapping[str, Tensor], due: Mapping[str, Any]) -> None:
        self.state, self.due = state, due
        self.carried: dict[str, Tensor] = {}

    def window(self, name: str) -> Due:
        return self.due[name]

    def concat(self, name: str) -> ConcatDue:
        return self.due[name]

    def pool(self, name: str) -> PoolDue:
        return self.due[name]

    def memory(self, name: str) -> MemoryDue:
        return self.due[name]

    def table(self, name: str) -> MemoryDue:
        return self.due[name]
