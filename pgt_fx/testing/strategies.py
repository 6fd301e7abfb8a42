"""Hypothesis strategies for random temporal models: the public name of
:mod:`pgt_fx.testing.fuzz.strategies`."""

from pgt_fx.testing.fuzz.strategies import *  # noqa: F403
from pgt_fx.testing.fuzz.strategies import __all__ as __all__
