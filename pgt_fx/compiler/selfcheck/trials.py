"""Runs of a model and of its progressive form on the same videos."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from pgt_fx.compiler.selfcheck.videos import Video, Videos
from pgt_fx.core.errors import annotate
from pgt_fx.runtime.progressive import Progressive

#: Greatest relative error that passes for rounding, and what is certainly more than rounding.
BOUNDS = {torch.float64: (1e-9, 1e-13), torch.float32: (1e-4, 1e-6)}
OTHER_BOUNDS = (5e-2, 1e-2)
#: How much more than the model itself a step may round: it adds the same numbers in another order.
SLACK = 20.0


@contextmanager
def the_model() -> Iterator[None]:
    """Around a call of the user's model as it is: what it raises says :func:`by_the_model`."""
    try:
        yield
    except Exception as error:
        annotate(error, pgt_by_the_model=True)
        raise


def by_the_model(error: BaseException) -> bool:
    """Whether it was the user's model as it is that raised, and not its progressive form."""
    return getattr(error, "pgt_by_the_model", False)


class Trials(Videos):
    """Videos with a model to run on them.

    Attributes:
        model: a copy of the user's module.
        gradients: whether they are on while it runs, for a model that asks.
    """

    model: nn.Module
    gradients = False

    def plain(self, video: Video, model: nn.Module | None = None) -> Any:
        """The model's own answer (or another model's)."""
        args, kwargs = self.args([x.clone() if isinstance(x, Tensor) else x for x in video])
        with torch.set_grad_enabled(self.gradients), the_model():
            return (model or self.model)(*args, **kwargs)

    def full(self, prog: Progressive, video: Video) -> Any:
        """The whole video in one step."""
        args, kwargs = self.args(video)
        with torch.set_grad_enabled(self.gradients):
            return prog.full(*args, **kwargs)

    def feed(self, prog: nn.Module, piece: Video, last: bool) -> Any:
        """One step, as a user makes it."""
        args, kwargs = self.args(piece)
        return prog(*args, last=last, **kwargs)

    def run(self, prog: Any, video: Video, chunks: Sequence[int]) -> list[Any]:
        """All steps of a video, from a reset on."""
        prog.reset()
        pieces = self.cut(video, chunks)
        with torch.set_grad_enabled(self.gradients):
            return [self.feed(prog, p, n == len(pieces) - 1) for n, p in enumerate(pieces)]
