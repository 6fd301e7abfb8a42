"""An error that nobody foresaw is no verdict: neither a broken promise nor one that holds."""

from __future__ import annotations

import itertools
import json
import types
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

import pgt_fx
from pgt_fx.cli import app
from pgt_fx.core.errors import ClipError, StateError, VerificationError
from pgt_fx.runtime.markov.window import MarkovWindow
from pgt_fx.runtime.progressive import Progressive
from pgt_fx.testing import assert_progressive
from pgt_fx.testing.verify import causal, equality
from pgt_fx.testing.verify.causal import verify_causal
from pgt_fx.testing.verify.certificate import load
from pgt_fx.testing.verify.certificate_file import CertificateError

pytest_plugins = ("pytester",)
CLIP = (1, 3, 8)
SOME = ["full-equals-model", "reset", "deterministic"]


class Dense(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(3, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class Backward(nn.Module):
    """A causal model; of shuffled frames it may raise."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(3, 4, 3, padding=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)[:, :, : x.shape[2]]


def converted() -> Progressive:
    torch.manual_seed(0)
    return pgt_fx.transform(Dense().eval(), torch.zeros(CLIP))


def broken(monkeypatch: pytest.MonkeyPatch, error: Exception, check: str = "reset") -> None:
    """One check ends in an error."""

    def raises(*args: Any) -> None:
        raise error

    place = next(n for n, c in enumerate(promises()) if c[0] == check)
    changed = list(promises())
    changed[place] = (*changed[place][:2], raises)
    monkeypatch.setattr("pgt_fx.testing.verify.session.CHECKS", tuple(changed))


def promises() -> Any:
    from pgt_fx.testing.verify.promises import CHECKS

    return CHECKS


@pytest.mark.parametrize(
    "error", [KeyError("lost"), RuntimeError("shapes"), AssertionError(), ZeroDivisionError("n")]
)
def test_an_error_in_a_check_is_its_own_outcome(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken(monkeypatch, error)
    found = pgt_fx.verify(converted(), checks=SOME)
    check = found["reset"]
    assert check.ok is None and check.error and type(error).__name__ in check.detail
    assert "test_verify_errors.py:" in check.where
    assert found.ok is False and not found.violations and found.errors == (check,)
    assert check not in found.silent and found["deterministic"].ok
    assert found.summary == "1 of 4 promises was not checked because of an error."
    with pytest.raises(VerificationError, match="1 of 4 promises was not checked because of an"):
        found.raise_if_failed()
    with pytest.raises(VerificationError, match="because of an error"):
        assert_progressive(converted(), checks=SOME)
    assert "ERROR" in str(found) and "VIOLATED" not in str(found)
    assert "**ERROR**" in found.to_markdown()
    suite = ElementTree.fromstring(found.to_junit())[0]
    assert (suite.get("errors"), suite.get("failures"), suite.get("skipped")) == ("1", "0", "0")
    assert [c["error"] for c in found.to_dict()["checks"]] == [False, False, True, False]


@pytest.mark.parametrize("error", [StateError("this step"), ClipError("this clip")])
def test_a_step_that_refuses_what_it_has_to_take_breaks_its_promise(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken(monkeypatch, error)
    found = pgt_fx.verify(converted(), checks=SOME)
    assert found["reset"].ok is False and not found.errors and found["reset"].measured == "raised"


def test_both_are_told_and_the_violation_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    sound = MarkovWindow.forward

    def skewed(self: Any, step: Any, x: Any, *tensors: Any) -> Any:
        out = sound(self, step, x, *tensors)
        return out if out is None else out + 1e-3

    prog = converted()
    broken(monkeypatch, KeyError("lost"))
    monkeypatch.setattr(MarkovWindow, "forward", skewed)
    found = pgt_fx.verify(prog, checks=SOME)
    assert found.summary == ("1 of 4 promises is violated, 1 was not checked because of an error.")
    with pytest.raises(VerificationError) as caught:
        found.raise_if_failed()
    assert "VIOLATED" in str(caught.value) and "ERROR" in str(caught.value)


@pytest.mark.parametrize("error", [RuntimeError("shapes"), StateError("this step")])
def test_the_whole_video_in_one_step(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is tried before all checks, and what it raises is told as in a check."""
    prog = converted()

    def raises(*args: Any, **kwargs: Any) -> None:
        raise error

    monkeypatch.setattr(Progressive, "full", raises)
    check = pgt_fx.verify(prog, checks=SOME)["full-equals-model"]
    assert check.measured == "full() raised"
    assert (check.ok, check.error) == ((False, False), (None, True))[type(error) is RuntimeError]


def test_what_the_model_itself_raises_is_no_error_of_the_check() -> None:
    """Its own refusal of an input: it proves nothing, and hides nothing."""

    class Sorted(Dense):
        def forward(self, x: Tensor) -> Tensor:
            torch._check(x.shape[0] == 1, lambda: "one video alone")
            return super().forward(x)

    prog = converted()
    measure = equality.full_equals_model

    def asks(check: Any, subject: Any, chunkings: int) -> Any:
        subject.model = Sorted()
        subject.plain(subject.video(subject.length, batch=2, salt=3))
        return measure(check, subject, chunkings)

    with pytest.MonkeyPatch.context() as patch:
        changed = [(n, s, asks if n == "full-equals-model" else m) for n, s, m in promises()]
        patch.setattr("pgt_fx.testing.verify.session.CHECKS", tuple(changed))
        found = pgt_fx.verify(prog, checks=SOME)
    check = found["full-equals-model"]
    assert check.ok is None and not check.error and not found.errors
    assert check.detail.startswith("the model itself raises ") and "one video alone" in check.detail
    assert found.ok


def test_of_a_causal_model(monkeypatch: pytest.MonkeyPatch) -> None:
    def raises(*args: Any) -> None:
        raise KeyError("lost")

    clip = torch.zeros(CLIP)
    assert verify_causal(Backward(), clip, time_dim=2).ok
    changed = [(n, s, raises if n == "prefix" else m) for n, s, m in causal.CHECKS]
    monkeypatch.setattr(causal, "CHECKS", tuple(changed))
    found = verify_causal(Backward(), clip, time_dim=2)
    assert found["prefix"].error and not found.ok and not found.violations

    monkeypatch.undo()
    sound = causal._Causal.disturbed

    def once(self: Any, cut: int) -> Any:
        def refuse(*args: Any) -> None:
            raise ValueError("no such video")

        self.model.register_forward_pre_hook(refuse)
        return sound(self, cut)

    monkeypatch.setattr(causal._Causal, "disturbed", once)
    check = verify_causal(Backward(), clip, time_dim=2, checks=["no-future"])["no-future"]
    assert check.ok is None and not check.error and "the model itself raises" in check.detail


def test_a_certificate_is_of_what_was_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "it.json"
    prog = converted()
    pgt_fx.verify(prog, checks=SOME).save(path)
    broken(monkeypatch, KeyError("lost"))
    again, contradictions, _ = load(path).recheck(prog)
    assert not contradictions and again.errors and not again.ok
    with pytest.raises(CertificateError, match=r"because of an error.*\n.*reset.*KeyError"):
        again.save(tmp_path / "other.json")
    assert not (tmp_path / "other.json").exists()


# ------------------------------------------------------------- the command line, the plugin, others

SHOP = """
import torch
from torch import nn

def make():
    return nn.Conv1d(3, 4, 3, padding=1), torch.zeros(1, 3, 8)
"""


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "errors_shop.py").write_text(SHOP)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return "errors_shop:make"


def run(*args: str) -> Any:
    return CliRunner().invoke(app, list(args))


def test_the_exit_code_is_that_of_what_was_not_checked(
    shop: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound = run("verify", shop, "--check", "reset", "--save", "sound.json")
    assert sound.exit_code == 0, sound.output
    broken(monkeypatch, KeyError("lost"))
    found = run("verify", shop, "--check", "reset", "--save", "it.json")
    assert found.exit_code == 2, found.output
    assert "because of an error" in found.output and "no certificate was written" in found.output
    assert not (tmp_path / "it.json").exists()
    again = run("verify", "--certificate", "sound.json")
    assert again.exit_code == 2 and "not compared because of an error" in again.output
    assert "contradicts" not in again.output and "still holds" not in again.output


def test_in_the_plugin_it_is_an_error_and_no_failure(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytester.makepyfile(errors_shop=SHOP)
    broken(monkeypatch, KeyError("lost"))
    args = ("-p", "no:cacheprovider", "--pgt-check=reset", "--pgt-check=deterministic")
    done = pytester.runpytest_inprocess(*args, "--pgt-model=errors_shop:make")
    done.assert_outcomes(errors=1, passed=2)
    done.stdout.fnmatch_lines(["*ERROR at setup*", "*not checked because of an error*KeyError*"])


def test_a_program_that_cannot_be_made_for_an_error_is_one_too(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    def raises(*args: Any) -> None:
        raise KeyError("lost")

    pytester.makepyfile(errors_shop=SHOP)
    monkeypatch.setattr("pgt_fx.testing.model_names.progressive", raises)
    args = ("-p", "no:cacheprovider", "--pgt-check=reset", "--pgt-model=errors_shop:make")
    pytester.runpytest_inprocess(*args).assert_outcomes(errors=1, skipped=1)


def test_the_table_of_the_zoo_takes_no_row_with_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pgt_fx.cli import zoo as command
    from pgt_fx.testing.zoo_survey import Row
    from pgt_fx.testing.zoo_table import read_table

    row = Row("tsn_r50", "here", "exact", promises={"reset": None}, errors=["reset: KeyError: 'x'"])
    row.clip = [[1, 3, 8, 32, 32]]
    monkeypatch.setattr(command, "_surveyed", lambda names, jobs: iter([row]))
    found = run("zoo", "tsn_r50", "--check", "--output", str(tmp_path))
    assert found.exit_code == 2, found.output
    assert "not checked because of an error: reset: KeyError: 'x'" in found.output
    assert "not checked because of an error tsn_r50" in found.output
    assert not read_table(tmp_path / "table.json")
    row.promises["exact-wait"] = False
    assert run("zoo", "tsn_r50", "--check", "--output", str(tmp_path)).exit_code == 1


def test_the_survey_tells_errors_from_violations(monkeypatch: pytest.MonkeyPatch) -> None:
    from pgt_fx.compiler import transform as compiler
    from pgt_fx.compiler.selfcheck.check import self_check
    from pgt_fx.testing import zoo_survey as survey

    monkeypatch.setattr(compiler, "self_check", self_check)
    monkeypatch.setattr(survey, "build", lambda *a, **k: Dense().eval())
    monkeypatch.setattr(survey, "clip", lambda *a, **k: torch.zeros(CLIP))
    sound = MarkovWindow.forward

    def raises(self: Any, step: Any, x: Any, *tensors: Any) -> Any:
        if step.state.get(self.slot) is not None:
            raise KeyError("lost")
        return sound(self, step, x, *tensors)

    monkeypatch.setattr(MarkovWindow, "forward", raises)
    row = survey.Row("tsn_r50", "here", space=8)
    survey._promises(row)
    assert False not in row.promises.values() and row.ok
    assert any("exact-wait: KeyError" in text for text in row.errors)
    assert any("self-check: KeyError" in text for text in row.errors)
    assert row.to_dict()["errors"] == row.errors


@pytest.mark.parametrize("error", [AttributeError("none"), KeyError("lost")])
def test_the_fuzzer_shrinks_errors_and_tells_them_apart(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("hypothesis")
    from pgt_fx.testing.fuzz import campaign as fuzz

    def raises(case: Any) -> None:
        raise error

    ticks = itertools.count()
    clock = types.SimpleNamespace(monotonic=lambda: next(ticks) / 100)  # by how often it is read
    monkeypatch.setattr(fuzz, "time", clock)
    monkeypatch.setattr(fuzz, "check", raises)
    monkeypatch.setattr(fuzz, "BATCH", 2)
    found = run("fuzz", "--minutes", "0.005", "--output", str(tmp_path), "--json")
    assert found.exit_code == 2, found.output
    told = json.loads(found.stdout)["failures"]
    assert told and all(f["error"] for f in told) and Path(told[0]["file"]).is_file()
    campaign = fuzz.fuzz(0.005, folder=tmp_path)
    assert "ERROR, not checked" in str(campaign) and str(campaign).endswith("1 error")
