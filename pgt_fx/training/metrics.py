"""Metrics of the paper's tables, on torchmetrics: top-1 and top-5 accuracy, mean AP."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from pgt_fx.core.errors import OptionError, PgtError
from pgt_fx.core.torch_private import pytree


class MissingMetricsError(PgtError, ImportError):
    """torchmetrics is not installed."""


def metrics(classes: int, *, multilabel: bool = False) -> dict[str, Any]:
    """The metrics of one label per video, or of several.

    - "top1", and where there are more than five classes "top5": videos whose class is among the
      best one or five scores, divided by all videos (Kinetics' protocol). With five classes or
      fewer every video would be among the five.
    - "mAP", for several labels: the mean over classes of the average precision, which is the area
      under the steps of precision and recall, without interpolation. Classes without a positive
      have none and are left out of the mean, and :func:`fit` reports their number as
      "mAP_left_out" (the protocol of Charades, as PySlowFast and scikit-learn compute it).

    All videos of an epoch count equally, however they are batched. A score that is NaN makes its
    metric NaN, and so does a mAP without any positive.

    Args:
        classes: their number.
        multilabel: labels are 0 or 1 for each class, (N, classes). Else they are the number of each
            video's class, (N,), or a single 1 among 0s, (N, classes).

    Raises:
        MissingMetricsError: torchmetrics is not installed.
        OptionError: fewer than two classes where each video has one, or none at all.
    """
    least = 1 if multilabel else 2
    if isinstance(classes, bool) or not isinstance(classes, int) or classes < least:
        raise OptionError(f"classes: expected a whole number from {least} on, got {classes!r}")
    try:
        import torchmetrics  # noqa: F401
    except ModuleNotFoundError as error:
        raise MissingMetricsError(
            "metrics are torchmetrics', which is not installed: pip install 'pgt_fx[train]'"
        ) from error
    from pgt_fx.training.measures import metrics_of

    return metrics_of(classes, multilabel=multilabel)


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
    """Add a batch to all metrics; they take whole numbers as labels. Labels between 0 and 1 (mixed
    videos) name no class: such a batch is not counted."""
    if target.is_floating_point() and bool((target != target.round()).any()):
        return
    for metric in metrics.values():
        metric.to(scores.device).update(scores, target.long())


def reset(metrics: dict[str, Any], device: torch.device) -> None:
    """Begin anew. On the model's device: ranks exchange what is there, also of no batch."""
    for metric in metrics.values():
        metric.to(device).reset()


def figures(metrics: dict[str, Any], prefix: str = "") -> dict[str, float]:
    """Values of the metrics that have seen a batch, each with the classes that it left out.

    With several ranks, of those that have seen one on any rank: to compute a value is to exchange
    it, and a rank that leaves that out would have the others wait for ever.
    """
    found: dict[str, float] = {}
    seen = _on_any_rank({name for name, metric in metrics.items() if metric.update_called})
    for name, metric in metrics.items():
        if name in seen:
            found[prefix + name] = float(metric.compute())
            left_out = getattr(metric, "left_out", None)
            if left_out is not None:
                found[f"{prefix}{name}_left_out"] = float(left_out)
    return found


def _on_any_rank(names: set[str]) -> set[str]:
    if not (dist.is_available() and dist.is_initialized()):
        return names
    ranks: list[set[str]] = [set() for _ in range(dist.get_world_size())]
    dist.all_gather_object(ranks, names)
    return set().union(*ranks)
