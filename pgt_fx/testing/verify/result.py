"""What a verification found: one line per promise, with the figure that decided it."""

from __future__ import annotations

import io
import os
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from pgt_fx.core.errors import VerificationError
from pgt_fx.core.text_tables import Fitted
from pgt_fx.testing.verify.certificate_file import save
from pgt_fx.testing.verify.checks import Check, Findings, figure
from pgt_fx.testing.verify.formats import to_junit, to_markdown

#: Columns from which on the promises stand in the table; else it would be all promise.
WIDE = 110
_STYLE = {True: "green", False: "bold red", None: "yellow"}


@dataclass(frozen=True)
class Verification(Findings):
    """The checks of one model: what they say together, and how it is shown."""

    def raise_if_failed(self) -> None:
        """Do nothing if :attr:`ok`.

        Raises:
            VerificationError: listing what is violated, what was not checked because of an error,
                or why nothing, or something that is required, could not be checked.
        """
        if self.ok:
            return
        if self.violations or self.errors:
            faults = f"{self._faults()} ({self.setting})"
            head = f"{self.model}: {faults}"
            shown = self.violations + self.errors
        elif self.decided:
            head = f"{self.model}: {self.summary} ({self.setting})"
            shown = self.unanswered
        else:
            head = f"{self.model}: nothing could be checked ({self.setting})"
            shown = self.silent
        raise VerificationError("\n".join([head, *(f"  {c}" for c in shown)]))

    def to_dict(self) -> dict[str, Any]:
        """Plain data (JSON-able)."""
        return {
            "model": self.model,
            "setting": self.setting,
            "ok": self.ok,
            "decided": self.decided,
            "required": sorted(self.required),
            "checks": [asdict(c) for c in self.checks],
        }

    def to_markdown(self) -> str:
        """A table for a pull request or a job summary."""
        return to_markdown(self)

    def to_junit(self) -> str:
        """XML as test reporters read it: one test case for each check."""
        return to_junit(self)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a certificate (JSON): what was checked, on what, with figures and fingerprints;
        see :mod:`pgt_fx.testing.verify.certificate`."""
        save(self, path)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        wide = options.max_width >= WIDE
        columns = ["check", "result", "measured", "bound", *(["promise"] if wide else [])]
        title = f"{self.model}: measured on {self.setting}"
        table = Fitted(columns, title=title, whole=(0, 1))
        for c in self.checks:
            result = Text(c.word, style="bold yellow" if c.error else _STYLE[c.ok])
            promise = [c.sentence] if wide else []
            table.add_row(c.id, result, figure(c.measured), figure(c.bound), *promise)
        notes = [f"  {c.id}: {c.detail}" for c in self.checks if c.detail]
        looks = [f"  {c.id}: {c.where}" for c in self.checks if c.where]
        style = "green" if self.ok else "bold red" if self.violations else "yellow"
        yield table
        if not wide:
            yield Text(
                "\n".join(["", "promises", *(f"  {c.id}: {c.sentence}" for c in self.checks)])
            )
        if notes:
            yield Text("\n".join(["", "details", *notes]))
        if looks:
            yield Text("\n".join(["", "look at", *looks]), style="bold")
        yield Text("")
        yield Text(self.summary, style=style)

    def __str__(self) -> str:
        stream = io.StringIO()
        Console(file=stream, width=140, color_system=None).print(self)
        return "\n".join(line.rstrip() for line in stream.getvalue().splitlines())


__all__ = ["Check", "Verification", "figure"]
