"""What all commands share: exit codes, options, output, the files that they are asked to write.

Nothing here imports torch, nor may a module of a command before its work begins: see
:mod:`pgt_fx.cli`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from pgt_fx.core.terminal import console

HOLDS, VIOLATED, UNCHECKED = 0, 1, 2
#: As a shell calls a program that SIGINT, or SIGPIPE, has ended.
INTERRUPTED, NO_READER = 130, 141

Model = Annotated[
    str, typer.Argument(help="A name of the zoo, or package.module:factory for one of your own.")
]
Space = Annotated[
    int | None,
    typer.Option(min=1, help="Height and width of the frames in pixels, for models of the zoo."),
]
TimeDim = Annotated[
    int | None,
    typer.Option(help="The time dimension, where it doesn't follow from the clip's shape."),
]
Threads = Annotated[int | None, typer.Option(min=1, help="Threads for the computation.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print plain data instead of a table.")]


def out() -> Console:
    """Where a command prints what it found."""
    return console()


@contextmanager
def spinner(what: str) -> Iterator[Any]:
    """A line on stderr that moves; ``step(text, done, of)`` changes it. Only on a terminal."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    to = console(stderr=True)
    with Progress(*columns, console=to, transient=True, disable=not to.is_terminal) as progress:
        task = progress.add_task(what, total=None)

        def step(text: str, done: int = 0, of: int | None = None) -> None:
            progress.update(task, description=text, completed=done, total=of)

        yield step


#: Suffixes of files that a figure may be written to, and what it is made of there.
FIGURES = {".png": "pixels", ".svg": "lines", ".pdf": "lines"}


def check_file(option: str, path: Path, kinds: Mapping[str, str]) -> None:
    """Refuse a file that can't be written, or not as what its name says: before the work is done.

    Args:
        option: that names the file, for the message.
        kinds: suffix -> what is written into a file of such a name.

    Raises:
        typer.BadParameter: saying what is expected.
    """
    if path.is_dir():
        raise typer.BadParameter(f"{option}: {path} is a folder; expected a file to write")
    if path.suffix.lower() not in kinds:
        known = ", ".join(f"{suffix} ({kind})" for suffix, kind in kinds.items())
        raise typer.BadParameter(f"{option}: {path}: expected a file name that ends in {known}")
    check_folder(option, path.parent)


def check_folder(option: str, folder: Path) -> None:
    """Refuse a folder into which nothing can be written.

    Raises:
        typer.BadParameter: saying why.
    """
    if not folder.is_dir():
        raise typer.BadParameter(f"{option}: there is no folder {folder}")
    if not os.access(folder, os.W_OK):
        raise typer.BadParameter(f"{option}: no permission to write into {folder}")


def set_threads(threads: int | None) -> None:
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
