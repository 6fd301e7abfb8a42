"""Metrics beside implementations from the definition: ties, empty classes, batches, NaN."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from torch import Tensor

from pgt_fx.core.errors import OptionError
from pgt_fx.training import metrics
from pgt_fx.training.metrics import figures, observe, reset


def average_precisions(scores: np.ndarray, labels: np.ndarray) -> list[float]:
    """From the definition, threshold by threshold; of the classes with a positive alone."""
    found = []
    for s, y in zip(scores.T, labels.T, strict=True):
        if not y.any():
            continue
        area, recall = 0.0, 0.0
        for threshold in sorted(set(s.tolist()), reverse=True):
            taken = s >= threshold
            right = float(y[taken].sum())
            area += (right / y.sum() - recall) * right / taken.sum()
            recall = right / y.sum()
        found.append(float(area))
    return found


def seen(found: dict[str, Any], scores: Tensor, target: Tensor, sizes: list[int]) -> dict:
    """Figures after batches of these sizes."""
    for s, t in zip(scores.split(sizes), target.split(sizes), strict=True):
        observe(found, s, t)
    return figures(found)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_mean_average_precision_is_that_of_the_definition(dtype: torch.dtype) -> None:
    for seed in range(20):
        random = torch.Generator().manual_seed(seed)
        classes = 3 + seed % 4
        scores = torch.rand(23, classes, generator=random, dtype=torch.float64)
        if seed % 2:  # ties
            scores = (scores * 5).round() / 5
        scores = scores.to(dtype)
        labels = (torch.rand(23, classes, generator=random) < 0.3).long()
        labels[:, : seed % 3] = 0
        expected = average_precisions(scores.double().numpy(), labels.numpy())
        rows = seen(metrics(classes, multilabel=True), scores, labels, [1, 9, 13])
        assert rows["mAP"] == pytest.approx(np.mean(expected), abs=1e-9)
        assert rows["mAP_left_out"] == classes - len(expected) >= seed % 3
        metric = metrics(classes, multilabel=True)["mAP"]
        metric.update(scores, labels)
        assert metric.compute().dtype == torch.float64
        assert float(metric.compute()) == pytest.approx(np.mean(expected), abs=1e-9)


def test_perfect_scores_are_one_whatever_classes_are_empty() -> None:
    labels = F.one_hot(torch.arange(120) % 60, 80)  # AVA's: 60 of 80 are measured
    rows = seen(metrics(80, multilabel=True), labels.float() * 0.5, labels, [120])
    assert rows == {"mAP": 1.0, "mAP_left_out": 20.0}
    none = torch.zeros(4, 3)
    rows = seen(metrics(3, multilabel=True), torch.rand(4, 3), none, [4])
    assert np.isnan(rows["mAP"]) and rows["mAP_left_out"] == 3
    assert figures(metrics(3, multilabel=True)) == {}, "nothing seen, nothing said"


def test_a_metric_is_of_the_videos_however_they_are_batched_and_counts_anew_when_reset() -> None:
    random = torch.Generator().manual_seed(0)
    scores = torch.randn(31, 9, generator=random, dtype=torch.float64).softmax(1)
    labels = torch.randint(0, 7, (31,), generator=random)  # no video of two classes
    order = scores.argsort(1, descending=True)
    expected = {
        "top1": float((order[:, 0] == labels).double().mean()),
        "top5": float((order[:, :5] == labels[:, None]).any(1).double().mean()),
    }
    found = metrics(9)
    for sizes in ([31], [1, 30], [10, 2, 19]):
        assert seen(found, scores, labels, sizes) == pytest.approx(expected, abs=1e-7)
        for metric in found.values():
            metric.reset()
    many = metrics(9, multilabel=True)
    one = seen(many, scores, F.one_hot(labels, 9), [31])
    many["mAP"].reset()
    assert seen(many, scores, F.one_hot(labels, 9), [3, 28]) == one and one["mAP_left_out"] >= 2


def test_top5_is_there_where_it_says_something() -> None:
    assert set(metrics(6)) == {"top1", "top5"} and set(metrics(5)) == set(metrics(2)) == {"top1"}
    for classes, kind in ((1, False), (0, True), (True, True), (2.0, False)):
        with pytest.raises(OptionError, match="classes: expected a whole number from"):
            metrics(classes, multilabel=kind)  # type: ignore[arg-type]


def test_a_score_that_is_not_a_number_makes_no_figure() -> None:
    scores, labels = torch.rand(8, 6), torch.arange(8) % 6
    broken = scores.clone()
    broken[3, 2] = torch.nan
    rows = seen(metrics(6), broken, labels, [2, 6])
    assert np.isnan(rows["top1"]) and np.isnan(rows["top5"])
    assert np.isnan(seen(metrics(6, multilabel=True), broken, F.one_hot(labels, 6), [8])["mAP"])
    found = metrics(6)
    seen(found, broken, labels, [8])
    for metric in found.values():
        metric.reset()
    assert not np.isnan(seen(found, scores, labels, [8])["top1"])


def test_labels_that_are_none_are_not_counted_as_some() -> None:
    metric = metrics(3, multilabel=True)
    mixed = torch.tensor([[0.7, 0.3, 0.0]])
    observe(metric, torch.rand(1, 3), mixed)
    assert figures(metric) == {}
    with pytest.raises(OptionError, match="expected labels 0 and 1"):
        metric["mAP"].update(torch.rand(1, 3), torch.tensor([[2, 0, 0]]))
    with pytest.raises(OptionError, match=r"shape \(N, 3\), got \(1, 4\) and \(1, 4\)"):
        metric["mAP"].update(torch.rand(1, 4), torch.zeros(1, 4))


def test_one_hot_labels_are_those_of_their_classes() -> None:
    scores = torch.eye(7)[[0, 3, 5, 1, 2, 4, 0, 3, 6]] + torch.linspace(0, 0.5, 7)
    labels = torch.tensor([0, 3, 6, 2, 2, 5, 1, 4, 0])
    expected = seen(metrics(7), scores, labels, [4, 5])
    assert 0 < expected["top1"] < expected["top5"] < 1
    for dtype in (torch.float32, torch.int64):  # of videos mixed by 0 and 1, and as they are
        one_hot = F.one_hot(labels, 7).to(dtype)
        assert seen(metrics(7), scores, one_hot, [4, 5]) == expected
    for several in (torch.tensor([[1, 1, 0]]), torch.tensor([[0, 0, 0]])):
        with pytest.raises(
            OptionError, match=r"expected one class for each video.*multilabel=True"
        ):
            observe(metrics(3), torch.rand(1, 3), several)


def _rank(rank: int, folder: Path) -> None:
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/store",
        rank=rank,
        world_size=2,
        timeout=timedelta(seconds=60),
    )
    scores, labels = torch.tensor([[0.1, 0.9], [0.8, 0.2]]), torch.tensor([1, 1])
    for found, target in (
        (metrics(2), labels),
        (metrics(2, multilabel=True), F.one_hot(labels, 2)),
    ):
        reset(found, torch.device("cpu"))
        assert figures(found) == {}
        if rank == 0:
            observe(found, scores, target)
        rows = figures(found)
        name = "top1" if "top1" in found else "mAP"
        assert rows[name] == (0.5 if name == "top1" else 1.0)
        reset(found, torch.device("cpu"))
        assert figures(found) == {}
    (folder / str(rank)).touch()
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_a_rank_that_has_seen_nothing_has_the_figures_of_all(tmp_path: Path) -> None:
    mp.spawn(_rank, args=(tmp_path,), nprocs=2)
    assert (tmp_path / "0").exists() and (tmp_path / "1").exists()
