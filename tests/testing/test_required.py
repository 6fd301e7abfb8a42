"""What is required has to hold: said to the command, to the plugin and to a call. And what a model
promised by itself."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import models_for_ci
import pytest
from click.testing import Result
from models_for_ci import CLIP, Leaky, stream
from mutants import MUTANTS
from torch import Tensor, nn
from torch.nn import functional as F
from typer.testing import CliRunner

import pgt_fx
from pgt_fx.cli import app
from pgt_fx.core.errors import ExactnessError, OptionError, VerificationError
from pgt_fx.testing import assert_causal, assert_progressive
from pgt_fx.testing.pytest_required import required_of
from pgt_fx.testing.verify import causal, equality, field, session
from pgt_fx.testing.verify.causal import verify_causal
from pgt_fx.testing.verify.promises import CHECKS
from pgt_fx.testing.verify.required import WORDS, byte_count, requirements

HERE = Path(__file__).parents[1]
#: What one check alone needs, so that tests are fast.
FEW: dict[str, Any] = {"checks": {"reset"}, "chunkings": 1}


@pytest.fixture
def in_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(HERE)


def run(*args: str) -> Result:
    return CliRunner().invoke(app, list(args), env={"COLUMNS": "300", "TERM": "dumb"})


def verify(model: str, *args: str) -> Result:
    return run("verify", f"models_for_ci:{model}", "--check", "reset", "--chunkings", "1", *args)


# -- the vocabulary ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, count",
    [
        (7, 7),
        ("4096", 4096),
        ("4MiB", 4 * 1024**2),
        ("4 MB", 4 * 10**6),
        ("1.5 KiB", 1536),
        ("512kB", 512_000),
        ("512KB", 512_000),
        ("2GiB", 2 * 1024**3),
        ("1TB", 10**12),
        ("9 B", 9),
    ],
)
def test_bytes_are_read_as_people_write_them(text: Any, count: int) -> None:
    assert byte_count(text) == count


@pytest.mark.parametrize("text", ["", "4M", "4 mib", "MiB", "-1", -1, True, 1.5, None, "4Mb"])
def test_other_text_is_no_number_of_bytes(text: Any) -> None:
    with pytest.raises(OptionError, match=r"max_state: expected bytes .*4MiB"):
        byte_count(text)


def test_words_are_of_checks_that_there_are() -> None:
    """An id is a word; a word is no id; and two requirements are one."""
    ids = {name for name, *_ in CHECKS}
    assert {check for checks in WORDS.values() for check in checks} - ids == {"look-ahead"}
    assert not ids & set(WORDS)
    assert requirements("reset").checks == {"reset"}
    assert requirements("causal").checks == requirements((), 0).checks
    both = requirements("exact", 3, "1kB").and_those(requirements(["reset", "exact"], 5))
    assert both == requirements(["exact", "reset"], 3, 1000)
    assert requirements("causal", 4).look_ahead == 0


@pytest.mark.parametrize(
    "asked, words",
    [
        ({"require": "exakt"}, "no 'exakt'; did you mean exact"),
        ({"require": ["exact", "no-future"]}, "'no-future' is of a model that is measured as it"),
        ({"max_look_ahead": -1}, "expected a number of frames, 0 or more, got -1"),
        ({"max_look_ahead": "1"}, "expected a number of frames"),
        ({"max_look_ahead": True}, "expected a number of frames"),
        ({"max_state": "much"}, "expected bytes"),
    ],
)
def test_what_can_not_be_required(asked: dict[str, Any], words: str) -> None:
    with pytest.raises(OptionError, match=words):
        pgt_fx.verify(*stream(), **FEW, **asked)


# -- a call --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change, required, check, line",
    [
        ("norm", {"require": "exact"}, "exact-wait", "self.norm(x)"),
        ("norm", {"require": "causal"}, "look-ahead", "self.norm(x)"),
        ("ahead", {"require": ["causal"]}, "look-ahead", "self.last("),
        ("ahead", {"max_look_ahead": 0}, "look-ahead", "self.last("),
        ("wide", {"max_state": 79}, "state-bytes", "self.first("),
    ],
)
def test_what_is_lost_is_a_violation_with_its_line(
    change: str, required: dict[str, Any], check: str, line: str
) -> None:
    model, clip = stream(change)
    assert_progressive(model, clip, **FEW)  # nobody promised it
    found = pgt_fx.verify(model, clip, **FEW, **required)
    assert found[check].ok is False and not found.ok and check in found.required
    assert "models_for_ci.py:" in found[check].where and line in found[check].where
    with pytest.raises(VerificationError, match=f"VIOLATED +{check}: .*models_for_ci.py"):
        assert_progressive(model, clip, **FEW, **required)


def test_what_is_there_holds() -> None:
    """Each at its very bound."""
    words = ["exact", "causal", "one-way", "gradients", "state-bounded"]
    found = assert_progressive(*stream(), **FEW, require=words, max_state=56)
    assert found["state-bytes"].measured == "56 B" and found["look-ahead"].measured == "0 frames"
    told = found["state-bytes"].detail
    assert "batch of one, clip 1×3×8, float32, future='zero'" in told and "run 56 B" in told
    assert found.required > {"exact-wait", "look-ahead", "exact-gradients", "one-way-backward"}
    assert {c.id for c in found.checks} == {*found.required, "reset", "time-sensitive"}
    assert_progressive(*stream("ahead"), **FEW, max_look_ahead=1, require="exact", max_state=80)


def test_the_state_is_the_given_program_s_own() -> None:
    """Of its own options and dtype, and not of the copies in float64 under both policies."""
    prog = pgt_fx.transform(stream("ahead")[0].double(), CLIP.double(), future="wait")
    held = prog.report.state_bytes
    assert held == 2 * 72
    found = pgt_fx.verify(prog, **FEW, max_state=held)
    assert found["state-bytes"].ok and "float64, future='wait'" in found["state-bytes"].detail
    assert pgt_fx.verify(prog, **FEW, max_state=held - 1)["state-bytes"].ok is False


def test_a_state_that_is_more_than_analysed_is_seen() -> None:
    """The limit is held to what a run carries, too."""
    mutant = next(m for m in MUTANTS if m.name.startswith("state grows: the tail keeps all"))
    with mutant.plant():
        prog = pgt_fx.transform(*stream(), check=False)
        found = pgt_fx.verify(prog, **FEW, max_state=prog.report.state_bytes)
    check = found["state-bytes"]
    assert check.ok is False and "analysed 56 B" in check.detail and check.measured != "56 B"


class Attends(nn.Module):
    """Each frame finds all those before it."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv1d(3, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).transpose(1, 2)
        return F.scaled_dot_product_attention(x, x, x, is_causal=True).transpose(1, 2)


@pytest.mark.parametrize(
    "required, check",
    [({"require": "state-bounded"}, "state-bounded"), ({"max_state": 10**9}, "state-bytes")],
)
def test_a_state_that_grows_keeps_no_limit(required: dict[str, Any], check: str) -> None:
    assert pgt_fx.verify(Attends(), CLIP, checks={"state-bounded"})["state-bounded"].ok is None
    found = pgt_fx.verify(Attends(), CLIP, **FEW, **required)[check]
    assert found.ok is False and found.measured == "grows" and "is_causal=True" in found.where


def test_an_aggregate_of_the_past_is_not_exact() -> None:
    """Though the model would be, under operator='mco', which is what is measured."""
    prog = pgt_fx.transform(*stream(), operator="pmco")
    assert pgt_fx.verify(prog, checks={"exact-wait"}, chunkings=1)["exact-wait"].ok
    found = pgt_fx.verify(prog, **FEW, require="exact")["exact-wait"]
    assert found.ok is False and "operator='pmco' hands on an aggregate" in found.detail


def test_what_is_required_and_can_not_be_measured_is_no_pass() -> None:
    prog = models_for_ci.weightless()
    assert_progressive(prog, **FEW)
    found = pgt_fx.verify(prog, **FEW, require="gradients")
    check = found["exact-gradients"]
    assert found.unanswered == (check,) and check.ok is None
    assert found.decided and not found.violations and not found.ok
    assert "the model has no parameters. What to do: it needs an output" in check.detail
    assert found.summary == "1 check that is required could not be made."
    with pytest.raises(VerificationError, match=r"required could not be made(.|\n)*no parameters"):
        found.raise_if_failed()
    suite = next(ElementTree.fromstring(found.to_junit()).iter("testsuite"))
    counts = {k: suite.get(k) for k in ("failures", "errors", "skipped")}
    assert counts == {"failures": "0", "errors": "1", "skipped": "0"}
    assert found.to_dict()["required"] == ["exact-gradients", "gradients-equal-model"]


def test_a_look_ahead_that_was_not_measured_is_no_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is one of which another check shows that the analysis has it wrong."""
    prog = pgt_fx.transform(*stream())
    watched = field._watched
    monkeypatch.setattr(field, "_watched", lambda subject: [])
    found = pgt_fx.verify(prog, **FEW, max_look_ahead=0)
    assert found["look-ahead"].ok is None and "measures it, says" in found["look-ahead"].detail
    assert not found.ok and not found.violations

    def narrow(subject: Any) -> Any:
        (one,) = watched(subject)
        return [replace(one, claims={0: replace(one.claims[0], past=1)})]

    monkeypatch.setattr(field, "_watched", narrow)
    found = pgt_fx.verify(prog, **FEW, max_look_ahead=0)
    assert found["receptive-field"].ok is False and found["look-ahead"].ok is None


# -- what was promised without being asked -------------------------------------------------------


def test_a_model_that_waits_strictly_promises_exactness() -> None:
    """It was exact when it was transformed; then a layer was put in its place."""
    model, clip = stream()
    prog = pgt_fx.transform(model.eval(), clip, future="wait")
    found = pgt_fx.verify(prog, checks={"exact-wait"}, chunkings=1)
    assert found.ok and found.required == {"exact-wait"}
    assert not pgt_fx.verify(prog, **FEW).required, "who asks for one check alone gets it"
    model.norm = nn.GroupNorm(2, 4)
    found = pgt_fx.verify(prog, checks={"exact-wait"}, chunkings=1)
    assert found["exact-wait"].ok is False and "self.norm(x)" in found["exact-wait"].where
    for options in ({"strict": False}, {"future": "zero"}):
        lax = prog.replace(**{"strict": False, **options})
        assert pgt_fx.verify(lax, checks={"exact-wait"}, chunkings=1)["exact-wait"].ok is None


def test_a_promise_that_could_not_be_measured_is_no_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    def silent(check: Any, *_: Any) -> Any:
        return replace(check, detail="for a reason")

    checks = tuple((n, s, silent if n == "exact-wait" else m) for n, s, m in CHECKS)
    monkeypatch.setattr(session, "CHECKS", checks)
    prog = pgt_fx.transform(*stream(), future="wait")
    wanted = {"checks": {"exact-wait", "full-equals-model"}, "chunkings": 1}
    assert not pgt_fx.verify(prog, **wanted).ok
    assert pgt_fx.verify(prog.replace(future="zero"), **wanted).ok


def test_exactness_that_is_refused_names_the_operators() -> None:
    with pytest.raises(ExactnessError) as refused:
        models_for_ci.promised_norm()
    (operator,) = refused.value.operators
    assert operator.startswith("norm: group_norm (") and "self.norm(x)" in operator


# -- models that are causal as they are ----------------------------------------------------------


def test_a_causal_model_is_required_to_be_causal() -> None:
    assert verify_causal(Leaky("").eval(), CLIP).required == {"no-future", "prefix"}
    found = verify_causal(Leaky("").eval(), CLIP, checks={"prefix"}, require="causal")
    assert [c.id for c in found.checks] == ["time-sensitive", "no-future", "prefix"]
    assert assert_causal(Leaky("").eval(), CLIP, max_look_ahead=0).ok
    for asked, words in (
        ({"require": "exact"}, "'exact' is of a progressive model"),
        ({"max_look_ahead": 1}, "looks 0 frames ahead, got 1"),
    ):
        with pytest.raises(OptionError, match=words):
            verify_causal(Leaky("").eval(), CLIP, **asked)


def test_a_causal_model_of_which_nothing_shows_it_is_no_pass(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(causal, "same_bits", lambda *_: True)
    found = verify_causal(Leaky("").eval(), CLIP)
    assert found["prefix"].ok and found["no-future"].ok is None and not found.ok
    assert "changed no output at all. What to do: " in found["no-future"].detail


@pytest.mark.parametrize(
    "model, ahead",
    [
        (Leaky(""), 0),
        (Leaky("roll"), 1),
        (Leaky("flip"), None),
        (nn.Conv1d(3, 4, 7, padding=3), 3),
        (nn.Conv1d(3, 4, 7, padding=3, stride=2), 3),
        (nn.Conv1d(3, 4, 3), 0),
    ],
    ids=str,
)
def test_how_far_a_plain_model_looks_ahead_is_measured(model: nn.Module, ahead: Any) -> None:
    found = verify_causal(model.eval(), CLIP, time_dim=2)
    assert found.record["time"]["look_ahead"] == [ahead]


# -- the command ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "model, args, code, words",
    [
        ("stream_norm", (), 0, "promises hold"),
        ("stream_norm", ("--require", "exact"), 1, "exact-wait: norm: group_norm"),
        ("stream", ("--require", "exact", "--require", "causal", "--max-state", "1kB"), 0, "hold"),
        ("stream_ahead", ("--max-look-ahead", "0"), 1, "look-ahead: last: conv k=3"),
        ("stream_ahead", ("--max-look-ahead", "1"), 0, "promises hold"),
        ("stream_wide", ("--max-state", "60"), 1, "state-bytes: first: conv k=5"),
        ("stream_wide", ("--max-state", "1KiB"), 0, "promises hold"),
        ("promised", (), 0, "promises hold"),
        ("promised_norm", (), 1, "look at exact-wait: norm: group_norm"),
        ("promised_loosely", (), 0, "promises hold"),
        ("weightless", ("--require", "gradients"), 2, "What to do: it needs an output"),
        ("refused", ("--require", "exact"), 2, "aten.flip"),
        ("stream", ("--require", "exakt"), 2, "did you mean exact"),
        ("stream", ("--max-state", "4X"), 2, "such as 4MiB, 4MB"),
        ("stream", ("--causal", "--max-state", "4"), 2, "carries no state"),
        ("stream", ("--causal", "--require", "causal"), 0, "3 promises hold"),
    ],
)
def test_exit_codes(
    in_tests: None, model: str, args: tuple[str, ...], code: int, words: str
) -> None:
    check = () if "--causal" in args else ("--check", "reset", "--chunkings", "1")
    result = run("verify", f"models_for_ci:{model}", *check, *args)
    said = " ".join(result.output.split())
    assert result.exit_code == code and words in said, result.output
    assert "Traceback" not in said


def test_a_lost_promise_is_written_into_the_files_too(in_tests: None, tmp_path: Path) -> None:
    """As a failure, though nothing could be run."""
    result = verify("promised_norm", "--json", "--output", str(tmp_path / "a.xml"))
    assert result.exit_code == 1
    (check,) = json.loads(result.stdout)["checks"]
    assert check["id"] == "exact-wait" and check["ok"] is False
    suite = next(ElementTree.parse(tmp_path / "a.xml").iter("testsuite"))
    assert suite.get("failures") == "1" and suite.get("errors") == "0"


@pytest.mark.parametrize("kind", [(), ("--causal",)], ids=["progressive", "causal"])
def test_a_certificate_is_a_promise(
    in_tests: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: tuple[str, ...]
) -> None:
    """What has become worse is told first, and the exit code is 1; what could not be measured again
    is no contradiction, and no pass."""
    path = str(tmp_path / "c.json")
    few = ("--check", "no-future") if kind else ("--check", "exact-wait", "--chunkings", "1")
    assert run("verify", "models_for_ci:stream", *kind, *few, "--save", path).exit_code == 0

    def again(model: str, *args: str) -> tuple[int, list[str]]:
        result = run("verify", f"models_for_ci:{model}", "--certificate", path, *args)
        lines = result.output.splitlines()
        return result.exit_code, [x for x in lines if "certificate" in x or "again: " in x]

    assert again("stream")[0] == 0
    code, told = again("stream_ahead")
    assert code == 1 and "contradicts the certificate: look-ahead: 0 frames → 1 frame" in told[0]
    code, told = again("stream_norm")
    worse = "look-ahead: 0 frames → all of time" if kind else "exactness: exact → not exact"
    assert code == 1 and f"contradicts the certificate: {worse}; look at " in told[0]
    assert "built in another way" in told[-1]
    if not kind:
        code, told = again("promised_norm")
        assert code == 1 and len(told) == 1
        assert f"contradicts the certificate: {worse}; look at norm: group_norm" in told[0]
        assert again("stream", "--require", "exact", "--max-state", "56 B")[0] == 0
        assert again("stream", "--max-state", "55 B")[0] == 1
    where = causal if kind else equality
    monkeypatch.setattr(where, "error", lambda *_: 0.0)  # the order of the frames is all one
    code, told = again("stream")
    assert code == 2 and "could not be measured again: time-sensitive held" in told[0], told


# -- the plugin ----------------------------------------------------------------------------------


def pytest_in(folder: Path, *args: str) -> tuple[dict[str, str], str]:
    """What became of each test: of those of a run with the models of ``models_for_ci``."""
    (folder / "shop.py").write_text((HERE / "models_for_ci.py").read_text())
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--junitxml=found.xml"]
    done = subprocess.run([*command, *args], cwd=folder, capture_output=True, text=True)
    found = {}
    path = folder / "found.xml"
    for case in ElementTree.parse(path).iter("testcase") if path.exists() else ():
        kinds = [child.tag for child in case if child.tag in ("failure", "error", "skipped")]
        model = (case.get("classname") or "").rpartition(":")[2]
        found[f"{model} {case.get('name')}"] = kinds[0] if kinds else "passed"
    return found, done.stdout + done.stderr


def test_the_plugin_holds_models_to_what_is_required(tmp_path: Path) -> None:
    """What is lost is a failure; what can't be measured an error that says what to do, of a model
    that is refused as well; nothing of it is a skip."""
    models = ["stream", "stream_norm", "stream_ahead", "stream_wide", "weightless", "refused"]
    found, said = pytest_in(
        tmp_path, *(f"--pgt-model=shop:{m}" for m in models), "--pgt-model=shop:promised_norm",
        "--pgt-check=reset", "--pgt-chunkings=1", "--pgt-require=exact",
        "--pgt-require=exact-gradients", "--pgt-max-look-ahead=0", "--pgt-max-state=79",
    )  # fmt: skip
    failed = {name for name, what in found.items() if what == "failure"}
    assert failed == {
        "stream_norm exact-wait",
        "stream_norm receptive-field",
        "stream_norm look-ahead",
        "stream_ahead look-ahead",
        "stream_wide state-bytes",
        "refused converts",
        "promised_norm converts",
    }, said
    errors = {name for name, what in found.items() if what == "error"}
    must = {"full-equals-model", "exact-wait", "exact-gradients", "receptive-field"}
    must |= {"look-ahead", "state-bytes"}
    assert errors == {"weightless exact-gradients"} | {
        f"{model} {name}" for model in ("refused", "promised_norm") for name in must
    }
    assert "the model has no parameters. What to do: it needs an output" in said
    assert "exact-wait is required: BlockedError: 1 operator" in said
    passed = {name for name, what in found.items() if what == "passed"}
    assert {f"stream {name}" for name in (*must, "reset", "converts")} <= passed


def test_what_is_required_may_stand_in_the_configuration(tmp_path: Path) -> None:
    """Each kind of models is asked for what means something for it; a wrong word is told."""
    ini = "[pytest]\npgt_models = shop:stream\npgt_causal = shop:stream\n"
    ini += "pgt_require = exact\npgt_max_state = 10 B\npgt_max_look_ahead = 0\n"
    (tmp_path / "pytest.ini").write_text(ini)
    # Two of one name: of the causal one there are other tests.
    found, said = pytest_in(tmp_path, "--pgt-chunkings=1")
    assert {k for k, v in found.items() if v == "failure"} == {"stream state-bytes"}, said
    kept = ("exact-wait", "look-ahead", "no-future")
    assert all(found[f"stream {name}"] == "passed" for name in kept)
    (tmp_path / "found.xml").unlink()
    found, said = pytest_in(tmp_path, "--pgt-require=exakt")
    assert "ERROR: require: no 'exakt'; did you mean exact" in said and not found


class Configuration:
    """As much of pytest's as is asked; options go before what stands in the file."""

    def __init__(self, args: tuple[str, ...] = (), **given: Any) -> None:
        self.args, self.given = args, given

    def getini(self, name: str) -> Any:
        return self.given.get(name, [] if name.endswith(("require", "models", "causal")) else "")

    def getoption(self, name: str) -> Any:
        empty = [] if name.endswith(("require", "model", "causal")) else None
        return self.given.get(name.strip("-").replace("-", "_") + "_option", empty)


def test_each_kind_of_models_is_asked_for_what_means_something() -> None:
    both = {"pgt_models": ["shop:a"], "pgt_causal": ["shop:b"]}
    given: Any = Configuration(
        **both, pgt_require=["exact", "causal"], pgt_max_look_ahead="3", pgt_max_state="1kB",
        pgt_require_option=["no-future", "reset"], pgt_max_state_option="2kB",
    )  # fmt: skip
    asked = required_of(given, plain=False)
    assert asked == requirements(["exact", "causal", "reset"], 3, 2000)
    assert required_of(given, plain=True) == requirements(["causal", "no-future"], plain=True)
    none: Any = Configuration(pgt_max_look_ahead_option="0")
    assert required_of(none, plain=False).look_ahead == 0
    # Where there are models of one kind alone, nobody else is asked: it is a mistake.
    for wrong, plain, words in (
        ({"pgt_causal": ["shop:b"], "pgt_require": ["exact"]}, True, "of a progressive model"),
        ({"pgt_causal": ["shop:b"], "pgt_max_state": "4"}, True, "carries no state"),
        ({"pgt_model_option": ["shop:a"], "pgt_require": ["prefix"]}, False, "measured as it is"),
        ({**both, "pgt_max_look_ahead": "-1"}, False, "expected a number of frames"),
        ({**both, "pgt_max_state": "4X"}, False, "such as 4MiB"),
        ({**both, "pgt_require": ["exakt"]}, True, "no 'exakt'"),
    ):
        config: Any = Configuration(**wrong)
        with pytest.raises(OptionError, match=words):
            required_of(config, plain=plain)
    by_id: Any = Configuration(("shop.py::pgt-model:shop:a::reset",), pgt_require=["exact"])
    assert required_of(by_id, plain=True) == requirements(plain=True)
