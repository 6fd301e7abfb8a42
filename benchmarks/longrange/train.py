"""One training of one row, and its accuracy by each way of testing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from data import OrderOfEvents
from rows import Row, Setting
from torch import Tensor

import pgt_fx
from pgt_fx.training import backward

TEST_SEED = 10_000


def model_input(s: Setting, frames: Tensor) -> Any:
    """(N, 3, T, H, W) as the backbone takes it: the slow path has every alpha-th frame."""
    return frames if s.alpha == 1 else [frames[:, :, :: s.alpha], frames]


def build(s: Setting, row: Row, seed: int, device: str) -> pgt_fx.Progressive:
    torch.manual_seed(seed)
    model = s.model().to(device)
    return pgt_fx.transform(model, s.example(), clip_pools="global", **row.options).train()


def batches(s: Setting, data: OrderOfEvents, device: str) -> Iterator[tuple[int, Tensor, Tensor]]:
    """(iteration, videos, labels) of all epochs, shuffled by torch's generator."""
    iteration = 0
    for _ in range(s.epochs):
        for index in torch.randperm(len(data)).split(s.batch):
            yield iteration, data.videos[index].to(device).float(), data.labels[index].to(device)
            iteration += 1


def window(s: Setting, row: Row, x: Tensor) -> Tensor:
    """The frames that a row trains on: a random window where it needs fewer than there are."""
    wanted = s.length if row.kind == "clip" else Row.schedule(row, s, 0, 0).frames
    wanted *= s.alpha
    if row.kind == "whole" or row.dpr or wanted >= x.shape[2]:
        return x
    start = int(torch.randint(0, (x.shape[2] - wanted) // s.alpha + 1, ())) * s.alpha
    return x[:, :, start : start + wanted]


def iteration(
    s: Setting, row: Row, prog: pgt_fx.Progressive, x: Tensor, y: Tensor, number: int, seed: int
) -> float:
    """Forward and backward of one batch; the loss of its last answer."""
    video = model_input(s, window(s, row, x))
    if row.kind != "steps":  # one step over all that is given: the plain model
        loss = F.cross_entropy(prog.full(video), y)
        loss.backward()
        return float(loss.detach())
    found = backward(
        prog,
        video,
        F.cross_entropy,
        y,
        schedule=row.schedule(s, number, seed),
        gradient=row.gradient,
        on="last" if prog.options.pooling == "running" else "every",
    )
    return float([loss for loss in found.losses if loss is not None][-1])


def train(s: Setting, row: Row, seed: int, device: str) -> dict[str, Any]:
    """Train and test one row; accuracies by way of testing."""
    data = OrderOfEvents(s.events, s.train, seed)
    prog = build(s, row, seed, device)
    optimizer = torch.optim.AdamW(prog.parameters(), s.lr, weight_decay=1e-2)
    total = s.epochs * -(-s.train // s.batch)
    warm_up = max(1, total // 20)
    schedule = torch.optim.lr_scheduler.SequentialLR(
        optimizer,
        [
            torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, 1.0, warm_up),
            torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, total - warm_up)),
        ],
        [warm_up],
    )
    losses = []
    for number, x, y in batches(s, data, device):
        optimizer.zero_grad()
        losses.append(iteration(s, row, prog, x, y, number, seed))
        optimizer.step()
        schedule.step()
    return {"loss": sum(losses[-20:]) / len(losses[-20:]), "test": evaluate(s, row, prog, device)}


@torch.no_grad()
def evaluate(
    s: Setting, row: Row, prog: pgt_fx.Progressive, device: str
) -> dict[str, dict[str, float]]:
    """Share of test videos whose class is right, and whose order is right among the two classes
    of the same kinds (chance is a half), per way of testing."""
    test = OrderOfEvents(s.events, s.test, TEST_SEED)
    other = torch.tensor([s.events.reversed(c) for c in range(s.events.classes)])
    ways = ["original"] + (["views"] if row.kind == "clip" else [])
    ways += ["progressive"] if row.kind == "steps" else []
    right = {way: [0.0, 0.0] for way in ways}
    prog.eval()
    for index in torch.arange(len(test)).split(64):
        x, y = test.videos[index].to(device).float(), test.labels[index]
        for way in ways:
            scores = answer(s, prog, x, way).cpu()
            mine, its = (scores.gather(1, label[:, None]) for label in (y, other[y]))
            right[way][0] += float((scores.argmax(1) == y).sum())
            right[way][1] += float((mine > its).sum())
    return {w: {"top1": a / len(test), "order": b / len(test)} for w, (a, b) in right.items()}


def answer(s: Setting, prog: pgt_fx.Progressive, x: Tensor, way: str) -> Tensor:
    """Class scores: of the whole video in one step, of 10 clips, or of the steps."""
    if way == "original":
        return prog.full(model_input(s, x)).softmax(1)
    if way == "views":
        length = s.length * s.alpha
        starts = torch.linspace(0, x.shape[2] - length, 10).round().long().tolist()
        clips = [model_input(s, x[:, :, i : i + length]) for i in starts]
        return torch.stack([prog.full(c).softmax(1) for c in clips]).mean(0)
    outs = prog.run(model_input(s, x), schedule=s.schedule)
    answers = [o.softmax(1) for o in outs if o is not None]
    if prog.options.pooling == "running":
        return answers[-1]
    return torch.stack(answers).mean(0)
