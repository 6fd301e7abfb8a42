"""What a steady step does not do: wait for the device, or lay tensors out another way."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

import pgt_fx
from pgt_fx import zoo
from pgt_fx.markov import correction

POLICIES: list[dict[str, Any]] = [
    {},
    {"future": "wait", "pooling": "running"},
    {"operator": "cmco-max", "pooling": "markov"},
    {"operator": "pmco"},
]


def small(name: str, **policy: Any) -> tuple[pgt_fx.Progressive, Any]:
    model = zoo.build(name, space=64, redraw_norms=True)
    example = zoo.clip(name, space=64)
    return pgt_fx.transform(model, example, strict=False, **policy), example


def parts(prog: pgt_fx.Progressive, clip: Any) -> tuple[Any, Any]:
    """The clip, and half a clip that goes on from it."""
    halves = [t[:, :, : t.shape[2] // 2] for t in (clip if isinstance(clip, list) else [clip])]
    return (list(clip), halves) if isinstance(clip, list) else (clip, halves[0])


@pytest.mark.parametrize("policy", POLICIES, ids=lambda p: " ".join(map(str, p.values())))
@pytest.mark.parametrize("name", ["r2plus1d_18", "slowfast_r50"])
def test_no_tensor_is_read_on_the_host(name: str, policy: dict[str, Any]) -> None:
    """Fake tensors have no values: whatever the host would wait for raises.

    What a step has to do follows from the clock alone, whose tensors never leave the host.
    """
    prog, clip = small(name, **policy)
    first, then = parts(prog, clip)
    with torch.no_grad():
        state = prog.init_state(clip)
        for _ in range(6):  # until the first answer under "wait"
            _, state = prog.step(state, list(first) if isinstance(first, list) else first)
        before, after = state["clock.frames"].tolist(), state["clock.frames"].clone()
        leaves = then if isinstance(then, list) else [then]
        after += torch.tensor([t.shape[2] for t in leaves])
        program = prog._program()
        work = program.plan(tuple(before), tuple(after.tolist()), False)
        with FakeTensorMode(allow_non_fake_inputs=True) as fake:
            held = {k: fake.from_tensor(v) for k, v in state.items() if not k.startswith("clock.")}
            outs, carried = program.run(held, [fake.from_tensor(t) for t in leaves], work)
    assert carried and outs[0] is not None
    assert all(carried[k].shape == v.shape for k, v in held.items()), "a steady step"


def test_reading_a_tensor_would_be_seen() -> None:
    with (
        FakeTensorMode(allow_non_fake_inputs=True) as fake,
        pytest.raises(DataDependentOutputException),
    ):
        fake.from_tensor(torch.ones(3)).sum().item()


def test_the_clock_stays_on_the_host() -> None:
    model = nn.Conv1d(4, 4, 3, padding=1)
    prog = pgt_fx.transform(model, torch.randn(1, 4, 8)).to("meta")
    state = prog.init_state(torch.empty(1, 4, 8, device="meta"))
    _, state = prog.step(state, torch.empty(1, 4, 8, device="meta"))
    kinds = {k: v.device.type for k, v in state.items()}
    assert {k for k, v in kinds.items() if v == "cpu"} == {k for k in kinds if "clock." in k}
    assert "meta" in kinds.values()


class Depthwise(nn.Module):
    """Operators whose layout PyTorch itself keeps on a CPU: many are not among them."""

    def __init__(self, mode: str) -> None:
        super().__init__()
        self.conv = nn.Conv3d(8, 8, 3, padding=1, groups=8, padding_mode=mode)
        self.most, self.down = nn.MaxPool3d(3, 1, 1), nn.MaxPool3d(3, (2, 1, 1), 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(x + self.most(self.conv(x)))


@pytest.mark.parametrize("mode", ["zeros", "replicate"])
@pytest.mark.parametrize("copies", [True, False])
@pytest.mark.parametrize("future", ["zero", "wait"])
def test_channels_last_stays(
    future: str, copies: bool, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A layout that the model was given goes through all Markov operators, and into the state."""
    monkeypatch.setattr(correction, "_WORTH_ELEMENTS", 10**9 if copies else 0)
    last = torch.channels_last_3d
    model = Depthwise(mode).to(memory_format=last)
    video = torch.randn(2, 8, 24, 6, 6).contiguous(memory_format=last)
    assert model(video).is_contiguous(memory_format=last)
    prog = pgt_fx.transform(model, video[:, :, :8], future=future)
    seen: dict[str, bool] = {}

    def look(module: Any, _: Any, out: Any) -> None:
        if out is not None and out.numel():
            seen[module.slot] = out.is_contiguous(memory_format=last)

    hooks = [m.register_forward_hook(look) for m in prog._program().emitted.markov.values()]
    with torch.no_grad():
        for piece in video.split(8, 2):
            out = prog(piece.contiguous(memory_format=last))
            assert len(seen) >= 3 and all(seen.values()), seen
            assert out.is_contiguous(memory_format=last)
            held = {k: v for k, v in prog.state.items() if v.dim() == 5 and v.numel()}
            assert held and all(v.is_contiguous(memory_format=last) for v in held.values())
    for hook in hooks:
        hook.remove()
