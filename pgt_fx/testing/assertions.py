"""``assert_progressive`` and ``assert_causal``."""

from __future__ import annotations

from typing import Any, Unpack

from torch import nn

from pgt_fx.testing.verify.causal import Settings as CausalSettings
from pgt_fx.testing.verify.causal import verify_causal
from pgt_fx.testing.verify.contract import Settings, verify
from pgt_fx.testing.verify.result import Verification


def assert_progressive(
    model_or_prog: nn.Module, example: Any = None, **kwargs: Unpack[Settings]
) -> Verification:
    """Measure the promises of a progressive model; see :func:`pgt_fx.verify` for arguments.

    Returns:
        the measurements, which all hold.

    Raises:
        VerificationError: an ``AssertionError`` that lists what is violated and where, or says
            that nothing could be checked.
    """
    verification = verify(model_or_prog, example, **kwargs)
    verification.raise_if_failed()
    return verification


def assert_causal(
    model: nn.Module, example: Any = None, **kwargs: Unpack[CausalSettings]
) -> Verification:
    """Measure that no output of a plain model knows a frame of its future; see
    :func:`pgt_fx.testing.verify.causal.verify_causal` for arguments.

    Nothing is transformed: the model may be one that ``pgt_fx`` can't convert.

    Returns:
        the measurements, which all hold.

    Raises:
        VerificationError: an ``AssertionError`` that names the output, the frame that leaks into
            it, and the line of the model at which it does.
    """
    verification = verify_causal(model, example, **kwargs)
    verification.raise_if_failed()
    return verification
