"""Random numbers that a model draws from Python or NumPy: a capture freezes them as constants.

Those of torch are operators of the graph, drawn anew in each step.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pgt_fx.capture.torch_patches import MODULE_CALLS


@dataclass(frozen=True)
class Drawn:
    """A module that drew a number in its own forward.

    Attributes:
        calls: keys of the module calls around it, its own innermost.
        generator: whose it was: "random" or "numpy.random".
    """

    calls: tuple[str, ...]
    generator: str


@contextmanager
def drawn(running: Sequence[str]) -> Iterator[list[Drawn]]:
    """What is drawn while it is open; to be entered before what keeps ``running``.

    Args:
        running: keys of the module calls that run, innermost last.
    """
    found: list[Drawn] = []
    states = _states()

    def look(*_: Any) -> None:
        nonlocal states
        now = _states()
        for name, state in now.items():
            if states.get(name, state) != state and running:
                one = Drawn(tuple(running), name)
                found.extend([] if one in found else [one])
        states = now

    with MODULE_CALLS.on(look, look):
        yield found


def _states() -> dict[str, Any]:
    states: dict[str, Any] = {"random": random.getstate()}
    if (numpy := sys.modules.get("numpy")) is not None:
        kind, keys, *rest = numpy.random.get_state()
        states["numpy.random"] = (kind, keys.tobytes(), *rest)
    return states
