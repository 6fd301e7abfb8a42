"""Which axis is time, where the shape of the example does not tell."""

from __future__ import annotations

import pytest
import torch
from oracles import relative_error
from torch import Tensor, nn

import pgt_fx
from pgt_fx.core.errors import ClipError


class Causal(nn.Module):
    """A GRU over (N, T, C)."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(6, 6, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.rnn(x)[0]


class Latents(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(channels, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class WithText(nn.Module):
    """A video beside the words that describe it, (N, words, features)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.text = nn.Conv3d(3, 4, 3, padding=1), nn.Linear(8, 4)

    def forward(self, x: Tensor, words: Tensor) -> Tensor:
        return self.conv(x) + self.text(words).mean(1)[:, :, None, None, None]


class Sums(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.cumsum(2)


@pytest.mark.parametrize(
    ("model", "shape", "time"),
    [
        (nn.Conv1d(6, 6, 3, padding=1), (2, 6, 8), 2),
        (Causal(), (2, 8, 6), 1),
        (Causal(), (2, 6, 6), 1),
        (Latents(8), (2, 8, 3, 4, 4), 2),
        (Latents(3), (2, 3, 3, 4, 4), 2),
        (Latents(3), (2, 3, 8, 4, 4), 2),
        (Latents(16), (2, 16, 8, 4, 4), 2),
    ],
)
def test_the_model_tells_which_axis_is_time(
    model: nn.Module, shape: tuple[int, ...], time: int
) -> None:
    torch.manual_seed(0)
    prog = pgt_fx.transform(model.eval(), torch.randn(shape), future="wait")
    assert prog.inspect.clip.times == (time,)
    video = torch.randn(*shape[:time], 11, *shape[time + 1 :])
    outs = [out for out in prog.run(video, schedule=[4, 4, 3]) if out is not None]
    assert relative_error(torch.cat(outs, time), model(video)) < 1e-5


def test_what_the_model_takes_along_both_axes_is_asked_for() -> None:
    with pytest.raises(ClipError, match=r"Pass time_dim=2 or time_dim=1"):
        pgt_fx.transform(Sums(), torch.randn(2, 6, 8))
    assert pgt_fx.transform(Sums(), torch.randn(2, 6, 8), time_dim=2).time_dims == (2,)


def test_text_beside_a_video_is_no_stream_unless_it_is_called_one() -> None:
    model = WithText().eval()
    clip = torch.randn(1, 3, 8, 4, 4), torch.randn(1, 6, 8)
    with pytest.raises(ClipError, match=r"Pass time_dim=\[2, None\]"):
        pgt_fx.transform(model, clip)
    prog = pgt_fx.transform(model, clip, time_dim=[2, None], future="wait")
    video, words = torch.randn(1, 3, 20, 4, 4), torch.randn(1, 6, 8)
    outs = [out for out in prog.run(video, words, schedule=[8, 8, 4]) if out is not None]
    assert relative_error(torch.cat(outs, 2), model(video, words)) < 1e-5
