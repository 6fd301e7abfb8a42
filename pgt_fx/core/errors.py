"""Errors: what was seen, what was expected, where in the user's model, and what to do.

Every error of this package derives from :class:`PgtError`, so that one ``except`` is enough.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pgt_fx.core.counts import counted


def annotate(error: BaseException, **facts: object) -> None:
    """Let an error, of whatever class, carry facts to where it is caught: attributes of these
    names."""
    vars(error).update(facts)


class PgtError(Exception):
    """Base of all errors raised by ``pgt_fx``.

    Attributes:
        hint: what is known to help with models of this class (:mod:`pgt_fx.hints`); part of the
            message.
    """

    hint: str = ""
    #: What to do, where no hint for the model's class is known that would say it better.
    advice: str = ""

    def __str__(self) -> str:
        text, more = super().__str__(), self.hint or self.advice
        return f"{text}\n{more}" if more else text


class OptionError(PgtError, ValueError):
    """An option has a value that is not one of the allowed ones."""


class ClipError(PgtError, ValueError):
    """An example or a chunk has the wrong structure, rank, size, dtype or length."""


class OtherClipError(ClipError):
    """A clip has a batch, a space or a type for which the captured graph is not the model.

    A step that meets such a clip captures the model anew for it, and raises this where that can't
    be done.
    """


class StateError(PgtError, RuntimeError):
    """A step was asked for that the state does not allow (video over, another batch size …)."""


class StreamWarning(UserWarning):
    """A stream is continued that was begun by another model: before an update, or in another mode.
    Mostly :meth:`~pgt_fx.Progressive.reset` was forgotten before the next video."""


class DifferentiatedError(PgtError, RuntimeError):
    """A loss is to be differentiated that :func:`pgt_fx.training.backward` has differentiated."""


class ExactnessError(PgtError, ValueError):
    """``future="wait"`` was asked of a model that no bounded state can reproduce.

    Attributes:
        operators: those that make it so, each with the user's line.
    """

    def __init__(self, message: str, operators: Sequence[str] = ()) -> None:
        self.operators = tuple(operators)
        super().__init__(message)


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


class VideoError(PgtError, RuntimeError):
    """A video file can't be read.

    Attributes:
        path: the file; None where no file was looked at.
    """

    def __init__(self, message: str, path: Path | None = None) -> None:
        super().__init__(message)
        self.path = path

    def __reduce__(self) -> tuple[type[VideoError], tuple[str, Path | None]]:
        return type(self), (str(self), self.path)  # it comes from a worker of a DataLoader


def of_this_machine(error: BaseException) -> bool:
    """Whether an error is about what is installed or how much memory there is: nothing follows from
    it about a model, neither that it is refused nor that it breaks a promise."""
    return isinstance(error, ImportError) or out_of_memory(error)


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory is short.

    torch raises ``OutOfMemoryError`` on a GPU and a plain ``RuntimeError`` on a CPU.
    """
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


class Refusal(Exception):
    """Raised by an operator's rule, or a pass, that knows the operator and can't make it
    progressive; the walk makes a :class:`Blocker` of it, which names the line.

    Attributes:
        reason: why, as the end of a sentence whose subject is the operator.
        remedy: what to do; "" where nothing is known to help.
    """

    def __init__(self, reason: str, remedy: str = "") -> None:
        super().__init__(reason)
        self.reason, self.remedy = reason, remedy


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


class LoopError(CaptureError):
    """The model loops over its frames in Python: it calls a module once for every so many. Or it is
    made for one turn of such a loop: it returns a cache for the next."""


@dataclass(frozen=True)
class Blocker:
    """One operator that stands in the way, with the reason and the remedy."""

    place: Place
    reason: str
    remedy: str = ""

    def __str__(self) -> str:
        text = f"{self.place}\n    {self.reason}"
        return f"{text}\n    remedy: {self.remedy}" if self.remedy else text


def _of_one_line(blockers: Sequence[Blocker]) -> str:
    """Blockers of one line of the model, which may run more than once: each operator and each
    reason is said once."""
    first = blockers[0].place
    ops = Counter(b.place.op for b in blockers)
    modules = list(dict.fromkeys(b.place.module for b in blockers if b.place.module))
    names = ", ".join(f"{op} ({n} times)" if n > 1 else op for op, n in ops.items())
    more = f" and {counted(len(modules) - 1, 'other module')}" if len(modules) > 1 else ""
    where = Place(names, "".join(modules[:1]) + more, first.source, first.line)
    remedies: dict[str, dict[str, None]] = {}
    for b in blockers:
        remedies.setdefault(b.remedy, {})[b.reason] = None
    said = [str(Blocker(where, "\n    ".join(found), r)) for r, found in remedies.items()]
    return "\n".join([said[0], *(text.partition("\n")[2] for text in said[1:])])


class BlockedError(PgtError):
    """The model has operators that can't be made progressive. All of them are listed, by the lines
    of the model.

    Attributes:
        blockers: one :class:`Blocker` per operator, in the order of the graph.

    Args:
        note: a sentence for the end of the message.
    """

    def __init__(self, blockers: Sequence[Blocker], note: str = "") -> None:
        self.blockers = tuple(blockers)
        head = f"{counted(len(self.blockers), 'operator')} of this model can't be made progressive:"
        lines: dict[Any, list[Blocker]] = {}
        for number, b in enumerate(self.blockers):
            lines.setdefault(
                (b.place.source, b.place.line) if b.place.source else number, []
            ).append(b)
        items = (f"  {n}. {_of_one_line(found)}" for n, found in enumerate(lines.values(), 1))
        super().__init__("\n".join([head, *items, *filter(None, [note])]))


class GradientError(BlockedError):
    """A gradient was asked for of a model in eval mode that makes some by hand, in lines that a
    step writes out: it would be another one, or none."""
