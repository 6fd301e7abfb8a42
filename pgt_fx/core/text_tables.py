"""Text tables that break no word: columns where there is room, else one entry below the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

#: Blanks between two columns.
GAP = 2


class Fitted:
    """A table whose columns are never narrower than their longest word.

    Where the width is too small for that, each row is an entry of its own: the first cell, and
    below it the others, each after the name of its column. So nothing is cut in the middle.

    Args:
        columns: their names; "" for one that needs none.
        title: a line above.
        right: numbers of the columns that stand on the right.
        whole: numbers of the columns that are not broken between words either.
    """

    def __init__(
        self,
        columns: Sequence[str],
        *,
        title: str = "",
        right: Sequence[int] = (),
        whole: Sequence[int] = (0,),
    ) -> None:
        self.columns, self.title, self.right, self.whole = columns, title, right, whole
        self.rows: list[list[Text]] = []

    def add_row(self, *cells: str | Text) -> None:
        """One row: a cell for each column, as it is (no markup)."""
        self.rows.append([Text(c) if isinstance(c, str) else c for c in cells])

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(1, options.max_width)

    def least(self, column: int) -> int:
        """Columns of the terminal that the longest word takes."""
        cells = [self.columns[column], *(row[column].plain for row in self.rows)]
        parts = [[c] if column in self.whole else c.split() for c in cells]
        return max((cell_len(word) for words in parts for word in words), default=0)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        least = [self.least(n) for n in range(len(self.columns))]
        if sum(least) + GAP * (len(least) - 1) > options.max_width:
            yield from self._entries()
            return
        table = Table(
            title=self.title or None,
            title_justify="left",
            box=None,
            header_style="bold",
            padding=(0, GAP, 0, 0),
            pad_edge=False,
            show_header=any(self.columns),
        )
        for n, name in enumerate(self.columns):
            side: Any = "right" if n in self.right else "left"
            table.add_column(name, justify=side, min_width=least[n], no_wrap=n in self.whole)
        for row in self.rows:
            table.add_row(*row)
        yield table

    def _entries(self) -> RenderResult:
        if self.title:
            yield Text(self.title, style="italic")
        for first, *others in self.rows:
            yield Text.assemble((first.plain, "bold"))
            cells = [
                Text.assemble(f"{name} " if name else "", cell)
                for name, cell in zip(self.columns[1:], others, strict=True)
                if cell.plain
            ]
            yield Padding(Text("; ").join(cells), (0, 0, 0, 2), expand=False)
