"""Image models made into video models: still videos, streams, and what is refused.

``--slow`` goes through the architectures of timm, family by family.
"""

from __future__ import annotations

import copy
import dataclasses
import random
import re
from typing import Any

import pytest
import torch
from oracles import (
    error_per_frame,
    pieces,
    random_chunks,
    relative_error,
    sensitive_to_time,
    stitch,
)
from torch import Tensor, nn

import pgt_fx
from pgt_fx import zoo
from pgt_fx.zoo import I3D, R2PLUS1D, SLOWONLY, InflationError, Temporal
from pgt_fx.zoo.temporal_conv import TemporalConv

timm = pytest.importorskip("timm")

EXACT = 1e-9
SPACE, READ = 64, 128  # of the videos, and of the image on which the stages are read

#: One architecture of a family, and how it is inflated.
FAST = [
    ("resnet18", "r2plus1d"),
    ("regnety_002", "slowonly"),
    ("mobilenetv3_small_050", "i3d"),
    ("convnext_atto", "slowonly"),
    ("repvgg_a0", "i3d"),
    ("cs3darknet_s", "slowonly"),
]
SLOW = {
    "resnet": "resnet50 resnet26d ecaresnet26t resnetblur50 resnetrs50 gcresnext26ts",
    "resnext": "resnext50_32x4d seresnext26d_32x4d",
    "senet": "legacy_seresnet18",
    "resnetv2": "resnetv2_50",
    "res2net": "res2net50_26w_4s",
    "resnest": "resnest14d",
    "sknet": "skresnet18",
    "regnetx": "regnetx_002 regnetx_004",
    "regnety": "regnety_004",
    "regnetz": "regnetz_b16",
    "densenet": "densenet121",
    "rdnet": "rdnet_tiny",
    "mobilenetv2": "mobilenetv2_050",
    "mobilenetv3": "mobilenetv3_large_100 tf_mobilenetv3_small_075 lcnet_050 hardcorenas_a",
    "mobilenetv4": "mobilenetv4_conv_small",
    "efficientnet": "efficientnet_b0 tf_efficientnet_b0 efficientnet_lite0 tinynet_e mixnet_s",
    "efficientnetv2": "efficientnetv2_rw_t",
    "mnasnet": "mnasnet_050 semnasnet_075 fbnetc_100",
    "convnext": "convnextv2_atto convnext_atto_ols",
    "inception_next": "inception_next_atto",
    "repvgg": "gernet_s mobileone_s0",
    "rexnet": "rexnet_100",
    "ghostnet": "ghostnet_050 repghostnet_050",
    "vgg": "vgg11_bn",
    "xception": "xception xception41",
    "dla": "dla34",
    "dpn": "dpn48b",
    "hrnet": "hrnet_w18_small",
    "csp": "cspresnet50 darknet53",
    "vovnet": "ese_vovnet19b_dw",
    "selecsls": "selecsls42",
    "nfnet": "nf_regnet_b0 nfnet_l0",
    "tresnet": "tresnet_m",
    "hgnet": "hgnetv2_b0",
    "fastvit": "fastvit_t8",
    "repvit": "repvit_m0_9",
    "starnet": "starnet_s1",
    "fasternet": "fasternet_t0",
    "poolformer": "poolformer_s12",
    "focalnet": "focalnet_tiny_srf",
}
#: Convolutions that standardise their weights are inflated by a second one only.
STANDARDISED = {"nf_regnet_b0", "nfnet_l0"}
ALL = [
    *(pytest.param(name, how) for name, how in FAST),
    *(
        pytest.param(
            name, "r2plus1d" if name in STANDARDISED else "slowonly", marks=pytest.mark.slow
        )
        for names in SLOW.values()
        for name in names.split()
    ),
]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(*size: int, seed: int = 0) -> Tensor:
    return torch.randn(size, generator=generator(seed), dtype=torch.float64)


IMAGE = noise(1, 3, READ, READ)


def image_model(name: str) -> Any:
    """In float64, with norms and layer scales that let every branch count."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        model = timm.create_model(name, num_classes=10).eval().double()
    for path, weight in model.named_parameters():
        if "bias" not in path and weight.abs().max() < 1e-2 and weight.unique().numel() == 1:
            nn.init.uniform_(weight, 0.2, 0.6, generator=generator(1))
    return zoo.redraw_norms(model, generator(), noise(4, 3, READ, READ, seed=1))


def video(frames: int, seed: int = 2, batch: int = 1) -> Tensor:
    return noise(batch, 3, frames, SPACE, SPACE, seed=seed)


def still(image: Tensor, frames: int) -> Tensor:
    return image.unsqueeze(2).expand(-1, -1, frames, -1, -1)


def frame_by_frame(model: Any, clip: Tensor) -> Tensor:
    """The image model's features, written from the definition."""
    return torch.stack([model.forward_features(x) for x in clip.unbind(2)], 2)


def assert_streams(module: nn.Module, frames: int = 9) -> None:
    prog = pgt_fx.transform(module, video(8, seed=3), future="wait")
    assert prog.report.exact
    clip = video(frames)
    rng = random.Random(7)
    with torch.no_grad():
        whole = module(clip)
        for _ in range(2):
            prog.reset()
            chunks = random_chunks(frames, 5, rng)
            cut = pieces(clip, chunks)
            steps = [prog(c, last=i == len(cut) - 1) for i, c in enumerate(cut)]
            assert relative_error(stitch(steps), whole) <= EXACT, chunks


# ------------------------------------------------------------------ architectures


def test_the_list_is_as_long_as_it_should_be() -> None:
    assert len(ALL) >= 40 and len(SLOW) >= 12
    assert len({p.values[0] for p in ALL}) == len(ALL)


@pytest.mark.parametrize(("name", "how"), ALL)
def test_still_video_and_stream(name: str, how: str) -> None:
    image = image_model(name)
    model = zoo.inflate(image, how, image=IMAGE)
    assert model.convolutions and not model.training
    photo = noise(2, 3, SPACE, SPACE, seed=4)
    with torch.no_grad():
        maps = image.forward_features(photo)
        found = model.forward_features(still(photo, 3))
        assert relative_error(found, still(maps, 3)) <= EXACT
        assert relative_error(model(still(photo, 3)), image(photo)) <= EXACT
    assert maps.std() > 1e-3 * maps.abs().max()
    assert sensitive_to_time(model, video(8))
    assert_streams(model.features)


# ------------------------------------------------------------------------- presets


@pytest.mark.parametrize(
    ("name", "how", "expected"),
    [
        ("resnet50", "slowonly", {f"layer{i}.{j}.conv1": 3 for i, j in [
            *((3, j) for j in range(6)), *((4, j) for j in range(3))]}),
        ("resnet50", "i3d", {"conv1": 5} | {f"layer{i}.{j}.conv1": 3 for i, j in [
            (1, 0), (1, 2), (2, 0), (2, 2), (3, 0), (3, 2), (3, 4), (4, 0), (4, 2)]}),
        ("resnet18", "r2plus1d", {"conv1": 3} | {f"layer{i}.{j}.conv{k}": 3
            for i in (1, 2, 3, 4) for j in (0, 1) for k in (1, 2)}),
        # The projection on the shortcut runs first, and is not meant.
        ("resnetv2_50", Temporal(last=1), {f"stages.3.blocks.{j}.conv1": 3 for j in range(3)}),
        ("densenet121", Temporal(last=1), {
            f"features.denseblock4.denselayer{j}.conv1": 3 for j in range(1, 17)}),
        ("mobilenetv3_small_050", Temporal(where="spatial", last=1, kernel=5), {
            f"blocks.4.{j}.conv_dw": 5 for j in range(3)}),
        ("convnext_atto", Temporal(last=1), {f"stages.3.blocks.{j}.conv_dw": 3 for j in (0, 1)}),
        ("vgg11", Temporal(last=1), {"features.16": 3, "features.18": 3}),  # has no blocks
    ],
)  # fmt: skip
def test_which_convolutions_look_at_time(
    name: str, how: Temporal | str, expected: dict[str, int]
) -> None:
    from pgt_fx.zoo import image_layers, temporal

    model = timm.create_model(name).eval()
    reading = image_layers.read(model, IMAGE.float())
    stages = {(layer.block, layer.stage) for layer in reading.layers if layer.block}
    assert len(stages) == len({block for block, _ in stages})
    chosen = image_layers.choose(reading.layers, temporal.settings(how))
    if name == "mobilenetv3_small_050":  # two blocks more at the last resolution
        chosen = {k: v for k, v in chosen.items() if k.startswith("blocks.4")}
    assert chosen == expected


def test_kernels_of_the_modules() -> None:
    model = zoo.inflate(image_model("resnet18"), I3D, image=IMAGE)
    stem: Any = model.features.get_submodule("conv1")
    assert (stem.kernel_size, stem.stride) == ((5, 7, 7), (1, 2, 2))
    block: Any = model.features.get_submodule("layer2.0.conv1")
    assert (block.kernel_size, block.stride) == ((3, 3, 3), (1, 2, 2))
    model = zoo.inflate(image_model("mobilenetv3_small_050"), R2PLUS1D, image=IMAGE)
    pair: Any = model.features.get_submodule("blocks.1.0.conv_dw")
    assert pair.spatial.groups == pair.temporal.groups == pair.temporal.out_channels


def test_receptive_field() -> None:
    model = zoo.inflate(image_model("resnet18"), SLOWONLY, image=IMAGE)
    assert pgt_fx.analyze(model.features, video(8)).receptive_field == [1 + 2 * 4]


# ------------------------------------------------------------------------- options


@pytest.mark.parametrize("factorised", [False, True])
def test_centre_weights_are_the_image_model_on_every_frame(factorised: bool) -> None:
    how = dataclasses.replace(I3D, weights="centre", factorised=factorised)
    image = image_model("regnety_002")
    model = zoo.inflate(image, how, image=IMAGE)
    clip = video(5, batch=2)
    with torch.no_grad():
        assert relative_error(model.features(clip), frame_by_frame(image, clip)) <= EXACT
        frames = torch.stack([image(x) for x in clip.unbind(2)]).mean(0)
        assert relative_error(model(clip), frames) <= EXACT
        for conv in model.modules():
            if isinstance(conv, TemporalConv):
                conv.weight += 0.1 * conv.weight.std() * torch.randn_like(conv.weight)
    assert sensitive_to_time(model, clip)


def test_mean_weights_are_a_mean_of_frames() -> None:
    """Of a model whose only convolution over time is its first."""
    image = image_model("resnet18")
    model = zoo.inflate(image, Temporal(stem=3, kernel=1), image=IMAGE)
    assert model.convolutions == {"conv1": 3}
    clip = video(4)
    padded = torch.cat([clip[:, :, :1], clip, clip[:, :, -1:]], 2)
    blurred = (padded[:, :, :-2] + padded[:, :, 1:-1] + padded[:, :, 2:]) / 3
    with torch.no_grad():
        assert relative_error(model.features(clip), frame_by_frame(image, blurred)) <= EXACT


def test_zeros_at_the_ends() -> None:
    """Only what has seen none of them is the image model's; a stream is exact all the same."""
    image = image_model("resnet18")
    how = dataclasses.replace(SLOWONLY, ends="zeros", last=1)  # reaches 2 frames each way
    model = zoo.inflate(image, how, image=IMAGE)
    photo = noise(1, 3, SPACE, SPACE)
    with torch.no_grad():
        maps = still(image.forward_features(photo), 7)
        error = error_per_frame(model.features(still(photo, 7)), maps, 2)
    assert (error[2:-2] <= EXACT).all()
    assert (error[[0, 1, -2, -1]] > 1e-3).all()
    assert_streams(model.features)


@pytest.mark.parametrize(
    ("name", "stride", "frames"),
    [
        ("resnet18", {4: 2}, 4),
        pytest.param("regnety_002", {3: 2, 5: 3}, 1, marks=pytest.mark.slow),
        # The stage begins with the pool of a transition.
        pytest.param("densenet121", {4: 2}, 4, marks=pytest.mark.slow),
        pytest.param("efficientnet_b0", {1: 2, 2: 2}, 2, marks=pytest.mark.slow),
        ("convnext_atto", {5: 4}, 2),  # layer scales are made of parameters alone
    ],
)
def test_temporal_stride(name: str, stride: dict[int, int], frames: int) -> None:
    image = image_model(name)
    model = zoo.inflate(image, dataclasses.replace(SLOWONLY, stride=stride), image=IMAGE)
    photo = noise(1, 3, SPACE, SPACE)
    with torch.no_grad():
        maps = model.features(still(photo, 9))
        assert maps.shape[2] == frames
        assert relative_error(maps, still(image.forward_features(photo), frames)) <= EXACT
        assert relative_error(model(still(photo, 9)), image(photo)) <= EXACT
    assert sensitive_to_time(model, video(8))
    assert_streams(model.features, frames=17)


def test_a_stride_comes_in_front_of_its_stage() -> None:
    image = image_model("resnet18")
    how = Temporal(stem=3, kernel=1, weights="centre", stride={4: 2})
    model = zoo.inflate(image, how, image=IMAGE)
    clip = video(4)
    with torch.no_grad():
        frames = []
        for x in clip.unbind(2):
            x = image.maxpool(image.act1(image.bn1(image.conv1(x))))
            frames.append(image.layer2(image.layer1(x)))
        pooled = [torch.maximum(frames[i], frames[i + 1]) for i in (0, 2)]
        expected = torch.stack([image.layer4(image.layer3(x)) for x in pooled], 2)
        assert relative_error(model.features(clip), expected) <= EXACT


# --------------------------------------------------------------------- as a module


def test_the_whole_model_streams_with_a_running_mean() -> None:
    model = zoo.inflate(image_model("mobilenetv3_small_050"), image=IMAGE)
    prog = pgt_fx.transform(model, video(8, seed=3), future="wait", pooling="running")
    clip = video(9)
    with torch.no_grad():
        prog(clip[:, :, :4])
        assert relative_error(prog(clip[:, :, 4:], last=True), model(clip)) <= EXACT


def test_the_image_model_is_left_alone_and_modes_are_kept() -> None:
    image = image_model("resnet18").train()
    image.bn1.eval()
    before = copy.deepcopy(image.state_dict())
    model = zoo.inflate(image, image=IMAGE)
    assert all(torch.equal(v, before[k]) for k, v in image.state_dict().items())
    assert not any(isinstance(m, TemporalConv) for m in image.modules())
    assert model.training and model.features.get_submodule("layer1.0.bn1").training
    assert not model.features.get_submodule("bn1").training
    model(video(2)).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_names_and_weights_are_the_image_model_s() -> None:
    image = image_model("resnet18")
    model = zoo.inflate(image, image=IMAGE)
    own = model.features.state_dict() | model.head.state_dict()
    for name, value in image.state_dict().items():
        inflated = own.pop(name)
        if name.removesuffix(".weight") in model.convolutions:
            inflated = inflated.sum(2)
        assert torch.allclose(inflated, value, rtol=EXACT, atol=1e-12), name
    assert not own


def test_dropout_follows_the_mode() -> None:
    with torch.random.fork_rng(devices=[]):
        image = timm.create_model("resnet18", drop_rate=0.5, num_classes=10).eval()
    model = zoo.inflate(image, image=IMAGE.float())
    clip = video(2).float()
    with torch.no_grad():
        assert torch.equal(model(clip), model(clip))
        model.head.train()
        assert not torch.equal(model(clip), model(clip))


def test_by_name_it_is_the_same_each_time() -> None:
    state = torch.get_rng_state()
    one, two = (zoo.inflate("mobilenetv3_small_050", image=IMAGE.float()) for _ in range(2))
    assert torch.equal(state, torch.get_rng_state())
    assert not one.training
    clip = video(3).float()
    with torch.no_grad():
        assert torch.equal(one(clip), two(clip))
        assert one(clip).shape == (1, 1000)
    other = zoo.inflate("mobilenetv3_small_050", image=IMAGE.float(), seed=1)
    with torch.no_grad():
        assert not torch.equal(one(clip), other(clip))


# ------------------------------------------------------------------ what is refused


def test_settings_that_make_no_sense() -> None:
    for wrong in (
        {"kernel": 2}, {"stem": 0}, {"every": 0}, {"last": 0}, {"stride": {4: 0}},
        {"where": "last"}, {"weights": "max"}, {"ends": "reflect"},
    ):  # fmt: skip
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Temporal(**wrong)
    with pytest.raises(ValueError, match="slowonly"):
        zoo.inflate("resnet18", "slow")


class Tiny(nn.Module):
    """Of the form of a timm model."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv, self.second = conv, nn.Conv2d(8, 8, 1)

    def forward_features(self, x: Tensor) -> Tensor:
        return self.second(self.conv(x))

    def forward_head(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))


class Listing(nn.Module):
    """Gives and takes lists, and looks whether it has been given one."""

    def __init__(self, *convs: nn.Conv2d) -> None:
        super().__init__()
        self.convs = nn.ModuleList(convs)

    def forward(self, x: Any) -> list[Tensor]:
        x = x if isinstance(x, list) else [x]
        return [self.convs[0](x[0]), self.convs[-1](x[-1])]


class Lists(Tiny):
    """Its first part has no convolution over time, the second one has."""

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(8, 8, 1))
        self.lists = nn.Sequential(
            Listing(nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(3, 8, 3, 2, 1)),
            Listing(nn.Conv2d(8, 8, 1, 2), nn.Conv2d(8, 8, 1, 2)),
        )

    def forward_features(self, x: Tensor) -> Tensor:
        one, two = self.lists(x)
        return self.second(self.conv(one + 2 * two))


class Branches(Tiny):
    def forward_features(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return self.second(x) if x.sum() > 0 else x


class MixesTheBatch(Tiny):
    def forward_features(self, x: Tensor) -> Tensor:
        return self.second(self.conv(x) + torch.arange(x.shape[0])[:, None, None, None])


class Modes(Tiny):
    def forward_features(self, x: Tensor) -> Tensor:
        return self.second(self.conv(x)) if self.training else self.conv(x)


class OtherHead(Tiny):
    def forward(self, x: Tensor) -> Tensor:
        return self.forward_features(x).amax((2, 3))


class FewerScores(Tiny):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)[:, :3]


class Gated(Tiny):
    def forward_features(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return self.second(x * x.mean((2, 3), keepdim=True).sigmoid())


def test_a_gate_is_not_a_stage() -> None:
    how = Temporal(stride={4: 2})  # its maps of one pixel are 1/16 of the image
    with pytest.raises(InflationError, match=r"no stage 4 .* has 0$"):
        zoo.inflate(Gated(nn.Conv2d(3, 8, 3, 1, 1)), how, image=IMAGE[:, :, :16, :16].float())


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (Branches(nn.Conv2d(3, 8, 3)), r"can't be traced.*test_inflate\.py:\d+"),
        (MixesTheBatch(nn.Conv2d(3, 8, 3)), "does not give the features"),
        (Modes(nn.Conv2d(3, 8, 3)), "train and eval"),
        (OtherHead(nn.Conv2d(3, 8, 3)), "does not give the scores"),
        (FewerScores(nn.Conv2d(3, 8, 3)), "does not give the scores"),
        (Tiny(nn.Conv2d(3, 8, 3, padding=1, padding_mode="reflect")), "conv pads .*'reflect'"),
        (Tiny(nn.Conv2d(3, 8, (1, 2), padding="same")), "conv pads one side"),
        (Tiny(nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 8, 3))), "conv is a .*r2plus1d"),
        (Tiny(nn.Conv2d(1, 8, 3)), "image="),
        (nn.Conv2d(3, 8, 3), "no forward_features"),
    ],
)
def test_what_can_t_be_inflated(model: nn.Module, says: str) -> None:
    with pytest.raises(InflationError, match=re.compile(says, re.DOTALL)):
        zoo.inflate(model, Temporal(), image=IMAGE[:, :, :16, :16].float())


def test_modules_that_pass_lists() -> None:
    model = Lists()
    made = zoo.inflate(model, Temporal(last=1), image=IMAGE[:, :, :16, :16].float())
    assert made.convolutions == {"lists.1.convs.0": 3}
    photo = torch.randn(1, 3, 16, 16)
    with torch.no_grad():
        maps = model.forward_features(photo)
        assert relative_error(made.features(still(photo, 3)), still(maps, 3)) <= 1e-5


def test_attention_works_on_single_frames() -> None:
    image = image_model("edgenext_xx_small")
    how = dataclasses.replace(R2PLUS1D, weights="centre")
    model = zoo.inflate(image, how, image=IMAGE)
    clip = video(3)
    with torch.no_grad():
        assert relative_error(model.features(clip), frame_by_frame(image, clip)) <= EXACT


def test_padding_as_in_tensorflow() -> None:
    """More zeros at the end than at the beginning, as many as the size asks for."""
    image = image_model("tf_mobilenetv3_small_075")
    model = zoo.inflate(image, Temporal(where="spatial", stem=5), image=IMAGE)
    for height, width in ((64, 64), (65, 50)):
        photo = noise(1, 3, height, width)
        with torch.no_grad():
            maps = image.forward_features(photo)
            assert relative_error(model.features(still(photo, 3)), still(maps, 3)) <= EXACT


@pytest.mark.parametrize("padding", ["same", "valid", 1])
def test_what_can(padding: int | str) -> None:
    model = Tiny(nn.Conv2d(3, 8, 3, padding=padding, dilation=2))
    zoo.inflate(model, Temporal(), image=IMAGE[:, :, :16, :16].float())


@pytest.mark.parametrize(
    ("name", "how", "says"),
    [
        ("mambaout_femto", SLOWONLY, "channels last"),
        ("nf_regnet_b0", SLOWONLY, r"stages.2.0.conv1 is a ScaledStdConv2d.*factorised=True"),
        ("mobilevit_xxs", SLOWONLY, r"can't be traced.*mobilevit\.py:\d+"),
        ("resnet18", Temporal(kernel=1), "none of its 20 convolutions"),
        ("resnet18", Temporal(stride={6: 2}), "no stage 6"),
        ("hrnet_w18_small", Temporal(stride={4: 2}), "stage 4 of .* beside an earlier one"),
    ],
)
def test_which_of_timm_can_t(name: str, how: Temporal, says: str) -> None:
    with pytest.raises(InflationError, match=says):
        zoo.inflate(timm.create_model(name), how, image=IMAGE.float())


def test_transformers_can_t() -> None:
    with pytest.raises(InflationError, match="not maps"):
        zoo.inflate("vit_tiny_patch16_224")


def test_unknown_names() -> None:
    with pytest.raises(zoo.UnknownModelError, match="resnet50"):
        zoo.inflate("resnet5O")
