"""The workflow that a project copies: its own commands, run here on a backbone of the zoo."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml

ROOT = Path(__file__).parent.parent
FILE = ROOT / "docs" / "ci" / "verify-models.yml"


def job() -> dict[str, Any]:
    # "on" is a boolean in YAML 1.1: read by value.
    return yaml.safe_load(FILE.read_text())["jobs"]["verify"]


def run(folder: Path, model: str) -> dict[str, int]:
    """The exit codes of the steps, as a runner goes on: after a failure only `if: always()`."""
    job_ = job()
    assert job_["env"]["MODEL"] == "${{ matrix.model }}"
    folder.joinpath("shop.py").write_text((ROOT / "tests" / "models_for_ci.py").read_text())
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, "MODEL": model, "GITHUB_STEP_SUMMARY": "summary.md"}
    codes: dict[str, int] = {}
    failed = False
    for step in job_["steps"]:
        if "run" not in step or step["name"] == "install":
            continue
        if failed and step.get("if") != "always()":
            continue
        command = ["bash", "-eo", "pipefail", "-c", step["run"]]
        codes[step["name"]] = subprocess.run(command, cwd=folder, env=env).returncode
        failed |= codes[step["name"]] != 0
    return codes


def test_it_passes_on_a_backbone_of_the_zoo(tmp_path: Path) -> None:
    assert run(tmp_path, "x3d_xs") == {"verify": 0, "summary": 0}
    assert "### Net: 14 promises hold" in (tmp_path / "summary.md").read_text()
    suite = next(ElementTree.parse(tmp_path / "verification.xml").iter("testsuite"))
    assert suite.get("failures") == suite.get("errors") == "0"


def test_its_certificate_can_be_checked_again(tmp_path: Path) -> None:
    assert run(tmp_path, "shop:both_ways")["verify"] == 0
    command = [Path(sys.executable).parent / "pgt-fx", "verify", "--certificate"]
    again = subprocess.run([*command, "certificate.json"], cwd=tmp_path, capture_output=True)
    assert again.returncode == 0 and b"still holds" in again.stdout


@pytest.mark.parametrize("model, code", [("shop:refused", 2), ("shop:blind", 2), ("shop:no", 2)])
def test_it_is_red_where_nothing_is_proved(tmp_path: Path, model: str, code: int) -> None:
    codes = run(tmp_path, model)
    assert codes["verify"] == code
    if model != "shop:no":
        assert "Nothing could be checked" in (tmp_path / "summary.md").read_text()


def test_what_it_uploads_is_what_it_writes() -> None:
    steps = {s.get("name", s.get("uses")): s for s in job()["steps"]}
    kept = steps["actions/upload-artifact@v4"]["with"]["path"].split()
    assert kept == ["verification.xml", "certificate.json"]
    assert all(f" {name}" in steps["verify"]["run"] for name in kept)
