"""What models look like: inputs and outputs of every structure, modules of every kind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from oracles import pieces, relative_error, stitch
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.utils import _pytree as pytree

import pgt_fx
from pgt_fx.core.errors import CaptureError, ClipError

EXACT = 1e-9
CHUNKS = [4, 1, 6, 3]
FRAMES = sum(CHUNKS)


def conv(kernel: int = 3, stride: int = 1, channels: int = 3) -> nn.Conv3d:
    size, pad = (kernel, 1, 1), (kernel // 2, 0, 0)
    return nn.Conv3d(channels, channels, size, (stride, 1, 1), pad)


def video(frames: int = FRAMES, *, seed: int = 1) -> Tensor:
    generator = torch.manual_seed(seed)
    return torch.randn(2, 3, frames, 3, 3, dtype=torch.float64, generator=generator)


def check(
    model: nn.Module,
    example: Any,
    args: tuple[Any, ...],
    cut: Callable[[tuple[Any, ...]], list[tuple[Any, ...]]] | None = None,
    out: int = 2,
    **options: Any,
) -> pgt_fx.Progressive:
    """The outputs of all steps under ``wait`` are the model's; returns the converted model."""
    torch.manual_seed(0)
    model = model.double().eval()
    with torch.no_grad():
        whole = model(*pytree.tree_map(lambda x: x.clone(), args))
        prog = pgt_fx.transform(model, example, future="wait", **options)
        assert relative_error(prog.full(*args), whole) <= EXACT
        clips = cut(args) if cut else [(clip,) for clip in pieces(args[0], CHUNKS)]
        outputs = [prog(*clip, last=i == len(clips) - 1) for i, clip in enumerate(clips)]
        assert relative_error(stitch(outputs, out), whole) <= EXACT
        assert relative_error(stitch(prog.run(*args, schedule=CHUNKS), out), whole) <= EXACT
    return prog


class Wrap(nn.Module):
    """A forward of one's own around named modules."""

    def __init__(self, forward: Callable[..., Any], **inner: nn.Module) -> None:
        super().__init__()
        for name, module in inner.items():
            self.add_module(name, module)
        self.__dict__["call"] = forward

    def forward(self, x: Tensor) -> Any:
        return self.call(self, x)


class AnyArguments(nn.Module):
    """What a generic wrapper looks like."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.inner(*args, **kwargs)


# ------------------------------------------------------------------------------- inputs


def test_sequences_of_features() -> None:
    x = torch.randn(2, 3, FRAMES).double()
    check(nn.Sequential(nn.Conv1d(3, 4, 5, 2, 2), nn.ReLU()), x, (x,))


def test_frames_first() -> None:
    model = Wrap(lambda m, x: m.conv(x.transpose(1, 2)).transpose(1, 2), conv=conv())
    x = video().transpose(1, 2).contiguous()
    check(model, x[:, :12], (x,), lambda a: [(c,) for c in a[0].split(CHUNKS, 1)], out=1)


def test_a_time_dimension_that_has_to_be_said() -> None:
    model = Wrap(lambda m, x: m.conv(x.transpose(1, 2)).transpose(1, 2), conv=nn.Conv1d(3, 3, 3))
    x = torch.randn(2, FRAMES, 3).double()
    check(model, x, (x,), lambda a: [(c,) for c in a[0].split(CHUNKS, 1)], out=1, time_dim=1)


class TwoArguments(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = conv(5), conv(3)

    def forward(self, image: Tensor, flow: Tensor) -> Tensor:
        return self.a(image) + self.b(flow)


def test_two_arguments() -> None:
    x, y = video(), video(seed=2)
    check(
        TwoArguments(), (x[:, :, :12], y[:, :, :12]), (x, y),
        lambda a: list(zip(pieces(a[0], CHUNKS), pieces(a[1], CHUNKS), strict=True)),
    )  # fmt: skip


def test_keyword_arguments() -> None:
    x, y, model = video(), video(seed=2), TwoArguments().double()
    prog = pgt_fx.transform(model, {"image": x, "flow": y}, future="wait")
    cuts = list(zip(pieces(x, CHUNKS), pieces(y, CHUNKS), strict=True))
    outputs = [prog(image=a, flow=b, last=i == len(cuts) - 1) for i, (a, b) in enumerate(cuts)]
    assert relative_error(stitch(outputs), model(x, y)) <= EXACT
    assert relative_error(prog.full(image=x, flow=y), model(x, y)) <= EXACT
    with pytest.raises(ClipError):
        prog.full(x, y)


def test_a_forward_of_any_arguments() -> None:
    check(AnyArguments(conv()), video(12), (video(),))


def export_takes_keywords(model: nn.Module, clip: dict[str, Tensor]) -> bool:
    """Whether this torch exports a ``forward(**kwargs)`` with dynamic sizes at all."""
    sizes = {"kwargs": {name: {2: torch.export.Dim.AUTO} for name in clip}}
    try:
        torch.export.export(model, (), clip, dynamic_shapes=sizes, strict=False)
    except AssertionError:
        return False
    return True


def test_a_forward_of_any_keywords() -> None:
    x, y, model = video(), video(seed=2), AnyArguments(TwoArguments()).double()
    if not export_takes_keywords(model, {"image": x, "flow": y}):  # torch 2.11 itself can't
        with pytest.raises(CaptureError, match=r"torch\.export could not capture"):
            pgt_fx.transform(model, {"image": x, "flow": y}, future="wait")
        return
    prog = pgt_fx.transform(model, {"image": x, "flow": y}, future="wait")
    assert relative_error(prog.full(image=x, flow=y), model(image=x, flow=y)) <= EXACT


class TwoPaths(nn.Module):
    """A slow path, and a fast one of four times the frames that writes into the slow one."""

    def __init__(self, writes: bool = False) -> None:
        super().__init__()
        self.slow, self.fast, self.lateral = conv(3), conv(5), conv(5, 4)
        self.writes = writes

    def forward(self, x: list[Tensor]) -> list[Tensor]:
        if self.writes:
            x[0] = self.slow(x[0])
            x[1] = self.fast(x[1])
            x[0] = x[0] + self.lateral(x[1])
            return x
        fast = self.fast(x[1])
        return [self.slow(x[0]) + self.lateral(fast), fast]


@pytest.mark.parametrize("writes", [False, True])
def test_two_paths(writes: bool) -> None:
    model, x = TwoPaths(writes).double(), [video(), video(4 * FRAMES, seed=2)]
    prog = pgt_fx.transform(model, [x[0][:, :, :8], x[1][:, :, :32]], future="wait")
    whole = model(list(x))
    clips = pieces(x, CHUNKS, 2)
    kept = [list(clip) for clip in clips]
    outputs = [prog(clip, last=i == len(clips) - 1) for i, clip in enumerate(clips)]
    assert relative_error(stitch(outputs), whole) <= EXACT
    assert all(a is b for x, y in zip(clips, kept, strict=True) for a, b in zip(x, y, strict=True))
    assert relative_error(stitch(prog.run(x, schedule=CHUNKS)), whole) <= EXACT


# ------------------------------------------------------------------------------ outputs


@pytest.mark.parametrize(
    "pack",
    [
        lambda a, b: {"early": a, "late": b},
        lambda a, b: (a, b),
        lambda a, b: [a, {"b": b}],
    ],
    ids=["dict", "tuple", "nested"],
)
def test_several_outputs(pack: Callable[..., Any]) -> None:
    def forward(m: Any, x: Tensor) -> Any:
        early = m.first(x)
        return pack(early, m.second(early))

    check(Wrap(forward, first=conv(), second=conv(5, 2)), video(12), (video(),))


def test_a_constant_and_none_among_the_outputs() -> None:
    model = Wrap(lambda m, x: (m.conv(x), None), conv=conv()).double()
    prog = pgt_fx.transform(model, video(12))
    out = prog(video(5))
    assert isinstance(out, tuple) and out[0].shape[2] == 5 and out[1] is None


# ------------------------------------------------------------------------------ modules


class Root(nn.Module):
    """Parameters at the root, and children named like attributes of the converted model."""

    def __init__(self) -> None:
        super().__init__()
        self.step, self.state, self.markov, self.full = conv(), nn.ReLU(), conv(5), conv(1)
        self.scale = nn.Parameter(torch.rand(3, 1, 1, 1) + 0.5)
        self.kernel = nn.Parameter(torch.randn(3, 3, 3, 1, 1))
        self.register_buffer("bias", torch.randn(3))

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.conv3d(x * self.scale, self.kernel, self.bias)
        return self.full(self.markov(self.state(self.step(x))))


def test_names_at_the_root_do_not_clash() -> None:
    check(Root(), video(12), (video(),))


def test_a_module_used_twice() -> None:
    shared = conv()
    model = Wrap(lambda m, x: m.a(torch.tanh(m.a(x))) + m.b(x), a=shared, b=shared)
    prog = check(model, video(12), (video(),))
    assert len(prog.report.rows) >= 3
    assert len(list(prog.parameters())) == 2


@pytest.mark.parametrize("norm", ["weight_norm", "spectral_norm"])
def test_computed_weights(norm: str) -> None:
    inner = nn.Sequential(getattr(parametrizations, norm)(conv()), nn.ReLU(), conv(5))
    prog = check(inner, video(12), (video(),))
    prog.reset()
    prog.replace(future="zero")(video(6)).sum().backward()
    assert all(p.grad is not None for p in prog.parameters())


def test_frozen_layers_stay_frozen() -> None:
    model = nn.Sequential(conv(), nn.ReLU(), conv()).double()
    model[0].requires_grad_(False)
    prog = pgt_fx.transform(model, video(12))
    prog(video(6)).sum().backward()
    assert model[0].weight.grad is None and model[2].weight.grad is not None


def test_hooks_are_still_called() -> None:
    inner = nn.Sequential(nn.Conv3d(3, 3, (1, 3, 3)), nn.ReLU())
    model = nn.Sequential(inner, conv()).double()
    prog = pgt_fx.transform(model, video(12))
    seen: list[tuple[int, ...]] = []
    handle = inner.register_forward_hook(lambda m, args, out: seen.append(tuple(out.shape)))
    prog(video(5))
    assert seen == [(2, 3, 5, 1, 1)]
    handle.remove()
    prog(video(5))
    assert len(seen) == 1


def test_the_original_stays_as_it_was() -> None:
    model, x = nn.Sequential(conv(), nn.BatchNorm3d(3), conv(5)).double().eval(), video()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    whole, forward = model(x), model.forward
    prog = pgt_fx.transform(model, x[:, :, :12])
    prog.run(x)
    assert torch.equal(model(x), whole) and model.forward == forward
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_a_pool_over_the_clip_is_a_window_where_the_model_runs_at_other_lengths() -> None:
    model = nn.Sequential(conv(), nn.AvgPool3d((8, 1, 1), stride=1))
    assert check(model, video(8), (video(),)).report.clip_pools == 0
    prog = pgt_fx.transform(model, video(8), pooling="running", future="wait", clip_pools="global")
    assert prog.report.clip_pools == 1
    x = video(8)
    with torch.no_grad():
        last = prog.run(x, schedule=[3, 3, 2])[-1]
        assert relative_error(last, model(x)) <= EXACT
        long = prog.run(video(), schedule=CHUNKS)[-1]
        assert relative_error(long, model[0](video()).mean(2, keepdim=True)) <= EXACT


def test_train_mode_with_a_branch_on_training() -> None:
    model = Wrap(lambda m, x: m.a(x) if m.training else m.b(x), a=conv(3), b=conv(5)).double()
    prog, x = pgt_fx.transform(model.eval(), video(12), future="wait"), video()
    assert relative_error(stitch(prog.run(x, schedule=CHUNKS)), model.b(x)) <= EXACT
    prog.train()
    assert relative_error(stitch(prog.run(x, schedule=CHUNKS)), model.a(x)) <= EXACT


class PerFrame(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x.flatten(0, 1)).unflatten(0, x.shape[:2]).mean(1)


def test_of_two_axes_that_look_alike_the_one_that_may_grow_is_time() -> None:
    clip = torch.zeros(1, 4, 3, 8, 8)
    assert pgt_fx.transform(PerFrame(), clip).inspect.clip.times == (1,)
    with pytest.raises(CaptureError, match=r"if it is axis 1, pass time_dim=1") as caught:
        pgt_fx.transform(PerFrame(), clip, time_dim=2)
    assert caught.value.place is not None and "self.conv" in caught.value.place.line
