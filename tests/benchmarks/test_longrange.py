"""The study's videos hold what its claim rests on, and each row of it runs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

FOLDER = Path(__file__).parents[2] / "benchmarks" / "longrange"


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(FOLDER))
    yield
    for name in ("data", "nets", "rows", "train", "report", "costs", "study"):
        sys.modules.pop(name, None)


def test_no_clip_holds_both_events_and_each_class_has_its_reverse() -> None:
    from data import Events, OrderOfEvents

    for frames in (36, 32):
        events = Events(frames=frames)
        data = OrderOfEvents(events, 600, seed=0)
        first, second = data.starts.unbind(1)
        assert (first >= 0).all() and (second + events.event <= frames).all()
        # From the first event's last frame to the second's first one: never within T' frames.
        assert (second - (first + events.event - 1) + 1 > events.clip).all()
        assert first.unique().numel() > 10, "the events may begin anywhere"
        counts = torch.bincount(data.labels)
        assert (counts == 100).all() and len(counts) == events.classes == 6
        for label in range(6):
            a, b = events.pair(label)
            assert a != b and events.pair(events.reversed(label)) == (b, a)


def test_the_videos_show_their_label_and_are_the_same_for_the_same_seed() -> None:
    from data import Events, OrderOfEvents

    events = Events(noise=0.0, distractors=0)
    data = OrderOfEvents(events, 24, seed=3)
    again = OrderOfEvents(events, 24, seed=3)
    assert torch.equal(data.videos, again.videos) and torch.equal(data.labels, again.labels)
    assert not torch.equal(data.videos, OrderOfEvents(events, 24, seed=4).videos)
    for video, label, starts in zip(data.videos.float(), data.labels, data.starts, strict=True):
        for kind, start in zip(events.pair(int(label)), starts.tolist(), strict=True):
            shown = video[:, start : start + events.event].abs().sum((1, 2, 3))
            assert shown.argmax() == kind, "each kind has its hue"
        lit = video.abs().sum((0, 2, 3)) > 0
        expected = torch.zeros(events.frames, dtype=torch.bool)
        for start in starts.tolist():
            expected[start : start + events.event] = True
        assert torch.equal(lit, expected)


@pytest.mark.parametrize("backbone", ["slowonly", "slowfast"])
def test_every_row_trains_and_is_tested(backbone: str) -> None:
    from rows import ROWS, setting
    from train import train

    small = setting(backbone, "smoke")
    for row in (ROWS[0], ROWS[2], ROWS[9], ROWS[12], ROWS[-1]):
        found = train(small, row, 0, "cpu")
        assert found["loss"] > 0
        ways = {"clip": {"views", "original"}, "whole": {"original"}}
        assert set(found["test"]) == ways.get(row.kind, {"original", "progressive"})
        assert all(0 <= a["order"] <= 1 for a in found["test"].values())


def test_the_report_has_a_line_per_row_and_way(tmp_path: Path) -> None:
    from report import write

    test = {"original": {"top1": 0.5, "order": 0.75}, "progressive": {"top1": 0.25, "order": 0.6}}
    training = {"backbone": "slowonly", "row": "a", "test": test}
    results = {
        "scale": "smoke",
        "device": "cpu",
        "torch": "0",
        "trainings": [training | {"seed": s} for s in (0, 1)],
        "costs": {"slowonly": {"a": {"seconds_per_epoch": 2.0, "peak_bytes": 3e6}}},
    }
    write(results, ["a"], tmp_path)
    text = (tmp_path / "RESULTS.md").read_text()
    assert (
        "| a | original long view (one step) | 0.500 ± 0.000 | 0.750 ± 0.000 | 2.0 | 3.0 |" in text
    )
    assert (tmp_path / "RESULTS.png").read_bytes().startswith(b"\x89PNG")
