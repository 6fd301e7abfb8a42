"""A program that a tracer writes down would begin anew in every chunk: tracers are refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._functorch.aot_autograd import aot_export_module
from torch.fx.experimental.proxy_tensor import make_fx

import pgt_fx
from pgt_fx.core.errors import CaptureError, TracedError

X = torch.randn(1, 4, 8, generator=torch.Generator().manual_seed(0))


def stack() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv1d(4, 4, 3, padding=1), nn.ReLU(), nn.Dropout(0.5))


class Around(nn.Module):
    """A user's module around a progressive one."""

    def __init__(self, prog: nn.Module) -> None:
        super().__init__()
        self.prog = prog

    def forward(self, x: Tensor) -> Tensor:
        return self.prog(x) * 2


class Pure(nn.Module):
    """The pure step, the state handed in and out."""

    def __init__(self, prog: nn.Module) -> None:
        super().__init__()
        self.prog = prog

    def forward(self, x: Tensor, state: dict[str, Tensor]) -> Any:
        return self.prog.step(state, x)


TRACERS: dict[str, Callable[[nn.Module], Any]] = {
    "torch.export": lambda m: torch.export.export(m, (X,), strict=False),
    "torch.jit.trace": lambda m: torch.jit.trace(m, (X,)),
    "torch.jit.script": torch.jit.script,
    "torch.fx.symbolic_trace": torch.fx.symbolic_trace,
    "make_fx": lambda m: make_fx(m)(X),
    "make_fx with symbolic sizes": lambda m: make_fx(m, tracing_mode="symbolic")(X),
    "AOTAutograd": lambda m: aot_export_module(m, (X,), trace_joint=False),
}


@pytest.mark.parametrize("around", [False, True], ids=["alone", "within a module"])
@pytest.mark.parametrize("tracer", TRACERS)
def test_tracers_are_refused_and_leave_the_video_as_it_was(tracer: str, around: bool) -> None:
    prog = pgt_fx.transform(stack().eval(), X)
    wanted = prog.run(torch.cat([X, X], 2), schedule=[8, 8])
    prog(X)
    with pytest.raises(TracedError, match=rf"{tracer.split()[0]} is tracing .*prog\.step\(state"):
        TRACERS[tracer](Around(prog) if around else prog)
    assert torch.equal(prog(X, last=True), wanted[1])


def test_a_strict_export_is_refused_by_the_same_words() -> None:
    prog = pgt_fx.transform(stack().eval(), X)
    with pytest.raises(Exception, match=r"Observed exception|TracedError") as found:
        torch.export.export(Around(prog), (X,), strict=True)
    told = f"{found.value} {found.value.__cause__}"
    assert "TracedError" in told and "torch.export is tracing a step" in told


@pytest.mark.parametrize("tracer", ["torch.export", "torch.jit.trace", "make_fx"])
def test_the_pure_step_is_refused_as_well_since_it_reads_its_clock(tracer: str) -> None:
    prog = pgt_fx.transform(stack().eval(), X)
    _, state = prog.step({}, X)
    ways: dict[str, Callable[[], Any]] = {
        "torch.export": lambda: torch.export.export(Pure(prog), (X, state), strict=False),
        "torch.jit.trace": lambda: torch.jit.trace(Pure(prog), (X, state), strict=False),
        "make_fx": lambda: make_fx(lambda s, x: prog.step(s, x)[0])(state, X),
    }
    with pytest.raises(TracedError, match="reads the clock in the state"):
        ways[tracer]()


def test_a_progressive_model_within_a_model_to_be_transformed_is_told() -> None:
    with pytest.raises(CaptureError, match="is tracing a step of a progressive model"):
        pgt_fx.transform(Around(pgt_fx.transform(stack().eval(), X)), X)


def test_a_compiler_and_what_looks_at_operations_are_no_tracers() -> None:
    """Dynamo, functional calls, transforms of functions and counters of operations."""
    prog = pgt_fx.transform(stack().eval(), X)
    wanted = prog.full(X)
    compiled = torch.compile(Around(prog), backend="eager")
    assert torch.equal(compiled(X), 2 * wanted)
    prog.reset()
    weights = dict(prog.named_parameters())
    called = torch.func.functional_call(prog, weights, (X,), {"last": True})
    assert torch.equal(called, wanted)
    assert torch.equal(torch.vmap(prog.full)(X[None])[0], wanted)
    assert torch.equal(torch.func.functionalize(prog.full)(X), wanted)
    prog.train()
    prog.reset()
    prog(X).sum().backward()
    assert all(p.grad is not None for p in prog.parameters())
