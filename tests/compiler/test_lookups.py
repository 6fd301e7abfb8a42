"""Rows that are looked up by positions: videos are of the lengths at which there are such rows."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from oracles import relative_error
from torch import Tensor, nn

import pgt_fx
from pgt_fx.core.errors import ClipError

ROWS, CLIP = 12, 8


class Net(nn.Module):
    """A convolution along time (N, 3, T), and rows of a table beside its elements."""

    def __init__(self, call: Callable[[Net, Tensor, Tensor], Tensor], rows: int = ROWS) -> None:
        super().__init__()
        self.conv, self.table = nn.Conv1d(3, 3, 3, padding=1), nn.Embedding(rows, 3)
        self.call = call

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return self.call(self, y, torch.arange(y.shape[2], device=y.device))


def strided(net: Net, y: Tensor, at: Tensor) -> Tensor:
    y = y[:, :, ::3]
    return y + net.table(torch.arange(y.shape[2])).T


def for_each_video(net: Net, y: Tensor, at: Tensor) -> Tensor:
    return y + net.table(at.unsqueeze(0).expand(y.shape[0], y.shape[2])).mT


def attended(bias: Callable[[Net, Tensor], Tensor]) -> Callable[[Net, Tensor, Tensor], Tensor]:
    def call(net: Net, y: Tensor, at: Tensor) -> Tensor:
        back = at[:, None] - at[None]
        mask = net.table(bias(net, back))[..., 0].masked_fill(back < 0, -torch.inf)
        return F.scaled_dot_product_attention(y.mT, y.mT, y.mT, attn_mask=mask).mT

    return call


#: What is looked up, and the most frames for which there are rows; None: any number.
LOOKUPS: dict[str, tuple[Callable[[Net, Tensor, Tensor], Tensor], int | None]] = {
    "each position": (lambda net, y, at: y + net.table(at).T, ROWS),
    "for each video": (for_each_video, ROWS),
    "every other row": (lambda net, y, at: y + net.table(2 * at + 1).T, ROWS // 2),
    "in blocks": (lambda net, y, at: y + net.table(at // 4).T, 4 * ROWS),
    "behind a stride": (strided, 3 * ROWS),
    "from a later one": (lambda net, y, at: y + net.table(at + 3).T, ROWS - 3),
    "from the end": (lambda net, y, at: y + net.table(ROWS - 1 - at).T, ROWS),
    "all around": (lambda net, y, at: y + net.table(at % ROWS).T, None),
    "the last one for ever": (lambda net, y, at: y + net.table(at.clamp(max=ROWS - 1)).T, None),
    "by distance": (attended(lambda net, back: back.abs()), ROWS),
    "by distance, up to a bound": (attended(lambda net, back: back.clamp(0, ROWS - 1)), None),
}


def made(
    call: Callable[[Net, Tensor, Tensor], Tensor], rows: int = ROWS, future: str = "wait"
) -> tuple[Net, pgt_fx.Progressive]:
    torch.manual_seed(0)
    model = Net(call, rows).double().eval()
    clip = torch.randn(2, 3, CLIP).double()
    strict = future == "wait"
    return model, pgt_fx.transform(model, clip, time_dim=2, future=future, strict=strict)


@pytest.mark.parametrize("name", LOOKUPS)
def test_a_video_ends_where_the_table_does(name: str) -> None:
    call, most = LOOKUPS[name]
    # A clip has to be given for which there are rows.
    rows = 2 * ROWS if most is not None and most < CLIP else ROWS
    most = most if rows == ROWS else None if most is None else 2 * most
    model, prog = made(call, rows)
    for frames in (ROWS - 4, ROWS, ROWS + 1, 2 * ROWS, 3 * ROWS, 3 * ROWS + 1, 4 * ROWS + 1):
        x = torch.randn(1, 3, frames).double()
        steps = [5] * (frames // 5) + [frames % 5] * bool(frames % 5)
        try:
            wanted = model(x)
        except IndexError:
            assert not prog.video_lengths.allows(frames)
            for run in (prog.full, lambda x, steps=steps: prog.run(x, schedule=steps)):
                with pytest.raises(ClipError, match=r"at most(.|\n)*test_lookups\.py:\d+"):
                    run(x)
        else:
            assert prog.video_lengths.allows(frames)
            got = torch.cat([y for y in prog.run(x, schedule=steps) if y is not None], 2)
            assert relative_error(got, wanted) < 1e-9
    assert prog.video_lengths.most == most
    assert any("rows" in c.text for c in prog.inspect.analysis.lengths.conditions) == bool(most)


def test_a_clip_as_long_as_the_table_is_taken() -> None:
    _, prog = made(LOOKUPS["each position"][0], CLIP)
    assert str(prog.video_lengths) == f"at most {CLIP}"
    (guard,) = [g for g in prog.guards if "videos of" in g.words]
    assert "self.call" in guard.because[0] or "net.table(at)" in guard.because[0]


#: Read from the first row in every step, as a table of a clip's rows is.
ANEW: dict[str, Callable[[Net, Tensor, Tensor], Tensor]] = {
    "index": lambda net, y, at: y + net.table.weight[at].T,
    "index_select": lambda net, y, at: y + net.table.weight.index_select(0, at).T,
    "gather": lambda net, y, at: (
        y + net.table.weight.gather(0, at[:, None].expand(at.shape[0], 3)).T
    ),
    "take": lambda net, y, at: y + net.table.weight[:, 0].take(at),
}


@pytest.mark.parametrize("name", ANEW)
def test_a_step_longer_than_a_table_that_is_read_anew_is_refused_in_our_words(name: str) -> None:
    _, prog = made(ANEW[name], future="zero")
    x = torch.randn(1, 3, 4 * ROWS).double()
    assert len(prog.run(x, schedule=[ROWS] * 4)) == 4
    with pytest.raises(ClipError, match=r"a row is looked up(.|\n)*12 rows\n.*shorter chunks"):
        prog.full(x)


def test_an_index_error_of_the_video_s_own_numbers_is_the_model_s() -> None:
    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.conv = nn.Embedding(ROWS, 3), nn.Conv1d(3, 3, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(self.table(x).mT)

    clip = torch.randint(0, ROWS, (2, CLIP))
    prog = pgt_fx.transform(Words().eval(), clip, time_dim=1, future="wait")
    with pytest.raises(IndexError, match="out of range"):
        prog.full(clip + ROWS)
