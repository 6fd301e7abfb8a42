"""Tables break no word, however narrow they are."""

from __future__ import annotations

import io
import re

import pytest
import torch
from rich.console import Console
from torch import nn
from typer.testing import CliRunner

import pgt_fx
from pgt_fx.cli import app
from pgt_fx.core.text_tables import Fitted

WORDS = ("torchvision", "pytorchvideo", "SlowFast's", "non-local", "convolution", "R(2+1)D")


def printed(what: object, width: int) -> str:
    stream = io.StringIO()
    Console(file=stream, width=width, color_system=None).print(what)
    return stream.getvalue()


def table() -> Fitted:
    made = Fitted(("name", "from", "clip", ""), right=(2,))
    for n, word in enumerate(WORDS):
        made.add_row(f"layer{n}.0.conv1", word, str(n), f"a {word} in [brackets] and words")
    return made


@pytest.mark.parametrize("width", [30, 40, 60, 80, 200])
def test_no_word_is_cut(width: int) -> None:
    text = printed(table(), width)
    assert all(len(line) <= width for line in text.splitlines())
    parts = re.split(r"[\s;]+", text)
    for n, word in enumerate(WORDS):
        assert parts.count(word) == 2 and f"layer{n}.0.conv1" in parts
    assert text.count("[brackets]") == len(WORDS)
    as_columns = text.splitlines()[0].split()[:2] == ["name", "from"]
    assert as_columns == (width >= 60)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a_module_of_a_long_name = nn.Sequential(nn.Conv1d(3, 4, 3, padding=1), nn.ReLU())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.a_module_of_a_long_name(x)
        return x + x.mean(2, keepdim=True)


@pytest.mark.parametrize("width", [60, 80])
def test_what_the_commands_print(width: int) -> None:
    model, clip = Net().eval(), torch.zeros(1, 3, 8)
    prog = pgt_fx.transform(model, clip, strict=False)
    found = pgt_fx.verify(prog, checks=["reset", "deterministic"])
    receptive = pgt_fx.erf.measure(prog, steps=2, inputs=1)
    diagnosis = pgt_fx.doctor.examine(model, clip)
    for what, words in (
        (prog.report, ("a_module_of_a_long_name.0", "operator", "exact")),
        (diagnosis, ("a_module_of_a_long_name.0", "test_fitted.py")),
        (found, ("time-sensitive", "deterministic", "promises")),
        (receptive, ("effective", "progressive", "95")),
    ):
        parts = re.split(r"[\s;/:]+", printed(what, width))
        assert all(word in parts for word in words), printed(what, width)


@pytest.mark.parametrize("width", ["60", "80"])
def test_the_list_of_the_zoo(width: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", width)
    text = CliRunner().invoke(app, ["zoo", "slow", "r3d_18"]).output
    entries = [pgt_fx.zoo.get(n) for n in pgt_fx.zoo.names() if n.startswith(("slow", "r3d_18"))]
    parts = re.split(r"[\s;]+", text)
    for entry in entries:
        for word in (entry.name, entry.source, *entry.description.split()):
            assert word in parts, text
