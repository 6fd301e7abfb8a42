"""One line for a test suite: ``assert_progressive(model, example)``."""

from __future__ import annotations

from typing import Any

from torch import nn

from pgt_fx.verification.contract import verify
from pgt_fx.verification.result import Verification


def assert_progressive(
    model_or_prog: nn.Module, example: Any = None, **kwargs: Any
) -> Verification:
    """Measure the promises of a progressive model; see :func:`pgt_fx.verify` for arguments.

    Returns:
        the measurements, which all hold.

    Raises:
        VerificationError: an ``AssertionError`` that lists what is violated.
    """
    verification = verify(model_or_prog, example, **kwargs)
    verification.raise_if_failed()
    return verification
