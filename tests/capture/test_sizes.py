"""Python that looks at sizes: a branch on the frames of a chunk, on the batch or on the space, axes
of size one, and sizes that are left open.

The graph is the model at the example's own sizes, whatever sizes it was captured at; at others it
is the model as well, or the video is refused.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from oracles import pieces, relative_error, stitch
from torch import Tensor, nn

import pgt_fx
from pgt_fx.core.errors import ClipError, ExactnessError, OtherClipError

EXACT = 1e-9
FRAMES = 11
CHUNKINGS = [[1] * FRAMES, [FRAMES], [3, 3, 3, 2], [5, 1, 4, 1]]
CLIP = (2, 3, 8, 4, 4)


def along_time(**options: int) -> nn.Conv3d:
    return nn.Conv3d(3, 3, (3, 1, 1), padding=(1, 0, 0), **options)


def transformed(model: nn.Module, clip: tuple[int, ...], **options: Any) -> pgt_fx.Progressive:
    return pgt_fx.transform(model, torch.randn(clip).double(), future="wait", **options)


def streams(
    model: nn.Module, clip: tuple[int, ...] = CLIP, video: tuple[int, ...] | None = None
) -> pgt_fx.Progressive:
    """The model's progressive form, which must answer a video as the model does."""
    torch.manual_seed(0)
    model = model.double().eval()
    prog = transformed(model, clip)
    check(prog, model, video or clip)
    return prog


def check(prog: pgt_fx.Progressive, model: nn.Module, sizes: tuple[int, ...]) -> None:
    x = torch.randn(*sizes[:2], FRAMES, *sizes[3:]).double()
    with torch.no_grad():
        whole = model(x.clone())
        assert relative_error(prog.full(x.clone()), whole) < EXACT
        for chunks in CHUNKINGS:
            outs, state = [], prog.init_state()
            for number, piece in enumerate(pieces(x, chunks)):
                out, state = prog.step(state, piece, last=number == len(chunks) - 1)
                outs.append(out)
            (dim,) = prog.time_dims
            assert dim is not None
            assert relative_error(stitch(outs, dim), whole) < EXACT, chunks


def captured_anew(prog: pgt_fx.Progressive, model: nn.Module, sizes: tuple[int, ...]) -> None:
    """Videos of these sizes take another branch: the model is captured anew for them."""
    check(prog, model, sizes)
    assert len(prog._programs._resized) == 1
    check(prog, model, sizes)
    assert len(prog._programs._resized) == 1, "captured once"


# --------------------------------------------------------------- a module that looks at its frames


class ImageOrVideo(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.image, self.video = nn.Conv3d(3, 3, 1), nn.Conv3d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.image(x) if x.shape[2] == 1 else self.video(x)


class WantsVideo(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        assert x.shape[2] >= 4, "a video, please"
        return self.conv(x)


class RaisesOnFew(WantsVideo):
    def forward(self, x: Tensor) -> Tensor:
        if x.shape[2] < 4:
            raise ValueError("a video, please")
        return self.conv(x)


class Stem(nn.Module):
    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.stem, self.block = along_time(), block

    def forward(self, x: Tensor) -> Tensor:
        return self.block(self.stem(x))


@pytest.mark.parametrize(
    ("block", "lengths"),
    [(ImageOrVideo, "at least 2"), (WantsVideo, "at least 4"), (RaisesOnFew, "at least 4")],
)
def test_a_module_decides_by_the_video_not_by_the_chunk(
    block: type[nn.Module], lengths: str
) -> None:
    prog = streams(Stem(block()))
    assert str(prog.video_lengths) == lengths
    with pytest.raises(ClipError, match=f"takes videos of {lengths} frames"):
        prog.full(torch.randn(2, 3, 1, 4, 4).double())


class FrameWise(nn.Module):
    """Frames merged with the batch: of a video of one row, a chunk of one frame is one image."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.stem, self.block = along_time(), block

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        b, c, t, h, w = y.shape
        y = self.block(y.transpose(1, 2).reshape(b * t, c, h, w))
        return y.reshape(b, t, c, h, w).transpose(1, 2)


class DoublesOne(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return y * 2 if x.shape[0] == 1 else y


def test_a_frame_wise_module_that_looks_at_its_batch() -> None:
    streams(FrameWise(DoublesOne()), (1, 3, 8, 4, 4))


class LooksAtSpace(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv3d(3, 3, 1), nn.BatchNorm3d(3)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] != 3 or x.shape[-1] > 4096:
            raise ValueError("an image, please")
        return self.norm(self.conv(x))


def test_a_module_that_does_not_look_at_time_is_called_whole() -> None:
    prog = streams(Stem(LooksAtSpace()))
    assert "self.block(" in prog.code
    check(prog, prog.inspect.model, (3, 3, 8, 7, 6))


# -------------------------------------------------------------------------------- batch and space


class PadsToEight(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = along_time()

    def forward(self, x: Tensor) -> Tensor:
        h = x.shape[3]
        pad = (8 - h % 8) % 8
        if pad:
            x = F.pad(x, (0, 0, 0, pad))
        y = self.conv(x - x.mean(3, keepdim=True))
        return y[:, :, :, :h]


def test_a_branch_on_space_is_the_one_of_the_example() -> None:
    model = PadsToEight()
    prog = streams(model)
    check(prog, model, (1, 3, 8, 5, 9))
    captured_anew(prog, model, (2, 3, 8, 8, 4))
    model = PadsToEight()
    other = streams(model, (2, 3, 8, 8, 4))
    captured_anew(other, model, (2, 3, 8, 4, 4))


def test_one_video_keeps_its_space() -> None:
    prog = transformed(PadsToEight().double().eval(), CLIP)
    prog(torch.randn(2, 3, 1, 8, 8).double())
    with pytest.raises(ClipError, match="another size within one video"):
        prog(torch.randn(2, 3, 1, 4, 4).double())


class KnowsTwoSizes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = along_time()

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[3] not in (4, 8):
            raise ValueError(f"{x.shape[3]} rows")
        return self.conv(x) / math.sqrt(x.shape[3])


def test_a_size_that_the_model_refuses_is_refused_with_its_line() -> None:
    model = KnowsTwoSizes()
    prog = streams(model)
    captured_anew(prog, model, (1, 3, 8, 8, 8))
    with pytest.raises(OtherClipError, match="does not run on it: ValueError: 6 rows") as caught:
        prog.full(torch.randn(2, 3, 8, 6, 4).double())
    assert "test_sizes.py:" in str(caught.value)


class BatchOfOne(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = along_time()

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        if x.shape[0] == 1:
            y = y * 2
        return y


def test_a_branch_on_the_batch_is_the_one_of_the_example() -> None:
    model = BatchOfOne()
    one = streams(model, (1, 3, 8, 4, 4))
    captured_anew(one, model, (2, 3, 8, 4, 4))
    model = BatchOfOne()
    two = streams(model)
    check(two, model, (5, 3, 8, 4, 4))
    captured_anew(two, model, (1, 3, 8, 4, 4))
    for prog in (one, two):
        assert pgt_fx.verify(prog).ok


class RowByRow(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = along_time()

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([self.conv(x[i]) * (i + 1) for i in range(x.shape[0])])


def test_a_loop_over_the_batch_has_the_example_s_turns() -> None:
    model = RowByRow()
    captured_anew(streams(model, (3, 3, 8, 4, 4)), model, (4, 3, 8, 4, 4))


class Square(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = along_time()

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        if x.shape[3] == x.shape[4]:
            y = y + y.transpose(3, 4)
        return y


def test_a_square_clip_says_nothing_of_others() -> None:
    model = Square()
    captured_anew(streams(model), model, (2, 3, 8, 4, 6))
    model = Square()
    other = streams(model, (2, 3, 8, 4, 6))
    check(other, model, (2, 3, 8, 5, 8))
    captured_anew(other, model, (2, 3, 8, 4, 4))


class ManyTokens(nn.Module):
    """Another way from a number of tokens on: how many frames that is depends on the space."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = along_time()

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        if x.shape[2] * x.shape[3] * x.shape[4] <= 32:
            y = y * 2
        return y


def test_a_branch_on_frames_and_space_together() -> None:
    model = ManyTokens()
    prog = streams(model)
    assert str(prog.video_lengths) == "at least 3"
    check(prog, model, (1, 3, 8, 4, 4))
    small = torch.randn(2, 3, 11, 2, 2).double()  # there it goes the other way up to 8 frames
    with torch.no_grad():
        assert relative_error(prog.full(small[:, :, :8]), model(small[:, :, :8])) < EXACT
    with pytest.raises(ClipError, match="at most 8 frames") as caught:
        prog.full(small)
    assert "if x.shape[2] * x.shape[3] * x.shape[4] <= 32:" in str(caught.value)


class Asserts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = along_time()

    def forward(self, x: Tensor) -> Tensor:
        assert x.shape[0] < 64 and x.shape[3] % 2 == 0
        return self.conv(x)


class AssertsByTorch(Asserts):
    def forward(self, x: Tensor) -> Tensor:
        torch._assert(x.shape[0] < 64, f"{x.shape[0]} videos")
        torch._assert(x.shape[3] % 2 == 0, f"an even height, and not {x.shape[3]}")
        return self.conv(x)


class ChecksByTorch(Asserts):
    def forward(self, x: Tensor) -> Tensor:
        torch._check(x.shape[0] < 64)
        torch._check(x.shape[3] % 2 == 0, lambda: "an even height")
        return self.conv(x)


@pytest.mark.parametrize("kind", [Asserts, AssertsByTorch, ChecksByTorch])
def test_an_assertion_is_no_branch_and_a_guard(kind: type[Asserts]) -> None:
    model = kind()
    prog = streams(model)
    check(prog, model, (1, 3, 8, 6, 5))
    assert any("shape[3] % 2" in line for guard in prog.guards for line in guard.because)
    with pytest.raises(ClipError, match=r"shape\[3\] % 2"):
        prog.full(torch.randn(1, 3, 8, 5, 5).double())


# ------------------------------------------------------------------------------- axes of size one


class SqueezedToTime(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(3, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x.squeeze(-1).squeeze(3))


def test_space_of_size_one_is_squeezed() -> None:
    model = SqueezedToTime()
    prog = streams(model, (2, 3, 8, 1, 1))
    check(prog, model, (4, 3, 8, 1, 1))
    with pytest.raises(OtherClipError, match="expected size 1 in dimension 3"):
        prog.full(torch.randn(2, 3, 8, 2, 2).double())


def test_what_then_is_last_is_time() -> None:
    class LastAxis(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.squeeze(-1).squeeze(-1).softmax(-1)

    with pytest.raises(ExactnessError, match="softmax"):
        transformed(LastAxis(), (2, 3, 8, 1, 1))


class SqueezedBatch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = along_time()

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x.squeeze(0)).unsqueeze(0) if x.shape[1] == 3 else x


def test_a_batch_of_one_is_squeezed() -> None:
    prog = streams(SqueezedBatch(), (1, 3, 8, 4, 4))
    two = torch.randn(2, 3, 8, 4, 4).double()  # the squeeze does nothing to them
    assert relative_error(prog.full(two), prog.inspect.model(two)) < EXACT


class SqueezedIfOne(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(3, 3, (3, 3, 3), padding=1, stride=(1, 2, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).squeeze(4)


def test_a_squeeze_that_does_nothing_at_the_example_s_size() -> None:
    model = SqueezedIfOne()
    prog = streams(model)
    check(prog, model, (1, 3, 8, 6, 7))
    captured_anew(prog, model, (2, 3, 8, 2, 2))
    small = SqueezedIfOne()
    check(streams(small, (2, 3, 8, 4, 2)), small, (3, 3, 8, 6, 2))


class Pooled(nn.Module):
    """The usual squeezes: of axes that a mean made one, and of what has no time."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = along_time()
        self.bias = nn.Parameter(torch.randn(1, 3, 1))

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x).mean((3, 4), keepdim=True)
        return y.squeeze(-1).squeeze(-1) + self.bias.squeeze(0)


@pytest.mark.parametrize("rows", [1, 2])
def test_axes_of_constant_size_are_squeezed_at_any_batch_and_space(rows: int) -> None:
    model = Pooled()
    prog = streams(model, (rows, *CLIP[1:]))
    for video in ((1, 3, 8, 1, 1), (3, 3, 8, 5, 7)):
        check(prog, model, video)


# ------------------------------------------------------------------------------------- open sizes


class OpenWidth(nn.Module):
    def __init__(self, height: bool = False) -> None:
        super().__init__()
        self.conv, self.height = nn.Conv2d(3, 3, 3, padding=1), height

    def forward(self, x: Tensor) -> Tensor:
        b, c, t, h, w = x.shape
        size = (-1, w) if self.height else (h, -1)
        y = self.conv(x.transpose(1, 2).reshape(b * t, c, *size))
        return y.reshape(b, t, c, h, w).transpose(1, 2)


class OpenBatch(OpenWidth):
    def forward(self, x: Tensor) -> Tensor:
        b, c, t, h, w = x.shape
        y = self.conv(x.transpose(1, 2).reshape(-1, c, h, w))
        return y.reshape(b, t, c, h, w).transpose(1, 2)


class OpenPixels(OpenWidth):
    def forward(self, x: Tensor) -> Tensor:
        b, c, t, h, w = x.shape
        y = x.transpose(1, 2).reshape(b, t, c, -1)
        return (y - y.mean(-1, keepdim=True)).reshape(b, t, c, h, w).transpose(1, 2)


@pytest.mark.parametrize(
    "model",
    [OpenWidth(), OpenWidth(True), OpenBatch(), OpenPixels()],
    ids=lambda m: type(m).__name__,
)
@pytest.mark.parametrize("rows", [1, 2])
def test_a_size_left_open_is_its_own(model: nn.Module, rows: int) -> None:
    prog = streams(model, (rows, *CLIP[1:]), (rows, 3, 8, 4, 8))
    check(prog, model, (3, 3, 8, 6, 4))


class WithoutBatch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(3, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).squeeze(0)


@pytest.mark.parametrize(("first", "other"), [(1, 2), (2, 1)])
def test_time_dims_are_those_of_what_was_answered_last(first: int, other: int) -> None:
    model = WithoutBatch().double().eval()
    prog = pgt_fx.transform(model, torch.randn(first, 3, 8).double(), time_dim=2, future="wait")
    for rows in (first, other, first):
        x = torch.randn(rows, 3, 11).double()
        outs = [y for y in prog.run(x, schedule=[4, 4, 3]) if y is not None]
        assert prog.time_dims == (rows,)  # of (3, T), and of (2, 3, T)
        assert relative_error(torch.cat(outs, prog.time_dims[0] or 0), model(x)) < EXACT
    assert copy.deepcopy(prog).time_dims == prog.time_dims
