"""The command line: ``pgt-fx COMMAND``, one file per command.

Exit codes: 0 it holds; 1 a promise is violated; 2 it could not be checked: a wrong argument, an
unknown model, or one that can't be made progressive.
"""

from __future__ import annotations

import typer

from pgt_fx.cli.analyze import analyze
from pgt_fx.cli.bench import bench
from pgt_fx.cli.demo import demo
from pgt_fx.cli.doctor import doctor
from pgt_fx.cli.erf import erf
from pgt_fx.cli.fuzz import fuzz
from pgt_fx.cli.train import train
from pgt_fx.cli.verify import verify
from pgt_fx.cli.zoo import zoo

app = typer.Typer(
    help="Any video model, fed a long video in progressive steps.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for command in (demo, analyze, verify, doctor, train, erf, fuzz, zoo):
    app.command()(command)
# What follows the name is for the benchmark, --help among it.
_passed_on = {"allow_extra_args": True, "ignore_unknown_options": True}
app.command(context_settings={**_passed_on, "help_option_names": []})(bench)


@app.callback()
def _root() -> None:
    pass


def main() -> None:
    """Entry point."""
    app()
