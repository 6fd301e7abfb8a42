"""Which calls of a model a capture sees: those that matter, in their modules; in doubt, all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

import pgt_fx
from pgt_fx.capture import torch_export as exported
from pgt_fx.capture.observe.active_modules import followed, on_inside
from pgt_fx.core.errors import CaptureError


class Pool(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool1d(x, 3, 1, 1)


class Net(nn.Module):
    """A pool that has to be spelled otherwise, in a module of its own, beside pointwise calls."""

    def __init__(self, pool: nn.Module | None = None) -> None:
        super().__init__()
        self.conv, self.pool = nn.Conv1d(4, 4, 3, padding=1), pool or Pool()

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.pool(torch.relu(self.conv(x))) * 2)


class Same(nn.Conv1d):
    """Padded unevenly."""

    def __init__(self) -> None:
        super().__init__(4, 4, 4, padding="same")


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(4, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.rnn(x.transpose(1, 2))[0].transpose(1, 2)


class Pads(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x, (2, 0))[:, :, :-2]


class OtherWithData(Pool):
    """Comes to a call that a run without compute does not make."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.more(x) if not x.is_meta else x)

    def more(self, x: Tensor) -> Tensor:
        return F.pad(x, (0, 0))


class FixedWithData(Pool):
    """A run without compute does not see its pool, which would fix the length."""

    def forward(self, x: Tensor) -> Tensor:
        if not x.is_meta:
            return super().forward(x)
        return torch.max_pool2d(x.unsqueeze(2), (1, 3), (1, 1), (0, 1)).squeeze(2)


class Swallows(nn.Module):
    """Catches an error of a child of its own."""

    class Fails(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise ValueError("no")

    def __init__(self) -> None:
        super().__init__()
        self.fails, self.pool = self.Fails(), Pool()

    def forward(self, x: Tensor) -> Tensor:
        try:
            return self.fails(x)
        except ValueError:
            return F.max_pool1d(self.pool(x), 3, 1, 1)


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> list[list[nn.Module] | None]:
    """The modules in which each export saw the model's calls; None: in all of it."""
    seen: list[list[nn.Module] | None] = []
    watching = exported.watching

    def noted(model: Any, times: Any, spelling: Any, modules: Any) -> Any:
        seen.append(modules)
        return watching(model, times, spelling, modules)

    monkeypatch.setattr(exported, "watching", noted)
    return seen


def assert_streams(model: nn.Module) -> None:
    video = torch.randn(2, 4, 24)
    prog = pgt_fx.transform(model, video[:, :, :8], time_dim=2, future="wait")
    outs = [out for out in prog.run(video, schedule=[8, 8, 8]) if out is not None]
    assert torch.allclose(torch.cat(outs, 2), model(video), atol=1e-6)


@pytest.mark.parametrize(
    ("pool", "expected"),
    [
        (nn.Identity, lambda net: [[]]),
        (Pool, lambda net: [[net.pool]]),
        (Same, lambda net: [[net.pool]]),
        (Recurrent, lambda net: [[net.pool.rnn]]),
        (Pads, lambda net: [[net.pool]]),
        (OtherWithData, lambda net: [[net.pool], None]),
        (FixedWithData, lambda net: [[], None]),
    ],
)
def test_calls_are_seen_where_one_matters(
    pool: type[nn.Module],
    expected: Callable[[Any], list[Any]],
    watched: list[list[nn.Module] | None],
) -> None:
    torch.manual_seed(0)
    net = Net(pool()).eval()
    assert_streams(net)
    wanted = expected(net)
    assert [m if m is None else set(m) for m in watched] == [
        m if m is None else set(m) for m in wanted
    ]
    assert not any("forward" in vars(module) for module in net.modules())


class RootPools(Pool):
    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(super().forward(x))


def test_a_call_of_the_model_itself_is_seen_at_once(watched: list[Any]) -> None:
    assert_streams(RootPools().eval())
    assert watched == [None]


class FixesTime(Net):
    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return torch.stack([y[:, :, i] for i in range(y.shape[2])], 2)


def test_the_line_that_fixes_the_length_is_told_from_a_second_export(watched: list[Any]) -> None:
    net = FixesTime().eval()
    with pytest.raises(CaptureError, match=r"stack\(\[y") as told:
        pgt_fx.transform(net, torch.randn(2, 4, 8))
    assert "held" in str(told.value) or "fixed" in str(told.value)
    assert watched[:2] == [[net.pool], None]


class PoolsTheClip(nn.Module):
    """Averages the clip by a window as long as it, and by another one when it is run on data."""

    def __init__(self, more: bool) -> None:
        super().__init__()
        self.linear, self.more = nn.Linear(3, 2), more

    def forward(self, x: Tensor) -> Tensor:
        y = F.avg_pool3d(x, (8, 1, 1), 1)
        if self.more and not x.is_meta:
            y = F.avg_pool3d(y, (1, 1, 1))
        y = y.mean((3, 4)).permute(0, 2, 1)
        return self.linear(y).view(x.shape[0], 2)


def test_pools_that_are_called_in_the_export_alone_are_refused() -> None:
    clip = torch.randn(1, 3, 8, 6, 6)
    report = str(pgt_fx.transform(PoolsTheClip(False).eval(), clip).report)
    assert "1 pool over the clip" in report
    with pytest.raises(CaptureError, match=r"makes 2 calls .* and 1 when it is run"):
        pgt_fx.transform(PoolsTheClip(True).eval(), clip)


class Count(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(getattr(func, "__name__", ""))
        return func(*args, **(kwargs or {}))


def test_a_module_inside_another_is_seen_once() -> None:
    net, count = Net(), Count()
    x = torch.randn(1, 4, 8)
    with on_inside(count, [net, net.pool]):
        net(x)
    assert count.names.count("boolean_dispatch") + count.names.count("max_pool1d") == 1
    seen = list(count.names)
    with on_inside(count, [net.pool]):
        net(x)
    assert "sigmoid" in seen and "sigmoid" not in count.names[len(seen) :]


def test_forward_is_put_back_after_an_error() -> None:
    class Own(Net):
        pass

    net, count = Own(), Count()
    mine = net.forward
    net.forward = mine  # type: ignore[method-assign]
    with pytest.raises(RuntimeError), on_inside(count, [net, net.pool]):
        net(torch.randn(1, 5, 8))
    assert vars(net)["forward"] is mine and "forward" not in vars(net.pool)
    before = len(count.names)
    net(torch.randn(1, 4, 8))
    assert len(count.names) == before


def test_the_innermost_module_is_known_after_an_error_that_the_model_catches() -> None:
    net = Swallows()
    inner: list[nn.Module] = []
    with followed() as running:
        net.pool.register_forward_pre_hook(lambda *a: inner.extend(running))
        net(torch.randn(1, 4, 8))
        assert running == []
    assert inner == [net, net.pool]
