"""``pgt-fx train CONFIG``."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pgt_fx.cli.models import load
from pgt_fx.cli.talk import HOLDS, set_threads

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.utils.data import DataLoader

    import pgt_fx
    from pgt_fx.training.config import Config
    from pgt_fx.training.folder import VideoFolder


def train(
    config: Annotated[Path, typer.Argument(help="A TOML file; see the README.")],
    model: Annotated[
        str | None,
        typer.Option(help="package.module:factory in place of the config's backbone."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the checkpoint.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done, and don't.")
    ] = False,
) -> None:
    """Train a backbone progressively on folders of long videos."""
    import torch

    from pgt_fx.training import fit, half_cosine, metrics, sgd
    from pgt_fx.training.config import read_config

    settings = read_config(config)
    _check(settings)
    set_threads(settings.run.threads or None)
    torch.manual_seed(settings.run.seed)
    folder = config.resolve().parent
    schedule = settings.schedule.build(settings.run.seed, settings.optim.epochs)
    prog, training, validation = _build(settings, folder, model, schedule)
    loader = _loader(settings, training, prog, shuffle=True)
    updates = -(-len(loader) // settings.optim.accumulate) * settings.optim.epochs
    _plan(settings, prog, training, validation, schedule, updates)
    if dry_run:
        raise typer.Exit(HOLDS)
    o = settings.optim
    optimizer = sgd(prog, o.lr, momentum=o.momentum, weight_decay=o.weight_decay)
    warm_up = min(updates - 1, int(o.warm_up * updates / o.epochs))
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
        metrics=metrics(len(training.classes)),
        validation=None
        if validation is None
        else _loader(settings, validation, prog, shuffle=False),
        freeze_norms=o.freeze_norms,
        checkpoint=folder / settings.run.checkpoint,
        resume=resume,
        **_precision(settings),
    )
    for row in history:
        figures = {k: v for k, v in row.items() if k not in ("epoch", "updates")}
        text = "  ".join(f"{k} {v:.4g}" for k, v in figures.items())
        typer.echo(f"epoch {int(row['epoch']) + 1}: {text}")
    typer.echo(f"checkpoint: {folder / settings.run.checkpoint}")


def _check(settings: Config) -> None:
    """Before anything is read or built.

    Raises:
        ConfigError: for a number below its least, or a device that is not there.
    """
    import torch

    from pgt_fx.training.config import ConfigError

    least = {
        "data": {"stride": 1, "size": 1, "batch": 1, "workers": 0},
        "optim": {"lr": 0, "epochs": 1, "accumulate": 1, "keep": 1},
    }
    for section, keys in least.items():
        for key, lowest in keys.items():
            value = getattr(getattr(settings, section), key)
            if not value >= lowest:
                raise ConfigError(f"[{section}] {key}: expected at least {lowest}, got {value}")
    name = settings.run.device
    try:
        torch.empty(1, device=torch.device(name)).cpu()
    except Exception as error:  # torch raises as many kinds as there are devices
        why = str(error).partition("\n")[0]
        raise ConfigError(f"[run] device: {name!r} can't be used here: {why}") from error


def _build(
    settings: Config, folder: Path, name: str | None, schedule: Any
) -> tuple[pgt_fx.Progressive, VideoFolder, VideoFolder | None]:
    """The progressive model with a head for the classes found, and the data sets."""
    import pgt_fx
    from pgt_fx import zoo
    from pgt_fx.training.config import ConfigError
    from pgt_fx.training.folder import VideoFolder, classes_of

    s, d = settings, settings.data
    if not d.train:
        raise ConfigError("[data] train: expected the folder of the training videos")
    if name is None and s.model.name not in zoo.names():
        raise ConfigError(
            f"[model] name: {s.model.name!r} is not in the zoo ({', '.join(zoo.names())}); a model "
            "of your own is named on the command line: --model package.module:factory"
        )
    classes = classes_of(folder / d.train)
    module, example = load(name or s.model.name, d.size, pretrained=s.model.pretrained)
    _fit_head(module, len(classes), own=name is not None)
    prog = pgt_fx.transform(
        module,
        example,
        operator=s.model.operator,
        pooling=s.model.pooling,
        future=s.model.future,
        clip_pools=s.model.clip_pools,
        strict=False,
    )
    ratio = prog.clip_ratio
    how: dict[str, Any] = {
        "frames": schedule.frames * max(ratio),
        "stride": max(1, d.stride // max(ratio)),  # of the slow path; the fast one is denser
        "size": d.size,
    }
    training = VideoFolder(folder / d.train, train=True, seed=s.run.seed, **how)
    validation = None
    if d.validation:
        validation = VideoFolder(folder / d.validation, train=False, **how)
        if validation.classes != training.classes:
            raise ConfigError(
                f"[data] validation: expected the classes of the training set "
                f"{training.classes}, got {validation.classes}"
            )
    return prog.to(s.run.device), training, validation


def _fit_head(model: nn.Module, classes: int, *, own: bool) -> None:
    """Give a model of the zoo a new last linear layer where it has another number of classes.

    Raises:
        ConfigError: for a model of the user's own: which layer is meant is theirs to say.
    """
    from torch import nn

    from pgt_fx.training.config import ConfigError

    linear = [(n, m) for n, m in model.named_modules() if isinstance(m, nn.Linear)]
    if not linear or linear[-1][1].out_features == classes:
        return
    path, old = linear[-1]
    if own:
        raise ConfigError(
            f"[data] train: {classes} classes, but {path} of the model has {old.out_features} "
            f"outputs; expected a model with {classes}"
        )
    parent, _, attribute = path.rpartition(".")
    new = nn.Linear(old.in_features, classes)
    nn.init.normal_(new.weight, std=0.01)
    setattr(model.get_submodule(parent), attribute, new)


def _loader(
    settings: Config, data: VideoFolder, prog: pgt_fx.Progressive, *, shuffle: bool
) -> DataLoader[Any]:
    import torch
    from torch.utils.data import DataLoader

    from pgt_fx.training.folder import as_model_takes_it

    ratio = prog.clip_ratio

    def collate(items: list[tuple[Tensor, int]]) -> tuple[Any, Tensor]:
        videos = torch.stack([video for video, _ in items])
        return as_model_takes_it(videos, ratio), torch.tensor([label for _, label in items])

    d = settings.data
    return DataLoader(data, d.batch, shuffle=shuffle, num_workers=d.workers, collate_fn=collate)


def _precision(settings: Config) -> dict[str, Any]:
    """Autocast, and for float16 a gradient scaler."""
    import torch

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
    schedule: Any,
    updates: int,
) -> None:
    from pgt_fx.schedule import DPR

    o, many = settings.optim, sum(p.numel() for p in prog.parameters())
    drawn = schedule.schedules if isinstance(schedule, DPR) else (schedule,)
    steps = " or ".join(f"{s.steps} steps of {s.length}" for s in drawn)
    typer.echo(f"model       {prog!r}, {many / 1e6:.1f} M parameters")
    typer.echo(f"schedule    {settings.schedule.kind}: {steps}; {schedule.frames} frames")
    typer.echo(f"training    {len(training)} videos, {len(training.classes)} classes")
    if validation is not None:
        typer.echo(f"validation  {len(validation)} videos")
    typer.echo(
        f"updates     {updates} in {o.epochs} epochs, {o.gradient} gradients, "
        f"batch {settings.data.batch} x {o.accumulate}"
    )
