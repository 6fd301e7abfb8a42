"""Numbers with what they count: one is in the singular, everywhere."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
import torch
from torch import nn

import pgt_fx
from pgt_fx.core.counts import counted, plural

#: What is counted in messages. Behind a set of numbers ("5, 9, …") or a text it is no count.
NOUNS = "frame|step|operator|video|model|promise|epoch|update|element|output|answer|chunk|failure"
#: Values that are no number but a set of numbers, a list or a range, each in its words.
TEXTS = {
    "self", "numbers", "frames", "lengths", "self.lengths", "spec.lengths", "analysis.lengths",
    "_and(frames)", "some", "many", "size", "_some(unrefused)", "chunks", "_size(clip.step)",
    "' and '.join(map(str, new))", "trf", "lengths_", "most", "seen_frames", "due", "count",
}  # fmt: skip


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (counted(1, "frame"), "1 frame"),
        (counted(0, "frame"), "0 frames"),
        (counted(2, "class", "classes"), "2 classes"),
        (plural(1, "was", "were"), "was"),
    ],
)
def test_one_is_in_the_singular(found: str, words: str) -> None:
    assert found == words


def test_every_count_that_is_printed_goes_through_it() -> None:
    """An f-string in which a number stands before a noun in the plural."""
    root = Path(pgt_fx.__file__).parent
    found = []
    for path in sorted(root.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.JoinedStr):
                continue
            for value, text in zip(node.values, node.values[1:], strict=False):
                if not isinstance(value, ast.FormattedValue) or not isinstance(text, ast.Constant):
                    continue
                source = ast.unparse(value.value)
                if re.match(rf" ({NOUNS})s\b", str(text.value)) and source not in TEXTS:
                    found.append(f"{path.relative_to(root)}:{node.lineno}: {source}{text.value}")
    assert not found, "\n".join(found)


def test_a_model_of_single_frames_is_reported_so() -> None:
    report = pgt_fx.transform(nn.Conv1d(3, 4, 1).eval(), torch.zeros(1, 3, 8)).report
    text = str(report)
    assert "1 frame" in text and not re.search(r"\b1 (frames|operators|elements)\b", text)
