"""pgt-fx: exit codes, models by name, errors that help."""

from __future__ import annotations

import json
import sys
import textwrap
import warnings
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from pgt_fx.cli import app
from pgt_fx.cli.door import in_options
from pgt_fx.runtime.markov.window import MarkovWindow

SOURCE = """
    import torch
    from torch import nn

    class Tiny(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv3d(3, 4, 3, padding=1)

        def forward(self, x):
            return torch.relu(self.conv(x))

    class Backwards(nn.Module):
        def forward(self, x):
            return x.flip(2)

    class Blind(nn.Module):
        def forward(self, x):
            return x.mean((2, 3, 4))

    CLIP = torch.zeros(1, 3, 4, 6, 6)
    alone = Tiny
    class Other(Tiny):
        def forward(self, x):
            return super().forward(x) + 1

    pair = lambda: (Tiny(), CLIP)
    other = lambda: (Other(), CLIP)
    backwards = lambda: (Backwards(), CLIP)
    blind = lambda: (Blind(), CLIP)
    number = lambda: 3
    ready = Tiny()
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """A folder with a module of models, the current one; the module's name."""
    name = f"cli_models_{abs(hash(request.node.name))}"
    (tmp_path / f"{name}.py").write_text(textwrap.dedent(SOURCE))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", list(__import__("sys").path))
    return name


def run(*args: str) -> Result:
    return CliRunner().invoke(app, list(args), env={"COLUMNS": "200", "TERM": "dumb"})


def said(result: Result) -> str:
    """All that was printed, on one line and without frames."""
    return " ".join(result.output.replace("│", " ").split())


# ------------------------------------------------------------------------- analyze


def test_analyze_prints_the_report(here: str) -> None:
    result = run("analyze", f"{here}:pair")
    assert result.exit_code == 0, result.output
    assert "receptive field" in result.output and "conv k=3" in result.output


def test_analyze_as_data_with_code(here: str) -> None:
    result = run("analyze", f"{here}:pair", "--json", "--code")
    assert result.exit_code == 0, result.output
    data = json.loads(result.stdout)
    assert data["receptive_field"] == [3]
    assert "def forward" in data["code"]


def test_analyze_prints_code(here: str) -> None:
    result = run("analyze", f"{here}:pair", "--code")
    assert result.exit_code == 0 and "def forward" in result.output


@pytest.mark.parametrize("factory", ["alone", "ready", "Tiny"])
def test_a_model_without_an_example_finds_one(here: str, factory: str) -> None:
    result = run("analyze", f"{here}:{factory}")
    assert result.exit_code == 0, result.output


def test_a_model_that_is_refused_says_where(here: str) -> None:
    result = run("analyze", f"{here}:backwards")
    assert result.exit_code == 2
    assert "flip" in result.output and f"{here}.py" in said(result)
    assert "Traceback" not in result.output


def test_a_model_of_the_zoo() -> None:
    pytest.importorskip("torchvision")
    result = run("analyze", "mc3_18", "--space", "32", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["exact"] is True


# -------------------------------------------------------------------------- verify


def test_verify_holds(here: str) -> None:
    result = run("verify", f"{here}:pair", "--chunkings", "2", "--threads", "1")
    assert result.exit_code == 0, result.output
    assert "16 promises hold; 2 could not be checked" in result.output


def test_verify_violated(here: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sound = MarkovWindow.forward

    def skewed(self, step, x, *tensors):
        out = sound(self, step, x, *tensors)
        return out if out is None else out + 1e-3

    monkeypatch.setattr(MarkovWindow, "forward", skewed)
    result = run("verify", f"{here}:pair", "--chunkings", "1", "--json")
    assert result.exit_code == 1, result.output
    checks = {c["id"]: c["ok"] for c in json.loads(result.stdout)["checks"]}
    assert checks["full-equals-model"] is False and checks["reset"] is True


def test_verify_could_not_check(here: str) -> None:
    result = run("verify", f"{here}:blind", "--chunkings", "1")
    assert result.exit_code == 2, result.output
    assert "Nothing could be checked" in said(result)


# ------------------------------------------------------------------------ bad names


@pytest.mark.parametrize(
    ("model", "hint"),
    [
        ("slow_r51", "did you mean slow_r50"),
        ("xyzzy", "pgt-fx zoo lists them"),
        ("some.module", "with a colon"),
        ("no_such_package:model", "no module 'no_such_package'"),
        ("pgt_fx.trainning:run", "did you mean training"),
    ],
)
def test_an_unknown_name_is_explained(model: str, hint: str) -> None:
    for command in ("analyze", "verify"):
        result = run(command, model)
        assert result.exit_code == 2
        assert hint in said(result)
        assert "Traceback" not in result.output


def test_names_in_a_module_are_explained(here: str) -> None:
    result = run("analyze", f"{here}:tinny")
    assert result.exit_code == 2 and "has no 'tinny'; did you mean Tiny" in said(result)
    result = run("analyze", f"{here}:number")
    assert result.exit_code == 2 and "gave an int" in said(result)
    result = run("analyze", f"{here[:-1]}:pair")
    assert result.exit_code == 2 and f"did you mean {here}" in said(result)


def test_a_module_that_fails_is_explained(here: str, tmp_path: Path) -> None:
    (tmp_path / f"{here}_bad.py").write_text("1 / 0")
    result = run("analyze", f"{here}_bad:x")
    assert result.exit_code == 2 and "ZeroDivisionError" in said(result)
    (tmp_path / f"{here}_lacks.py").write_text("import not_to_be_found")
    result = run("analyze", f"{here}_lacks:x")
    assert result.exit_code == 2 and "imports 'not_to_be_found'" in said(result)


@pytest.mark.parametrize(
    "args",
    [
        (),
        ("frobnicate",),
        ("verify", "slow_r50", "--space", "33"),
        ("verify", "slow_r50", "--space", "0"),
        ("demo", "--frames", "many"),
        ("demo", "--length", "0"),
        ("demo", "--model", "slow_r51"),
        ("demo", "--video", "no_such_file.mp4"),
    ],
    ids=" ".join,
)
def test_bad_usage(args: tuple[str, ...]) -> None:
    result = run(*args)
    assert result.exit_code == 2
    assert "Traceback" not in result.output


def test_verify_writes_files_by_their_suffix(here: str, tmp_path: Path) -> None:
    result = run(
        "verify", f"{here}:pair", "--chunkings", "1", "--output", "a.xml", "--output", "a.md",
        "--output", "a.json", "--output", "a.txt", "--save", "c.json",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert (tmp_path / "a.xml").read_text().count("<testcase") == 18
    assert (tmp_path / "a.md").read_text().startswith("### Tiny: 16 promises hold")
    assert json.loads((tmp_path / "a.json").read_text())["ok"] is True
    assert "16 promises hold" in (tmp_path / "a.txt").read_text()
    again = run("verify", "--certificate", "c.json")
    assert again.exit_code == 0 and "still holds" in again.output
    other = run("verify", f"{here}:other", "--certificate", "c.json")
    assert other.exit_code == 1 and "built in another way" in other.output
    (tmp_path / "c.json").write_text((tmp_path / "c.json").read_text()[:700])
    broken = run("verify", "--certificate", "c.json")
    assert broken.exit_code == 2 and "not whole" in said(broken)


@pytest.mark.parametrize("form, start", [("json", "{"), ("junit", "<?xml"), ("markdown", "### ")])
def test_verify_prints_other_formats(here: str, form: str, start: str) -> None:
    args = ("--chunkings", "1", "--check", "reset", "--format", form)
    result = run("verify", f"{here}:pair", *args)
    assert result.exit_code == 0 and result.stdout.startswith(start), result.output


def test_verify_causal(here: str) -> None:
    result = run("verify", f"{here}:pair", "--causal")
    assert result.exit_code == 1 and "no-future" in result.output and "conv3d" in result.output
    assert run("verify", f"{here}:blind", "--causal").exit_code == 2


def test_verify_causal_writes_a_certificate_and_reads_it_again(here: str) -> None:
    """Told when a model is not causal any more, with its line; one promise alone may be chosen."""
    saved = run("verify", "models_for_ci:causal", "--causal", "--save", "c.json", "--seed", "3")
    assert saved.exit_code == 0, saved.output
    again = run("verify", "--certificate", "c.json")
    assert again.exit_code == 0 and "still holds" in again.output, again.output
    leaks = run("verify", "models_for_ci:both_ways", "--certificate", "c.json")
    assert leaks.exit_code == 1, leaks.output
    assert "contradicts the certificate: no-future held, and now: VIOLATED" in said(leaks)
    assert "self.conv(F.pad(x, self.pad))" in said(leaks)
    alone = run("verify", "models_for_ci:causal", "--causal", "--check", "prefix", "--json")
    assert [c["id"] for c in json.loads(alone.stdout)["checks"]] == ["time-sensitive", "prefix"]
    assert run("verify", "models_for_ci:causal", "--causal", "--check", "reset").exit_code == 2


@pytest.mark.parametrize(
    "args, words",
    [
        (("--certificate", "none.json"), "No such file"),
        ((), "which model?"),
        (("r3d_18", "--causal", "--save", "no/c.json"), "there is no folder no"),
        (("r3d_18", "--certificate", "c.json", "--causal"), "--certificate goes without --causal"),
        (("--certificate", "c.json", "--seed", "0"), "--certificate goes without --seed"),
        (
            ("--certificate", "c.json", "--space", "32", "--dtype", "float32"),
            "--certificate goes without --space, --dtype",
        ),
        (("r3d_18", "--output", "nowhere/a.xml"), "there is no folder"),
    ],
)
def test_verify_refuses_bad_arguments(here: str, args: tuple[str, ...], words: str) -> None:
    result = run("verify", *args)
    assert result.exit_code == 2 and words in said(result), result.output


def test_a_factory_may_transform_its_model_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parents[1])
    args = ("--chunkings", "1", "--check", "context")
    result = run("verify", "models_for_ci:transformed", *args)
    assert result.exit_code == 0 and "2 promises hold" in result.output, result.output


@pytest.mark.parametrize("command", ["verify", "doctor", "analyze"])
def test_the_time_dimension_can_be_given(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parents[1])
    name = "models_for_ci:channels_last"
    assert run(command, name, "--time-dim", "1").exit_code == 0
    assert run(command, name).exit_code == 0  # the model tells
    assert run(command, name, "--time-dim", "2").exit_code != 0


def test_a_certificate_knows_the_time_dimension(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(__file__).parents[1])
    path = str(tmp_path / "c.json")
    args = ("--time-dim", "1", "--check", "reset", "--save", path)
    assert run("verify", "models_for_ci:channels_last", *args).exit_code == 0
    again = run("verify", "--certificate", path)
    assert again.exit_code == 0 and "still holds" in again.output, again.output


# ------------------------------------------------------------------ what is given, and not used


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("analyze", "{}:pair", "--space", "32"), "--space is for models of the zoo"),
        (("verify", "{}:pair", "--space", "32"), "--space is for models of the zoo"),
        (("verify", "{}:pair", "--causal", "--space", "32"), "--space is for models of the zoo"),
        (("doctor", "{}:pair", "--space", "32"), "--space is for models of the zoo"),
        (("erf", "{}:pair", "--space", "32"), "--space is for models of the zoo"),
        (("erf", "{}:pair", "--head"), "--head is for models of the zoo"),
        (("verify", "{}:pair", "--features"), "--features is for models of the zoo"),
        (("doctor", "{}:pair", "--features"), "--features is for models of the zoo"),
        (("verify", "{}:pair", "--causal", "--chunkings", "2"), "--causal goes without --chunk"),
        (("verify", "--certificate", "c.json", "--seed", "1"), "--certificate goes without --seed"),
        (("verify", "{}:pair", "--certificate", "c", "--space", "9"), "goes without --space"),
        (("verify", "models_for_ci:transformed", "--time-dim", "2"), "--time-dim: the factory has"),
        (("verify", "{}:pair", "--check", "nope"), "--check: there is no check 'nope'. The checks"),
        (("verify", "{}:pair", "--check", "rest"), "did you mean reset? The checks: time-sens"),
        (("verify", "{}:pair", "--causal", "--check", "reset"), "The checks: time-sensitive, no-f"),
        (("zoo", "xyzzy"), "no backbone 'xyzzy' in the zoo; pgt-fx zoo lists them"),
        (("demo", "--model", "xyzzy"), "no backbone 'xyzzy' in the zoo; pgt-fx zoo lists them"),
        (("demo", "--video", "none.mp4"), "--video: none.mp4 is not there"),
        (("demo", "--video", "."), "--video: . is a folder; expected a file"),
        (("erf", "{}:pair", "--output", "7"), "expected a file name that ends in .png"),
        (("erf", "{}:pair", "--frame", "99", "--steps", "2"), "--frame: expected 0 …"),
    ],
)
def test_what_means_nothing_is_refused(here: str, args: tuple[str, ...], words: str) -> None:
    if args[0] == "erf":
        pytest.importorskip("matplotlib")
    sys.path.insert(0, str(Path(__file__).parents[1]))
    result = run(*(arg.format(here) for arg in args))
    assert result.exit_code == 2 and words in said(result), result.output
    assert "with random weights" not in result.output  # the demo has not begun


def test_a_factory_may_give_a_list(here: str, tmp_path: Path) -> None:
    source = "from torch import nn, zeros\n\ndef listed():\n    return {}\n"
    for name, given in (
        ("pair", "[nn.Conv1d(3, 4, 3, padding=1), zeros(1, 3, 8)]"),
        ("three", "[nn.Conv1d(3, 4, 3), zeros(1, 3, 8), 1]"),
    ):
        (tmp_path / f"{here}_{name}.py").write_text(source.format(given))
    assert run("analyze", f"{here}_pair:listed").exit_code == 0
    result = run("analyze", f"{here}_three:listed")
    assert result.exit_code == 2
    assert "gave a list of 3 elements (Conv1d, Tensor, int); expected a torch.nn.Module" in said(
        result
    )


@pytest.mark.parametrize("command", ["verify", "doctor", "analyze"])
def test_a_keyword_is_told_as_the_option(here: str, command: str, tmp_path: Path) -> None:
    (tmp_path / f"{here}_open.py").write_text(
        "from torch import nn, zeros\n\ndef unclear():\n    return nn.ReLU(), zeros(2, 5, 7)\n"
    )
    result = run(command, f"{here}_open:unclear")
    assert result.exit_code == 2, result.output
    assert "Pass --time-dim 2 or --time-dim 1" in said(result) and "time_dim=" not in said(result)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("pass time_dim=", "pass --time-dim"),
        ("time_dim: expected", "--time-dim: expected"),
        ("operator='mco' or x_time_dim=3", "--operator 'mco' or x_time_dim=3"),
        ("length: expected", "length: expected"),
    ],
)
def test_keywords_that_the_command_has(text: str, told: str) -> None:
    assert in_options(text, {"time_dim": "--time-dim", "operator": "--operator"}) == told


@pytest.mark.parametrize("text", ["use strict=False", "pass time_dim=[2, None]"])
def test_keywords_that_no_option_stands_for(text: str) -> None:
    found = in_options(text, {"time_dim": "--time-dim"})
    assert found.startswith(f"{text}\n    ") and "a factory of yours may call itself" in found
    assert in_options(text, {}) == text or "time_dim" in text  # of a command without a model


def test_the_fuzzer_is_silent_about_torch_s_warnings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("hypothesis")
    from pgt_fx.testing.fuzz.campaign import Campaign

    def warns(*args: object) -> Campaign:
        warnings.warn("of an operator", UserWarning, stacklevel=1)
        return Campaign(checked=1)

    monkeypatch.setattr("pgt_fx.testing.fuzz.campaign.fuzz", warns)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        assert run("fuzz", "--output", str(tmp_path)).exit_code == 0
    assert not [w for w in seen if "of an operator" in str(w.message)]
