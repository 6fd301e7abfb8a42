"""A training loop to keep or to copy from: one function, read from top to bottom.

PGT paper, section 3.1: the gradients of all steps are summed, then one update.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sized
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils import _pytree as pytree

from pgt_fx.errors import OptionError
from pgt_fx.inference import predict
from pgt_fx.progressive import Progressive
from pgt_fx.schedule import DPR, PerStep, Schedule
from pgt_fx.terminal import console
from pgt_fx.training import checkpoint as files
from pgt_fx.training.gradients import Loss, backward
from pgt_fx.training.metrics import observe, several, video_scores
from pgt_fx.training.parallel import reduce_gradients, unwrapped
from pgt_fx.training.targets import PerFrame

Report = Callable[[int, int, float, dict[str, Any]], None]


@dataclass
class Training:
    """What :func:`fit` goes by; see its arguments."""

    prog: nn.Module
    optimizer: Optimizer
    scheduler: LRScheduler | None
    schedule: Schedule | DPR | None
    loss_fn: Loss
    gradient: str
    keep: int
    on: str
    accumulate: int
    autocast: AbstractContextManager[Any] | None
    scaler: torch.amp.GradScaler | None
    metrics: dict[str, Any]
    freeze_norms: bool
    report: Report
    updates: int = 0
    history: list[dict[str, float]] = field(default_factory=list)

    @property
    def inner(self) -> Progressive:
        return unwrapped(self.prog)

    @property
    def device(self) -> torch.device:
        return next(self.inner.parameters()).device

    def schedule_of(self, epoch: int) -> Schedule | None:
        """The schedule of the coming iteration; the same on every rank."""
        if isinstance(self.schedule, DPR):
            return self.schedule.draw(epoch if self.schedule.order == "cycle" else self.updates)
        return self.schedule


def fit(
    prog: nn.Module,
    loader: Iterable[tuple[Any, Any]],
    optimizer: Optimizer,
    *,
    epochs: int,
    scheduler: LRScheduler | None = None,
    schedule: Schedule | DPR | None = None,
    loss_fn: Loss = F.cross_entropy,
    gradient: str = "truncated",
    keep: int = 1,
    on: str = "every",
    accumulate: int = 1,
    autocast: AbstractContextManager[Any] | None = None,
    scaler: torch.amp.GradScaler | None = None,
    metrics: dict[str, Any] | None = None,
    validation: Iterable[tuple[Any, Any]] | None = None,
    freeze_norms: bool = False,
    checkpoint: str | Path | None = None,
    resume: bool = False,
    progress: bool = True,
) -> list[dict[str, float]]:
    """Train a progressive model on long videos.

    Args:
        prog: a progressive model, or ``DistributedDataParallel`` around one.
        loader: gives ``(video, target)``: a batch as the model takes it, and the second argument
            of ``loss_fn``, or :class:`PerStep`, :class:`PerFrame`.
        optimizer: e.g. :func:`pgt_fx.training.sgd`.
        epochs: in all, those before a resumption included.
        scheduler: its ``step()`` is called after each update; e.g. :func:`half_cosine`.
        schedule: a :class:`Schedule`; or a :class:`DPR`, from which one is drawn per update
            (order "random") or per epoch ("cycle"). Validation is on its base schedule.
        loss_fn, gradient, keep, on, autocast, scaler: as for :func:`backward`.
        accumulate: batches per update; what is left at the end of an epoch is one more.
        metrics: name -> torchmetrics metric of (N, classes) scores and targets; see
            :func:`pgt_fx.training.metrics`.
        validation: as ``loader``; each video in the progressive long view.
        freeze_norms: keep batch norms in eval mode: their statistics are those of pretraining.
        checkpoint: written after each epoch.
        resume: go on from ``checkpoint``; the result is, to the last bit, that of never having
            stopped (given a loader that shuffles by torch's generator, and deterministic kernels).
        progress: show a bar with loss and metrics (rank 0 only).

    Returns:
        one row per epoch: "epoch", "loss" (mean per batch, summed over steps), "lr", "seconds",
        and metrics, those of the validation with the prefix "val_".

    Raises:
        OptionError, ClipError: as :func:`backward`.
        CheckpointError: when there is nothing to resume from, or it is another training's; or
            where none can be written.
    """
    if accumulate < 1 or epochs < 1:
        raise OptionError(f"accumulate, epochs: expected at least 1, got {accumulate}, {epochs}")
    if resume and checkpoint is None:
        raise OptionError("resume: from which checkpoint? pass checkpoint=")
    if checkpoint is not None:
        files.check(Path(checkpoint))
    main = not dist.is_initialized() or dist.get_rank() == 0
    with _bar(progress and main) as report:
        work = Training(
            prog, optimizer, scheduler, schedule, loss_fn, gradient, keep, on, accumulate,
            autocast, scaler, metrics or {}, freeze_norms, report,
        )  # fmt: skip
        parts = {
            "model": work.inner,
            "optimizer": optimizer,
            "scheduler": scheduler,
            "scaler": scaler,
        }
        about = {"schedule": str(schedule), "options": str(work.inner.options)}
        if resume:
            work.history = files.load(Path(str(checkpoint)), parts, about)
            work.updates = int(work.history[-1]["updates"]) if work.history else 0
        for epoch in range(len(work.history), epochs):
            for one in (getattr(loader, "sampler", None), getattr(loader, "dataset", None)):
                if hasattr(one, "set_epoch"):
                    one.set_epoch(epoch)  # type: ignore[union-attr]
            start = time.perf_counter()
            row = {"epoch": float(epoch)} | _epoch(work, loader, epoch)
            if validation is not None:
                row |= evaluate(work.inner, validation, work.metrics, work.schedule)
            work.history.append(row | {"seconds": time.perf_counter() - start})
            if checkpoint is not None:
                files.save(Path(checkpoint), parts, about, work.history)
    return work.history


def _epoch(work: Training, loader: Iterable[tuple[Any, Any]], epoch: int) -> dict[str, float]:
    work.prog.train()
    if work.freeze_norms:
        for module in work.inner.modules():
            if isinstance(module, _BatchNorm):
                module.eval()
    for metric in work.metrics.values():
        metric.reset()
    total, batches, pending = 0.0, 0, 0
    count = _length(loader)
    work.optimizer.zero_grad()
    for number, (video, target) in enumerate(loader):
        video, target = to(video, work.device), to(target, work.device)
        update = (number + 1) % work.accumulate == 0 or number + 1 == count
        found = backward(
            work.prog,
            video,
            work.loss_fn,
            target,
            schedule=work.schedule_of(epoch),
            gradient=work.gradient,
            keep=work.keep,
            on=work.on,
            scale=1 / work.accumulate,
            scaler=work.scaler,
            autocast=work.autocast,
            sync=update,
        )
        total, batches, pending = total + float(found.loss), batches + 1, pending + 1
        scores = video_scores(found.outputs, target) if isinstance(target, Tensor) else None
        if scores is not None:
            observe(work.metrics, scores, target)
        if update:
            _update(work)
            pending = 0
        work.report(epoch, count, total / batches, work.metrics)
    if pending:  # a loader that doesn't know its length
        reduce_gradients(work.prog)
        _update(work)
    if not batches:
        raise OptionError("the loader gave no batch")
    values = {n: float(m.compute()) for n, m in work.metrics.items() if m.update_called}
    lr = float(work.optimizer.param_groups[0]["lr"])
    return {"loss": total / batches, "lr": lr, "updates": float(work.updates)} | values


def _length(loader: Iterable[Any]) -> int:
    """Batches of a loader; 0: it doesn't know, as one of a data set that is only iterated over."""
    try:
        return len(loader) if isinstance(loader, Sized) else 0
    except TypeError:  # DataLoader has a __len__ that asks its data set
        return 0


def _update(work: Training) -> None:
    """One update for the gradients of all steps."""
    if work.scaler is not None:
        work.scaler.step(work.optimizer)
        work.scaler.update()
    else:
        work.optimizer.step()
    work.optimizer.zero_grad()
    if work.scheduler is not None:
        work.scheduler.step()
    work.updates += 1


@torch.no_grad()
def evaluate(
    prog: Progressive,
    loader: Iterable[tuple[Any, Any]],
    metrics: dict[str, Any],
    schedule: Schedule | DPR | None = None,
) -> dict[str, float]:
    """Metrics over a loader, each video in the progressive long view: "val_" + name."""
    base = schedule.base if isinstance(schedule, DPR) else schedule
    device = next(prog.parameters()).device
    for metric in metrics.values():
        metric.reset()
    for video, target in loader:
        video, target = to(video, device), to(target, device)
        args = video if isinstance(video, tuple) else (video,)
        kind = "sigmoid" if several(target) else "auto"
        scores = predict(prog, *args, schedule=base, activation=kind, cost=False).scores
        if isinstance(target, Tensor):  # labels per step or frame are none of the whole video
            observe(metrics, scores, target)
    return {f"val_{n}": float(m.compute()) for n, m in metrics.items() if m.update_called}


def to(value: Any, device: torch.device) -> Any:
    """Tensors of a batch on a device; those in labels per step and per frame, too."""

    def move(leaf: Any) -> Any:
        if isinstance(leaf, Tensor):
            return leaf.to(device, non_blocking=True)
        if isinstance(leaf, PerStep):
            return PerStep([to(x, device) for x in leaf.targets])
        if isinstance(leaf, PerFrame):
            return replace(leaf, target=move(leaf.target))
        return leaf

    return pytree.tree_map(move, value)


class _bar:
    """A progress bar per epoch, as a context that gives a function to report to."""

    def __init__(self, shown: bool) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
        self.bar = Progress(*columns, console=console(stderr=True), disable=not shown)
        self.tasks: dict[int, Any] = {}

    def __enter__(self) -> Report:
        self.bar.start()
        return self._report

    def __exit__(self, *error: object) -> None:
        self.bar.stop()

    def _report(self, epoch: int, total: int, loss: float, metrics: dict[str, Any]) -> None:
        if epoch not in self.tasks:
            self.tasks[epoch] = self.bar.add_task("", total=total or None)
        values = {"loss": loss}
        if not dist.is_initialized() and not self.bar.disable:  # computing them gathers all ranks
            values |= {name: float(m.compute()) for name, m in metrics.items() if m.update_called}
        text = "  ".join(f"{k} {v:.3f}" for k, v in values.items())
        self.bar.update(self.tasks[epoch], advance=1, description=f"epoch {epoch + 1}  {text}")
