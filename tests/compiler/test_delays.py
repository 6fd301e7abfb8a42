"""Where what came early waits: with the fewest bytes, and once for all readers."""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import random_chunks, relative_error, sensitive_to_time, stitch
from torch import Tensor, fx, nn

import pgt_fx
from pgt_fx.compiler.lowering import retiming as delays
from pgt_fx.compiler.lowering.retiming import _least, _Network, _Reader
from pgt_fx.core.clocks import InputClock
from pgt_fx.rules import StepOnly


class Residual(nn.Module):
    """A convolution around which its input goes on, projected or not."""

    def __init__(self, narrow: int = 4, wide: int = 0, kernel: int = 3, bias: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv1d(narrow, wide or narrow, kernel, padding=kernel // 2)
        self.skip = nn.Conv1d(narrow, wide, 1, bias=bias) if wide else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).tanh() + self.skip(x)


class Factorised(nn.Module):
    """The window stands behind a widening: what waits is not what it carries."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.conv, self.down = nn.Conv1d(4, 9, 1), nn.Conv1d(9, 9, 3, padding=1), None
        self.back, self.skip = nn.Conv1d(9, 6, 1), nn.Conv1d(4, 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.back(self.conv(self.up(x).tanh())) + self.skip(x).sigmoid()


class Narrowing(nn.Module):
    """The operand that waits is narrower than what it is made of."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.conv = nn.Conv1d(4, 9, 1), nn.Conv1d(9, 2, 3, padding=1)
        self.skip = nn.Conv1d(9, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.up(x).tanh()
        return self.conv(y.sin()) + self.skip(y)


class TwoJoins(nn.Module):
    """A projection that two joins ask for at different times."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv1d(4, 6, 3, padding=1), nn.Conv1d(4, 6, 7, padding=3)
        self.skip = nn.Conv1d(4, 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        s = self.skip(x)
        return (self.a(x) + s).tanh() * (self.b(x) + s)


class Branches(nn.Module):
    """Windows of different length on one value."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv1d(4, 6, 3, padding=1), nn.Conv1d(4, 6, 5, padding=2)
        self.most = nn.MaxPool1d(3, 1, 1)
        self.last = nn.Conv1d(4, 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.a(x) * self.b(x) + self.last(self.most(x - 9.0))


class InPlace(nn.Module):
    """What waits is then written to."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.skip = nn.Conv1d(4, 4, 3, padding=1), nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = x * 1.5
        return self.conv(x) + self.skip(x)


class Padded(nn.Module):
    """Windows of one length that differ in what stands before the first frame."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(4, 4, (3, 1, 1), padding=(1, 0, 0))
        self.most = nn.MaxPool3d((3, 1, 1), 1, (1, 0, 0))

    def forward(self, x: Tensor) -> Tensor:
        y = x[..., None, None] - 9.0
        return (self.conv(y) * self.most(y)).flatten(2)


class Normalised(nn.Module):
    """A shortcut that is normalised, and loses channels in training, as residual networks have."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.after = nn.Conv1d(4, 6, 3, padding=1), nn.BatchNorm1d(6)
        self.skip, self.norm = nn.Conv1d(4, 6, 1), nn.BatchNorm1d(6)
        self.drop = nn.Dropout1d(0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.conv(x)) + self.drop(self.norm(self.skip(x)))


MODELS: dict[str, tuple[type[nn.Module], dict[str, Any], int, set[str]]] = {
    # bytes of float64: elements x channels x 8; and the entries of the state
    "residual": (Residual, {}, 2 * 4 * 8, {"conv"}),
    "residual, k=5": (Residual, {"kernel": 5}, 4 * 4 * 8, {"conv"}),
    "projected wider": (Residual, {"wide": 6}, 2 * 4 * 8, {"conv"}),
    "factorised": (Factorised, {}, 2 * 9 * 8 + 4 * 8, {"conv", "skip.held"}),
    "narrowing": (Narrowing, {}, 2 * 9 * 8 + 2 * 8, {"conv", "add.held"}),
    # The projection is made when the first join asks for it, of the frames that b carries.
    "two joins": (TwoJoins, {}, (6 * 4 + 2 * 6 + 2 * 6) * 8, {"b", "add.held", "mul.held"}),
    "normalised": (Normalised, {}, 2 * 4 * 8, {"conv"}),
    "in place": (InPlace, {}, 2 * 4 * 8, {"conv"}),
    "padded": (Padded, {}, 4 * 4 * 8, {"conv", "most"}),
    "branches": (
        Branches,
        {},
        (4 * 4 + 2 * 4 + 6 + 4) * 8,
        {"b", "most", "mul.held", "last.held"},
    ),
}


def build(name: str) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    kind, options, *_ = MODELS[name]
    return kind(**options).double().eval(), torch.randn(2, 4, 31, dtype=torch.float64)


def held_bytes(state: dict[str, Tensor]) -> dict[str, int]:
    """Bytes per entry and sample."""
    return {
        k: v.numel() * v.element_size() // v.shape[0]
        for k, v in state.items()
        if not k.startswith("clock.") and v.numel()
    }


@pytest.mark.parametrize("name", MODELS)
def test_the_state_is_as_small_as_it_can_be(name: str) -> None:
    model, video = build(name)
    prog = pgt_fx.transform(model, video[:, :, :9], future="wait")
    state: Any = prog.init_state(video[:, :, :1])
    for piece in video[:, :, :24].split(8, 2):
        _, state = prog.step(state, piece)
    held = held_bytes(dict(state))
    expected, names = MODELS[name][2:]
    assert set(held) == names
    assert sum(held.values()) == prog.report.state_bytes == expected, held
    rows = sum(row.state_bytes for row in prog.report.rows)
    assert rows == prog.report.state_bytes, "each byte is reported at some operator"


@pytest.mark.parametrize("future", ["wait", "zero"])
def test_a_stream_goes_on_in_the_other_mode(future: str) -> None:
    """What batch statistics are taken of would else wait in other places than what they are not."""
    model, video = build("normalised")
    prog = pgt_fx.transform(model, video[:, :, :9], future=future)
    lengths = [9] * 3
    with torch.no_grad():
        for number, piece in enumerate(video[:, :, :27].split(lengths, 2)):
            prog.train(number == 1)
            before = int(model.norm.num_batches_tracked)
            out = prog(piece)
            assert out is not None and out.shape[2] == 9 - (future == "wait" and number == 0)
            assert int(model.norm.num_batches_tracked) == before + (number == 1)
    names = [set(held_bytes(prog.train(mode).state)) for mode in (True, False)]
    assert names[0] == names[1] == {"conv"}


def test_places_that_differ_between_modes_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(StepOnly, "may_wait", False)
    model, video = build("normalised")
    found = pgt_fx.verify(
        pgt_fx.transform(model, video[:, :, :9]), checks=["mode-switching"], video=(video,)
    )
    assert not found.ok
    assert "'add.held' has a place in the state in train mode alone" in str(found)


@given(st.sampled_from(sorted(MODELS)), st.integers(0, 2**16))
@settings(max_examples=40, deadline=None)
def test_streams_are_the_whole_video(name: str, seed: int) -> None:
    model, video = build(name)
    chunks = random_chunks(31, 9, random.Random(seed))
    prog = pgt_fx.transform(model, video[:, :, :9], future="wait")
    outs = [
        prog(piece, last=n == len(chunks) - 1) for n, piece in enumerate(video.split(chunks, 2))
    ]
    assert relative_error(stitch([o for o in outs if o is not None]), model(video)) <= 1e-13
    assert sensitive_to_time(model, video)


@pytest.mark.parametrize("name", MODELS)
def test_a_step_leaves_the_state_it_is_given(name: str) -> None:
    model, video = build(name)
    prog = pgt_fx.transform(model, video[:, :, :9], future="wait")
    state: Any = prog.init_state(video[:, :, :1])
    for piece in video.split(1, 2):
        before = {k: v.clone() for k, v in dict(state).items()}
        with torch.no_grad():
            _, after = prog.step(state, piece)
        assert all(torch.equal(v, dict(state)[k]) for k, v in before.items())
        state = after


# The plain model "in place" has no gradient: autograd refuses to lose what the convolution read.
@pytest.mark.parametrize("name", sorted(set(MODELS) - {"in place"}))
def test_gradients_flow_through_a_tail_that_is_shared(name: str) -> None:
    model, video = build(name)
    # A convolution in front, so that gradients reach a parameter through the state.
    model = nn.Sequential(nn.Conv1d(4, 4, 1).double(), model)
    prog = pgt_fx.transform(model, video[:, :, :9], future="wait")
    model(video).square().sum().backward()
    expected = {k: p.grad.clone() for k, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    pgt_fx.training.backward(
        prog, video, lambda out, _: out.square().sum(), schedule=[9, 7, 8, 7], gradient="exact"
    )
    for k, p in model.named_parameters():
        assert relative_error(p.grad, expected[k]) <= 1e-12, k


@pytest.mark.parametrize("options", [{"operator": "cmco-max"}, {"operator": "pmco"}])
def test_a_context_is_no_tail(options: dict[str, str]) -> None:
    """What stands in place of the past is not what waits at the join."""
    model, video = build("residual")
    prog = pgt_fx.transform(model, video[:, :, :9], future="wait", strict=False, **options)  # type: ignore[arg-type]
    prog(video[:, :, :8])
    assert not prog.inspect.program.emitted.shared
    assert set(held_bytes(dict(prog.state))) == {"conv", "add.held"}


class TwoPaths(nn.Module):
    """Both paths meet, then a residual block: its clock follows both."""

    def __init__(self) -> None:
        super().__init__()
        self.slow, self.fast = nn.Conv1d(4, 4, 3, padding=1), nn.Conv1d(4, 4, 5, 4, 2)
        self.block = Residual()

    def forward(self, videos: list[Tensor]) -> Tensor:
        return self.block(self.slow(videos[0]) + self.fast(videos[1]))


def test_paths_fed_unevenly() -> None:
    torch.manual_seed(0)
    model = TwoPaths().double()
    slow, fast = (torch.randn(2, 4, n, dtype=torch.float64) for n in (12, 48))
    prog = pgt_fx.transform(model, [slow[:, :, :8], fast[:, :, :32]], future="wait")
    outs = []
    cuts = [(3, 12), (2, 8), (4, 16), (3, 12)]
    for n, (a, b) in enumerate(cuts):
        pieces = [slow[:, :, sum(c[0] for c in cuts[:n]) :][:, :, :a]]
        pieces.append(fast[:, :, sum(c[1] for c in cuts[:n]) :][:, :, :b])
        outs.append(prog(pieces, last=n == len(cuts) - 1))
    whole = model([slow, fast])
    assert relative_error(stitch([o for o in outs if o is not None]), whole) <= 1e-13
    assert prog.inspect.program.emitted.shared == {"block.add.held#2": "block.conv"}


def random_network(rng: random.Random) -> tuple[_Network, set[fx.Node]]:
    """A chain of values, some read by operators that can be late, joins and windows."""
    graph, network = fx.Graph(), _Network()
    nodes = [graph.placeholder(f"v{n}") for n in range(rng.randint(2, 5))]
    clock, movable = InputClock("wait", 0), set()
    for node in nodes:
        network.readers[node], network.bytes[node] = [], rng.randint(1, 9)
    for n, node in enumerate(nodes):
        if n and rng.random() < 0.8:
            source = nodes[rng.randrange(n)]
            network.readers[source].append(_Reader(node, 0, 0, clock))
            movable.add(node)
        for _ in range(rng.randint(0, 2)):
            ahead = rng.randint(0, 3)
            network.readers[node].append(_Reader(None, ahead, ahead, clock))
        if rng.random() < 0.3:
            network.readers[node].append(_Reader(None, 0, rng.randint(0, 4), clock))
    return network, movable


def cost(network: _Network, by: dict[fx.Node, int]) -> int | None:
    """Bytes held, from the definition; None where a value comes too late."""
    total = 0
    for node, readers in network.readers.items():
        held = [0]
        for reader in readers:
            moved = by.get(reader.node, 0) if reader.node else 0
            if moved + reader.slack < by.get(node, 0):
                return None
            held.append(moved + reader.held - by.get(node, 0))
        total += network.bytes[node] * max(held)
    return total


@given(st.integers(0, 2**20))
@settings(max_examples=150, deadline=None)
def test_the_flow_is_least(seed: int) -> None:
    network, movable = random_network(random.Random(seed))
    wanted = set(network.readers)
    found = _least(network, wanted, movable)
    every = sorted(movable, key=lambda n: n.name)
    costs = [
        cost(network, dict(zip(every, by, strict=True)))
        for by in itertools.product(range(4), repeat=len(every))
    ]
    assert cost(network, found) == min(c for c in costs if c is not None)


def test_a_model_without_joins_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delays, "_least", lambda *_: pytest.fail("nothing to place"))
    model = nn.Sequential(nn.Conv1d(4, 4, 3, padding=1), nn.Conv1d(4, 4, 1))
    video = torch.randn(2, 4, 16)
    pgt_fx.transform(model, video, future="wait")(video)


class AheadAndBehind(nn.Module):
    """An operand that runs behind its join, and waits at another."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv1d(4, 4, 1), nn.Conv1d(4, 4, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        to_come = self.a(nn.functional.pad(x, (0, 1))[:, :, 1:])
        slow = nn.functional.interpolate(nn.functional.avg_pool1d(x, 4), scale_factor=4.0)
        return to_come + self.b(x), to_come + self.b(slow)


@pytest.mark.parametrize("future", ["wait", "zero"])
def test_an_operand_may_be_behind_its_join(future: str) -> None:
    torch.manual_seed(0)
    model, video = AheadAndBehind().double().eval(), torch.randn(2, 4, 32, dtype=torch.float64)
    prog = pgt_fx.transform(model, video[:, :, :16], future=future)
    chunks = [8, 5, 1, 10, 8]
    found = [
        stitch([o[k] for o in prog.run(video, schedule=chunks) if o is not None]) for k in (0, 1)
    ]
    exact = torch.tensor(prog.exact_frames(chunks))
    assert exact.any() and (future == "zero" or exact.all())
    for ours, whole in zip(found, model(video), strict=True):
        assert relative_error(ours[:, :, exact], whole[:, :, exact]) <= 1e-13
