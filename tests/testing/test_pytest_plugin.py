"""``pytest --pgt-model``: as a project uses it, in a process of its own."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

HERE = Path(__file__).parents[1]


def run(folder: Path, *args: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """pytest in a folder with the models in it; the plugin comes by its entry point."""
    source = (HERE / "models_for_ci.py").read_text()
    (folder / "shop.py").write_text(source)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *args]
    return subprocess.run(command, cwd=cwd or folder, capture_output=True, text=True)


def test_each_promise_of_each_model_is_a_test(tmp_path: Path) -> None:
    """Also: refused, unknown and blind models fail once and plainly, and never pass by skips."""
    models = ["shop:both_ways", "shop:refused", "shop:blind", "shop:nothing", "no_zoo_has_this"]
    args = [f"--pgt-model={m}" for m in models]
    args += ["--pgt-causal=shop:causal", "--pgt-causal=shop:both_ways", "--junitxml=found.xml"]
    done = run(tmp_path, *args)
    assert done.returncode == 1, done.stdout + done.stderr
    found: dict[tuple[str, str], str] = {}
    for case in ElementTree.parse(tmp_path / "found.xml").iter("testcase"):
        kinds = [child.tag for child in case if child.tag in ("failure", "error", "skipped")]
        key = (case.get("classname", ""), case.get("name", ""))
        found[key] = kinds[0] if kinds else "passed"
    failed = {k for k, v in found.items() if v == "failure"}
    assert failed == {
        ("shop.pgt-model:shop:refused", "converts"),
        ("shop.pgt-model:shop:blind", "time-sensitive"),
        ("shop.pgt-model:shop:nothing", "converts"),
        ("pgt-model:no_zoo_has_this", "converts"),
        ("shop.pgt-causal:shop:both_ways", "no-future"),
        ("shop.pgt-causal:shop:both_ways", "prefix"),
    }
    passed = [
        k[1] for k, v in found.items() if v == "passed" and k[0] == "shop.pgt-model:shop:both_ways"
    ]
    assert {"converts", "exact-wait", "exact-tight", "replayed"} <= set(passed)
    assert found["shop.pgt-model:shop:both_ways", "context"] == "skipped"
    assert "aten.flip in 1 (" in done.stdout and "shop.py:" in done.stdout
    assert "did you mean" in done.stdout or "there are" in done.stdout
    # What is printed can be given again as it is, also to several workers: these and no others.
    ids = re.findall(r"^FAILED (\S+)", done.stdout, re.MULTILINE)
    assert "shop.py::pgt-causal:shop:both_ways::no-future" in ids and len(ids) == 6
    chosen = [i for i in ids if "refused" in i or "no_zoo" in i]
    again = run(tmp_path, "-n", "2", *chosen)
    assert sorted(re.findall(r"^FAILED (\S+)", again.stdout, re.MULTILINE)) == sorted(chosen)
    assert "2 failed in" in again.stdout, again.stdout + again.stderr


def test_an_id_stands_by_itself(tmp_path: Path) -> None:
    """In another folder, without the others of the configuration. A test alone of a model that is
    refused is no skip, as nobody else would say it. A file may have tests of its own, too."""
    models = "[pytest]\npgt_models =\n    shop:blind\n    shop:both_ways\n"
    (tmp_path / "pytest.ini").write_text(models)
    (tmp_path / "elsewhere").mkdir()
    own = "\n\ndef test_of_its_own() -> None:\n    pass\n"
    source = (HERE / "models_for_ci.py").read_text() + own
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "__init__.py").write_text("")
    (tmp_path / "parts" / "nets.py").write_text(source)
    names = ["pgt-model:parts.nets:both_ways::time-sensitive", "test_of_its_own"]
    ids = [f"../parts/nets.py::{name}" for name in names]
    ids = ["../shop.py::pgt-model:shop:refused::reset", *ids]
    ids += ["pgt-model:no_zoo_has_this::converts"]
    (tmp_path / "elsewhere" / "shop.py").write_text("")  # not this one
    done = run(tmp_path, *ids, "-rA", cwd=tmp_path / "elsewhere")
    told = re.findall(r"^(PASSED|FAILED|SKIPPED|ERROR) (\S+)", done.stdout, re.MULTILINE)
    assert sorted(told) == [
        ("FAILED", "../pgt-model:no_zoo_has_this::converts"),
        ("FAILED", "../shop.py::pgt-model:shop:refused::reset"),
        ("PASSED", f"../parts/nets.py::{names[0]}"),
        ("PASSED", f"../parts/nets.py::{names[1]}"),
    ], done.stdout + done.stderr


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


@pytest.mark.parametrize("module", ["pgt_fx", "pgt_fx.testing.pytest_plugin"])
def test_importing_is_light(module: str) -> None:
    code = f"import {module}, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
