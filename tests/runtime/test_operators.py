"""MCO, CMCO, PMCO and their combinations: against the paper's recursions written out by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, event, given, settings
from hypothesis import strategies as st
from oracles import ends, error_per_frame, relative_error, sensitive_to_time, stitch
from test_random_graphs import EXACT, NOISE, draw_chunks
from torch import Tensor, nn

import pgt_fx
from pgt_fx import MarkovOperator
from pgt_fx.core.errors import ExactnessError, OptionError
from pgt_fx.core.options import OPERATORS as BY_NAME
from pgt_fx.testing.fuzz import strategies

pytestmark = pytest.mark.full

OPERATORS = [
    "mco",
    "cmco-avg",
    "cmco-max",
    "pmco",
    MarkovOperator("max", 0.25),
    MarkovOperator("avg", 0.6),
]
NAMES = [op if isinstance(op, str) else f"{op.aggregate}-{op.momentum}" for op in OPERATORS]
EACH = pytest.mark.parametrize("operator", OPERATORS, ids=NAMES)


def markov(operator: Any) -> MarkovOperator:
    return operator if isinstance(operator, MarkovOperator) else BY_NAME[operator]


def sequential(*layers: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(*layers).double().eval()


def features(frames: int, channels: int = 4) -> Tensor:
    generator = torch.Generator().manual_seed(frames)
    return torch.randn(2, channels, frames, generator=generator, dtype=torch.float64)


def aggregate(how: str, seen: Tensor, tail: Tensor) -> Tensor:
    """The paper's g, by PyTorch's own adaptive pools."""
    if how == "none":
        return tail
    pool = F.adaptive_avg_pool1d if how == "avg" else F.adaptive_max_pool1d
    return pool(seen, tail.shape[2])


def by_hand(conv: nn.Conv1d, x: Tensor, chunks: list[int], op: MarkovOperator) -> Tensor:
    """One stride-1 convolution of odd kernel in steps: f = [f_past, step, zeros] (section 3.2)."""
    reach = conv.kernel_size[0] // 2
    past, average, outs = None, None, []
    for piece in x.split(chunks, dim=2):
        left = torch.zeros_like(x[:, :, :reach]) if past is None else past
        right = torch.zeros_like(x[:, :, :reach])
        outs.append(F.conv1d(torch.cat([left, piece, right], 2), conv.weight, conv.bias))
        seen = piece if past is None else torch.cat([past, piece], 2)
        g = aggregate(op.aggregate, seen, seen[:, :, -reach:])
        average = g if average is None else (1 - op.momentum) * g + op.momentum * average
        past = average
    return torch.cat(outs, 2)


@EACH
@pytest.mark.parametrize("kernel", [3, 5])
def test_a_stack_of_convolutions_is_the_papers_recursion(operator: Any, kernel: int) -> None:
    convs = [nn.Conv1d(4, 4, kernel, padding=kernel // 2) for _ in range(3)]
    model = sequential(*convs)
    x, chunks = features(36), [8, 7, 7, 7, 7]
    prog = pgt_fx.transform(model, features(8), operator=operator)
    found = stitch(prog.run(x, schedule=chunks))
    expected = x
    for conv in convs:
        expected = by_hand(conv, expected, chunks, markov(operator))
    assert relative_error(found, expected) <= EXACT
    with torch.no_grad():
        if operator != "mco":
            assert relative_error(found, stitch(prog.replace(operator="mco").run(x))) > 1e-3


@EACH
def test_a_strided_convolution_fills_the_position_that_its_window_needs(operator: Any) -> None:
    # Chunks of 8 with stride 2: each later step's first window reads one element of the past.
    conv = nn.Conv1d(4, 4, 3, stride=2, padding=1)
    model, op = sequential(conv), markov(operator)
    x, chunks = features(24), [8, 8, 8]
    found = pgt_fx.transform(model, features(8), operator=operator).run(x, schedule=chunks)
    past = average = None
    for piece, answer in zip(x.split(chunks, dim=2), found, strict=True):
        left = torch.zeros_like(x[:, :, :1]) if past is None else past
        expected = F.conv1d(torch.cat([left, piece], 2), conv.weight, conv.bias, stride=2)
        assert relative_error(answer, expected) <= EXACT
        seen = piece if past is None else torch.cat([past, piece], 2)
        g = aggregate(op.aggregate, seen, seen[:, :, -1:])
        past = average = g if average is None else (1 - op.momentum) * g + op.momentum * average


@EACH
def test_a_max_pool_takes_its_past_from_the_operator_too(operator: Any) -> None:
    model, op = sequential(nn.MaxPool1d(3, 2, 1)), markov(operator)
    x = features(16) - 10  # negative: padding with zeros instead of -inf would win
    prog = pgt_fx.transform(model, features(8), operator=operator, time_dim=2)
    found = prog.run(x, schedule=[8, 8])
    first, second = x.split(8, dim=2)
    past = aggregate(op.aggregate, first, first[:, :, -1:])
    expected = F.max_pool1d(torch.cat([past, second], 2), 3, 2)
    assert relative_error(found[1], expected) <= EXACT


def test_momentum_goes_on_over_steps_whose_next_window_needs_no_past() -> None:
    # Stride 2 and chunks of 7: every second step's next window begins with new elements alone.
    model = sequential(nn.Conv1d(4, 4, 3, stride=2, padding=1))
    x, chunks, m = features(28), [7, 7, 7, 7], 0.5
    prog = pgt_fx.transform(model, features(8), operator=MarkovOperator("avg", m))
    found = prog.run(x, schedule=chunks)
    a, b, c, d = x.split(7, dim=2)
    one = a.mean(2, keepdim=True)  # carried, though the next window is elements 7, 8, 9
    two = m * one + (1 - m) * torch.cat([one, b], 2).mean(2, keepdim=True)
    conv = model[0]
    for whole, answer in ((torch.cat([two, c], 2), found[2]), (d, found[3])):
        expected = F.conv1d(whole, conv.weight, conv.bias, 2)
        assert relative_error(answer[:, :, : expected.shape[2]], expected) <= EXACT
    third = prog.step({}, a)[1]
    for piece in (b, c):
        third = prog.step(third, piece)[1]
    three = m * two + (1 - m) * torch.cat([two, c], 2).mean(2, keepdim=True)
    assert relative_error(next(v for k, v in third.items() if v.dim() == 3), three) <= EXACT


@EACH
def test_the_heads_pool_has_one_element_of_the_past(operator: Any) -> None:
    model, op = sequential(nn.AdaptiveAvgPool1d(1), nn.Flatten()), markov(operator)
    x, chunks = features(22), [8, 7, 7]
    prog = pgt_fx.transform(model, features(8), operator=operator, pooling="markov", time_dim=2)
    past = average = None
    for piece, answer in zip(x.split(chunks, dim=2), prog.run(x, schedule=chunks), strict=True):
        seen = piece if past is None else torch.cat([past, piece], 2)
        assert relative_error(answer, seen.mean(2)) <= EXACT
        g = aggregate(op.aggregate, seen, seen[:, :, -1:])
        past = average = g if average is None else (1 - op.momentum) * g + op.momentum * average


@EACH
@given(data=st.data())
@settings(max_examples=12)
def test_exact_frames_account_for_the_changed_context(operator: Any, data: st.DataObject) -> None:
    spec = data.draw(strategies.graphs(dims=(1,)), label="spec")
    least = strategies.minimum_frames(spec)
    frames = least + data.draw(st.integers(0, 40), label="extra frames")
    model, x = strategies.build(spec), strategies.video(spec, frames)
    assume(frames > 1 and sensitive_to_time(model, x))
    example = strategies.video(spec, strategies.example_frames(spec), seed=9)
    prog = pgt_fx.transform(model, example, time_dim=2, operator=operator)
    with torch.no_grad():
        whole = model(x)
        assert relative_error(prog.full(x), whole) <= EXACT
        chunks = draw_chunks(data, frames, least if strategies.picky(spec) else 1)
        answer = stitch(prog.run(x, schedule=chunks))
    flags = prog.exact_frames(chunks)
    # An aggregate may happen to be what it stands for: elements that upsampling has repeated are
    # their own average, and the last element may be the maximum.
    lucky = prog.options.markov.aggregate == "max" or "resample" in strategies.ops(spec)
    event(f"exact frames: {'all' if all(flags) else 'some' if any(flags) else 'none'}")
    for i, error in enumerate(error_per_frame(answer, whole, 2).tolist()):
        if flags[i]:
            assert error <= EXACT, f"{chunks}: frame {i} is said to be exact"
        elif strategies.generic(spec) and not lucky:
            assert error > NOISE, f"{chunks}: frame {i} is exact, and said not to be"


def test_exact_frames_of_one_convolution_with_an_aggregate() -> None:
    model = sequential(nn.Conv1d(4, 4, 3, padding=1))
    prog = pgt_fx.transform(model, features(8), operator="cmco-max")
    # Behind each cut the context is not the frame itself, before it the future is missing.
    assert prog.exact_frames([4, 4, 4]) == [1, 1, 1, 0, 0, 1, 1, 0, 0, 1, 1, 1]
    assert prog.replace(operator="mco").exact_frames([4, 4, 4]) == [1, 1, 1, 0] * 2 + [1] * 4
    # The aggregate of a single frame is that frame.
    assert prog.exact_frames([1, 4, 4])[1]


@EACH
def test_all_operators_are_one_way_and_share_the_parameters(operator: Any) -> None:
    model = sequential(
        nn.Conv1d(4, 4, 3, padding=1), nn.ReLU(), nn.Conv1d(4, 4, 3, stride=2, padding=1)
    )
    names = [name for name, _ in model.named_parameters()]
    prog = pgt_fx.transform(model, features(8)).replace(operator=operator)
    assert [name for name, _ in prog.named_parameters()] == names
    assert all(a is b for a, b in zip(prog.parameters(), model.parameters(), strict=True))
    x, chunks = features(24), [8, 7, 9]
    y = x.clone()
    y[:, :, 15:] += 1
    a, b = prog.run(x, schedule=chunks), prog.run(y, schedule=chunks)
    assert torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) and not torch.equal(a[2], b[2])
    x.requires_grad_()
    outs = prog.run(x, schedule=chunks)
    for p, out in enumerate(outs):
        (gradient,) = torch.autograd.grad(out.square().sum(), x, retain_graph=True)
        reached = gradient.abs().amax((0, 1)) > 0
        start, end = [0, *ends(chunks)][p : p + 2]
        assert reached[start:end].any() and not reached[:start].any() and not reached[end:].any()


def test_the_state_of_an_aggregate_is_as_small_as_that_of_the_last_elements() -> None:
    model = sequential(nn.Conv1d(4, 4, 3, padding=1), nn.Conv1d(4, 4, 5, padding=2))
    sizes = {}
    for operator in OPERATORS:
        prog = pgt_fx.transform(model, features(8), operator=operator)
        _, state = prog.step({}, features(8))
        sizes[str(operator)] = {k: v.shape for k, v in state.items()}
        assert all(v.untyped_storage().size() == v.nbytes for v in state.values())
    assert len({str(s) for s in sizes.values()}) == 1, sizes


def test_an_aggregate_can_not_promise_the_models_own_outputs() -> None:
    model = sequential(nn.Conv1d(4, 4, 3, padding=1))
    with pytest.raises(ExactnessError, match=r"maximum of all elements of the step before"):
        pgt_fx.transform(model, features(8), operator="cmco-max", future="wait")
    prog = pgt_fx.transform(model, features(8), operator="cmco-max", future="wait", strict=False)
    assert not prog.report.exact
    # An element whose own output is still due is no past: it is handed on as it is.
    x = features(16)
    outs = prog.run(x, schedule=[8, 8])
    whole = model(x)
    error = error_per_frame(stitch(outs), whole, 2)
    assert (error > EXACT).tolist() == [i == 7 for i in range(16)]


def test_an_unknown_operator_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(OptionError, match=r"did you mean 'cmco-avg'"):
        pgt_fx.transform(sequential(nn.Conv1d(4, 4, 3)), features(8), operator="cmco-av")
    with pytest.raises(OptionError, match=r"momentum: expected a number in \[0, 1\), got 1.5"):
        MarkovOperator("avg", 1.5)
