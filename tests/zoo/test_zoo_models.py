"""The zoo is whole, costs what the paper prints, and is what it says along time.

What the compiler makes of the models that are written here, and of those that pytorchvideo's
builders make. ``--slow`` adds the deep ones and the transformers.
"""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from oracles import pieces, random_chunks, relative_error, stitch
from torch import Tensor, nn

import pgt_fx
from pgt_fx import zoo
from pgt_fx.core.errors import PgtError

pytestmark = pytest.mark.full

torchvision = pytest.importorskip("torchvision")
pytest.importorskip("pytorchvideo")

EXACT = 1e-9
SPACE = 32

#: The systems of the paper, and those of the text books of the field.
PAPER = {
    "c3d", "i3d_r50", "i3d_r50_nopool", "i3d_r50_nl", "r2plus1d_r50", "r2plus1d_18",
    "slow_r50", "slow_r101", "slow_r50_nl", "slow_r101_nl",
    "slowfast_r50", "slowfast_r101", "slowfast_r50_nl", "slowfast_r101_nl",
    "regnet3d_400m", "x3d_xs", "x3d_s", "x3d_m", "x3d_l",
    "s3d", "csn_r101", "eco_lite", "tsm_r50", "tsn_r50", "audio_visual_slowfast_r50",
}  # fmt: skip

#: Written here; every temporal operator of theirs is exact under wait.
EXACT_MODELS = ["c3d", "eco_lite", "regnet3d_400m", "tsm_r50", "tsn_r50"]
DEEP = ["i3d_r50_nopool", "slow_r101", "slowfast_r101", "slowfast_16x8_r101_50_50"]
NONLOCAL = [name for name in zoo.names() if zoo.get(name).all_time == "non-local blocks"]


def names(fast: list[str], slow: list[str]) -> Any:
    marked = [pytest.param(n, marks=pytest.mark.slow) for n in slow if n not in fast]
    every = [*(pytest.param(n) for n in fast), *marked]
    return pytest.mark.parametrize("name", every)


def space_of(name: str) -> int:
    entry = zoo.get(name)
    if entry.fixed_space:
        return entry.space
    return 64 if name.startswith("mvit") else SPACE


def copied(clip: Any) -> Any:
    """Lists anew, because SlowFast writes into the one it is given."""
    if isinstance(clip, tuple):
        return tuple(copied(x) for x in clip)
    return list(clip) if isinstance(clip, list) else clip


def call(module: Any, clip: Any, **options: Any) -> Any:
    arguments = clip if isinstance(clip, tuple) else (clip,)
    with torch.no_grad():
        return module(*copied(arguments), **options)


def clip_of(name: str, seed: int = 1, **options: Any) -> Any:
    generator = torch.Generator().manual_seed(seed)
    options = {"space": space_of(name), "dtype": torch.float64} | options
    return zoo.clip(name, generator=generator, **options)


def build(name: str) -> nn.Module:
    return zoo.build(name, space=space_of(name), redraw_norms=True).double()


def video_of(clip: Any) -> list[Tensor]:
    first = clip[0] if isinstance(clip, tuple) else clip
    return list(first) if isinstance(first, list) else [first]


def with_video(clip: Any, paths: list[Tensor]) -> Any:
    video = paths if len(paths) > 1 else paths[0]
    return (video, *clip[1:]) if isinstance(clip, tuple) else video


# ------------------------------------------------------------------------- the list


def test_all_video_models_of_torchvision() -> None:
    assert set(torchvision.models.list_models(torchvision.models.video)) <= set(zoo.names())


def test_all_hub_models_of_pytorchvideo() -> None:
    from pytorchvideo.models import hub

    made = {
        n for n, f in vars(hub).items() if callable(f) and f.__module__.startswith(hub.__name__)
    }
    assert len(made) > 15
    assert made <= set(zoo.names())


def test_all_systems_of_the_paper() -> None:
    assert set(zoo.names()) >= PAPER


# -------------------------------------------------------------------------- figures

#: Name, frames of the longest path, GFLOPs as the PGT paper prints them.
PRINTED = [
    ("regnet3d_400m", 8, "6.59"),
    ("slow_r50", 8, "54.5"),
    ("slow_r50", 16, "109"),
    ("slowfast_r50", 32, "65.7"),
    ("slowfast_r101", 32, "126"),
]


def test_the_printed_figures_are_those_of_the_entries() -> None:
    own = {(name, max(zoo.get(name).clip)) for name in zoo.names() if zoo.get(name).gflops}
    printed = {(n, f): float(g) for n, f, g in PRINTED}
    for name, frames in own:
        entry = zoo.get(name)
        assert entry.note or entry.gflops == printed[name, frames], name


@pytest.mark.parametrize(("name", "frames", "printed"), PRINTED)
def test_gflops_are_the_paper_s(name: str, frames: int, printed: str) -> None:
    digits = len(printed.partition(".")[2])
    assert f"{zoo.gflops(name, frames=frames):.{digits}f}" == printed


@pytest.mark.parametrize("name", [n for n in zoo.names() if zoo.get(n).note])
def test_a_figure_that_is_not_the_paper_s_is_explained(name: str) -> None:
    entry = zoo.get(name)
    measured = zoo.gflops(name)
    assert entry.note.startswith(f"{measured:.1f} GFLOPs")
    assert measured == pytest.approx(entry.gflops, rel=0.05)


@pytest.mark.parametrize(
    "name", ["r3d_18", "r2plus1d_18", "mc3_18", "s3d", "mvit_v2_s", "swin3d_t"]
)
def test_gflops_are_torchvision_s_own(name: str) -> None:
    """Each of its weights says what its model costs."""
    weights = torchvision.models.get_model_weights(name).DEFAULT
    measured = zoo.gflops(name, space=None, frames=16)
    assert f"{measured:.3f}" == f"{weights.meta['_ops']:.3f}"


def test_gflops_of_frame_by_frame_models() -> None:
    """Eight ResNet-50; shifting costs no multiplication."""
    image = torchvision.models.ResNet50_Weights.IMAGENET1K_V1.meta["_ops"]
    assert zoo.gflops("tsn_r50", space=224) == pytest.approx(8 * image, rel=1e-3)
    assert zoo.gflops("tsm_r50", space=224) == zoo.gflops("tsn_r50", space=224)
    assert f"{zoo.gflops('c3d', space=None):.1f}" == "38.5"  # as commonly printed


def test_gflops_of_a_non_local_block() -> None:
    """Four 1x1x1 convolutions, two of them on pooled elements, and two products of matrices."""
    spots, channels = 8 * 16 * 16, 1024  # res4 of 8 frames of 256 x 256
    convolutions = 2 * spots * channels * channels // 2 * (1 + 1 / 4)
    products = 2 * spots * (spots // 4) * channels // 2
    added = zoo.gflops("slowfast_r50_nl") - zoo.gflops("slowfast_r50")
    assert added == pytest.approx(3 * (convolutions + products) / 1e9, rel=1e-6)


@pytest.mark.parametrize("name", zoo.names())
def test_every_model_has_a_cost(name: str) -> None:
    if name == "mvit_base_32x3":
        pytest.skip("the same builder as mvit_base_16x4")
    space = None if zoo.get(name).fixed_space else 64
    assert zoo.gflops(name, space=space) > 0.05


# ------------------------------------------------------------- temporal receptive field


class Only(nn.Module):
    """One of the outputs."""

    def __init__(self, module: nn.Module, index: int) -> None:
        super().__init__()
        self.module, self.index = module, index

    def forward(self, paths: list[Tensor]) -> Any:
        return self.module(paths)[self.index]


@names(["slow_r50", "regnet3d_400m"], ["i3d_r50", "i3d_r50_nopool", "slow_r101"])
def test_receptive_field_is_the_paper_s(name: str) -> None:
    report = pgt_fx.analyze(zoo.features(name, space=SPACE), clip_of(name, dtype=torch.float32))
    assert report.receptive_field == [zoo.get(name).trf]


def test_receptive_field_of_slowfast_s_fast_path() -> None:
    fast = Only(zoo.features("slowfast_r50", space=SPACE), 1)
    report = pgt_fx.analyze(fast, clip_of("slowfast_r50", dtype=torch.float32))
    assert report.receptive_field[-1] == zoo.get("slowfast_r50").trf


def test_receptive_field_of_x3d_without_its_gates() -> None:
    model: Any = zoo.build("x3d_m", space=SPACE)
    body = nn.Sequential(*list(model.blocks)[:-1])
    for module in list(body.modules()):
        for name, child in module.named_children():
            if type(child).__name__ == "SqueezeExcitation":
                setattr(module, name, nn.Identity())
    report = pgt_fx.analyze(body, clip_of("x3d_m", dtype=torch.float32))
    assert report.receptive_field == [zoo.get("x3d_m").trf]


# --------------------------------------------------------------------- what they compute


@names(
    [*EXACT_MODELS, "slow_r50_nl", "slowfast_r50_nl", "slow_r50_detection", "efficient_x3d_xs"],
    [
        *DEEP, *NONLOCAL, "slowfast_r50_detection", "audio_visual_slowfast_r50", "x3d_l",
        "efficient_x3d_s", "mvit_base_16", "mvit_base_16x4", "mvit_base_32x3", "mvit_v1_b",
        "mvit_v2_s", "swin3d_t", "swin3d_s", "swin3d_b",
    ],
)  # fmt: skip
def test_the_model_runs_and_looks_at_time(name: str) -> None:
    entry = zoo.get(name)
    model, clip = build(name), clip_of(name)
    out = call(model, clip)
    assert out.shape == ((entry.boxes, 80) if entry.boxes else (1, 400))
    assert out.isfinite().all()
    assert out.std() > 1e-2 * out.abs().max()

    order = torch.randperm(entry.clip[0], generator=torch.Generator().manual_seed(2))
    assert (order != torch.arange(entry.clip[0])).any()
    first, *rest = video_of(clip)
    moved = call(model, with_video(clip, [first[:, :, order], *rest]))
    if entry.family == "TSN":  # what it says of a frame does not depend on the others
        assert relative_error(moved, out) <= EXACT
        changed = first.clone()
        changed[:, :, 1] += 1
        moved = call(model, changed)
    assert (moved - out).abs().max() > 1e-2 * out.abs().max()


@names(EXACT_MODELS, [*DEEP, "slow_r50_detection", "slowfast_r50_detection"])
def test_logits_and_features_stream_exactly(name: str) -> None:
    entry = zoo.get(name)
    model, example = build(name), clip_of(name, seed=2)
    prog = pgt_fx.transform(model, copied(example), future="wait", pooling="running")
    clip = clip_of(name)
    assert prog.report.exact
    with torch.no_grad():
        arguments = copied(clip if isinstance(clip, tuple) else (clip,))
        assert relative_error(prog.full(*arguments), call(model, clip)) <= EXACT

    backbone = zoo.features(name, model)
    example = example[0] if entry.boxes else example
    stages = pgt_fx.transform(backbone, copied(example), future="wait")
    frames = min(entry.clip) * 2 + 3
    video = clip_of(name, frames=frames * (max(entry.clip) // min(entry.clip)))
    video = video[0] if entry.boxes else video
    whole = call(backbone, video)
    rng = random.Random(5)
    for _ in range(2):
        chunks = random_chunks(frames, 2 * min(entry.clip), rng)
        stages.reset()
        cut = pieces(video, chunks)
        steps = [call(stages, c, last=i == len(cut) - 1) for i, c in enumerate(cut)]
        assert relative_error(stitch(steps), whole) <= EXACT, chunks


@names(["slow_r50_nl"], [n for n in NONLOCAL if n.startswith(("slow_", "i3d"))])
def test_non_local_blocks_are_reported_and_refused(name: str) -> None:
    """Over the clip the answer is the model's; over a stream no bounded state gives it."""
    model, example = build(name), clip_of(name, seed=2)
    prog = pgt_fx.transform(model, example, future="wait", pooling="running", strict=False)
    assert not prog.report.exact
    assert any("res_blocks.2" in row.name for row in prog.report.inexact)
    clip = clip_of(name)
    with torch.no_grad():
        assert relative_error(prog.full(clip), call(model, clip)) <= EXACT
    with pytest.raises(PgtError, match=r"nonlocal_net\.py"):
        prog.replace(strict=True)


@names(["mvit_base_16x4"], ["slowfast_r50_nl", "mvit_base_32x3", "mvit_v1_b", "mvit_v2_s"])
def test_what_looks_at_all_of_time_is_refused_with_its_line(name: str) -> None:
    model = zoo.build(name, space=space_of(name))
    with pytest.raises(PgtError, match=r"\.py:\d+"):
        pgt_fx.transform(model, clip_of(name, dtype=torch.float32), future="wait")


# ------------------------------------------------------------------------- their parts


@pytest.mark.parametrize(
    ("name", "places"),
    [
        ("slow_r50_nl", {"2": [2, 5], "3": [2, 5, 8]}),
        ("slow_r101_nl", {"2": [2, 5], "3": [8, 16, 24]}),
        ("i3d_r50_nl", {"3": [2, 5], "4": [2, 5, 8]}),
        ("slowfast_r50_nl", {"3": [2, 5, 8]}),
        ("slowfast_r101_nl", {"3": [7, 15, 23]}),
    ],
)
def test_places_of_the_non_local_blocks(name: str, places: dict[str, list[int]]) -> None:
    with torch.device("meta"):
        model = zoo.build(name)
    found: dict[str, list[int]] = {}
    for path, module in model.named_modules():
        if type(module).__name__ == "NonLocal":
            parts = path.split(".")
            assert "multipathway_blocks" not in parts or parts[3] == "0", "in the slow path"
            found.setdefault(parts[1], []).append(int(parts[-1]))
            kind = "dot_product" if name.startswith("slowfast") else "softmax"
            assert module.instantiation == kind
            assert module.pool.kernel_size == (1, 2, 2)
    assert found == places


def test_non_local_blocks_are_born_as_the_identity() -> None:
    model: Any = zoo.build("slow_r50_nl", space=SPACE)
    block = model.blocks[2].res_blocks[2]
    x = torch.randn(1, 512, 3, 4, 4)
    with torch.no_grad():
        assert torch.equal(block(x), x)
        zoo.redraw_norms(model)
        assert not torch.equal(block(x), x)


def test_the_shift_is_the_one_of_the_tsm_paper() -> None:
    from pgt_fx.zoo.tsm import TemporalShift

    x = torch.arange(1.0, 1 + 5 * 16).reshape(1, 5, 16, 1, 1)
    out = TemporalShift(part=8)(x)
    assert torch.equal(out[:, :-1, :2], x[:, 1:, :2]) and not out[:, -1, :2].any()
    assert torch.equal(out[:, 1:, 2:4], x[:, :-1, 2:4]) and not out[:, 0, 2:4].any()
    assert torch.equal(out[:, :, 4:], x[:, :, 4:])


def test_tsm_without_its_shift_is_torchvision_s_resnet() -> None:
    """The blocks are taken apart and put together again: nothing of them is lost."""
    tsm: Any = build("tsm_r50")
    clip = clip_of("tsm_r50", frames=3)
    for module in tsm.modules():
        if type(module).__name__ == "TemporalShift":
            module.part = 10**6  # no channel moves
    image: Any = torchvision.models.resnet50(num_classes=400).double().eval()
    weights = list(tsm.state_dict().values())
    names = list(image.state_dict())
    # torchvision registers a block's shortcut last, as it is here.
    assert len(names) == len(weights)
    image.load_state_dict(dict(zip(names, weights, strict=True)))
    with torch.no_grad():
        expected = image(clip[0].transpose(0, 1)).mean(0, keepdim=True)
        assert relative_error(tsm(clip), expected) <= EXACT


def test_c3d_is_the_same_with_its_fully_connected_layers() -> None:
    model: Any = build("c3d")
    clip = clip_of("c3d")
    with torch.no_grad():
        x = model.features(clip)
        assert x.shape == (1, 512, 1, 2, 2)
        x = x.flatten(1)
        for i in (0, 3, 6):
            layer = model.classifier[i]
            x = nn.functional.linear(x, layer.weight.flatten(1), layer.bias)
            x = x if i == 6 else x.relu()
        assert relative_error(model(clip), x) <= EXACT
    own = zoo.build("c3d")
    assert own.classifier[0].in_channels * 4 * 4 == 8192  # type: ignore[union-attr, index, operator]
    assert own.classifier[0].kernel_size == (1, 4, 4)  # type: ignore[union-attr, index]


def test_regnet_s_temporal_blocks() -> None:
    with torch.device("meta"):
        model = zoo.build("regnet3d_400m")
    kernels = [m.kernel_size for m in model.modules() if isinstance(m, nn.Conv3d)]
    assert sum(k[0] == 3 for k in kernels) == 19
    assert sum(k == (1, 3, 3) for k in kernels) == 1 + 22


def test_audio_visual_slowfast_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    with torch.device("meta"):
        model = zoo.build("audio_visual_slowfast_r50", space=SPACE)
        model(zoo.clip("audio_visual_slowfast_r50", space=SPACE))
    assert capsys.readouterr().out == ""
