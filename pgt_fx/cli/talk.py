"""What all commands share: exit codes, options, output, refusals."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from pgt_fx.errors import PgtError

HOLDS, VIOLATED, UNCHECKED = 0, 1, 2

Model = Annotated[
    str, typer.Argument(help="A name of the zoo, or package.module:factory for one of your own.")
]
Space = Annotated[
    int | None,
    typer.Option(min=1, help="Height and width of the frames in pixels, for models of the zoo."),
]
TimeDim = Annotated[
    int | None, typer.Option(help="The time dimension, where the clip's shape doesn't tell it.")
]
Threads = Annotated[int | None, typer.Option(min=1, help="Threads for the computation.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print plain data instead of a table.")]


def out() -> Console:
    """Wide enough for tables when the output goes to a file."""
    console = Console()
    return console if console.is_terminal else Console(width=140)


@contextmanager
def spinner(what: str) -> Iterator[Any]:
    """A line on stderr that moves; ``step(text, done, of)`` changes it."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(what, total=None)

        def step(text: str, done: int = 0, of: int | None = None) -> None:
            progress.update(task, description=text, completed=done, total=of)

        yield step


@contextmanager
def refusals() -> Iterator[None]:
    """Errors that say themselves what is wrong: printed without a traceback."""
    try:
        yield
    except (PgtError, ValueError) as error:  # of the zoo: a space or a number of frames
        refuse(error)
    except Exception as error:
        from pgt_fx import zoo  # both import torch
        from pgt_fx.video import VideoError

        if isinstance(error, (VideoError, zoo.UnknownModelError, zoo.MissingPackageError)):
            refuse(error)
        raise


def refuse(error: Exception) -> NoReturn:
    Console(stderr=True).print(f"[bold red]{type(error).__name__}[/]: ", end="")
    typer.echo(str(error), err=True)
    raise typer.Exit(UNCHECKED) from None


def set_threads(threads: int | None) -> None:
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
