"""Writes in place: tables and masks written in parts, ``out=``, buffers, and constants in a cat.

Each model is equal to itself streamed under every chunking, or refused where it writes.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from opmodules import Op
from oracles import pieces, relative_error, stitch
from torch import Tensor, nn

import pgt_fx
from pgt_fx.core.errors import BlockedError, ClipError, ExactnessError

FRAMES = 13
CHUNKINGS = [[1] * FRAMES, [3, 3, 3, 3, 1], [5, 1, 7], [FRAMES]]
Call = Callable[..., Tensor]


def conv(out: int = 4, **options: int) -> nn.Conv1d:
    return nn.Conv1d(4, out, 3, padding=1, **options)


def frozen(out: int = 4) -> nn.Conv1d:
    """Nothing can be written into ``out=`` where there is a graph."""
    return conv(out).requires_grad_(False)


def video() -> Tensor:
    return torch.randn(2, 4, FRAMES, generator=torch.manual_seed(3)).double()


def convert(model: nn.Module) -> pgt_fx.Progressive:
    example = torch.randn(2, 4, 8, generator=torch.manual_seed(4)).double()
    return pgt_fx.transform(model, example, time_dim=2, future="wait", pooling="running")


def compare(model: nn.Module, time: int | None = 2) -> None:
    """``time`` None: the last answer counts."""
    torch.manual_seed(0)
    model = model.double().eval()
    prog, x = convert(model), video()
    with torch.no_grad():
        whole = model(x.clone())
        assert relative_error(prog.full(x), whole) <= 1e-9
        for chunks in CHUNKINGS:
            clips = pieces(x, chunks)
            prog.reset()
            outputs = [prog(c.clone(), last=i == len(clips) - 1) for i, c in enumerate(clips)]
            answer = outputs[-1] if time is None else stitch(outputs, time)
            assert answer.dtype == whole.dtype
            assert relative_error(answer, whole) <= 1e-9, chunks


def refused(model: nn.Module, said: str) -> None:
    """Refused at the line that is marked, and it is said why."""
    torch.manual_seed(0)
    with pytest.raises(BlockedError) as found:
        convert(model.double().eval())
    call = getattr(model, "call", getattr(model, "function", type(model).forward))
    lines, first = inspect.getsourcelines(call)
    number = first + next(i for i, line in enumerate(lines) if "# here" in line)
    places = [b.place.source for b in found.value.blockers]
    assert f"{Path(__file__).parent.name}/{Path(__file__).name}:{number}" in places, places
    assert said in str(found.value)


# ------------------------------------------------------------------ tables


def rates(x: Tensor) -> tuple[Tensor, Tensor]:
    at = torch.arange(x.shape[2], dtype=x.dtype)[:, None]
    return at, torch.exp(torch.arange(0, 4, 2, dtype=x.dtype) * -0.5)


def sinusoid(x: Tensor, a: nn.Module) -> Tensor:
    at, rate = rates(x)
    table = torch.zeros(x.shape[2], 4, dtype=x.dtype)
    table[:, 0::2] = torch.sin(at * rate)
    table[:, 1::2] = torch.cos(at * rate)
    return a(x) + table.transpose(0, 1)


def sinusoid_by_halves(x: Tensor, a: nn.Module) -> Tensor:
    at, rate = rates(x)
    table = torch.empty(x.shape[2], 4, dtype=x.dtype)
    torch.sin(at * rate, out=table[:, :2])
    table[:, -2:].copy_(torch.cos(at * rate))
    return a(x) + table.t()


def sinusoid_by_columns(x: Tensor, a: nn.Module) -> Tensor:
    at, rate = rates(x)
    table = torch.zeros(1, 4, x.shape[2], dtype=x.dtype)
    for i in range(2):
        table[0, 2 * i] = (at[:, 0] * rate[i]).sin()
        table[:, 2 * i + 1] = (at[:, 0] * rate[i]).cos()
    return a(x) + table


def sinusoid_through_a_view(x: Tensor, a: nn.Module) -> Tensor:
    at, rate = rates(x)
    table = torch.zeros(x.shape[2], 4, dtype=x.dtype)
    pairs = table.view(x.shape[2], 2, 2)
    pairs[..., 0] = torch.sin(at * rate)
    pairs.transpose(1, 2)[:, 1] = torch.cos(at * rate)
    pairs.mul_(0.5)
    return a(x) + table.t()


def sinusoid_written_before_a_window(x: Tensor, a: nn.Module) -> Tensor:
    table = torch.zeros(x.shape[2], 4, dtype=x.dtype)
    table[:, 1] = rates(x)[0][:, 0] * 0.1
    return a(x + table.t()[None])


# ------------------------------------------------------------------ what has time


def channels(x: Tensor, a: nn.Module) -> Tensor:
    y = a(x)
    y[:, :1] = 0
    y[:, 2] *= x[:, 1]
    return y * x


def woven(x: Tensor, a: nn.Module, b: nn.Module) -> Tensor:
    y = torch.empty_like(x)
    y[:, 0::2], y[:, 1::2] = a(x), b(x)
    return b(y).repeat(1, 2, 1) + y


def into_a_view(x: Tensor, a: nn.Module) -> Tensor:
    y, two = a(x), torch.full((1,), 2.0, dtype=x.dtype)
    z = torch.zeros_like(x)
    torch.mul(y, two, out=z[:, :2])
    return z + x


def through_parts(x: Tensor, a: nn.Module) -> Tensor:
    y = a(x)
    parts = y.chunk(2, 1)
    y.unbind(1)[3].mul_(x[:, 0])
    parts[0].add_(1)
    return torch.cat([y, parts[1]], 1)


def types(x: Tensor, a: nn.Module) -> Tensor:
    single, mask = a(x).float(), x.clone()
    single.mul_(x)
    mask.gt_(0)
    v = single[:, :2]
    v.add_(x[:, :2])
    return mask + single


def the_video_itself(x: Tensor, a: nn.Module) -> Tensor:
    first = x[:, :1]
    x.mul_(2)
    x[:, 3] = 1
    return a(x) + first


def dropout_is_nothing(x: Tensor, a: nn.Module) -> Tensor:
    y = a(x)
    z = F.dropout(y, 0.5, False)
    z[:, 1].add_(1)
    return y * z + x


def both_are_read_again(x: Tensor, a: nn.Module) -> Tensor:
    y = a(x)
    early, late = y * 2, y[:, :2]
    y.relu_()
    late.add_(1)
    y.sub_(early)
    return torch.cat([y, late], 1)


EXACT: list[tuple[Call, tuple[nn.Module, ...]]] = [
    (sinusoid, (conv(),)),
    (sinusoid_by_halves, (conv(),)),
    (sinusoid_by_columns, (conv(),)),
    (sinusoid_through_a_view, (conv(),)),
    (sinusoid_written_before_a_window, (conv(),)),
    (channels, (conv(),)),
    (woven, (conv(2), conv(2))),
    (into_a_view, (frozen(2),)),
    (through_parts, (frozen(),)),
    (types, (frozen(),)),
    (the_video_itself, (conv(),)),
    (dropout_is_nothing, (conv(),)),
    (both_are_read_again, (frozen(),)),
]


@pytest.mark.parametrize(("call", "modules"), EXACT, ids=lambda v: getattr(v, "__name__", ""))
def test_what_is_written_is_read(call: Call, modules: tuple[nn.Module, ...]) -> None:
    compare(Op(call, *modules))


# ------------------------------------------------------------------ masks


class Attends(nn.Module):
    """Attention whose mask is written in place; ``bias`` where it is added."""

    def __init__(self, call: Call) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(4, 4) for _ in range(3))
        self.call = call

    def forward(self, x: Tensor) -> Tensor:
        y = x.transpose(1, 2)
        mask = self.call(y)
        return F.scaled_dot_product_attention(self.q(y), self.k(y), self.v(y), mask).transpose(1, 2)


def filled_where_hidden(y: Tensor) -> Tensor:
    mask = torch.zeros(y.shape[1], y.shape[1], dtype=y.dtype)
    mask.masked_fill_(torch.ones_like(mask).triu(1).bool(), -math.inf)
    return mask


def triangle(y: Tensor) -> Tensor:
    return torch.full((y.shape[1], y.shape[1]), -math.inf, dtype=y.dtype).triu_(1)


def triangle_of_a_view(y: Tensor) -> Tensor:
    mask = torch.ones(1, y.shape[1], y.shape[1], dtype=torch.bool)
    mask[0].tril_()
    return mask


def diagonal_of_a_view(y: Tensor) -> Tensor:
    mask = torch.ones(y.shape[1], y.shape[1], dtype=torch.bool).tril(-1)
    mask.T.diagonal().fill_(True)
    return mask


MASKS = [filled_where_hidden, triangle, triangle_of_a_view, diagonal_of_a_view]


@pytest.mark.parametrize("call", MASKS)
def test_a_causal_mask_that_is_written(call: Call) -> None:
    model = Attends(call)
    compare(model)
    assert convert(model).report.exact


def first_frames(y: Tensor) -> Tensor:
    mask = torch.ones(y.shape[1], y.shape[1], dtype=torch.bool).tril()
    mask[:, :4] = True
    return mask


def other_diagonal(y: Tensor) -> Tensor:
    mask = torch.ones(y.shape[1], y.shape[1], dtype=torch.bool).tril()
    mask[:, 3].fill_(True)
    return mask


def where_it_is_hidden(y: Tensor) -> Tensor:
    mask = torch.ones(y.shape[1], y.shape[1], dtype=torch.bool).tril()
    mask[0].masked_fill_(~mask[0], True)
    return mask


@pytest.mark.parametrize("call", [first_frames, other_diagonal, where_it_is_hidden])
def test_a_mask_that_lets_the_future_in_by_a_write(call: Call) -> None:
    with pytest.raises((BlockedError, ExactnessError), match="scaled_dot_product_attention"):
        convert(Attends(call).double().eval())


# ------------------------------------------------------------------ constants put in front


def marker(x: Tensor, a: nn.Module) -> Tensor:
    z = torch.zeros(x.shape[0], 4, 2, dtype=x.dtype)
    z[:, 0] = 1.0
    return a(torch.cat([z, x], 2))


def marker_filled(x: Tensor, a: nn.Module) -> Tensor:
    return a(torch.cat([torch.zeros(x.shape[0], 4, 2, dtype=x.dtype).fill_(0.3), x], 2))


def of_another_type(x: Tensor) -> Tensor:
    return torch.cat([x.new_full((x.shape[0], 4, 1), 0.5), (x > 0).long()], 2)


def of_less_precision(x: Tensor) -> Tensor:
    return torch.cat([torch.full((x.shape[0], 4, 1), 0.1), x], 2)


def cut_to_whole_numbers(x: Tensor) -> Tensor:
    first = x.new_full((x.shape[0], 4, 1), 1.5).long()
    return torch.cat([first.to(x.dtype), x], 2)


def first_frame_rounded(x: Tensor) -> Tensor:
    return torch.cat([x[:, :, :1].to(torch.int64).to(x.dtype), x], 2)


def first_frame_of_less_precision(x: Tensor) -> Tensor:
    return torch.cat([x[:, :, :1].float(), x], 2)


def last_frame_as_it_is(x: Tensor) -> Tensor:
    return torch.cat([x, x[:, :, -1:].to(x.dtype).clone()], 2)


def from_nothing(x: Tensor, a: nn.Module, b: nn.Module) -> Tensor:
    out = torch.empty(0, dtype=x.dtype)
    for one in (a, b):
        out = torch.cat([out, one(x)], 1)
    return out


def frames_from_nothing(x: Tensor, a: nn.Module) -> Tensor:
    return a(torch.cat([torch.tensor([]), x.new_zeros(x.shape[0], 4, 1), x], 2))


CONSTANTS: list[tuple[Call, tuple[nn.Module, ...]]] = [
    (marker, (conv(),)),
    (marker_filled, (conv(),)),
    (of_another_type, ()),
    (of_less_precision, ()),
    (cut_to_whole_numbers, ()),
    (first_frame_rounded, ()),
    (first_frame_of_less_precision, ()),
    (last_frame_as_it_is, ()),
    (from_nothing, (conv(), conv(3))),
    (frames_from_nothing, (conv(),)),
]


@pytest.mark.parametrize(("call", "modules"), CONSTANTS, ids=lambda v: getattr(v, "__name__", ""))
def test_what_is_put_in_front(call: Call, modules: tuple[nn.Module, ...]) -> None:
    compare(Op(call, *modules))


# ------------------------------------------------------------------ refused


def some_frames(x: Tensor, a: nn.Module) -> Tensor:
    y = a(x)
    y[:, :, 2:] = 0  # here
    return y


def table_from_the_third(x: Tensor, a: nn.Module) -> Tensor:
    table = torch.zeros(x.shape[2], dtype=x.dtype)
    table[2:] = 1  # here
    return a(x) + table


class Behind(nn.Module):
    """An activation in place behind what copies frames where it must, and one frame does not."""

    def __init__(self, call: Call) -> None:
        super().__init__()
        self.pre, self.relu, self.call = conv(), nn.ReLU(inplace=True), call

    def forward(self, x: Tensor) -> Tensor:
        return self.call(self.pre(x), self.relu)


def behind_contiguous(y: Tensor, relu: nn.Module) -> Tensor:
    z = relu(y.transpose(1, 2).contiguous())  # here
    return y - 0.5 * z.transpose(1, 2)


def behind_reshape(y: Tensor, relu: nn.Module) -> Tensor:
    z = relu(y.transpose(1, 2).reshape(y.shape[0] * y.shape[2], 4))  # here
    return y - 0.5 * z.view(y.shape[0], y.shape[2], 4).transpose(1, 2)


def before_it(y: Tensor, relu: nn.Module) -> Tensor:
    z = y.transpose(1, 2).contiguous()
    y.relu_()  # here
    return y - 0.5 * z.transpose(1, 2)


def behind_a_swap_of_rows(y: Tensor, relu: nn.Module) -> Tensor:
    z = relu(y.transpose(0, 1).contiguous())  # here
    return y - 0.5 * z.transpose(0, 1)


@pytest.mark.parametrize("call", [behind_contiguous, before_it])
def test_copies_that_are_none_for_one_frame(call: Call) -> None:
    """Steps of one frame, but no videos of one: there the model itself does something else."""
    model = Behind(call)
    compare(model)
    prog = convert(model)
    assert prog.video_lengths.least == 2
    with pytest.raises(ClipError):
        prog.full(video()[:, :, :1])


@pytest.mark.parametrize("call", [behind_reshape, behind_a_swap_of_rows])
def test_copies_that_are_none_for_one_row(call: Call) -> None:
    refused(Behind(call), "for a single frame or row")


def behind_shuffled_channels(y: Tensor, relu: nn.Module) -> Tensor:
    z = relu(y.unflatten(1, (2, 2)).transpose(1, 2).flatten(1, 2))
    return y - 0.5 * z


def behind_padding(y: Tensor, relu: nn.Module) -> Tensor:
    return y - 0.5 * relu(F.pad(y, (1, 0)))[:, :, :-1]


def behind_the_first_frame(y: Tensor, relu: nn.Module) -> Tensor:
    return y - 0.5 * relu(torch.cat([y[:, :, :1], y], 2))[:, :, 1:]


def behind_a_part(y: Tensor, relu: nn.Module) -> Tensor:
    return y - 0.5 * relu(torch.cat([y[:, :, :1] * 2, y[:, :, 1:]], 2))


def behind_clone(y: Tensor, relu: nn.Module) -> Tensor:
    return y - 0.5 * relu(y.transpose(1, 2).clone()).transpose(1, 2)


def of_nothing_read_again(y: Tensor, relu: nn.Module) -> Tensor:
    return relu(y.transpose(1, 2).contiguous()).transpose(1, 2)


COPIES = [
    *(behind_clone, of_nothing_read_again, behind_shuffled_channels),
    *(behind_padding, behind_the_first_frame, behind_a_part),
]


@pytest.mark.parametrize("call", COPIES)
def test_copies_that_are_copies_or_read_once(call: Call) -> None:
    compare(Behind(call))


def test_a_part_of_the_frames() -> None:
    compare(Op(some_frames, conv()))
    refused(Op(table_from_the_third, conv()), "different lengths")


# ------------------------------------------------------------------ buffers


class Keeps(nn.Module):
    """A model with buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = conv()
        self.register_buffer("kept", torch.zeros(1, 4, 1))
        self.register_buffer("count", torch.zeros(()))


class LastFrame(Keeps):
    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x) + self.kept
        self.kept.copy_(x[:1, :, -1:])  # here
        return y


class LastFrameAssigned(Keeps):
    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x) + self.kept
        self.kept = x[:1, :, -1:]  # here
        return y


class PartOfIt(Keeps):
    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x) + self.kept
        self.kept[:, 1] = x[:1, 1, -1:]  # here
        return y


class MovingMean(Keeps):
    def forward(self, x: Tensor) -> Tensor:
        self.kept.lerp_(x.mean((0, 2), keepdim=True), 0.1)  # here
        return self.conv(x) - self.kept


class ByAnotherBuffer(Keeps):
    def forward(self, x: Tensor) -> Tensor:
        self.count.copy_(x.mean())  # here
        self.kept.add_(self.count)
        return self.conv(x) - self.kept


class WithoutGradients(Keeps):
    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x) + self.kept
        with torch.no_grad():
            self.kept.copy_(x[:1, :, -1:])  # here
        return y


class Counts(Keeps):
    def forward(self, x: Tensor) -> Tensor:
        self.count += 1  # here
        return self.conv(x) * self.count


BUFFERS = [
    LastFrame,
    LastFrameAssigned,
    PartOfIt,
    MovingMean,
    ByAnotherBuffer,
    WithoutGradients,
    Counts,
]


@pytest.mark.parametrize("kind", BUFFERS)
def test_a_buffer_that_the_answer_is_computed_from(kind: type[nn.Module]) -> None:
    refused(kind(), "model's buffer")


class OnlyWritten(Keeps):
    """Statistics that nothing reads."""

    def forward(self, x: Tensor) -> Tensor:
        self.count += 1
        self.kept.mul_(0.9).add_(0.1 * x[:1].mean(2, keepdim=True))
        return self.conv(x)


class Limited(Keeps):
    """A frozen weight that is held within a range."""

    def __init__(self) -> None:
        super().__init__()
        self.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        self.conv.weight.clamp_(-0.1, 0.1)
        return self.conv(x)


@pytest.mark.parametrize("kind", [OnlyWritten, Limited])
def test_writes_that_no_step_reads_as_another_does(kind: type[nn.Module]) -> None:
    compare(kind())


class Normed(Keeps):
    """Batch statistics of a norm in training, and a counter of a warm-up."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(4)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.count += 1
        return self.norm(self.conv(x)) * self.count.clamp(max=1)


def test_statistics_and_counters_in_training() -> None:
    torch.manual_seed(0)
    model = Normed().double().train()
    prog = pgt_fx.transform(model, video()[:, :, :8], time_dim=2, future="zero")
    prog(video()[:, :, :8])
    assert model.norm.num_batches_tracked == 1 and model.count == 1
    prog.eval()
    compare(model)


class OwnStatistics(Keeps):
    """A norm written by hand: its statistics are brought up to date without gradients."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        with torch.no_grad():
            most = 1 + y.abs().amax(1, keepdim=True)
            if self.training:
                self.kept.mul_(0.9).add_(0.1 * y[:1].mean(2, keepdim=True))
        return (y if self.training else y - self.kept) / most


def test_statistics_that_are_kept_without_gradients() -> None:
    torch.manual_seed(0)
    ours, theirs = OwnStatistics().double().train(), OwnStatistics().double().train()
    theirs.load_state_dict(ours.state_dict())
    prog, x = convert(ours), video()[:, :, :8]
    found, wanted = prog(x, last=True), theirs(x)
    assert relative_error(found, wanted) <= 1e-9
    assert torch.allclose(ours.kept, theirs.kept) and ours.kept.any()
    for answer in (found, wanted):
        answer.square().sum().backward()
    assert not ours.kept.requires_grad
    assert relative_error(ours.conv.weight.grad, theirs.conv.weight.grad) <= 1e-9
    compare(ours)
