"""``pgt-fx zoo``."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import active_children, get_context
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pgt_fx.cli.talk import (
    HOLDS,
    UNCHECKED,
    VIOLATED,
    AsJson,
    check_folder,
    out,
    set_threads,
    spinner,
)
from pgt_fx.core.text_tables import Fitted

if TYPE_CHECKING:
    from pgt_fx.testing.zoo_survey import Row


def zoo(
    only: Annotated[
        list[str] | None, typer.Argument(help="Names, or the first letters of some; all if none.")
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Convert them and measure what comes of it.")
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option(help="Folder of table.json and README.md; in a checkout it is zoo/."),
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Models at a time, a thread each.")] = 1,
    json_: AsJson = False,
) -> None:
    """List the backbones; --check converts and verifies them.

    Exit code 1: a promise of one is violated; 2: one was not checked because of an error.

    What was measured of the models named goes into table.json beside what was measured of the
    others before, and README.md is the table of all of them.
    """
    if output is not None and not check:
        raise typer.BadParameter("--output: there is a table to write with --check")
    if output is not None:
        check_folder("--output", output)
    names = _chosen(only or [])
    if not check:
        _list(names, json_)
        return
    from pgt_fx.testing.zoo_table import summary, write_table

    rows: list[Row] = []
    with spinner("converting") as step:
        for row in _surveyed(names, jobs):
            rows.append(row)
            step(f"{row.name}: {row.kind}", len(rows), len(names))
    rows.sort(key=lambda r: names.index(r.name))
    folder = output or checkout()
    if folder is not None:
        write_table(folder, rows)
    if json_:
        typer.echo(json.dumps([r.to_dict() for r in rows], indent=2))
    else:
        for row in rows:
            _tell(row)
        typer.echo(summary(rows))
    if not all(r.ok for r in rows):
        raise typer.Exit(VIOLATED)
    raise typer.Exit(UNCHECKED if any(r.errors for r in rows) else HOLDS)


def checkout() -> Path | None:
    """The folder of the zoo in a checkout of this project; None where it is installed."""
    from pgt_fx import zoo as backbones

    folder = Path(backbones.__file__).resolve().parent  # pgt_fx/zoo is a link to it
    return folder if (folder.parent / "pyproject.toml").is_file() else None


def _chosen(wanted: Sequence[str]) -> list[str]:
    from pgt_fx import zoo as backbones

    known = backbones.names()
    if not wanted:
        return known
    found = [n for n in known if any(n.startswith(w) for w in wanted)]
    for w in wanted:
        if not any(n.startswith(w) for n in known):
            backbones.get(w)  # its error names the nearest
    return found


def _surveyed(names: Sequence[str], jobs: int) -> Iterator[Row]:
    """Each model in a process of its own: what it used is given back."""
    from pgt_fx.testing.zoo_survey import survey

    context = get_context("spawn")
    with ProcessPoolExecutor(jobs, context, _begin, max_tasks_per_child=1) as pool:
        try:
            for done in as_completed([pool.submit(survey, name) for name in names]):
                yield done.result()
        except BaseException:  # Ctrl-C among them: the pool would wait for those that are at work
            pool.shutdown(wait=False, cancel_futures=True)
            for child in active_children():
                child.terminate()
            raise


def _begin() -> None:
    """Of a process of the pool: Ctrl-C ends it without a message; the command prints one."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    set_threads(1)


def _list(names: Sequence[str], json_: bool) -> None:
    from pgt_fx import zoo as backbones

    entries = [backbones.get(n) for n in names]
    if json_:
        plain = [{k: v for k, v in vars(e).items() if v is not None} for e in entries]
        typer.echo(json.dumps(plain, indent=2))
        return
    table = Fitted(("name", "from", "clip", "space", ""))
    for e in entries:
        table.add_row(e.name, e.source, " + ".join(map(str, e.clip)), str(e.space), e.description)
    out().print(table)


def _tell(row: Row) -> None:
    failed = [name for name, ok in row.promises.items() if ok is False]
    text = f"{row.name}: {row.kind}"
    typer.echo(text + (f"; VIOLATED: {', '.join(failed)}" if failed else ""))
    for reason in row.reasons:
        typer.echo(f"    {reason}")
    for error in row.errors:
        typer.echo(f"    not checked because of an error: {error}")
