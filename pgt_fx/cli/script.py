"""``python -m pgt_fx.cli.script [--debug] FILE …``: run a script of the repository as a command.

What it raises, and what its argparse refuses, is printed as :mod:`pgt_fx.cli.door` does for all
commands.
"""

from __future__ import annotations

import argparse
import runpy
import sys
from pathlib import Path
from typing import NoReturn
from unittest import mock

import typer

from pgt_fx.cli.door import guarded
from pgt_fx.cli.talk import HOLDS, UNCHECKED


def run(file: str, args: list[str], debug: bool = False) -> int:
    """The exit code of a script, run in this process as its main program."""

    def refuse(parser: argparse.ArgumentParser, message: str) -> NoReturn:
        raise typer.BadParameter(f"{message}\n    what can be given: {parser.prog} --help")

    def work() -> int:
        sys.argv = [file, *args]
        sys.path[0] = str(Path(file).parent)
        try:
            with mock.patch.object(argparse.ArgumentParser, "error", refuse):
                runpy.run_path(file, run_name="__main__")
        except SystemExit as end:
            if end.code in (None, HOLDS, UNCHECKED):
                return int(end.code or HOLDS)
            raise
        return HOLDS

    return guarded(work, ["bench", Path(file).stem, *args], lambda: debug)


if __name__ == "__main__":
    given = sys.argv[1:]
    shown = given[0] == "--debug"
    sys.exit(run(given[shown], given[shown + 1 :], shown))
