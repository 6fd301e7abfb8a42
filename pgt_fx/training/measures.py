"""Metrics on torchmetrics, which has to be installed: NaN among the scores makes a metric NaN, and
the mean average precision is over the classes that can have one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy
from torchmetrics.utilities import dim_zero_cat

from pgt_fx.core.errors import OptionError


class Accuracy(MulticlassAccuracy):
    """Videos whose class is among the ``top_k`` best scores, divided by all videos.

    A class without a video takes no part. NaN if any score is NaN: no class is the best then.
    """

    unsound: Tensor

    def __init__(self, classes: int, top_k: int = 1) -> None:
        super().__init__(classes, average="micro", top_k=top_k)
        self.add_state("unsound", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Add a batch.

        Args:
            preds: scores, (N, classes).
            target: the number of each video's class, (N,); or a 1 for it and 0 for all others, (N,
                classes).

        Raises:
            OptionError: for a video with no class, or with several.
        """
        if target.dim() == 2:
            target = _class_of_each(target)
        self.unsound = self.unsound + preds.isnan().sum()
        super().update(preds.nan_to_num(0.0), target)

    def compute(self) -> Tensor:
        found = super().compute()
        return found.new_full((), torch.nan) if self.unsound else found


def _class_of_each(target: Tensor) -> Tensor:
    """Numbers of the classes that one-hot labels (N, classes) name.

    Raises:
        OptionError: for other labels.
    """
    if not bool(((target == 0) | (target == 1)).all() and (target.sum(1) == 1).all()):
        raise OptionError(
            "top1, top5: expected one class for each video, got labels with none or several; use "
            "metrics(classes, multilabel=True)"
        )
    return target.argmax(1)


class MeanAveragePrecision(Metric):
    """Mean of :func:`average_precision` over the classes that have a positive.

    torchmetrics' ``MultilabelAveragePrecision(average="macro")`` counts the others as zero, is
    computed in float32, and applies a sigmoid to those batches alone that leave [0, 1].

    Attributes:
        left_out: classes without a positive, which the last ``compute()`` left out. Where that is
            all of them, the metric is NaN.
    """

    full_state_update = False
    is_differentiable, higher_is_better = False, True
    scores: list[Tensor]
    labels: list[Tensor]

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes, self.left_out = classes, 0
        self.add_state("scores", [], dist_reduce_fx="cat")
        self.add_state("labels", [], dist_reduce_fx="cat")

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Add a batch: scores and 0/1 labels, both (N, classes).

        Raises:
            OptionError: for other shapes, or other labels.
        """
        if preds.shape != target.shape or preds.shape[1:] != (self.classes,):
            raise OptionError(
                f"mAP: expected scores and labels of shape (N, {self.classes}), got "
                f"{tuple(preds.shape)} and {tuple(target.shape)}"
            )
        if ((target != 0) & (target != 1)).any():
            raise OptionError("mAP: expected labels 0 and 1, one per class")
        # In float64, which keeps their order: ranks exchange scores of one type.
        self.scores.append(preds.detach().double())
        self.labels.append(target.bool())

    def sync(self, *args: Any, **options: Any) -> None:
        """Exchange scores with the other ranks, for which a rank without any gives an empty tensor:
        with none at all it would leave the exchange out, and the others would wait for it."""
        if not self.scores:
            self.scores.append(torch.zeros(0, self.classes, dtype=torch.float64).to(self.device))
            self.labels.append(torch.zeros(0, self.classes, dtype=torch.bool).to(self.device))
        super().sync(*args, **options)

    def compute(self) -> Tensor:
        each = average_precision(dim_zero_cat(self.scores), dim_zero_cat(self.labels))
        with_positives = dim_zero_cat(self.labels).any(0)
        self.left_out = self.classes - int(with_positives.sum())
        return each[with_positives].mean()


def average_precision(scores: Tensor, labels: Tensor) -> Tensor:
    """Area under the steps of each class's precision and recall: Σ (R_n - R_(n-1)) P_n, over the
    distinct scores from the highest down; videos of equal score are taken together.

    Args:
        scores: (N, classes); only their order matters.
        labels: (N, classes), True where a video is of a class.

    Returns:
        (classes,) float64; NaN for a class without a positive, or with a score that is NaN.
    """
    found = scores.new_full((scores.shape[1],), torch.nan, dtype=torch.float64)
    for number in range(scores.shape[1]):
        ordered, order = scores[:, number].sort(descending=True)
        right = labels[order, number].cumsum(0)
        if not len(right) or not right[-1] or ordered.isnan().any():
            continue
        end_of_a_tie = torch.ones_like(ordered, dtype=torch.bool)
        end_of_a_tie[:-1] = ordered[1:] != ordered[:-1]
        taken = end_of_a_tie.nonzero()[:, 0]
        right = right[taken].double()
        gained = right.diff(prepend=right.new_zeros(1))
        found[number] = (gained * right / (taken + 1)).sum() / right[-1]
    return found


def metrics_of(classes: int, *, multilabel: bool) -> dict[str, Any]:
    """See :func:`pgt_fx.training.metrics`."""
    if multilabel:
        return {"mAP": MeanAveragePrecision(classes)}
    out = {"top1": Accuracy(classes)}
    if classes > 5:
        out["top5"] = Accuracy(classes, top_k=5)
    return out
