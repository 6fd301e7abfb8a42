"""The command line: ``pgt-fx COMMAND``, one file per command.

Exit codes: 0 it holds; 1 a promise is violated; 2 it could not be checked: a wrong argument, an
unknown model, or one that can't be made progressive.

A command's file is imported when the command is called: torch takes seconds, and a command that
has something to say before it has been imported can say it.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import typer
from typer.core import TyperGroup

#: In the order of ``pgt-fx --help``; each is a function in the file of its name.
COMMANDS = ("demo", "analyze", "verify", "doctor", "train", "erf", "fuzz", "zoo", "bench")


class _Commands(TyperGroup):
    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in COMMANDS:
            return None
        settings: dict[str, Any] = {}
        if cmd_name == "bench":
            # What follows the name is for the benchmark, --help among it.
            settings = {"allow_extra_args": True, "ignore_unknown_options": True}
            settings = {"context_settings": {**settings, "help_option_names": []}}
        one = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
        function = getattr(import_module(f"pgt_fx.cli.{cmd_name}"), cmd_name)
        one.command(cmd_name, **settings)(function)
        return typer.main.get_command(one)


app = typer.Typer(
    cls=_Commands,
    help="Any video model, fed a long video in progressive steps.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.callback()
def _root() -> None:
    pass


def main() -> None:
    """Entry point."""
    app()
