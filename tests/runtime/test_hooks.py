"""Hooks put on the model's modules, or taken off, before and after a transform."""

from __future__ import annotations

import copy
import timeit
from collections.abc import Callable
from typing import Any

import pytest
import torch
from oracles import relative_error
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune, weight_norm

import pgt_fx
from pgt_fx.core.errors import BlockedError, CaptureError
from pgt_fx.training import backward

EXACT = 1e-9
FRAMES = 11
CHUNKINGS = [[1] * FRAMES, [3, 3, 3, 2], [6, 1, 4]]


def conv(inputs: int = 4, outputs: int = 4, kernel: int = 3) -> nn.Conv1d:
    return nn.Conv1d(inputs, outputs, kernel, padding=kernel // 2)


def net() -> nn.Sequential:
    """0 and 3 are cut open; 1 and 2 are called whole."""
    torch.manual_seed(0)
    inner = nn.Sequential(nn.ReLU(), conv(kernel=1))
    return nn.Sequential(conv(2), nn.ReLU(), inner, conv(4, 3)).double().eval()


def transformed(model: nn.Module) -> pgt_fx.Progressive:
    return pgt_fx.transform(model, torch.zeros(1, 2, 8).double(), future="wait")


def video(seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(1, 2, FRAMES, generator=generator, dtype=torch.float64)


def check(model: nn.Module, prog: pgt_fx.Progressive) -> None:
    """Values and gradients are the model's, under every chunking."""
    x = video()
    whole = model(x)
    model.zero_grad()
    whole.square().sum().backward()
    grads = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    for chunks in [[FRAMES], *CHUNKINGS]:
        with torch.no_grad():
            found = torch.cat([y for y in prog.run(x, schedule=chunks) if y is not None], 2)
        assert relative_error(found, whole) <= EXACT, chunks
    model.zero_grad()
    backward(prog, x, lambda y, _: y.square().sum(), schedule=[4, 3, 4], gradient="exact")
    for name, parameter in model.named_parameters():
        if name in grads:
            assert relative_error(parameter.grad, grads[name]) <= EXACT, name


HOOKS: dict[str, Callable[[nn.Module], Any]] = {
    "forward": lambda m: m.register_forward_hook(lambda mod, args, out: out * 3),
    "forward with keywords": lambda m: m.register_forward_hook(
        lambda mod, args, kwargs, out: out + 1, with_kwargs=True
    ),
    "forward pre": lambda m: m.register_forward_pre_hook(lambda mod, args: (args[0] * 3,)),
    "shift": lambda m: m.register_forward_hook(
        lambda mod, args, out: torch.cat([out[:, :, :1], out[:, :, :-1]], 2)
    ),
}


@pytest.mark.parametrize(
    ("kind", "path"),
    [
        *(("forward", path) for path in ("", "0", "1", "2.1")),
        *(("forward pre", path) for path in ("", "0", "2")),
        ("forward with keywords", "3"),
    ],
)
def test_a_hook_holds_whenever_it_is_put_on_or_taken_off(kind: str, path: str) -> None:
    model = net()
    plain = model(video())
    prog = transformed(model)
    handle = HOOKS[kind](model.get_submodule(path))
    assert relative_error(model(video()), plain) > 1e-3
    check(model, prog)
    check(model, transformed(model))
    later = transformed(model)
    handle.remove()
    check(model, prog)
    check(model, later)
    assert relative_error(prog.full(video()), plain) <= EXACT


def test_a_hook_that_mixes_time_on_what_is_cut_open() -> None:
    model = net()
    prog = transformed(model)
    HOOKS["shift"](model[0])
    check(model, prog)


def test_one_hook_in_place_of_another() -> None:
    model = net()
    prog = transformed(model)
    handle = model[0].register_forward_hook(lambda mod, args, out: out * 3)
    check(model, prog)
    handle.remove()
    model[0].register_forward_hook(lambda mod, args, out: out * 5)
    check(model, prog)


def test_what_was_captured_without_a_hook_is_kept() -> None:
    """A tool that looks into the model and leaves costs two captures at most, not one per visit."""
    model = net()
    prog = transformed(model)
    known = prog.inspect.captured
    for _ in range(20):
        HOOKS["forward"](model[1]).remove()
        with_hook = HOOKS["forward"](model[2])
        prog.full(video())
        with_hook.remove()
        assert prog.inspect.captured is known
    assert len(prog._programs.source._captured) <= 8


def test_a_hook_that_only_looks_is_called_in_each_step_and_by_steps_alone() -> None:
    model, seen = net(), []
    prog = transformed(model)
    model[2].register_forward_hook(lambda mod, args, out: seen.append(out.detach().numpy().shape))
    prog.run(video(), schedule=[6, 5])
    assert [shape[2] for shape in seen] == [5, 6]
    check(model, prog)


@pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "eager"])
@pytest.mark.parametrize("kind", ["returns", "writes", "before"])
def test_a_hook_that_mixes_time_on_what_is_called_whole(kind: str, compiled: bool) -> None:
    model = nn.Sequential(conv(2), conv(kernel=1), conv(4, 3)).double().eval()
    prog = transformed(model)
    if compiled:
        prog.compile(backend="eager")
        prog.run(video(), schedule=[1] * FRAMES)

    def sums(mod: nn.Module, args: Any, out: Tensor) -> None:
        out.cumsum_(2)

    hooks: dict[str, Callable[[], Any]] = {
        "returns": lambda: model[1].register_forward_hook(lambda m, a, out: out.cumsum(2)),
        "writes": lambda: model[1].register_forward_hook(sums),
        "before": lambda: model[1].register_forward_pre_hook(lambda m, args: args[0].cumsum(2)),
    }
    hooks[kind]()
    check(model, prog)


def test_a_step_that_is_run_again_counts_its_batch_once() -> None:
    model = nn.Sequential(conv(2), nn.BatchNorm1d(4), nn.ReLU(), conv(4, 3)).double().train()
    prog = transformed(model)
    other = copy.deepcopy(model)
    for one in (model, other):
        one[2].register_forward_hook(lambda mod, args, out: out.cumsum(2))
    found = prog.full(video())
    assert relative_error(found, other(video())) <= EXACT
    assert model[1].num_batches_tracked == 1
    assert torch.equal(model[1].running_mean, other[1].running_mean)


def test_a_hook_that_can_not_be_captured_is_refused_at_its_line() -> None:
    model = net()
    prog = transformed(model)
    handle = model[0].register_forward_hook(lambda mod, args, out: print(out.numpy()))
    with pytest.raises(CaptureError, match=r"test_hooks\.py"):
        prog.full(video())
    handle.remove()
    check(model, prog)


def test_a_hook_that_reverses_time_is_refused() -> None:
    model = net()
    prog = transformed(model)
    handle = model[0].register_forward_hook(lambda mod, args, out: out.flip(2))
    with pytest.raises(BlockedError, match=r"aten\.flip in 0"):
        prog(video())
    handle.remove()
    HOOKS["forward"](model[2])
    check(model, prog)


def test_hooks_go_with_a_copy() -> None:
    model = net()
    prog = transformed(model)
    HOOKS["forward"](model[0])
    for other in (copy.deepcopy(prog), copy.deepcopy(prog)):
        check(other.inspect.model, other)
        check(model, prog)


def test_a_hook_on_a_compiled_step() -> None:
    model, x = net(), video()
    prog = transformed(model)
    prog.compile(backend="eager")
    prog.run(x, schedule=[1] * FRAMES)
    for path in ("2", "0"):
        HOOKS["forward"](model.get_submodule(path))
        found = [y for y in prog.run(x, schedule=[1] * FRAMES) if y is not None]
        assert relative_error(torch.cat(found, 2), model(x)) <= EXACT


# -- backward hooks ------------------------------------------------------------------------------


def thrice(mod: nn.Module, grads: Any, *_: Any) -> Any:
    return tuple(None if g is None else g * 3 for g in grads)


BACKWARD: dict[str, Callable[[nn.Module], Any]] = {
    "full": lambda m: m.register_full_backward_hook(thrice),
    "full pre": lambda m: m.register_full_backward_pre_hook(thrice),
    "old": lambda m: m.register_backward_hook(thrice),
}


@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
@pytest.mark.parametrize("path", ["", "0"])
@pytest.mark.parametrize("kind", BACKWARD)
def test_a_backward_hook_that_no_step_would_call_is_refused(
    kind: str, path: str, before: bool
) -> None:
    model = net()
    prog = None if before else transformed(model)
    handle = BACKWARD[kind](model.get_submodule(path))
    with pytest.raises(BlockedError, match=f"backward hook in {path or 'the model'}") as refused:
        transformed(model) if prog is None else prog(video())
    assert "take the hook off" in str(refused.value)
    handle.remove()
    check(model, transformed(model) if prog is None else prog)


@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
@pytest.mark.parametrize("path", ["1", "2", "2.1"])
@pytest.mark.parametrize("kind", ["full", "full pre"])
def test_a_backward_hook_of_what_is_called_whole_is_called(
    kind: str, path: str, before: bool
) -> None:
    model = net()
    prog = None if before else transformed(model)
    BACKWARD[kind](model.get_submodule(path))
    check(model, prog or transformed(model))


# -- weights that are calculated -----------------------------------------------------------------

WEIGHTS: dict[str, Callable[[nn.Module], Any]] = {
    "pruned": lambda m: prune.l1_unstructured(m, "weight", amount=0.5),
    "weight_norm by a hook": weight_norm,
    "weight_norm": parametrizations.weight_norm,
    "spectral_norm": parametrizations.spectral_norm,
}


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
@pytest.mark.parametrize("kind", WEIGHTS)
def test_weights_that_are_calculated_from_a_transform_on_can_be_trained(kind: str) -> None:
    model = net()
    prog = transformed(model)
    prog.full(video())
    for layer in (model[0], model[2][1]):
        WEIGHTS[kind](layer)
    optimizer = torch.optim.SGD(prog.parameters(), 0.01)
    for seed in range(3):
        optimizer.zero_grad()
        backward(prog, video(seed), lambda y, _: y.square().mean(), schedule=[4, 4, 3])
        optimizer.step()
    check(model, prog)


def test_pruned_for_good() -> None:
    model = net()
    prog = transformed(model)
    prune.l1_unstructured(model[0], "weight", amount=0.5)
    check(model, prog)
    prune.remove(model[0], "weight")
    check(model, prog)


def test_looking_for_hooks_costs_next_to_nothing() -> None:
    blocks = [nn.Sequential(conv(kernel=1), nn.ReLU(), nn.ReLU()) for _ in range(75)]
    prog = pgt_fx.transform(nn.Sequential(conv(2), *blocks), torch.zeros(1, 2, 8))
    look = prog._programs.source.captured
    # 0.02 ms where nothing else runs.
    assert min(timeit.repeat(look, number=20, repeat=50)) / 20 < 2e-4
