"""Every name that has a rule: its operator along a video, in steps of random sizes."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from operator_calls import BY_HAND, FRAMES, SIDE, Case, Net
from oracles import random_chunks, relative_error
from torch import Tensor
from torch.utils import _pytree as pytree

import pgt_fx
import pgt_fx.compiler.transform  # every rule is registered
from pgt_fx.core.errors import BlockedError, ExactnessError
from pgt_fx.rules import RULES, Kind, OpView, StepOnly

EXACT = 1e-10

NAMES = sorted(RULES)


def clip(seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, 4, FRAMES, SIDE, SIDE, dtype=torch.float64, generator=generator)


def case(name: str) -> Case | None:
    """Of an operator ("aten::relu"); None where its arguments can't be told from its schema."""
    by_hand = BY_HAND.get(name.removeprefix("aten::"))
    return by_hand or by_schema(name)


def by_schema(name: str) -> Case | None:
    """Values from 0 to 1 of two streams, axis 1 where it needs one, and 0.7 where a number."""
    space, _, short = name.partition("::")
    packet = getattr(getattr(torch.ops, space), short, None)
    for overload in _functional(packet):
        made = Case(lambda m, x, overload=overload: _called(overload, m, x))
        try:
            with torch.no_grad():
                Net(made.call).double()(torch.rand(1, 4, FRAMES, SIDE, SIDE).double())
        except (RuntimeError, IndexError, _UnknownTypeError):
            continue
        return made
    return None


class _UnknownTypeError(Exception):
    """An argument of a type for which there is no value."""


def _functional(packet: Any) -> Iterator[Any]:
    for overload in packet.overloads() if packet is not None else ():
        given = getattr(packet, overload)._schema.arguments
        if not any(a.is_out or (a.alias_info and a.alias_info.is_write) for a in given):
            yield getattr(packet, overload)


VALUES = {"Scalar": 0.7, "number": 0.7, "float": 0.7, "int": 1, "List[int]": [1], "bool": False}


def _called(overload: Any, m: Net, x: Tensor) -> Any:
    streams = itertools.cycle([m.late(x).sigmoid(), m.prompt(x).sigmoid(), m.late(x).exp()])
    args, named = [], {}
    for argument in overload._schema.arguments:
        kind = str(argument.type)
        if argument.has_default_value():
            continue
        if kind == "Tensor":
            value: Any = next(streams)
        elif kind == "List[Tensor]":
            value = [next(streams), next(streams)]
        elif kind in VALUES:
            value = VALUES[kind]
        else:
            raise _UnknownTypeError(kind)
        if argument.kwarg_only:
            named[argument.name] = value
        else:
            args.append(value)
    return overload(*args, **named)


@pytest.mark.parametrize("name", NAMES)
def test_torch_has_it(name: str) -> None:
    space, _, short = name.partition("::")
    assert hasattr(getattr(torch.ops, space), short), f"a rule for {name}, which is not in torch"


@pytest.mark.parametrize("name", NAMES)
def test_it_is_what_its_rule_says_however_it_is_cut(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = case(name)
    assert given is not None, f"{name} has a rule and no case: add one to tests/operator_calls.py"
    if given.device == "cuda" and not torch.cuda.is_available():
        the_same_rule(name, "aten::native_batch_norm")
        return
    torch.manual_seed(0)
    model = Net(given.call).double().eval().to(given.device)
    seen: list[Kind | None] = []

    captured = given.captured or name
    rule = RULES[captured]

    def watched(op: OpView) -> Kind:
        seen.append(None)
        seen[-1] = kind = rule(op)
        return kind

    monkeypatch.setitem(RULES, captured, watched)
    options: dict[str, Any] = {"future": "wait", "pooling": "running", "time_dim": 2}
    if given.verdict == "exact":
        prog = pgt_fx.transform(model, clip(1).to(given.device), **options)
        assert prog.report.exact
    else:
        error = BlockedError if given.verdict == "refused" else ExactnessError
        with pytest.raises(error, match=given.reason) as caught:
            pgt_fx.transform(model, clip(1).to(given.device), **options)
        assert "operator_calls.py" in str(caught.value)  # the line of the call
    assert seen, f"no {captured} is left in the graph: its rule was never asked"
    if given.verdict == "refused":
        assert set(seen) == {None}
        return
    if given.verdict == "step":
        assert any(isinstance(kind, StepOnly) for kind in seen)
        prog = pgt_fx.transform(model, clip(1).to(given.device), **options, strict=False)
        assert not prog.report.exact
    video = clip().to(given.device)
    with torch.no_grad():
        expected = model(video)
        assert relative_error(prog.full(video), expected) <= EXACT
        order = torch.tensor([4, 0, 8, 2, 6, 1, 3, 7, 5])
        same = relative_error(model(video[:, :, order]), expected) <= EXACT
        assert same == given.constant, "the same whatever the order of the frames is"
        rng = random.Random(0)
        for _ in range(3):
            answer = in_steps(prog, video, random_chunks(FRAMES, 4, rng))
            if given.verdict == "exact":
                assert relative_error(answer, pytree.tree_leaves(expected)) <= EXACT


def the_same_rule(name: str, other: str) -> None:
    """Of two operators whose arguments have the names that the rule reads."""
    assert RULES[name] is RULES[other]
    arguments = [
        {
            a.name
            for a in getattr(torch.ops.aten, n.removeprefix("aten::")).default._schema.arguments
        }
        for n in (name, other)
    ]
    assert {"training", "running_mean"} <= arguments[0] & arguments[1]


def in_steps(prog: Any, video: Tensor, chunks: list[int]) -> list[Tensor]:
    """All results of a video, put one after the other; of those without time the last."""
    prog.reset()
    steps = [*map(prog, video.split(chunks, 2)), prog.flush()]
    columns = zip(*(pytree.tree_leaves(s) for s in steps if s is not None), strict=True)
    out = []
    for dim, column in zip(prog.time_dims, columns, strict=True):
        given = [part for part in column if part is not None]
        out.append(given[-1] if dim is None else torch.cat(given, dim))
    return out


def test_a_name_without_a_case_is_found() -> None:
    assert case("aten::no_such_operator") is None and case("aten::lstm") is None
    assert {n if "::" in n else f"aten::{n}" for n in BY_HAND} <= set(RULES)
