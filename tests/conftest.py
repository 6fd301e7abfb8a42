"""Options and settings of the whole test suite."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

from pgt_fx.compiler import transform as compiler

# `import oracles`, and what one test file takes from another, under any import mode.
HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), *(str(p) for p in sorted(HERE.iterdir()) if p.is_dir())]

# Graphs are checked between the stages of the compiler, in the processes of the tests too.
os.environ.setdefault("PGT_FX_CHECK_STAGES", "1")

# Workers share the cores: more threads each would only make them wait.
torch.set_num_threads(1)

_common = {
    "deadline": None,  # a capture takes as long as it takes
    "suppress_health_check": [
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
        HealthCheck.filter_too_much,
    ],
    "print_blob": True,
}
# Four properties of random graphs draw this many examples each: 300 and 10,000 in all.
settings.register_profile("ci", max_examples=75, derandomize=True, database=None, **_common)
settings.register_profile("long", max_examples=2500, **_common)
settings.load_profile("ci")  # the plugin's --hypothesis-profile=long comes after this


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", action="store_true", help="run the tests marked full as well")
    parser.addoption("--slow", action="store_true", help="run those marked full or slow as well")
    parser.addoption(
        "--self-check",
        action="store_true",
        help="let every transform compare its program with the model, as it does for users",
    )


def pytest_configure(config: pytest.Config) -> None:
    # pyproject.toml deselects what is slow or full by `-m`. Deselected rather than skipped: a skip
    # in the summary means that something is missing.
    if config.option.markexpr == "not slow and not full":
        if config.getoption("--slow"):
            config.option.markexpr = ""
        elif config.getoption("--full"):
            config.option.markexpr = "not slow"
    # Thousands of transforms of one run would each be measured beside the model, which the tests do
    # in their own ways. Those of test_selfcheck.py, and of commands run as processes, do check.
    if not config.getoption("--self-check"):
        compiler.self_check = lambda prog: "not checked by itself in the test suite"
