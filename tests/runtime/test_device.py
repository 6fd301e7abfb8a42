"""A model that was transformed on the CPU and moved: nothing of a step stays behind.

The device of these tests is "meta", which every machine has: its tensors have no values, so what
would wait for the device raises, and an operation that mixes devices is seen where it is called.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from opinfos import OPINFOS, OpInfo
from test_rules import build, video
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

import pgt_fx

DEVICE = "meta"
CONVERTED = [info for info in OPINFOS if info.verdict != "refused"]
POLICIES: list[dict[str, Any]] = [
    {},
    {"future": "wait", "pooling": "running"},
    {"operator": "cmco-max", "pooling": "markov", "attention": "memory"},
    {"operator": pgt_fx.MarkovOperator("avg", 0.25)},
]


class OnTheHost(TorchDispatchMode):
    """Notes every operation that reads or makes a tensor of the CPU."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        out = function(*args, **(kwargs or {}))
        tensors = [x for x in pytree.tree_leaves((args, kwargs, out)) if isinstance(x, Tensor)]
        if any(x.device.type == "cpu" for x in tensors):
            self.found.append(f"{function}: {[(x.device.type, tuple(x.shape)) for x in tensors]}")
        return out


def brought(*_: Any, **__: Any) -> Tensor:
    raise AssertionError("numbers are copied to the device, and the host waits for it")


def on_the_host(prog: pgt_fx.Progressive, x: Tensor, time: int = 2) -> list[str]:
    """What three steps on the device do on the host; a steady one among them, and the last.

    The clock, which never leaves the host, is not part of what is run here.
    """
    program, seen = prog.inspect.program, OnTheHost()
    n, clip = x.shape[time], torch.empty_like(x, device=DEVICE)
    first = program.plan((0,), (n,), False)
    program.run({}, [clip], first)  # brings the model's constants there, once
    state: dict[str, Tensor] = {}
    for number in range(3):
        work = program.plan((number * n,), (number * n + n,), number == 2)
        with torch.no_grad(), seen, mock.patch.object(torch, "tensor", brought):
            outs, state = program.run(state, [clip], work)
        made = [*state.values(), *(o for o in outs if isinstance(o, Tensor))]
        assert {t.device.type for t in made} <= {DEVICE}
    return seen.found


@pytest.mark.parametrize("info", CONVERTED, ids=str)
def test_an_operator_leaves_nothing_on_the_host(info: OpInfo) -> None:
    x = video(info)
    prog = pgt_fx.transform(build(info), x, time_dim=info.time, strict=False).to(DEVICE)
    for policy in POLICIES:
        assert on_the_host(prog.replace(**policy), x, info.time) == [], policy


class Behind(nn.Module):
    """A function of what a convolution makes of a video (N, 3, T, H, W): (N, 4, T, H, W)."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.function = nn.Conv3d(3, 4, 3, padding=1), function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.conv(x))


def causal(y: Tensor) -> Tensor:
    frames = y.mean((3, 4)).transpose(1, 2)
    n = frames.shape[1]
    later = torch.triu(torch.ones(n, n, dtype=torch.bool, device=y.device), 1)
    scores = frames @ frames.transpose(1, 2)
    return scores.masked_fill(later, float("-inf")).softmax(-1) @ frames


def along(dim: int, values: Tensor) -> Tensor:
    return values.view([-1 if d == dim else 1 for d in range(5)])


MAKING: dict[str, Callable[[Tensor], Tensor]] = {
    "a place in the frame": lambda y: y + torch.arange(y.shape[4], device=y.device),
    "brought to the video": lambda y: y + torch.arange(y.shape[4]).to(y),
    "brought to its device": lambda y: (y + torch.ones(4, 1, 1, 1).to(y.device)).to(y.device),
    "and type": lambda y: y + along(1, torch.linspace(0, 1, 4).to(y.device, y.dtype)),
    "of its type": lambda y: y + along(1, torch.arange(4).type_as(y)),
    "a number of a frame": lambda y: y + along(2, torch.arange(y.shape[2], device=y.device)),
    "a number of its type": lambda y: y + along(2, torch.arange(y.shape[2]).type_as(y)),
    "numbers": lambda y: y * along(1, torch.tensor([1.0, 2.0, 3.0, 4.0], device=y.device)),
    "one number": lambda y: torch.where(y > 0, y, torch.tensor(0.5, device=y.device)),
    "channels of zeros": lambda y: torch.cat([y, y.new_zeros(y.shape)], 1),
    "channels of ones": lambda y: torch.cat([y, y.new_ones(y.shape[0], 2, *y.shape[2:])], 1),
    "channels of twos": lambda y: torch.cat([y, y.new_full((len(y), 2, *y.shape[2:]), 2)], 1),
    "a buffer per video": lambda y: y + y.new_zeros(y.shape[0], 4, 1, 1, 1),
    "a basis": lambda y: torch.einsum(
        "dc,ncthw->ndthw", torch.eye(4, device=y.device, dtype=y.dtype), y
    ),
    "a mask": causal,
    "edges": lambda y: F.avg_pool3d(y, (3, 1, 1), 1, (1, 0, 0), count_include_pad=False),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["same type", "bf16"])
@pytest.mark.parametrize("name", MAKING)
def test_what_a_model_makes_is_made_where_its_clip_is(name: str, dtype: torch.dtype) -> None:
    x = torch.randn(2, 3, 6, 5, 5)
    prog = pgt_fx.transform(Behind(MAKING[name]), x).to(DEVICE, dtype)
    for future in ("zero", "wait"):
        moved = prog.replace(future=future)
        assert on_the_host(moved, x.to(dtype)) == []
        moved.reset()
        out = moved(x.to(DEVICE, dtype))
        plain = Behind(MAKING[name]).to(DEVICE, dtype)(x.to(DEVICE, dtype))
        assert (out.device, out.dtype) == (plain.device, plain.dtype)


@pytest.mark.parametrize("name", MAKING)
def test_what_a_model_makes_is_its_own(name: str) -> None:
    torch.manual_seed(0)
    model, x = Behind(MAKING[name]).double(), torch.randn(2, 3, 14, 5, 5).double()
    prog = pgt_fx.transform(model, x[:, :, :6], future="wait")
    with torch.no_grad():
        outs = [prog(piece, last=n == 3) for n, piece in enumerate(x.split(4, 2))]
        wanted = model(x)
    time = 1 if name == "a mask" else 2
    found = torch.cat([o for o in outs if o is not None], time)
    assert (found - wanted).abs().max() <= 1e-12


def test_a_model_without_weights_follows_its_clip() -> None:
    """No parameter tells where it is, and neither ``to`` moves what it makes."""

    class Weighted(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.avg_pool1d(x, 3, 1, 1) * torch.tensor([[1.0], [2.0], [3.0]], device=x.device)

    x = torch.randn(1, 3, 8)
    prog = pgt_fx.transform(Weighted(), x)
    assert prog(x).device.type == "cpu"
    prog.reset()
    assert prog(x.to(DEVICE)).device.type == DEVICE
    assert on_the_host(prog.replace(future="wait"), x) == []


def test_moving_the_users_own_model_is_enough() -> None:
    model = Behind(MAKING["numbers"])
    x = torch.randn(1, 3, 6, 5, 5)
    prog = pgt_fx.transform(model, x)
    model.to(DEVICE)
    assert on_the_host(prog, x) == []


@pytest.mark.parametrize("name", ["numbers", "a mask", "a number of a frame"])
def test_another_default_device_changes_nothing(name: str) -> None:
    """A program that sets it for tensors of its own must not lose the clock to it."""
    model, x = Behind(MAKING[name]), torch.randn(1, 3, 12, 5, 5)
    with torch.no_grad(), torch.device(DEVICE):
        prog = pgt_fx.transform(model, x[:, :, :6], future="wait")
        state = prog.init_state()
        assert prog.init_state(x).keys() == state.keys()
        outs = []
        for number, piece in enumerate(x.split(6, 2)):
            out, state = prog.step(state, piece, last=number == 1)
            outs.append(out)
        assert {v.device.type for v in state.values()} == {"cpu"}
        wanted = model(x)
        assert (torch.cat(outs, 1 if name == "a mask" else 2) - wanted).abs().max() <= 1e-5


def test_another_default_device_is_none_of_the_measurements() -> None:
    model = nn.Sequential(nn.Conv1d(3, 4, 3, padding=1), nn.BatchNorm1d(4), nn.Conv1d(4, 4, 3))
    x = torch.randn(2, 3, 24)
    with torch.device(DEVICE):
        prog = pgt_fx.transform(model.eval(), x[:, :, :8])
        found = pgt_fx.verify(prog, chunkings=2)
        assert found.ok, str(found)
        pgt_fx.erf.measure(prog, inputs=1)


def test_the_clips_device_is_that_of_its_video() -> None:
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv3d(2, 4, 3, padding=1)

        def forward(self, gate: Tensor, x: Tensor) -> Tensor:
            return self.conv(x) * gate + torch.arange(x.shape[-1], device=x.device)

    gate, x = torch.tensor(2.0), torch.randn(1, 2, 8, 6, 6)
    prog = pgt_fx.transform(Gated().eval(), (gate, x))
    prog.to(DEVICE)
    assert prog.full(gate, x.to(DEVICE)).device.type == DEVICE
