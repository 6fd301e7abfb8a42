"""What a steady step does not do: wait for the device, or lay tensors out another way."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

import pgt_fx
from pgt_fx import zoo
from pgt_fx.runtime.markov import correction
from pgt_fx.runtime.markov.buffer import flat_cat, owned

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
        program = prog.inspect.program
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
    monkeypatch.setitem(correction._WORTH_ELEMENTS, "cpu", 10**9 if copies else 0)
    last = torch.channels_last_3d
    model = Depthwise(mode).to(memory_format=last)
    video = torch.randn(2, 8, 24, 6, 6).contiguous(memory_format=last)
    assert model(video).is_contiguous(memory_format=last)
    prog = pgt_fx.transform(model, video[:, :, :8], future=future)
    seen: dict[str, bool] = {}

    def look(module: Any, _: Any, out: Any) -> None:
        if out is not None and out.numel():
            seen[module.slot] = out.is_contiguous(memory_format=last)

    hooks = [m.register_forward_hook(look) for m in prog.inspect.program.emitted.markov.values()]
    with torch.no_grad():
        for piece in video.split(8, 2):
            out = prog(piece.contiguous(memory_format=last))
            assert len(seen) >= 3 and all(seen.values()), seen
            assert out.is_contiguous(memory_format=last)
            held = {k: v for k, v in prog.state.items() if v.dim() == 5 and v.numel()}
            assert held and all(v.is_contiguous(memory_format=last) for v in held.values())
    for hook in hooks:
        hook.remove()


@pytest.mark.parametrize("sizes", [(6, 6), (1, 1)], ids=str)
@pytest.mark.parametrize("channels_last", [True, False])
def test_the_state_has_the_same_strides_from_the_first_step_on(
    channels_last: bool, sizes: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of a dimension of one element are free, and a compiled step is of one set of strides:
    what is cut from a clip of 8 frames must look like what is cut from one of 7."""
    monkeypatch.setitem(correction._WORTH_ELEMENTS, "cpu", 10**9)  # each input is copied
    layout = torch.channels_last_3d if channels_last else torch.contiguous_format
    model = Depthwise("zeros").to(memory_format=layout)
    video = torch.randn(1, 8, 29, *sizes)
    prog, seen = pgt_fx.transform(model, video[:, :, :8]), []
    with torch.no_grad():
        for piece in video.split((8, 7, 7, 7), 2):
            prog(piece.contiguous(memory_format=layout))
            seen.append({k: (v.stride(), v.shape) for k, v in prog.state.items()})
    steady = seen[1:]
    assert len(steady[0]) > 4 and all(one == steady[0] for one in steady)
    assert seen[0].keys() == steady[0].keys()
    alike = {k for k in steady[0] if seen[0][k][1] == steady[0][k][1]}
    assert len(alike) > 4, "the first step carries as much"
    assert {k: seen[0][k] for k in alike} == {k: steady[0][k] for k in alike}


@pytest.mark.parametrize("sizes", [(1, 3, "T", 4, 4), (1, 1, "T", 4, 4), (1, "T", 5), (2, 3, "T")])
def test_a_copy_does_not_tell_how_long_the_whole_was(sizes: tuple[Any, ...]) -> None:
    dim = sizes.index("T")
    copies = []
    for whole in (8, 7):
        x = torch.randn([whole if n == "T" else n for n in sizes])
        copies.append(owned(x.narrow(dim, whole - 2, 2)))
        assert torch.equal(copies[-1], x.narrow(dim, whole - 2, 2))
        assert copies[-1].untyped_storage().nbytes() == 4 * copies[-1].numel()
    assert copies[0].stride() == copies[1].stride()
    assert copies[0].is_contiguous()


class Flattened(nn.Module):
    """Its ``contiguous()`` does nothing in the layout that the capture sees: the graph has none."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(4, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x).contiguous()
        return y.view(y.shape[0] * 8, *y.shape[2:]) + 1


@pytest.mark.parametrize("future", ["zero", "wait"])
def test_a_view_in_a_layout_that_the_capture_did_not_see(future: str) -> None:
    model = Flattened().eval()
    video = torch.randn(2, 4, 12, 5, 5)
    prog = pgt_fx.transform(model, video[:, :, :4], future=future)
    prog.to(memory_format=torch.channels_last_3d)
    video = video.contiguous(memory_format=torch.channels_last_3d)
    with torch.no_grad():
        wanted = model(video)
        pieces = video.split(4, 2)
        outs = [prog(piece, last=number == 2) for number, piece in enumerate(pieces)]
    found = torch.cat([out for out in outs if out is not None], 1)
    assert found.shape == wanted.shape
    exact = prog.exact_frames([4, 4, 4])
    assert any(exact)
    assert (found - wanted)[:, torch.tensor(exact)].abs().max() <= 1e-5


class Positioned(nn.Module):
    """A table of positions that lies otherwise when the model's weights have channels last."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(4, 4, 3, padding=1)
        self.positions = nn.Parameter(torch.randn(32, 4, 1, 5, 5))

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        rows = self.positions[: y.shape[2]].contiguous().view(y.shape[2], 100)
        return y + rows.view(y.shape[2], 4, 5, 5).permute(1, 0, 2, 3)


def test_a_table_in_a_layout_that_the_capture_did_not_see() -> None:
    """It is read from its start in every step, in the one layout as in the other."""
    video = torch.randn(2, 4, 12, 5, 5)
    prog = pgt_fx.transform(Positioned().eval(), video[:, :, :4], strict=False)
    found = []
    with torch.no_grad():
        for layout in (torch.contiguous_format, torch.channels_last_3d):
            prog.to(memory_format=layout)
            prog.reset()
            found.append(torch.cat([prog(piece) for piece in video.split(4, 2)], 2))
    assert not prog.inspect.model.positions.is_contiguous()
    assert (found[0] - found[1]).abs().max() <= 1e-5


LAYOUTS = {
    "as it is": lambda x: x,
    "channels last": lambda x: x.contiguous(memory_format=torch.channels_last_3d),
    "permuted": lambda x: x.transpose(1, 4).contiguous().transpose(1, 4),
}


@pytest.mark.parametrize("dim", range(5))
@pytest.mark.parametrize("lengths", [(1, 4, 1), (3, 2), (0, 2, 1), (5,)], ids=str)
@pytest.mark.parametrize("layouts", [*LAYOUTS, "one of each"])
def test_one_kernel_lays_side_by_side_what_torch_does(
    dim: int, lengths: tuple[int, ...], layouts: str
) -> None:
    pieces = []
    for number, n in enumerate(lengths):
        shape = [2, 3, 4, 5, 6]
        shape[dim] = n
        how = list(LAYOUTS)[number % 3] if layouts == "one of each" else layouts
        pieces.append(LAYOUTS[how](torch.randn(shape)))
    wanted = torch.cat(pieces, dim)
    for context in (torch.no_grad(), torch.enable_grad()):
        with context:
            found = flat_cat(pieces, dim)
        assert torch.equal(found, wanted)
        assert found.stride() == wanted.stride()


def test_pieces_of_other_sizes_are_refused_as_torch_does() -> None:
    for a, b in (((2, 3, 4, 5, 6), (2, 3, 4, 6, 5)), ((4, 3, 2, 5, 6), (3, 4, 2, 5, 6))):
        with pytest.raises(RuntimeError, match="Sizes of tensors must match"):
            flat_cat([torch.randn(a), torch.randn(b)], 2)


@pytest.mark.parametrize("layout", ["as it is", "channels last"])
def test_what_is_made_without_gradients_can_be_written_to_with_them(layout: str) -> None:
    """Frozen features, scaled in place: a view made without gradients would refuse."""
    pieces = [LAYOUTS[layout](torch.randn(2, 3, n, 4, 4)) for n in (1, 5)]
    scale = torch.ones(1, requires_grad=True)
    for context in (torch.no_grad(), torch.enable_grad()):
        with context:
            joined = flat_cat(pieces, 2)
        joined.mul_(scale)
        joined.sum().backward()


def test_its_gradients_are_those_of_torch() -> None:
    pieces = [torch.randn(2, 3, n, 4, 4, requires_grad=True) for n in (1, 5, 2)]
    weights = torch.randn(2, 3, 8, 4, 4)
    found = torch.autograd.grad((flat_cat(pieces, 2) * weights).sum(), pieces)
    wanted = torch.autograd.grad((torch.cat(pieces, 2) * weights).sum(), pieces)
    assert all(map(torch.equal, found, wanted))
