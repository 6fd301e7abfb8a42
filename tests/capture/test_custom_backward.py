"""Gradients made by hand: kept where their module is called whole, refused elsewhere."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import pgt_fx
import pgt_fx.rules
from pgt_fx.core.errors import BlockedError, GradientError
from pgt_fx.training import backward

Body = Callable[[Any, Tensor], Tensor]


class Reverse(torch.autograd.Function):
    """As domain adaptation has it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return -grad


class Sign(torch.autograd.Function):
    """Straight through, as binary networks have it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.sign()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad


class Clamped(torch.autograd.Function):
    """The gradient of its forward, but for large ones."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return 2 * x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return 2 * grad.clamp(-50, 50)


class Swish(torch.autograd.Function):
    """Saves memory, and changes no gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * x.sigmoid()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        s = x.sigmoid()
        return grad * (s + x * s * (1 - s))


class Scaled(torch.autograd.Function):
    """Two operands, one by broadcasting; the later way to write a function."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor) -> Tensor:
        return x * weight.view(1, -1, 1)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        return grad * weight.view(1, -1, 1), (grad * x).sum((0, 2))


@torch.library.custom_op("pgt_fx_tests::reverse", mutates_args=())
def reversing(x: Tensor) -> Tensor:
    return x.clone()


reversing.register_fake(torch.empty_like)
reversing.register_autograd(lambda ctx, grad: -grad)


@pgt_fx.rules.rule("pgt_fx_tests::reverse")
def of_each_element(op: pgt_fx.rules.OpView) -> pgt_fx.rules.Outcome:
    return pgt_fx.rules.Local(op.layout(op.arg["x"]))


class Around(nn.Module):
    """A function in a module of its own."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function.apply(x)


class Net(nn.Module):
    """Two temporal convolutions, and ``body`` around them."""

    def __init__(self, body: Body, function: Any = Reverse) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = body
        self.first, self.second = nn.Conv1d(2, 4, 3, padding=1), nn.Conv1d(4, 3, 3, padding=1)
        self.plain, self.own = nn.Conv1d(2, 2, 1), Around(function)
        self.weight = nn.Parameter(torch.rand(4) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self, x)


def example() -> Tensor:
    return torch.zeros(1, 2, 8, dtype=torch.float64)


def hooked(net: Any, x: Tensor) -> Tensor:
    h = net.first(x)
    if h.requires_grad:
        h.register_hook(lambda grad: grad * 5)
    return net.second(h)


def reentrant(net: Any, x: Tensor) -> Tensor:
    return net.second(checkpoint(net.first, net.plain(x), use_reentrant=True))


def binary(net: Any, x: Tensor) -> Tensor:
    weight = Sign.apply(net.first.weight)
    return net.second(F.conv1d(x, weight, net.first.bias, padding=1))


LOST: list[tuple[str, Body, str]] = [
    ("reversed", lambda net, x: net.second(Reverse.apply(net.first(x))), "Reverse"),
    ("straight", lambda net, x: net.second(Sign.apply(net.first(x))), "Sign"),
    ("clamped", lambda net, x: net.second(Clamped.apply(net.first(x))), "Clamped"),
    ("weight", binary, "Sign"),
    ("hook", hooked, "register_hook"),
    ("reentrant", reentrant, "use_reentrant=False"),
]
KEPT: list[tuple[str, Body, Any]] = [
    ("own module", lambda net, x: net.second(net.own(net.first(x))), Reverse),
    ("own straight", lambda net, x: net.second(net.own(net.first(x))), Sign),
    ("swish", lambda net, x: net.second(Swish.apply(net.first(x))), Reverse),
    # It is in the graph as it is, with its gradient.
    ("operator", lambda net, x: net.second(reversing(net.first(x))), Reverse),
    ("two", lambda net, x: net.second(Scaled.apply(net.first(x), net.weight)), Reverse),
    (
        "checkpoint",
        lambda net, x: net.second(checkpoint(net.first, x, use_reentrant=False)),
        Reverse,
    ),
]


@pytest.mark.parametrize(("name", "body", "said"), LOST, ids=[name for name, *_ in LOST])
def test_in_train_mode_a_gradient_that_would_be_lost_is_refused(
    name: str, body: Body, said: str
) -> None:
    with pytest.raises(BlockedError) as caught:
        pgt_fx.transform(Net(body).double(), example())
    (blocker,) = caught.value.blockers
    assert said in str(blocker) and "test_custom_backward.py:" in blocker.place.source
    assert name == "reentrant" or "a module of its own that mixes no time" in blocker.remedy


@pytest.mark.filterwarnings("ignore:None of the inputs")
@pytest.mark.parametrize(("name", "body", "said"), LOST, ids=[name for name, *_ in LOST])
def test_in_eval_mode_it_streams_and_is_told(name: str, body: Body, said: str) -> None:
    model = Net(body).double().eval()
    with pytest.warns(UserWarning, match=r"gradients of this model would be wrong") as told:
        prog = pgt_fx.transform(model, example(), future="wait")
    assert any(said in str(one.message) for one in told)
    video = torch.randn(2, 2, 11, dtype=torch.float64)
    with torch.no_grad():
        for chunks in ([11], [1] * 11, [3, 1, 7]):
            got = torch.cat([y for y in prog.run(video, schedule=chunks) if y is not None], 2)
            assert (got - model(video)).abs().max() < 1e-12
    with torch.no_grad():
        assert not prog.full(video).requires_grad
    for ask in (lambda: prog.full(video).sum().backward(), lambda: backward(prog, video, loss)):
        with pytest.raises(GradientError, match=said):
            ask()
    assert all(p.grad is None for p in model.parameters())
    prog.train()
    with pytest.raises(BlockedError, match=said):
        backward(prog, video, loss)


def loss(y: Tensor, _: Any) -> Tensor:
    return y.square().sum()


@pytest.mark.parametrize(("name", "body", "function"), KEPT, ids=[name for name, *_ in KEPT])
def test_what_loses_nothing_is_taken_and_right(name: str, body: Body, function: Any) -> None:
    model = Net(body, function).double()
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        prog = pgt_fx.transform(model, example(), future="wait")
    video = torch.randn(2, 2, 9, dtype=torch.float64)
    model(video).square().sum().backward()
    wanted = {k: p.grad.clone() for k, p in model.named_parameters() if p.grad is not None}
    assert wanted["first.weight"].abs().max() > 0
    for chunks in ([9], [3, 1, 5], [1] * 9):
        model.zero_grad()
        backward(prog, video, lambda y, _: y.square().sum(), schedule=chunks, gradient="exact")
        for key, gradient in wanted.items():
            found = model.get_parameter(key).grad
            assert found is not None and (found - gradient).abs().max() < 1e-10, key


def test_a_module_whose_backward_is_its_own_is_refused_where_it_is_cut_open() -> None:
    """It mixes time, so its lines are written out."""

    class Mixing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv1d(2, 4, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            return Reverse.apply(self.conv(x))

    with pytest.raises(BlockedError, match="Reverse in 0"):
        pgt_fx.transform(nn.Sequential(Mixing(), nn.ReLU()).double(), example())


def test_verification_says_which_gradients_are_refused() -> None:
    model = Net(LOST[0][1]).double().eval()
    with pytest.warns(UserWarning, match="Reverse"):
        prog = pgt_fx.transform(model, example())
        found = pgt_fx.verify(
            prog, chunkings=1, checks=["gradients-equal-model", "exact-gradients"]
        )
    for name in ("gradients-equal-model", "exact-gradients"):
        assert found[name].ok is None and "refused" in found[name].detail
    sound = Net(KEPT[0][1]).double()
    found = pgt_fx.verify(sound, example(), chunkings=1, checks=["gradients-equal-model"])
    assert found["gradients-equal-model"].ok is True


def test_random_numbers_are_no_difference_of_gradients() -> None:
    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv1d(2, 4, 3, padding=1), nn.BatchNorm1d(4)
            self.drop = nn.Dropout(0.4)

        def forward(self, x: Tensor) -> Tensor:
            x = self.drop(self.norm(self.conv(x)))
            return F.dropout(x + torch.randn_like(x), 0.3, self.training)

    check = pgt_fx.verify(
        Noisy(), example().float(), chunkings=1, checks=["gradients-equal-model"]
    )["gradients-equal-model"]
    assert check.ok is not False


# ------------------------------------------------------- random numbers of Python's


class LayerDrop(nn.Module):
    """Leaves out a layer at random, in train mode."""

    def __init__(self, draw: Callable[[], float]) -> None:
        super().__init__()
        self.draw = draw
        self.first, self.layer = nn.Conv1d(2, 4, 3, padding=1), nn.Conv1d(4, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        if self.draw() > 0.5 or not self.training:
            x = x + self.layer(x)
        return x


class Skipped(nn.Module):
    """The same of a layer that mixes no time, in a module of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv1d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        scale = 2 * round(random.random()) if self.training else 1
        return x + scale * self.layer(x)


@pytest.mark.parametrize("draw", [random.random, lambda: float(np.random.rand())])
def test_a_layer_left_out_at_random_is_not_left_out_for_good(draw: Callable[[], float]) -> None:
    model = nn.Sequential(LayerDrop(draw), nn.Conv1d(4, 3, 1)).double()
    with pytest.raises(BlockedError, match="random number in train mode") as caught:
        pgt_fx.transform(model, example())
    (blocker,) = caught.value.blockers
    assert blocker.place.module == "0" and "random" in blocker.place.op
    # In eval mode it draws as well, and nothing comes of it.
    model.eval()
    prog = pgt_fx.transform(model, example(), future="wait")
    video = torch.randn(1, 2, 9, dtype=torch.float64)
    with torch.no_grad():
        for chunks in ([9], [1] * 9, [2, 4, 3]):
            got = torch.cat([y for y in prog.run(video, schedule=chunks) if y is not None], 2)
            assert (got - model(video)).abs().max() < 1e-12
    prog.train()
    with pytest.raises(BlockedError, match="random number in train mode"):
        prog.full(video)


def test_a_module_that_is_called_whole_draws_anew() -> None:
    model = nn.Sequential(nn.Conv1d(2, 4, 3, padding=1), Skipped()).double()
    prog = pgt_fx.transform(model, example())
    video = torch.randn(1, 2, 8, dtype=torch.float64)
    random.seed(1)
    wanted = [model(video) for _ in range(6)]
    random.seed(1)
    assert all(torch.allclose(prog.full(video), one) for one in wanted)
    assert not all(torch.allclose(wanted[0], one) for one in wanted)
