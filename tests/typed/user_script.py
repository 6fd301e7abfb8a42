"""A user's script, read by ``mypy --strict`` and run (tests/test_install.py): what comes back has a
type. ``assert_type`` does nothing when it runs."""

from __future__ import annotations

from typing import Any, assert_type

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import pgt_fx
from pgt_fx import zoo
from pgt_fx.compiler.report import Row
from pgt_fx.doctor import Diagnosis
from pgt_fx.inference import Prediction, predict
from pgt_fx.testing import assert_causal, assert_progressive
from pgt_fx.testing.verify.causal import verify_causal
from pgt_fx.testing.verify.result import Check, Verification
from pgt_fx.training import Backward, PerFrame, backward, fit, sgd
from pgt_fx.zoo.clips import Clip


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv1d(3, 4, 3, padding=1), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.head(self.conv(x).tanh().mean(2))
        return scores


def transform() -> pgt_fx.Progressive:
    clip = torch.randn(1, 3, 8)
    prog = pgt_fx.transform(
        Net(),
        clip,
        operator="cmco-max",
        future="zero",
        pooling="markov",
        clip_pools="global",
        attention="memory",
        time_dim=2,
    )
    assert_type(prog, pgt_fx.Progressive)
    with_objects = pgt_fx.transform(
        Net(),
        clip,
        operator=pgt_fx.MarkovOperator("avg", momentum=0.25),
        attention=pgt_fx.AttentionMemory(2),
        time_dim=2,
    )
    assert_type(with_objects.options.markov, pgt_fx.MarkovOperator)
    assert_type(prog.replace(operator="mco", future="wait", pooling="running"), pgt_fx.Progressive)
    return prog


def run(prog: pgt_fx.Progressive) -> None:
    video = torch.randn(1, 3, 22)
    assert_type(prog.run(video, schedule=pgt_fx.Schedule(length=8, steps=3)), list[Any | None])
    out = prog(video[:, :, :8])
    assert_type(out, Any | None)  # the model's own type is no more known than that of any module
    if out is not None:
        torch.cat([out])
    _, state = prog.step(prog.init_state(), video[:, :, :8])
    assert_type(state, dict[str, Tensor])
    assert_type(prog.exact_frames([8, 7, 7]), list[bool])
    assert_type(prog.answers([8, 7, 7]), list[bool])
    assert_type(prog.time_dims, tuple[int | None, ...])
    assert_type(prog.code, str)
    prog.reset()


def report(prog: pgt_fx.Progressive) -> None:
    found = pgt_fx.analyze(Net(), torch.randn(1, 3, 8), time_dim=2)
    assert_type(found, pgt_fx.Report)
    assert_type(found.rows, list[Row])
    assert_type(found.receptive_field, list[int | None])
    assert_type(found.latency, int | None)
    assert_type(found.exact, bool)
    assert_type(prog.report, pgt_fx.Report)
    diagnosis = pgt_fx.doctor.examine(Net(), torch.randn(1, 3, 8), time_dim=2)
    assert_type(diagnosis, Diagnosis)


def check(prog: pgt_fx.Progressive) -> None:
    found = pgt_fx.verify(prog, checks={"reset"}, chunkings=1, dtype=torch.float32)
    assert_type(found, Verification)
    assert_type(found.ok, bool)
    assert_type(found["reset"], Check)
    assert_type(found.checks[0].measured, str | float)
    assert_type(assert_progressive(prog, checks={"reset"}, chunkings=1), Verification)
    past = nn.Sequential(nn.ConstantPad1d((2, 0), 0.0), nn.Conv1d(3, 4, 3))
    assert_type(assert_causal(past, torch.zeros(1, 3, 8), time_dim=2), Verification)
    assert_type(verify_causal(past, torch.zeros(1, 3, 8), time_dim=2), Verification)


def train(prog: pgt_fx.Progressive) -> None:
    dynamic = pgt_fx.DPR("B", length=8, steps=3, order="cycle")
    video, label = torch.randn(2, 3, dynamic.frames), torch.tensor([0, 1])
    assert_type(dynamic.draw(0), pgt_fx.Schedule)
    found = backward(
        prog,
        video,
        F.cross_entropy,
        label,
        schedule=dynamic.draw(0),
        gradient="exact",
        on="last",
    )
    assert_type(found, Backward)
    assert_type(found.loss, Tensor)
    assert_type(found.losses, list[Tensor | None])
    rows = fit(
        prog,
        [(video, label)],
        sgd(prog, 0.1),
        epochs=1,
        schedule=dynamic,
        gradient="truncated",
        progress=False,
    )
    assert_type(rows, list[dict[str, float]])
    assert_type(PerFrame(label, dim=0), PerFrame)


def test(prog: pgt_fx.Progressive) -> None:
    found = predict(
        prog,
        torch.randn(1, 3, 22),
        view="stream",
        schedule=[8, 7, 7],
        over_frames="max",
        activation="softmax",
    )
    assert_type(found, Prediction)
    assert_type(found.scores, Tensor)
    assert_type(found.steps, tuple[Tensor | None, ...])


def backbones() -> None:
    assert_type(zoo.names(), list[str])
    model = zoo.build("c3d", space=32, seed=1)
    assert_type(model, nn.Module)
    assert_type(zoo.features("c3d", model), nn.Module)
    assert_type(zoo.clip("c3d", space=32), Clip)
    assert_type(pgt_fx.zoo.get("c3d"), zoo.Entry)
    assert_type(zoo.Temporal("spatial", weights="centre", ends="zeros"), zoo.Temporal)


def fields(prog: pgt_fx.Progressive) -> None:
    found = pgt_fx.erf.measure(prog, steps=2, inputs=1, position="all")
    assert_type(found, pgt_fx.erf.Receptive)


def main() -> None:
    torch.manual_seed(0)
    prog = transform()
    run(prog)
    report(prog)
    check(prog)
    train(prog)
    test(prog)
    fields(prog.replace(operator="mco"))
    backbones()


if __name__ == "__main__":
    main()
