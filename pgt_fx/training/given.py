"""Checks of what a training is given: types of its arguments, and of each batch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from os import PathLike
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from pgt_fx.core.counts import counted
from pgt_fx.core.errors import OptionError


def check_kinds(
    loader: object,
    validation: object,
    optimizer: object,
    metrics: object,
    checkpoint: object,
    init: object,
) -> None:
    """Whether what ``fit`` was given is of the kinds that it takes.

    Raises:
        OptionError: naming the argument.
    """
    for name, one, needed in (("loader", loader, True), ("validation", validation, False)):
        iterable = isinstance(one, Iterable) and not isinstance(one, (str, bytes, Tensor, dict))
        if (needed or one is not None) and not iterable:
            raise OptionError(f"{name}: expected batches (video, target), got {one!r}")
    if not isinstance(optimizer, Optimizer) and not hasattr(optimizer, "zero_grad"):
        raise OptionError(f"optimizer: expected a torch.optim.Optimizer, got {optimizer!r}")
    if metrics is not None and not isinstance(metrics, Mapping):
        raise OptionError(f"metrics: expected names with torchmetrics' metrics, got {metrics!r}")
    for name, path in (("checkpoint", checkpoint), ("init", init)):
        if path is not None and not isinstance(path, (str, PathLike)):
            raise OptionError(f"{name}: expected the name of a file, got {path!r}")


def pairs(name: str, batches: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
    """The batches of a loader.

    Raises:
        OptionError: for one that is no pair.
    """
    for batch in batches:
        if not isinstance(batch, (tuple, list)) or len(batch) != 2:
            raise OptionError(
                f"{name}: expected batches (video, target), got {counted(len(batch), 'element')}"
                if isinstance(batch, (tuple, list))
                else f"{name}: expected batches (video, target), got {type(batch).__name__}"
            )
        yield batch[0], batch[1]
