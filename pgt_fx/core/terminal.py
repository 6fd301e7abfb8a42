"""Width of the output, and whether it may be coloured and animated."""

from __future__ import annotations

import os
import shutil

from rich.console import Console


def columns() -> int:
    """Columns that output may take: ``COLUMNS`` where it is set, else those of the terminal that
    stdout is, else 80."""
    return shutil.get_terminal_size((80, 24)).columns


def plain() -> bool:
    """Whether ``NO_COLOR`` is set (https://no-color.org): then no escape code is written at all,
    neither for colours nor for bold, nor to move the cursor."""
    return bool(os.environ.get("NO_COLOR"))


def console(*, stderr: bool = False) -> Console:
    """A console of that width; under ``NO_COLOR`` it writes as into a file."""
    return Console(stderr=stderr, width=columns(), force_terminal=False if plain() else None)
