"""What is given to a public function and is of no kind that it takes: an error of this package that
names the argument, and never the bare one of what lies below."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import pgt_fx
from pgt_fx import doctor, erf, inference, training, video
from pgt_fx.core.errors import OptionError, PgtError
from pgt_fx.runtime.progressive import Progressive
from pgt_fx.training.config import read_config
from pgt_fx.training.folder import VideoFolder

NONE, NUMBER, TEXT, LIST = None, 3, "x", [None]
OTHERS: tuple[Any, ...] = (NONE, NUMBER, TEXT, LIST, object())


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv1d(3, 4, 3, padding=1), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.conv(x).mean(2))


@cache
def prog() -> Progressive:
    torch.manual_seed(0)
    return pgt_fx.transform(Net().eval(), torch.zeros(1, 3, 8), strict=False)


X, Y = torch.randn(2, 3, 16), torch.tensor([0, 1])
SGD = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)


def fit(**changes: Any) -> Any:
    model = prog()
    own = torch.optim.SGD(model.parameters(), lr=0.1)
    given = {"prog": model, "loader": [(X, Y)], "optimizer": own, "epochs": 1} | changes
    options = {"progress": False, "dry_run": False}
    return training.fit(given.pop("prog"), given.pop("loader"), given.pop("optimizer"),
                        **options, **given)  # fmt: skip


def backward(**changes: Any) -> Any:
    given = {"prog": prog(), "video": X, "loss_fn": F.cross_entropy, "target": Y} | changes
    return training.backward(given.pop("prog"), given.pop("video"), given.pop("loss_fn"), **given)


def shows(*but: Any) -> tuple[Any, ...]:
    return tuple(x for x in OTHERS if not any(x is y for y in but))


CALLS: list[tuple[str, Callable[[Any], Any], tuple[Any, ...]]] = [
    ("path", lambda b: video.read(b), shows(TEXT)),
    ("path", lambda b: video.count(b), shows(TEXT)),
    ("path", lambda b: video.check(b), shows(TEXT)),
    ("path", lambda b: video.VideoFile(b), shows(TEXT)),
    ("at", lambda b: video.read("none.mp4", at=b), OTHERS),
    ("size", lambda b: video.read("none.mp4", size=b), shows(NONE, NUMBER)),
    ("progress", lambda b: video.read("none.mp4", progress=b), shows(NONE)),
    ("fps", lambda b: video.rate(b), shows(NONE, NUMBER)),
    ("clip", lambda b: video.lengthened(b, 3, 1), OTHERS),
    ("frames", lambda b: video.lengthened(X, b, 1), shows(NUMBER)),
    ("dim", lambda b: video.lengthened(X, 99, b), OTHERS),
    ("", lambda b: inference.predict(b, X), OTHERS),
    ("", lambda b: inference.predict(prog(), b), OTHERS),
    ("", lambda b: backward(prog=b), OTHERS),
    ("", lambda b: backward(video=b), OTHERS),
    ("loss_fn", lambda b: backward(loss_fn=b), OTHERS),
    ("target", lambda b: backward(target=b), OTHERS),
    ("", lambda b: fit(prog=b), OTHERS),
    ("loader", lambda b: fit(loader=b), OTHERS),
    ("validation", lambda b: fit(validation=b), shows(NONE)),
    ("optimizer", lambda b: fit(optimizer=b), OTHERS),
    ("metrics", lambda b: fit(metrics=b), shows(NONE)),
    ("checkpoint", lambda b: fit(checkpoint=b), shows(NONE, TEXT)),
    ("init", lambda b: fit(init=b), shows(NONE, TEXT)),
    ("epochs", lambda b: fit(epochs=b), shows(NUMBER)),
    ("model", lambda b: training.sgd(b, 0.1), OTHERS),
    ("lr", lambda b: training.sgd(prog(), b), shows(NUMBER)),
    ("optimizer", lambda b: training.half_cosine(b, 10), OTHERS),
    ("updates", lambda b: training.half_cosine(SGD, b), shows(NUMBER)),
    ("classes", lambda b: training.metrics(b), shows(NUMBER)),
    ("prog", lambda b: erf.measure(b, steps=2, inputs=1), OTHERS),
    ("steps", lambda b: erf.measure(prog(), steps=b, inputs=1), shows(NUMBER)),
    ("", lambda b: doctor.examine(b), OTHERS),
    ("", lambda b: doctor.examine(Net(), b), shows(NONE)),
    ("time_dim", lambda b: doctor.examine(Net(), X, time_dim=b), shows(NONE, NUMBER)),
    ("root", lambda b: VideoFolder(b, frames=1, stride=1, size=8, train=True), shows(TEXT)),
    ("", lambda b: read_config(b), OTHERS),
]


@pytest.mark.parametrize(
    ("name", "call", "others"), CALLS, ids=[f"{n}-{name}" for n, (name, *_) in enumerate(CALLS)]
)
def test_it_is_an_error_of_this_package(
    name: str, call: Callable[[Any], Any], others: tuple[Any, ...]
) -> None:
    for one in others:
        with pytest.raises(PgtError) as caught:
            call(one)
        assert name in str(caught.value), (one, str(caught.value))


# ------------------------------------------------------------------------------------- labels


@pytest.mark.parametrize(
    ("target", "words"),
    [
        (torch.tensor([0]), r"\(2, 2\) float32, the labels are \(1,\) int64 from 0 to 0"),
        (torch.tensor([0, 5]), r"\(2,\) int64 from 0 to 5"),
        (torch.tensor([0.0, 1.0]), r"\(2,\) float32"),
        (torch.tensor([[0, 1, 1]]), r"\(1, 3\) int64"),
    ],
)
def test_labels_that_do_not_go_with_the_answer(target: torch.Tensor, words: str) -> None:
    for call in (lambda: backward(target=target), lambda: fit(loader=[(X, target)])):
        with pytest.raises(OptionError, match=f"takes no such labels for step 1.*{words}") as found:
            call()
        assert "expects one whole number from 0 to classes - 1" in str(found.value)
        assert found.value.__cause__ is not None


def test_what_a_loss_of_the_user_s_raises_passes_as_it_is() -> None:
    def loss(output: Any, target: Any) -> Any:
        raise ValueError("mine")

    with pytest.raises(ValueError, match=r"^mine$"):
        backward(loss_fn=loss)


def test_a_batch_that_is_no_pair() -> None:
    with pytest.raises(OptionError, match=r"loader: expected batches .*, got 3 elements"):
        fit(loader=[(X, Y, Y)])
