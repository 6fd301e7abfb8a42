"""Certificates: written, read, checked again, and refused when they are not what was written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from models_for_ci import CLIP as CAUSAL_CLIP
from models_for_ci import Leaky, stream
from mutants import CLIP, MUTANTS, Subject

import pgt_fx
from pgt_fx.core.errors import OptionError
from pgt_fx.testing import assert_causal
from pgt_fx.testing.verify.causal import verify_causal
from pgt_fx.testing.verify.certificate import load
from pgt_fx.testing.verify.certificate_file import CertificateError, digest_of
from pgt_fx.testing.verify.in_time import worse
from pgt_fx.testing.verify.required import requirements

CHECKS = {"full-equals-model", "exact-wait", "exact-zero", "one-way-forward", "context"}


def model(seed: int = 0, wide: bool = False) -> torch.nn.Module:
    torch.manual_seed(seed)
    made = Subject().eval()
    if wide:
        made.branch = torch.nn.Conv1d(6, 6, 5, padding=2)
    return made


def transformed(seed: int = 0, wide: bool = False, **options: Any) -> pgt_fx.Progressive:
    return pgt_fx.transform(model(seed, wide), CLIP, time_dim=2, **options)


@pytest.fixture
def written(tmp_path: Path) -> Path:
    found = pgt_fx.verify(transformed(), checks=CHECKS, chunkings=2, seed=3)
    assert found.ok
    path = tmp_path / "certificate.json"
    found.save(path)
    return path


def test_it_says_what_was_checked_on_what_and_how(written: Path) -> None:
    data = json.loads(written.read_text())
    assert data["settings"]["seed"] == 3 and data["settings"]["chunkings"] == 2
    assert data["settings"]["dtype"] == "float64" and data["settings"]["device"] == "cpu"
    assert set(data["settings"]["checks"]) == {*CHECKS, "time-sensitive"}
    assert data["versions"]["torch"] == torch.__version__
    assert data["ok"] is True and len(data["checks"]) == len(CHECKS) + 1
    assert all(c["sentence"] and ("measured" in c) for c in data["checks"])
    assert len(data["model"]["structure"]) == len(data["model"]["weights"]) == 64


def test_the_same_model_still_holds_with_the_same_figures(written: Path) -> None:
    certificate = load(written)
    found, contradictions, notes = certificate.recheck(transformed())
    assert not contradictions and not notes
    assert [c.measured for c in found.checks] == [
        c.measured for c in certificate.verification.checks
    ]


def test_other_weights_are_noted_and_another_model_contradicts(written: Path) -> None:
    certificate = load(written)
    _, contradictions, notes = certificate.recheck(transformed(seed=1))
    assert not contradictions and notes == ["the weights are others than those certified"]
    _, contradictions, _ = certificate.recheck(transformed(wide=True))
    assert any("built in another way" in c for c in contradictions)


def test_a_fault_that_came_in_since_contradicts(written: Path) -> None:
    mutant = next(m for m in MUTANTS if m.name == "dilation left out of the past")
    with mutant.plant():
        _, contradictions, _ = load(written).recheck(transformed())
    assert any(c.startswith("exact-wait held, and now") for c in contradictions)


def test_options_are_those_of_the_certificate(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    pgt_fx.verify(transformed(operator="pmco"), checks={"context"}, chunkings=1).save(path)
    found, contradictions, notes = load(path).recheck(transformed())
    assert found["context"].ok and not contradictions and not notes


def edited(path: Path, change: Any, *, signed: bool = False) -> Path:
    data = json.loads(path.read_text())
    change(data)
    if signed:
        data["digest"] = digest_of(data)
    path.write_text(json.dumps(data))
    return path


def check_of(data: dict[str, Any], name: str) -> dict[str, Any]:
    return next(c for c in data["checks"] if c["id"] == name)


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d["settings"].update(seed=4),
        lambda d: check_of(d, "exact-wait").update(measured=0.0),
        lambda d: d["model"].update(weights="0" * 64),
        lambda d: d["checks"].pop(),
        lambda d: d.pop("digest"),
    ],
    ids=["seed", "figure", "weights", "check left out", "no digest"],
)
def test_a_changed_one_is_refused(written: Path, change: Any) -> None:
    with pytest.raises(CertificateError, match="changed after it was written"):
        load(edited(written, change))


@pytest.mark.parametrize(
    "change, why",
    [
        (lambda d: check_of(d, "exact-wait").update(measured=1.0), "measured 1.0e"),
        (lambda d: d.update(ok=False), "verdict is not that of its checks"),
        (lambda d: d["checks"].pop(), "other checks than its settings"),
        (lambda d: d["settings"].update(seed="x"), "settings.seed: expected int, found str"),
        (lambda d: d["checks"][0].update(ok="yes"), r"checks\[0\].ok: expected true"),
        (lambda d: d.pop("versions"), "versions: expected dict"),
    ],
)
def test_one_that_contradicts_itself_is_refused_whatever_itsdigest_of(
    written: Path, change: Any, why: str
) -> None:
    with pytest.raises(CertificateError, match=why):
        load(edited(written, change, signed=True))


def test_a_truncated_one_is_refused_at_every_length(written: Path) -> None:
    text = written.read_text().rstrip()
    for length in [0, 1, *range(40, len(text), 211), len(text) - 1]:
        written.write_text(text[:length])
        with pytest.raises(CertificateError):
            load(written)


@pytest.mark.parametrize("text", ["[]", "{}", '{"format": "pgt_fx certificate", "version": 9}'])
def test_other_json_is_no_certificate(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(CertificateError, match=r"not a certificate|of version 9"):
        load(path)


def test_a_verification_made_by_hand_has_no_certificate(tmp_path: Path) -> None:
    found = pgt_fx.verify(transformed(), checks={"reset"})
    bare = type(found)(found.model, found.setting, found.checks)
    with pytest.raises(CertificateError, match="no record"):
        bare.save(tmp_path / "c.json")


# -- of models that are causal as they are --------------------------------------------------------


def leaky(kind: str = "", seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    return Leaky(kind).eval()


@pytest.fixture
def causal(tmp_path: Path) -> Path:
    path = tmp_path / "causal.json"
    assert_causal(leaky(), CAUSAL_CLIP, time_dim=2, seed=5).save(path)
    return path


def test_a_causal_model_has_one_too(causal: Path) -> None:
    data = json.loads(causal.read_text())
    assert data["kind"] == "causal" and data["settings"]["seed"] == 5
    assert data["settings"]["checks"] == ["time-sensitive", "no-future", "prefix"]
    certificate = load(causal)
    found, contradictions, notes = certificate.recheck(leaky(), CAUSAL_CLIP)
    assert certificate.causal and found.ok and not contradictions and not notes
    assert found.checks == certificate.verification.checks  # to the last figure
    with pytest.raises(OptionError, match="causal as it is, got a progressive one"):
        certificate.recheck(transformed())


@pytest.mark.parametrize(
    "kind, line",
    [("pad", "(1, 1)"), ("norm", "self.norm(x)"), ("gate", "x.mean("), ("roll", "torch.roll(x")],
)
def test_what_is_not_causal_any_more_is_told_with_its_line(
    causal: Path, kind: str, line: str
) -> None:
    _, contradictions, _ = load(causal).recheck(leaky(kind), CAUSAL_CLIP)
    told = next(c for c in contradictions if c.startswith("no-future held, and now: VIOLATED"))
    assert "look at " in told and line in told and "models_for_ci.py:" in told


def test_what_else_has_changed_of_a_causal_model(causal: Path, tmp_path: Path) -> None:
    """Weights and the clip are noted; layers of other settings contradict; a model that was not
    causal, and is, contradicts as well."""
    certificate = load(causal)
    _, contradictions, notes = certificate.recheck(leaky(seed=1), torch.zeros(1, 3, 9))
    assert not contradictions and "the weights are others than those certified" in notes
    assert "the clip's sizes were [[1, 3, 8]], and are [[1, 3, 9]]" in notes
    wider = leaky()
    wider.last = torch.nn.Conv1d(4, 4, 3, stride=1)
    _, contradictions, _ = certificate.recheck(wider, CAUSAL_CLIP)
    assert contradictions == ["the model is built in another way than the Leaky certified"]
    path = tmp_path / "leaks.json"
    verify_causal(leaky("roll"), CAUSAL_CLIP, time_dim=2, checks={"no-future"}).save(path)
    found, contradictions, _ = load(path).recheck(leaky(), CAUSAL_CLIP)
    assert [c.id for c in found.checks] == ["time-sensitive", "no-future"]
    assert [c.partition(", and now")[0] for c in contradictions] == ["no-future was violated"]


def test_the_kind_of_a_certificate_is_checked(written: Path, causal: Path) -> None:
    with pytest.raises(OptionError, match=r"of a progressive model, got Subject"):
        load(written).recheck(model())
    data = json.loads(written.read_text())
    assert "kind" not in data  # as all that were written before there were two
    with pytest.raises(CertificateError, match="kind: expected progressive or causal, found 'x'"):
        load(edited(causal, lambda d: d.update(kind="x"), signed=True))
    with pytest.raises(CertificateError, match=r"settings.chunkings: expected int"):
        load(edited(causal, lambda d: d.pop("kind"), signed=True))


# -- what has become worse along time -------------------------------------------------------------

#: Change of a model -> what is told of it first, and its line.
WORSE = {
    "norm": ("exactness: exact → not exact", "self.norm(x)"),
    "ahead": ("look-ahead: 0 frames → 1 frame", "F.pad(x, self.pad)"),
    "wide": ("state: 56 B → 80 B", "self.first("),
}


def streaming(change: str = "", **options: Any) -> pgt_fx.Progressive:
    return pgt_fx.transform(*stream(change), **options)


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    path = tmp_path / "stream.json"
    pgt_fx.verify(streaming(), checks={"exact-wait"}, chunkings=1).save(path)
    return path


def test_what_a_model_does_along_time_is_recorded(recorded: Path, causal: Path) -> None:
    time = json.loads(recorded.read_text())["time"]
    assert time["exact"] is True and time["look_ahead"] == [0] and time["state_bytes"] == 56
    assert [o["name"] for o in time["operators"]] == ["pad", "first", "pad", "last"]
    assert json.loads(causal.read_text())["time"] == {"look_ahead": [0]}


@pytest.mark.parametrize("change", WORSE)
def test_what_has_become_worse_is_told_first_with_its_line(recorded: Path, change: str) -> None:
    _, contradictions, _ = load(recorded).recheck(streaming(change))
    what, line = WORSE[change]
    assert contradictions[0].startswith(f"{what}; look at "), contradictions
    assert "models_for_ci.py:" in contradictions[0] and line in contradictions[0]
    assert contradictions[-1].startswith("the model is built in another way")
    if change == "norm":
        assert contradictions[1].startswith("look-ahead: 0 frames → all of time; look at norm:")
        assert "its mean and variance are taken over all of time" in contradictions[0]


@pytest.mark.parametrize("kind, ahead", [("pad", "1 frame"), ("norm", "all of time")])
def test_so_it_is_of_a_model_that_is_causal_as_it_is(causal: Path, kind: str, ahead: str) -> None:
    _, contradictions, _ = load(causal).recheck(leaky(kind), CAUSAL_CLIP)
    assert contradictions[0].startswith(f"look-ahead: 0 frames → {ahead}; look at torch.nn")
    assert "models_for_ci.py:" in contradictions[0]


def test_what_has_become_better_contradicts_nothing(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    pgt_fx.verify(streaming("ahead"), checks={"reset"}).save(path)
    _, contradictions, notes = load(path).recheck(streaming())
    assert contradictions == ["the model is built in another way than the Stream certified"]
    assert "look-ahead: 1 frame → 0 frames" in notes
    pgt_fx.verify(streaming("norm"), checks={"reset"}).save(path)
    _, contradictions, notes = load(path).recheck(streaming())
    assert notes[:2] == [
        "exactness: not exact → exact",
        "look-ahead: all of time → 0 frames",
    ]


def test_the_operator_that_did_it_is_found_among_others() -> None:
    """Not one behind it, which reaches further for its sake; nor one that is merely new."""

    def record(ahead: int, state: int, *operators: tuple[str, int, int]) -> dict[str, Any]:
        keys = ("name", "future", "state_bytes", "where")
        rows = [{**dict(zip(keys, (*o, f"line of {o[0]}"), strict=True))} for o in operators]
        for row in rows:
            row["exact"] = True
        return {
            "exact": True,
            "look_ahead": [ahead],
            "state_bytes": state,
            "grows": False,
            "operators": rows,
        }

    old = record(2, 30, ("a", 1, 10), ("b", 2, 20))
    for new, told in (
        (record(3, 30, ("a", 2, 10), ("b", 3, 20)), ["2 frames → 3 frames; look at line of a"]),
        (record(3, 30, ("n", 0, 0), ("a", 1, 10), ("b", 3, 20)), ["3 frames; look at line of b"]),
        (record(4, 30, ("a", 1, 10), ("n", 3, 0), ("b", 4, 20)), ["4 frames; look at line of n"]),
        (record(2, 47, ("a", 1, 12), ("b", 2, 35)), ["30 B → 47 B; look at line of b"]),
        (record(2, 39, ("a", 1, 10), ("n", 1, 9), ("b", 2, 20)), ["39 B; look at line of n"]),
        (record(1, 20, ("b", 2, 20)), []),
    ):
        found = worse(old, new)
        assert len(found) == len(told) and all(a in b for a, b in zip(told, found, strict=True))
    grown = {**old, "grows": True}
    assert "after one clip, and grows with the video" in worse(old, grown)[0]
    assert not worse(grown, old) and not worse(grown, grown)


def test_what_was_required_is_required_again(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    asked = {"require": "causal", "max_state": "60 B"}
    pgt_fx.verify(streaming(), checks={"reset"}, chunkings=1, **asked).save(path)
    certificate = load(path)
    assert certificate.verification.required == {"receptive-field", "look-ahead", "state-bytes"}
    found, contradictions, notes = certificate.recheck(streaming())
    assert found.ok and not contradictions and not notes
    found, contradictions, _ = certificate.recheck(streaming("wide"))
    assert found["state-bytes"].ok is False and "state-bytes held" in contradictions[1]
    more = certificate.requirements("exact", None, 40)
    found, contradictions, _ = certificate.recheck(streaming(), required=more)
    assert not contradictions and found["state-bytes"].ok is False and found["exact-wait"].ok


def test_what_held_and_could_not_be_measured_again_is_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "c.json"
    pgt_fx.verify(streaming(), checks={"exact-gradients", "reset"}, chunkings=1).save(path)
    monkeypatch.setattr("pgt_fx.testing.verify.training._count", lambda subject: 0)
    certificate = load(path)
    found, contradictions, _ = certificate.recheck(streaming())
    assert [c.id for c in found.unanswered] == ["exact-gradients"] and not found.violations
    assert contradictions == certificate.unmeasured(found)
    assert contradictions[0].startswith("exact-gradients held, and now: not checked")


def test_one_from_before_there_was_such_a_record_promises_what_it_shows(recorded: Path) -> None:
    def older(data: dict[str, Any]) -> None:
        del data["time"], data["required"], data["settings"]["required"]

    certificate = load(edited(recorded, older, signed=True))
    _, contradictions, notes = certificate.recheck(streaming())
    assert not contradictions and not notes
    _, contradictions, _ = certificate.recheck(streaming("norm"))
    assert contradictions[0].startswith("exactness: exact → not exact; look at norm:")
    assert requirements(["exact-wait", "time-sensitive"]).checks == certificate.promised.checks


@pytest.mark.parametrize("key, kind", [("time", "dict"), ("required", "list")])
def test_a_record_of_another_kind_is_refused(recorded: Path, key: str, kind: str) -> None:
    with pytest.raises(CertificateError, match=f"{key}: expected {kind}, found str"):
        load(edited(recorded, lambda d: d.update({key: "x"}), signed=True))
