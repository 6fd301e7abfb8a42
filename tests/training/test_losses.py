"""What a loss and a video may be, and that exact gradients are right or refused."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import pgt_fx
from pgt_fx.core.errors import OptionError
from pgt_fx.training import PerFrame, backward

CHUNKS = [5, 1, 4, 6]
BOTH = pytest.mark.parametrize("gradient", ["truncated", "exact"])


def net(*middle: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    first, last = nn.Conv1d(2, 4, 3, padding=1), nn.Conv1d(4, 3, 3, padding=1)
    return nn.Sequential(first, *(middle or (nn.Tanh(),)), last).double()


def progressive(model: nn.Module | None = None, **options: Any) -> pgt_fx.Progressive:
    example = torch.zeros(1, 2, 8, dtype=torch.float64)
    return pgt_fx.transform(model or net(), example, **options)


def video(frames: int = sum(CHUNKS)) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(2, 2, frames, generator=generator, dtype=torch.float64)


def squares(out: Tensor, target: Any) -> Tensor:
    return out.square().sum()


def taken(model: nn.Module) -> dict[str, Tensor]:
    found = {k: p.grad.clone() for k, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.allclose(a[k], b[k], 1e-10, 1e-10) for k in b)


def together(prog: Any, x: Any, loss: Any = squares) -> dict[str, Tensor]:
    """All steps in one graph."""
    backward(prog, x, loss, schedule=CHUNKS, keep=99)
    return taken(prog)


# --------------------------------------------------------------- computed a second time


class Smooth:
    """A loss that remembers the step before."""

    def __init__(self) -> None:
        self.before: Tensor | None = None

    def __call__(self, out: Tensor, target: Any) -> Tensor:
        loss = out.square().sum()
        if self.before is not None:
            loss = loss + (out[:, :, 0] - self.before).square().sum()
        self.before = out[:, :, -1].detach()
        return loss


def test_a_loss_with_a_memory_is_refused_where_it_is_called_twice() -> None:
    prog = progressive()

    def fading(out: Tensor, target: Any, seen: list[int] = [0]) -> Tensor:  # noqa: B006
        seen[0] += 1
        return out.square().sum() * (1 - 0.002 * seen[0])

    single = pgt_fx.transform(net().float(), torch.zeros(1, 2, 8))
    with pytest.raises(OptionError, match="a function of its arguments alone"):
        backward(single, video().float(), fading, schedule=CHUNKS, gradient="exact")
    with pytest.raises(OptionError, match="a function of its arguments alone"):
        backward(prog, video(), Smooth(), schedule=CHUNKS, gradient="exact")
    prog.zero_grad()
    backward(prog, video(), Smooth(), schedule=CHUNKS)  # called once for each step: right
    assert taken(prog)


@pytest.mark.parametrize("draw", [random.random, np.random.rand, lambda: torch.rand(()).item()])
def test_random_numbers_of_a_loss_are_replayed(draw: Callable[[], float]) -> None:
    def loss(out: Tensor, target: Any) -> Tensor:
        return (out * draw()).square().sum()

    def seed() -> None:
        random.seed(4)
        np.random.seed(4)
        torch.manual_seed(4)

    prog = progressive()
    seed()
    wanted = together(prog, video(), loss)
    after = random.random(), np.random.rand(), float(torch.rand(()))
    seed()
    backward(prog, video(), loss, schedule=CHUNKS, gradient="exact")
    assert same(taken(prog), wanted)
    assert after == (random.random(), np.random.rand(), float(torch.rand(())))


def test_a_model_that_answers_otherwise_the_second_time_is_refused() -> None:
    class Own(nn.Module):
        """Its generator is nobody's to put back."""

        def __init__(self) -> None:
            super().__init__()
            self.generator = np.random.default_rng(0)

        def forward(self, x: Tensor) -> Tensor:
            return x * float(self.generator.random())

    prog = progressive(net(Own()))
    with pytest.raises(OptionError, match="answers something else when it is run again"):
        backward(prog, video(), squares, schedule=CHUNKS, gradient="exact")


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_dropout_is_replayed_in_compiled_steps(backend: str) -> None:
    """A plan that is new runs as it is, later ones compiled: each step again as it ran first."""
    prog = progressive(net(nn.Dropout(0.5)))
    prog.compile(backend=backend)
    x = video(24)
    for seed in range(2):
        seen: list[Tensor] = []

        def loss(out: Tensor, target: Any, seen: list[Tensor] = seen) -> Tensor:
            seen.append(out.detach().clone())
            return out.square().sum()

        torch.manual_seed(seed)
        backward(prog, x, loss, schedule=[4] * 6, gradient="exact")
        assert taken(prog)
        first, second = seen[:5], seen[6:][::-1]
        for a, b in zip(first, second, strict=True):
            assert torch.allclose(a, b, 1e-10, 1e-10)


# ------------------------------------------------------------------ without a gradient


@BOTH
def test_without_gradients_it_is_refused(gradient: str) -> None:
    prog = progressive()
    for off in (torch.no_grad, torch.inference_mode):
        with off(), pytest.raises(OptionError, match=r"under torch\.no_grad"):
            backward(prog, video(), squares, schedule=CHUNKS, gradient=gradient)
    prog.requires_grad_(False)
    with pytest.raises(OptionError, match="are all parameters frozen"):
        backward(prog, video(), squares, schedule=CHUNKS, gradient=gradient)
    # A head on a frozen model, and a video that is to have a gradient, are worth a backward.
    head = nn.Parameter(torch.ones(3, 1, dtype=torch.float64))
    backward(prog, video(), lambda y, _: (y * head).sum(), schedule=CHUNKS, gradient=gradient)
    assert head.grad is not None and head.grad.abs().max() > 0
    x = video().requires_grad_()
    backward(prog, x, squares, schedule=CHUNKS, gradient=gradient)
    assert x.grad is not None and x.grad.abs().max() > 0


@BOTH
def test_a_step_whose_loss_needs_no_gradient_is_left_out(gradient: str) -> None:
    def some(out: Tensor, target: Any) -> Tensor:
        return out.new_zeros(()) if out.shape[2] == 4 else out.square().sum()

    prog = progressive()
    found = backward(prog, video(), some, schedule=CHUNKS, gradient=gradient)
    assert found.losses[2] is not None and float(found.losses[2]) == 0
    own = taken(prog)
    other = backward(
        prog,
        video(),
        lambda y, _: y.square().sum() * (y.shape[2] != 4),
        schedule=CHUNKS,
        gradient=gradient,
    )
    assert same(own, taken(prog)) and torch.equal(found.loss, other.loss)
    with pytest.raises(OptionError, match="computed from detached tensors"):
        backward(prog, video(), lambda y, _: y.detach().sum(), schedule=CHUNKS, gradient=gradient)


@BOTH
@pytest.mark.parametrize(
    ("loss", "got"),
    [
        (lambda y, _: 1.0, "got float"),
        (lambda y, _: float(y.detach().sum()), "got float"),
        (lambda y, _: (y.sum(), y), "got tuple"),
        (lambda y, _: {"loss": y.sum()}, "got dict"),
        (lambda y, _: [y.sum()], "got list"),
        (lambda y, _: y.sum((1, 2)), r"got a tensor of shape \(2,\), float64"),
        (lambda y, _: y.sum() * 1j, r"got a tensor of shape \(\), complex128"),
    ],
)
def test_a_loss_that_is_no_scalar_tensor(loss: Any, got: str, gradient: str) -> None:
    prog = progressive()
    with pytest.raises(OptionError, match=f"expected a scalar tensor, {got}"):
        backward(prog, video(), loss, schedule=CHUNKS, gradient=gradient)
    assert not taken(prog)


@BOTH
def test_a_loss_of_one_element_is_a_scalar(gradient: str) -> None:
    prog = progressive()
    found = backward(
        prog, video(), lambda y, _: y.square().sum()[None], schedule=CHUNKS, gradient=gradient
    )
    assert found.loss.shape == ()
    own = taken(prog)
    backward(prog, video(), squares, schedule=CHUNKS, gradient=gradient)
    assert same(own, taken(prog))


# ---------------------------------------------------------------------- the video


@BOTH
def test_a_video_with_a_graph_behind_it(gradient: str) -> None:
    """A stem outside the model is trained with it."""
    prog, stem = progressive(), nn.Conv1d(2, 2, 1).double()
    raw = video()
    backward(prog, stem(raw), squares, schedule=CHUNKS, gradient=gradient)
    found, own = taken(stem), taken(prog)
    x = stem(raw).detach().requires_grad_()
    backward(prog, x, squares, schedule=CHUNKS, gradient=gradient)
    assert x.grad is not None
    torch.autograd.backward(stem(raw), x.grad)
    assert same(found, taken(stem)) and same(own, taken(prog))
    # Step by step by hand, all in one graph or each cut from the last.
    state, total, x = prog.init_state(), torch.zeros(()).double(), stem(raw)
    for number, (args, _) in enumerate(pieces := prog.chunks(x, schedule=CHUNKS)):
        last = number == len(pieces) - 1
        out, state = prog.step(state, *args, last=last, detach=gradient == "truncated")
        total = total + squares(out, None)
    total.backward()
    assert same(found, taken(stem)) and same(own, taken(prog))


@BOTH
@pytest.mark.parametrize("size", [sum(CHUNKS) - 1, sum(CHUNKS) + 3])
def test_labels_that_are_not_as_many_as_the_outputs_are_refused_first(
    size: int, gradient: str
) -> None:
    prog = progressive(nn.Sequential(nn.Conv1d(2, 2, 5, stride=2, padding=2), *net()).double())
    outputs = prog.full(video()).shape[2]
    labels = torch.zeros(2, 3, outputs + size - sum(CHUNKS), dtype=torch.float64)

    def loss(out: Tensor, target: Tensor) -> Tensor:
        assert out.shape == target.shape
        return (out - target).square().sum()

    with pytest.raises(OptionError, match=f"answers {outputs} elements for this video"):
        backward(prog, video(), loss, PerFrame(labels, 2), schedule=CHUNKS, gradient=gradient)
    assert not taken(prog)
    right = PerFrame(torch.zeros(2, 3, outputs, dtype=torch.float64), 2)
    for options in ({}, {"future": "wait"}):
        other = prog.replace(**options)
        backward(other, video(), loss, right, schedule=CHUNKS, gradient=gradient)
        assert taken(prog)


def penalty(out: Tensor, target: Any) -> Tensor:
    (slope,) = torch.autograd.grad(out.pow(3).sum(), out, create_graph=True)
    return slope.square().sum()


def in_place(out: Tensor, target: Any) -> Tensor:
    return out.mul_(2).square().sum()


@BOTH
@pytest.mark.parametrize(
    ("loss", "plain"),
    [(penalty, lambda y, _: 9 * y.pow(4).sum()), (in_place, lambda y, _: 4 * y.square().sum())],
)
def test_a_loss_may_take_a_gradient_itself_or_write_into_the_answer(
    loss: Any, plain: Any, gradient: str
) -> None:
    prog = progressive()
    backward(prog, video(), loss, schedule=CHUNKS, gradient=gradient)
    found = taken(prog)
    backward(prog, video(), plain, schedule=CHUNKS, gradient=gradient)
    assert same(found, taken(prog))
