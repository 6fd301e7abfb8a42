"""On a GPU: the same answers as on the host, nothing waited for, compiled and replayed steps.

`tests/runtime/test_device.py` asks what can be asked without one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from opinfos import OpInfo
from oracles import relative_error
from test_device import CONVERTED, POLICIES
from test_gradients import CHUNKS, EXACT, LABELS, Net, distance, gradients, progressive, together
from test_gradients import video as of_classes
from test_rules import build, video
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import pgt_fx
from pgt_fx import zoo
from pgt_fx.runtime.markov import correction
from pgt_fx.training import backward

if not torch.cuda.is_available():
    pytest.skip("no CUDA device here", allow_module_level=True)

DEVICE = "cuda"
MODELS = ("slow_r50", "slowfast_r50", "r2plus1d_18", "x3d_m", "csn_r101")


@contextmanager
def never_waiting() -> Iterator[None]:
    """Whatever makes the host wait for the device raises."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.fixture(autouse=True)
def precise() -> Iterator[None]:
    """Convolutions of float32 in float32; with TF32 they have 10 bits."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before


def test_waiting_would_be_seen() -> None:
    x = torch.ones(3, device=DEVICE)
    with pytest.raises(RuntimeError, match="synchronizing"), never_waiting():
        x.sum().item()


def tensors(value: Any) -> list[Tensor]:
    return [x for x in pytree.tree_leaves(value) if isinstance(x, Tensor)]


def three_steps(prog: pgt_fx.Progressive, clip: Tensor) -> list[Any]:
    prog.reset()
    return [prog(clip, last=number == 2) for number in range(3)]


@pytest.mark.parametrize("info", CONVERTED, ids=str)
def test_an_operator_does_there_what_it_does_here(info: OpInfo) -> None:
    """The same steps on both, each operator under each policy; no step waits for the device."""
    x = video(info).double()
    for policy in POLICIES:
        model = build(info).double()
        here = pgt_fx.transform(model, x, time_dim=info.time, strict=False, **policy)
        wanted, again = three_steps(here, x), three_steps(here, x)
        # Dropout: another device, other numbers.
        pairs = zip(tensors(wanted), tensors(again), strict=True)
        drawn = any(relative_error(a, b) > 0 for a, b in pairs)
        there = here.replace().to(DEVICE)  # the weights are shared, and go with it
        clip = x.to(DEVICE)
        there(clip)  # brings the model's constants
        with never_waiting():
            found = three_steps(there, clip)
        assert any(out is not None for out in found)
        for a, b in zip(found, wanted, strict=True):
            for p, q in zip(tensors(a), tensors(b), strict=True):
                assert p.is_cuda and p.shape == q.shape and p.dtype == q.dtype
                assert drawn or relative_error(p.cpu(), q) <= 1e-9, policy


def small(name: str, dtype: torch.dtype, **policy: Any) -> tuple[pgt_fx.Progressive, nn.Module]:
    model = zoo.build(name, space=64, redraw_norms=True).eval()
    example = zoo.clip(name, space=64)
    policy = {"clip_pools": "global", "strict": False} | policy
    prog = pgt_fx.transform(model, example, **policy)
    return prog.to(DEVICE, dtype), model


def long_video(prog: pgt_fx.Progressive, frames: int, dtype: torch.dtype, batch: int = 2) -> Any:
    generator = torch.Generator().manual_seed(2)
    paths = [
        torch.randn(batch, 3, frames * r, 64, 64, generator=generator).to(DEVICE, dtype)
        for r in prog.clip_ratio
    ]
    return paths if len(paths) > 1 else paths[0]


@pytest.mark.parametrize("name", [name for name in MODELS if name != "x3d_m"])
def test_a_stream_is_the_whole_video(name: str) -> None:
    """x3d_m is not among them: its squeeze-excitation reads all of a video."""
    prog, _ = small(name, torch.float64, future="wait", pooling="running")
    video = long_video(prog, 40, torch.float64)
    with torch.no_grad():
        wanted = prog.full(video)
        found = [out for out in prog.run(video, schedule=[8] * 5) if out is not None][-1]
        assert relative_error(found, wanted) <= 1e-9  # the running answer, which is the video's
        # In fewer bits a stream is as far from the video's answer as the whole video in one.
        for dtype in (torch.float32, torch.bfloat16):
            prog.to(dtype)
            rough = pytree.tree_map(lambda x: x.to(dtype), video)
            whole = relative_error(prog.full(rough).double(), wanted)
            outs = [out for out in prog.run(rough, schedule=[8] * 5) if out is not None]
            assert relative_error(outs[-1].double(), wanted) <= 2 * whole + 1e-6, dtype
            assert 0 < whole < (0.3 if dtype == torch.bfloat16 else 1e-3)


@pytest.mark.parametrize("copies", [True, False], ids=["copies", "corrected"])
@pytest.mark.parametrize("name", MODELS)
def test_steps_of_a_model_there_and_here(
    name: str, copies: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The past laid out in front of each input, and added to the first outputs afterwards."""
    monkeypatch.setitem(correction._WORTH_ELEMENTS, DEVICE, 10**9 if copies else 0)
    run, corrected = correction.Correction.run, []

    def counted(self: correction.Correction, x: Tensor, *others: Tensor) -> Tensor:
        corrected.append(x.device.type)
        return run(self, x, *others)

    monkeypatch.setattr(correction.Correction, "run", counted)
    prog, _ = small(name, torch.float64)
    clips = [long_video(prog, n, torch.float64) for n in (8, 7, 7, 7)]
    outs = []
    with torch.no_grad():
        for device in (DEVICE, "cpu"):
            prog.to(device)
            prog.reset()
            outs.append([prog(pytree.tree_map(lambda x: x.to(device), c)) for c in clips])
    compared = 0
    for there, here in zip(*outs, strict=True):
        assert (there is None) == (here is None)
        if here is not None:
            compared += 1
            assert relative_error(there.cpu(), here) <= 1e-9
    assert compared >= 2
    assert (DEVICE in corrected) != copies


@pytest.mark.parametrize("name", MODELS)
def test_a_step_and_its_backward_never_wait(name: str) -> None:
    prog, _ = small(name, torch.float32, operator="cmco-max", pooling="markov")
    clip = long_video(prog, 8, torch.float32)

    def step() -> None:
        out = prog(list(clip) if isinstance(clip, list) else clip)
        if out is not None:
            out.square().mean().backward()

    for _ in range(3):
        step()
    with never_waiting():
        for _ in range(8):
            step()


def test_the_verifier_holds_there() -> None:
    model = nn.Sequential(
        nn.Conv3d(3, 4, 3, padding=1), nn.BatchNorm3d(4), nn.ReLU(), nn.MaxPool3d((3, 2, 2), 1, 1)
    )
    prog = pgt_fx.transform(model.eval(), torch.randn(2, 3, 8, 6, 6)).to(DEVICE)
    for policy in POLICIES[:2]:
        found = pgt_fx.verify(prog.replace(**policy), chunkings=2)
        assert found.ok, str(found)


def graphs_made() -> int:
    return torch._dynamo.utils.counters["stats"]["unique_graphs"]


def compilable(name: str, **policy: Any) -> pgt_fx.Progressive:
    return small(name, torch.float32, **policy)[0]


@pytest.mark.parametrize("mode", [None, "reduce-overhead"], ids=["kernels", "CUDA graphs"])
@pytest.mark.parametrize("future", ["zero", "wait"])
def test_compiled_steps_give_the_same(mode: str | None, future: str) -> None:
    """Answers gathered over a video, which a replayed graph would have written over."""
    torch._dynamo.reset()
    prog = compilable("slow_r50", future=future)
    before = graphs_made()
    plain, clip = prog.replace(), long_video(prog, 8, torch.float32)
    prog.compile(**({"mode": mode} if mode else {}))
    found, wanted = [], []
    graphs = []
    with torch.no_grad():
        for _ in range(8):
            found.append(prog(clip))
            wanted.append(plain(clip))
            graphs.append(graphs_made() - before)
            clip = clip.flip(2)
    assert graphs[-1] == graphs[3] >= 1
    for a, b in zip(found, wanted, strict=True):
        assert (a is None) == (b is None)
        assert a is None or relative_error(a, b) <= 1e-3
    for name, held in plain.state.items():
        if held.is_floating_point():
            assert relative_error(prog.state[name].cpu(), held.cpu()) <= 1e-3, name


def test_gradients_of_compiled_steps() -> None:
    torch._dynamo.reset()
    prog = compilable("slow_r50")
    clip = long_video(prog, 8, torch.float32)
    compiled = prog.replace()
    compiled.compile()
    before = graphs_made()
    sums = []
    for one in (prog, compiled):
        one.reset()
        for _ in range(4):
            one.zero_grad()
            one(clip).square().mean().backward()
        sums.append([p.grad.clone() for p in one.parameters() if p.grad is not None])
    assert graphs_made() == before + 1
    assert len(sums[0]) == len(sums[1]) > 100
    a, b = (torch.cat([g.flatten() for g in found]) for found in sums)
    # A rounding more or less turns some activations on or off.
    assert float((a - b).norm() / a.norm()) <= 1e-2


@pytest.mark.parametrize("future", ["zero", "wait"])
def test_a_steady_step_can_be_recorded_by_hand(future: str) -> None:
    """``torch.cuda.graph`` refuses a step that waits, or that allocates outside its pool."""
    prog, _ = small("slow_r50", torch.float32, future=future)
    program, clip = prog.inspect.program, long_video(prog, 8, torch.float32)
    with torch.inference_mode():
        state = prog.init_state(clip)
        for _ in range(4):
            _, state = prog.step(state, clip)
        at = int(state["clock.frames"][0])
        work = program.plan((at,), (at + 8,), False)
        held = {k: v.clone() for k, v in state.items() if not k.startswith("clock.")}
        given = clip.clone()
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            program.run(held, [given], work)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            outs, carried = program.run(held, [given], work)
        for number in range(3):
            new = torch.roll(clip, number + 1, 2)
            wanted, state = prog.step(state, new)
            given.copy_(new)
            graph.replay()
            assert relative_error(outs[0], wanted) <= 1e-4
            for name, value in carried.items():
                held[name].copy_(value)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_exact_gradients_there(dropout: float) -> None:
    """The second forward of a step draws what its first drew, of the device's own generator."""
    prog = progressive(Net(dropout=dropout).double()).to(DEVICE).train()
    prog.inspect.model.norm.eval()  # of one batch per step, they are another test's
    x, labels = of_classes().to(DEVICE), LABELS.to(DEVICE)
    torch.manual_seed(7)
    expected = together(prog, x, labels, schedule=CHUNKS)
    after = torch.cuda.get_rng_state()
    torch.manual_seed(7)
    backward(prog, x, F.cross_entropy, labels, schedule=CHUNKS, gradient="exact")
    assert distance(gradients(prog), expected) <= EXACT
    assert torch.equal(torch.cuda.get_rng_state(), after), "as many numbers drawn as in one run"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16, scaled"])
def test_it_learns_under_autocast(dtype: torch.dtype) -> None:
    prog = progressive(Net()).to(DEVICE).train()
    x, labels = of_classes(dtype=torch.float32).to(DEVICE), LABELS.to(DEVICE)
    optimizer = torch.optim.SGD(prog.parameters(), lr=0.05)
    scaler = torch.amp.GradScaler(DEVICE, enabled=dtype == torch.float16)
    losses = []
    for _ in range(20):
        found = backward(
            prog, x, F.cross_entropy, labels, schedule=CHUNKS, gradient="exact",
            autocast=torch.autocast(DEVICE, dtype), scaler=scaler,
        )  # fmt: skip
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        losses.append(float(found.loss))
    assert losses[-1] < 0.9 * losses[0]


def test_the_layout_of_channels_stays() -> None:
    last = torch.channels_last_3d
    prog, _ = small("slow_r50", torch.bfloat16)
    prog.to(memory_format=last)
    clip = long_video(prog, 8, torch.bfloat16).contiguous(memory_format=last)
    with torch.no_grad():
        for _ in range(3):
            prog(clip)
    held = [v for k, v in prog.state.items() if v.dim() == 5 and v.numel()]
    assert held and all(v.is_contiguous(memory_format=last) for v in held)
