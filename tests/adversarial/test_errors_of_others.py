"""What raised errors of torch's or Python's own, or was refused without a reason."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from judge import PARTLY, REFUSED, RIGHT, Along, Case, judge
from oracles import relative_error
from torch import Tensor, nn

import pgt_fx
from pgt_fx.core.errors import BlockedError, CaptureError, ClipError

CLIP = torch.randn(1, 2, 8, 4, 4)


def _conv() -> nn.Conv3d:
    return nn.Conv3d(2, 2, (3, 1, 1), padding=(1, 0, 0))


@pytest.mark.parametrize("how", [torch.jit.script, lambda m: torch.jit.trace(m, CLIP)])
@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.filterwarnings("ignore")
def test_a_scripted_model_is_refused_with_its_path(how: Any, inside: bool) -> None:
    compiled = how(nn.Sequential(_conv(), nn.ReLU()))
    model = nn.Sequential(_conv(), compiled) if inside else compiled
    with pytest.raises(CaptureError, match=r"by torch\.jit") as caught:
        pgt_fx.transform(model.eval(), CLIP)
    assert caught.value.place is not None
    assert caught.value.place.module == ("1" if inside else "")


CHILDREN = (
    *("code", "graph", "forward_", "compile_", "training_", "to_", "eval_", "self_", "torch"),
    *("class", "import", "state", "meta", "recompile", "markov", "None_", "print"),
)


@pytest.mark.parametrize("name", CHILDREN)
@pytest.mark.parametrize("along", [True, False])
def test_a_child_of_any_name(name: str, along: bool) -> None:
    """Called whole, or cut open: neither meets what generated code calls so."""

    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            spatial = nn.Sequential(nn.Conv3d(2, 2, (1, 3, 3), padding=(0, 1, 1)), nn.ReLU())
            self.first = spatial if along else _conv()
            setattr(self, name, _conv() if along else spatial)

        def forward(self, x: Tensor) -> Tensor:
            return self._modules[name](self.first(x))

    assert judge(Case(Named)) == RIGHT


ARGUMENTS = ("torch", "self_", "state", "last", "clip", "device", "inf", "getattr", "model")


def _given(name: str) -> nn.Module:
    space: dict[str, Any] = {"nn": nn, "conv": _conv}
    exec(
        "class Given(nn.Module):\n"
        "    def __init__(s):\n"
        "        super().__init__()\n"
        "        s.conv = conv()\n"
        f"    def forward(s, {name}):\n"
        f"        return s.conv({name}).relu() + {name}\n",
        space,
    )
    return space["Given"]()


@pytest.mark.parametrize("name", ARGUMENTS)
def test_an_argument_of_any_name(name: str) -> None:
    assert judge(Case(lambda: _given(name))) == RIGHT


@pytest.mark.parametrize("name", ["last", "detach"])
def test_an_input_with_the_name_of_an_option_of_a_step(name: str) -> None:
    with pytest.raises(ClipError, match="as a tuple"):
        pgt_fx.transform(_given(name).eval(), {name: CLIP})


def test_a_maximum_of_integers() -> None:
    class Largest(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.max_pool3d(x, (3, 1, 1), 1, (1, 0, 0)) + F.max_pool2d(
                x.flatten(3), (3, 1), 1, (1, 0)
            ).view(x.shape)

    video = torch.randint(-9, 9, (1, 2, 11, 4, 4))
    prog = pgt_fx.transform(Largest().eval(), video[:, :, :8], future="wait")
    assert torch.equal(prog.full(video), Largest()(video))
    outs = [prog(video[:, :, :5]), prog(video[:, :, 5:], last=True)]
    assert torch.equal(torch.cat([out for out in outs if out is not None], 2), Largest()(video))


def test_frames_by_frames_are_refused_with_their_line() -> None:
    class Similarity(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv1d(4, 4, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x).transpose(1, 2)
            return (y[:, :, None] - y[:, None]) ** 2

    with pytest.raises(BlockedError, match="frames by frames") as caught:
        pgt_fx.transform(Similarity().eval(), torch.randn(1, 4, 8), time_dim=2)
    assert "y[:, :, None] - y[:, None]" in str(caught.value)


def _blocks(y: Tensor) -> Tensor:
    batch = y.shape[0]
    groups = y.view(batch // 8, 8, *y.shape[1:])
    return torch.cat([groups[:, 1:], groups[:, -1:]], 1).flatten(0, 1)


def test_time_in_the_place_of_the_batch() -> None:
    class Blocks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(2, 2, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            return _blocks(self.conv(x))

    model = Blocks().double().eval()
    video = torch.randn(24, 2, 4, 4, dtype=torch.float64)
    prog = pgt_fx.transform(model, video[:8], future="wait", time_dim=0)
    assert relative_error(prog.full(video), model(video)) < 1e-12


@pytest.mark.parametrize("spelled", [lambda n, t: (-1, t), lambda n, t: (n, -1)])
def test_frames_taken_out_of_the_batch(spelled: Callable[[int, int], tuple[int, int]]) -> None:
    def shifted(s: Any, y: Tensor) -> Tensor:
        n, _, t, _, _ = y.shape
        z = y.transpose(1, 2).flatten(0, 1).unflatten(0, spelled(n, t))
        z = torch.cat([z[:, 1:, :1], z[:, -1:, :1]], 1)
        return z.transpose(1, 2)

    assert judge(Case(lambda: Along(shifted), others=[(2, 2, 8, 4, 4)])) == RIGHT


def test_several_outputs_of_which_one_is_empty() -> None:
    class Both(Along):
        def forward(self, x: Tensor) -> Any:
            y = self.conv(x)
            return {"frames": y, "changes": y[:, :, 1:] - y[:, :, :-1], "later": y[:, :, 2:]}

    model = Both(lambda s, y: y).eval()
    video = torch.randn(1, 2, 11, 4, 4)
    prog = pgt_fx.transform(model, CLIP, future="wait")
    found, wanted = prog.full(video), model(video)
    assert all(relative_error(found[name], wanted[name]) < 1e-6 for name in wanted)


def _literal(s: Any, y: Tensor) -> Tensor:
    return y - torch.tensor([0.1, 0.2], dtype=y.dtype)[:, None, None, None]


def _detached(s: Any, y: Tensor) -> Tensor:
    z = y * 2
    z.detach_()
    return z + y


def _without_autocast(s: Any, y: Tensor) -> Tensor:
    with torch.autocast("cpu", enabled=False), torch.no_grad():
        z = s.conv.weight.mean()
    with torch.autocast("cuda", enabled=False):
        return y.double() * z


TAKEN = {"literal": _literal, "detach_": _detached, "no autocast": _without_autocast}


@pytest.mark.parametrize("name", TAKEN)
def test_what_was_refused_without_a_reason(name: str) -> None:
    assert judge(Case(lambda: Along(TAKEN[name]))) == RIGHT


def test_a_block_without_autocast_is_none_under_autocast() -> None:
    model = Along(lambda s, y: _without_autocast(s, y).float()).eval()
    prog = pgt_fx.transform(model, CLIP, future="wait")
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(BlockedError, match="autocast"):
        prog.full(CLIP)


def test_a_model_that_takes_one_video_alone() -> None:
    """It fails at a batch of two, and not for its frames."""

    def alone(s: Any, y: Tensor) -> Tensor:
        if y.shape[0] != 1:
            raise ValueError("one video")
        return y

    assert judge(Case(lambda: Along(alone))) == RIGHT
    groups = Case(lambda: Along(lambda s, y: _blocks(y)), sizes=(8, 2, 8, 2, 2), frames=(3, 9))
    assert judge(groups) in (RIGHT, PARTLY)


def test_a_wrong_guess_of_time_names_the_option() -> None:
    class Latents(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv3d(8, 8, (3, 1, 1), padding=(1, 0, 0))
            self.mix = nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.mix(self.conv(x).transpose(2, 4)).transpose(2, 4)

    with pytest.raises(CaptureError, match="pass time_dim=2"):
        pgt_fx.transform(Latents().eval(), torch.randn(1, 8, 3, 4, 4))


@pytest.mark.slow
def test_a_block_of_the_model_has_its_line() -> None:
    def chosen(s: Any, y: Tensor) -> Tensor:
        return torch.cond(y.shape[2] > 8, lambda v: v * 2, lambda v: v * 3, (y,))

    case = Case(lambda: Along(chosen), REFUSED, says="test_errors_of_others.py")
    assert judge(case) == REFUSED


def test_the_line_is_the_user_s_and_not_that_of_a_package(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "site-packages"
    package.mkdir()
    (package / "turned_around.py").write_text("def turned(x):\n    return x.flip(2)\n")
    monkeypatch.syspath_prepend(str(package))
    from turned_around import turned

    def calls(s: Any, y: Tensor) -> Tensor:
        return turned(y)

    assert judge(Case(lambda: Along(calls), REFUSED, says="return turned(y)")) == REFUSED


def test_exact_frames_of_several_elements_of_a_frame() -> None:
    """One flag for each element of the output: a frame's elements stand in a row."""

    def in_a_row(s: Any, y: Tensor) -> Tensor:
        n, _, t, h, w = y.shape
        return y.view(n, 1, 2, t, h, w).permute(0, 1, 3, 2, 4, 5).reshape(n, 1, 2 * t, h, w)

    model = Along(in_a_row).double().eval()
    prog = pgt_fx.transform(model, CLIP.double())
    video = torch.randn(1, 2, 11, 4, 4, dtype=torch.float64)
    found, wanted = torch.cat(prog.run(video, schedule=[4, 4, 3]), 2), model(video)
    same = [relative_error(found[:, :, i], wanted[:, :, i]) < 1e-9 for i in range(22)]
    assert prog.exact_frames([4, 4, 3]) == same
