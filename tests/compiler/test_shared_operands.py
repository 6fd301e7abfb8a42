"""Attention and joins whose operands are one value, or come of one value in unlike ways.

Each model is equal to itself under every chunking, or refused with the line that stands in the way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from oracles import pieces, relative_error, stitch
from torch import Tensor, nn
from torch.nn import functional as F

import pgt_fx
from pgt_fx.core.errors import ExactnessError, PgtError

EXACT = 1e-9
FRAMES = 19
CHUNKINGS = [[1] * FRAMES, [3] * 6 + [1], [FRAMES], [5, 1, 9, 2, 2]]
HERE = f"{Path(__file__).parent.name}/{Path(__file__).name}"


def streamed(prog: Any, video: Any, chunks: Sequence[int], dim: int = 1) -> Any:
    """The outputs of all steps, one after the other along ``dim``."""
    prog.reset()
    clips = pieces(video, chunks)
    with torch.no_grad():
        return stitch([prog(c, last=n == len(chunks) - 1) for n, c in enumerate(clips)], dim)


def refusal(model: nn.Module, clip: Any, **options: Any) -> str:
    try:
        pgt_fx.transform(model, clip, future="wait", time_dim=2, **options)
    except PgtError as error:
        return str(error)
    raise AssertionError("the model was accepted")


# --------------------------------------------------------------------------- attention


def triangle(frames: int, back: int | None = None) -> Tensor:
    seen = torch.ones(frames, frames, dtype=torch.bool).tril()
    return seen if back is None else seen.triu(-back)


class Attends(nn.Module):
    """(N, 4, T) to (N, T, 4) by ``call(self, y)``, y the frames' features."""

    def __init__(self, call: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
        self.whole = nn.MultiheadAttention(4, 2, batch_first=True)
        self.drop, self.call = nn.Dropout(0.3), call

    def forward(self, x: Tensor) -> Tensor:
        return self.call(self, self.a(x.transpose(1, 2)))


def fused_all_one(m: Any, y: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(y, y, y, is_causal=True)


def fused_keys_are_values(m: Any, y: Tensor) -> Tensor:
    k = m.b(y)
    return F.scaled_dot_product_attention(y, k, k, is_causal=True)


def fused_queries_are_keys(m: Any, y: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(y, y, m.b(y), attn_mask=triangle(y.shape[1]))


def fused_queries_are_values(m: Any, y: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(y, m.b(y), y, is_causal=True)


def fused_with_a_window(m: Any, y: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(y, y, y, attn_mask=triangle(y.shape[1], 3))


def one_head_of_keys(m: Any, y: Tensor) -> Tensor:
    """Multi-query attention: two heads of queries read the same keys and values."""
    q = m.b(y).unflatten(2, (2, 2)).transpose(1, 2)
    k = y[:, None, :, :2].expand(-1, 2, -1, -1)
    out = F.scaled_dot_product_attention(q, k, k, is_causal=True)
    return out.transpose(1, 2).flatten(2)


def weights_of(y: Tensor, scores: Tensor, back: int | None = None) -> Tensor:
    return scores.masked_fill(~triangle(y.shape[1], back), float("-inf")).softmax(-1)


def by_products(m: Any, y: Tensor) -> Tensor:
    return weights_of(y, y @ y.transpose(1, 2)) @ y


def by_products_with_a_window(m: Any, y: Tensor) -> Tensor:
    return weights_of(y, y @ y.transpose(1, 2), 2) @ y


def by_einsum(m: Any, y: Tensor) -> Tensor:
    weights = weights_of(y, torch.einsum("bic,bjc->bij", y, y))
    return torch.einsum("bij,bjc->bic", weights, y)


def by_a_module(m: Any, y: Tensor) -> Tensor:
    mask = ~triangle(y.shape[1])
    out: Tensor = m.whole(y, y, y, attn_mask=mask, need_weights=False)[0]
    return out


def by_a_module_with_weights(m: Any, y: Tensor) -> Tensor:
    mask = nn.Transformer.generate_square_subsequent_mask(y.shape[1], dtype=y.dtype)
    out: Tensor = m.whole(y, y, y, attn_mask=mask)[0]
    return out


SHARED = [
    fused_all_one,
    fused_keys_are_values,
    fused_queries_are_keys,
    fused_queries_are_values,
    fused_with_a_window,
    one_head_of_keys,
    by_products,
    by_products_with_a_window,
    by_einsum,
    by_a_module,
    by_a_module_with_weights,
]


def attends(call: Callable[[Any, Tensor], Tensor], **options: Any) -> tuple[nn.Module, Any]:
    torch.manual_seed(0)
    model = Attends(call).double().eval()
    clip = torch.zeros(2, 4, 8, dtype=torch.float64)
    return model, pgt_fx.transform(model, clip, time_dim=2, **options)


def streams_exactly(model: nn.Module, prog: pgt_fx.Progressive) -> None:
    video = torch.randn(2, 4, FRAMES, dtype=torch.float64)
    with torch.no_grad():
        wanted = model(video)
    for chunks in CHUNKINGS:
        assert relative_error(streamed(prog, video, chunks), wanted) < EXACT, chunks


@pytest.mark.parametrize("call", SHARED, ids=lambda c: c.__name__)
def test_one_value_for_queries_keys_and_values(call: Callable[[Any, Tensor], Tensor]) -> None:
    model, prog = attends(call, future="wait")
    assert prog.report.exact
    streams_exactly(model, prog)


def test_what_is_keys_and_values_is_carried_once() -> None:
    _, one = attends(fused_with_a_window, future="wait")
    video = torch.randn(2, 4, FRAMES, dtype=torch.float64)
    for piece in video.split(4, 2):
        one(piece)
    carried = [t.shape for name, t in one.state.items() if not name.startswith("clock")]
    assert carried == [(2, 3, 4)]


@pytest.mark.parametrize("operator", ["mco", "cmco-avg"])
@pytest.mark.parametrize("attention", ["step", "memory"])
def test_other_policies_answer_for_the_frames_of_the_step(operator: str, attention: str) -> None:
    """Without a mask a step answers with its own frames' number, whatever is remembered."""

    def unmasked(m: Any, y: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(y, y, y)

    model, prog = attends(unmasked, operator=operator, attention=attention)
    video = torch.randn(2, 4, 12, dtype=torch.float64)
    with torch.no_grad():
        prog.reset()
        first, second = prog(video[:, :, :5]), prog(video[:, :, 5:12], last=True)
        y = model.a(video.transpose(1, 2))  # type: ignore[operator]
        seen = y if attention == "memory" else y[:, 5:]
        wanted = F.scaled_dot_product_attention(y[:, 5:], seen, seen)
    assert first.shape[1] == 5
    assert relative_error(second, wanted) < EXACT


# ----------------------------------------------------------------- behind the softmax


def clamped(m: Any, y: Tensor) -> Tensor:
    return weights_of(y, y @ m.b(y).transpose(1, 2)).clamp(min=0.01) @ y


def lifted(m: Any, y: Tensor) -> Tensor:
    return (weights_of(y, y @ m.b(y).transpose(1, 2)) + 1e-3) @ y


def filled(m: Any, y: Tensor) -> Tensor:
    frames = y.shape[1]
    weights = weights_of(y, y @ m.b(y).transpose(1, 2))
    return weights.masked_fill(~triangle(frames), 0.5) @ y


def squashed(m: Any, y: Tensor) -> Tensor:
    return weights_of(y, y @ m.b(y).transpose(1, 2)).sigmoid() @ y


def beside_the_softmax(m: Any, y: Tensor) -> Tensor:
    """The map itself sums as well, and no mask stands in its way."""
    scores = y @ m.b(y).transpose(1, 2)
    return weights_of(y, scores) @ y + scores @ y


def mask_behind(m: Any, y: Tensor) -> Tensor:
    """What a weight is divided by has seen all frames."""
    weights = (y @ m.b(y).transpose(1, 2)).softmax(-1)
    return (weights * triangle(y.shape[1])) @ y


OPEN = {
    clamped: "clamp",
    lifted: "add",
    filled: "masked_fill",
    squashed: "sigmoid",
    beside_the_softmax: "matmul",
    mask_behind: "",
}


@pytest.mark.parametrize("call", OPEN, ids=lambda c: c.__name__)
def test_what_lets_hidden_frames_in_again_is_refused(call: Any) -> None:
    with pytest.raises(ExactnessError, match=f"{HERE}:") as refused:
        attends(call, future="wait")
    said = f"but no longer after aten.{OPEN[call]}"
    assert (said in str(refused.value)) == bool(OPEN[call]), str(refused.value)


def dropped(m: Any, y: Tensor) -> Tensor:
    return m.drop(weights_of(y, y @ m.b(y).transpose(1, 2))) @ y


def weighed(m: Any, y: Tensor) -> Tensor:
    weights = weights_of(y, y @ m.b(y).transpose(1, 2))
    return ((weights * 0.5 / 3).nan_to_num().to(y.dtype) * y.mean(2, keepdim=True)) @ y


def masked_twice(m: Any, y: Tensor) -> Tensor:
    hidden = ~triangle(y.shape[1])
    weights = weights_of(y, y @ m.b(y).transpose(1, 2)).masked_fill(hidden, 0.0)
    return torch.where(hidden, torch.zeros_like(weights), weights).clamp(0, 0.9) @ y


@pytest.mark.parametrize("call", [dropped, weighed, masked_twice], ids=lambda c: c.__name__)
def test_what_keeps_zero_behind_the_softmax_is_accepted(call: Any) -> None:
    model, prog = attends(call, future="wait")
    streams_exactly(model, prog)


def test_dropout_is_no_mask() -> None:
    """In training as well, where a weight that is dropped is zero by chance."""
    model, prog = attends(dropped, future="wait")
    model.train()
    rows = [r.what for r in prog.report.rows if "attention" in r.what]
    assert rows and not any("back" in r for r in rows), rows


# ----------------------------------------------------------- states beside what is pooled


class EndState(nn.Module):
    """A recurrent layer over every fourth frame; its last state beside what comes more often."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.down = nn.Conv1d(3, 4, 4, 4)
        self.rnn = {"gru": nn.GRU, "lstm": nn.LSTM}[how](4, 4, 2, batch_first=True)
        self.fc, self.how = nn.Linear(4, 3), how

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y, state = self.rnn(self.down(x).transpose(1, 2))
        hidden = state[1] if self.how == "lstm" else state
        return self.fc(hidden[-1]) + x.mean(2), self.fc(y[:, -1]).relu_() * x.amax(2)


@pytest.mark.parametrize("how", ["gru", "lstm"])
def test_a_last_state_is_told_in_a_last_step_without_new_elements(how: str) -> None:
    torch.manual_seed(0)
    model = EndState(how).double().eval()
    clip = torch.zeros(2, 3, 16, dtype=torch.float64)
    prog = pgt_fx.transform(model, clip, future="wait", pooling="running", time_dim=2)
    video = torch.randn(2, 3, 17, dtype=torch.float64)
    with torch.no_grad():
        wanted = model(video)
        for chunks in ([16, 1], [1] * 17, [8, 8, 1], [5, 1, 9, 2], [17]):
            prog.reset()
            answers = [
                prog(c, last=n == len(chunks) - 1) for n, c in enumerate(video.split(chunks, 2))
            ]
            assert relative_error(answers[-1], wanted) < EXACT, chunks


# ------------------------------------------------------------------- tokens that are joined


class Tokens(nn.Module):
    """Tokens of all frames and places in one axis, joined with later ones, behind ``grown``."""

    def __init__(self, grown: Callable[[Tensor], Tensor], deep: bool = False) -> None:
        super().__init__()
        self.conv, self.next = (nn.Conv3d(3, 3, (3, 1, 1), padding=(1, 0, 0)) for _ in range(2))
        self.grown, self.deep = grown, deep

    @staticmethod
    def flat(x: Tensor) -> Tensor:
        b, c, t, h, w = x.shape
        return x.permute(0, 2, 3, 4, 1).reshape(b * t * h * w, c)

    def forward(self, x: Tensor) -> Tensor:
        y = self.grown(x)
        b, c, t, h, w = y.shape
        s = torch.tanh(self.flat(y)) + self.flat(self.conv(y))
        if self.deep:
            s = s + self.flat(self.next(self.conv(y)))
        return s.reshape(b, t, h, w, c).permute(0, 4, 1, 2, 3)


GROWN: dict[str, Callable[[Tensor], Tensor]] = {
    "as it is": lambda x: x,
    "repeat_interleave": lambda x: x.repeat_interleave(2, 3).repeat_interleave(2, 4),
    "interpolate": lambda x: F.interpolate(x, scale_factor=(1, 2, 2)),
    "pixel_shuffle": lambda x: F.pixel_shuffle(
        x.transpose(1, 2).repeat(1, 1, 4, 1, 1), 2
    ).transpose(1, 2),
    "repeat": lambda x: x.repeat(1, 1, 1, 2, 1),
    "cat": lambda x: torch.cat([x, x.flip(3)], 3),
}


@pytest.mark.parametrize("grown", GROWN)
def test_tokens_of_all_frames_are_joined_where_they_can_be_told_apart(grown: str) -> None:
    torch.manual_seed(0)
    model = Tokens(GROWN[grown]).double().eval()
    clip = torch.zeros(4, 3, 8, 2, 2, dtype=torch.float64)
    prog = pgt_fx.transform(model, clip, future="wait", time_dim=2)
    video = torch.randn(4, 3, FRAMES, 2, 2, dtype=torch.float64)
    with torch.no_grad():
        wanted = model(video)
    for chunks in CHUNKINGS:
        assert relative_error(streamed(prog, video, chunks, 2), wanted) < EXACT, chunks


def test_tokens_that_would_have_to_wait_in_one_axis_are_refused() -> None:
    """The first sum comes before the second one's other operand, and no operator stands between."""
    said = refusal(Tokens(GROWN["as it is"], deep=True).eval(), torch.zeros(2, 3, 8, 4, 4))
    assert f"({HERE}:" in said and "s = s + self.flat(self.next(self.conv(y)))" in said
    assert "come later than others" in said and "axis of its own" in said


def test_tokens_with_time_outermost_may_wait() -> None:
    class Outermost(Tokens):
        @staticmethod
        def flat(x: Tensor) -> Tensor:
            return x.permute(2, 0, 3, 4, 1).reshape(-1, 3)

        def forward(self, x: Tensor) -> Tensor:
            b, c, _, h, w = x.shape
            s = self.flat(x) + self.flat(self.conv(x)) + self.flat(self.next(self.conv(x)))
            return s.reshape(-1, b, h, w, c).permute(1, 4, 0, 2, 3)

    torch.manual_seed(0)
    model = Outermost(GROWN["as it is"]).double().eval()
    prog = pgt_fx.transform(model, torch.zeros(2, 3, 8, 2, 2).double(), future="wait", time_dim=2)
    video = torch.randn(2, 3, FRAMES, 2, 2, dtype=torch.float64)
    with torch.no_grad():
        wanted = model(video)
    for chunks in CHUNKINGS:
        assert relative_error(streamed(prog, video, chunks, 2), wanted) < EXACT, chunks


def test_sizes_may_be_read_from_a_value_that_comes_late() -> None:
    class Sized(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv3d(3, 3, (3, 1, 1), padding=(1, 0, 0))
            self.rows = nn.Conv1d(12, 12, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            z = self.conv(x)
            b, c, t, h, w = z.shape
            y = self.rows(x.permute(0, 1, 3, 4, 2).reshape(b, c * h * w, t))
            return y.reshape(b, c, h, w, t).permute(0, 1, 4, 2, 3) + z

    torch.manual_seed(0)
    model = Sized().double().eval()
    prog = pgt_fx.transform(model, torch.zeros(2, 3, 8, 2, 2).double(), future="wait", time_dim=2)
    video = torch.randn(2, 3, FRAMES, 2, 2, dtype=torch.float64)
    with torch.no_grad():
        wanted = model(video)
    for chunks in CHUNKINGS:
        assert relative_error(streamed(prog, video, chunks, 2), wanted) < EXACT, chunks
