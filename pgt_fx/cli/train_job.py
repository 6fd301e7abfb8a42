"""The work of ``pgt-fx train``, once its arguments are checked: it imports torch."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import typer
from torch import nn
from torch.utils.data import DataLoader

import pgt_fx
from pgt_fx import zoo
from pgt_fx.cli.talk import HOLDS, out, set_threads, spinner
from pgt_fx.core.counts import counted
from pgt_fx.core.errors import CaptureError
from pgt_fx.core.schedule import DPR, Schedule
from pgt_fx.testing.model_names import load
from pgt_fx.training import fit, half_cosine, metrics, sgd
from pgt_fx.training.checkpoint import check as check_checkpoint
from pgt_fx.training.config import Config, ConfigError, defining, read_config
from pgt_fx.training.folder import FolderError, VideoFolder, VideoLoader, collate
from pgt_fx.training.parallel import check_one_training
from pgt_fx.training.ready import check_classes, check_model, check_videos


def train(config: Path, model: str | None, resume: bool, init: Path | None, dry_run: bool) -> None:
    """See :func:`pgt_fx.cli.train.train`."""
    check_one_training(None)
    settings = read_config(config)
    _check(settings, model)
    set_threads(settings.run.threads or None)
    torch.manual_seed(settings.run.seed)
    folder = config.resolve().parent
    path = folder / settings.run.checkpoint
    if path.resolve() == config.resolve():
        raise ConfigError(f"[run] checkpoint: {path} is the config itself")
    check_checkpoint(path)
    if resume and init is not None:
        raise typer.BadParameter(
            "--init begins a new training, and --resume goes on with one; give one of them"
        )
    if path.exists() and not resume:
        go_on = "go on from it with --resume, " if init is None else ""
        raise ConfigError(
            f"[run] checkpoint: {path} is there already, and would be overwritten: {go_on}move it, "
            "or name another file"
        )
    schedule = settings.schedule.build(settings.run.seed, settings.optim.epochs)
    training, validation = _videos(settings, folder)
    measured = metrics(len(training.classes))
    prog = _build(settings, model, training)
    _sample(training, validation, schedule, prog.clip_ratio)
    loader = _loader(settings, training, prog, shuffle=True)
    updates = -(-len(loader) // settings.optim.accumulate) * settings.optim.epochs
    _plan(settings, prog, training, validation, schedule, updates)
    o = settings.optim
    optimizer = sgd(prog, o.lr, momentum=o.momentum, weight_decay=o.weight_decay)
    warm_up = min(updates - 1, int(o.warm_up * updates / o.epochs))
    precision = _precision(settings)
    _look(settings, prog, _named(training, validation), schedule, precision)
    written = _written(path)
    history = fit(
        prog,
        loader,
        optimizer,
        epochs=o.epochs,
        scheduler=half_cosine(optimizer, updates, warm_up=warm_up),
        schedule=schedule,
        gradient=o.gradient,
        keep=o.keep,
        accumulate=o.accumulate,
        metrics=measured,
        validation=None
        if validation is None
        else _loader(settings, validation, prog, shuffle=False),
        freeze_norms=o.freeze_norms,
        checkpoint=path,
        resume=resume,
        init=init,
        settings={
            **defining(settings),
            "--model" if model else "[model] name": model or settings.model.name,
            "[run] device": torch.device(settings.run.device).type,
            "[data] train": training.fingerprint()["videos"],
        },
        dry_run=dry_run,
        **precision,
    )
    left = o.epochs - len(history)
    if resume and not left and written == _written(path):  # no epoch has been added to it
        typer.echo(
            f"this training is complete: {path} has all of [optim] epochs = {o.epochs}. To train "
            "on, raise [optim] epochs and begin anew with its weights: --init "
            f"{settings.run.checkpoint}, and another [run] checkpoint to write"
        )
    elif dry_run:
        rest = f"{left} of {counted(o.epochs, 'epoch')}" if resume else counted(left, "epoch")
        typer.echo(f"all is there: the same command without --dry-run trains {rest}")
    if dry_run:
        raise typer.Exit(HOLDS)
    for row in history:
        figures = {k: v for k, v in row.items() if k not in ("epoch", "updates")}
        text = "  ".join(f"{k} {v:.4g}" for k, v in figures.items())
        typer.echo(f"epoch {int(row['epoch']) + 1}: {text}")
    typer.echo(f"checkpoint: {path}")


@contextlib.contextmanager
def _of_key(key: str) -> Iterator[None]:
    """Name in an error about a folder the key that gives it."""
    try:
        yield
    except FolderError as error:
        raise ConfigError(f"{key}: {error}") from error


def _written(path: Path) -> int | None:
    """When a checkpoint was written; None where there is none."""
    return path.stat().st_mtime_ns if path.is_file() else None


def _check(settings: Config, model: str | None) -> None:
    """Before anything is read or built.

    Raises:
        ConfigError: for a model or a device that is not there, or without videos to train on.
    """
    own = "a model of your own is named on the command line: --model package.module:factory"
    if model is None and not settings.model.name:
        raise ConfigError(
            f"[model] name: expected a name of the zoo, which pgt-fx zoo lists; {own}"
        )
    if model is None and ":" in settings.model.name:
        raise ConfigError(f"[model] name: {settings.model.name!r} is not in the zoo; {own}")
    if model is None:
        try:
            zoo.get(settings.model.name)
        except zoo.UnknownModelError as error:
            raise ConfigError(f"[model] name: {error}; {own}") from None
    elif settings.model.pretrained and ":" in model:
        raise ConfigError(
            "[model] pretrained: is for models of the zoo; a model of your own loads its weights "
            f"itself, and --model {model} is one"
        )
    name = settings.run.device
    try:
        torch.empty(1, device=torch.device(name)).cpu()
    except Exception as error:  # torch raises as many kinds as there are devices
        why = str(error).partition("\n")[0]
        raise ConfigError(f"[run] device: {name!r} can't be used here: {why}") from error
    if not settings.data.train:
        raise ConfigError("[data] train: expected the folder of the training videos")


def _videos(settings: Config, folder: Path) -> tuple[VideoFolder, VideoFolder | None]:
    """The data sets, every video of them looked at; how it is sampled is said later."""
    d = settings.data
    how: dict[str, Any] = {
        "frames": 1,
        "stride": d.stride,
        "size": d.size,
        "fps": d.fps or None,
        "short": d.short,
    }
    with _of_key("[data] train"):
        training = VideoFolder(folder / d.train, train=True, seed=settings.run.seed, **how)
    validation = None
    if d.validation:
        with _of_key("[data] validation"):
            validation = VideoFolder(folder / d.validation, train=False, **how)
    check_classes(training, validation)
    with spinner("opening the videos") as step:
        check_videos(
            _named(training, validation), lambda done, of: step("opening the videos", done, of)
        )
    return training, validation


def _named(training: VideoFolder, validation: VideoFolder | None) -> dict[str, VideoFolder]:
    """The splits by the keys of the config that name them."""
    named = {"[data] train": training}
    return named if validation is None else {**named, "[data] validation": validation}


def _sample(
    training: VideoFolder, validation: VideoFolder | None, schedule: Any, ratio: tuple[int, ...]
) -> None:
    """As many frames of each video as the schedule takes, at the stride of the model's paths.

    Raises:
        ConfigError: for a stride of the slow path that is no whole number of the fast one's.
    """
    dense = max(ratio) // min(ratio)
    if training.stride % dense:
        raise ConfigError(
            f"[data] stride: expected a multiple of {dense}, as the model's fast path has "
            f"{counted(dense, 'frame')} for each of the slow one's, got {training.stride}"
        )
    for split in (training, validation):
        if split is not None:
            split.frames, split.stride = schedule.frames * max(ratio), split.stride // dense


def _look(
    settings: Config,
    prog: pgt_fx.Progressive,
    splits: dict[str, VideoFolder],
    schedule: Any,
    precision: dict[str, Any],
) -> None:
    """Decode a first clip of each split, and run it through the model."""
    with spinner("a first clip through the model"):
        batches = [
            (f"{key} ({s.root})", collate(prog.clip_ratio, [s[0]])) for key, s in splits.items()
        ]
        classes = len(next(iter(splits.values())).classes)
        check_model(prog, batches, classes, schedule, precision["autocast"])


def _build(settings: Config, name: str | None, training: VideoFolder) -> pgt_fx.Progressive:
    """The progressive model, with a head for the classes found."""
    s = settings
    try:
        chosen = name or s.model.name
        module, example = load(chosen, None, usual=s.data.size, pretrained=s.model.pretrained)
        _fit_head(module, len(training.classes), own=name is not None)
        prog = pgt_fx.transform(
            module,
            example,
            operator=s.model.operator,
            pooling=s.model.pooling,
            future=s.model.future,
            clip_pools=s.model.clip_pools,
            strict=False,
        )
    except (CaptureError, ValueError) as error:
        if isinstance(error, ConfigError) or name is not None:
            raise
        raise ConfigError(
            f"[model] name = {s.model.name!r}, [data] size = {s.data.size}: {error}"
        ) from error
    spec = prog.inspect.clip
    beside = [i for i in spec.tensors if spec.times[i] is None]
    if beside:
        raise ConfigError(
            f"{'--model' if name else '[model] name'}: {chosen} takes "
            f"{counted(len(beside), 'tensor')} beside the video (boxes of a detection model, for "
            "one), and folders of videos have none; train it with pgt_fx.training.fit and a loader "
            "of your own"
        )
    return prog.to(s.run.device)


def _fit_head(model: nn.Module, classes: int, *, own: bool) -> None:
    """Give a model of the zoo a new last linear layer where it has another number of classes.

    Raises:
        ConfigError: for a model of the user's own: which layer is meant is theirs to say.
    """
    linear = [(n, m) for n, m in model.named_modules() if isinstance(m, nn.Linear)]
    if not linear or linear[-1][1].out_features == classes:
        return
    path, old = linear[-1]
    if own:
        raise ConfigError(
            f"[data] train: {classes} classes, but {path} of the model has "
            f"{counted(old.out_features, 'output')}; expected a model with {classes}"
        )
    parent, _, attribute = path.rpartition(".")
    new = nn.Linear(old.in_features, classes)
    nn.init.normal_(new.weight, std=0.01)
    setattr(model.get_submodule(parent), attribute, new)


def _loader(
    settings: Config, data: VideoFolder, prog: pgt_fx.Progressive, *, shuffle: bool
) -> DataLoader[Any]:
    d = settings.data
    return VideoLoader(data, d.batch, ratio=prog.clip_ratio, shuffle=shuffle, num_workers=d.workers)


def _precision(settings: Config) -> dict[str, Any]:
    """Autocast, and for float16 a gradient scaler."""
    kind = settings.run.device.split(":")[0]
    precision = settings.run.precision
    if precision == "float32":
        return {"autocast": contextlib.nullcontext()}
    dtype = torch.bfloat16 if precision == "bf16" else torch.float16
    scaler = torch.amp.GradScaler(kind) if precision == "fp16" else None
    return {"autocast": torch.autocast(kind, dtype), "scaler": scaler}


def _plan(
    settings: Config,
    prog: pgt_fx.Progressive,
    training: VideoFolder,
    validation: VideoFolder | None,
    schedule: Schedule | DPR,
    updates: int,
) -> None:
    o, many = settings.optim, sum(p.numel() for p in prog.parameters())
    drawn = schedule.schedules if isinstance(schedule, DPR) else (schedule,)
    steps = " or ".join(f"{counted(s.steps or 0, 'step')} of {s.length}" for s in drawn)
    console = out()
    console.print(f"model       {prog!r}, {many / 1e6:.1f} M parameters")
    console.print(
        f"schedule    {settings.schedule.kind}: {steps}; {counted(schedule.frames or 0, 'frame')}"
    )
    classes = counted(len(training.classes), "class", "classes")
    console.print(f"training    {counted(len(training), 'video')}, {classes}")
    if validation is not None:
        console.print(f"validation  {counted(len(validation), 'video')}")
    console.print(
        f"updates     {updates} in {counted(o.epochs, 'epoch')}, {o.gradient} gradients, "
        f"batch {settings.data.batch} x {o.accumulate}"
    )
