"""``pgt_fx.doctor``: what makes a model late or refused, what it would save, and the page."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from blockers import BLOCKERS, Blocker, T, Unrolled
from torch import Tensor, nn
from torch.nn import functional as F
from typer.testing import CliRunner

import pgt_fx
from pgt_fx import zoo
from pgt_fx.cli import app
from pgt_fx.compiler.analysis.receptive_field import reaches
from pgt_fx.compiler.analysis.walk import walk_graph
from pgt_fx.compiler.transform import read_model
from pgt_fx.doctor import Diagnosis, examine
from pgt_fx.doctor.delay import delay, look_aheads
from pgt_fx.doctor.picture import VERDICTS

CLIP = torch.zeros(1, 3, 8)


class Late(nn.Module):
    """Two branches of different look-ahead; the padding of one is spelled apart."""

    def __init__(self, stem: tuple[int, int] = (2, 2), deep: tuple[int, int] = (3, 3)) -> None:
        super().__init__()
        self.stem, self.deep = nn.Conv1d(3, 4, 5), nn.Conv1d(4, 4, 7)
        self.short = nn.Conv1d(4, 4, 3, padding=1)
        self.pads = stem, deep

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(F.pad(x, self.pads[0]))
        return self.deep(F.pad(x, self.pads[1])) + self.short(x)


def found(model: nn.Module) -> Diagnosis:
    torch.manual_seed(0)
    return examine(model, CLIP, time_dim=2)


@pytest.mark.parametrize("name", ["r3d_18", "slowfast_r50"])
def test_look_aheads_add_up_to_the_latency(name: str) -> None:
    """Found operator by operator, and by the clocks: two ways to the same number."""
    model, clip = zoo.build(name, space=32), zoo.clip(name, space=32)
    source = read_model(model.eval(), clip, None, "auto")
    analysis, blockers = walk_graph(source.captured(), source.spec, "wait")
    assert not blockers
    looks = look_aheads(analysis, reaches(analysis))
    prog = pgt_fx.transform(model, clip, future="wait", pooling="running")
    assert delay(analysis, looks) == prog.report.latency > 0
    assert delay(analysis, looks, looks) == 0


def test_what_it_would_save_is_what_it_saves() -> None:
    before = found(Late())
    assert before.verdict == "late" and before.latency == 5 and before.best == 0
    by_name = {a.name: a for a in before.ahead}
    assert {n: (a.frames, a.saves) for n, a in by_name.items()} == {
        "stem": (2, 2),
        "deep": (3, 2),  # the other branch, which looks one ahead, is then the slower one
        "short": (1, 0),
    }
    assert "pad 4 in front and 0 at the end in place of 2 and 2" in by_name["stem"].change
    after = found(Late(stem=(4, 0)))
    assert after.latency == before.latency - by_name["stem"].saves
    after = found(Late(deep=(6, 0)))
    assert after.latency == before.latency - by_name["deep"].saves
    assert all(a.state_bytes for a in before.ahead) and "test_doctor.py:" in before.ahead[0].source


def test_a_causal_model_is_healthy() -> None:
    model = nn.Sequential(nn.ConstantPad1d((2, 0), 0.0), nn.Conv1d(3, 4, 3))
    diagnosis = found(model)
    assert diagnosis.verdict == "causal" and diagnosis.latency == 0 and not diagnosis.ahead
    assert "without delay" in str(diagnosis)


def test_what_mixes_all_of_time_is_told_apart() -> None:
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv1d(3, 4, 3, padding=1), nn.GroupNorm(2, 4)

        def forward(self, x: Tensor) -> Tensor:
            x = self.norm(self.conv(x))
            x = x * x.mean(2, keepdim=True).sigmoid()
            return x.mean(2)

    diagnosis = found(Gated())
    assert diagnosis.verdict == "within steps" and diagnosis.latency is None
    assert [(m.what, m.verdict) for m in diagnosis.mixing] == [
        ("group_norm", "step"),
        ("mean over all time", "step"),
        ("mean over all time", "running"),
    ]
    text = str(diagnosis)
    assert "normalise each frame by itself" in text and "it gates single frames" in text


@pytest.mark.parametrize("blocker", BLOCKERS[::3], ids=lambda b: b.model.__name__)
def test_a_refused_model_is_told_where(blocker: Blocker) -> None:
    model = blocker.model().train()
    diagnosis = examine(model, torch.zeros(1, 3, T), time_dim=2)
    assert diagnosis.verdict == "refused" and model.training
    (row,) = [m for m in diagnosis.mixing if m.verdict == "refused"]
    assert "# blocked" in row.line and "blockers.py:" in row.source and row.change
    assert "can't be made progressive: 1 operator stands in the way" in diagnosis.summary
    assert "# blocked" in diagnosis.to_html()


def test_a_model_that_can_not_be_captured_has_a_diagnosis() -> None:
    diagnosis = examine(Unrolled(), torch.zeros(1, 3, T), time_dim=2)
    assert diagnosis.verdict == "refused" and diagnosis.picture is None
    assert "holds the number of frames fixed" in diagnosis.mixing[0].reason
    assert "<svg" not in diagnosis.to_html()


class _Page(HTMLParser):
    """Tags that are open, and addresses that the page would fetch."""

    VOID = ("meta", "br")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.fetched: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.fetched += [v or "" for k, v in attrs if k in ("src", "href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)


def test_the_page_is_whole_and_fetches_nothing() -> None:
    class Odd(Late):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * (1 if 2 < 3 else 2)  # a < b & "c"

    page = found(Odd()).to_html()
    parser = _Page()
    parser.feed(page)
    assert parser.open == [] and not parser.fetched and "script" not in parser.tags
    assert page.count("http") == page.count("http://www.w3.org/2000/svg") == 1
    assert {"svg", "rect", "path", "table", "ol"} <= set(parser.tags)


def test_every_temporal_operator_has_a_box_of_its_own() -> None:
    model = zoo.build("slowfast_r50", space=32)
    diagnosis = examine(model, zoo.clip("slowfast_r50", space=32))
    drawn = diagnosis.picture
    assert drawn is not None
    boxes = drawn.boxes
    assert sum(b.verdict == "ahead" for b in boxes.values()) == len(diagnosis.ahead) > 20
    assert {b.verdict for b in boxes.values()} <= set(VERDICTS)
    rows: dict[int, list[float]] = {}
    for box in boxes.values():
        rows.setdefault(box.row, []).append(box.column)
    for columns in rows.values():
        ordered = sorted(columns)
        gaps = [b - a for a, b in pairwise(ordered)]
        assert all(gap >= 1 for gap in gaps), "boxes overlap"
    assert all(boxes[a].row < boxes[b].row for a, b in drawn.arrows), "time flows down"
    # Every box but an input is reached, and every box but an output is read.
    assert {b for _, b in drawn.arrows} == {n for n, b in boxes.items() if b.note != "frames"}


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parents[1])
    page = tmp_path / "page.html"
    args = ["doctor", "x3d_xs", "--space", "64", "--html", str(page)]
    result = CliRunner().invoke(app, args, env={"COLUMNS": "200"})
    assert result.exit_code == 0 and "squeeze_excitation.py" in result.output
    assert page.read_text().startswith("<!doctype html>")
    result = CliRunner().invoke(app, ["doctor", "models_for_ci:refused", "--json"])
    assert result.exit_code == 1 and json.loads(result.stdout)["verdict"] == "refused"
    result = CliRunner().invoke(app, ["doctor", "r3d_18", "--html", "nowhere/x.html"])
    assert result.exit_code == 2 and "there is no folder" in result.stderr
