"""What a verification found: one line per promise, with the figure that decided it."""

from __future__ import annotations

import io
import os
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from pgt_fx.core.counts import counted
from pgt_fx.core.errors import VerificationError
from pgt_fx.core.text_tables import Fitted

WORD = {True: "holds", False: "VIOLATED", None: "not checked"}
ERROR = "ERROR"
#: Columns from which on the promises stand in the table; else it would be all promise.
WIDE = 110
_STYLE = {True: "green", False: "bold red", None: "yellow"}


@dataclass(frozen=True)
class Check:
    """One promise and its measurement.

    Attributes:
        id: short name, e.g. ``"one-way-forward"``.
        sentence: the promise in words.
        ok: whether it holds; None where the measurement says nothing, for the reason in ``detail``.
        measured: the figure that decided.
        bound: what the figure was compared with.
        detail: on what it was measured; for a failure, where and by how much.
        where: for a failure, the operator and the source line to look at, where one was found.
        error: it was not checked because of an error that says nothing about the promise; then
            ``ok`` is None, and the error is in ``detail``.
    """

    id: str
    sentence: str
    ok: bool | None
    measured: str | float = ""
    bound: str | float = ""
    detail: str = ""
    where: str = ""
    error: bool = False

    @property
    def word(self) -> str:
        """The outcome: "holds", "VIOLATED", "not checked" or "ERROR"."""
        return ERROR if self.error else WORD[self.ok]

    def __str__(self) -> str:
        shown = figure(self.measured)
        if self.bound:
            shown += f" (bound {figure(self.bound)})"
        look = f"look at {self.where}" if self.where else ""
        parts = [f"{self.word:12}{self.id}: {self.sentence}", shown, self.detail, look]
        return "; ".join(p for p in parts if p)


@dataclass(frozen=True)
class Verification:
    """The checks of one model.

    Attributes:
        model: class of the model.
        setting: how it was measured, in words.
        checks: in the order in which they were made.
        required: ids of those that have to hold, and not merely not to be violated.
        record: what a certificate says beside the checks: settings, versions, fingerprints.
    """

    model: str
    setting: str
    checks: tuple[Check, ...]
    record: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)
    required: frozenset[str] = frozenset()

    @property
    def violations(self) -> tuple[Check, ...]:
        """Checks that failed."""
        return tuple(c for c in self.checks if c.ok is False)

    @property
    def silent(self) -> tuple[Check, ...]:
        """Checks that say nothing, for a reason of the model's."""
        return tuple(c for c in self.checks if c.ok is None and not c.error)

    @property
    def errors(self) -> tuple[Check, ...]:
        """Checks that were not made because of an error."""
        return tuple(c for c in self.checks if c.error)

    @property
    def unanswered(self) -> tuple[Check, ...]:
        """Required checks that could not be made: there is no answer."""
        return tuple(c for c in self.silent if c.id in self.required)

    @property
    def decided(self) -> bool:
        """Whether the measurements could have shown a fault: the model answers to time, and more
        than that was measured."""
        held = [c.id for c in self.checks if c.ok]
        return bool(self.violations) or ("time-sensitive" in held and len(held) > 1)

    @property
    def ok(self) -> bool:
        """Nothing is violated, all that is required holds, no check ended in an error, and a
        violation would have shown."""
        return self.decided and not (self.violations or self.errors or self.unanswered)

    def __getitem__(self, check_id: str) -> Check:
        for check in self.checks:
            if check.id == check_id:
                return check
        raise KeyError(f"no check {check_id!r}; there are {', '.join(c.id for c in self.checks)}")

    def raise_if_failed(self) -> None:
        """Do nothing if :attr:`ok`.

        Raises:
            VerificationError: listing what is violated, what was not checked because of an error,
                or why nothing, or something that is required, could not be checked.
        """
        if self.ok:
            return
        if self.violations or self.errors:
            told = f"{self._faults()} ({self.setting})"
            head = f"{self.model}: {told}"
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
        from pgt_fx.testing.verify.formats import to_markdown

        return to_markdown(self)

    def to_junit(self) -> str:
        """XML as test reporters read it: one test case for each check."""
        from pgt_fx.testing.verify.formats import to_junit

        return to_junit(self)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a certificate (JSON): what was checked, on what, with figures and fingerprints;
        see :mod:`pgt_fx.testing.verify.certificate`."""
        from pgt_fx.testing.verify.certificate import save

        save(self, path)

    @property
    def summary(self) -> str:
        """One sentence."""
        if self.violations or self.errors:
            return f"{self._faults()}."
        if not self.decided:
            blind = any(c.id == "time-sensitive" and not c.ok for c in self.checks)
            why = ": the order of the frames makes no difference" if blind else ""
            return f"Nothing could be checked{why}."
        if missing := len(self.unanswered):
            is_ = "is" if missing == 1 else "are"
            return f"{counted(missing, 'check')} that {is_} required could not be made."
        held = sum(c.ok is True for c in self.checks)
        rest = f"; {len(self.silent)} could not be checked" if self.silent else ""
        return f"{counted(held, 'promise')} {'holds' if held == 1 else 'hold'}{rest}."

    def _faults(self) -> str:
        """How many promises are violated, and how many an error kept from being checked."""
        of = f"of {counted(len(self.checks), 'promise')}"
        broken, errors = len(self.violations), len(self.errors)
        told = [f"{broken} {of} {'is' if broken == 1 else 'are'} violated"] * bool(broken)
        of = "" if broken else f" {of}"
        was = "was" if errors == 1 else "were"
        told += [f"{errors}{of} {was} not checked because of an error"] * bool(errors)
        return ", ".join(told)

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


def figure(value: str | float) -> str:
    """A measured figure or a bound as text."""
    return value if isinstance(value, str) else f"{value:.1e}"
