"""The walk over a captured graph reads it and writes nothing; passes before it write what it asks
for; and of one graph nothing is found out twice."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import pgt_fx
from pgt_fx.capture.captured import Captured
from pgt_fx.compiler import make_report, programs, specialize, transform
from pgt_fx.compiler.analysis import prepare
from pgt_fx.compiler.analysis.gates import gates
from pgt_fx.compiler.analysis.other_future import under
from pgt_fx.compiler.analysis.timed_graph import Analysis, Value
from pgt_fx.compiler.analysis.walk import walk_graph
from pgt_fx.compiler.selfcheck.check import self_check
from pgt_fx.compiler.transform import read_model
from pgt_fx.doctor import examine

SEQUENCE = torch.randn(1, 4, 8)


class Merged(nn.Module):
    """Three elements of each frame in a row with time, and convolutions along them."""

    def __init__(self, depth: int = 3) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv1d(4, 4, 3, padding=1) for _ in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.stack([x, -x, 2 * x], -1)
        for conv in self.convs:
            y = y + conv(y.flatten(2)).view(y.shape)
        return y


class Counted(nn.Module):
    """Returns a table made from the number of frames."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(4, 4, 3, padding=1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"y": self.conv(x), "t": torch.arange(x.shape[2], device=x.device)}


class Late(nn.Module):
    """A causal attention whose values look one frame ahead, and its queries and keys do not: none
    that waits can be made of it, and one that answers at once can."""

    def __init__(self) -> None:
        super().__init__()
        self.values, self.query = nn.Conv1d(4, 4, 3, padding=1), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        values, key = self.values(x).transpose(1, 2), x.transpose(1, 2)
        at = torch.arange(x.shape[2])
        score = self.query(key) @ key.transpose(1, 2)
        return score.masked_fill(at[None] > at[:, None], -torch.inf).softmax(-1) @ values


class Strided(nn.Module):
    """Branches of other delays, a padding of its own, a pool over time beside the frames."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.plain = nn.Conv1d(4, 4, 5, stride=2, padding=2), nn.Conv1d(4, 4, 1, 2)
        self.last = nn.Conv1d(4, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.wide(x) + self.plain(x)
        y = self.last(nn.functional.pad(y, (1, 1))) + y
        return y * y.mean(2, keepdim=True)


@pytest.fixture
def checked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Transforms compare what they made with the model, as they do for users."""
    monkeypatch.setattr(transform, "self_check", self_check)


MODELS = (Merged, Counted, Late, Strided)


def unprepared(model: nn.Module) -> tuple[Captured, Any]:
    """The graph of a model as captured, before any analysis."""
    source = read_model(model.eval(), SEQUENCE, 2, "auto")
    return source.captured(), source.spec


def picture(captured: Captured) -> Any:
    """All that can be seen of a graph: its text, its metas, who reads what."""
    nodes = list(captured.graph.nodes)
    kept = {k: v for k, v in vars(captured).items() if not k.startswith("_") and k != "graph"}
    return (
        str(captured.graph),
        [(n.name, {k: (id(v), str(v)) for k, v in n.meta.items()}) for n in nodes],
        [[u.name for u in n.users] for n in nodes],
        {k: (id(v), str(v)) for k, v in kept.items()},
    )


@pytest.mark.parametrize("make", MODELS)
@pytest.mark.parametrize("future", ["zero", "wait"])
def test_a_walk_writes_nothing(make: type[nn.Module], future: str) -> None:
    captured, spec = unprepared(make())
    before = picture(captured)
    walk_graph(captured, spec, future)
    assert picture(captured) == before
    analysis, blockers = prepare.prepare(captured, spec, future)
    assert bool(blockers) == (make is Late and future == "wait")
    before = picture(captured)
    walk_graph(captured, spec, future)
    assert picture(captured) == before
    if not blockers:
        under(analysis, "wait" if future == "zero" else "zero")
        assert picture(captured) == before


def test_what_a_walk_asks_for_is_written_by_passes() -> None:
    captured, spec = unprepared(Merged())
    asked, _ = walk_graph(captured, spec, "wait")
    assert [one.node.target for one in asked.merged] == [torch.ops.aten.conv1d.default] * 3
    assert {one.entries for one in asked.merged} == {3} and not asked.returned
    found, blockers = prepare.prepare(captured, spec, "wait")
    assert not blockers and not found.merged
    assert str(captured.graph).count("pgt_fx.interleave") == 3
    captured, spec = unprepared(Counted())
    asked, _ = walk_graph(captured, spec, "wait")
    assert [n.name for n in asked.returned] == ["arange"] and not asked.merged
    prepare.prepare(captured, spec, "wait")
    assert str(captured.graph).count("aten.alias") == 1


def test_the_trace_shows_the_passes_that_had_something_to_write() -> None:
    trace = pgt_fx.transform(Merged(), SEQUENCE, time_dim=2, check=False).trace
    assert "pgt_fx.interleave" in trace["analysis/separate merged time"].graph
    trace = pgt_fx.transform(Counted(), SEQUENCE, time_dim=2, check=False).trace
    assert "aten.alias" in trace["analysis/alias returned tables"].graph
    trace = pgt_fx.transform(Strided(), SEQUENCE, time_dim=2, check=False, strict=False).trace
    assert not [one.name for one in trace.stages if one.name.startswith("analysis/")]


def test_however_many_operators_ask_there_are_two_walks(monkeypatch: pytest.MonkeyPatch) -> None:
    walks = counts(monkeypatch, (prepare, "walk_graph"))
    captured, spec = unprepared(Merged(12))
    prepare.prepare(captured, spec, "wait")
    assert walks == {"walk_graph": 2}


def counts(monkeypatch: pytest.MonkeyPatch, *names: tuple[Any, str]) -> Counter[str]:
    """How often functions are called from now on."""
    calls: Counter[str] = Counter()

    def counted(name: str, function: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            calls[name] += 1
            return function(*args, **kwargs)

        return call

    for module, name in names:
        monkeypatch.setattr(module, name, counted(name, getattr(module, name)))
    return calls


@pytest.mark.parametrize("future", ["zero", "wait"])
def test_a_graph_is_walked_once(
    future: Any, checked: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the transform with its self-check, the report, and programs under other options."""
    calls = counts(
        monkeypatch, (prepare, "walk_graph"), (specialize, "under"), (programs, "make_report")
    )
    model = nn.Sequential(nn.Conv1d(4, 4, 3, padding=1), nn.Conv1d(4, 4, 3, padding=1)).eval()
    prog = pgt_fx.transform(model, SEQUENCE, future=future, time_dim=2)
    assert prog.report.latency == 2
    other = prog.replace(future="zero" if future == "wait" else "wait")
    assert other.report.latency == 2
    _ = prog.report, other.report
    assert calls == {"walk_graph": 1, "under": 1, "make_report": 2}
    assert "equals the model" in prog.report.checked


def test_the_doctor_walks_a_graph_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = counts(monkeypatch, (prepare, "walk_graph"))
    assert examine(nn.Conv1d(4, 4, 3, padding=1), SEQUENCE, time_dim=2).latency == 1
    assert calls == {"walk_graph": 1}


def test_the_self_check_asks_once_what_is_exact(
    checked: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = counts(monkeypatch, (programs, "reproduces"))
    model = nn.Sequential(nn.Conv1d(4, 4, 3, padding=1), nn.ReLU()).eval()
    prog = pgt_fx.transform(model, SEQUENCE, time_dim=2)
    assert prog.report.checked.startswith("equals the model")
    assert calls == {"reproduces": 1}  # of the waiting program; the other one can't be


def test_a_conclusion_is_drawn_once(monkeypatch: pytest.MonkeyPatch) -> None:
    captured, spec = unprepared(Strided())
    analysis, _ = prepare.prepare(captured, spec, "wait")
    found = make_report.gates(analysis)
    assert found and gates(analysis) is found
    assert gates(under(analysis, "zero")[0]) == found


@pytest.mark.parametrize("make", MODELS)
@pytest.mark.parametrize("future", ["zero", "wait"])
def test_the_other_future_is_what_a_walk_under_it_finds(make: type[nn.Module], future: str) -> None:
    captured, spec = unprepared(make())
    other = "wait" if future == "zero" else "zero"
    analysis, blockers = prepare.prepare(captured, spec, other)
    if blockers:
        assert make is Late and other == "wait"
        return
    made, refused = under(analysis, future)
    walked, blockers = walk_graph(captured, spec, future)
    assert refused == blockers and bool(blockers) == (make is Late and future == "wait")
    assert timelines(made) == timelines(walked)
    assert made.apart == walked.apart and made.lengths == walked.lengths
    assert made.outputs == walked.outputs
    found = {name: o.joins for name, o in made.operations.items() if name not in blockers}
    assert found == {name: o.joins for name, o in walked.operations.items()}
    if make is Strided:
        assert timelines(made) != timelines(analysis), "the futures differ"


def timelines(analysis: Analysis) -> dict[str, Any]:
    """Of each value what is known, and its counts while a video goes on and when it ends."""
    out: dict[str, Any] = {}
    for name, found in analysis.values.items():
        for number, v in enumerate([found] if isinstance(found, Value) else found):
            clock = v.clock and [
                v.clock.at((n,), last) for n in range(24) for last in (False, True)
            ]
            out[f"{name}:{number}"] = v.layout, clock, v.pooled, v.guessed, v.table, v.of_length
    return out


def test_a_model_that_can_not_wait_has_a_report_without_a_latency() -> None:
    prog = pgt_fx.transform(Late(), SEQUENCE, time_dim=2)
    assert prog.report.look_ahead == [1] and prog.report.latency is None
    with pytest.raises(pgt_fx.errors.BlockedError, match="values of an attention are later"):
        prog.replace(future="wait")
