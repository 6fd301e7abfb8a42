"""Masks and biases over two positions of the video: at their places in each step, or refused.

What a mask lets through is proven from its expression, so that a mask that changes its mind far on
is either right there or refused; a number that is low but finite is a bias.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from judge import REFUSED, RIGHT, Case, judge
from torch import Tensor, nn

INF = float("inf")
LEAST = torch.finfo(torch.float32).min
FAR = (1, 2, 5, 9, 40, 131, 330)
#: What is made of the scores of attention, of the model's buffers and the number of frames.
Change = Callable[[Any, Tensor, int], Tensor]


class Scores(nn.Module):
    """Attention over the frames of (N, C, T) with two heads; its scores are changed as given."""

    def __init__(self, change: Change, **tensors: Tensor) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.change = nn.Conv1d(4, 4, 3, padding=1), change
        self.slopes = nn.Parameter(torch.tensor([0.5, 0.25]))
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x).unflatten(1, (2, 2)).transpose(2, 3)
        weights = self.change(self, y @ y.transpose(2, 3), y.shape[2]).softmax(-1)
        return (weights @ y).transpose(2, 3).flatten(1, 2)


class Fused(Scores):
    """The same with a mask for ``scaled_dot_product_attention``."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x).unflatten(1, (2, 2)).transpose(2, 3)
        mask = self.change(self, y, y.shape[2])
        return F.scaled_dot_product_attention(y, y, y, mask).transpose(2, 3).flatten(1, 2)


class Weighed(Scores):
    """Linear attention: no softmax, the scores are the weights."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x).unflatten(1, (2, 2)).transpose(2, 3)
        return (
            (self.change(self, y @ y.transpose(2, 3), y.shape[2]) @ y).transpose(2, 3).flatten(1, 2)
        )


class Multihead(nn.Module):
    """``nn.MultiheadAttention`` with ``attn_mask``."""

    def __init__(self, mask: Callable[[int], Tensor], weights: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.mask, self.weights = nn.Conv1d(4, 4, 3, padding=1), mask, weights
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x).transpose(1, 2)
        mask = self.mask(y.shape[1])
        return self.attention(y, y, y, attn_mask=mask, need_weights=self.weights)[0].transpose(1, 2)


def at(frames: int) -> tuple[Tensor, Tensor]:
    position = torch.arange(frames)
    return position[:, None], position[None, :]


def seen(mask: Callable[[Tensor, Tensor], Tensor]) -> Change:
    """Scores are hidden where ``mask(row, column)`` is false."""
    return lambda s, scores, t: scores.masked_fill(~mask(*at(t)), -INF)


def biased(bias: Callable[[Tensor, Tensor], Tensor]) -> Change:
    """A bias on a causal mask."""
    return lambda s, scores, t: seen(causal)(s, scores + bias(*at(t)), t)


def causal(r: Tensor, c: Tensor) -> Tensor:
    return c <= r


def within(w: int) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda r, c: (c <= r) & (r - c < w)


def buckets(r: Tensor, c: Tensor) -> Tensor:
    """T5's: one for each small distance, then logarithmic."""
    back = (r - c).clamp(min=0)
    far = 8 + ((back.float() / 8).log() / math.log(16) * 8).to(torch.long)
    return torch.where(back < 8, back, far.clamp(max=15))


def tril(frames: int, diagonal: int = 0) -> Tensor:
    return torch.ones(frames, frames, dtype=torch.bool).tril(diagonal)


#: Proven causal: by name the change and the frames before its own that are carried; None: all.
EXACT: dict[str, tuple[Change, int | None]] = {
    "a window that grows": (seen(lambda r, c: (c <= r) & (c >= r // 2)), None),
    "a window of a block and more": (seen(lambda r, c: (c <= r) & (c // 8 >= r // 8 - 1)), 15),
    "within blocks": (seen(lambda r, c: (c <= r) & (c // 8 == r // 8)), 7),
    "blocks of blocks": (seen(lambda r, c: (c <= r) & (c // 8 // 8 == r // 8 // 8)), 63),
    "the blocks before": (seen(lambda r, c: (c // 8 < r // 8) | (c == r)), None),
    "every fourth": (seen(lambda r, c: (c <= r) & ((r - c) % 4 == 0)), None),
    "every fourth of a window": (seen(lambda r, c: (c <= r) & ((r - c) % 4 == 0) & (r - c < 9)), 8),
    "every fourth key, and a window": (
        seen(lambda r, c: (c <= r) & ((c % 4 == 0) | (r - c < 3))),
        None,
    ),
    "a window from some row on": (seen(lambda r, c: (c <= r) & ((r < 100) | (r - c < 7))), 99),
    "none from some row on": (seen(lambda r, c: (c <= r) & ((r - c < 3) | (r >= 100))), None),
    "sinks": (seen(lambda r, c: (c <= r) & ((r - c < 5) | (c < 2))), None),
    "by remainders and blocks": (
        seen(lambda r, c: (r // 4 == c // 4) & (c % 4 <= r % 4)),
        3,
    ),
    "by shifts": (seen(lambda r, c: (c <= r) & ((c >> 3) == (r >> 3))), 7),
    "by bits": (seen(lambda r, c: (c <= r) & ((c & 3) == 0) & (r - c < 20) | (r == c)), 19),
    "a float threshold": (seen(lambda r, c: (c <= r) & ((r - c) * 0.1 < 2.05)), 20),
    "a float threshold at a number": (seen(lambda r, c: (c <= r) & ((r - c) * 0.1 <= 0.3)), 3),
    "a threshold far on": (seen(lambda r, c: (c <= r) & (r - c <= 150.5)), 150),
    "a quotient": (seen(lambda r, c: (c <= r) & ((r - c) / 3 < 2.5)), 7),
    "rounded down": (seen(lambda r, c: (c <= r) & (torch.floor((r - c) / 4) < 2)), 7),
    "an absolute distance": (seen(lambda r, c: (c <= r) & ((r - c).abs() <= 4)), 4),
    "clamped": (seen(lambda r, c: (c <= r) & ((r - c).clamp(max=9) < 9)), 8),
    "least of two": (seen(lambda r, c: torch.maximum(c - r, r - c - 5) <= 0), 5),
    "a product": (seen(lambda r, c: ((c <= r).long() * (r - c < 6).long()) == 1), 5),
    "where, with -inf": (
        lambda s, x, t: x + torch.where(causal(*at(t)), 0.0, -INF),
        None,
    ),
    "where of scores": (
        lambda s, x, t: torch.where(within(5)(*at(t)), x, torch.full_like(x, -INF)),
        4,
    ),
    "the logarithm of zeros": (lambda s, x, t: x + tril(t).double().log(), None),
    "-1e9 filled in": (lambda s, x, t: x.masked_fill(~tril(t), -1e9), None),
    "-1e9 where it is seen not": (lambda s, x, t: torch.where(tril(t), x, -1e9), None),
    "-1e9 added": (lambda s, x, t: x + (1 - tril(t).double()) * -1e9, None),
    "a map of -1e9": (lambda s, x, t: x + torch.full((t, t), -1e9).triu(1), None),
    "-1e9 by a table": (lambda s, x, t: x + (1 - s.upper[:t, :t].t().double()) * -1e9, None),
    "one minus a mask times the least": (lambda s, x, t: x + (1 - tril(t).double()) * LEAST, None),
    "triu_ of full": (
        lambda s, x, t: x + torch.full((t, t), -INF).triu_(1),
        None,
    ),
    "two triangles": (
        lambda s, x, t: x.masked_fill(~(tril(t) & tril(t, -6).logical_not()), -INF),
        5,
    ),
    "an identity": (
        lambda s, x, t: x.masked_fill(~(torch.eye(t).bool() | tril(t, -2)), -INF),
        None,
    ),
    "slopes of the distance": (
        lambda s, x, t: seen(causal)(s, x - s.slopes[:, None, None] * (at(t)[0] - at(t)[1]), t),
        None,
    ),
    "slopes of the key": (
        lambda s, x, t: seen(within(6))(s, x + s.slopes[:, None, None] * torch.arange(t), t),
        5,
    ),
    "a bias by absolute positions": (biased(lambda r, c: ((r * 7 + c * 3) % 11).double()), None),
    "a bias of the row": (biased(lambda r, c: (r % 5).double() * (c % 3)), None),
    "waves of both": (biased(lambda r, c: (r * 0.1).sin() * (c * 0.3).cos()), None),
    "T5's buckets": (
        lambda s, x, t: seen(causal)(s, x + s.table[buckets(*at(t))].permute(2, 0, 1), t),
        None,
    ),
    "T5's buckets, the least number": (
        lambda s, x, t: (
            x + s.table[buckets(*at(t))].permute(2, 0, 1) + torch.full((t, t), LEAST).triu(1)
        ),
        None,
    ),
    "a table of blocks": (
        lambda s, x, t: seen(causal)(s, x + s.table[at(t)[0] // 50, at(t)[1] % 2], t),
        None,
    ),
    "windows by head": (
        lambda s, x, t: x.masked_fill(
            (at(t)[1] > at(t)[0]) | (at(t)[0] - at(t)[1] >= s.widths[:, None, None]), -INF
        ),
        8,
    ),
    "stacked by head": (
        lambda s, x, t: x.masked_fill(~torch.stack([tril(t), within(3)(*at(t))]), -INF),
        None,
    ),
    "made from the scores": (
        lambda s, x, t: x.masked_fill(torch.ones(t, t, device=x.device).triu(1) == 1, -INF),
        None,
    ),
    "scaled after it was hidden": (lambda s, x, t: seen(within(4))(s, x, t) / 8**0.5, 3),
    "transposed": (lambda s, x, t: x.masked_fill(tril(t).t().logical_not().t(), -INF), None),
    "a biased key, hidden first": (
        lambda s, x, t: x.masked_fill(tril(t, -1).t(), LEAST) + torch.arange(t) % 3,
        None,
    ),
    "expanded to the batch": (
        lambda s, x, t: x.masked_fill(~tril(t).expand(x.shape[0], 2, t, t), -INF),
        None,
    ),
    "repeated for the batch": (
        lambda s, x, t: x.masked_fill(
            ~within(3)(*at(t))[None].repeat(x.shape[0], 1, 1)[:, None], -INF
        ),
        2,
    ),
    "viewed": (
        lambda s, x, t: x.masked_fill(
            ~tril(t)[None].expand(x.shape[0], t, t).reshape(-1, 1, t, t), -INF
        ),
        None,
    ),
    "of the type of the scores": (
        lambda s, x, t: x + torch.full((t, t), -INF).triu(1).type_as(x),
        None,
    ),
    "new beside the scores": (lambda s, x, t: x + x.new_full((t, t), -INF).triu(1), None),
    "a threshold that rounds": (
        seen(lambda r, c: (c <= r) & ((r - c).float() <= 2.9999999999)),
        3,
    ),
    "one after the other by head": (
        lambda s, x, t: x.masked_fill(
            ~torch.cat([within(7)(*at(t))[None], within(3)(*at(t))[None]]), -INF
        ),
        6,
    ),
    "embedded distances": (
        lambda s, x, t: seen(causal)(
            s, x + F.embedding((at(t)[0] - at(t)[1]).clamp(0, 15), s.table).permute(2, 0, 1), t
        ),
        None,
    ),
    "products of positions": (
        lambda s, x, t: seen(within(5))(s, x + s.rows[:t] @ s.rows[:t].t(), t),
        4,
    ),
    "a bias for each key": (lambda s, x, t: seen(within(5))(s, x + s.rows[:t, 0], t), 4),
    "a table, transposed": (lambda s, x, t: x.masked_fill(s.upper[:t, :t].t() == 0, -INF), None),
    "the larger of the least": (
        lambda s, x, t: torch.max(x + torch.full((t, t), LEAST).triu(1), torch.tensor(LEAST).to(x)),
        None,
    ),
    "GPT-2's": (
        lambda s, x, t: torch.where(
            s.upper.t()[None, None, t - t : t, :t] > 0, x, torch.full([], LEAST, dtype=x.dtype)
        ),
        None,
    ),
}
TABLES = {
    "table": torch.randn(16, 2, generator=torch.Generator().manual_seed(1)),
    "rows": torch.randn(400, 3, generator=torch.Generator().manual_seed(3)),
    "upper": torch.ones(400, 400).triu(),
    "widths": torch.tensor([3, 9]),
}


@pytest.mark.parametrize("name", EXACT)
def test_an_exact_mask(name: str) -> None:
    from pgt_fx import transform

    change, window = EXACT[name]
    case = Case(lambda: Scores(change, **TABLES), RIGHT, (1, 4, 8), FAR, chunkings=2)
    assert judge(case) == RIGHT
    model = Scores(change, **TABLES).double().eval()
    prog = transform(model, torch.randn(1, 4, 8).double(), future="wait", check=False)
    state = prog.init_state()
    for _ in range(2):
        _, state = prog.step(state, torch.randn(1, 4, 200).double())
    (kept,) = {
        v.shape[2] if v.shape[2] > 2 else v.shape[3] for k, v in state.items() if "memory" in k
    }
    assert kept == (399 if window is None else window)  # a frame waits for its future
    assert prog.report.grows == (window is None)


def written(s: Any, frames: int) -> Tensor:
    """The first two keys are seen by all after them, and every query sees itself."""
    mask = tril(frames) & ~tril(frames, -4)
    mask[:, :2] = True
    mask.T.diagonal().fill_(False)
    mask = mask & tril(frames)
    mask.diagonal().fill_(True)
    return mask


FUSED: dict[str, Change] = {
    "written in place": lambda s, x, t: written(s, t),
    "written in a view": lambda s, x, t: torch.ones(1, t, t, dtype=torch.bool)[0].tril_(),
    "growing": lambda s, x, t: (at(t)[1] <= at(t)[0]) & (at(t)[1] >= at(t)[0] // 3),
    "a bias": lambda s, x, t: torch.where(causal(*at(t)), (at(t)[0] % 7).double(), -INF),
    "the least number": lambda s, x, t: torch.full((t, t), LEAST).triu(1).double(),
    "by head": lambda s, x, t: torch.stack([tril(t), within(3)(*at(t))])[None],
    "cut": lambda s, x, t: s.seen[None, None, :t, :t],
    "cut and windowed": lambda s, x, t: s.seen[:t, :t] & within(30)(*at(t)),
    "cut from its middle": lambda s, x, t: s.seen[20 : 20 + t, 20 : 20 + t],
    "rows of zeros": lambda s, x, t: at(t)[1] < at(t)[0],
}


@pytest.mark.parametrize("name", FUSED)
def test_a_fused_mask(name: str) -> None:
    at_random = torch.rand(400, 400, generator=torch.Generator().manual_seed(2)) > 0.5
    kept = (at_random & tril(400)) | torch.eye(400).bool()
    case = Case(lambda: Fused(FUSED[name], seen=kept), RIGHT, (1, 4, 8), FAR, chunkings=2)
    assert judge(case) == RIGHT


LINEAR: dict[str, Change] = {
    "a triangle": lambda s, x, t: x * tril(t),
    "decay": lambda s, x, t: x * torch.where(causal(*at(t)), 0.9 ** (at(t)[0] - at(t)[1]), 0.0),
    "a window": lambda s, x, t: x.masked_fill(~within(4)(*at(t)), 0.0),
}


@pytest.mark.parametrize("name", LINEAR)
def test_linear_attention(name: str) -> None:
    assert judge(Case(lambda: Weighed(LINEAR[name]), RIGHT, (1, 4, 8), FAR, chunkings=2)) == RIGHT


@pytest.mark.parametrize("weights", [True, False])
@pytest.mark.parametrize("floats", [True, False])
def test_multihead_attention(weights: bool, floats: bool) -> None:
    def mask(frames: int) -> Tensor:
        hidden = ~((at(frames)[1] <= at(frames)[0]) & (at(frames)[1] >= at(frames)[0] // 8 * 8))
        return torch.zeros(frames, frames).double().masked_fill(hidden, -INF) if floats else hidden

    assert (
        judge(Case(lambda: Multihead(mask, weights), RIGHT, (1, 4, 8), FAR, chunkings=2)) == RIGHT
    )


class Tokens(Scores):
    """Four tokens in each frame."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x).transpose(1, 2).unsqueeze(-1).expand(-1, -1, -1, 4) * self.values
        tokens = y.transpose(2, 3).flatten(1, 2)
        weights = self.change(self, tokens @ tokens.transpose(1, 2), x.shape[2]).softmax(-1)
        return (weights @ tokens).unflatten(1, (-1, 4)).mean(2).transpose(1, 2)


def of_frames(see: Callable[[Tensor, Tensor], Tensor]) -> Change:
    def change(s: Any, x: Tensor, t: int) -> Tensor:
        frame = torch.arange(4 * t) // 4
        return x.masked_fill(~see(frame[:, None], frame[None, :]), -INF)

    return change


TOKENS: dict[str, tuple[Change, str]] = {
    "frames before and its own": (of_frames(causal), RIGHT),
    "a window of frames": (of_frames(within(3)), RIGHT),
    "tokens before": (lambda s, x, t: x.masked_fill(~tril(4 * t), -INF), RIGHT),
    "cut": (lambda s, x, t: x.masked_fill(s.upper.t()[: 4 * t, : 4 * t] == 0, -INF), RIGHT),
    "a token of the next frame": (lambda s, x, t: x.masked_fill(~tril(4 * t, 1), -INF), REFUSED),
}


@pytest.mark.parametrize("name", TOKENS)
def test_a_mask_of_tokens(name: str) -> None:
    change, expected = TOKENS[name]
    values = torch.tensor([1.0, -0.5, 2.0, 0.3])
    case = Case(
        lambda: Tokens(change, values=values, **TABLES),
        expected,
        (1, 4, 8),
        (1, 9, 90),
        chunkings=2,
    )
    assert judge(case) == expected


ALL = "relates every frame"
#: By name: the change, and what the refusal says.
LEAKS: dict[str, tuple[Change, str]] = {
    "within a block": (seen(lambda r, c: r // 8 >= c // 8), ALL),
    "from some row on": (seen(lambda r, c: (c <= r) | (r > 700)), ALL),
    "one entry far on": (seen(lambda r, c: (c <= r) | ((r == 900) & (c == 901))), ALL),
    "one column": (seen(lambda r, c: (c <= r) | (c == 500)), ALL),
    "the first row": (seen(lambda r, c: (c <= r) | (r < 1)), ALL),
    "every hundredth": (seen(lambda r, c: (c <= r) | ((r % 100 == 99) & (c == r + 1))), ALL),
    "twice the row": (seen(lambda r, c: c <= 2 * r), ALL),
    "faster than it looks": (seen(lambda r, c: c <= r + r // 600), ALL),
    "a float that rounds": (seen(lambda r, c: c.float() * 1.0001 <= r.float() * 1.0002), ALL),
    "few bits": (seen(lambda r, c: c.half() <= r.half()), ALL),
    "fewer bits": (seen(lambda r, c: c.to(torch.uint8) <= r.to(torch.uint8)), ALL),
    "a bias of -128": (lambda s, x, t: x.masked_fill(~tril(t), -128.0), ALL),
    "a bias of -1e4": (lambda s, x, t: x + (1 - tril(t).double()) * -1e4, ALL),
    "hidden, then scaled": (lambda s, x, t: (x + torch.full((t, t), LEAST).triu(1)) * 1e-38, ALL),
    "hidden, then clamped": (lambda s, x, t: x.masked_fill(~tril(t), -INF).clamp(min=-5), ALL),
    "hidden, then squashed": (lambda s, x, t: x.masked_fill(~tril(t), -INF).tanh(), ALL),
    "multiplied by zero": (lambda s, x, t: x * tril(t), ALL),
    "a row with nothing but the least": (lambda s, x, t: x.masked_fill(~tril(t, -1), LEAST), ALL),
    "of the number of frames": (seen(lambda r, c: c <= r + (r - r.shape[0]) // 100 + 1), "number"),
    "half of the video": (lambda s, x, t: x.masked_fill(at(t)[1] > t // 2, -INF), "number of fr"),
    "turned around": (lambda s, x, t: x.masked_fill(~tril(t).flip(0), -INF), "flip"),
    "a sum along time": (lambda s, x, t: x.masked_fill(~(tril(t).cumsum(0) > 0), -INF), "cumsum"),
    "a table that leaks at its end": (lambda s, x, t: x.masked_fill(~s.seen[:t, :t], -INF), ALL),
    "-1e9 beside a steep bias": (
        lambda s, x, t: x.masked_fill(~tril(t), -1e9) + 1000.0 * torch.arange(t),
        ALL,
    ),
    "a bias of -1e8": (lambda s, x, t: x.masked_fill(~tril(t), -1e8), "-1e+08, is a bias"),
    "distances by the length": (
        lambda s, x, t: seen(causal)(s, x + s.seen[at(t)[0] - at(t)[1] + t - 1, 0] * 0.1, t),
        "number of frames",
    ),
    "a grid of two": (
        lambda s, x, t: x.masked_fill(
            torch.meshgrid(torch.arange(t), torch.arange(t), indexing="ij")[0] < at(t)[1], -INF
        ),
        "several tensors",
    ),
    "by blocks of a float": (seen(lambda r, c: (c * 0.1).floor() <= (r * 0.1).floor()), ALL),
}


@pytest.mark.parametrize("name", LEAKS)
def test_a_mask_that_leaks(name: str) -> None:
    change, says = LEAKS[name]
    leaky = tril(400)
    leaky[390, 395] = True
    case = Case(lambda: Scores(change, seen=leaky), REFUSED, (1, 4, 8), FAR, says=says)
    assert judge(case) == REFUSED


def test_a_table_of_pairs_ends_the_video() -> None:
    """With the line that cuts it, before a step asks for what it hasn't."""
    from pgt_fx import transform
    from pgt_fx.core.errors import ClipError

    model = Scores(
        lambda s, x, t: x.masked_fill(~s.seen[3 : t + 3, 3 : t + 3], -INF), seen=tril(63)
    )
    prog = transform(model.double().eval(), torch.randn(1, 4, 8).double(), future="wait")
    assert str(prog.video_lengths) == "at most 60"
    with pytest.raises(ClipError, match=r"(?s)at most 60 .*x\.masked_fill\("):
        prog.full(torch.randn(1, 4, 61).double())


@pytest.mark.parametrize("future", ["wait", "zero"])
def test_a_bias_that_is_changed_is_read_anew(future: str) -> None:
    """Entries are those of the buffer as it is, and so is how far back a step looks."""
    from oracles import relative_error

    from pgt_fx import transform

    model = Scores(
        lambda s, x, t: x.masked_fill(~s.seen[:t, :t], -INF), seen=tril(64) & ~tril(64, -3)
    )
    model, video = model.double().eval(), torch.randn(1, 4, 50).double()
    prog = transform(model, video[:, :, :8], future=future)
    for back in (3, 9, 30, 1):
        model.seen.copy_(tril(64) & ~tril(64, -back))
        with torch.no_grad():
            assert relative_error(prog.full(video), model(video)) < 1e-9
            if future == "wait":
                outs = prog.run(video, schedule=[7] * 7 + [1])
                found = torch.cat([o for o in outs if o is not None], 2)
                assert relative_error(found, model(video)) < 1e-9
