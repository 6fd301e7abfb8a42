"""pgt_fx.zoo: backbones build, run at a small space, and really look at time.

The models that are tested in depth; the others are in test_zoo_models.py.
"""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pgt_fx import zoo

pytest.importorskip("torchvision")
pytest.importorskip("pytorchvideo")

SPACE = 64
NAMES = [
    "c2d_r50",
    "csn_r101",
    "i3d_r50",
    "mc3_18",
    "r2plus1d_18",
    "r2plus1d_r50",
    "r3d_18",
    "s3d",
    "slow_r50",
    "slowfast_r50",
    "x3d_m",
    "x3d_s",
    "x3d_xs",
]
# Fewer frames than the model's own clip, where the model takes them and they save time.
SHORT = {"mc3_18": 6, "csn_r101": 25, "r3d_18": 8, "r2plus1d_18": 8}


def tensors(value: Any) -> list[Tensor]:
    return [value] if isinstance(value, Tensor) else list(value)


def run(model: nn.Module, clip: Any) -> list[Tensor]:
    # A fresh list each time: SlowFast writes into the one it is given.
    with torch.no_grad():
        return tensors(model(clip if isinstance(clip, Tensor) else list(clip)))


def shuffled(clip: Any) -> Any:
    def one(x: Tensor) -> Tensor:
        order = torch.randperm(x.shape[2], generator=torch.Generator().manual_seed(2))
        return x[:, :, order]

    return one(clip) if isinstance(clip, Tensor) else [one(x) for x in clip]


def test_names() -> None:
    assert set(NAMES) <= set(zoo.names())
    assert zoo.names() == sorted(zoo.names())
    assert zoo.names("X3D") == [
        *("efficient_x3d_s", "efficient_x3d_xs", "x3d_l", "x3d_m", "x3d_s", "x3d_xs")
    ]


@pytest.mark.parametrize("name", zoo.names())
def test_entry_matches_its_clip(name: str) -> None:
    entry = zoo.get(name)
    space = entry.space if entry.fixed_space else SPACE
    generator = torch.Generator().manual_seed(0)
    video = zoo.clip(name, space=space, batch=2, generator=generator)
    assert entry.name == name
    assert entry.description and entry.family
    if entry.boxes:
        video, boxes = video
        assert boxes.shape == (2 * entry.boxes, 5)
        assert boxes[:, 0].tolist() == [0.0] * entry.boxes + [1.0] * entry.boxes
        assert (boxes[:, 1:3] >= 0).all() and (boxes[:, 3:] <= space).all()
        assert (boxes[:, 3:] - boxes[:, 1:3] >= space / 4).all()
    paths = tensors(video)
    if entry.audio:
        assert paths.pop().shape == (2, 1, entry.clip[-1], 1, entry.audio)
    lengths = entry.clip[: len(paths)]
    assert [x.shape for x in paths] == [(2, entry.channels, t, space, space) for t in lengths]


@pytest.mark.parametrize("name", NAMES)
def test_model_and_features_run_and_look_at_the_order_of_frames(name: str) -> None:
    model = zoo.build(name, space=SPACE, redraw_norms=True).double()
    assert not model.training
    generator = torch.Generator().manual_seed(1)
    clip = zoo.clip(
        name, space=SPACE, frames=SHORT.get(name), dtype=torch.float64, generator=generator
    )
    (logits,) = run(model, clip)
    (other,) = run(model, shuffled(clip))
    assert logits.shape == (1, 400)
    assert logits.isfinite().all()
    assert logits.abs().max() > 1e-3
    assert (logits - other).abs().max() > 1e-2 * logits.abs().max()

    body = zoo.features(name, model)
    assert {id(p) for p in body.parameters()} <= {id(p) for p in model.parameters()}
    for out, moved in zip(run(body, clip), run(body, shuffled(clip)), strict=True):
        assert out.ndim == 5
        assert out.isfinite().all()
        # Of the order of 1: neither vanished nor blown up by the depth.
        assert 0.1 < out.std() < 10
        assert (out - moved).std() > 0.1 * out.std()


@pytest.mark.parametrize("name", ["r3d_18", "s3d", "slow_r50", "x3d_s", "efficient_x3d_xs"])
def test_logits_are_those_of_the_head_on_the_features(name: str) -> None:
    """The features are a true part of the model: the model computes them on its way."""
    model = zoo.build(name, space=SPACE, redraw_norms=True)
    clip = zoo.clip(name, space=SPACE, generator=torch.Generator().manual_seed(1))
    body = zoo.features(name, model)
    seen: list[Tensor] = []
    last = next(m for m in reversed(list(body.modules())) if not list(m.children()))
    if "x3d" in name:
        handle = last.register_forward_hook(lambda m, args, out: seen.append(out.clone()))
    else:
        # In front of the head, whatever it is called in this model.
        head = {"r3d_18": "avgpool", "s3d": "avgpool", "slow_r50": "blocks.5"}[name]
        handle = model.get_submodule(head).register_forward_pre_hook(
            lambda m, args: seen.append(args[0].clone())
        )
    run(model, clip)
    handle.remove()
    assert torch.equal(seen[0], run(body, clip)[0])


@pytest.mark.parametrize("name", ["x3d_xs", "x3d_s", "x3d_m", "efficient_x3d_s"])
def test_x3d_features_end_before_squeeze_excitation(name: str) -> None:
    model = zoo.build(name, space=SPACE)
    kinds = {type(m).__name__ for m in zoo.features(name, model).modules()}
    assert "SqueezeExcitation" in {type(m).__name__ for m in model.modules()}
    assert "SqueezeExcitation" not in kinds
    # Two temporal convolutions, of 5 and 3 frames: one frame depends on 7, no further.
    body = zoo.features(name, zoo.build(name, space=SPACE, redraw_norms=True)).double()
    clip = zoo.clip(
        name,
        space=SPACE,
        frames=12,
        dtype=torch.float64,
        generator=torch.Generator().manual_seed(0),
    )
    assert isinstance(clip, Tensor)
    changed = clip.clone()
    changed[:, :, 6] += 1
    moved = (run(body, clip)[0] - run(body, changed)[0]).abs().amax(dim=(0, 1, 3, 4)) > 0
    assert moved.nonzero().flatten().tolist() == list(range(3, 10))


def test_slowfast_features_are_both_paths() -> None:
    body = zoo.features("slowfast_r50", space=SPACE)
    clip = zoo.clip("slowfast_r50", space=SPACE, generator=torch.Generator().manual_seed(0))
    assert [x.shape[:3] for x in run(body, clip)] == [(1, 2048, 8), (1, 256, 32)]


def test_slow_path_is_every_fourth_frame_of_the_fast_one() -> None:
    generator = torch.Generator().manual_seed(0)
    slow, fast = zoo.clip("slowfast_r50", space=SPACE, frames=16, generator=generator)
    assert torch.equal(slow, fast[:, :, ::4])


def test_frames_of_a_clip() -> None:
    def lengths(name: str, frames: Any) -> list[int]:
        generator = torch.Generator().manual_seed(0)
        return [
            x.shape[2]
            for x in tensors(zoo.clip(name, space=32, frames=frames, generator=generator))
        ]

    assert lengths("slow_r50", 5) == [5]
    assert lengths("slowfast_r50", 28) == [7, 28]
    assert lengths("slowfast_r50", (7, 29)) == [7, 29]
    with pytest.raises(ValueError, match="multiple of 4"):
        zoo.clip("slowfast_r50", frames=30)
    with pytest.raises(ValueError, match=r"1 path"):
        zoo.clip("slow_r50", frames=(8, 32))
    assert lengths("audio_visual_slowfast_r50", 16) == [4, 16, 64]
    with pytest.raises(ValueError, match="table of positions for 16 frames"):
        zoo.clip("mvit_base_16x4", frames=17)


@pytest.mark.parametrize("name", ["slow_r50", "slowfast_r50", "x3d_m", "s3d"])
def test_space_changes_the_head_pool_alone(name: str) -> None:
    def kernels(model: nn.Module) -> list[Any]:
        return [m.kernel_size for m in model.modules() if isinstance(m, nn.AvgPool3d)]

    own, small = zoo.build(name), zoo.build(name, space=96)
    assert [(k[0], 3, 3) for k in kernels(own)] == kernels(small)
    # The default space is the one the source's own pool is made for.
    assert kernels(zoo.build(name, space=zoo.get(name).space)) == [tuple(k) for k in kernels(own)]
    for key, value in own.state_dict().items():
        assert torch.equal(value, small.state_dict()[key]), key


def test_space_that_the_head_can_not_have() -> None:
    with pytest.raises(ValueError, match="multiple of 32"):
        zoo.build("slow_r50", space=50)
    with pytest.raises(ValueError, match="for 224 pixels only"):
        zoo.clip("mvit_v2_s", space=64)
    assert zoo.build("r3d_18", space=50)


def test_build_leaves_the_global_random_state_as_it_was() -> None:
    before = torch.get_rng_state()
    zoo.build("x3d_xs", space=32, redraw_norms=True)
    assert torch.equal(torch.get_rng_state(), before)


def test_seed_decides_the_weights() -> None:
    def weights(seed: int) -> Tensor:
        model = zoo.build("x3d_xs", space=32, seed=seed, redraw_norms=True)
        return torch.cat([v.flatten().double() for v in model.state_dict().values()])

    assert torch.equal(weights(0), weights(0))
    assert not torch.equal(weights(0), weights(1))


def test_redraw_norms_without_an_example() -> None:
    model = nn.Sequential(
        nn.Conv3d(3, 8, 3), nn.BatchNorm3d(8), nn.GroupNorm(2, 8), nn.InstanceNorm3d(8, affine=True)
    )
    nn.init.zeros_(model[1].weight)
    assert zoo.redraw_norms(model, torch.Generator().manual_seed(0)) is model
    assert model.training
    weight, mean, var = model[1].weight, model[1].running_mean, model[1].running_var
    assert ((weight >= 0.2) & (weight <= 0.6)).all()  # a branch's last norm: born at zero
    assert ((var >= 0.5) & (var <= 1.5)).all()
    assert mean.abs().min() > 0
    for norm in model[2:]:
        assert ((norm.weight >= 0.5) & (norm.weight <= 1.5)).all()
        assert norm.bias.unique().numel() == 8


def test_unknown_name_lists_the_nearest() -> None:
    with pytest.raises(zoo.UnknownModelError, match=r"did you mean .*slow_r50") as error:
        zoo.build("slow_r5O")
    assert isinstance(error.value, KeyError)
    with pytest.raises(zoo.UnknownModelError, match="pgt-fx zoo lists them, as does"):
        zoo.get("zzz")


def test_pretrained_weights_are_not_redrawn() -> None:
    with pytest.raises(ValueError, match="pretrained"):
        zoo.build("r3d_18", pretrained=True, redraw_norms=True)


@pytest.mark.parametrize(
    ("name", "space"), [("c3d", None), ("slow_r50_nl", 32), ("mvit_base_16x4", 64)]
)
def test_weights_that_nobody_offers(name: str, space: int | None) -> None:
    with pytest.raises(ValueError, match="weights"):
        zoo.build(name, space=space, pretrained=True)


def test_a_module_of_another_kind_has_no_known_features() -> None:
    with pytest.raises(zoo.FeaturesError, match="Linear"):
        zoo.features("r3d_18", nn.Linear(1, 1))
    with pytest.raises(TypeError, match="seed"):
        zoo.features("r3d_18", nn.Linear(1, 1), seed=3)


@pytest.mark.parametrize(
    ("package", "name"),
    [
        ("torchvision.models", "r3d_18"),
        ("pytorchvideo.models", "slow_r50"),
        ("pytorchvideo", "slow_r50"),
    ],
)
def test_a_missing_package_is_named(
    package: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in [m for m in sys.modules if m == package or m.startswith(f"{package}.")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(zoo.MissingPackageError, match=r"pip install 'pgt_fx\[zoo\]'"):
        zoo.build(name)


def test_importing_the_zoo_imports_no_model_package() -> None:
    code = (
        "import sys; from pgt_fx import zoo; zoo.names(); zoo.clip('r3d_18', space=8); "
        "print([m for m in ('torchvision', 'pytorchvideo', 'timm') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
