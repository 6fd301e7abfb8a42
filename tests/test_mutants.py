"""Every planted fault is caught by the check that ought to catch it, and nothing else is blamed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from mutants import MUTANTS, Mutant, Pooled, caught, verify

TELLS = {"exact-zero-tight": "exact-zero"}


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.name.replace(" ", "-"))
def test_a_mutant_is_caught_by_its_check(mutant: Mutant) -> None:
    found = verify(mutant, {TELLS.get(mutant.check, mutant.check)})
    assert mutant.check in caught(found), str(found)


@pytest.mark.parametrize(
    "options", [{}, {"operator": "cmco-avg"}, {"operator": "pmco"}], ids=["mco", "cmco", "pmco"]
)
def test_without_a_fault_nothing_is_caught(options: dict[str, str]) -> None:
    sound = Mutant("none", "", lambda: pytest.MonkeyPatch.context(), options=tuple(options.items()))
    for kind in (Mutant.kind, Pooled):
        found = verify(Mutant("none", "", sound.plant, kind, sound.options))
        assert not caught(found), str(found)
        assert found.ok


def test_there_are_at_least_twenty_five_and_each_check_has_one() -> None:
    from pgt_fx.verification.contract import CHECKS

    assert len(MUTANTS) >= 25 and len({m.name for m in MUTANTS}) == len(MUTANTS)
    covered = {TELLS.get(m.check, m.check) for m in MUTANTS}
    assert {c[0] for c in CHECKS} - covered == {"time-sensitive"}


@pytest.mark.slow
def test_one_command_prints_the_table() -> None:
    script = Path(__file__).with_name("mutants.py")
    found = subprocess.run(
        [sys.executable, str(script), "--markdown"], capture_output=True, text=True, check=True
    )
    lines = found.stdout.strip().splitlines()
    assert len(lines) == len(MUTANTS) + 2
    assert all("(X)" in line for line in lines[2:]), found.stdout
