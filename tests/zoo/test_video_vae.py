"""Video autoencoders: ours are as causal as they say, and the whole-video forms of diffusers'
compute what its loops over chunks and its caches compute, without touching it.

Torch alone: what the compiler makes of them is not tested here.
"""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
from oracles import relative_error
from torch import Tensor, nn
from torch.nn import functional as F

from pgt_fx.zoo import MissingPackageError, redraw_norms, shared
from pgt_fx.zoo.clips import make_clip
from pgt_fx.zoo.diffusers_vae import small, whole_decoder, whole_encoder
from pgt_fx.zoo.entry import Entry
from pgt_fx.zoo.video_vae import Decoder, Encoder
from pgt_fx.zoo.video_vaes import ENTRIES, load

pytestmark = pytest.mark.full

EXACT = 1e-9
KINDS = ["wan", "wan22", "cogvideox", "svd"]
#: Channels after each stage and where time is halved; the last two stages of the residual nets
#: must be equally wide.
WAN = [
    ([1, 1], [True]),
    ([1, 1], [False]),
    ([1, 2, 2], [True, True]),
    ([1, 2, 2], [False, True]),
    ([1, 2, 2], [True, False]),
]


@pytest.fixture(autouse=True)
def no_gradients() -> Any:
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def diffusers() -> Any:
    return pytest.importorskip("diffusers")


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def ours(make: Any, causal: bool) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        model = redraw_norms(make(causal, width=8))
    return model.double().eval()


def outputs_changed(model: nn.Module, video: Tensor, frame: int) -> list[int]:
    """The outputs that another ``frame`` changes."""
    other = video.clone()
    other[:, :, frame] = noise(*other[:, :, frame].shape, seed=1)
    change = (model(video) - model(other)).abs().amax((0, 1, 3, 4))
    return torch.nonzero(change).flatten().tolist()


# ---- written here -----------------------------------------------------------------------------


@pytest.mark.parametrize("n", [0, 1, 2, 4])
def test_causal_nets_make_4n_plus_1_frames_of_n_plus_1_latents_and_back(n: int) -> None:
    latents = ours(Encoder, True)(noise(2, 3, 4 * n + 1, 16, 12))
    assert latents.shape == (2, 4, n + 1, 4, 3)
    assert ours(Decoder, True)(latents).shape == (2, 3, 4 * n + 1, 16, 12)


@pytest.mark.parametrize("n", [1, 2, 4])
def test_other_nets_make_4n_frames_of_n_latents_and_back(n: int) -> None:
    latents = ours(Encoder, False)(noise(2, 3, 4 * n, 16, 12))
    assert latents.shape == (2, 4, n, 4, 3)
    assert ours(Decoder, False)(latents).shape == (2, 3, 4 * n, 16, 12)


def test_the_causal_encoder_looks_back_only() -> None:
    model, video = ours(Encoder, True), noise(1, 3, 17, 8, 8)
    for frame in range(17):
        changed = outputs_changed(model, video, frame)
        # Latent j > 0 stands for frames 4j - 3 to 4j; it reads all of them, and none behind.
        assert min(changed) == (frame + 3) // 4, frame
    assert outputs_changed(model, video, 1)[-1] >= 3  # and it reads some way back


def test_the_causal_decoder_looks_back_only() -> None:
    model, latents = ours(Decoder, True), noise(1, 4, 5, 4, 4)
    for latent in range(5):
        changed = outputs_changed(model, latents, latent)
        assert min(changed) == max(4 * latent - 3, 0)
        assert changed[-1] >= min(4 * latent + 4, 16)


def test_causal_nets_need_the_past_alone() -> None:
    video, latents = noise(1, 3, 17, 8, 8), noise(1, 4, 5, 4, 4)
    encoder, decoder = ours(Encoder, True), ours(Decoder, True)
    for n in range(4):
        short = encoder(video[:, :, : 4 * n + 1])
        assert relative_error(short, encoder(video)[:, :, : n + 1]) <= EXACT
        short = decoder(latents[:, :, : n + 1])
        assert relative_error(short, decoder(latents)[:, :, : 4 * n + 1]) <= EXACT


def test_the_other_nets_look_both_ways() -> None:
    changed = outputs_changed(ours(Encoder, False), noise(1, 3, 32, 8, 8), 16)
    assert changed[0] < 4 < changed[-1]
    changed = outputs_changed(ours(Decoder, False), noise(1, 4, 8, 4, 4), 4)
    assert changed[0] < 16 and changed[-1] > 19


def test_norms_are_those_of_single_frames() -> None:
    """Seen at the two ends, one much louder than the other, where no convolution reaches."""
    for causal in (True, False):
        model = ours(Decoder, causal)
        norm: Any = model[-3]
        x = noise(2, 8, 3, 4, 4) * torch.tensor([1.0, 10.0, 100.0])[:, None, None]
        for i in range(3):
            want = F.group_norm(x[:, :, i], 8, norm.weight, norm.bias, 1e-6)
            assert relative_error(norm(x)[:, :, i], want) <= EXACT


# ---- diffusers: Wan ---------------------------------------------------------------------------


def wan(
    diffusers: Any, stages: list[int], halved: list[bool], residual: bool, patch: int | None = None
) -> Any:
    """A small random AutoencoderKLWan whose weights, norms and all, are away from their start."""
    colours = 3 * (patch or 1) ** 2
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        vae = diffusers.AutoencoderKLWan(
            base_dim=8,
            z_dim=4,
            dim_mult=stages,
            num_res_blocks=1,
            temperal_downsample=halved,
            is_residual=residual,
            patch_size=patch,
            in_channels=colours,
            out_channels=colours,
        )
        for parameter in vae.parameters():
            parameter.add_(0.03 * torch.randn_like(parameter))
    return vae.double().eval()


@pytest.fixture
def float64_upsampling(diffusers: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """diffusers' blocks round to float32 where they enlarge space: not so here, to compare."""
    from diffusers.models.autoencoders.autoencoder_kl_wan import WanUpsample

    monkeypatch.setattr(WanUpsample, "forward", nn.Upsample.forward)


def check_wan(vae: Any, frames: int, space: int = 32) -> None:
    video = noise(2, 3, frames, space, space)
    moments = vae.encode(video).latent_dist.parameters
    assert relative_error(whole_encoder(vae)(video), moments) <= EXACT
    latents = noise(*moments.shape)[:, :4]
    decoded = vae.decode(latents).sample
    assert decoded.shape[2] == frames
    assert decoded.std() > 0.05 and (decoded.abs() == 1).double().mean() < 0.2  # not all clamped
    assert relative_error(whole_decoder(vae)(latents), decoded) <= EXACT


@pytest.mark.parametrize("frames", [1, 5, 13])
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize(("stages", "halved"), WAN)
def test_wan(
    diffusers: Any,
    float64_upsampling: None,
    stages: list[int],
    halved: list[bool],
    residual: bool,
    frames: int,
) -> None:
    check_wan(wan(diffusers, stages, halved, residual), frames)


@pytest.mark.parametrize("residual", [False, True])
def test_wan_with_patches(diffusers: Any, float64_upsampling: None, residual: bool) -> None:
    check_wan(wan(diffusers, [1, 2, 2], [True, True], residual, patch=2), 13)


@pytest.mark.parametrize("kind", ["wan", "wan22"])
def test_small_wans(diffusers: Any, float64_upsampling: None, kind: str) -> None:
    check_wan(small(kind).double(), 13)


def test_wan_leaves_out_frames_behind_the_last_four(diffusers: Any) -> None:
    video = noise(1, 3, 12, 32, 32)
    for frames in (9, 10, 11, 12):
        vae = wan(diffusers, [1, 2, 2], [True, True], False)
        cut = video[:, :, :frames]
        moments = vae.encode(cut).latent_dist.parameters
        assert moments.shape[2] == 3
        assert relative_error(whole_encoder(vae)(cut), moments) <= EXACT


def test_wan_does_not_round_to_float32(diffusers: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from diffusers.models.autoencoders.autoencoder_kl_wan import WanUpsample

    vae: Any = small("wan").double()
    latents = noise(1, 4, 2, 4, 4)
    found = whole_decoder(vae)(latents)
    assert relative_error(vae.decode(latents).sample, found) > EXACT
    monkeypatch.setattr(WanUpsample, "forward", nn.Upsample.forward)
    assert relative_error(vae.decode(latents).sample, found) <= EXACT


@pytest.mark.parametrize("kind", ["wan", "wan22"])
def test_wan_in_float32_as_it_is(diffusers: Any, kind: str) -> None:
    vae: Any = small(kind)
    video, latents = noise(1, 3, 9, 32, 32).float(), noise(1, 4, 3, 4, 4).float()
    moments = vae.encode(video).latent_dist.parameters
    assert relative_error(whole_encoder(vae)(video), moments) <= 1e-5
    assert relative_error(whole_decoder(vae)(latents), vae.decode(latents).sample) <= 1e-5


# ---- diffusers: CogVideoX ---------------------------------------------------------------------


def cogvideox(diffusers: Any, frames_halved: int = 4) -> Any:
    """Another configuration: 4 times smaller in space, with the convolutions beside the latents,
    which diffusers makes for as many channels as the video has."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        vae = diffusers.AutoencoderKLCogVideoX(
            down_block_types=("CogVideoXDownBlock3D",) * 3,
            up_block_types=("CogVideoXUpBlock3D",) * 3,
            block_out_channels=(8, 8, 16),
            latent_channels=3,
            layers_per_block=1,
            norm_num_groups=4,
            temporal_compression_ratio=frames_halved,
            use_quant_conv=True,
            use_post_quant_conv=True,
        )
        redraw_norms(vae)
    return vae.double().eval()


def check_cogvideox(vae: Any, frames: int) -> None:
    video = noise(2, 3, frames, 24, 32)
    moments = vae.encode(video).latent_dist.parameters
    assert relative_error(whole_encoder(vae)(video), moments) <= EXACT
    latents = moments[:, : moments.shape[1] // 2]
    if latents.shape[2] % 2:
        decoded = vae.decode(latents).sample
        assert decoded.shape[2] == frames
        assert relative_error(whole_decoder(vae)(latents), decoded) <= EXACT


@pytest.mark.parametrize("frames", [1, 5, 9, 13])
def test_cogvideox_of_one_chunk(diffusers: Any, frames: int) -> None:
    check_cogvideox(small("cogvideox").double(), frames)


@pytest.mark.parametrize("halved", [2, 4])
def test_cogvideox_in_other_configurations(diffusers: Any, halved: int) -> None:
    vae = cogvideox(diffusers, halved)
    video = noise(1, 3, 9, 16, 16)
    assert relative_error(whole_encoder(vae)(video), vae._encode(video)) <= EXACT
    latents = noise(1, 3, 3, 4, 4)
    assert relative_error(whole_decoder(vae)(latents), vae._decode(latents).sample) <= EXACT


def test_cogvideox_of_several_chunks_differs_by_its_norms_alone(
    diffusers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With norms that look at single frames, how a video is cut makes no difference."""
    vae = small("cogvideox").double()
    video = noise(1, 3, 25, 16, 16)
    whole = whole_encoder(vae)
    assert relative_error(whole(video), vae._encode(video)) > 1e-2
    over_time = nn.GroupNorm.forward

    def of_frames(self: nn.GroupNorm, input: Tensor) -> Tensor:
        frames = over_time(self, input.transpose(1, 2).flatten(0, 1))
        return frames.unflatten(0, (input.shape[0], -1)).transpose(1, 2)

    monkeypatch.setattr(nn.GroupNorm, "forward", of_frames)
    for frames in (17, 25):
        check_cogvideox(vae, frames)


# ---- diffusers: the temporal decoder of Stable Video Diffusion --------------------------------


def test_svd(diffusers: Any) -> None:
    vae: Any = small("svd").double()
    video, latents = noise(2, 3, 5, 16, 24), noise(2, 4, 5, 8, 12)
    moments = whole_encoder(vae)(video)
    for i in range(5):
        frame = vae.encode(video[:, :, i]).latent_dist.parameters
        assert relative_error(moments[:, :, i], frame) <= EXACT
    decoded = vae.decode(latents.transpose(1, 2).flatten(0, 1), num_frames=5).sample
    decoded = decoded.unflatten(0, (2, 5)).transpose(1, 2)
    assert relative_error(whole_decoder(vae)(latents), decoded) <= EXACT


def test_svd_of_more_frames_than_its_upsampling_takes_at_once(diffusers: Any) -> None:
    vae: Any = small("svd")
    latents = noise(1, 4, 70, 4, 4).float()
    decoded = vae.decode(latents[0].transpose(0, 1), num_frames=70).sample.transpose(0, 1)
    assert relative_error(whole_decoder(vae)(latents)[0], decoded) <= 1e-5


# ---- diffusers: what is shared ----------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_the_autoencoder_is_shared_and_left_alone(diffusers: Any, kind: str) -> None:
    vae: Any = small(kind)
    modules = {name: (module, dict(module.__dict__)) for name, module in vae.named_modules()}
    children = {name: dict(module._modules) for name, module in vae.named_modules()}
    tensors = dict(vae.state_dict(keep_vars=True))
    values = {name: tensor.clone() for name, tensor in tensors.items()}

    encoder, decoder = whole_encoder(vae), whole_decoder(vae)
    encoder(noise(1, 3, 5, 32, 32).float())
    decoder(noise(1, 4, 3, 4, 4).float())

    found = {}
    for part in (encoder, decoder):
        found.update(part.state_dict(keep_vars=True))
    assert found.keys() == tensors.keys()
    assert all(found[name] is tensor for name, tensor in tensors.items())
    for name, module in vae.named_modules():
        before, settings = modules[name]
        assert module is before and type(module) is type(before), name
        assert module.__dict__ == settings, name
        assert module._modules == children[name], name
    after = vae.state_dict(keep_vars=True)
    assert all(after[name] is tensor for name, tensor in tensors.items())
    assert all(torch.equal(after[name], value) for name, value in values.items())
    assert not any(hasattr(m, "feat_cache") for m in (*encoder.modules(), *decoder.modules()))


@pytest.mark.parametrize("kind", ["wan", "cogvideox"])
def test_the_forms_keep_nothing_between_calls(diffusers: Any, kind: str) -> None:
    vae = small(kind)
    for make, x in ((whole_encoder, noise(1, 3, 9, 16, 16)), (whole_decoder, noise(1, 4, 3, 2, 2))):
        form = make(vae)
        first = form(x.float())
        form(-x.float()[:, :, :5] if make is whole_encoder else -x.float()[:, :, :1])
        assert torch.equal(form(x.float()), first)


def test_small_ones_are_seeded_and_leave_the_random_state(diffusers: Any) -> None:
    state = torch.get_rng_state()
    one, two, other = (small("wan", seed).state_dict() for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not torch.equal(one["encoder.conv_in.weight"], other["encoder.conv_in.weight"])
    assert not (one["encoder.norm_out.gamma"] == 1).any()


def test_other_modules_are_refused(diffusers: Any) -> None:
    for make in (whole_encoder, whole_decoder):
        with pytest.raises(TypeError, match=r"Linear: there is a whole-video form of Autoencoder"):
            make(nn.Linear(2, 2))
    with pytest.raises(ValueError, match="'svdd'; there are wan"):
        small("svdd")


def test_without_diffusers_the_message_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    for call in (lambda: small("wan"), lambda: whole_encoder(nn.Identity())):
        with pytest.raises(MissingPackageError, match=r"diffusers.*pip install 'pgt_fx\[vae\]'"):
            call()


def test_rebuilt_copies_what_holds_a_replaced_module_and_shares_the_rest() -> None:
    inner = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    model = nn.Sequential(inner, nn.Sequential(nn.Linear(2, 2)))
    model.scale = nn.Parameter(torch.ones(2))
    twin: Any = shared.rebuilt(model, lambda m: nn.Tanh() if isinstance(m, nn.ReLU) else None)
    assert isinstance(inner[1], nn.ReLU) and model[0] is inner
    assert twin is not model and twin[0] is not inner and isinstance(twin[0][1], nn.Tanh)
    assert twin[0][0] is inner[0] and twin[1] is model[1] and twin.scale is model.scale
    assert shared.rebuilt(model, lambda m: None) is model


# ---- the list ---------------------------------------------------------------------------------


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_every_entry_is_built_and_takes_its_clip(entry: Entry) -> None:
    if entry.source == "diffusers":
        pytest.importorskip("diffusers")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        model = load(entry, entry.space, False).eval()
    space = entry.space if entry.fixed_space else entry.space // 2
    clip = make_clip(entry, space, None, 2, torch.float32, torch.Generator().manual_seed(0))
    out = model(clip)
    if entry.name != "svd_encoder":  # the others do something along time
        assert relative_error(model(clip.flip(2)).flip(2), out) > 1e-2
    lengths = {"vae_encoder": (16, 4), "vae_decoder": (4, 16)}
    usual = {"svd": (8, 8), "encoder": (17, 5), "decoder": (5, 17)}
    kind, part = entry.name.rsplit("_", 1)
    want = lengths.get(entry.name) or usual.get(kind) or usual[part]
    assert (entry.clip[0], out.shape[2]) == want
    with pytest.raises(ValueError, match="no weights for"):
        load(entry, entry.space, True)


def test_entries_have_names_of_their_own() -> None:
    assert len({entry.name for entry in ENTRIES}) == len(ENTRIES) == 12
