"""What a hunt among seven hundred small models found: answered wrongly, or refused in other words
than this package's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from judge import PARTLY, REFUSED, RIGHT, Along, Case, judge
from torch import Tensor, nn

import pgt_fx
from pgt_fx.compiler.selfcheck.check import self_check
from pgt_fx.core.errors import LoopError, SelfCheckError


def _convs() -> nn.ModuleList:
    torch.manual_seed(2)
    return nn.ModuleList(nn.Conv3d(2, 2, (3, 1, 1), padding=(1, 0, 0)) for _ in range(3))


def _weights() -> nn.ParameterList:
    return nn.ParameterList(nn.Parameter(conv.weight.detach()) for conv in _convs())


def _later(s: Any, y: Tensor) -> Tensor:
    for part in s.parts[: 1 + y.shape[2] // 20]:
        y = part(y).tanh()
    return y


def _weighed(s: Any, y: Tensor, weights: Any) -> Tensor:
    return sum((F.conv3d(y, w, padding=(1, 0, 0)) for w in weights), torch.zeros_like(y))


# The clip has 8 frames, and the self-check looks at up to 19: the other layer comes with the 20th.
CONTAINERS: dict[str, tuple[Callable[[Any, Tensor], Tensor], Callable[[], nn.Module]]] = {
    "layers of a list": (_later, _convs),
    "one of a list": (lambda s, y: s.parts[y.shape[2] // 20](y), _convs),
    "one from the end": (lambda s, y: s.parts[-1 - y.shape[2] // 20](y), _convs),
    "first of a sequence": (
        lambda s, y: s.parts[: 1 + y.shape[2] // 20](y),
        lambda: nn.Sequential(*_convs()),
    ),
    "one of a sequence": (
        lambda s, y: s.parts[y.shape[2] // 20](y),
        lambda: nn.Sequential(*_convs()),
    ),
    "one weight of a list": (
        lambda s, y: _weighed(s, y, [s.parts[y.shape[2] // 20]]),
        _weights,
    ),
    "weights of a list": (
        lambda s, y: _weighed(s, y, s.parts[: 1 + y.shape[2] // 20]),
        _weights,
    ),
}


@pytest.mark.parametrize("name", CONTAINERS)
def test_layers_that_the_number_of_frames_picks_out_of_a_container_of_torch(name: str) -> None:
    then, parts = CONTAINERS[name]
    case = Case(lambda: Along(then, parts=parts()), PARTLY, frames=(8, 19, 20, 24), says="20")
    assert judge(case) == PARTLY


def _training(child: str) -> Callable[[Any, Tensor], Tensor]:
    return lambda s, y: y * (3.0 if s.get_submodule(child).training else 1.0)


MODES: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "a convolution": (lambda: Along(_training("conv")), "conv"),
    "an activation": (lambda: Along(_training("act"), act=nn.ReLU()), "act"),
    "one in a list": (lambda: Along(_training("parts.1"), parts=_convs()), "parts.1"),
}


@pytest.mark.parametrize("name", MODES)
def test_the_mode_of_a_layer_that_has_none_by_itself_is_asked_for(name: str) -> None:
    make, child = MODES[name]
    assert judge(Case(make, change=lambda model: model.get_submodule(child).train())) == RIGHT


def _hooked() -> nn.Module:
    model = Along(lambda s, y: y)
    model.conv.register_forward_hook(lambda conv, args, y: y * 3 if conv.training else y)
    return model


def test_a_hook_that_asks_for_the_mode_of_its_layer() -> None:
    assert judge(Case(_hooked, change=lambda model: model.conv.train())) == RIGHT


class Cells(nn.Module):
    """A recurrent cell in a loop over the frames."""

    def __init__(self, cell: nn.Module, many: bool) -> None:
        super().__init__()
        self.cell, self.many = cell, many

    def forward(self, x: Tensor) -> Tensor:
        state, outs = None, []
        for frame in x.unbind(1):
            state = self.cell(frame, state)
            outs.append(state[0] if self.many else state)
        return torch.stack(outs, 1)


@pytest.mark.parametrize("kind", [nn.GRUCell, nn.RNNCell, nn.LSTMCell])
def test_a_loop_of_cells_is_refused_with_its_line(kind: Any) -> None:
    model = Cells(kind(4, 4), kind is nn.LSTMCell)
    with pytest.raises(LoopError, match=r"state = self\.cell\(frame, state\)"):
        pgt_fx.transform(model, torch.randn(2, 8, 4), future="wait", time_dim=1)


def _rows_as_groups(s: Any, y: Tensor) -> Tensor:
    n, c, t, h, w = y.shape
    weight = s.conv.weight[:, :1].repeat(n, 1, 1, 1, 1)
    rows = F.conv3d(y.reshape(1, n * c, t, h, w), weight, padding=(1, 0, 0), groups=n * c)
    return rows.view(n, c, t, h, w)


def test_a_convolution_whose_groups_are_rows_of_the_batch() -> None:
    case = Case(lambda: Along(_rows_as_groups), sizes=(2, 2, 8, 4, 4), others=[(3, 2, 8, 4, 4)])
    assert judge(case) == RIGHT


class Attends(nn.Module):
    """Two heads over (N, C, T), and what a case does with queries, keys and values."""

    def __init__(self, then: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv1d(4, 4, 3, padding=1)
        self.mixed = nn.Parameter(torch.randn(2, 2))
        self.text = nn.Parameter(torch.randn(1, 1, 5, 4))
        self.down = nn.Conv1d(4, 4, 3, 2, padding=1)
        self.then = then

    def forward(self, x: Tensor) -> Tensor:
        return self.then(self, self.conv(x).transpose(1, 2)[:, None]).squeeze(1).transpose(1, 2)


def _talking_heads(s: Any, q: Tensor) -> Tensor:
    heads = q.squeeze(1).unflatten(-1, (2, 2)).transpose(1, 2)
    scores = heads @ heads.transpose(-1, -2)
    hidden = torch.ones(scores.shape[-2:]).triu(1) > 0
    weights = scores.masked_fill(hidden, float("-inf")).softmax(-1)
    mixed = torch.einsum("nhts,hg->ngts", weights, s.mixed)
    return (mixed @ heads).transpose(1, 2).flatten(2)[:, None]


def _below(q: Tensor, k: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, k, is_causal=True)


def _of_half_the_rate(s: Any, q: Tensor) -> Tensor:
    return _below(q, s.down(q.squeeze(1).transpose(1, 2)).transpose(1, 2)[:, None])


def _of_a_text(s: Any, q: Tensor) -> Tensor:
    text = s.text.expand(q.shape[0], -1, -1, -1)
    return F.scaled_dot_product_attention(q, text, text)


def _of_a_text_by_row(s: Any, q: Tensor) -> Tensor:
    text = s.text.expand(q.shape[0], -1, -1, -1)
    return F.scaled_dot_product_attention(q, text, text, is_causal=True)


def _of_a_text_masked(s: Any, q: Tensor) -> Tensor:
    text = s.text.expand(q.shape[0], -1, -1, -1)
    seen = torch.tensor([True, True, False, True, False])
    return F.scaled_dot_product_attention(q, text, text, attn_mask=seen[None])


ATTENTIONS: dict[str, tuple[Callable[[Any, Tensor], Tensor], str, str]] = {
    "heads that are mixed": (_talking_heads, REFUSED, "matmul"),
    "one key less": (
        lambda s, q: _below(q, q[:, :, 1:]),
        REFUSED,
        "queries are more than its keys",
    ),
    "one query less": (lambda s, q: _below(q[:, :, :-1], q), RIGHT, ""),
    "keys of half the rate": (_of_half_the_rate, REFUSED, "queries are more than its keys"),
    "keys of a text": (_of_a_text, RIGHT, ""),
    "keys of a text, masked": (_of_a_text_masked, RIGHT, ""),
    "keys of a text, by row": (_of_a_text_by_row, REFUSED, ""),
}


@pytest.mark.parametrize("name", ATTENTIONS)
def test_attention(name: str) -> None:
    then, expected, says = ATTENTIONS[name]
    frames = (2, 3, 8, 9, 11, 24)
    case = Case(lambda: Attends(then), expected, (2, 4, 8), frames, says=says)
    assert judge(case) == expected


def _zeros(y: Tensor, frames: int) -> Tensor:
    return y.new_zeros(*y.shape[:2], frames, *y.shape[3:])


SHIFTS: dict[str, tuple[Callable[[Any, Tensor], Tensor], int]] = {
    "two later": (lambda s, y: torch.cat([_zeros(y, 2), y[:, :, :-2]], 2), 2),
    "three earlier": (lambda s, y: torch.cat([y[:, :, 3:], _zeros(y, 3)], 2), 3),
    "two later, edge": (
        lambda s, y: torch.cat([y[:, :, :1].expand(-1, -1, 2, -1, -1), y[:, :, :-2]], 2),
        2,
    ),
    "of every second": (lambda s, y: torch.cat([_zeros(y, 2), y[:, :, ::2][:, :, :-2]], 2), 3),
    "one later": (lambda s, y: torch.cat([_zeros(y, 1), y[:, :, :-1]], 2), 1),
}


@pytest.mark.parametrize("name", SHIFTS)
def test_a_shift_by_several_frames_is_one_from_so_many_frames_on(name: str) -> None:
    then, least = SHIFTS[name]
    assert judge(Case(lambda: Along(then), PARTLY if least > 1 else RIGHT)) in (PARTLY, RIGHT)
    prog = pgt_fx.transform(Along(then), torch.randn(1, 2, 8, 4, 4), future="wait")
    assert prog.video_lengths.least == least


def _motion(s: Any, y: Tensor) -> Tensor:
    change = y[:, :, 1:] - y[:, :, :-1]
    return y + y * torch.cat([change, torch.zeros_like(y[:, :, :1])], 2).sigmoid()


PADDED: dict[str, tuple[Callable[[Any, Tensor], Tensor], int]] = {
    "differences": (lambda s, y: F.pad(y[:, :, 1:] - y[:, :, :-1], (0, 0, 0, 0, 1, 0)), 2),
    "excited by motion": (_motion, 2),
    "of every second, from the third": (
        lambda s, y: F.pad(y[:, :, 2::2].relu(), (0, 0, 0, 0, 2, 1)),
        3,
    ),
    # Of none torch crops none, and raises.
    "cropped as much": (lambda s, y: F.pad(y[:, :, 1:].relu(), (0, 0, 0, 0, 1, -1)), 2),
}


@pytest.mark.parametrize("name", PADDED)
def test_what_is_padded_has_elements(name: str) -> None:
    then, least = PADDED[name]
    found = judge(Case(lambda: Along(then), PARTLY))
    assert found == (RIGHT if name == "cropped as much" else PARTLY)
    prog = pgt_fx.transform(Along(then), torch.randn(1, 2, 8, 4, 4), future="wait")
    assert prog.video_lengths.least == least


def test_no_answer_to_a_video_that_the_model_answers_is_seen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for known in ("operands.not_empty", "walk.where_it_runs", "walk.joined_whole"):
        monkeypatch.setattr(
            f"pgt_fx.compiler.analysis.{known}", lambda analysis, *_: analysis.lengths
        )
    prog = pgt_fx.transform(Along(_motion), torch.randn(1, 2, 8, 4, 4), future="wait")
    with pytest.raises(SelfCheckError, match="1 frame"):
        self_check(prog)


@dataclass
class Answer:
    late: Tensor
    early: Tensor
    inner: Answer | None = None


torch.export.register_dataclass(Answer, serialized_type_name="test_hunted.Answer")


class Answers(nn.Module):
    """Returns parts that are due at other times, in dataclasses."""

    def __init__(self, inner: bool) -> None:
        super().__init__()
        self.conv, self.inner = nn.Conv1d(4, 4, 5, padding=2), inner

    def forward(self, x: Tensor) -> Answer:
        inner = Answer(x * 2, self.conv(x).relu()) if self.inner else None
        return Answer(self.conv(x), x + 1, inner)


@pytest.mark.parametrize("inner", [False, True])
def test_a_dataclass_of_which_parts_are_due_later(inner: bool) -> None:
    model = Answers(inner).double()
    video = torch.randn(2, 4, 9, dtype=torch.float64)
    prog = pgt_fx.transform(model, video[..., :8], future="wait", time_dim=2)
    assert "8, 19 frames, whole and in steps" in str(self_check(prog))
    outs = [out for out in [prog(piece) for piece in video.split(2, 2)] + [prog.flush()] if out]
    whole = model(video)
    for name in ("late", "early"):
        for pick in (lambda a: a, lambda a: a.inner) if inner else (lambda a: a,):
            given = [getattr(pick(out), name) for out in outs if pick(out) is not None]
            found = torch.cat([x for x in given if x is not None], 2)
            torch.testing.assert_close(found, getattr(pick(whole), name))


class Silent(nn.Module):
    def forward(self, x: Tensor) -> None:
        return None


def test_a_model_that_returns_nothing_has_nothing_due() -> None:
    prog = pgt_fx.transform(Silent(), torch.randn(2, 4, 8), future="wait", time_dim=2)
    assert "in steps" in str(self_check(prog))
    assert prog(torch.randn(2, 4, 3)) is None
