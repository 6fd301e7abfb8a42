"""torch's own functions in place of operators: the same, and only where the code runs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import pgt_fx
from pgt_fx.runtime.torch_functions import TORCH_FUNCTIONS, WINDOWS, torch_function_for

_ATEN = torch.ops.aten
A, B = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
SAMPLES: dict[Any, list[tuple[Any, ...]]] = {
    _ATEN.add.Tensor: [(A, B), (A, 2), (A, torch.tensor(2, dtype=torch.float64))],
    _ATEN.sub.Tensor: [(A, B), (A, 2.5)],
    _ATEN.mul.Tensor: [(A, B), (A.long(), 2.5)],
    _ATEN.div.Tensor: [(A, B), (A.long(), 2)],
    _ATEN.relu.default: [(A,)],
    _ATEN.sigmoid.default: [(A,)],
    _ATEN.tanh.default: [(A,)],
    _ATEN.cat.default: [([A, B],), ([A, B.double()], -1)],
    _ATEN.mean.dim: [(A, [0, 2]), (A, [1], True), (A, None), (A, -1, False)],
    _ATEN.matmul.default: [(A, B.transpose(1, 2)), (A, B[0, 0])],
    _ATEN.bmm.default: [(A, B.transpose(1, 2))],
    _ATEN.softmax.int: [(A, 1), (A, -1, torch.float64)],
    _ATEN.permute.default: [(A, [2, 0, 1])],
    _ATEN.transpose.int: [(A, 0, -1)],
    _ATEN.reshape.default: [(A, [-1, 4]), (A.transpose(0, 1), [6, 4])],
    _ATEN.flatten.using_ints: [(A,), (A, 1), (A, 0, 1)],
    _ATEN.unsqueeze.default: [(A, 1)],
    _ATEN.squeeze.dim: [(A[:, :1], 1), (A, 1)],
    _ATEN.select.int: [(A, 1, -1)],
}
VIDEO = torch.randn(2, 4, 5, 6, 7)
X: dict[int, Tensor] = {n: VIDEO.flatten(2, 4 - n + 1) if n < 3 else VIDEO for n in (1, 2, 3)}


@pytest.mark.parametrize("operator", TORCH_FUNCTIONS, ids=str)
def test_a_function_is_its_operator(operator: Any) -> None:
    for args in SAMPLES[operator]:
        found, wanted = TORCH_FUNCTIONS[operator](*args), operator(*args)
        assert torch.equal(found, wanted) and found.dtype == wanted.dtype
        assert found.stride() == wanted.stride()
        first = args[0][0] if isinstance(args[0], list) else args[0]
        shared = [x.untyped_storage().data_ptr() for x in (first, found, wanted)]
        assert (shared[0] == shared[1]) == (shared[0] == shared[2])


@pytest.mark.parametrize("name", sorted(str(p) for p in WINDOWS))
def test_a_window_is_its_operator(name: str) -> None:
    packet = getattr(_ATEN, name.rpartition(".")[2])
    rank = int(name[-2])
    x = X[rank]
    if "pool" in name:
        cases: list[tuple[Any, ...]] = [
            (x, [2] * rank, [1] * rank, [1] * rank, [1] * rank, True),
            (x, [3] * rank),
        ]
    else:
        weight = torch.randn(4, 2, *[3] * rank)
        ways = ([1] * rank, [1] * rank)
        more = ([0] * rank, 2, [1] * rank) if "transpose" in name else ([1] * rank, 2)
        cases = [(x, weight, torch.randn(4), *ways, *more)]
        if "transpose" not in name:
            cases.append((x, weight, None, [1] * rank, "same", [1] * rank, 2))
    for args in cases:
        assert torch.equal(torch_function_for(packet)(*args), packet(*args))
    for overload in packet.overloads():
        assert torch_function_for(getattr(packet, overload)) is torch_function_for(packet)


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(3, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x)


def test_what_is_printed_keeps_the_operators() -> None:
    prog = pgt_fx.transform(Residual(), torch.randn(1, 3, 8))
    assert "aten.add.Tensor" in prog.code
    code = prog.inspect.program.module().code
    assert "torch.add(" in code and "aten.add" not in code


def test_an_operator_without_one_is_itself() -> None:
    assert torch_function_for(_ATEN.add.Scalar) is _ATEN.add.Scalar
    assert torch_function_for(_ATEN.cumsum.default) is _ATEN.cumsum.default
