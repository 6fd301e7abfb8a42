"""A training loop to keep or to copy from: one function, read from top to bottom.

PGT paper, section 3.1: the gradients of all steps are summed, then one update.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sized
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
import torch.distributed as dist
import torch.nn.functional as F
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from pgt_fx.core.errors import OptionError
from pgt_fx.core.schedule import DPR, OverTime, PerStep, Schedule
from pgt_fx.core.terminal import console
from pgt_fx.core.torch_private import BatchNorm, pytree
from pgt_fx.runtime.progressive import Progressive
from pgt_fx.training import checkpoint as files
from pgt_fx.training import identity
from pgt_fx.training.given import check_kinds, pairs
from pgt_fx.training.gradients import Gradient, Loss, On, backward, check_options
from pgt_fx.training.metrics import figures, reset
from pgt_fx.training.observed import observe_training, observe_validation
from pgt_fx.training.optim import check_parameters, check_updates
from pgt_fx.training.parallel import check_one_training, of_rank_0, reduce_gradients, unwrapped
from pgt_fx.training.targets import PerFrame

_EMPTY = "it gave no batch; expected at least one"
Report = Callable[[int, int, float, dict[str, Any]], None]


@runtime_checkable
class _ByEpoch(Protocol):
    """A sampler or a dataset with ``set_epoch``."""

    def set_epoch(self, epoch: int) -> Any: ...


@dataclass
class Training:
    """What :func:`fit` goes by; see its arguments."""

    prog: nn.Module
    optimizer: Optimizer
    scheduler: LRScheduler | None
    schedule: Schedule | DPR | None
    loss_fn: Loss
    gradient: Gradient
    keep: int
    on: On
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

    def about(self, loader: Any, settings: dict[str, Any]) -> dict[str, Any]:
        """What defines this training, for a checkpoint: "start" and "now" are equal at first."""
        now = {
            **{name: identity.plain(value) for name, value in settings.items()},
            "schedule": identity.schedule_of(self.schedule),
            "options": str(self.inner.options),
            "gradient": self.gradient,
            "keep": self.keep,
            "on": self.on,
            "accumulate": self.accumulate,
            "freeze_norms": self.freeze_norms,
            "loss_fn": identity.function_of(self.loss_fn),
            "device": self.device.type,
            "ranks": dist.get_world_size() if dist.is_initialized() else 1,
            **identity.optimizer_of(self.optimizer, self.scheduler),
            **identity.precision_of(self.autocast, self.scaler),
            **identity.data_of(loader),
            **identity.model_of(self.inner.inspect.model),
        }
        about = {"start": now, "now": now, "environment": identity.environment_of(self.device)}
        return of_rank_0(about)  # the others differ in their share of the data

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
    gradient: Gradient = "truncated",
    keep: int = 1,
    on: On = "every",
    accumulate: int = 1,
    autocast: AbstractContextManager[Any] | None = None,
    scaler: torch.amp.GradScaler | None = None,
    metrics: dict[str, Any] | None = None,
    validation: Iterable[tuple[Any, Any]] | None = None,
    freeze_norms: bool = False,
    checkpoint: str | Path | None = None,
    resume: bool = False,
    init: str | Path | None = None,
    settings: dict[str, Any] | None = None,
    progress: bool = True,
    dry_run: bool = False,
) -> list[dict[str, float]]:
    """Train a progressive model on long videos.

    Args:
        prog: a progressive model, or ``DistributedDataParallel`` around one.
        loader: gives ``(video, target)``: a batch as the model takes it, and the second argument
            of ``loss_fn``, or :class:`PerStep`, :class:`PerFrame`, :class:`OverTime`. Under a
            :class:`DPR` the steps are drawn here: what differs by step, labels or boxes, is an
            :class:`OverTime`.
        optimizer: e.g. :func:`pgt_fx.training.sgd`.
        epochs: in all, those before a resumption included.
        scheduler: its ``step()`` is called after each update; e.g. :func:`half_cosine`.
        schedule: a :class:`Schedule`; or a :class:`DPR`, from which one is drawn per update
            (order "random") or per epoch ("cycle"). Validation is on its base schedule.
        loss_fn, gradient, keep, on, autocast, scaler: as for :func:`backward`.
        accumulate: batches per update; what is left at the end of an epoch is one more.
        metrics: name -> torchmetrics metric of (N, classes) scores and targets; see
            :func:`pgt_fx.training.metrics`. Where boxes and labels are given step by step, each
            step's are shown to them.
        validation: as ``loader``; each video in the progressive long view. It draws no random
            number of the training's: with it and without, the weights are the same.
        freeze_norms: keep batch norms in eval mode: their statistics are those of pretraining.
        checkpoint: written after each epoch, in one move. No other training may write to it.
        resume: go on from ``checkpoint``; the result is, to the last bit, that of never having
            stopped (given a loader that shuffles by torch's generator or one of its own, and
            deterministic kernels). What defines the training has to be the same: see
            "Resuming" in docs/training.md.
        init: a checkpoint of which the weights alone are taken, to begin a new training.
        settings: name -> number or text, what else defines this training and can't be seen here
            (how videos are augmented); it is saved, and compared when resuming.
        progress: show a bar with loss and metrics (rank 0 only).
        dry_run: check all this, and train nothing.

    Returns:
        one row per epoch: "epoch", "loss" (mean per batch, summed over steps), "lr", "updates",
        "seconds", and metrics, those of the validation with the prefix "val_".

    Raises:
        OptionError, ClipError: as :func:`backward`; when the optimizer has none of the model's
            parameters; and when several processes were launched without ``DistributedDataParallel``
            around ``prog``.
        CheckpointError: when there is nothing to resume from, or it is another training's, with
            what differs; where none can be written, or another training is writing to it.
    """
    check_one_training(prog)
    check_kinds(loader, validation, optimizer, metrics, checkpoint, init)
    check_options(gradient, keep, on)
    for name, value in (("accumulate", accumulate), ("epochs", epochs)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise OptionError(f"{name}: expected a whole number from 1 on, got {value!r}")
    check_parameters(unwrapped(prog), optimizer)
    if resume and checkpoint is None:
        raise OptionError("resume: from which checkpoint? pass checkpoint=")
    if resume and init is not None:
        raise OptionError("init: begins a new training, and resume goes on with one; pass one")
    for name, batches in (("loader", loader), ("validation", validation)):
        if isinstance(batches, Sized) and _length(batches) == 0 and _knows_length(batches):
            raise OptionError(f"{name}: {_EMPTY}")
    check_updates(scheduler, epochs * -(-_length(loader) // accumulate), resume=resume)
    path = None if checkpoint is None else Path(checkpoint)
    if path is not None:
        files.check(path)
    main = not dist.is_initialized() or dist.get_rank() == 0
    with files.alone(path), _bar(progress and main and not dry_run) as report:
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
        if init is not None:
            files.load_weights(Path(init), work.inner)
        about = {} if path is None else work.about(loader, settings or {})
        if resume:
            found = files.read(Path(str(path)), parts, about)
            about["start"], work.history = found["about"]["start"], list(found["history"])
            work.updates = int(work.history[-1]["updates"]) if work.history else 0
        if dry_run:
            return work.history
        if resume:
            files.load(found, parts, loader)
        for epoch in range(len(work.history), epochs):
            for one in (getattr(loader, "sampler", None), getattr(loader, "dataset", None)):
                if isinstance(one, _ByEpoch):
                    one.set_epoch(epoch)
            start = time.perf_counter()
            row = {"epoch": float(epoch)} | _epoch(work, loader, epoch)
            if validation is not None:
                drawn = files.random_state(loader)
                row |= evaluate(work.inner, validation, work.metrics, work.schedule)
                files.set_random_state(drawn, loader)
            work.history.append(row | {"seconds": time.perf_counter() - start})
            if path is not None:
                about["now"] = work.about(loader, settings or {})["now"]
                files.save(path, parts, about, work.history, loader=loader)
    return work.history


def _epoch(work: Training, loader: Iterable[tuple[Any, Any]], epoch: int) -> dict[str, float]:
    work.prog.train()
    if work.freeze_norms:
        for module in work.inner.modules():
            if isinstance(module, BatchNorm):
                module.eval()
    reset(work.metrics, work.device)
    total, batches, pending = 0.0, 0, 0
    count = _length(loader)
    work.optimizer.zero_grad()
    for number, (video, target) in enumerate(pairs("loader", loader)):
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
        observe_training(work.metrics, work.inner, video, target, found)
        if update:
            _update(work)
            pending = 0
        work.report(epoch, count, total / batches, work.metrics)
    if pending:  # a loader that doesn't know its length
        reduce_gradients(work.prog)
        _update(work)
    if not batches:
        raise OptionError(f"loader: {_EMPTY}")
    values = figures(work.metrics)
    lr = float(work.optimizer.param_groups[0]["lr"])
    return {"loss": total / batches, "lr": lr, "updates": float(work.updates)} | values


def _knows_length(loader: Sized) -> bool:
    try:
        return len(loader) >= 0
    except TypeError:
        return False


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
    prog: nn.Module,
    loader: Iterable[tuple[Any, Any]],
    metrics: dict[str, Any],
    schedule: Schedule | DPR | None = None,
) -> dict[str, float]:
    """Metrics over a loader, each video in the progressive long view: "val_" + name.

    Args:
        prog: a progressive model, or ``DistributedDataParallel`` around one.
        loader: as for :func:`fit`.
        metrics: name -> torchmetrics metric; see :func:`pgt_fx.training.metrics`.
        schedule: of the steps; of a :class:`DPR` its base schedule.

    Raises:
        OptionError: for a loader without a batch, or a model that is not progressive.
    """
    inner = unwrapped(prog)
    base = schedule.base if isinstance(schedule, DPR) else schedule
    device = next(inner.parameters()).device
    reset(metrics, device)
    batches = 0
    for video, target in pairs("validation", loader):
        batches += 1
        video, target = to(video, device), to(target, device)
        observe_validation(metrics, inner, video, target, base)
    if not batches:
        raise OptionError(f"validation: {_EMPTY}")
    return figures(metrics, "val_")


def to(value: Any, device: torch.device) -> Any:
    """Tensors of a batch on a device; those in labels per step and per frame, too."""

    def move(leaf: Any) -> Any:
        if isinstance(leaf, Tensor):
            return leaf.to(device, non_blocking=True)
        if isinstance(leaf, PerStep):
            return PerStep([to(x, device) for x in leaf.targets])
        if isinstance(leaf, OverTime):
            return OverTime(lambda start, stop: to(leaf.at(start, stop), device))
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
