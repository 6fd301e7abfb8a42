"""Operators along other axes than time, and calls that are short for others: as the model does,
however the video is cut, and with a flush at its end.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from oracles import random_chunks, relative_error
from torch import Tensor, nn

import pgt_fx
from pgt_fx.core.errors import BlockedError, ClipError
from pgt_fx.training import backward

EXACT = 1e-9
FRAMES = 16


class Net(nn.Module):
    """A convolution along time, and what a case does with its answer."""

    def __init__(self, call: Callable[[Net, Tensor], Tensor]) -> None:
        super().__init__()
        self.conv = nn.Conv3d(4, 4, (3, 1, 1), padding=(1, 0, 0))
        self.one, self.call = nn.Conv3d(4, 4, 1), call
        self.register_buffer("order", torch.tensor([2, 0, 3, 1]))
        self.register_buffer("two", torch.tensor([0, 2]))
        self.weight, self.table = nn.Parameter(torch.randn(4, 5)), nn.Parameter(torch.randn(7, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.call(self, x)


def behind(call: Callable[[Net, Tensor], Tensor]) -> Callable[[Net, Tensor], Tensor]:
    return lambda m, x: call(m, m.conv(x))


def _rotated(m: Net, x: Tensor) -> Tensor:
    y = m.conv(x)
    speeds = 1 / 100 ** (torch.arange(2, dtype=x.dtype) / 2)
    angles = torch.outer(torch.arange(y.shape[2], dtype=x.dtype), speeds)
    return y * torch.cat([angles.cos(), angles.sin()], 1).mT[None, :, :, None, None]


def _first_apart(m: Net, y: Tensor) -> Tensor:
    first, rest = y.split([1, y.shape[2] - 1], 2)
    return torch.cat([m.one(first), rest], 2)


def _frame_wise(again: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Net, Tensor], Tensor]:
    def call(m: Net, x: Tensor) -> Tensor:
        y = m.conv(x).transpose(1, 2)
        return again(y.flatten(0, 1), x).transpose(1, 2)

    return call


CASES: dict[str, Callable[[Net, Tensor], Tensor]] = {
    "gather by a constant": behind(
        lambda m, y: y.gather(1, m.order.view(1, 4, 1, 1, 1).expand_as(y))),
    "gather by values": behind(lambda m, y: y.gather(1, y.argsort(1))),
    "gather some columns": behind(lambda m, y: y.gather(4, y.argsort(4)[..., :2])),
    "scatter a number": behind(
        lambda m, y: torch.zeros_like(y).scatter(1, y.argmax(1, keepdim=True), 1.0)),
    "scatter": behind(lambda m, y: torch.zeros_like(y).scatter(1, y.argsort(1), y)),
    "scatter_add": behind(lambda m, y: torch.zeros_like(y).scatter_add(1, y.argsort(1), y)),
    "channels by index": behind(lambda m, y: y[:, m.order]),
    "channels by list": behind(lambda m, y: y[:, [0, 2]]),
    "pixels by index": behind(lambda m, y: y[..., m.two, m.two]),
    "axes apart by index": behind(lambda m, y: y[:, m.two, :, m.two].movedim(0, 1)),
    "index_select": behind(lambda m, y: y.index_select(1, m.two)),
    "index_add": behind(lambda m, y: y.index_add(1, m.two, y[:, :2])),
    "view_as": lambda m, x: m.conv(x).flatten(3).view_as(m.one(x).flatten(3)),
    "reshape_as": lambda m, x: m.conv(x).flatten(3).reshape_as(m.one(x)),
    "expand_as": lambda m, x: m.conv(x).mean((3, 4), keepdim=True).expand_as(x) * x,
    "tensordot": behind(lambda m, y: torch.tensordot(y, m.weight, dims=([1], [0])).movedim(4, 1)),
    "cdist": behind(
        lambda m, y: torch.cdist(y.flatten(3).permute(0, 2, 3, 1), m.table[None, None]).mT),
    "cosine_similarity": lambda m, x: F.cosine_similarity(m.conv(x), x, dim=1),
    "rotary table by outer": _rotated,
    "logsumexp": behind(lambda m, y: y.logsumexp((3, 4))),
    "vector norm": behind(lambda m, y: torch.linalg.vector_norm(y, dim=(1, 3), keepdim=True)),
    "diff": behind(lambda m, y: torch.diff(y, dim=2)),
    "diff twice": behind(lambda m, y: torch.diff(y, n=2, dim=2)),
    "diff of a padded one": behind(lambda m, y: torch.diff(y, dim=2, prepend=y[:, :, :1])),
    "narrow": behind(lambda m, y: y.narrow(2, 1, y.shape[2] - 2)),
    "split": behind(_first_apart),
    "tensor_split": behind(lambda m, y: torch.tensor_split(y, [2], dim=2)[1]),
    "cummax": behind(lambda m, y: y.cummax(2)[0]),
    "cummin": behind(lambda m, y: y.relu().cummin(2).values),
    "len": behind(lambda m, y: y.reshape(len(y), -1, *y.shape[2:])),
    "frames inferred": _frame_wise(lambda y, x: y.view(x.shape[0], -1, *y.shape[1:])),
    "groups in the batch": _frame_wise(
        lambda y, x: (
            y.view(y.shape[0] // 8, 8, *y.shape[1:]).mean(1).view(len(x), -1, *y.shape[1:]))),
    "groups in the batch, inferred": _frame_wise(
        lambda y, x: y.view(-1, 8, *y.shape[1:]).amax(1).view(len(x), -1, *y.shape[1:])),
    "rows inferred": _frame_wise(lambda y, x: y.view(-1, x.shape[2], *y.shape[1:])),
}  # fmt: skip


def made(call: Callable[[Net, Tensor], Tensor]) -> Net:
    torch.manual_seed(0)
    return Net(call).double().eval()


@pytest.mark.parametrize("name", CASES)
def test_it_is_the_models_answer_however_it_is_cut(name: str) -> None:
    model, rng = made(CASES[name]), random.Random(0)
    prog = pgt_fx.transform(model, torch.randn(1, 4, 8, 3, 3).double(), future="wait")
    (dim,) = prog.time_dims
    assert dim is not None
    for rows in (1, 2):
        video = torch.randn(rows, 4, FRAMES, 3, 3).double()
        with torch.no_grad():
            whole = model(video)
            assert relative_error(prog.full(video), whole) <= EXACT
            for chunks in ([1] * FRAMES, *(random_chunks(FRAMES, 5, rng) for _ in range(3))):
                prog.reset()
                outs = [*map(prog, video.split(chunks, 2)), prog.flush()]
                found = torch.cat([out for out in outs if out is not None], dim)
                assert relative_error(found, whole) <= EXACT, chunks


def test_of_two_alike_the_later_one_has_the_gradient_of_a_maximum() -> None:
    model = made(
        behind(lambda m, y: y.relu().round().cummax(2)[0] * m.weight[0, 0] + y.cummax(2)[0])
    )
    prog = pgt_fx.transform(model, torch.randn(1, 4, 8, 3, 3).double(), future="wait")
    video = torch.randn(1, 4, FRAMES, 3, 3).double()
    model(video).square().sum().backward()
    wanted = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    for chunks in ([1] * FRAMES, [5, 1, 7, 3]):
        model.zero_grad()
        backward(prog, video, lambda y, _: y.square().sum(), schedule=chunks, gradient="exact")
        for p, gradient in zip(model.parameters(), wanted, strict=True):
            if gradient is not None:
                assert p.grad is not None and (p.grad - gradient).abs().max() < 1e-9


TOO_SHORT: dict[str, tuple[Callable[[Net, Tensor], Tensor], int]] = {
    "narrow": (behind(lambda m, y: y.narrow(2, 1, y.shape[2] - 3)), 3),
    "split": (behind(lambda m, y: y.split([2, y.shape[2] - 2], 2)[1]), 2),
}


@pytest.mark.parametrize("name", TOO_SHORT)
def test_a_video_of_too_few_frames_is_refused_with_the_line(name: str) -> None:
    call, least = TOO_SHORT[name]
    prog = pgt_fx.transform(made(call), torch.randn(1, 4, 8, 3, 3).double(), future="wait")
    assert prog.video_lengths.least == least
    with pytest.raises(ClipError, match=rf"test_spellings\.py(.|\n)*{name}"):
        prog.full(torch.randn(1, 4, least - 1, 3, 3).double())


REFUSED: dict[str, Callable[[Net, Tensor], Tensor]] = {
    "frames by index": behind(lambda m, y: y[:, :, m.two]),
    "frames by gather": behind(lambda m, y: y.gather(2, y.argsort(2))),
    "places of a maximum": behind(lambda m, y: y.cummax(2)[1].to(y.dtype)),
    "distances between frames": behind(
        lambda m, y: torch.cdist(y.mean((3, 4)).mT, y.mean((3, 4)).mT)),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_picks_frames_by_number_is_refused(name: str) -> None:
    with pytest.raises(BlockedError, match=r"test_spellings\.py"):
        pgt_fx.transform(made(REFUSED[name]), torch.randn(1, 4, 8, 3, 3).double(), future="wait")
