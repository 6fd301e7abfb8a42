"""The commands and what stands before them: ``pgt-fx [--debug] COMMAND``, ``pgt-fx --version``."""

from __future__ import annotations

import contextlib
import sys
from importlib import metadata
from typing import Annotated

import typer

from pgt_fx import __version__
from pgt_fx.cli.analyze import analyze
from pgt_fx.cli.bench import bench
from pgt_fx.cli.demo.command import demo
from pgt_fx.cli.doctor import doctor
from pgt_fx.cli.door import PROG, Command, Door
from pgt_fx.cli.erf import erf
from pgt_fx.cli.fuzz import fuzz
from pgt_fx.cli.talk import HOLDS
from pgt_fx.cli.train import train
from pgt_fx.cli.verify import verify
from pgt_fx.cli.zoo import zoo

app = typer.Typer(
    cls=Door,
    help="Any video model, fed a long video in progressive steps.",
    add_completion=False,
    pretty_exceptions_enable=False,
)
for command in (demo, analyze, verify, doctor, train, erf, fuzz, zoo):
    app.command(cls=Command)(command)
# What follows the name is for the benchmark, --help among it.
_passed_on = {"allow_extra_args": True, "ignore_unknown_options": True}
app.command(cls=Command, context_settings={**_passed_on, "help_option_names": []})(bench)


def _tell_version(asked: bool) -> None:
    if not asked:
        return
    try:
        torch = f"torch {metadata.version('torch')}"  # as installed: importing it takes seconds
    except metadata.PackageNotFoundError:
        torch = "torch is not installed"
    typer.echo(f"{PROG} {__version__} ({torch})")
    raise typer.Exit(HOLDS)


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of whatever goes wrong.")
    ] = False,
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=_tell_version,
            is_eager=True,
            help="Print the versions of this package and of torch.",
        ),
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        with contextlib.redirect_stdout(sys.stderr):
            typer.echo(context.get_help())
        raise typer.BadParameter("which command?")
