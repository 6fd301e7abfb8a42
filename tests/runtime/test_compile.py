"""Compiled steps: the same answers, one graph for all steady steps, nothing compiled again."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from oracles import relative_error
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

import pgt_fx
from pgt_fx import zoo
from pgt_fx.core.errors import CompileError


class Counted:
    """A backend of torch.compile that runs what it is given, and counts the graphs."""

    def __init__(self) -> None:
        self.graphs = 0

    def __call__(self, graph: fx.GraphModule, inputs: Any) -> Any:
        self.graphs += 1
        return graph.forward


class Branches(nn.Module):
    """Unequal delays, a temporal stride, a first frame apart, a causal scan, a running variance."""

    def __init__(self) -> None:
        super().__init__()
        self.long, self.short = nn.Conv1d(3, 4, 5, padding=2), nn.Conv1d(3, 4, 3, padding=1)
        self.down = nn.Conv1d(4, 4, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.down(self.long(x) + self.short(x))
        y = torch.cat([y[:, :, :1], nn.functional.max_pool1d(y[:, :, 1:], 2, 1)], 2)
        return y.cumsum(2), y.var(2)


@pytest.mark.parametrize("future", ["zero", "wait"])
@pytest.mark.parametrize("pooling", ["step", "running"])
def test_all_steady_steps_run_one_graph(future: str, pooling: str) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 8 * 12)
    prog = pgt_fx.transform(Branches(), x[:, :, :8], future=future, pooling=pooling)
    plain, backend = prog.replace(), Counted()
    prog.compile(backend=backend)
    graphs = []
    with torch.no_grad():
        for number, chunk in enumerate(x.split(8, 2)):
            found, wanted = prog(chunk), plain(chunk)
            assert relative_error(found[0], wanted[0]) <= 1e-6
            assert relative_error(found[1], wanted[1]) <= 1e-6 or number == 0
            graphs.append(backend.graphs)
        assert relative_error(prog.full(x)[0], plain.full(x)[0]) <= 1e-6
    assert graphs[0] == 0 and graphs[-1] == 1, graphs
    assert graphs.index(1) <= 4 and backend.graphs == 1, graphs


def test_another_chunk_length_is_another_graph_and_a_second_video_none() -> None:
    x = torch.randn(2, 3, 40)
    prog = pgt_fx.transform(Branches(), x[:, :, :8])
    backend = Counted()
    prog.compile(backend=backend)
    with torch.no_grad():
        for _ in range(2):
            for chunk in x.split(8, 2):
                prog(chunk)
            prog.reset()
        first = backend.graphs
        assert first >= 1
        for _ in range(3):
            for chunk in x.split(8, 2):
                prog(chunk)
            prog.reset()
        known = backend.graphs
        for chunk in x.split(4, 2):
            prog(chunk)
    assert backend.graphs == known + 1


def test_many_plans_are_many_functions() -> None:
    """Strides that chunks don't divide: more plans than torch compiles one function for."""
    model = nn.Sequential(*[nn.Conv1d(3, 3, 3, stride=4, padding=1) for _ in range(2)])
    x = torch.randn(1, 3, 7 * 80)
    prog = pgt_fx.transform(model, x[:, :, :32])
    plain, backend = prog.replace(), Counted()
    prog.compile(backend=backend)
    with torch.no_grad():
        for chunk in x.split(7, 2):
            found, wanted = prog(chunk), plain(chunk)
            assert (found is None) == (wanted is None)
            assert found is None or relative_error(found, wanted) <= 1e-6
    assert backend.graphs > 8


def test_numbers_of_numpy_are_compiled() -> None:
    """pytorchvideo computes strides with NumPy."""
    model = zoo.build("slow_r50", space=32)
    video = zoo.clip("slow_r50", space=32, frames=36)
    prog = pgt_fx.transform(model, video[:, :, :8], clip_pools="global")
    plain, backend = prog.replace(), Counted()
    prog.compile(backend=backend)
    with torch.no_grad():
        for chunk in [video[:, :, :8], *video[:, :, 8:].split(7, 2)]:
            assert relative_error(prog(chunk), plain(chunk)) <= 1e-5
    assert backend.graphs == 1


class Around(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = Kept()

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) * 2


class Kept(nn.Module):
    """Stays a module of the graph, as its forward is one operator: its own Python is compiled."""

    def forward(self, x: Tensor) -> Tensor:
        torch._dynamo.graph_break()
        return x.relu()


def test_a_graph_break_is_told_with_its_line_and_the_remedy_works() -> None:
    x = torch.randn(1, 3, 40)
    prog = pgt_fx.transform(nn.Sequential(nn.Conv1d(3, 3, 3, padding=1), Around()), x[:, :, :8])
    plain, other = prog.replace(), prog.replace()
    prog.compile(backend=Counted())
    with pytest.raises(CompileError, match=r"test_compile.py:\d+: .*graph_break") as told:
        for chunk in x.split(8, 2):
            prog(chunk)
    assert "fullgraph=False" in str(told.value)
    other.compile(backend=Counted(), fullgraph=False)
    for chunk in x.split(8, 2):
        assert relative_error(other(chunk), plain(chunk)) <= 1e-6


class Replayed:
    """In place of torch.compile: results in the same memory each time, as CUDA graphs give them."""

    def __init__(self, kernel: Any, **_: Any) -> None:
        self.kernel, self.memory = kernel, None

    def __call__(self, *given: Any) -> Any:
        flat, spec = pytree.tree_flatten(self.kernel(*given))
        if self.memory is None:
            self.memory = [x.clone() for x in flat]
        for kept, new in zip(self.memory, flat, strict=True):
            kept.copy_(new)
        return pytree.tree_unflatten(self.memory, spec)


@pytest.mark.parametrize(
    "options",
    [
        {"mode": "reduce-overhead"},
        {"mode": "max-autotune"},
        {"options": {"triton.cudagraphs": True}},
        {"backend": "cudagraphs"},
    ],
    ids=str,
)
def test_answers_and_state_outlive_the_next_replay(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "compile", Replayed)
    x = torch.randn(2, 3, 8 * 12)
    prog = pgt_fx.transform(Branches(), x[:, :, :8])
    plain = prog.replace()
    prog.compile(**options)
    with torch.no_grad():
        states = [prog.state]
        found = [(prog(chunk), states.append(prog.state))[0] for chunk in x.split(8, 2)]
        wanted = [plain(chunk) for chunk in x.split(8, 2)]
        for one, other in zip(found, wanted, strict=True):
            assert relative_error(one[0], other[0]) <= 1e-6
        # An earlier moment can be gone back to.
        again, _ = prog.step(states[9], x.split(8, 2)[9])
        assert relative_error(again[0], wanted[9][0]) <= 1e-6


def test_gradients_of_compiled_steps() -> None:
    model = zoo.build("r3d_18", space=32, redraw_norms=True)
    video = zoo.clip("r3d_18", space=32, frames=40)
    found = []
    for compiled in (False, True):
        prog = pgt_fx.transform(model, video[:, :, :8])
        if compiled:
            prog.compile(backend="aot_eager")
        model.zero_grad()
        for chunk in video.split(8, 2):
            prog(chunk).sum().backward()
        found.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    assert len(found[0]) == len(found[1]) > 50
    for plain, other in zip(*found, strict=True):
        assert relative_error(other, plain) <= 1e-4


@pytest.mark.slow
def test_the_default_compiler() -> None:
    """Takes a minute: C++ is compiled."""
    model = zoo.build("r3d_18", space=32, redraw_norms=True)
    prog = pgt_fx.transform(model, zoo.clip("r3d_18", space=32), pooling="running")
    plain = prog.replace()
    prog.compile()
    with torch.no_grad():
        for _ in range(4):
            x = zoo.clip("r3d_18", space=32)
            assert relative_error(prog(x), plain(x)) <= 1e-4


class Pooled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv1d(4, 4, 3, stride=2), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(x).mean(2))


def test_what_is_carried_may_depend_on_the_type() -> None:
    """Half precision is summed in single, and its type carried beside it."""
    torch.manual_seed(0)
    x = torch.randn(2, 4, 24)
    prog = pgt_fx.transform(Pooled().eval(), x[:, :, :6], future="wait", pooling="running")
    plain = prog.replace()
    prog.compile(backend="eager")

    def same(x: Tensor) -> None:
        for schedule in ([6, 6, 6, 6], [9, 12, 2, 1]):
            found, wanted = (p.run(x, schedule=schedule) for p in (prog, plain))
            for a, b in zip(found, wanted, strict=True):
                assert (a is None) == (b is None) and (a is None or torch.equal(a, b))

    with torch.no_grad():
        for _ in range(3):
            with torch.autocast("cpu", torch.bfloat16):
                same(x)
            same(x)
        for _ in range(3):
            prog.bfloat16()
            same(x.bfloat16())
            prog.float()
            same(x)


def test_many_sizes_are_many_functions(monkeypatch: pytest.MonkeyPatch) -> None:
    """More than torch compiles one function for; and no more are kept than need be."""
    from pgt_fx.runtime import torch_compile as compiled

    monkeypatch.setattr(compiled, "MOST_COMPILED", 10)
    prog = pgt_fx.transform(nn.Conv3d(2, 3, 3, padding=1), torch.randn(1, 2, 4, 6, 6))
    plain, backend = prog.replace(), Counted()
    prog.compile(backend=backend)
    sizes = range(6, 18)
    with torch.no_grad():
        for space in sizes:
            x = torch.randn(1, 2, 16, space, space)
            pairs = zip(*(p.run(x, schedule=[4] * 4) for p in (prog, plain)), strict=True)
            assert all(relative_error(a, b) <= 1e-6 for a, b in pairs)
    assert backend.graphs == len(sizes)
    program = prog.inspect.program
    assert program.compiled is not None and len(program.compiled._compiled) <= 10
