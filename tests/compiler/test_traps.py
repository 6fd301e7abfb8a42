"""Never silently wrong: what models do with time, and with its length, in Python and in place.

Each of these is either refused, or equal to the model under every chunking.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from opmodules import Op
from oracles import pieces, relative_error, stitch
from torch import Tensor, nn

import pgt_fx
from pgt_fx.core.errors import PgtError

EXACT = 1e-9
FRAMES = 17
CHUNKINGS = [[1] * FRAMES, [FRAMES], [5, 1, 4, 7], [16, 1]]


def conv(kernel: int = 3, **options: Any) -> nn.Conv1d:
    return nn.Conv1d(3, 3, kernel, padding=kernel // 2, **options)


def frozen() -> nn.Conv1d:
    """Where there is a graph, autograd itself forbids to write into one of several views."""
    return conv().requires_grad_(False)


@dataclass(frozen=True)
class Trap:
    """A function of (N, 3, T) and of the modules that it calls."""

    name: str
    call: Callable[..., Tensor]
    modules: tuple[nn.Module, ...] = ()

    def __str__(self) -> str:
        return self.name


# --------------------------------------------------------------------------- in place


def after_a_window(x: Tensor, a: nn.Module, b: nn.Module) -> Tensor:
    early = a(x)
    late = b(early)
    early.add_(1)
    return late + early


def before_a_window(x: Tensor, a: nn.Module, b: nn.Module) -> Tensor:
    early = a(x)
    F.relu_(early)
    return b(early) + early


def channel_slice(x: Tensor, a: nn.Module) -> Tensor:
    y = a(x)
    y[:, :1] = 0
    return y * x


def first_frame(x: Tensor, a: nn.Module) -> Tensor:
    y = a(x)
    y[:, :, 0] = 0
    return y


def first_frame_copied(x: Tensor, a: nn.Module) -> Tensor:
    y = a(x)
    y[:, :, 0] = x[:, :, 0]
    return y


def shifted(x: Tensor, a: nn.Module) -> Tensor:
    y = a(x)
    z = torch.zeros_like(y)
    z[:, :, 1:] = y[:, :, :-1]
    return z + y


def view_taken_before(x: Tensor, a: nn.Module) -> Tensor:
    y = a(x)
    v = y[:, :1]
    F.relu_(y)
    return y + v


def part_taken_before(x: Tensor, a: nn.Module) -> Tensor:
    y = a(x)
    first = y.chunk(3, 1)[0]
    y.relu_()
    return y + first


def whole_behind_a_part(x: Tensor, a: nn.Module) -> Tensor:
    y = a(x)
    y.chunk(3, 1)[0].relu_()
    return y


def parts_beside_each_other(x: Tensor, a: nn.Module) -> Tensor:
    first, second, third = a(x).chunk(3, 1)
    return torch.cat([second.relu_(), first, third], 1)


def slices_beside_each_other(x: Tensor, a: nn.Module) -> Tensor:
    y = a(x)
    first, rest = y[:, :1], y[:, -2:]
    return torch.cat([rest.relu_(), first], 1)


def several_results(x: Tensor, a: nn.Module) -> Tensor:
    y = a(x)
    variance, mean = torch.var_mean(y, 1, keepdim=True)
    variance.add_(1e-5).sqrt_()
    most, at = y.max(1, keepdim=True)
    most.relu_()
    return (y - mean) / variance + most + at


def axes_swapped_before(x: Tensor, a: nn.Module) -> Tensor:
    y = a(x)
    v = y.swapaxes(0, 1)
    y.relu_()
    return y + v.swapaxes(0, 1)


def copied_before(x: Tensor, a: nn.Module) -> Tensor:
    y = a(x)
    v = y.clone()
    y.relu_()
    return y + v


def slices_that_overlap(x: Tensor, a: nn.Module) -> Tensor:
    y = a(x)
    first, rest = y[:, :2], y[:, -2:]
    return torch.cat([rest.relu_(), first], 1)


# ------------------------------------------------------------------------------ traps

EXACTLY = [
    Trap("in place after a window", after_a_window, (conv(), conv())),
    Trap("in place before a window", before_a_window, (conv(), conv(5))),
    Trap("in place beside a chunk", parts_beside_each_other, (frozen(),)),
    Trap("in place beside a slice", slices_beside_each_other, (conv(),)),
    Trap("in place beside another result", several_results, (conv(),)),
    Trap("in place behind a copy", copied_before, (conv(),)),
    Trap("in place behind a view", view_taken_before, (conv(),)),
    Trap("in place behind swapped axes", axes_swapped_before, (conv(),)),
    Trap("a chunk of it in place", whole_behind_a_part, (frozen(),)),
    Trap("overlapping slices in place", slices_that_overlap, (conv(),)),
    Trap("difference", lambda x: x[:, :, 1:] - x[:, :, :-1]),
    Trap("three slices", lambda x: x[:, :, 2:] + x[:, :, 1:-1] - x[:, :, :-2]),
    Trap("first frame repeated", lambda x: torch.cat([x[:, :, :1], x], 2)),
    Trap("last frame repeated", lambda x: torch.cat([x, x[:, :, -1:], x[:, :, -1:]], 2)),
    Trap("zeros in front",
         lambda x, a: a(torch.cat([x.new_zeros(x.shape[0], 3, 2), x], 2)),
         (conv(),)),
    Trap("crop and pad", lambda x, a: F.pad(a(x)[:, :, 1:], (1, 0)) + x, (conv(),)),
    Trap("up and crop", lambda x, a: F.interpolate(a(x), scale_factor=2)[:, :, 1:-1], (conv(),)),
    Trap(
        "down, up, crop, join",
        lambda x, a, b: F.interpolate(a(x), scale_factor=2)[:, :, :-1] + b(x),
        (conv(stride=2), conv(5)),
    ),
    Trap("view by its own length", lambda x: x.view(x.shape[0], 3, x.shape[2], 1).mean(3)),
    Trap("sliced to its own length", lambda x, a: a(x)[:, :, : x.shape[2]] + x, (conv(),)),
]  # fmt: skip

REFUSED = [
    Trap("in place behind a chunk", part_taken_before, (conv(),)),
    Trap("times the length", lambda x: x * x.shape[2]),
    Trap("over the root of the length", lambda x: x / x.shape[2] ** 0.5),
    Trap("times the number of elements", lambda x: x * x.numel()),
    Trap("relative positions", lambda x: x * torch.linspace(0, 1, x.shape[2])),
    Trap("a mask", lambda x: x * torch.ones(x.shape[0], 1, x.shape[2]).cumsum(2)),
    Trap("a causal mask", lambda x: x @ torch.tril(torch.ones(x.shape[2], x.shape[2])).double()),
    Trap("the first half", lambda x: x[:, :, : x.shape[2] // 2]),
    Trap("the middle", lambda x: x[:, :, x.shape[2] // 2]),
    Trap("the last frames", lambda x: x[:, :, x.shape[2] - 3 :]),
    Trap("minus the first frame", lambda x: x - x[:, :, :1]),
    Trap("over its deviation", lambda x: x / x.std(2, keepdim=True)),
    Trap("beside its mean", lambda x: torch.cat([x, x.mean(2, keepdim=True).expand_as(x)], 1)),
    Trap("frames by number", lambda x: x[:, :, [0, 2]]),
    Trap("twice the video", lambda x: torch.cat([x, x], 2)),
    Trap("frame by frame in Python", lambda x: torch.stack(x.unbind(2), 2)),
    Trap("a weight from the video", lambda x: F.conv1d(x, x[:1, :, :3])),
    Trap("rows beside columns", lambda x: x.transpose(1, 2).reshape(x.shape[0], 3, x.shape[2])),
    Trap("a median", lambda x: x.quantile(0.5, 2)),
]  # fmt: skip

EITHER = [
    Trap("channels in place", channel_slice, (conv(),)),
    Trap("first frame in place", first_frame, (conv(),)),
    Trap("first frame copied in place", first_frame_copied, (conv(),)),
    Trap("shift in place", shifted, (conv(),)),
    Trap("sum over the length", lambda x: x.sum(2) / x.shape[2]),
    Trap("mean times the length", lambda x, a: a(x).mean(2) * x.shape[2], (conv(),)),
    Trap("pool over the length", lambda x: F.avg_pool1d(x, x.shape[2])),
    Trap("time and channels as features", lambda x: x.reshape(x.shape[0], -1)),
    Trap("rows and frames as rows", lambda x: x.transpose(1, 2).reshape(-1, 3)),
    Trap("norm over time", lambda x: F.normalize(x, dim=2)),
    Trap("logsumexp", lambda x: x.logsumexp(2)),
    Trap("torch.diff", lambda x: torch.diff(x, dim=2)),
    Trap("padded to an even length", lambda x, a: a(F.pad(x, (0, x.shape[2] % 2))), (conv(),)),
    Trap("sliced to another's length",
         lambda x, a: F.interpolate(a(x), scale_factor=2)[:, :, : x.shape[2]] + x,
         (conv(stride=2),)),
    Trap("pairs of frames", lambda x: x[:, :, :16].unflatten(2, (8, 2)).mean(3)),
    Trap("scale by any NaN", lambda x: x * torch.isnan(x).any().logical_not()),
]  # fmt: skip


def convert(trap: Trap) -> tuple[nn.Module, Any]:
    torch.manual_seed(0)
    model = nn.Sequential(Op(trap.call, *trap.modules)).double().eval()
    example = torch.randn(2, 3, FRAMES).double()
    return model, pgt_fx.transform(model, example, time_dim=2, future="wait", pooling="running")


def compare(model: nn.Module, prog: Any) -> None:
    x = torch.randn(2, 3, FRAMES, generator=torch.manual_seed(3)).double()
    with torch.no_grad():
        whole = model(x.clone())
        time = [d for d, size in enumerate(whole.shape) if size >= FRAMES // 2]
        for chunks in CHUNKINGS:
            clips = pieces(x, chunks)
            prog.reset()
            outputs = [prog(c.clone(), last=i == len(clips) - 1) for i, c in enumerate(clips)]
            answer = stitch(outputs, time[-1]) if time else outputs[-1]
            assert relative_error(answer, whole) <= EXACT, chunks


@pytest.mark.parametrize("trap", EXACTLY, ids=str)
def test_it_is_exact(trap: Trap) -> None:
    compare(*convert(trap))


@pytest.mark.parametrize("trap", REFUSED, ids=str)
def test_it_is_refused(trap: Trap) -> None:
    with pytest.raises(PgtError):
        convert(trap)


@pytest.mark.parametrize("trap", EITHER, ids=str)
def test_it_is_exact_or_refused(trap: Trap) -> None:
    try:
        model, prog = convert(trap)
    except PgtError as error:
        assert len(str(error)) > 40
        return
    compare(model, prog)


def test_attention_whose_weights_nobody_reads() -> None:
    inner = nn.MultiheadAttention(3, 1, batch_first=True)

    def call(x: Tensor, attention: nn.Module) -> Tensor:
        tokens = x.transpose(1, 2)
        return attention(tokens, tokens, tokens)[0].transpose(1, 2)

    model = nn.Sequential(Op(call, inner)).double().eval()
    x = torch.randn(2, 3, FRAMES).double()
    prog = pgt_fx.transform(model, x)
    assert relative_error(prog.full(x), model(x)) <= EXACT
    assert not prog.report.exact


@pytest.mark.parametrize("how", ["mean", "std"])
def test_a_running_pool_answers_in_the_models_precision_with_nothing_new(how: str) -> None:
    """Sums of bfloat16 are carried in float32; a head behind them takes bfloat16."""

    class Head(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc = nn.Conv1d(4, 4, 3, stride=2, padding=1), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(getattr(self.conv(x), how)(2))

    model, x = Head().bfloat16().eval(), torch.randn(2, 4, 12).bfloat16()
    prog = pgt_fx.transform(model, x[:, :, :6], future="wait", pooling="running")
    outs = prog.run(x, schedule=[9, 1, 1, 1])
    assert all(out.dtype == torch.bfloat16 for out in outs if out is not None)
    assert torch.allclose(outs[-1].float(), model(x).float(), atol=2e-2)


class WritesAType(nn.Module):
    """Its forward asks for the type of its weights: a capture writes down which that was."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(3, 3, (3, 1, 1), padding=(1, 0, 0))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x.to(self.conv.weight.dtype)) + torch.ones(1, dtype=x.dtype)


def test_a_model_that_writes_its_type_is_moved_to_another() -> None:
    model = WritesAType()
    prog = pgt_fx.transform(model, torch.randn(1, 3, 8, 4, 4), future="wait")
    prog(torch.randn(1, 3, 8, 4, 4))
    prog.reset()
    prog.double()
    x = torch.randn(1, 3, 9, 4, 4).double()
    steps = [prog(x[:, :, :4]), prog(x[:, :, 4:], last=True)]
    assert relative_error(torch.cat(steps, 2), model(x)) <= 1e-12


class KeepsACache(nn.Module):
    """Keeps what it made on itself, as models do with masks and relative positions."""

    def __init__(self) -> None:
        super().__init__()
        self.cache: dict[int, Tensor] = {}
        self.bias = nn.Parameter(torch.randn(4, 4))

    def forward(self, x: Tensor) -> Tensor:
        if 0 not in self.cache:
            self.cache[0] = self.bias[:, [0, 2, 1, 3]].sum()
        return x * self.cache[0]


def test_a_capture_leaves_nothing_in_the_model() -> None:
    model = KeepsACache().requires_grad_(False)
    prog = pgt_fx.transform(model, torch.randn(1, 3, 8, 4, 4))
    assert model.cache == {} and set(vars(model)) == set(vars(KeepsACache()))
    x = torch.randn(1, 3, 9, 4, 4)
    assert torch.equal(prog.full(x), model(x))
