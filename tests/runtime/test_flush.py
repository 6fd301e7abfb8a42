"""The end of a live video: what is still due is given without new frames."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from opinfos import OpInfo
from oracles import pieces, relative_error, stitch
from test_random_graphs import DIMS, draw_case, draw_chunks
from test_random_graphs import transform as transformed
from test_rules import EXACT, build, chunkings, records, transform, video
from torch import Tensor, nn

import pgt_fx
from pgt_fx.core.errors import ClipError, StateError


def flushed(prog: Any, x: Any, chunks: list[int], time: int = 2, *, empty: bool = False) -> list:
    """All steps, none of them told that it is the last, and the end of the video."""
    prog.reset()
    with torch.no_grad():
        outputs = [prog(clip) for clip in pieces(x, chunks, time)]
        end = x.narrow(time, 0, 0) if empty else None
        return [*outputs, prog.flush() if end is None else prog(end, last=True)]


@records("exact")
def test_chunks_and_a_flush_are_the_whole_video(info: OpInfo) -> None:
    model, x = build(info), video(info)
    with torch.no_grad():
        whole = model(x.clone())
    prog = transform(info, model, future="wait")
    for number, chunks in enumerate(chunkings(info)):
        outputs = flushed(prog, x, chunks, info.time, empty=number % 2 == 1)
        assert relative_error(stitch(outputs, info.out), whole) <= EXACT, chunks


@records("exact")
def test_under_zero_a_flush_gives_what_a_video_that_ends_then_has_left(info: OpInfo) -> None:
    model, x = build(info), video(info)
    with torch.no_grad():
        whole = model(x.clone())
    prog = transform(info, model, future="zero")
    for chunks in chunkings(info):
        outputs = flushed(prog, x, chunks, info.time)
        assert stitch(outputs, info.out).shape == whole.shape, chunks


@records("running")
def test_a_flush_tells_the_running_answer(info: OpInfo) -> None:
    model, x = build(info), video(info)
    with torch.no_grad():
        whole = model(x)
    prog = transform(info, model, pooling="running", future="wait")
    for number, chunks in enumerate(chunkings(info)):
        last = flushed(prog, x, chunks, info.time, empty=number % 2 == 1)[-1]
        assert relative_error(last, whole) <= EXACT, chunks
        assert last.shape == whole.shape and last.dtype == whole.dtype


@DIMS
@given(data=st.data())
@settings(max_examples=25)
def test_random_graphs_end_without_frames(dims: int, data: st.DataObject) -> None:
    spec, model, x, whole = draw_case(data, dims)
    prog = transformed(spec, model, future="wait")
    chunks = draw_chunks(data, x.shape[2])
    empty = data.draw(st.booleans(), label="an empty chunk")
    assert relative_error(stitch(flushed(prog, x, chunks, empty=empty)), whole) <= EXACT


class Causal(nn.Module):
    """Attention under a causal mask behind a convolution that looks ahead, with positions."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(4, 4, 3, padding=1)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x).transpose(1, 2)
        x = x + torch.arange(x.shape[1], device=x.device, dtype=x.dtype)[:, None].sin()
        mask = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).triu(1)
        return self.attention(x, x, x, attn_mask=mask, need_weights=False)[0].transpose(1, 2)


class Apart(nn.Module):
    """A first frame apart, and the rest behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.rest = nn.Conv1d(4, 4, 7), nn.Conv1d(4, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.first(x)[:, :, :1], self.rest(x)[:, :, 1:]], 2)


class Recurrent(nn.Module):
    """A recurrent layer behind a window: its elements, and the state that it ends in."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.lstm = nn.Conv1d(4, 4, 5, padding=2), nn.LSTM(4, 5, batch_first=True)

    def forward(self, x: Tensor) -> Any:
        y, (hidden, cell) = self.lstm(self.conv(x).transpose(1, 2))
        return {"all": y.transpose(1, 2).cumsum(2), "last": hidden[0] + cell[0]}


class Sizes(nn.Module):
    """Sizes of the clip used behind a window, whose last elements come with the flush."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(4, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        n, c, _ = x.shape
        y = self.conv(x).view(n, 2, c // 2, -1) + torch.ones(n, 2, 1, 1, device=x.device)
        return y.flatten(1, 2) + x


class Two(nn.Module):
    """Two paths, one with four frames for each of the other."""

    def __init__(self) -> None:
        super().__init__()
        self.slow = nn.Conv1d(4, 4, 3, padding=1)
        self.fast = nn.Conv1d(4, 4, 5, stride=4, padding=2)

    def forward(self, slow: Tensor, fast: Tensor) -> Tensor:
        return self.slow(slow) + self.fast(fast)


def double(kind: type[nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return kind().double().eval()


def features(frames: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, 4, frames, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("kind", [Causal, Apart, Recurrent, Sizes])
@pytest.mark.parametrize("empty", [False, True], ids=["flush", "an empty chunk"])
def test_a_flush_of_what_carries_otherwise(kind: type[nn.Module], empty: bool) -> None:
    model, x = double(kind), features(23)
    prog = pgt_fx.transform(model, features(8), future="wait", pooling="running")
    with torch.no_grad():
        whole = model(x)
    for chunks in ([1] * 23, [5, 5, 13], [22, 1], [23]):
        outputs = flushed(prog, x, chunks, empty=empty)
        if isinstance(whole, dict):
            given_ = [y["all"] for y in outputs if y is not None and y["all"] is not None]
            assert relative_error(torch.cat(given_, 2), whole["all"]) <= EXACT
            assert relative_error(outputs[-1]["last"], whole["last"]) <= EXACT
        else:
            assert relative_error(stitch(outputs), whole) <= EXACT


def test_two_paths_are_flushed_together() -> None:
    model = double(Two)
    slow, fast = features(9), features(36, 1)
    prog = pgt_fx.transform(model, (features(4), features(16)), future="wait")
    whole = model(slow, fast)
    for end in (prog.flush, lambda: prog(slow[:, :, :0], fast[:, :, :0], last=True)):
        prog.reset()
        outputs = [prog(slow[:, :, :5], fast[:, :, :20]), prog(slow[:, :, 5:], fast[:, :, 20:])]
        assert relative_error(stitch([*outputs, end()]), whole) <= EXACT
    prog.reset()
    prog(slow, fast)
    with pytest.raises(ClipError, match="0 and 4 frames: expected some of each input, or none"):
        prog(slow[:, :, :0], fast[:, :, :4], last=True)


def test_the_pure_step_takes_an_empty_end_and_keeps_gradients() -> None:
    model, x = double(Apart), features(17)
    prog = pgt_fx.transform(model, features(8), future="wait").train()
    x.requires_grad_()
    out, state = prog.step({}, x, detach=False)
    rest, state = prog.step(state, x[:, :, :0], last=True, detach=False)
    whole = model(x)
    assert relative_error(stitch([out, rest]), whole) <= EXACT
    inputs = [x, *model.parameters()]
    found = torch.autograd.grad(stitch([out, rest]).square().sum(), inputs)
    assert relative_error(found, torch.autograd.grad(whole.square().sum(), inputs)) <= EXACT
    # As in any step, what is kept inside is cut off: the flush reaches weights, and no frame.
    prog.reset()
    prog(x)
    rest = prog.flush()
    assert rest.requires_grad and not any(v.requires_grad for v in prog.state.values())
    (none, *weights) = torch.autograd.grad(rest.sum(), inputs, allow_unused=True)
    assert none is None and any(w is not None for w in weights)


def test_a_flush_ends_the_video_as_a_last_step_does() -> None:
    prog = pgt_fx.transform(double(Apart), features(8), future="wait")
    with pytest.raises(StateError, match=r"no frame has come since reset\(\)"):
        prog.flush()
    prog.state = prog.init_state(features(8))
    with pytest.raises(StateError, match="nothing to flush"):
        prog.flush()
    with pytest.raises(StateError, match="a video without frames: there is nothing to flush"):
        prog(features(8)[:, :, :0], last=True)
    prog.reset()
    with pytest.raises(ClipError, match=r"an empty chunk, \(2, 4, 0\).*last=True"):
        prog(features(8)[:, :, :0])
    first = [prog(features(9)), prog.flush()]
    for again in (prog.flush, lambda: prog(features(9))):
        with pytest.raises(StateError, match=r"the video has ended \(last=True\); call reset\(\)"):
            again()
    prog.reset()
    assert relative_error(prog(features(9), last=True), stitch(first)) <= EXACT
    with pytest.raises(StateError, match="the video has ended"):
        prog.flush()


class Odd(nn.Module):
    """Takes 4n + 1 frames."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(4, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        if (x.shape[2] - 1) % 4 != 0:
            raise ValueError("4n + 1 frames")
        return self.conv(x)


def test_a_video_of_a_length_that_the_model_does_not_take_is_refused_at_its_flush() -> None:
    model = double(Odd)
    prog = pgt_fx.transform(model, features(9), future="wait")
    outputs = [prog(features(13)[:, :, :12])]
    with pytest.raises(ClipError, match="takes videos of 4n \\+ 1 frames, and this one ends at 12"):
        prog.flush()
    outputs += [prog(features(13)[:, :, 12:]), prog.flush()]  # the refusal left the video as it was
    assert relative_error(stitch(outputs), model(features(13))) <= EXACT


class Boxes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(4, 4, 3, padding=1)

    def forward(self, x: Tensor, scale: Tensor) -> Tensor:
        return self.conv(x) * scale


def test_an_input_without_time_is_given_with_an_empty_chunk() -> None:
    model, x, scale = double(Boxes), features(11), torch.tensor([2.0, 3.0]).double()[:, None, None]
    prog = pgt_fx.transform(model, (features(8), scale), time_dim=[2, None], future="wait")
    outputs = [prog(x, scale)]
    with pytest.raises(ClipError, match="input 1 of this model has no time axis"):
        prog.flush()
    outputs.append(prog(x[:, :, :0], scale, last=True))
    assert relative_error(stitch(outputs), model(x, scale)) <= EXACT


@pytest.mark.parametrize("how", ["half", "compiled", "copied"])
def test_a_flush_of_a_model_that_was_moved_compiled_or_copied(how: str) -> None:
    model, x = double(Sizes), features(17)
    prog = pgt_fx.transform(model, features(8), future="wait")
    if how == "half":
        prog.to(torch.bfloat16)
        x = x.to(torch.bfloat16)
    elif how == "compiled":
        prog.compile(backend="eager")
    for _ in range(3):
        prog.reset()
        outputs = [prog(x)]
        other = copy.deepcopy(prog) if how == "copied" else prog
        outputs.append(other.flush())
        assert outputs[-1].dtype == outputs[0].dtype
        bound = 5e-2 if how == "half" else EXACT
        assert relative_error(stitch(outputs), model(x)) <= bound
