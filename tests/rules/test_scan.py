"""Scans along time: cumulative operators and recurrent layers, with a state of fixed size."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import torch
from oracles import cut_masked, ends, error_per_frame, random_chunks, relative_error, stitch
from torch import Tensor, nn
from torch.nn import functional as F

import pgt_fx
from pgt_fx.core.errors import BlockedError, ExactnessError
from pgt_fx.doctor import examine

EXACT = 1e-9


class Scan(nn.Module):
    """A convolution that looks ahead, a scan, a strided convolution, and a residual around it."""

    temporal_scan = True

    def __init__(self, scan: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv = nn.Conv1d(3, 4, 3, padding=1)
        self.scan = scan
        self.down = nn.Conv1d(4, 4, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x).tanh()
        return self.down(x + self.scan(x))


class Cumulative(nn.Module):
    temporal = True

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "prod":
            return (1 + x / 10).cumprod(2)
        return x.cumsum(2) / 10 if self.how == "sum" else x.logcumsumexp(2)


class Recurrent(nn.Module):
    """A recurrent layer over (N, C, T), in either order of its axes."""

    temporal = True

    def __init__(self, kind: type[nn.RNNBase], batch_first: bool = True, **options: object) -> None:
        super().__init__()
        self.rnn = kind(4, 4, batch_first=batch_first, **options)  # type: ignore[arg-type]
        self.order = (0, 2, 1) if batch_first else (2, 0, 1)
        self.back = (0, 2, 1) if batch_first else (1, 2, 0)

    def forward(self, x: Tensor) -> Tensor:
        return self.rnn(x.permute(self.order))[0].permute(self.back)


SCANS = {
    "cumsum": lambda: Cumulative("sum"),
    "cumprod": lambda: Cumulative("prod"),
    "logcumsumexp": lambda: Cumulative("logsumexp"),
    "gru": lambda: Recurrent(nn.GRU),
    "lstm": lambda: Recurrent(nn.LSTM),
    "rnn": lambda: Recurrent(nn.RNN),
    "gru, time first": lambda: Recurrent(nn.GRU, batch_first=False),
    "lstm of two layers": lambda: Recurrent(nn.LSTM, num_layers=2),
    "rnn with relu": lambda: Recurrent(nn.RNN, nonlinearity="relu"),
    "lstm with projection": lambda: nn.Sequential(Recurrent(nn.LSTM, proj_size=2), Widen()),
}


class Widen(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, -x], 1)


CASES = pytest.mark.parametrize("name", SCANS)


def made(name: str, frames: int = 40) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    model = Scan(SCANS[name]()).double().eval()
    return model, torch.randn(2, 3, frames, dtype=torch.float64)


def run(prog: pgt_fx.Progressive, x: Tensor, chunks: list[int]) -> list[Tensor | None]:
    prog.reset()
    clips = x.split(chunks, 2)
    with torch.no_grad():
        return [prog(c, last=i == len(clips) - 1) for i, c in enumerate(clips)]


@CASES
def test_it_is_exact_however_the_video_is_cut(name: str) -> None:
    model, x = made(name)
    prog = pgt_fx.transform(model, x[:, :, :8], time_dim=2, future="wait")
    with torch.no_grad():
        whole = model(x)
    rng = random.Random(0)
    for longest in (1, 3, 8, 40):
        chunks = random_chunks(x.shape[2], longest, rng)
        assert relative_error(stitch(run(prog, x, chunks)), whole) <= EXACT, chunks


@CASES
def test_under_zero_it_goes_on_from_what_it_was_given(name: str) -> None:
    """Beside the definition, and the frames named are those that are right."""
    model, x = made(name)
    prog = pgt_fx.transform(model, x[:, :, :8], time_dim=2)
    with torch.no_grad():
        whole = model(x)
    for chunks in ([40], [8, 7, 7, 7, 7, 4], [1] * 6 + [34], [39, 1]):
        answer = stitch(run(prog, x, chunks))
        assert relative_error(answer, cut_masked(model, x, ends(chunks))) <= EXACT, chunks
        flags = prog.exact_frames(chunks)
        errors = error_per_frame(answer, whole, 2).tolist()
        for flag, error in zip(flags, errors, strict=True):
            # A ReLU may be silent all along.
            assert error <= EXACT if flag else error > 1e-13 or "relu" in name, (chunks, flags)
        assert any(flags) == (chunks[0] > 1), "a cut spoils all that comes behind it"


@CASES
def test_every_promise_holds(name: str) -> None:
    model, x = made(name)
    found = pgt_fx.verify(pgt_fx.transform(model, x[:, :, :8], time_dim=2), chunkings=3)
    assert found.ok, str(found)
    for check in ("exact-wait", "exact-zero", "exact-tight", "exact-gradients", "receptive-field"):
        assert found[check].ok, str(found[check])


@pytest.mark.parametrize("kind, states", [(nn.GRU, 2), (nn.LSTM, 4)])
def test_the_report_and_the_state(kind: type[nn.RNNBase], states: int) -> None:
    torch.manual_seed(0)
    model = Scan(Recurrent(kind, num_layers=2)).eval()
    prog = pgt_fx.transform(model, torch.zeros(1, 3, 8), time_dim=2, future="wait")
    row = next(r for r in prog.report.rows if r.name == "scan.rnn")
    assert row.verdict == "exact" and "of 2 layers" in row.what
    assert (row.past, row.future) == (None, 1)
    assert row.state_bytes == states * 4 * 4
    assert prog.report.exact and prog.report.latency == 2
    assert prog.report.receptive_field == [None] and prog.report.look_ahead == [2]
    for _ in range(3):
        prog(torch.randn(1, 3, 8))
    held = {k: v for k, v in prog.state.items() if k.startswith("scan.rnn.")}
    assert set(held) == {"scan.rnn.hidden"} | ({"scan.rnn.cell"} if kind is nn.LSTM else set())
    assert sum(v.numel() * v.element_size() for v in held.values()) == row.state_bytes
    assert examine(model, torch.zeros(1, 3, 8), time_dim=2).verdict == "late"


class LastState(nn.Module):
    """What video models do with a recurrent layer: classify its last state."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.conv, self.rnn = nn.Conv1d(3, 4, 3, padding=1), nn.LSTM(4, 6, batch_first=True)
        self.head, self.way = nn.Linear(6, 5), way

    def forward(self, x: Tensor) -> Tensor:
        y, (hidden, _) = self.rnn(self.conv(x).transpose(1, 2))
        return self.head({"state": hidden[-1], "output": y[:, -1], "mean": y.mean(1)}[self.way])


@pytest.mark.parametrize("way", ["state", "output", "mean"])
def test_a_classifier_on_its_last_state_is_exact_at_the_end(way: str) -> None:
    torch.manual_seed(0)
    model = LastState(way).double().eval()
    x = torch.randn(2, 3, 30, dtype=torch.float64)
    prog = pgt_fx.transform(model, x[:, :, :8], time_dim=2, future="wait", pooling="running")
    with torch.no_grad():
        whole = model(x)
    for chunks in ([30], [8, 8, 8, 6], [1] * 30):
        outputs = [y for y in run(prog, x, chunks) if y is not None]
        assert relative_error(outputs[-1], whole) <= EXACT, chunks
        assert prog.exact_frames(chunks) == [True]
    answering = prog.replace(future="zero")
    assert answering.exact_frames([15, 15]) == [False] and answering.exact_frames([30]) == [True]


def test_a_last_state_that_gates_single_frames_is_refused() -> None:
    class Gate(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = nn.GRU(3, 3, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            _, hidden = self.rnn(x.transpose(1, 2))
            return x * hidden[-1].unsqueeze(2)

    with pytest.raises(ExactnessError, match="its last state is that of all of time"):
        pgt_fx.transform(Gate().eval(), torch.zeros(1, 3, 8), time_dim=2, future="wait")


def test_what_can_not_be_scanned_is_refused() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = nn.GRU(3, 3, batch_first=True, bidirectional=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.rnn(x.transpose(1, 2))[0].transpose(1, 2)

    class PerFrame(nn.Module):
        """Runs along space; time is in its batch."""

        def __init__(self) -> None:
            super().__init__()
            self.rnn = nn.GRU(3, 3, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            n, c, t, h, w = x.shape
            rows = x.permute(0, 2, 3, 4, 1).reshape(n * t, h * w, c)
            return self.rnn(rows)[0].reshape(n, t, h, w, c).permute(0, 4, 1, 2, 3)

    with pytest.raises(BlockedError, match="backward direction reads the video from its end"):
        pgt_fx.transform(Both().eval(), torch.zeros(1, 3, 8), time_dim=2)
    with pytest.raises(BlockedError, match=r"pgt_fx\.recurrent in rnn"):
        pgt_fx.transform(PerFrame().eval(), torch.zeros(1, 3, 8, 4, 4))


def test_training_gives_the_gradients_of_the_whole_video() -> None:
    from pgt_fx.training import backward

    torch.manual_seed(0)
    model = LastState("state").double()
    x, label = torch.randn(2, 3, 24, dtype=torch.float64), torch.tensor([1, 4])
    F.cross_entropy(model(x), label).backward()
    wanted = {k: p.grad.clone() for k, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    prog = pgt_fx.transform(model.eval(), x[:, :, :8], time_dim=2, future="wait", pooling="running")
    backward(prog, x, F.cross_entropy, label, schedule=[8, 8, 8], gradient="exact", on="last")
    for name, p in model.named_parameters():
        assert p.grad is not None and relative_error(p.grad, wanted[name]) <= EXACT, name


def test_a_rule_for_an_operator_of_ones_own() -> None:
    """The remedy of an unknown operator is to register one; names with a namespace are taken."""
    from pgt_fx.rules import RULES, Local, OpView, Outcome, rule

    @torch.library.custom_op("pgt_fx_tests::half", mutates_args=())
    def half(x: Tensor) -> Tensor:
        return x / 2

    half.register_fake(lambda x: torch.empty_like(x))

    @rule("pgt_fx_tests::half")
    def law(op: OpView) -> Outcome:
        return Local(op.layout(op.arg["x"]))

    class Halved(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return half(x)

    try:
        prog = pgt_fx.transform(Halved(), torch.zeros(1, 3, 8), time_dim=2)
        assert torch.equal(prog(torch.ones(1, 3, 8)), torch.full((1, 3, 8), 0.5))
    finally:
        del RULES["pgt_fx_tests::half"]
