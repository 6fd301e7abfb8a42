"""Operators whose dimension means another thing than usual, or whose shapes come in several forms:
right under every chunking, or refused with their line."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from opmodules import Op
from oracles import pieces, relative_error, stitch
from torch import Tensor, nn

import pgt_fx
from pgt_fx.core.errors import BlockedError

EXACT = 1e-9
FRAMES = 11
CHUNKINGS = [[1] * FRAMES, [FRAMES], [3, 3, 3, 2], [5, 1, 4, 1]]
NCTHW = (2, 6, 8, 4, 4)
NTCHW = (2, 8, 6, 4, 4)


def conv(x: Tensor, module: nn.Module, time: int) -> Tensor:
    """A window along time in front of the operator, wherever time is."""
    return module(x.movedim(time, 2)).movedim(2, time)


class Behind(Op):
    """The operator behind a window."""

    def __init__(self, function: Callable[..., Tensor], time: int) -> None:
        super().__init__(function, nn.Conv3d(6, 6, (3, 1, 1), padding=(1, 0, 0)))
        self.time = time

    def forward(self, x: Tensor) -> Tensor:
        return self.function(conv(x, self.inner[0], self.time))


def renormed_channels(x: Tensor) -> Tensor:
    return torch.renorm(x, 2, 1, 5.0)  # NCTHW


def renormed_frames(x: Tensor) -> Tensor:
    return torch.renorm(x, 2, 1, 5.0)  # NTCHW


def renormed_merged(x: Tensor) -> Tensor:
    return torch.renorm(x.flatten(0, 1), 2, 0, 3.0).unflatten(0, (x.shape[0], x.shape[1]))


def shuffled(x: Tensor) -> Tensor:
    return F.channel_shuffle(x, 2)


def shuffled_frame_wise(x: Tensor) -> Tensor:
    return F.channel_shuffle(x.flatten(0, 1), 2).unflatten(0, (x.shape[0], x.shape[1]))


def split_across(x: Tensor) -> Tensor:
    first, second = torch.hsplit(x, 2)
    return first * second


def split_in_pieces(x: Tensor) -> Tensor:
    first, second = torch.tensor_split(x, 2, 1)
    return torch.cat([second, first], 1)


def turned_around(x: Tensor) -> Tensor:
    return x.T.contiguous().permute(4, 3, 2, 1, 0) * 2


def turned_last(x: Tensor) -> Tensor:
    return x.mT.softmax(-2)


def tiled(x: Tensor) -> Tensor:
    return torch.tile(x, (2,))


def tiled_in_front(x: Tensor) -> Tensor:
    return torch.tile(x, (1, 2, 1, 1, 1, 1)).sum(1)


def repeated(x: Tensor) -> Tensor:
    return x.repeat(1, 2, 1, 1, 3)


def bits(x: Tensor) -> Tensor:
    return (x.view(torch.int64) // 2**40).to(x.dtype)


def clamped(x: Tensor) -> Tensor:
    return x[:, :1].clamp(x.amin((1, 3, 4), keepdim=True), x.abs())


def unfolded(x: Tensor) -> Tensor:
    n, t, c, h, w = x.shape
    return F.unfold(x.reshape(n * t, c, h, w), 2).reshape(n, t, c * 4, -1)


def folded(x: Tensor) -> Tensor:
    y = F.unfold(x.flatten(0, 1), 2, stride=2).tanh()
    return F.fold(y, (4, 4), 2, stride=2).unflatten(0, (x.shape[0], x.shape[1]))


def pixels_shuffled(x: Tensor) -> Tensor:
    return F.pixel_unshuffle(x, 2).tanh()


RIGHT = [
    (renormed_frames, NTCHW),
    (renormed_merged, NTCHW),
    (shuffled, NCTHW),
    (shuffled_frame_wise, NTCHW),
    (split_across, NCTHW),
    (split_in_pieces, NCTHW),
    (turned_around, NTCHW),
    (turned_last, NCTHW),
    (tiled, NCTHW),
    (tiled_in_front, NCTHW),
    (repeated, NCTHW),
    (bits, NCTHW),
    (clamped, NCTHW),
    (unfolded, NTCHW),
    (folded, NTCHW),
    (pixels_shuffled, NTCHW),
]


@pytest.mark.parametrize(("function", "clip"), RIGHT, ids=lambda x: getattr(x, "__name__", ""))
def test_right_under_every_chunking(
    function: Callable[[Tensor], Tensor], clip: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    time = 2 if clip == NCTHW else 1
    model = Behind(function, time).double().eval()
    example = torch.randn(clip).double()
    prog = pgt_fx.transform(model, example, future="wait", time_dim=time)
    video = torch.randn([FRAMES if d == time else s for d, s in enumerate(clip)]).double()
    with torch.no_grad():
        whole = model(video.clone())
        assert relative_error(prog.full(video.clone()), whole) < EXACT
        for chunks in CHUNKINGS:
            outs, state = [], prog.init_state()
            for number, piece in enumerate(pieces(video, chunks, time)):
                out, state = prog.step(state, piece, last=number == len(chunks) - 1)
                outs.append(out)
            assert prog.time_dims[0] is not None
            assert relative_error(stitch(outs, prog.time_dims[0]), whole) < EXACT, chunks


def unfolded_frames(x: Tensor) -> Tensor:
    return F.unfold(x[0, 0], 2)


def folded_frames(x: Tensor) -> Tensor:
    return F.fold(x[0, 0, :, :1].repeat(1, 4, 1).flatten(0, 1), (2, 2), 1)


def smaller_bits(x: Tensor) -> Tensor:
    return x.view(torch.int32).to(x.dtype)


def tiled_video(x: Tensor) -> Tensor:
    return torch.tile(x, (2, 1, 1))


REFUSED = [
    (renormed_channels, NCTHW, "norm over all axes but one"),
    (shuffled, NTCHW, "shuffles dimension 1, which holds time"),
    (split_across, NTCHW, "cuts the video into pieces"),
    (unfolded_frames, NCTHW, "time stands in the place of the channels"),
    (folded_frames, NCTHW, "time stands in the place of the channels"),
    (smaller_bits, NCTHW, "a type of another size"),
    (tiled_video, NCTHW, "repeats the whole video"),
]


@pytest.mark.parametrize(
    ("function", "clip", "reason"), REFUSED, ids=lambda x: getattr(x, "__name__", "")
)
def test_refused_with_the_line(
    function: Callable[[Tensor], Tensor], clip: tuple[int, ...], reason: str
) -> None:
    time = 2 if clip == NCTHW else 1
    with pytest.raises(BlockedError, match=reason) as caught:
        pgt_fx.transform(
            Behind(function, time).double().eval(), torch.randn(clip).double(), time_dim=time
        )
    assert "test_rules_at_the_edge.py:" in caught.value.blockers[0].place.source
