"""A state that lacks an operator's entry is no state of this video: it is refused, not begun anew.

The clocks say how many elements each operator has seen, so that a state of other options, of the
other mode or with entries left out can be told from that of a video's start.
"""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from oracles import pieces, relative_error, stitch
from torch import Tensor, nn

import pgt_fx
from pgt_fx.core.errors import ClipError, StateError
from pgt_fx.runtime.chunks import CLOCK

EXACT = 1e-9
FRAMES = 17
CHUNKINGS = [[1] * FRAMES, [3, 3, 3, 3, 3, 2], [FRAMES], [5, 1, 4, 7]]
START = "start anew with init_state"


def conv() -> nn.Conv1d:
    return nn.Conv1d(3, 4, 3, padding=1)


class Pooled(nn.Module):
    """A reduction over all of time behind a convolution."""

    def __init__(self, how: str = "mean") -> None:
        super().__init__()
        self.conv, self.how = conv(), how

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv(x)
        if self.how in ("amax", "amin"):
            return getattr(h, self.how)(2)
        if self.how == "any":
            return (h > 2).any(2)
        if self.how == "first":
            return h[:, :, 0]
        return getattr(h, self.how)(2)


class Scan(nn.Module):
    def __init__(self, how: str = "cumsum") -> None:
        super().__init__()
        self.conv, self.how = conv(), how

    def forward(self, x: Tensor) -> Tensor:
        return getattr(self.conv(x), self.how)(2)


class Layers(nn.Module):
    """A recurrent layer; with ``states`` its last states are returned as well."""

    def __init__(self, kind: type[nn.RNNBase] = nn.LSTM, states: bool = False) -> None:
        super().__init__()
        self.g, self.states = kind(3, 4, batch_first=True), states  # type: ignore[call-arg]

    def forward(self, x: Tensor) -> Any:
        y, last = self.g(x.transpose(1, 2))
        return (y.transpose(1, 2), last) if self.states else y.transpose(1, 2)


class Causal(nn.Module):
    """Attention under a mask that lets no query look ahead, further back than 4 frames neither."""

    def __init__(self, back: int | None = 4) -> None:
        super().__init__()
        self.qkv, self.back = nn.Linear(3, 12), back

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x.transpose(1, 2)).chunk(3, -1)
        t = x.shape[2]
        mask = torch.ones(t, t, dtype=torch.bool, device=x.device).tril()
        if self.back is not None:
            mask = mask.triu(1 - self.back)
        return F.scaled_dot_product_attention(q, k, v, mask).transpose(1, 2)


class Attends(nn.Module):
    """Attention without a mask."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(3, 12)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x.transpose(1, 2)).chunk(3, -1)
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2)


class PooledInEvalMode(nn.Module):
    """Frame by frame in training, one answer to the video in evaluation."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = conv()

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv(x)
        return h if self.training else h.mean(2)


def video(frames: int = FRAMES, rows: int = 2) -> Tensor:
    return torch.randn(
        rows, 3, frames, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    )


def progressive(model: nn.Module, **options: Any) -> pgt_fx.Progressive:
    torch.manual_seed(0)
    for p in model.parameters():
        nn.init.normal_(p, std=0.5)
    return pgt_fx.transform(model.double().eval(), video(8, 1), **options)


def after(prog: pgt_fx.Progressive, frames: int) -> dict[str, Tensor]:
    return prog.step(prog.init_state(), video()[:, :, :frames])[1]


# ------------------------------------------------------------- another mode, other options


def test_a_pool_of_the_other_mode_does_not_begin_in_the_middle() -> None:
    prog = progressive(PooledInEvalMode(), future="wait", pooling="running")
    x = video()
    prog.train()
    prog(x[:, :, :10])
    prog.eval()
    with pytest.raises(StateError, match=f"no entry 'mean'.*other mode.*{START}"):
        prog(x[:, :, 10:], last=True)
    prog.reset()
    prog(x[:, :, :10])
    prog.train()
    with pytest.raises(StateError, match="'mean"):
        prog(x[:, :, 10:], last=True)


def test_a_mode_that_changes_no_operator_may_change() -> None:
    prog = progressive(nn.Sequential(conv(), nn.Dropout(0.5), nn.AdaptiveAvgPool1d(1)))
    prog = prog.replace(future="wait", pooling="running")
    x = video()
    prog(x[:, :, :6])
    prog.train()
    prog.eval()
    got = prog(x[:, :, 6:], last=True)
    assert relative_error(got, prog.inspect.model(x)) <= EXACT


HOWS = ["mean", "sum", "amax", "amin", "var", "std", "prod", "any", "first"]


@pytest.mark.parametrize("how", HOWS)
def test_a_state_of_steps_does_not_start_another_pooling(how: str) -> None:
    steps = progressive(Pooled(how), pooling="step")
    state = after(steps, 7)
    for pooling in ("running", "markov"):
        if how == "first" and pooling == "markov":
            continue  # nothing is carried: it is the first of each step
        with pytest.raises(StateError, match=START):
            steps.replace(pooling=pooling).step(state, video()[:, :, 7:])
    running = steps.replace(pooling="running", future="wait")
    whole = steps.inspect.model(video()).double()
    for chunks in CHUNKINGS:
        got = [y for y in running.run(video(), schedule=chunks) if y is not None][-1]
        assert relative_error(got.double(), whole) <= EXACT, chunks


def test_a_state_without_memory_does_not_start_one() -> None:
    steps = progressive(Attends(), attention="step")
    memory = steps.replace(attention="memory")
    with pytest.raises(StateError, match=f"0 elements along time, expected.*{START}"):
        memory.step(after(steps, 8), video()[:, :, 8:])
    outputs = memory.run(video(), schedule=[8, 8, 1])  # its own state it takes
    assert all(y is not None for y in outputs)


# ------------------------------------------------------------- entries left out, entries too many

CARRIERS: list[tuple[nn.Module, dict[str, Any]]] = [
    *((Pooled(how), {"pooling": "running"}) for how in HOWS),
    *((Pooled(how), {"pooling": "markov"}) for how in ("mean", "amax", "var")),
    (Pooled(), {"pooling": "markov", "operator": "pmco"}),
    *((Scan(how), {}) for how in ("cumsum", "cumprod", "logcumsumexp")),
    *((Layers(kind), {}) for kind in (nn.LSTM, nn.GRU, nn.RNN)),
    (Layers(states=True), {}),
    (Causal(), {"future": "wait"}),
    (Causal(None), {"future": "wait"}),
    (Attends(), {"attention": "memory"}),
]


@pytest.mark.parametrize(("model", "options"), CARRIERS)
def test_each_entry_is_missed(model: nn.Module, options: dict[str, Any]) -> None:
    prog = progressive(copy.deepcopy(model), **options)
    for one in (prog, prog.replace(future="wait", strict=False)):
        state = after(one, 9)
        entries = [name for name in state if not name.startswith("clock")]
        assert entries
        one.step(state, video()[:, :, 9:], last=True)
        for name in entries:
            part = {k: v for k, v in state.items() if k != name}
            with pytest.raises(StateError, match=f"'{name}'.*{START}"):
                one.step(part, video()[:, :, 9:], last=True)
            if name == "conv":  # as many elements as the padding in front
                continue
            early = {**one.init_state(), name: state[name]}
            with pytest.raises(StateError, match=START):
                one.step(early, video()[:, :, 9:], last=True)


@pytest.mark.parametrize("how", ["mean", "var", "amax", "cumsum"])
def test_a_last_step_without_new_elements_misses_them_too(how: str) -> None:
    class Strided(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv1d(3, 4, 1, stride=4)

        def forward(self, x: Tensor) -> Tensor:
            h = self.conv(x)
            return h.cumsum(2) if how == "cumsum" else getattr(h, how)(2)

    prog = progressive(Strided(), future="wait", pooling="running")
    x = video()[:, :, :8]
    for chunks in ([1] * 8, [5, 3], [6, 1, 1]):
        given = [y for y in prog.run(x, schedule=chunks) if y is not None]
        got = stitch(given) if how == "cumsum" else given[-1]
        assert relative_error(got, prog.inspect.model(x)) <= EXACT, chunks
    state = after(prog, 6)
    for name in [n for n in state if not n.startswith("clock")] if how != "cumsum" else []:
        if name == "conv":
            continue  # it has nothing to do in the last step
        with pytest.raises(StateError, match=f"'{name}'"):
            prog.step({k: v for k, v in state.items() if k != name}, x[:, :, 6:], last=True)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_last_states_are_told_from_a_whole_state_alone(kind: type[nn.RNNBase]) -> None:
    class Late(nn.Module):
        """The layers' frames come late: the last step may bring none."""

        def __init__(self) -> None:
            super().__init__()
            self.body = Layers(kind, states=True)

        def forward(self, x: Tensor) -> Any:
            _, last = self.body(x[:, :, ::4])
            return last[0] if isinstance(last, tuple) else last

    prog = progressive(Late(), future="wait")
    x = video()[:, :, :8]
    whole = prog.inspect.model(x)
    for chunks in ([1] * 8, [5, 3], [6, 1, 1]):
        got = [y for y in prog.run(x, schedule=chunks) if y is not None][-1]
        assert relative_error(got, whole) <= EXACT, chunks
    state = after(prog, 6)
    for name in [n for n in state if n.endswith(("hidden", "cell"))]:
        with pytest.raises(StateError, match=f"'{name}'"):
            prog.step({k: v for k, v in state.items() if k != name}, x[:, :, 6:], last=True)


@pytest.mark.parametrize(("model", "options"), CARRIERS[-8:])
def test_whole_states_are_taken_under_every_chunking(
    model: nn.Module, options: dict[str, Any]
) -> None:
    if isinstance(model, Attends):
        return  # not exact
    prog = progressive(copy.deepcopy(model), **{"future": "wait", "strict": False, **options})
    whole = prog.inspect.model(video())
    for chunks in CHUNKINGS:
        outputs = prog.run(video(), schedule=chunks)
        if isinstance(whole, tuple):
            outputs = [y[0] for y in outputs]
        got, wanted = stitch(outputs), whole[0] if isinstance(whole, tuple) else whole
        assert relative_error(got, wanted) <= EXACT, chunks


def test_a_token_in_front_of_the_frames_is_no_element_of_the_past() -> None:
    class Token(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.token = nn.Parameter(torch.zeros(1, 3, 1))

        def forward(self, x: Tensor) -> Tensor:
            h = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 2)
            return h.cumsum(2)

    prog = progressive(Token(), future="wait")
    for chunks in CHUNKINGS:
        got = stitch(prog.run(video(), schedule=chunks))
        assert relative_error(got, prog.inspect.model(video())) <= EXACT, chunks


def test_no_element_is_left_out_of_a_pool() -> None:
    """What can't be computed in a step would be missing from the mean over the video."""

    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.gate = conv(), nn.Conv1d(4, 4, 5, stride=2, padding=2)

        def forward(self, x: Tensor) -> Tensor:
            h = self.conv(x)
            return (h * self.gate(h).mean(2, keepdim=True)).mean(2)

    prog = progressive(Gated(), pooling="running")
    assert [y is not None for y in prog.run(video(16), schedule=[8, 8])] == [True, True]
    with pytest.raises(StateError, match="feed longer chunks"):
        prog.run(video(16), schedule=[1] * 16)


def test_compiled_steps_refuse_too() -> None:
    prog = progressive(Pooled(), future="wait", pooling="running")
    prog.compile(backend="eager")
    x = video()
    with torch.no_grad():
        wanted = prog.full(x)
        outputs = [prog(clip, last=n == 5) for n, clip in enumerate(pieces(x, [3, 3, 3, 3, 3, 2]))]
        assert relative_error(outputs[-1], wanted) <= EXACT
        part = {k: v for k, v in after(prog, 6).items() if k != "mean.count"}
        for _ in range(3):
            with pytest.raises(StateError, match=r"'mean\.count'"):
                prog.step(part, x[:, :, 6:9])
        # A state of the same names, once that step is compiled.
        bad = {**after(prog, 6), "conv": torch.zeros(2, 3, 1, dtype=torch.float64)}
        with pytest.raises(StateError, match="'conv' has 1 element along time, expected 2"):
            prog.step(bad, x[:, :, 6:9])


# ------------------------------------------------------------- no clock, no state


@pytest.mark.parametrize("name", CLOCK)
def test_a_state_without_a_whole_clock(name: str) -> None:
    prog = progressive(Pooled())
    state = after(prog, 6)
    part = {k: v for k, v in state.items() if k != name}
    with pytest.raises(StateError, match=f"'{name}'.*{'init_state'}"):
        prog.step(part, video()[:, :, 6:])
    with pytest.raises(StateError, match=f"'{name}'"):
        prog.step({**state, name: 6}, video()[:, :, 6:])  # type: ignore[dict-item]


@pytest.mark.parametrize("value", [None, 3, [torch.zeros(1)], torch.zeros(1)])
def test_what_is_no_state(value: Any) -> None:
    prog = progressive(Pooled())
    with pytest.raises(StateError, match=f"got {type(value).__name__}"):
        prog.step(value, video())
    with pytest.raises(StateError, match=r"reset\(\)"):
        prog.state = value
    with pytest.raises(StateError, match="'conv': expected a tensor, got float"):
        prog.state = {**after(prog, 6), "conv": 1.5}  # type: ignore[dict-item]
    prog.state = {}  # the start of a video
    prog(video())


def test_a_state_of_another_number_of_inputs() -> None:
    prog = progressive(Pooled())
    state = prog.init_state()
    two = {**state, "clock.frames": state["clock.frames"].repeat(2)}
    with pytest.raises(StateError, match="of 2 input paths, and this model has 1"):
        prog.step(two, video())
    with pytest.raises(ClipError, match="another size"):
        prog.step(after(prog, 6), video(rows=1))


# ------------------------------------------------------------- half precision in the middle


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("how", ["mean", "sum", "var", "std"])
def test_what_adds_up_stays_in_single_precision(how: str, dtype: torch.dtype) -> None:
    """65504 is the most that a half holds: 1000 frames of 300, or of 30 squared, are more."""

    class Plain(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return getattr(x, how)(2)

    prog = pgt_fx.transform(Plain().eval(), torch.zeros(1, 3, 8), time_dim=2, pooling="running")
    x = video(1010).float() * 30
    x = x + 300 if how == "mean" else x
    wanted = prog.full(x)
    state = prog.step(prog.init_state(), x[:, :, :1000])[1]
    # One that has made a step, one that was copied, and one that was given a state.
    stepped = prog.replace()
    stepped(x[:, :, :1000])
    given = prog.replace()
    given.state = state
    for one in (copy.deepcopy(stepped), stepped, given):
        one.to(dtype)
        got = one(x[:, :, 1000:].to(dtype), last=True)
        assert got.dtype == dtype
        assert relative_error(got.double(), wanted.double()) <= 1e-2


def test_a_last_step_in_half_answers_in_half() -> None:
    model = nn.Sequential(nn.Conv1d(3, 4, 1, stride=4), nn.AdaptiveAvgPool1d(1)).eval()
    prog = pgt_fx.transform(model, torch.zeros(1, 3, 8), pooling="running")
    prog(video(6).float())
    wanted = prog.full(video(6).float())
    prog.half()
    got = prog(video(2).half(), last=True)  # brings no new element to the pool
    assert got.dtype == torch.float16
    assert relative_error(got.double(), wanted.double()) <= 1e-2
