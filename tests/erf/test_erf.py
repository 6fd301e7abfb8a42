"""Receptive fields: nets whose fields are known by hand, measured."""

from __future__ import annotations

import copy
import json
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import Result
from torch import Tensor, nn
from typer.testing import CliRunner

import pgt_fx
from pgt_fx import erf
from pgt_fx.cli import app
from pgt_fx.core.errors import ClipError, OptionError
from pgt_fx.erf import figure as erf_figure
from pgt_fx.erf import measurement as measuring
from pgt_fx.erf.result import CURVES, Curve, Receptive
from pgt_fx.runtime.progressive import Progressive


def conv(cin: int = 4, cout: int = 4, kernel: int = 3, **options: Any) -> nn.Conv3d:
    options = {"padding": (kernel // 2, 0, 0)} | options
    return nn.Conv3d(cin, cout, (kernel, 1, 1), **options)


class Weighted(nn.Module):
    """One convolution with weights 1, 2, 1 along time: its gradient is known."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(1, 1, (3, 1, 1), padding=(1, 0, 0), bias=False)
        self.conv.weight.data = torch.tensor([1.0, 2.0, 1.0]).view(1, 1, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class Two(nn.Module):
    """Two convolutions with k=3: TRF 5."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = conv(3), conv()

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.relu(self.a(x)))


class Strided(nn.Module):
    """Residual with stride 2 in time."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.down, self.short = conv(3), conv(stride=(2, 1, 1)), conv(3, 4, 1)
        self.short.stride = (2, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(torch.tanh(self.stem(x))) + self.short(x)


class Pooled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = Two(), nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).mean((2, 3, 4)))


class Gated(nn.Module):
    """Squeeze-excitation over all of time."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = conv(3), conv()

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        return self.b(x * torch.sigmoid(x.mean((2, 3, 4), keepdim=True)))


class Paths(nn.Module):
    """Two paths, the second with four times the frames."""

    def __init__(self) -> None:
        super().__init__()
        self.slow, self.fast = conv(3), conv(3)
        self.lateral = conv(4, 4, 5, stride=(4, 1, 1))

    def forward(self, clip: list[Tensor]) -> Tensor:
        slow, fast = clip
        return self.slow(slow) + self.lateral(torch.relu(self.fast(fast)))


class Silent(nn.Module):
    """A residual branch whose norm is built with weight zero."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = conv(3, 3), nn.BatchNorm3d(3)
        nn.init.zeros_(self.norm.weight)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.norm(self.conv(x))


class Middle(nn.Module):
    """Reads the frame before everywhere but at the centre."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("centre", torch.zeros(3, 3))
        self.centre[1, 1] = 1

    def forward(self, x: Tensor) -> Tensor:
        before = nn.functional.pad(x, (0, 0, 0, 0, 1, 0))[:, :, :-1]
        return self.centre * x + (1 - self.centre) * before


class Batched(nn.Module):
    """N T C H W."""

    def __init__(self) -> None:
        super().__init__()
        self.two = Two()

    def forward(self, x: Tensor) -> Tensor:
        return self.two(x.transpose(1, 2)).transpose(1, 2)


def clip(frames: int = 4, channels: int = 3) -> Tensor:
    return torch.zeros(1, channels, frames, 3, 3)


def made(model: nn.Module, example: Any = None, **options: Any) -> Progressive:
    return pgt_fx.transform(model.eval(), clip() if example is None else example, **options)


def measured(prog: Progressive, **options: Any) -> Receptive:
    return erf.measure(prog, **{"inputs": 1, "steps": 3, **options})


@pytest.fixture(scope="module")
def two() -> Progressive:
    return made(Two())


@pytest.fixture(scope="module")
def weighted() -> Progressive:
    return made(Weighted(), clip(channels=1))


def shares(curve: Curve) -> dict[int, float]:
    """Frames with a gradient, with their shares."""
    return {f: pytest.approx(m, abs=1e-6) for f, m in enumerate(curve.mass) if m}


# --------------------------------------------------------------------------- known gradients
# Three steps: frames 0-3, 4-6, 7-9.


def test_a_single_convolution_in_the_middle_of_a_step(weighted: Progressive) -> None:
    found = measured(weighted)
    assert (found.output, found.frames, found.cuts) == (8, (10,), ((4, 7),))
    for curve in (found.clip[0], found.original[0], found.progressive[0]):
        assert shares(curve) == {7: 0.25, 8: 0.5, 9: 0.25}
        assert curve.own == 8 and curve.theory == curve.reach == (7, 9)


def test_at_the_start_of_a_step_the_past_is_carried(weighted: Progressive) -> None:
    found = measured(weighted, output=4)
    assert shares(found.original[0]) == shares(found.progressive[0]) == {3: 0.25, 4: 0.5, 5: 0.25}
    assert found.progressive[0].before == pytest.approx(0.25)
    # The clip's T' = 4 frames begin with the one in which the steps overlap (paper, section 3.1).
    assert found.clip[0].step == (3, 6) and found.clip[0].before == 0


def test_at_the_end_of_a_step_the_future_is_padding(weighted: Progressive) -> None:
    found = measured(weighted, output=6)
    third = 1 / 3
    assert shares(found.original[0]) == {5: 0.25, 6: 0.5, 7: 0.25}
    assert shares(found.progressive[0]) == {5: pytest.approx(third), 6: pytest.approx(2 * third)}
    assert shares(found.clip[0]) == shares(found.progressive[0])
    assert found.original[0].after == pytest.approx(0.25) and found.progressive[0].after == 0


def test_carried_gradients_are_not_cut(two: Progressive) -> None:
    found = measured(two, output=7)
    assert found.progressive[0].reach == (5, 9)
    assert 0 < found.progressive[0].before < 1


def test_the_effective_field_fills_the_theoretical_one(two: Progressive) -> None:
    for output in range(10):
        found = measured(two, output=output)
        assert (found.trf, found.past, found.future) == ((5,), (2,), (2,))
        step = next(s for s in ((0, 3), (4, 6), (7, 9)) if s[0] <= output <= s[1])
        assert found.original[0].theory == (max(0, output - 2), min(9, output + 2))
        assert found.progressive[0].theory == (max(0, output - 2), min(step[1], output + 2))
        start = step[1] - 3
        assert found.clip[0].theory == (max(start, output - 2), min(step[1], output + 2))
        for curve in (found.clip[0], found.original[0], found.progressive[0]):
            assert curve.own == output and curve.reach == curve.theory
            assert sum(curve.mass) == pytest.approx(1)


# ------------------------------------------------------------------------- models and policies


@pytest.mark.parametrize("operator", ["mco", "cmco-avg", "cmco-max", "pmco"])
@pytest.mark.parametrize(
    "model", [Two, Strided, Gated, Pooled, Batched, Paths], ids=lambda m: m.__name__
)
def test_no_frame_outside_of_the_theoretical_field(
    model: Callable[[], nn.Module], operator: str
) -> None:
    example: Any = clip()
    if model is Batched:
        example = example.transpose(1, 2)
    if model is Paths:
        example = [clip(), clip(16)]
    prog = made(model(), example, operator=operator, time_dim=1 if model is Batched else None)
    mco = prog.replace(operator="mco")
    carried = False
    for output in [None] if model is Pooled else range(2, 5):
        found = measured(prog, output=output)
        for at, name, c in found.curves():
            assert c.reach is not None
            assert c.theory[0] <= c.reach[0] <= c.reach[1] <= c.theory[1], (output, name)
            # Of operators that combine all of time only a bound is known.
            if operator == "mco" and model is not Gated:
                assert c.reach == c.theory, (output, name, at)
        assert found.progressive[0].after == 0
        carried |= found.progressive[0].before > 0
        assert found.original[0].mass == measured(mco, output=output).original[0].mass
    assert carried


def test_an_aggregate_reaches_the_first_step(two: Progressive) -> None:
    found = measured(two.replace(operator="cmco-avg"), steps=4)
    assert found.progressive[0].theory == (0, 12) and found.progressive[0].reach == (0, 12)


def test_waiting_gives_the_original(two: Progressive) -> None:
    prog = two.replace(future="wait")
    for output in (3, 6, 8):
        found = measured(prog, output=output)
        assert found.progressive[0].mass == pytest.approx(found.original[0].mass)
        assert found.progressive[0].theory == found.original[0].theory
        assert found.progressive[0].step == found.original[0].step


def test_a_temporal_stride() -> None:
    found = measured(made(Strided()))
    assert found.stride == ("2",) and found.output == 4
    assert found.original[0].own == found.progressive[0].own == 8
    # The clip of frames 6 … 9 has outputs at 6 and 8.
    assert found.clip[0].own == 8 and found.clip[0].step == (6, 9)
    found = measured(made(Strided()), output=2)
    # That of frames 3 … 6 at 3 and 5: of two that are as near the later.
    assert found.original[0].own == 4 and found.clip[0].own == 5


def test_a_window_that_ends_in_the_next_step() -> None:
    prog = made(nn.AvgPool3d((2, 1, 1)))
    found = measured(prog, output=3)
    # It stands for frame 6, the last of its step, and is given one step later.
    for c in (found.original[0], found.progressive[0]):
        assert (c.own, c.step) == (6, (4, 6)) and shares(c) == {6: 0.5, 7: 0.5}
    assert found.progressive[0].after == pytest.approx(0.5)
    assert found.clip[0].own == 5 and shares(found.clip[0]) == {5: 0.5, 6: 0.5}


def test_an_answer_pooled_over_time() -> None:
    prog = made(Pooled())
    found = measured(prog)
    assert found.output is None and found.trf == found.past == found.future == (None,)
    assert found.original[0].theory == (0, 9)
    # The last step adds elements 7 … 9, of which the first reads two frames back.
    assert found.progressive[0].theory == found.progressive[0].reach == (5, 9)
    assert found.clip[0].theory == found.clip[0].reach == (6, 9)
    running = measured(prog.replace(pooling="running"))
    assert running.progressive[0].theory == running.progressive[0].reach == (0, 9)
    assert "pooled over time" in found.setting
    with pytest.raises(OptionError, match="pooled over time"):
        measured(prog, output=0)


def test_running_and_waiting_pool_is_the_original() -> None:
    found = measured(made(Pooled(), future="wait", pooling="running"))
    assert found.progressive[0].mass == pytest.approx(found.original[0].mass)


def test_two_paths() -> None:
    found = measured(made(Paths(), [clip(), clip(16)]))
    assert found.paths == (0, 1) and found.frames == (10, 40)
    assert found.cuts == ((4, 7), (16, 28)) and found.stride == ("1", "4")
    assert [c.own for c in found.progressive] == [8, 32]
    assert [c.step for c in found.progressive] == [(7, 9), (28, 39)]
    assert [c.step for c in found.clip] == [(6, 9), (24, 39)]
    assert found.trf == (3, 7)
    assert [c.theory for c in found.progressive] == [(7, 9), (29, 35)]
    early = measured(made(Paths(), [clip(), clip(16)]), output=7)
    assert [c.theory for c in early.progressive] == [(6, 8), (25, 31)]
    assert all(c.before > 0 for c in early.progressive)
    assert all(sum(c.mass) == pytest.approx(1) for _, _, c in found.curves())


def test_a_path_that_the_output_does_not_read_has_no_curve() -> None:
    class Blind(Paths):
        def forward(self, clip: list[Tensor]) -> Tensor:
            return self.fast(clip[1])

    found = measured(made(Blind(), [clip(), clip(16)]))
    assert found.paths == (1,) and found.frames == (40,) and found.progressive[0].own == 34


def test_of_several_outputs_the_first() -> None:
    class Both(Two):
        def forward(self, x: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
            x = self.a(x)
            return {"early": x, "late": self.b(x)}

    assert measured(made(Both())).trf == (3,)


# -------------------------------------------------------------------------------- arguments


def test_norms_are_redrawn_on_a_copy() -> None:
    model = Silent()
    prog = made(model)
    before = copy.deepcopy(model.state_dict())
    found = measured(prog)
    assert found.redrawn == 1 and found.original[0].reach == (7, 9)
    plain = measured(prog, redraw=False)
    assert plain.redrawn == 0 and plain.original[0].reach == (8, 8)
    assert "redrawn" in found.setting and "redrawn" not in plain.setting
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


def test_the_model_is_left_as_it_was() -> None:
    prog = made(Two())
    prog.train()
    prog(torch.randn(1, 3, 4, 3, 3))
    before = prog.state
    measured(prog)
    assert prog.training and all(prog.state[k] is v for k, v in before.items())


def test_a_model_that_writes_into_its_clip() -> None:
    class Writes(Two):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.mul_(2.0))

    found = measured(made(Writes()), output=7)
    assert found.original[0].reach == found.progressive[0].reach == (5, 9)


def test_the_centre_alone() -> None:
    prog = made(Middle())
    assert measured(prog, position="centre").original[0].reach == (8, 8)
    assert measured(prog).original[0].reach == (7, 8)
    with pytest.raises(OptionError, match="centre"):
        measured(made(Pooled()), position="centre")


def test_the_mean_over_inputs_depends_on_the_seed(two: Progressive) -> None:
    one, same, other = (measured(two, seed=s).original[0].mass for s in (0, 0, 1))
    assert one == same and one != other


def test_each_curve_sees_the_same_videos(two: Progressive, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[float] = []
    draw = measuring._Videos.draw

    def drawn(self: Any, frames: int, **options: Any) -> list[Any]:
        video = draw(self, frames, **options)
        seen.append(float(video[0].sum()))
        return video

    monkeypatch.setattr(measuring._Videos, "draw", drawn)
    measured(two, inputs=3, redraw=False)
    assert [seen.count(x) for x in dict.fromkeys(seen)] == [3, 3, 3]


def test_the_mean_is_of_magnitudes(two: Progressive, monkeypatch: pytest.MonkeyPatch) -> None:
    def of(self: Any, kind: str, number: int) -> list[list[float]]:
        return [[0.0] * 7 + ([1.0, 0.0, 0.0] if number == 0 else [0.0, 3.0, 0.0])]

    monkeypatch.setattr(measuring._Gradients, "of", of)
    found = measured(two, inputs=2)
    assert found.inputs == 2 and shares(found.clip[0]) == {7: 0.25, 8: 0.75}


def test_opposite_units_do_not_cancel() -> None:
    class Opposite(Two):
        def forward(self, x: Tensor) -> Tensor:
            x = self.a(x)
            return torch.cat([x, -x], 1)

    assert measured(made(Opposite())).original[0].reach == (7, 9)


def test_gradients_are_taken_where_they_are_switched_off(two: Progressive) -> None:
    with torch.no_grad():
        assert measured(two).original[0].reach == (6, 9)


def test_length_and_steps(two: Progressive) -> None:
    found = measured(two, length=6, steps=2)
    assert found.frames == (11,) and found.cuts == ((6,),) and found.length == 6


def test_progress_is_told(two: Progressive) -> None:
    told: list[tuple[str, int, int]] = []
    measured(two, inputs=2, progress=lambda *what: told.append(what))
    assert [n for _, n, _ in told] == list(range(6)) and {t for *_, t in told} == {6}
    assert told[-1][0] == "video 2: progressive"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 1}, "steps: expected a whole number of at least 2, got 1"),
        ({"steps": 2.0}, "steps"),
        ({"length": 1}, "length: expected a whole number of at least 2"),
        ({"inputs": 0}, "inputs: expected a whole number of at least 1"),
        ({"output": 10}, r"output: expected 0 … 9 for a video of 10 frames, got 10"),
        ({"output": -1}, "output: expected 0"),
        ({"output": True}, "output: expected 0"),
        ({"position": "edge"}, "position: expected 'all' or 'centre'"),
    ],
)
def test_bad_options(two: Progressive, options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        measured(two, **options)


class Short(nn.Module):
    """Without padding: a clip of fewer than five frames has no output."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = conv(3, kernel=5, padding=0)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class Zero(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x) * 0.0


class Infinite(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.sqrt(x * 0.0)


class Whole(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x > 0


@pytest.mark.parametrize(
    ("model", "example", "options", "message"),
    [
        (Short, clip(8), {"length": 4}, "length: a clip of 4 frames gives no output frame"),
        (Zero, clip(), {}, "gradient is zero for every frame"),
        (Infinite, clip(), {}, "not finite"),
        (Whole, clip(), {}, "can't be differentiated"),
        (Zero, clip().to(torch.uint8), {}, "input 0 is torch.uint8"),
    ],
)
def test_no_gradient(
    model: Callable[[], nn.Module], example: Tensor, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ClipError, match=message):
        measured(made(model(), example), **options)


# ---------------------------------------------------------------------------------- figures


def curve(*mass: float, step: tuple[int, int] = (0, 0)) -> Curve:
    return Curve(own=0, step=step, theory=(0, len(mass) - 1), mass=mass)


def test_the_effective_width_is_the_shortest_run() -> None:
    assert curve(0.0, 0.02, 0.5, 0.46, 0.02).width == 2
    assert curve(0.03, 0.47, 0.47, 0.03).width == 3
    assert curve(0.5, 0.0, 0.0, 0.5).width == 4
    assert curve(0.0, 1.0, 0.0).width == 1
    assert curve(*[0.05] * 20).width == 19
    assert curve(0.0, 0.0).width == 0


def test_the_figures_of_a_curve() -> None:
    c = curve(0.1, 0.2, 0.0, 0.3, 0.4, 0.0, step=(1, 3))
    assert c.reach == (0, 4)
    assert c.before == pytest.approx(0.1) and c.after == pytest.approx(0.4)
    assert curve(0.5, 0.0, 0.0, 0.0, 0.5).std == pytest.approx(2.0)
    assert curve(0.0, 0.0).reach is None


def test_plain_data(two: Progressive) -> None:
    found = measured(two)
    data = json.loads(json.dumps(found.to_dict()))
    assert data["trf"] == [5] and data["cuts"] == [[4, 7]] and data["output"] == 8
    for name in CURVES:
        (c,) = data[name]
        assert len(c["mass"]) == 10 and {"own", "theory", "reach", "width", "std"} < set(c)


def test_the_table(two: Progressive) -> None:
    text = str(measured(two))
    assert "5 frames, 2 before and 2 after its own, stride 1" in text
    assert "progressive" in text and "6 … 9" in text and "path" not in text
    text = str(measured(made(Paths(), [clip(), clip(16)])))
    assert "path 1: frames 0 … 39, steps from 0, 16, 28" in text
    assert "all of time" in str(measured(made(Pooled())))


# ----------------------------------------------------------------------------------- figure


@pytest.fixture(scope="module")
def paths() -> Receptive:
    pytest.importorskip("matplotlib")
    return measured(made(Paths(), [clip(), clip(16)]))


@pytest.mark.parametrize(
    ("kind", "start"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")]
)
def test_the_figure_is_written(paths: Receptive, tmp_path: Path, kind: str, start: bytes) -> None:
    first, second = (erf_figure.save(paths, tmp_path / f"{n}.{kind}") for n in "ab")
    assert first.read_bytes().startswith(start)
    assert first.read_bytes() == second.read_bytes()


def test_original_on_the_left_progressive_on_the_right(paths: Receptive) -> None:
    panels = erf_figure.draw(paths).axes
    assert len(panels) == 4
    titles = [p.get_title(loc="left") for p in panels]
    assert titles[0].startswith("Original, on a clip of 4 frames\nTRF 3, 3 in the clip")
    assert titles[3].startswith("Progressive, 3 steps of 16 frames (mco)\nreach 7, effective")
    for at, (left, right) in enumerate((panels[:2], panels[2:])):
        own = paths.progressive[at].own
        drawn = [p for p in right.patches if p.get_label() == "" or p.get_fill()]
        assert drawn
        # Boundaries lie between frames; frame 0 is the output's own.
        cuts = [line.get_xdata()[0] for line in right.lines]
        assert cuts == [cut - own - 0.5 for cut in paths.cuts[at]]
        edges = [line.get_xdata()[0] + paths.clip[at].own for line in left.lines]
        assert edges == [paths.clip[at].step[0] - 0.5, paths.clip[at].step[1] + 0.5]
        low, high = left.get_xlim()
        assert (low, high) == right.get_xlim()
        assert low < -own and high > paths.frames[at] - 1 - own


def test_the_curves_that_are_drawn(two: Progressive) -> None:
    pytest.importorskip("matplotlib")
    from matplotlib.patches import StepPatch

    found = measured(two, output=4)
    assert len({c.mass for _, _, c in found.curves()}) == 3
    left, right = erf_figure.draw(found).axes
    for axes, name in ((left, "clip"), (right, "progressive")):
        filled, line = [p for p in axes.patches if isinstance(p, StepPatch)]
        assert filled.get_fill() and not line.get_fill()
        assert tuple(filled.get_data().values) == getattr(found, name)[0].mass
        assert tuple(line.get_data().values) == found.original[0].mass
        edges = filled.get_data().edges
        own = getattr(found, name)[0].own
        assert edges[own] == -0.5 and edges[own + 1] == 0.5


def test_the_figure_of_a_pooled_answer() -> None:
    pytest.importorskip("matplotlib")
    figure = erf_figure.draw(measured(made(Pooled())))
    assert "TRF all of time" in figure.axes[0].get_title(loc="left")
    assert "relative to the last" in figure.axes[0].get_xlabel()
    assert "pooled over time" in figure.get_suptitle()


def test_the_figure_of_an_operator_without_a_name(two: Progressive) -> None:
    pytest.importorskip("matplotlib")
    found = measured(two.replace(operator=pgt_fx.MarkovOperator("max", 0.25)))
    assert "MarkovOperator" in found.setting
    assert "(custom operator)\n" in erf_figure.draw(found).axes[1].get_title(loc="left")


def test_files_that_cannot_be_written(paths: Receptive, tmp_path: Path) -> None:
    (tmp_path / "folder.png").mkdir()
    for name, message in (
        ("x.bmp", "ends in .png, .svg, .pdf"),
        ("x", "ends in .png"),
        ("none/x.png", "there is no folder"),
        ("folder.png", "is a folder"),
    ):
        with pytest.raises(OptionError, match=message):
            erf_figure.save(paths, tmp_path / name)


def test_without_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    with pytest.raises(erf_figure.PlotError, match=r"pip install 'pgt_fx\[plot\]'"):
        erf_figure.check(tmp_path / "x.png")


# ------------------------------------------------------------------------------ command line

SOURCE = """
    import torch
    from torch import nn

    def dense():
        net = nn.Sequential(nn.Conv3d(3, 4, 3, padding=1), nn.BatchNorm3d(4), nn.ReLU())
        return net, torch.zeros(1, 3, 4, 6, 6)

    def pooled():
        net = nn.Sequential(dense()[0], nn.AdaptiveAvgPool3d(1), nn.Flatten())
        return net, torch.zeros(1, 3, 4, 6, 6)
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """A folder with a module of models, the current one; the module's name."""
    pytest.importorskip("matplotlib")
    name = f"erf_models_{abs(hash(request.node.name))}"
    (tmp_path / f"{name}.py").write_text(textwrap.dedent(SOURCE))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", list(__import__("sys").path))
    return name


def run(*args: str) -> Result:
    return CliRunner().invoke(app, ["erf", *args], env={"COLUMNS": "200", "TERM": "dumb"})


def said(result: Result) -> str:
    return " ".join(result.output.replace("│", " ").split())


def test_the_command_writes_the_figure(here: str, tmp_path: Path) -> None:
    result = run(f"{here}:dense", "--inputs", "1", "--steps", "3", "--threads", "1")
    assert result.exit_code == 0, result.output
    assert "before step" in result.output and "norms redrawn: 1" in said(result)
    assert f"figure: {here}_dense_erf.png" in said(result)
    assert (tmp_path / f"{here}_dense_erf.png").read_bytes().startswith(b"\x89PNG")


def test_the_command_as_data(here: str, tmp_path: Path) -> None:
    options = ("--operator", "pmco", "--length", "5", "--frame", "3", "--no-redraw", "--seed", "1")
    result = run(f"{here}:dense", "--json", "--output", "x.svg", "--inputs", "1", *options)
    assert result.exit_code == 0, result.output
    data = json.loads(result.stdout)
    assert data["figure"] == "x.svg" and (tmp_path / "x.svg").exists()
    assert data["model"] == f"{here}:dense" and data["options"]["operator"] == "pmco"
    assert (data["length"], data["steps"], data["output"], data["redrawn"]) == (5, 5, 3, 0)
    assert data["progressive"][0]["own"] == 3


def test_the_command_says_that_an_answer_is_pooled(here: str) -> None:
    result = run(f"{here}:pooled", "--inputs", "1")
    assert result.exit_code == 0, result.output
    assert "the answer of the last step, pooled over time" in said(result)


def test_the_command_takes_features_of_the_zoo(here: str) -> None:
    pytest.importorskip("torchvision")
    small = ("--space", "16", "--inputs", "1", "--steps", "2", "--length", "4", "--json")
    result = run("mc3_18", *small)
    assert result.exit_code == 0, result.output
    data = json.loads(result.stdout)
    assert data["model"] == "mc3_18 (features)" and data["output"] is not None
    result = run("mc3_18", "--head", *small)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["output"] is None


@pytest.mark.parametrize(
    ("args", "hint"),
    [
        (("--steps", "1"), "--steps"),
        (("--length", "1"), "--length"),
        (("--inputs", "0"), "--inputs"),
        (("--frame", "99"), "--frame: expected 0 … 15"),
        (("--operator", "mcoo"), "did you mean 'mco'"),
        (("--output", "x.bmp"), "ends in .png"),
        (("--output", "none/x.png"), "there is no folder"),
    ],
)
def test_bad_usage(here: str, args: tuple[str, ...], hint: str) -> None:
    result = run(f"{here}:dense", *args)
    assert result.exit_code == 2, result.output
    assert hint in said(result) and "Traceback" not in result.output
