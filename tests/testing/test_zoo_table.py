"""The zoo's table is what the command writes, and what it says still holds.

The small models are converted and measured on each commit, all of them with ``--slow`` (about an
hour on one core).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from pgt_fx import zoo
from pgt_fx.cli import app
from pgt_fx.testing.zoo_survey import Row, survey
from pgt_fx.testing.zoo_table import MARK, read_table, summary, to_markdown, write_table

pytestmark = pytest.mark.full

pytest.importorskip("pytorchvideo")
pytest.importorskip("diffusers")

ROOT = Path(__file__).parents[2]
ROWS = read_table(ROOT / "zoo" / "table.json")
SMALL = {"regnet3d_400m", "eco_lite", "slow_r50", "x3d_xs", "svd_encoder", "mvit_base_16x4"}


def test_every_model_has_a_row() -> None:
    assert sorted(ROWS) == zoo.names()


def test_no_row_is_violated_and_the_reasons_are_given() -> None:
    for row in ROWS.values():
        assert row.ok, (row.name, row.promises)
        assert (row.kind == "exact") == (not row.reasons), row.name
        assert (row.kind == "refused") == (not row.promises), row.name
        if row.kind == "refused":
            assert ".py:" in row.reasons[0], row.name


def test_the_documents_are_what_the_command_writes() -> None:
    rows = list(ROWS.values())
    assert (ROOT / "zoo" / "README.md").read_text() == to_markdown(rows)
    assert f"{MARK}\n{summary(rows)}\n{MARK}" in (ROOT / "README.md").read_text()


def test_a_row_takes_the_place_of_an_older_one(tmp_path: Path) -> None:
    folder = tmp_path / "zoo"
    folder.mkdir()
    (tmp_path / "README.md").write_text(f"before\n{MARK}\nold\n{MARK}\nbehind\n")
    first = Row("r3d_18", "torchvision", "exact", parameters=3, promises={"reset": True})
    other = Row("s3d", "torchvision", "refused", ["for a reason"])
    write_table(folder, [first, other])
    write_table(folder, [Row("r3d_18", "torchvision", "exact", promises={"reset": False})])
    rows = read_table(folder / "table.json")
    assert set(rows) == {"r3d_18", "s3d"} and not rows["r3d_18"].ok
    text = (folder / "README.md").read_text()
    assert "**violated: reset**" in text and "for a reason" in text
    above = (tmp_path / "README.md").read_text()
    assert above.startswith("before") and above.endswith("behind\n") and "old" not in above
    assert "2 models: 1 exact, 0 progressive, 0 step-only, 1 refused" in above
    assert "not so r3d_18" in above


@pytest.mark.parametrize(
    "name",
    [n if n in SMALL else pytest.param(n, marks=pytest.mark.slow) for n in zoo.names()],
)
def test_a_row_still_holds(name: str) -> None:
    known, row = ROWS[name], survey(name)
    assert row.ok, row.promises
    told: list[Any] = []
    for one in (known, row):
        plain = one.to_dict()
        told.append({k: v for k, v in plain.items() if k not in ("seconds", "reasons")})
    assert told[0] == told[1]


def test_the_command_measures_what_is_asked_and_writes_it(tmp_path: Path) -> None:
    found = CliRunner().invoke(
        app, ["zoo", "resnet18_bilstm", "--check", "--output", str(tmp_path), "--json"]
    )
    assert found.exit_code == 0, found.output
    (row,) = json.loads((tmp_path / "table.json").read_text())
    assert row["name"] == "resnet18_bilstm" and row["kind"] == "refused"
    listed = CliRunner().invoke(app, ["zoo", "slow_r50"])
    assert listed.exit_code == 0 and "slow_r50_detection" in listed.output
    wrong = CliRunner().invoke(app, ["zoo", "slow_r51"])
    assert wrong.exit_code == 2 and "slow_r50" in wrong.output
