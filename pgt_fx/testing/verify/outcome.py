"""The result of a check that raises: a broken promise, a refusal by the model itself, or an error,
from which nothing follows about the model.

A step that refuses what it has to take breaks its promise: it says so by an error of this package.
Any other exception may be a fault of anything: of this package, of torch, of an operator of the
user's. The check is then not made because of an error, which is no verdict.
"""

from __future__ import annotations

import traceback
from dataclasses import replace
from pathlib import Path

from pgt_fx.compiler.selfcheck.trials import by_the_model
from pgt_fx.compiler.selfcheck.videos import first_line
from pgt_fx.core.errors import GradientError, PgtError, StateError, of_this_machine
from pgt_fx.testing.verify.result import Check


def unmade(check: Check, error: Exception, refusal: str = "") -> Check:
    """The outcome of a check that ended in an exception.

    Args:
        check: its id and sentence.
        error: what came out of it.
        refusal: what the model itself says to the whole video, "" where it takes it.

    Raises:
        Exception: the error itself, where it is about this machine (:func:`of_this_machine`).
    """
    if of_this_machine(error):
        raise error
    text = in_words(error)
    if by_the_model(error) or text == refusal:
        return replace(check, ok=None, detail=f"the model itself raises {text}")
    if isinstance(error, GradientError):
        return replace(check, ok=None, detail=f"gradients are refused: {text}")
    if isinstance(error, StateError) and "longer chunks" in str(error):
        reason = f"the model's pools over time refuse short steps: {first_line(error)}"
        return replace(check, ok=None, detail=reason)
    if isinstance(error, PgtError):
        return replace(check, ok=False, measured="raised", detail=text)
    return replace(check, ok=None, error=True, measured="raised", detail=text, where=origin(error))


def in_words(error: BaseException) -> str:
    """The kind of an error and the first line of what it says."""
    said = first_line(error)
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


def origin(error: BaseException) -> str:
    """The innermost line of Python from which an error comes."""
    frames = traceback.extract_tb(error.__traceback__)
    if not frames:
        return ""
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}: {frames[-1].line}"
