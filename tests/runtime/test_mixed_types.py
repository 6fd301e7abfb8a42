"""Under autocast the values of a model are of several types; each step answers in the model's."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import pgt_fx

CHUNKS = ([9], [1] * 9, [2, 3, 4], [4, 1, 4])


class Net(nn.Module):
    """A function of features (N, 3, T): under autocast a convolution gives bfloat16."""

    def __init__(self, call: Callable[[Net, Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.one = nn.Conv1d(3, 3, 3, padding=1), nn.Conv1d(3, 3, 1)
        self.norm, self.gru, self.call = nn.LayerNorm(3), nn.GRU(3, 3, batch_first=True), call

    def forward(self, x: Tensor) -> Tensor:
        return self.call(self, x)


def _repeated(y: Tensor) -> Tensor:
    return torch.cat([y[:, :, :1], y], 2)


def _widened(y: Tensor) -> Tensor:
    return torch.cat([y[:, :, :1].float(), y], 2)


CASES: dict[str, Callable[[Net, Tensor], Tensor]] = {
    "a wide frame in front": lambda m, x: torch.cat([x[:, :, :1], m.conv(x)[:, :, 1:]], 2),
    "two of them": lambda m, x: torch.cat([x[:, :, :2], m.conv(x[:, :, 2:])], 2),
    "wide frames behind": lambda m, x: torch.cat([m.one(x)[:, :, :2], x[:, :, 2:]], 2),
    "behind a norm": lambda m, x: torch.cat([m.norm(x.mT).mT[:, :, :1], m.conv(x)[:, :, 1:]], 2),
    "behind a recurrence": lambda m, x: torch.cat([x[:, :, :1], m.gru(m.conv(x).mT)[0].mT], 2),
    "a learned one": lambda m, x: torch.cat([m.one.bias.view(1, 3, 1), m.conv(x)], 2),
    "zeros": lambda m, x: torch.cat([torch.zeros(1, 3, 2), m.conv(x)], 2),
    "a rounded number": lambda m, x: torch.cat([torch.full((1, 3, 1), 0.1), m.conv(x)], 2),
    "zeros like the video": lambda m, x: torch.cat([x.new_zeros(1, 3, 1), m.conv(x)[..., :-1]], 2),
    "an end": lambda m, x: _repeated(m.conv(x)),
    "an end that is widened": lambda m, x: _widened(m.conv(x)),
    "an end by F.pad": lambda m, x: F.pad(m.conv(x), (2, 1), "replicate"),
    "zeros by F.pad": lambda m, x: F.pad(m.conv(x), (2, 1)),
    "side by side": lambda m, x: torch.cat([m.conv(m.conv(x)), x], 1),
    "stacked": lambda m, x: torch.stack([x, m.conv(x)], 1),
    "chosen": lambda m, x: torch.where(x > 0, x, m.conv(x)),
    "added": lambda m, x: x[:, :, 1:] + m.conv(x)[:, :, :-1],
    "a mean": lambda m, x: m.conv(x).mean(2),
    "a sum so far": lambda m, x: m.conv(x).cumsum(2),
    "resized": lambda m, x: F.interpolate(m.conv(x), scale_factor=2, mode="linear"),
}  # fmt: skip


@pytest.mark.parametrize("future", ["wait", "zero"])
@pytest.mark.parametrize("name", CASES)
def test_every_step_answers_in_the_models_type(name: str, future: str) -> None:
    torch.manual_seed(0)
    model, x = Net(CASES[name]).eval(), torch.randn(1, 3, 9)
    prog = pgt_fx.transform(model, x, time_dim=2, future=future, pooling="running", check=False)  # type: ignore[arg-type]
    for on in (True, False):
        with torch.autocast("cpu", torch.bfloat16, enabled=on), torch.no_grad():
            whole = model(x)
            for chunks in CHUNKS:
                outs = [out for out in prog.run(x, schedule=chunks) if out is not None]
                assert {out.dtype for out in outs} == {whole.dtype}, (on, chunks)
                if future == "wait":
                    found = torch.cat(outs, 2 if whole.dim() == 3 else -1)
                    found = outs[-1] if whole.dim() == 2 else found
                    assert (found - whole).abs().max() <= (0.02 if on else 1e-5) * whole.abs().max()


def test_a_part_that_is_wide_keeps_its_digits() -> None:
    """A frame in single precision is not rounded on its way."""
    torch.manual_seed(0)
    model, x = Net(CASES["a wide frame in front"]).eval(), torch.randn(1, 3, 9)
    prog = pgt_fx.transform(model, x, time_dim=2, future="wait")
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        outs = [out for out in prog.run(x, schedule=[1] * 9) if out is not None]
    assert torch.equal(outs[0][:, :, :1], x[:, :, :1])
