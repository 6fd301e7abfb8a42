"""For test suites: one line that proves a model progressive or causal, and random models to draw.

``pytest --pgt-model package.module:factory`` checks a model without a line of test code
(see :mod:`pgt_fx.testing.pytest_plugin`). Hypothesis strategies are in
:mod:`pgt_fx.testing.strategies`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pgt_fx.testing.assertions import assert_causal as assert_causal
    from pgt_fx.testing.assertions import assert_progressive as assert_progressive

__all__ = ["assert_causal", "assert_progressive"]

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        # Fetched when first used: the pytest plugin is in this package, and must not import torch
        # for test suites that have nothing to do with it.
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module("pgt_fx.testing.assertions"), name)
