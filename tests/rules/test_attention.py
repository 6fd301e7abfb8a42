"""Attention over time: exact with a causal mask, else with the memory that was asked for."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import torch
from oracles import random_chunks, relative_error, stitch
from torch import Tensor, nn
from torch.nn import functional as F

import pgt_fx
from pgt_fx.core.errors import ClipError, ExactnessError, OptionError

EXACT = 1e-9
FRAMES, CLIP = 23, 8


class Spelled(nn.Module):
    """Self-attention over (N, 8, T), its mask and its products as given."""

    def __init__(self, mask: Callable[[int], Tensor] | None, how: str = "fused") -> None:
        super().__init__()
        self.qkv, self.mask, self.how = nn.Linear(8, 24), mask, how

    def forward(self, x: Tensor) -> Tensor:
        rows, _, frames = x.shape
        q, k, v = self.qkv(x.transpose(1, 2)).view(rows, frames, 3, 2, 4).permute(2, 0, 3, 1, 4)
        mask = None if self.mask is None else self.mask(frames)
        if self.how == "fused":
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        elif self.how == "filled":
            scores = (q @ k.transpose(-2, -1)) / 2
            scores = scores if mask is None else scores.masked_fill(~mask, float("-inf"))
            y = scores.softmax(-1) @ v
        else:
            scores = torch.einsum("nhqc,nhkc->nhqk", q, k) / 2
            bias = 0 if mask is None else torch.where(mask, 0.0, float("-inf")).to(scores)
            y = torch.einsum("nhqk,nhkc->nhqc", (scores + bias).softmax(-1), v)
        return x + y.transpose(1, 2).reshape(rows, frames, 8).transpose(1, 2)


def triangle(frames: int) -> Tensor:
    return torch.ones(frames, frames, dtype=torch.bool).tril()


def window(frames: int) -> Tensor:
    at = torch.arange(frames)
    back = at[:, None] - at[None, :]
    return (back >= 0) & (back <= 3)


def around(frames: int) -> Tensor:
    at = torch.arange(frames)
    return (at[:, None] - at[None, :]).abs() <= 2


def first_sees_all(frames: int) -> Tensor:
    at = torch.arange(frames)
    return (at[:, None] >= at[None, :]) | (at[:, None] < 1)


class Layers(nn.Module):
    """``nn.TransformerEncoder`` over (N, 8, T) between two convolutions, with torch's own mask."""

    def __init__(self, causal: bool, layers: int = 2) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.conv, self.down = nn.Conv1d(8, 8, 3, padding=1), nn.Conv1d(8, 8, 3, 2, 1)
        self.causal = causal

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x).transpose(1, 2)
        mask = None
        if self.causal:
            mask = nn.Transformer.generate_square_subsequent_mask(
                x.shape[1], device=x.device, dtype=x.dtype
            )
        x = self.encoder(x, mask=mask, is_causal=self.causal)
        return self.down(x.transpose(1, 2))


class Weighed(nn.Module):
    """``nn.MultiheadAttention`` as it is called by default: the weights are asked for."""

    def __init__(self, causal: bool) -> None:
        super().__init__()
        self.attention, self.causal = nn.MultiheadAttention(8, 2, batch_first=True), causal

    def forward(self, x: Tensor) -> Tensor:
        x = x.transpose(1, 2)
        mask = None
        if self.causal:
            mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1], dtype=x.dtype)
        return self.attention(x, x, x, attn_mask=mask)[0].transpose(1, 2)


class NonLocal(nn.Module):
    """A non-local block (Wang et al. 2018): tokens of all frames and places, keys subsampled."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Conv3d(4, 2, 1) for _ in range(3))
        self.out, self.pool, self.how = nn.Conv3d(2, 4, 1), nn.MaxPool3d((1, 2, 2)), how

    def parts(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        y = self.pool(x)
        return self.query(x).flatten(2), self.key(y).flatten(2), self.value(y).flatten(2)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scores = torch.einsum("nct,ncp->ntp", q, k)
        if self.how == "softmax":
            scores = (scores / 2**0.5).softmax(-1)
        else:
            scores = scores / scores.shape[2]
        return torch.einsum("ntp,ncp->nct", scores, v)

    def forward(self, x: Tensor) -> Tensor:
        y = self.attend(*self.parts(x))
        return x + self.out(y.view(x.shape[0], 2, *x.shape[2:]))


class Waves(nn.Module):
    """Sinusoidal positions made in forward."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.after = nn.Conv1d(8, 8, 3, padding=1), nn.Conv1d(8, 8, 5, 2, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x).transpose(1, 2)
        rate = torch.exp(torch.arange(0, 8, 2, device=x.device) * -0.3).to(x)
        at = torch.arange(x.shape[1], device=x.device)[:, None] * rate
        x = x * (1 + torch.cat([at.sin(), at.cos()], -1))
        return self.after(x.transpose(1, 2))


class Learned(nn.Module):
    """A learned table of positions, as many rows read as there are frames."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.table, self.conv = nn.Parameter(torch.randn(1, rows, 8)), nn.Conv1d(8, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = x.transpose(1, 2)
        return self.conv((y + self.table[:, : y.shape[1]]).transpose(1, 2))


def video(frames: int = FRAMES, *space: int) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    channels = 4 if space else 8
    return torch.randn(2, channels, frames, *space, dtype=torch.float64, generator=generator)


def ready(model: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(5)
    for p in model.parameters():
        p.data = torch.randn(p.shape, generator=generator) / max(1, p[0].numel()) ** 0.5
    return model.double().eval()


def ends(chunks: list[int]) -> list[tuple[tuple[int, int], bool]]:
    """First and last frame of each chunk, and whether it is the last."""
    stops = [sum(chunks[: i + 1]) for i in range(len(chunks))]
    return [((e - n, e), e == stops[-1]) for n, e in zip(chunks, stops, strict=True)]


def in_steps(prog: pgt_fx.Progressive, x: Tensor, chunks: list[int]) -> Tensor:
    state, outs = prog.init_state(), []
    for (start, end), last in ends(chunks):
        out, state = prog.step(state, x[:, :, start:end], last=last)
        outs.append(out)
    return stitch(outs)


CAUSAL = [
    pytest.param(lambda: Spelled(triangle), id="fused, triangle"),
    pytest.param(lambda: Spelled(triangle, "filled"), id="filled, triangle"),
    pytest.param(lambda: Spelled(triangle, "einsum"), id="einsum, triangle"),
    pytest.param(lambda: Spelled(window), id="fused, window"),
    pytest.param(lambda: Spelled(window, "filled"), id="filled, window"),
    pytest.param(lambda: Spelled(window, "einsum"), id="einsum, window"),
    pytest.param(lambda: Layers(True), id="encoder"),
    pytest.param(lambda: Weighed(True), id="weights asked for"),
    pytest.param(Waves, id="sinusoids"),
]


@pytest.mark.parametrize("make", CAUSAL)
def test_causal_attention_and_positions_are_exact_for_every_chunking(make: Callable) -> None:
    model, x = ready(make()), video()
    assert relative_error(model(x), model(x.flip(2)).flip(2)) > 1e-3  # time matters
    prog = pgt_fx.transform(model, x[:, :, :CLIP], future="wait")
    assert prog.report.exact
    with torch.no_grad():
        whole = model(x)
        assert relative_error(prog.full(x), whole) < EXACT
        for seed in range(4):
            chunks = random_chunks(FRAMES, 9, random.Random(seed))
            assert relative_error(in_steps(prog, x, chunks), whole) < EXACT


@pytest.mark.parametrize("make", CAUSAL)
def test_exact_frames_are_right_and_tight_beside_attention(make: Callable) -> None:
    model, x = ready(make()), video()
    prog = pgt_fx.transform(model, x[:, :, :CLIP])
    chunks = [8, 7, 8]
    with torch.no_grad():
        whole, steps = model(x), in_steps(prog, x, chunks)
    gaps = (steps - whole).abs().amax((0, 1)) / whole.abs().amax()
    for gap, exact in zip(gaps.tolist(), prog.exact_frames(chunks), strict=True):
        assert (gap < EXACT) == exact


def test_a_window_of_attention_has_a_bounded_state_and_a_field() -> None:
    prog = pgt_fx.transform(ready(Spelled(window)), video(CLIP), future="wait")
    assert prog.report.receptive_field == [4] and prog.report.look_ahead == [0]
    assert not prog.report.grows and prog.report.latency == 0
    state = prog.init_state()
    for _ in range(5):
        _, state = prog.step(state, video(6))
    assert {k: v.shape[2] for k, v in state.items() if "clock" not in k} == {
        "scaled_dot_product_attention.keys": 3,
        "scaled_dot_product_attention.values": 3,
    }


def test_all_of_the_past_is_a_state_that_grows_and_is_said_to() -> None:
    prog = pgt_fx.transform(ready(Spelled(triangle)), video(CLIP), future="wait")
    assert prog.report.grows and "grows with the video" in str(prog.report)
    state = prog.init_state()
    for steps in range(1, 4):
        _, state = prog.step(state, video(6))
        assert state["scaled_dot_product_attention.keys"].shape[2] == 6 * steps
    check = pgt_fx.verify(prog, checks=["state-bounded"])["state-bounded"]
    assert check.ok is None and check.measured == "grows"


def attended(model: Spelled, x: Tensor, chunks: list[int], kept: int) -> Tensor:
    """The definition: a step's queries, keys of ``kept`` earlier frames and of the step."""
    q, k, v = model.qkv(x.transpose(1, 2)).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)
    outs = []
    for (start, end), _ in ends(chunks):
        first = max(0, start - kept)
        scores = q[:, :, start:end] @ k[:, :, first:end].transpose(-2, -1) / 2
        if model.mask is not None:
            allowed = model.mask(end - first)[start - first :]
            scores = scores.masked_fill(~allowed, float("-inf"))
        outs.append(scores.softmax(-1) @ v[:, :, first:end])
    y = torch.cat(outs, 2).transpose(1, 2).flatten(2)
    return x + y.transpose(1, 2)


@pytest.mark.parametrize("how", ["fused", "filled", "einsum"])
@pytest.mark.parametrize("mask", [None, around], ids=["global", "around"])
@pytest.mark.parametrize(
    ("attention", "kept"),
    [
        ("step", 0),
        ("memory", CLIP),
        (pgt_fx.AttentionMemory(0.5), 4),
        (pgt_fx.AttentionMemory(9), 72),
    ],
    ids=["step", "memory", "half a clip", "all"],
)
def test_memory_is_what_it_is_defined_to_be(how, mask, attention, kept) -> None:
    model, x = ready(Spelled(mask, how)), video()
    prog = pgt_fx.transform(model, x[:, :, :CLIP], attention=attention)
    with torch.no_grad():
        for chunks in ([8, 7, 8], [1, 5, 2, 12, 3]):
            expected = attended(model, x, chunks, kept)
            assert relative_error(in_steps(prog, x, chunks), expected) < EXACT
        assert relative_error(prog.full(x), model(x)) < EXACT
    assert not prog.report.exact
    assert [
        r.name for r in prog.report.inexact if "elements of the past" in r.reason
    ] != [] or not kept


@pytest.mark.parametrize("how", ["softmax", "mean"])
def test_a_non_local_block_reads_the_keys_of_the_step_before(how: str) -> None:
    model, x = ready(NonLocal(how)), video(FRAMES, 4, 6)
    prog = pgt_fx.transform(model, x[:, :, :CLIP], attention="memory")
    chunks = [8, 7, 8]
    outs = []
    with torch.no_grad():
        for (start, end), _ in ends(chunks):
            first = max(0, start - CLIP)
            q = model.parts(x[:, :, start:end])[0]
            _, k, v = model.parts(x[:, :, first:end])
            y = model.attend(q, k, v).view(2, 2, end - start, 4, 6)
            outs.append(x[:, :, start:end] + model.out(y))
        steps = in_steps(prog, x, chunks)
        assert relative_error(steps, torch.cat(outs, 2)) < EXACT
        alone = in_steps(prog.replace(attention="step"), x, chunks)
        assert relative_error(steps[:, :, :8], alone[:, :, :8]) < EXACT
        assert relative_error(steps[:, :, 8:], alone[:, :, 8:]) > 1e-3  # the memory is read
        assert relative_error(prog.full(x), model(x)) < EXACT


def test_what_is_remembered_is_detached_and_rows_do_not_mix() -> None:
    prog = pgt_fx.transform(ready(Layers(False)), video(CLIP), attention="memory")
    result = pgt_fx.verify(
        prog,
        checks=["one-way-forward", "one-way-backward", "rows-isolated", "reset", "state-bounded"],
    )
    assert result.ok and all(c.ok for c in result.checks), str(result)


def test_a_progressive_encoder_keeps_its_promises() -> None:
    for model in (Layers(True), Layers(False)):
        result = pgt_fx.verify(pgt_fx.transform(ready(model), video(CLIP), strict=False))
        assert result.ok, str(result)


@pytest.mark.parametrize("gradient", ["truncated", "exact"])
def test_gradients_go_through_a_growing_memory(gradient: str) -> None:
    from pgt_fx.training import PerFrame, backward

    model, x = ready(Layers(True)), video()
    labels = torch.randn(2, 8, 12, dtype=torch.float64)
    prog = pgt_fx.transform(model, x[:, :, :CLIP], future="wait")

    def loss(y: Tensor, target: Tensor) -> Tensor:
        return (y - target).square().sum()

    backward(prog, x, loss, PerFrame(labels, dim=2), schedule=[8, 7, 8], gradient=gradient)
    found = {k: p.grad.clone() for k, p in prog.named_parameters()}
    prog.zero_grad()
    loss(model(x), labels).backward()
    gaps = [relative_error(found[k], p.grad) for k, p in model.named_parameters()]
    assert (max(gaps) < 1e-8) == (gradient == "exact")


def test_without_a_mask_exactness_is_refused_and_the_reason_said() -> None:
    with pytest.raises(ExactnessError, match="attends over all of time"):
        pgt_fx.transform(ready(Spelled(None)), video(CLIP), future="wait")
    with pytest.raises(OptionError, match="step, memory"):
        pgt_fx.transform(ready(Spelled(None)), video(CLIP), attention="memroy")
    with pytest.raises(OptionError, match="above 0"):
        pgt_fx.AttentionMemory(0)


@pytest.mark.parametrize("how", ["fused", "filled", "einsum"])
def test_a_mask_by_place_is_that_of_the_frames_in_the_video(how: str) -> None:
    """The first frame sees all, and only the first of the video: not of a step."""
    model, x = ready(Spelled(first_sees_all, how)), video()
    with pytest.raises(ExactnessError, match=r"(every frame|attends over all|attended to)"):
        pgt_fx.transform(model, x[:, :, :CLIP], future="wait")
    prog = pgt_fx.transform(model, x[:, :, :CLIP], attention=pgt_fx.AttentionMemory(9))
    with torch.no_grad():
        assert relative_error(prog.full(x), model(x)) < EXACT
        steps, whole = in_steps(prog, x, [8, 7, 8]), model(x)
    assert relative_error(steps[:, :, 1:], whole[:, :, 1:]) < EXACT
    assert relative_error(steps[:, :, :1], whole[:, :, :1]) > 1e-3


def test_a_learned_table_is_read_from_its_start_in_every_step() -> None:
    model, x = ready(Learned(8)), video(15)
    prog = pgt_fx.transform(model, x[:, :, :CLIP])
    assert "one row per frame of a clip" in str(prog.report) and not prog.report.exact
    with torch.no_grad():
        steps = in_steps(prog, x, [8, 7])
        expected = torch.cat([model(x[:, :, :8]), model(x[:, :, 8:])], 2)
    assert relative_error(steps, expected) < EXACT
    with pytest.raises(ClipError, match=r"8 rows, one for each .* this step has 9"):
        prog.step({}, x[:, :, :9])
    assert prog.report.longest_step == 8 and "longest step" in str(prog.report)
    assert prog.exact_frames([3, 5]) == [True] * 3 + [False] * 5
    with pytest.raises(ExactnessError, match="one row per frame"):
        prog.replace(future="wait")


class Cut(nn.Module):
    """Adds a learned table, cut to the frames at hand, to values that are one frame late."""

    def __init__(self, cut: Callable[[Tensor, int], Tensor]) -> None:
        super().__init__()
        self.conv, self.cut = nn.Conv1d(4, 4, 3, padding=1), cut
        self.table = nn.Parameter(torch.randn(1, 4, CLIP))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) + self.cut(self.table, x.shape[2])


@pytest.mark.parametrize(
    "cut",
    [
        lambda table, t: table[:, :, :t],
        lambda table, t: table[:, :, :t] * 2,
        lambda table, t: F.dropout(torch.ones(4, 1) / 2 * table[:, :, :t].neg(), 0.1, False),
        lambda table, t: table.mT[:, :t].mT,
        lambda table, t: table[0].permute(1, 0)[:t].transpose(-1, 0).unsqueeze(0),
    ],
)
@pytest.mark.parametrize("lengths", [[1, 5, 2], [4, 4], [8]])
def test_a_table_cut_to_the_frames_has_a_row_for_each_late_one(
    cut: Callable[[Tensor, int], Tensor], lengths: list[int]
) -> None:
    torch.manual_seed(0)
    model = Cut(cut).double().eval()
    x = torch.randn(2, 4, sum(lengths), dtype=torch.float64)
    prog = pgt_fx.transform(model, x[:, :, :CLIP], future="wait", strict=False, time_dim=2)
    with torch.no_grad():
        steps = [*map(prog, x.split(lengths, 2)), prog.flush()]
        parts = model.conv(x).split([lengths[0] - 1, *lengths[1:], 1], 2)
        for step, part in zip(steps, parts, strict=True):
            if part.shape[2]:
                expected = part + cut(model.table, part.shape[2])
                assert relative_error(step, expected) < EXACT


@pytest.mark.parametrize("rows", [8, 40])
def test_a_model_with_a_learned_table_keeps_its_promises(rows: int) -> None:
    result = pgt_fx.verify(pgt_fx.transform(ready(Learned(rows)), video(CLIP)))
    assert result.ok and result["exact-tight"].ok, str(result)


def test_a_table_of_fixed_shape_in_front_of_tokens_of_all_frames() -> None:
    """Positions of (frame, place), flattened, without slicing: it takes one clip length alone."""

    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Conv3d(4, 8, (1, 2, 2), (1, 2, 2))
            self.table = nn.Parameter(torch.randn(1, CLIP * 6, 8))
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            y = self.embed(x).flatten(2).transpose(1, 2) + self.table
            return y + self.attention(y, y, y, need_weights=False)[0]

    model, x = ready(Tokens()), video(CLIP, 4, 6)
    prog = pgt_fx.transform(model, x, attention="memory")
    with torch.no_grad():
        assert relative_error(prog.full(x), model(x)) < EXACT
        first, state = prog.step({}, x[:, :, :5])
        second, _ = prog.step(state, x[:, :, 5:], last=True)
    assert first.shape[1] == 30 and second.shape[1] == 18
    assert state["attention.keys"].shape == (2, 2, 5, 6, 4)


def test_counters_relative_to_the_length_are_made_for_each_step() -> None:
    class Ramp(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * (torch.arange(x.shape[2]) / x.shape[2])

    x = video(10)
    prog = pgt_fx.transform(Ramp(), x[:, :, :CLIP], time_dim=2)
    expected = torch.cat([Ramp()(x[:, :, :6]), Ramp()(x[:, :, 6:])], 2)
    assert relative_error(in_steps(prog, x, [6, 4]), expected) < EXACT
    assert prog.exact_frames([6, 4]) == [False] * 10
    assert "made anew from the number of frames" in str(prog.report)
