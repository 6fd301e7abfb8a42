"""Frames written in place, elements picked by index or by a mask, and videos that are rolled.

A table of constructs: each is exact however the video is cut, or refused with a reason that is
about what it computes. Those that take no video of so few frames say so.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from judge import PARTLY, REFUSED, RIGHT, Case, judge
from torch import Tensor, nn

FRAMES = (2, 3, 7, 8, 9, 16)
Construct = Callable[["Net", Tensor], Tensor]
EXACT: dict[str, Construct] = {}
NOT: dict[str, tuple[Construct, str]] = {}


class Net(nn.Module):
    """A convolution along time, and a construct behind it, of (N, T, 8, H, W)."""

    def __init__(self, call: Construct) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv3d(8, 8, (3, 1, 1), padding=(1, 0, 0))
        self.two = nn.Conv2d(8, 8, 1)
        self.token = nn.Parameter(torch.randn(8, 3, 3))
        self.register_buffer("idx", torch.tensor([3, 0]))
        self.register_buffer("idx3", torch.tensor([0, 2]))
        self.register_buffer("mask", torch.tensor([True, False] * 4))
        self.register_buffer("mask_hw", torch.eye(3) > 0)
        self.call = call

    def forward(self, x: Tensor) -> Tensor:
        return self.call(self, self.conv(x).transpose(1, 2)).transpose(1, 2)


def exact(construct: Construct) -> Construct:
    EXACT[construct.__name__] = construct
    return construct


def refused(reason: str) -> Callable[[Construct], Construct]:
    def register(construct: Construct) -> Construct:
        NOT[construct.__name__] = construct, reason
        return construct

    return register


@exact
def tsm(m: Net, x: Tensor, fold: int = 2) -> Tensor:
    out = torch.zeros_like(x)
    out[:, :-1, :fold] = x[:, 1:, :fold]
    out[:, 1:, fold : 2 * fold] = x[:, :-1, fold : 2 * fold]
    out[:, :, 2 * fold :] = x[:, :, 2 * fold :]
    return out


@exact
def left_only(m: Net, x: Tensor, fold: int = 2) -> Tensor:
    out = torch.zeros_like(x)
    out[:, :-1, :fold] = x[:, 1:, :fold]
    out[:, :, fold:] = x[:, :, fold:]
    return out


@exact
def right_only(m: Net, x: Tensor, fold: int = 2) -> Tensor:
    out = torch.zeros_like(x)
    out[:, 1:, :fold] = x[:, :-1, :fold]
    out[:, :, fold:] = x[:, :, fold:]
    return out


@exact
def clone_masked(m: Net, x: Tensor, fold: int = 2) -> Tensor:
    out = x.clone()
    out[:, :-1, :fold] = x[:, 1:, :fold]
    out[:, -1, :fold] = 0
    return out


@exact
def clone_kept(m: Net, x: Tensor, fold: int = 2) -> Tensor:
    out = x.clone()
    out[:, 1:, :fold] = x[:, :-1, :fold]
    return out


@exact
def empty_like(m: Net, x: Tensor, fold: int = 2) -> Tensor:
    out = torch.empty_like(x)
    out[:, 1:, :fold] = x[:, :-1, :fold]
    out[:, :1, :fold] = 0
    out[:, :, fold:] = x[:, :, fold:]
    return out


@exact
def whole_shift(m: Net, x: Tensor) -> Tensor:
    out = torch.zeros_like(x)
    out[:, 1:] = x[:, :-1]
    return out + x


@exact
def nt_shape(m: Net, x: Tensor) -> Tensor:
    n, t = x.shape[:2]
    y = x.flatten(0, 1)
    nt, c, h, w = y.size()
    y = y.view(nt // t, t, c, h, w)
    return tsm(m, y).view(nt, c, h, w).view(n, t, c, h, w)


@exact
def nt_neg(m: Net, x: Tensor) -> Tensor:
    t = x.shape[1]
    y = x.flatten(0, 1)
    nt, c, h, w = y.size()
    y = y.view(-1, t, c, h, w)
    return tsm(m, y).view(nt, c, h, w).view(-1, t, c, h, w)


@exact
def nt_eight(m: Net, x: Tensor) -> Tensor:
    n, t = x.shape[:2]
    y = x.flatten(0, 1)
    nt, c, h, w = y.size()
    y = y.view(nt // 8, 8, c, h, w)
    return tsm(m, y).view(nt, c, h, w).view(n, t, c, h, w)


@exact
def blocks_of_segments(m: Net, x: Tensor) -> Tensor:
    """As released, in each block: of the length of a segment, and not of the video."""
    n, t = x.shape[:2]
    y = x.flatten(0, 1)
    for _ in range(3):
        nt, c, h, w = y.size()
        shifted = tsm(m, y.view(nt // 8, 8, c, h, w)).view(nt, c, h, w)
        y = torch.relu(m.two(shifted) + y)
    return y.view(n, t, *y.shape[1:])


@exact
def residual(m: Net, x: Tensor) -> Tensor:
    n, t, c, h, w = x.shape
    y = x.reshape(n * t, c, h, w)
    y = y + m.two(tsm(m, y.view(n, t, c, h, w)).view(n * t, c, h, w))
    y = y + m.two(tsm(m, y.view(n, t, c, h, w)).view(n * t, c, h, w))
    return y.view(n, t, c, h, w)


@exact
def twice(m: Net, x: Tensor) -> Tensor:
    return tsm(m, tsm(m, x))


@exact
def by_two(m: Net, x: Tensor) -> Tensor:
    out = torch.zeros_like(x)
    out[:, :-2, :4] = x[:, 2:, :4]
    out[:, 2:, 4:] = x[:, :-2, 4:]
    return out


@exact
def first_zero(m: Net, x: Tensor) -> Tensor:
    out = x.clone()
    out[:, 0] = 0
    return out


@exact
def last_zero(m: Net, x: Tensor) -> Tensor:
    out = x.clone()
    out[:, -1] = 0
    return out


@exact
def two_zero(m: Net, x: Tensor) -> Tensor:
    out = x.clone()
    out[:, :2] = 0
    return out


@exact
def last_two_zero(m: Net, x: Tensor) -> Tensor:
    out = x.clone()
    out[:, -2:] = 0
    return out


@exact
def first_from_second(m: Net, x: Tensor) -> Tensor:
    out = x.clone()
    out[:, 0] = x[:, 1]
    return out


@exact
def last_from_before(m: Net, x: Tensor) -> Tensor:
    out = x.clone()
    out[:, -1] = x[:, -2]
    return out


@exact
def every_other(m: Net, x: Tensor) -> Tensor:
    out = x.clone()
    out[:, ::2] = 0
    return out


@exact
def odd_from_even(m: Net, x: Tensor) -> Tensor:
    out = x.clone()
    out[:, 1::2] = x[:, ::2]
    return out


@exact
def interior(m: Net, x: Tensor) -> Tensor:
    out = x.clone()
    out[:, 1:-1] = (x[:, 2:] + x[:, :-2]) / 2
    return out


@exact
def difference_first(m: Net, x: Tensor) -> Tensor:
    out = torch.zeros_like(x)
    out[:, 1:] = x[:, 1:] - x[:, :-1]
    return out


@exact
def difference_last(m: Net, x: Tensor) -> Tensor:
    out = torch.zeros_like(x)
    out[:, :-1] = x[:, 1:] - x[:, :-1]
    return out


@exact
def minus_equals(m: Net, x: Tensor) -> Tensor:
    out = x.clone()
    out[:, 1:] -= 0.9 * x[:, :-1]
    return out


@exact
def plus_equals_both(m: Net, x: Tensor) -> Tensor:
    out = x.clone()
    out[:, 1:] += x[:, :-1]
    out[:, :-1] += x[:, 1:]
    return out


@exact
def mul_view(m: Net, x: Tensor) -> Tensor:
    out = x.clone()
    out[:, 1:].mul_(0.5)
    return out


@exact
def copy_view(m: Net, x: Tensor) -> Tensor:
    out = torch.zeros_like(x)
    out[:, 1:].copy_(x[:, :-1])
    return out + x


@exact
def token(m: Net, x: Tensor) -> Tensor:
    out = x.clone()
    out[:, 0] = m.token
    return out


@exact
def zeros_of_sizes(m: Net, x: Tensor) -> Tensor:
    n, t, c, h, w = x.shape
    out = torch.zeros(n, t, c, h, w, dtype=x.dtype, device=x.device)
    out[:, 1:] = x[:, :-1]
    return out + x


@exact
def new_zeros(m: Net, x: Tensor) -> Tensor:
    out = x.new_zeros(x.size())
    out[:, :-1] = x[:, 1:]
    return out + x


@exact
def zeros_mul(m: Net, x: Tensor) -> Tensor:
    out = x * 0
    out[:, :-1] = x[:, 1:]
    return out + x


@exact
def padded_buffer(m: Net, x: Tensor) -> Tensor:
    n, t, c, h, w = x.shape
    out = x.new_zeros(n, t + 2, c, h, w)
    out[:, 2:] = x
    return out[:, 2:] + out[:, 1:-1] - out[:, :-2]


@exact
def padded_both(m: Net, x: Tensor) -> Tensor:
    n, t, c, h, w = x.shape
    out = x.new_zeros(n, t + 2, c, h, w)
    out[:, 1:-1] = x
    return out[:, 2:] - out[:, :-2] + x


@exact
def replicate_both(m: Net, x: Tensor) -> Tensor:
    n, t, c, h, w = x.shape
    out = x.new_empty(n, t + 2, c, h, w)
    out[:, 1:-1] = x
    out[:, :1] = x[:, :1]
    out[:, -1:] = x[:, -1:]
    return out[:, 2:] - out[:, :-2] + x


@exact
def zeros_between(m: Net, x: Tensor) -> Tensor:
    n, t, c, h, w = x.shape
    out = x.new_zeros(n, 2 * t, c, h, w)
    out[:, ::2] = x
    return out


@exact
def interleave(m: Net, x: Tensor) -> Tensor:
    n, t, c, h, w = x.shape
    out = x.new_zeros(n, 2 * t, c, h, w)
    out[:, 0::2] = x
    out[:, 1::2] = -2 * x
    return out


@exact
def index_copy_channels(m: Net, x: Tensor) -> Tensor:
    return x.index_copy(2, m.idx, x[:, :, :2] * 3)


@exact
def index_copy_inplace(m: Net, x: Tensor) -> Tensor:
    out = x.clone()
    out.index_copy_(2, m.idx, x[:, :, :2])
    return out


@exact
def bool_relu(m: Net, x: Tensor) -> Tensor:
    out = x.clone()
    out[out < 0] = 0
    return out


@exact
def bool_frames(m: Net, x: Tensor) -> Tensor:
    out = x.clone()
    out[x.mean((2, 3, 4)) > 0] = 0
    return out


@exact
def bool_channels(m: Net, x: Tensor) -> Tensor:
    out = x.clone()
    out[:, :, m.mask] = 0
    return out


@exact
def bool_space(m: Net, x: Tensor) -> Tensor:
    out = x.clone()
    out[..., m.mask_hw] = 0
    return out


@exact
def masked_fill_inplace(m: Net, x: Tensor) -> Tensor:
    out = x.clone()
    out.masked_fill_(x > 0.5, 0.0)
    return out


@exact
def masked_fill_frames(m: Net, x: Tensor) -> Tensor:
    return x.masked_fill((x.mean((2, 3, 4)) > 0)[:, :, None, None, None], 0.0)


@exact
def list_assign(m: Net, x: Tensor) -> Tensor:
    out = x.clone()
    out[:, :, [0, 3]] = -x[:, :, [1, 2]]
    return out


@exact
def list_add(m: Net, x: Tensor) -> Tensor:
    out = x.clone()
    out[:, :, [0, 3]] += 1
    return out


@exact
def list_read(m: Net, x: Tensor) -> Tensor:
    return x[:, :, [3, 1, 0, 2]]


@exact
def list_shift(m: Net, x: Tensor) -> Tensor:
    out = torch.zeros_like(x)
    out[:, 1:, [0, 2]] = x[:, :-1, [0, 2]]
    out[:, :, [1, 3, 4, 5, 6, 7]] = x[:, :, [1, 3, 4, 5, 6, 7]]
    return out


@exact
def index_put_space(m: Net, x: Tensor) -> Tensor:
    out = x.clone()
    out[..., m.idx3, m.idx3] = 0
    return out


@exact
def index_select(m: Net, x: Tensor) -> Tensor:
    return x.index_select(2, m.idx)


@refused("")
def index_time_flip(m: Net, x: Tensor) -> Tensor:
    return x[:, torch.arange(x.shape[1] - 1, -1, -1)]


@refused("number of frames")
def index_time_linspace(m: Net, x: Tensor) -> Tensor:
    return x[:, torch.linspace(0, x.shape[1] - 1, x.shape[1] // 2).long()]


@exact
def gather_channels(m: Net, x: Tensor) -> Tensor:
    return x.gather(2, x.argsort(2)[:, :, :3])


@exact
def scatter_onehot(m: Net, x: Tensor) -> Tensor:
    out = torch.zeros_like(x)
    out.scatter_(2, x.argmax(2, keepdim=True), 1.0)
    return out


@exact
def scatter_nt(m: Net, x: Tensor) -> Tensor:
    n, t, c, h, w = x.shape
    y = x.reshape(n * t, c, h * w)
    out = torch.zeros_like(y).scatter_add_(1, y.argmax(1, keepdim=True), y[:, :1])
    return out.view(n, t, c, h, w)


@exact
def topk(m: Net, x: Tensor) -> Tensor:
    return x.topk(2, 2).values


@exact
def sort_channels(m: Net, x: Tensor) -> Tensor:
    return x.sort(2).values


@refused("needs all frames")
def gather_time(m: Net, x: Tensor) -> Tensor:
    return x.gather(1, x.argsort(1))


@exact
def roll_crop(m: Net, x: Tensor) -> Tensor:
    return torch.roll(x, 1, 1)[:, 1:]


@exact
def roll_crop_back(m: Net, x: Tensor) -> Tensor:
    return torch.roll(x, -1, 1)[:, :-1]


@exact
def roll_zero(m: Net, x: Tensor) -> Tensor:
    out = torch.roll(x, 1, 1)
    out[:, 0] = 0
    return out


@exact
def roll_zero_last(m: Net, x: Tensor) -> Tensor:
    out = torch.roll(x, -1, 1)
    out[:, -1] = 0
    return out


@exact
def roll_zero_two(m: Net, x: Tensor) -> Tensor:
    out = torch.roll(x, 2, 1)
    out[:, :2] = 0
    return out


@exact
def roll_zero_slice(m: Net, x: Tensor) -> Tensor:
    out = x.roll(shifts=-2, dims=1)
    out[:, -2:] = x[:, -2:]
    return out


@exact
def roll_own(m: Net, x: Tensor) -> Tensor:
    out = torch.roll(x, 1, 1)
    out[:, :1] = x[:, :1]
    return out


@exact
def roll_mask(m: Net, x: Tensor) -> Tensor:
    mask = torch.ones(x.shape[1])
    mask[0] = 0
    return torch.roll(x, 1, 1) * mask[None, :, None, None, None]


@exact
def roll_where(m: Net, x: Tensor) -> Tensor:
    first = torch.arange(x.shape[1])[None, :, None, None, None] == 0
    return torch.where(first, torch.zeros_like(x), torch.roll(x, 1, 1))


@exact
def roll_masked_fill(m: Net, x: Tensor) -> Tensor:
    first = torch.arange(x.shape[1])[None, :, None, None, None] < 2
    return torch.roll(x, 2, 1).masked_fill(first, 0)


@exact
def roll_cat(m: Net, x: Tensor) -> Tensor:
    return torch.cat([torch.zeros_like(x[:, :1]), torch.roll(x, 1, 1)[:, 1:]], 1)


@exact
def roll_cat_last(m: Net, x: Tensor) -> Tensor:
    return torch.cat([torch.roll(x, -1, 1)[:, :-1], x[:, -1:]], 1)


@exact
def roll_difference(m: Net, x: Tensor) -> Tensor:
    return (x - torch.roll(x, 1, 1))[:, 1:]


@exact
def roll_channels(m: Net, x: Tensor) -> Tensor:
    a, b = x[:, :, :4].roll(1, 1), x[:, :, 4:]
    a[:, 0] = 0
    return torch.cat([a, b], 2)


@exact
def roll_space(m: Net, x: Tensor) -> Tensor:
    return torch.roll(x, (1, 1), (3, 4))


@exact
def roll_time_space(m: Net, x: Tensor) -> Tensor:
    return torch.roll(x, (1, 1), (1, 3))[:, 1:]


@refused("rolls time around")
def roll_only(m: Net, x: Tensor) -> Tensor:
    return torch.roll(x, 1, 1)


@pytest.mark.parametrize("name", EXACT)
def test_it_is_the_models_answer_however_it_is_cut(name: str) -> None:
    case = Case(lambda: Net(EXACT[name]), sizes=(1, 8, 8, 3, 3), frames=FRAMES, chunkings=1)
    assert judge(case) in (RIGHT, PARTLY)


@pytest.mark.parametrize("name", NOT)
def test_what_needs_more_than_a_state_is_refused(name: str) -> None:
    construct, reason = NOT[name]
    case = Case(lambda: Net(construct), sizes=(1, 8, 8, 3, 3), frames=FRAMES, says=reason)
    assert judge(case) == REFUSED
