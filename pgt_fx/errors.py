"""Errors: what was seen, what was expected, where in the user's model, and what to do.

Every error of this package derives from :class:`PgtError`, so that one ``except`` is enough.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class PgtError(Exception):
    """Base of all errors raised by ``pgt_fx``."""


class OptionError(PgtError, ValueError):
    """An option has a value that is not one of the allowed ones."""


class ClipError(PgtError, ValueError):
    """An example or a chunk has the wrong structure, rank, size, dtype or length."""


class StateError(PgtError, RuntimeError):
    """A step was asked for that the state does not allow (video over, another batch size …)."""


class ExactnessError(PgtError, ValueError):
    """``future="wait"`` was asked of a model that no bounded state can reproduce."""


class CompileError(PgtError, RuntimeError):
    """``torch.compile`` can't take a step of the model as one graph."""


class TracedError(PgtError, RuntimeError):
    """A step was traced into a program (exported, scripted), in which its state would be lost."""


class VerificationError(PgtError, AssertionError):
    """A verification did not hold."""


class SelfCheckError(PgtError, RuntimeError):
    """The program that was made of a model does not give what the model gives.

    Attributes:
        where: the operator and the line at which values first differ; "" where none was found.
    """

    def __init__(self, message: str, where: str = "") -> None:
        self.where = where
        super().__init__(message)


@dataclass(frozen=True)
class Place:
    """Where in the user's model an operator stands.

    Attributes:
        op: name of the operator, e.g. ``"aten.flip"``.
        module: dotted path of the innermost module call, e.g. ``"layer1.0.conv1"``; "" at the top.
        source: ``"file.py:123"`` of the user's line, or "" when the capture did not record it.
        line: text of that line, or "".
    """

    op: str
    module: str = ""
    source: str = ""
    line: str = ""

    def __str__(self) -> str:
        where = f" in {self.module}" if self.module else ""
        source = f" ({self.source}: {self.line})" if self.source else ""
        return f"{self.op}{where}{source}"


class CaptureError(PgtError, RuntimeError):
    """The model could not be captured as a graph whose time axis is symbolic.

    Attributes:
        place: the operator and the line of the model that stand in the way, where they are known.
    """

    def __init__(self, message: str, place: Place | None = None) -> None:
        self.place = place
        super().__init__(f"{place}\n    {message}" if place is not None else message)


@dataclass(frozen=True)
class Blocker:
    """One operator that stands in the way, with the reason and the remedy."""

    place: Place
    reason: str
    remedy: str = ""

    def __str__(self) -> str:
        text = f"{self.place}\n    {self.reason}"
        return f"{text}\n    remedy: {self.remedy}" if self.remedy else text


class BlockedError(PgtError):
    """The model has operators that can't be made progressive. All of them are listed.

    Attributes:
        blockers: one :class:`Blocker` per operator, in the order of the graph.
    """

    def __init__(self, blockers: Sequence[Blocker]) -> None:
        self.blockers = tuple(blockers)
        count = len(self.blockers)
        head = f"{count} operator{'s' * (count > 1)} of this model can't be made progressive:"
        super().__init__(
            "\n".join([head, *(f"  {i}. {b}" for i, b in enumerate(self.blockers, 1))])
        )
