"""Progress of the demo: bars that move on a terminal, lines with the time elsewhere.

Imports nothing slow: the demo reports while torch is still being imported.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from pgt_fx.core import terminal

#: Seconds between two lines of one stage, where there is no terminal.
BETWEEN = 5.0


class Stage(Protocol):
    """One stage of the work."""

    def __call__(self, done: int, of: int | None = None) -> object:
        """So many are done, of how many (None: as before)."""


class Talk:
    """Stages as they come, one after the other.

    Args:
        console: where to; a terminal gets bars, which also move where it isn't known how much is
            to be done, anything else (a file, a log) a line at the start of each stage and every
            few seconds of one.

    Attributes:
        started: when, by ``time.monotonic()``.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or terminal.console(stderr=True)
        self.started = time.monotonic()

    def elapsed(self) -> float:
        """Seconds since it was made."""
        return time.monotonic() - self.started

    @contextmanager
    def stage(self, what: str, of: int | None = None) -> Iterator[Stage]:
        """One stage: ``of`` things to do, None where that isn't known."""
        if self.console.is_terminal:
            with self._bar(what, of) as update:
                yield update
        else:
            yield self._lines(what, of)

    @contextmanager
    def _bar(self, what: str, of: int | None) -> Iterator[Stage]:
        columns = (
            TextColumn("{task.description:<34}"),
            BarColumn(bar_width=30),  # a pulse runs through it where the total is None
            TextColumn("{task.fields[count]:<12}"),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=self.console) as progress:
            task = progress.add_task(what, total=of, count="" if of is None else f"0 of {of}")
            total = of

            def update(done: int, of: int | None = None) -> None:
                nonlocal total
                total = of or total
                count = f"{done} of {total}" if total else str(done)
                progress.update(task, completed=done, total=total, count=count)

            yield update
            if total is None:
                progress.update(task, total=1, completed=1)

    def _lines(self, what: str, of: int | None) -> Stage:
        said, total = time.monotonic(), of
        self._say(what)

        def update(done: int, of: int | None = None) -> None:
            nonlocal said, total
            total = of or total
            if time.monotonic() - said >= BETWEEN:
                said = time.monotonic()
                self._say(f"{what}: {done}{f' of {total}' if total else ''}")

        return update

    def _say(self, text: str) -> None:
        self.console.print(f"{self.elapsed():4.0f} s  {text}", highlight=False, markup=False)
