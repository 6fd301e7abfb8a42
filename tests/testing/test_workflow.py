"""The workflow that a project copies: its own commands, run here on a backbone of the zoo."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import typer
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from pgt_fx.cli import app

ROOT = Path(__file__).parents[2]
FILE = ROOT / "docs" / "ci" / "verify-models.yml"


def job() -> dict[str, Any]:
    # "on" is a boolean in YAML 1.1: read by value.
    return yaml.safe_load(FILE.read_text())["jobs"]["verify"]


def run(
    folder: Path, model: str, scripts: Path | None = None, require: str | None = None
) -> dict[str, int]:
    """The exit codes of the steps, as a runner goes on: after a failure only `if: always()`."""
    job_ = job()
    require = job_["env"]["REQUIRE"] if require is None else require
    assert job_["env"]["MODEL"] == "${{ matrix.model }}"
    folder.joinpath("shop.py").write_text((ROOT / "tests" / "models_for_ci.py").read_text())
    path = f"{scripts or Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, "MODEL": model, "GITHUB_STEP_SUMMARY": "summary.md"}
    env["REQUIRE"] = require
    codes: dict[str, int] = {}
    failed = False
    for step in job_["steps"]:
        if "run" not in step or step["name"] in ("torch", "install"):
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


@pytest.mark.parametrize(
    "model, require, code, words",
    [
        ("shop:stream", "--require exact --max-look-ahead 0 --max-state 4MiB", 0, "promises hold"),
        ("shop:stream_norm", "--require exact", 1, "`exact-wait`: required: no bounded state"),
        ("shop:weightless", "--require gradients", 2, "1 check that is required could not be made"),
    ],
)
def test_it_is_red_where_what_is_required_is_lost(
    tmp_path: Path, model: str, require: str, code: int, words: str
) -> None:
    codes = run(tmp_path, model, require=require)
    assert codes == {"verify": code, "summary": 0}
    assert words in (tmp_path / "summary.md").read_text()


def test_it_installs_torch_for_the_cpu_and_this_project_from_its_repository(tmp_path: Path) -> None:
    """pip is called as the steps say, by a shell with the job's variables."""
    stub = tmp_path / "pip"
    stub.write_text(f"#!{sys.executable}\nimport json, sys\nprint(json.dumps(sys.argv[1:]))\n")
    stub.chmod(0o755)
    variables = {k: v for k, v in job()["env"].items() if k not in ("MODEL", "REQUIRE")}
    env = {**os.environ, **variables, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    calls = []
    for step in job()["steps"]:
        if step.get("name") in ("torch", "install"):
            command = ["bash", "-eo", "pipefail", "-c", step["run"]]
            calls += subprocess.check_output(command, env=env, text=True).splitlines()
    index = "https://download.pytorch.org/whl/cpu"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    torch = next(d for d in project["dependencies"] if d.startswith("torch"))
    first, second = map(json.loads, calls)
    assert first == ["install", torch, "--index-url", index]
    assert second == ["install", ".", variables["PGT_FX"], "--extra-index-url", index]
    wanted = Requirement(variables["PGT_FX"])  # what pip reads it as
    assert wanted.name == project["name"] and str(wanted.url).startswith("git+https://")


def test_what_is_downloaded_is_kept() -> None:
    """The cache's key is of files; setup-python fails where none of them is there."""
    setup = next(s for s in job()["steps"] if "setup-python" in s.get("uses", ""))["with"]
    assert setup["cache"] == "pip"
    files = setup["cache-dependency-path"].split()
    assert ".github/workflows/*.yml" in files, "the one file that a copy of this always has"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert setup["python-version"] in SpecifierSet(project["requires-python"])


def commands(text: str) -> list[list[str]]:
    """Calls of ``pgt-fx`` in a document, comments of it included, as words."""
    found = re.findall(r"pgt-fx (\w[^`\n]*)", text)
    return [shlex.split(line.partition(" # ")[0].partition(" && ")[0]) for line in found]


@pytest.mark.parametrize("name", ["docs/ci/verify-models.yml", "docs/verification.md", "README.md"])
def test_what_documents_call_exists_with_these_options(name: str) -> None:
    known = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    seen = 0
    for command, *words in commands((ROOT / name).read_text()):
        options = {o for p in known[command].params for o in (*p.opts, *p.secondary_opts)}
        unknown = [w for w in words if w.startswith("--") and w.partition("=")[0] not in options]
        assert command == "bench" or not unknown, (command, unknown)  # a benchmark has its own
        seen += 1
    assert seen > 1


def test_nothing_takes_this_project_from_an_index() -> None:
    """It is on none. Where it is installed, pip takes an extra's packages alone by its name."""
    for path in (FILE, ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        for line in path.read_text().replace("\n'", " '").splitlines():
            _, found, rest = line.partition("pip install ")
            words = shlex.split(rest.partition("`")[0], comments=True) if found else []
            named = [w for w in words if re.fullmatch(r"pgt_fx(\[[\w,]+\])?", w)]
            assert not named, f"{path.name}: {line}"


def test_what_it_uploads_is_what_it_writes() -> None:
    steps = {s.get("name", s.get("uses")): s for s in job()["steps"]}
    kept = steps["actions/upload-artifact@v4"]["with"]["path"].split()
    assert kept == ["verification.xml", "certificate.json"]
    assert all(f" {name}" in steps["verify"]["run"] for name in kept)
