"""``pgt-fx bench NAME``."""

from __future__ import annotations

import ast
import difflib
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

import pgt_fx
from pgt_fx.cli.talk import HOLDS, INTERRUPTED, out
from pgt_fx.core.text_tables import Fitted

#: A benchmark is a file that runs by itself; the others in the folder are what they share.
RUNS = 'if __name__ == "__main__":'
GUARDED = [sys.executable, "-m", "pgt_fx.cli.script"]


def bench(
    context: typer.Context,
    name: Annotated[
        str | None, typer.Argument(help="A benchmark, or 'report'; without one they are listed.")
    ] = None,
) -> None:
    """Run a benchmark of this repository, with its own options: pgt-fx bench NAME --help."""
    if name == "--help":  # after the name of a benchmark it is left to that
        typer.echo(context.get_help())
        raise typer.Exit(HOLDS)
    folder = _folder()
    if folder is None:
        raise typer.BadParameter(
            "the benchmarks are part of the repository and not of an installed wheel; clone it, "
            "and install it from there: pip install -e ."
        )
    known = benchmarks(folder)
    if name is None:
        _list(known)
        raise typer.Exit(HOLDS)
    if name not in known:
        near = difflib.get_close_matches(name, known, 3, 0.4)
        hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(known)}"
        raise typer.BadParameter(f"no benchmark {name!r}; {hint}")
    # A process of its own: what one measures must not hold what this command has loaded.
    debug = ["--debug"] if context.find_root().params.get("debug") else []
    script = [*GUARDED, *debug, str(folder / f"{name}.py"), *context.args]
    try:
        code = subprocess.run(script).returncode
    except KeyboardInterrupt:  # the benchmark got the signal too, and has said so
        raise typer.Exit(INTERRUPTED) from None
    if code < 0:
        raise typer.BadParameter(f"{name} was ended by signal {-code}")
    raise typer.Exit(code)


def benchmarks(folder: Path) -> dict[str, str]:
    """Names of the benchmarks in a folder, each with the first line of what it says of itself."""
    found = {}
    for path in sorted(folder.glob("*.py")):
        source = path.read_text(encoding="utf-8")
        if RUNS in source:
            found[path.stem] = (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0]
    return found


def _folder() -> Path | None:
    """``benchmarks/`` of the checkout that this package is run from; None in a wheel."""
    root = Path(pgt_fx.__file__).parents[1]
    folder = root / "benchmarks"
    return folder if (root / "pyproject.toml").is_file() and folder.is_dir() else None


def _list(known: dict[str, str]) -> None:
    table = Fitted(("", ""))
    for name, line in known.items():
        table.add_row(Text(name, style="bold"), line)
    out().print(table)
