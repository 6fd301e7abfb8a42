"""Attributes, buffers, weights: what forward leaves in them, and what is changed from outside."""

from __future__ import annotations

import copy
import itertools
import math
import random
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from judge import REFUSED, RIGHT, Along, Case, judge
from torch import Tensor, nn

import pgt_fx
from pgt_fx.core.errors import ClipError, PgtError

NEXT_CALL = "for its next call to read"


class Inner(nn.Module):
    """A module that is called whole, with a memory of its own."""

    def __init__(self, then: Callable[[Any, Tensor], Tensor], **kept: Any) -> None:
        super().__init__()
        self.conv = nn.Conv3d(2, 2, 1)
        self.then = then
        for name, value in kept.items():
            setattr(self, name, value)

    def forward(self, x: Tensor) -> Tensor:
        return self.then(self, self.conv(x))


def _counter(s: Any, y: Tensor) -> Tensor:
    s.n += 1
    return y * s.n


def _late_counter(s: Any, y: Tensor) -> Tensor:
    y = y * (1 + s.n)
    s.n += 1
    return y


def _previous_mean(s: Any, y: Tensor) -> Tensor:
    y, s.m = (y if s.m is None else y - s.m), y.mean().detach()
    return y


def _first_call(s: Any, y: Tensor) -> Tensor:
    if s.first:
        s.first = False
        return y * 3
    return y


def _alternates(s: Any, y: Tensor) -> Tensor:
    s.flip = not s.flip
    return y if s.flip else -y


def _appends(s: Any, y: Tensor) -> Tensor:
    s.seen.append(y.amax((2, 3, 4)))
    return y + s.seen[0][:, :, None, None, None]


def _counts_frames(s: Any, y: Tensor) -> Tensor:
    s.n = s.n + y.shape[2]
    return y


def _in_place(s: Any, y: Tensor) -> Tensor:
    s.k += 1
    return y + s.k


def _in_a_dictionary(s: Any, y: Tensor) -> Tensor:
    s.memory["n"] = s.memory.get("n", 0) + 1
    return y * s.memory["n"]


def _in_an_object(s: Any, y: Tensor) -> Tensor:
    s.memory.n += 1
    return y * s.memory.n


def _last_frame(s: Any, y: Tensor) -> Tensor:
    before = s.last if s.last is not None else y[:, :, :1]
    s.last = y[:, :, -1:].detach()
    return y - before


LEFT = {
    "counter": (_counter, {"n": 0}),
    "counter read first": (_late_counter, {"n": 0}),
    "mean of the call before": (_previous_mean, {"m": None}),
    "first call": (_first_call, {"first": True}),
    "every other call": (_alternates, {"flip": False}),
    "list that grows": (_appends, {"seen": []}),
    "count of frames": (_counts_frames, {"n": 0}),
    "tensor in place": (_in_place, {"k": torch.zeros(1, dtype=torch.float64)}),
    "dictionary": (_in_a_dictionary, {"memory": {}}),
    "object": (_in_an_object, {"memory": SimpleNamespace(n=0)}),
    "last frame of the call before": (_last_frame, {"last": None}),
}


@pytest.mark.parametrize("name", LEFT)
@pytest.mark.parametrize("whole", [True, False])
def test_what_a_call_leaves_for_the_next(name: str, whole: bool) -> None:
    then, kept = LEFT[name]

    def make() -> nn.Module:
        fresh = {k: v.copy() if isinstance(v, (dict, list)) else v for k, v in kept.items()}
        if isinstance(kept.get("memory"), SimpleNamespace):
            fresh["memory"] = SimpleNamespace(n=0)
        if whole:
            return Along(lambda s, y: s.inner(y), inner=Inner(then, **fresh))
        return Along(then, **fresh)

    assert judge(Case(make, REFUSED, says=NEXT_CALL)) == REFUSED


def _keeps_for_a_look(s: Any, y: Tensor) -> Tensor:
    s.seen, s.shape = y.relu(), y.shape
    return s.seen + s.shape[1]


def _positions(s: Any, y: Tensor) -> Tensor:
    if s.table is None or s.table.shape[0] < y.shape[2]:
        s.table = torch.arange(y.shape[2], dtype=y.dtype)
    return y + s.table[: y.shape[2], None, None]


def _longest(s: Any, y: Tensor) -> Tensor:
    if y.shape[2] > s.longest:
        s.longest = y.shape[2]
        s.table = torch.arange(s.longest, dtype=y.dtype)
    return y + s.table[: y.shape[2], None, None]


def _resets(s: Any, y: Tensor) -> Tensor:
    s.n = 0
    for part in (y, y * 2):
        s.n += 1
        y = y + part * s.n
    return y


KEPT = {
    "kept for a look": (_keeps_for_a_look, {"seen": None, "shape": None}),
    "table of positions": (_positions, {"table": None}),
    "table as long as the longest": (_longest, {"longest": 0, "table": None}),
    "counter that begins anew": (_resets, {"n": 7}),
}


@pytest.mark.parametrize("name", KEPT)
def test_what_a_call_keeps_and_none_reads(name: str) -> None:
    then, kept = KEPT[name]
    assert judge(Case(lambda: Along(then, **kept))) == RIGHT
    whole = Case(lambda: Along(lambda s, y: s.inner(y), inner=Inner(then, **kept)))
    assert judge(whole) == RIGHT


def _scaled(around: list[float]) -> Callable[[Tensor], Tensor]:
    return lambda y: y * around[0]


class Reads(nn.Module):
    """Reads attributes of many kinds."""

    of_class = 2.0

    def __init__(self) -> None:
        super().__init__()
        type(self).of_class = 2.0  # a case before this one has changed it
        self.around = [3.0]
        self.scaled = _scaled(self.around)
        self.hidden = [nn.Conv3d(2, 2, 1).double()]
        torch.manual_seed(0)
        self.conv = nn.Conv3d(2, 2, (3, 1, 1), padding=(1, 0, 0))
        self.second = nn.Conv3d(2, 2, (3, 1, 1), padding=(1, 0, 0))
        self.second.weight = self.conv.weight
        self.scale, self.power, self.on = 2.0, 1, True
        self.options = {"bias": 1.5, "deep": [1.0, {"x": 2.0}]}
        self.shifts = [0.5, 0.25]
        self.config = SimpleNamespace(slope=0.1)
        self.table = torch.ones(2, 1, 1, 1, dtype=torch.float64)
        self.act = torch.tanh
        self.name = "tanh"

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x) * self.scale + self.options["bias"] + self.shifts[0]
        if self.conv.weight.shape == self.second.weight.shape:
            y = y + self.second(x)
        y = self.scaled(self.hidden[0](y)) * self.of_class
        y = y * self.options["deep"][1]["x"] * self.table
        y = F.leaky_relu(y, self.config.slope) ** self.power
        return self.act(y) if self.on else y


def _set(**values: Any) -> Callable[[nn.Module], None]:
    return lambda m: [setattr(m, k, v) for k, v in values.items()] and None


def _kernel(m: Any) -> None:
    m.conv.weight = nn.Parameter(torch.randn(2, 2, 5, 1, 1, dtype=torch.float64))
    m.conv.padding = (2, 0, 0)


def _dilation(m: Any) -> None:
    m.conv.dilation, m.conv.padding = (2, 1, 1), (2, 0, 0)


def _mode(m: Any) -> None:
    m.conv.padding_mode = "replicate"
    m.conv._reversed_padding_repeated_twice = [0, 0, 0, 0, 1, 1]


CHANGES: dict[str, Callable[[Any], Any]] = {
    "number": _set(scale=5.0),
    "exponent": _set(power=2),
    "flag": _set(on=False),
    "function": _set(act=torch.sigmoid),
    "entry of a dictionary": lambda m: m.options.update(bias=7.0),
    "deep entry": lambda m: m.options["deep"][1].update(x=9.0),
    "entry of a list": lambda m: m.shifts.__setitem__(0, 3.0),
    "attribute of an object": lambda m: setattr(m.config, "slope", 0.9),
    "tensor in place": lambda m: m.table.mul_(4),
    "other tensor": _set(table=torch.full((2, 1, 1, 1), 6.0, dtype=torch.float64)),
    "dilation": _dilation,
    "kernel": _kernel,
    "padding mode": _mode,
    "stride": lambda m: [setattr(c, "stride", (2, 1, 1)) for c in (m.conv, m.second)],
    "groups of other weights": lambda m: setattr(m, "conv", nn.Conv3d(2, 2, 1).double()),
    "weights in place": lambda m: nn.init.ones_(m.conv.weight),
    "bias taken away": lambda m: setattr(m.conv, "bias", None),
    "class attribute": lambda m: setattr(type(m), "of_class", 4.0),
    "variable of a function": lambda m: m.around.__setitem__(0, 8.0),
    "module in a list": lambda m: nn.init.constant_(m.hidden[0].weight, 0.3),
    "tensor through data": lambda m: m.table.data.fill_(7),
    "weights that were shared": lambda m: setattr(
        m.second, "weight", nn.Parameter(m.conv.weight.detach() * 2)
    ),
    "forward of its own": lambda m: setattr(m, "forward", lambda x: Reads.forward(m, x) * 2),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_is_changed_after_the_transform(name: str) -> None:
    case = Case(Reads, RIGHT, change=CHANGES[name])
    assert judge(case) == RIGHT


CALLS, SEEN = 0, {"n": 0}


class Tally:
    """A class of no module, which counts in itself."""

    n = 0
    factor = 2.0


def _step(memo: list[int] = [0]) -> int:  # noqa: B006
    memo[0] += 1
    return memo[0]


def _counts_in_a_global(s: Any, y: Tensor) -> Tensor:
    global CALLS
    CALLS += 1
    return y * CALLS


def _counts_in_a_global_dictionary(s: Any, y: Tensor) -> Tensor:
    SEEN["n"] += 1
    return y * SEEN["n"]


def _counts_in_another_class(s: Any, y: Tensor) -> Tensor:
    Tally.n += 1
    return y * Tally.n


def _numbers() -> Iterator[int]:
    n = 0
    while True:
        n += 1
        yield n


def _nested(value: Any, levels: int = 14) -> Any:
    for _ in range(levels):
        value = [value]
    return value


def _inside(value: Any) -> Any:
    while isinstance(value, list):
        value = value[0]
    return value


def _writes_an_array(s: Any, y: Tensor) -> Tensor:
    array = _inside(s.k)
    array += 1
    return y * float(array[0])


def _fills_a_deque(s: Any, y: Tensor) -> Tensor:
    _inside(s.k).append(1)
    return y * len(_inside(s.k))


def _next(s: Any, y: Tensor) -> Tensor:
    return y * (1 + next(s.k))


ADVANCED: dict[str, tuple[Callable[[Any, Tensor], Tensor], Callable[[], Any]]] = {
    "random.Random": (lambda s, y: y * (1 + s.k.random()), lambda: random.Random(0)),
    "NumPy's generator": (lambda s, y: y * (1 + s.k.random()), lambda: np.random.default_rng(0)),
    "NumPy's old one": (lambda s, y: y * (1 + s.k.rand()), lambda: np.random.RandomState(0)),
    "count": (_next, itertools.count),
    "cycle": (_next, lambda: itertools.cycle([1, 2, 3])),
    "iterator of a list": (_next, lambda: iter(list(range(500)))),
    "iterator of a range": (_next, lambda: iter(range(500))),
    "chain": (_next, lambda: itertools.chain(range(300), range(300))),
    "map": (_next, lambda: map(abs, range(500))),
    "generator": (_next, _numbers),
    "deep in a list": (lambda s, y: y * (1 + next(_inside(s.k))), lambda: _nested(_numbers())),
    "array nested deep": (_writes_an_array, lambda: _nested(np.zeros(1))),
    "deque nested deep": (_fills_a_deque, lambda: _nested(deque())),
    "global": (_counts_in_a_global, int),
    "global dictionary": (_counts_in_a_global_dictionary, int),
    "class of no module": (_counts_in_another_class, int),
    "default of a helper": (lambda s, y: y * _step(), int),
}


@pytest.mark.parametrize("name", ADVANCED)
def test_what_forward_advances_outside_of_attributes(name: str) -> None:
    then, kept = ADVANCED[name]
    assert judge(Case(lambda: Along(then, k=kept()), REFUSED, says=NEXT_CALL)) == REFUSED


def test_a_capture_leaves_what_forward_advances_as_it_was() -> None:
    before = CALLS, dict(SEEN), Tally.n
    numbers, count = random.Random(0), itertools.count(5)
    for then, kept in (
        (_counts_in_a_global, None),
        (_counts_in_a_global_dictionary, None),
        (_counts_in_another_class, None),
        (lambda s, y: y * s.k.random(), numbers),
        (_next, count),
    ):
        model = Along(then, k=kept).eval()
        with pytest.raises(PgtError):
            pgt_fx.transform(model, torch.randn(1, 2, 8, 4, 4))
        if kept is count:
            assert next(model.k) == 5
    assert (CALLS, dict(SEEN), Tally.n) == before
    assert numbers.random() == random.Random(0).random()


TABLES: dict[int, Tensor] = {}
SCALE: Any = 2.0


def _table_in_a_global(s: Any, y: Tensor) -> Tensor:
    side = y.shape[3]
    if side not in TABLES:
        TABLES[side] = torch.arange(side, dtype=y.dtype)
    return y * TABLES[side][:, None]


def test_a_table_in_a_global_is_no_memory() -> None:
    case = Case(lambda: Along(_table_in_a_global), others=[(1, 2, 8, 6, 4)])
    assert judge(case) == RIGHT
    assert all(type(t) is Tensor and type(n) is int for n, t in TABLES.items())


class Makes(OrderedDict[str, type[nn.Module]]):
    """Reading it makes an object of the class that it holds."""

    def __getitem__(self, key: str) -> Any:
        return super().__getitem__(key)(torch.ones(1))


class Scaled(nn.Module):
    def __init__(self, factor: Tensor) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, y: Tensor) -> Tensor:
        return y * self.factor


MAKES = Makes(scaled=Scaled)


def _makes_a_module(s: Any, y: Tensor) -> Tensor:
    return y if "other" in MAKES else y * 2


def test_a_table_whose_reading_makes_something_is_left_as_it_is() -> None:
    """As the tables of activations of a hub are: they hold classes, and give modules."""
    assert judge(Case(lambda: Along(_makes_a_module))) == RIGHT
    assert dict.__getitem__(MAKES, "scaled") is Scaled


def _reads_outside(s: Any, y: Tensor) -> Tensor:
    return y * SCALE * Tally.factor * s.k


def _set_scale(value: Any) -> Callable[[Any], None]:
    return lambda m: globals().update(SCALE=value)


OUTSIDE: dict[str, tuple[Any, Callable[[Any], Any]]] = {
    "global": (3.0, _set_scale(5.0)),
    "attribute of another class": (3.0, lambda m: setattr(Tally, "factor", 7.0)),
}


@pytest.mark.parametrize("name", OUTSIDE)
def test_what_is_changed_outside_of_the_model(name: str) -> None:
    kept, change = OUTSIDE[name]
    globals().update(SCALE=2.0)
    Tally.factor = 2.0
    assert judge(Case(lambda: Along(_reads_outside, k=kept), RIGHT, change=change)) == RIGHT


def _by_type(s: Any, y: Tensor) -> Tensor:
    return y * (2 if s.k is True else 3 if type(s.k) is int else 4)


def _by_sign(s: Any, y: Tensor) -> Tensor:
    return y * math.copysign(2.0, s.k[0] if isinstance(s.k, list) else s.k)


def _by_type_inside(s: Any, y: Tensor) -> Tensor:
    return y * (2 if next(iter(s.k)) is True else 3)


#: Values that compare equal, and are not the same to a model.
EQUAL: dict[str, tuple[Callable[[Any, Tensor], Tensor], Any, Any]] = {
    "True, then 1": (_by_type, True, 1),
    "1, then True": (_by_type, 1, True),
    "1, then 1.0": (_by_type, 1, 1.0),
    "0.0, then -0.0": (_by_sign, 0.0, -0.0),
    "-0.0, then 0.0": (_by_sign, -0.0, 0.0),
    "[0.0], then [-0.0]": (_by_sign, [0.0], [-0.0]),
    "{1}, then {True}": (_by_type_inside, {1}, {True}),
    "(1,), then (True,)": (_by_type_inside, (1,), (True,)),
    "array, of another type": (lambda s, y: y * s.k.dtype.itemsize, np.zeros(2, "f4"), np.zeros(1)),
}


@pytest.mark.parametrize("name", EQUAL)
@pytest.mark.parametrize("within", [False, True])
def test_a_change_between_values_that_compare_equal(name: str, within: bool) -> None:
    then, before, after = EQUAL[name]

    def change(m: Any) -> None:
        if within and isinstance(m.k, list):
            m.k[:] = after
        else:
            m.k = after

    assert judge(Case(lambda: Along(then, k=copy.copy(before)), RIGHT, change=change)) == RIGHT


def test_a_flag_that_compares_equal_to_the_example_s_is_another() -> None:
    class Flagged(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv3d(2, 2, (3, 1, 1), padding=(1, 0, 0))

        def forward(self, x: Tensor, by: float) -> Tensor:
            return self.conv(x) * math.copysign(2.0, by)

    video = torch.randn(1, 2, 8, 4, 4)
    prog = pgt_fx.transform(Flagged().eval(), (video, 0.0), future="wait")
    prog.full(video, 0.0)
    with pytest.raises(ClipError):
        prog.full(video, -0.0)
