"""``pgt-fx fuzz``: it finds a planted fault, shrinks it, and writes a file that shows it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from mutants import MUTANTS
from typer.testing import CliRunner

from pgt_fx.capture.guards.length_guard import Lengths
from pgt_fx.cli import app
from pgt_fx.compiler import transform as compiler
from pgt_fx.compiler.selfcheck.check import self_check
from pgt_fx.testing.fuzz.campaign import fuzz
from pgt_fx.testing.fuzz.case import Case, Fault, check, runs, sensitive
from pgt_fx.testing.fuzz.graphs import example_frames, way

CONV = {
    "op": "conv", "in": [0], "out": 1, "k": 3, "stride": 1, "dilation": 1, "groups": 1,
    "bias": True, "space": 1, "padding": 1,
}  # fmt: skip


def case(**changes: object) -> Case:
    plain: Case = {
        "spec": {"dims": 1, "channels": 1, "nodes": [CONV]},
        "head": "",
        "frames": 9,
        "seed": 0,
        "dtype": "float64",
        "options": {"operator": "mco", "future": "wait", "pooling": "step"},
        "gradients": True,
        "chunks": [[4, 5], [1] * 9],
    }
    return plain | changes


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
@pytest.mark.parametrize(
    "options, head",
    [
        ({"operator": "mco", "future": "wait", "pooling": "step"}, ""),
        ({"operator": "mco", "future": "zero", "pooling": "step"}, ""),
        ({"operator": "pmco", "future": "zero", "pooling": "step"}, ""),
        ({"operator": "mco", "future": "wait", "pooling": "running"}, "mean"),
        ({"operator": "cmco-max", "future": "zero", "pooling": "markov"}, "max"),
    ],
)
def test_a_sound_case_holds(dtype: str, options: dict[str, str], head: str) -> None:
    found = case(dtype=dtype, options=options, head=head)
    assert sensitive(found)
    check(found)


@pytest.mark.parametrize(
    "name, future, words",
    [
        ("tail shifted by one element", "wait", "differs by"),
        ("padding put again at every step", "wait", "chunks"),
        ("uninitialised memory in the tail", "wait", "other bits"),
        ("state is a view of the activation", "wait", "is a view"),
        ("exact set too wide", "zero", "is named exact"),
        ("exact set too narrow", "zero", "and not named"),
        ("cotangent of the state dropped", "wait", "the gradient of"),
    ],
)
def test_a_planted_fault_is_seen_by_a_case(name: str, future: str, words: str) -> None:
    node = CONV | {"k": 5, "padding": 2} if "padding" in name else CONV
    two = [node, CONV | {"in": [1]}]
    found = case(
        spec={"dims": 1, "channels": 1, "nodes": two},
        frames=20,
        chunks=[[8, 6, 6]],
        options={"operator": "mco", "future": future, "pooling": "step"},
    )
    check(found)
    with next(m for m in MUTANTS if m.name == name).plant(), pytest.raises(Fault, match=words):
        check(found)


@pytest.mark.parametrize("dims", [1, 3])
@pytest.mark.parametrize(
    "node",
    [
        *({"op": "positions", "how": how} for how in ("rows", "cos", "decay")),
        *({"op": "attention", "how": how} for how in ("tril", "window", "buffer", "alibi", "flag")),
        *(
            {"op": "branch", "ask": ask}
            for ask in (["<", 80], ["==", 7], ["%", 5, 3], ["//", 90, 0])
        ),
    ],
    ids=str,
)
def test_operators_that_know_the_length_hold(node: dict[str, object], dims: int) -> None:
    nodes = [CONV | {"out": 2}, node | {"in": [1]}, CONV | {"in": [2]}]
    found = case(spec={"dims": dims, "channels": 1, "nodes": nodes}, frames=34)
    assert way(found["spec"], 34) == way(found["spec"], example_frames(found["spec"]))
    assert sensitive(found)
    check(found | {"chunks": [[4, 30], [1] * 34]})


@pytest.mark.parametrize("ask", [["<", 12], ["==", 11], ["%", 2, 0], ["//", 7, 1]])
def test_another_way_of_a_branch_must_be_refused(
    ask: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = {"dims": 1, "channels": 1, "nodes": [CONV, {"op": "branch", "in": [1], "ask": ask}]}
    example = example_frames(spec)
    frames = next(n for n in range(5, 30) if way(spec, n) != way(spec, example))
    found = case(spec=spec, frames=frames, chunks=[[4, frames - 4], [1] * frames])
    check(found)
    monkeypatch.setattr(Lengths, "check", lambda self, frames, last: None)
    with pytest.raises(Fault, match="another length than the graph's is accepted"):
        check(found)


def test_a_branch_on_the_clips_own_length_alone_is_no_case() -> None:
    spec = {"dims": 1, "channels": 1, "nodes": [CONV]}
    ask = ["==", example_frames(spec)]
    spec["nodes"] = [CONV, {"op": "branch", "in": [1], "ask": ask}]
    assert not runs(case(spec=spec)) and runs(case())


def test_a_mean_over_no_element_is_no_alarm_of_the_self_check(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(compiler, "self_check", self_check)
    nodes = [CONV, {"op": "slice", "in": [1], "start": 1, "step": 1}]
    options = {"operator": "mco", "future": "wait", "pooling": "step"}
    check(case(spec={"dims": 1, "channels": 1, "nodes": nodes}, head="mean", options=options))


def test_low_precision_alone_is_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    """What fails in float32 and holds in float64 is rounding, unless it is too much."""
    from pgt_fx.testing.fuzz import case as module

    monkeypatch.setitem(module.BOUNDS, "float32", (0.0, 0.0))
    chunks = [[5] * 8]
    check(case(dtype="float32", frames=40, chunks=chunks))
    monkeypatch.setitem(module.ROUNDING, "float32", 0.0)
    head = {"operator": "mco", "future": "wait", "pooling": "running"}
    with pytest.raises(Fault):
        check(case(dtype="float32", frames=40, chunks=chunks, head="mean", options=head))


def test_it_finds_shrinks_and_writes_a_reproducer(tmp_path: Path) -> None:
    mutant = next(m for m in MUTANTS if m.name == "tail shifted by one element")
    with mutant.plant():
        campaign = fuzz(0.1, seed=3, folder=tmp_path)
    assert campaign.failures, "an obvious fault was not found"
    failure = campaign.failures[0]
    assert len(failure.case["spec"]["nodes"]) <= 2, "it was not shrunk"
    with mutant.plant(), pytest.raises(Fault):
        check(failure.case)
    # The file stands alone: without the fault it says so.
    done = subprocess.run([sys.executable, failure.file], capture_output=True, text=True)
    assert done.returncode == 0 and "it holds now" in done.stdout, done.stderr
    assert failure.message.split(":")[0] in failure.file.read_text()


def test_a_sound_compiler_passes_and_counts(tmp_path: Path) -> None:
    args = ["fuzz", "--minutes", "0.05", "--json", "--output", str(tmp_path)]
    result = CliRunner().invoke(app, args)
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["checked"] > 0 and found["failures"] == []
    assert found["chunkings"] == 3 * found["checked"]
    assert not list(tmp_path.iterdir())


def test_bad_arguments(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["fuzz", "--minutes", "0", "--output", str(tmp_path)])
    assert result.exit_code == 2  # nothing was checked
    result = CliRunner().invoke(app, ["fuzz", "--output", str(tmp_path / "none")])
    assert result.exit_code == 2 and "there is no folder" in result.stderr
