"""``pgt-fx train CONFIG``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def train(
    config: Annotated[Path, typer.Argument(help="A TOML file; see the README.")],
    model: Annotated[
        str | None,
        typer.Option(help="package.module:factory in place of the config's backbone."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the checkpoint.")] = False,
    init: Annotated[
        Path | None,
        typer.Option(
            help="Begin with the weights of this checkpoint, and with nothing else of it."
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Check all that the training needs, and don't train."),
    ] = False,
) -> None:
    """Train a backbone progressively on folders of long videos.

    With --dry-run and without, all that can be found out before the first update is checked first:
    the config, every video, the model on a first clip, the checkpoint.
    """
    from pgt_fx.cli import train_job

    train_job.train(config, model, resume, init, dry_run)
