"""Every planted fault is caught by the check that ought to catch it, and nothing else is blamed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from mutants import MUTANTS, Mutant, Pooled, caught, verify

pytestmark = pytest.mark.full


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.name.replace(" ", "-"))
def test_a_mutant_is_caught_by_its_check(mutant: Mutant) -> None:
    found = verify(mutant, {mutant.check})
    assert mutant.check in caught(found), str(found)


@pytest.mark.parametrize(
    "options", [{}, {"operator": "cmco-avg"}, {"operator": "pmco"}], ids=["mco", "cmco", "pmco"]
)
def test_without_a_fault_nothing_is_caught(options: dict[str, str]) -> None:
    sound = Mutant("none", "", lambda: pytest.MonkeyPatch.context(), options=tuple(options.items()))
    parts = [m.kind for m in MUTANTS if m.plant.__module__ == "mutants_of_parts"]
    for kind in dict.fromkeys((Mutant.kind, Pooled, *(() if options else parts))):
        found = verify(Mutant("none", "", sound.plant, kind, sound.options))
        assert not caught(found), str(found)
        assert found.ok


def test_there_are_at_least_twenty_five_and_each_check_has_one() -> None:
    from pgt_fx.testing.verify.promises import CHECKS

    assert len(MUTANTS) >= 25 and len({m.name for m in MUTANTS}) == len(MUTANTS)
    covered = {m.check for m in MUTANTS}
    assert {c[0] for c in CHECKS} - covered == {"time-sensitive"}


@pytest.mark.slow
def test_one_command_prints_the_table_that_the_documentation_has() -> None:
    script = Path(__file__).parents[1] / "mutants.py"
    found = subprocess.run(
        [sys.executable, str(script), "--markdown"], capture_output=True, text=True, check=True
    )
    lines = found.stdout.strip().splitlines()
    assert len(lines) == len(MUTANTS) + 2 and "**not**" not in found.stdout
    assert found.stdout.strip() in (script.parents[1] / "docs" / "verification.md").read_text()


#: Where a fault is to be looked for, by name of the mutant; every one gives some place.
AT = {
    "state is a view of the activation": "aten.conv1d in stem",
    "gradient flows through the carried state": "in dilated",
    "the future leaks by one frame": "the clip itself",
    "stale phase of a strided window": "aten.conv1d in down",
    "padding put again at every step": "aten.conv1d in stem",
    "max pooling padded with 0": "in highest",
    "divisor of average pools ignores the ends": "aten.avg_pool1d in mean",
    "dilation left out of the past": "aten.conv1d in dilated",
    "aligner forgets what it holds": "state entry 'add.held'",
    "aligner off by one": "it raises",
    "running mean weighted by steps, not frames": "aten.mean",
    "running maximum forgotten": "aten.amax",
    "exact set too wide": "the set that exact_frames names",
    "exact set too narrow": "the set that exact_frames names",
    "statistics updated twice": "module norm",
}


#: What is not heard while a model is captured is no operator's fault.
NOWHERE = {"a branch on the number of frames is not heard", "a branch on the batch is not heard"}


@pytest.mark.parametrize(
    "mutant", [m for m in MUTANTS if m.name not in NOWHERE], ids=lambda m: m.name.replace(" ", "-")
)
def test_a_fault_is_found_in_the_graph(mutant: Mutant) -> None:
    """Found by bisecting the graph: the operator, and for operators the line of the model."""
    where = verify(mutant, {mutant.check})[mutant.check].where
    assert where, mutant.name
    assert AT.get(mutant.name, "") in where
    if "aten." in where:
        assert any(f"{name}.py:" in where for name in ("planting", "mutants_of_parts"))


def test_a_fault_shows_its_place_where_it_is_printed() -> None:
    found = verify(next(m for m in MUTANTS if m.name == "aligner forgets what it holds"))
    text = str(found)
    assert "look at" in text and "state entry 'add.held'" in text
    with pytest.raises(AssertionError, match=r"look at aten\.add"):
        found.raise_if_failed()
