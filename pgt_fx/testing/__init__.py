"""For test suites: one line that proves a model progressive or causal, and random models to draw.

``pytest --pgt-model package.module:factory`` checks a model without a line of test code (see
:mod:`pgt_fx.pytest_plugin`). Hypothesis strategies are in :mod:`pgt_fx.testing.strategies`.
"""

from pgt_fx.testing.assertions import assert_causal, assert_progressive

__all__ = ["assert_causal", "assert_progressive"]
