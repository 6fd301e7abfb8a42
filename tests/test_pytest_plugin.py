"""``pytest --pgt-model``: as a project uses it, in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

HERE = Path(__file__).parent


def run(folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    """pytest in a folder with the models in it; the plugin comes by its entry point."""
    source = (HERE / "models_for_ci.py").read_text()
    (folder / "shop.py").write_text(source)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *args]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


def test_each_promise_of_each_model_is_a_test(tmp_path: Path) -> None:
    """Also: refused, unknown and blind models fail once and plainly, and never pass by skips."""
    models = ["both_ways", "refused", "blind", "nothing"]
    args = [f"--pgt-model=shop:{m}" for m in models]
    args += ["--pgt-causal=shop:causal", "--pgt-causal=shop:both_ways", "--junitxml=found.xml"]
    done = run(tmp_path, *args)
    assert done.returncode == 1, done.stdout + done.stderr
    found: dict[tuple[str, str], str] = {}
    for case in ElementTree.parse(tmp_path / "found.xml").iter("testcase"):
        kinds = [child.tag for child in case if child.tag in ("failure", "error", "skipped")]
        key = (case.get("classname", "").lstrip("."), case.get("name", ""))
        found[key] = kinds[0] if kinds else "passed"
    failed = {k for k, v in found.items() if v == "failure"}
    assert failed == {
        ("pgt-model:shop:refused", "converts"),
        ("pgt-model:shop:blind", "time-sensitive"),
        ("pgt-model:shop:nothing", "converts"),
        ("pgt-causal:shop:both_ways", "no-future"),
        ("pgt-causal:shop:both_ways", "prefix"),
    }
    passed = [
        k[1] for k, v in found.items() if v == "passed" and k[0] == "pgt-model:shop:both_ways"
    ]
    assert {"converts", "exact-wait", "exact-tight", "replayed"} <= set(passed)
    assert found["pgt-model:shop:both_ways", "context"] == "skipped"
    assert "aten.flip (" in done.stdout and "shop.py:" in done.stdout
    assert "did you mean" in done.stdout or "there are" in done.stdout


def test_options(tmp_path: Path) -> None:
    """The models may stand in the configuration; some checks alone; bad values are told."""
    (tmp_path / "pytest.ini").write_text("[pytest]\npgt_models =\n    shop:both_ways\n")
    done = run(tmp_path, "--pgt-check=reset", "--pgt-dtype=float32", "-v")
    assert done.returncode == 0, done.stdout
    assert "2 passed" in done.stdout and "reset" in done.stdout
    done = run(tmp_path, "--pgt-check=never")
    assert done.returncode == 4 and "--pgt-check: no never; there are" in done.stderr
    done = run(tmp_path, "--pgt-dtype=int8")
    assert done.returncode == 1 and "--pgt-dtype int8: expected float64" in done.stdout


def test_torch_is_not_imported_for_other_projects(tmp_path: Path) -> None:
    (tmp_path / "test_other.py").write_text(
        "import sys\n\ndef test_it():\n    assert 'torch' not in sys.modules\n"
    )
    done = run(tmp_path, "test_other.py")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("module", ["pgt_fx", "pgt_fx.pytest_plugin"])
def test_importing_is_light(module: str) -> None:
    code = f"import {module}, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
