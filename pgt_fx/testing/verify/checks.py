"""A promise and its measurement, and the checks of one model."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pgt_fx.core.counts import counted

WORD = {True: "holds", False: "VIOLATED", None: "not checked"}
ERROR = "ERROR"


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
class Findings:
    """The checks of one model, as data: what :class:`~pgt_fx.testing.verify.result.Verification`
    says about them follows from it.

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
        parts = [f"{broken} {of} {'is' if broken == 1 else 'are'} violated"] * bool(broken)
        of = "" if broken else f" {of}"
        was = "was" if errors == 1 else "were"
        parts += [f"{errors}{of} {was} not checked because of an error"] * bool(errors)
        return ", ".join(parts)


def figure(value: str | float) -> str:
    """A measured figure or a bound as text."""
    return value if isinstance(value, str) else f"{value:.1e}"
