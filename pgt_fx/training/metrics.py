"""Metrics of the paper's tables, by torchmetrics: top-1 and top-5 accuracy, mean AP."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from pgt_fx.errors import PgtError


class MissingMetricsError(PgtError, ImportError):
    """torchmetrics is not installed."""


def metrics(classes: int, *, multilabel: bool = False) -> dict[str, Any]:
    """ "top1" and "top5" (where there are more than five classes), or "mAP" for several labels.

    Raises:
        MissingMetricsError: torchmetrics is not installed.
    """
    try:
        from torchmetrics import classification
    except ModuleNotFoundError as error:
        raise MissingMetricsError(
            "metrics are torchmetrics', which is not installed: pip install 'pgt_fx[train]'"
        ) from error
    if multilabel:
        return {"mAP": classification.MultilabelAveragePrecision(classes, average="macro")}
    out = {"top1": classification.MulticlassAccuracy(classes, average="micro")}
    if classes > 5:
        out["top5"] = classification.MulticlassAccuracy(classes, average="micro", top_k=5)
    return out


def several(target: Any) -> bool:
    """Whether labels are several per video: one number per class, (N, classes)."""
    return isinstance(target, Tensor) and target.dim() == 2


@torch.no_grad()
def video_scores(outputs: list[Any], target: Any) -> Tensor | None:
    """Mean over the steps that answer of the model's first output, as probabilities.

    Returns:
        (N, classes); None for dense outputs, which have no score of the video.
    """
    due = [pytree.tree_leaves(out)[0].float() for out in outputs if out is not None]
    if not due or not all(x.dim() == 2 for x in due):
        return None
    return torch.stack([x.sigmoid() if several(target) else x.softmax(1) for x in due]).mean(0)


def observe(metrics: dict[str, Any], scores: Tensor, target: Tensor) -> None:
    """Add a batch to all metrics; they take whole numbers as labels."""
    for metric in metrics.values():
        metric.to(scores.device).update(scores, target.long())
