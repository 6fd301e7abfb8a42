"""The trace shows each stage with the graph after it; a graph that a stage may not leave is found
between the stages."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import pgt_fx
from pgt_fx.capture.legality import check_captured, check_cleaned
from pgt_fx.capture.passes import pipeline
from pgt_fx.compiler import stages
from pgt_fx.compiler.lowering import legality
from pgt_fx.compiler.lowering.legality import check_emitted
from pgt_fx.compiler.transform import read_model
from pgt_fx.core.options import Options
from pgt_fx.core.trace import IllegalGraph, recorded, stage

CLIP = torch.randn(1, 3, 8, 4, 4)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(3, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).relu_()


def test_the_trace_shows_every_stage_and_pass_in_order() -> None:
    trace = pgt_fx.transform(Net(), CLIP).trace
    names = [one.name for one in trace.stages]
    passes = [f"capture/{run.__name__}" for run in pipeline.PASSES]
    assert names == [
        "capture/torch.export", *passes, "capture", "analysis", "lowering", "binding"
    ]  # fmt: skip
    assert all(one.ms >= 0 for one in trace.stages)
    assert sum(one.ms for one in trace.stages[:-4]) <= trace["capture"].ms


def test_the_graph_after_a_pass_is_what_the_pass_made() -> None:
    trace = pgt_fx.transform(Net(), CLIP).trace
    before, after = trace["capture/torch.export"], trace["capture/functionalize"]
    assert "aten.relu_.default" in before.graph and "aten.relu_.default" not in after.graph
    assert after.changed and "aten.relu.default" in after.graph
    assert "markov.conv" in trace["lowering"].graph
    timed = trace["analysis"].graph
    assert "%x: time in dimension 2; an input" in timed
    assert "%conv3d: time in dimension 2; windowed: conv k=3 s=1 p=1  # " in timed
    assert "-- after capture/functionalize --" in str(trace)
    assert "-- after capture/drop_checks --" not in str(trace), "it changed nothing"
    assert f"{after.nodes:5d}" in next(x for x in trace.table().splitlines() if after.name in x)


def test_a_stage_that_there_is_not_names_those_that_there_are() -> None:
    with pytest.raises(KeyError, match=r"no stage .emit.; there are capture/torch\.export"):
        pgt_fx.transform(Net(), CLIP).trace["emit"]


def test_nothing_is_recorded_where_nobody_asks() -> None:
    def never() -> object:
        raise AssertionError("the text of a graph was asked for")

    with stage("one", never):
        pass
    with recorded() as trace, stage("two", lambda: "text"):
        pass
    assert [(one.name, one.graph) for one in trace.stages] == [("two", "text")]


# ------------------------------------------------------------------------ what may be in a graph


def captured(model: nn.Module) -> stages.Captured:
    return stages.capture(read_model(model.eval(), CLIP, None, "auto"))


def test_a_write_that_is_left_after_the_passes_is_illegal() -> None:
    graph = captured(Net())
    check_cleaned(graph)
    relu = next(n for n in graph.graph.nodes if n.target is torch.ops.aten.relu.default)
    relu.target = torch.ops.aten.relu_.default
    check_captured(graph)  # it may be in a graph before the passes
    with pytest.raises(IllegalGraph, match=r"after passes: .*relu_.*writes into .* in place"):
        check_cleaned(graph)


def test_a_node_without_sizes_is_illegal() -> None:
    graph = captured(Net())
    next(n for n in graph.graph.nodes if n.op == "call_function").meta.pop("val")
    with pytest.raises(IllegalGraph, match=r"after capture: .*the sizes and the type"):
        check_captured(graph)


def test_a_foreign_placeholder_is_illegal() -> None:
    graph = captured(Net())
    graph.inputs = {}
    with pytest.raises(IllegalGraph, match="no input, no parameter and no constant"):
        check_captured(graph)


def test_a_step_that_calls_what_there_is_not_is_illegal() -> None:
    emitted = pgt_fx.transform(Net(), CLIP).inspect.emitted
    check_emitted(emitted, "markov")
    emitted.markov.pop("conv")
    with pytest.raises(IllegalGraph, match="calls 'conv', which there is not"):
        check_emitted(emitted, "markov")


def test_a_slot_without_an_operator_is_illegal() -> None:
    emitted = pgt_fx.transform(Net(), CLIP).inspect.emitted
    emitted.origin.clear()
    with pytest.raises(
        IllegalGraph, match=r"no operator is known for the state entries \['conv'\]"
    ):
        check_emitted(emitted, "markov")


@pytest.mark.parametrize("asked", ["1", "", "0"])
def test_stages_are_checked_where_the_environment_asks(
    asked: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGT_FX_CHECK_STAGES", asked)
    monkeypatch.setattr(pipeline, "PASSES", (pipeline.drop_dead_code,))  # writes are left
    source = read_model(Net().eval(), CLIP, None, "auto")
    if asked == "1":
        with pytest.raises(IllegalGraph, match="after passes"):
            stages.capture(source)
    else:
        stages.capture(source)
    assert legality.CHECKS is pipeline.CHECKS


# -------------------------------------------------------------------------------------- inspect


def test_inspect_shows_each_stage() -> None:
    prog = pgt_fx.transform(Net(), CLIP, future="wait")
    seen = prog.inspect
    assert isinstance(seen.model, Net) and seen.clip.times == (2,)
    assert any(n.target is torch.ops.aten.conv3d.default for n in seen.graph.nodes)
    assert seen.timelines["conv3d"].timed  # type: ignore[union-attr]
    (entry,) = seen.state
    assert (entry.name, entry.operator, entry.bytes) == ("conv", "x", 2 * 3 * 4 * 4 * 4)
    assert seen.plan(0, 8).due["conv"].outs == 7, "the last output waits for a frame"
    assert seen.plan(0, 8, last=True).due["conv"].outs == 8
    prog(CLIP)
    assert prog.state["conv"].numel() * 4 == entry.bytes
    assert Options(future="wait") == prog.options


def test_inspect_follows_the_model() -> None:
    model = nn.Sequential(nn.Conv1d(2, 2, 3), nn.Dropout(0.5))
    prog = pgt_fx.transform(model.eval(), torch.randn(1, 2, 8))
    assert not prog.inspect.captured.training
    prog.train()
    assert prog.inspect.captured.training
