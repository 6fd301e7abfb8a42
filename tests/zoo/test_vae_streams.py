"""Video autoencoders, ours and those of diffusers, fed in steps.

The references are the whole-video forms (test_video_vae.py holds them against diffusers) and
diffusers' own chunk loops with their caches.
"""

from __future__ import annotations

import random
import warnings
from typing import Any

import pytest
import torch
from oracles import pieces, random_chunks, relative_error, stitch
from torch import Tensor, nn

import pgt_fx
from pgt_fx import zoo
from pgt_fx.core.errors import CaptureError, ClipError, ExactnessError, LoopError
from pgt_fx.core.hints import hints_for

pytestmark = pytest.mark.full

EXACT = 1e-9
STREAMED = ["vae_causal_encoder", "vae_causal_decoder", "vae_encoder", "vae_decoder"]
STREAMED_OF_DIFFUSERS = ["wan_encoder", "wan_decoder", "wan22_encoder", "wan22_decoder"]
NORMS_OVER_TIME = ["cogvideox_encoder", "cogvideox_decoder", "svd_decoder"]


@pytest.fixture(autouse=True)
def upsampling_in_full_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wan's upsampling goes through float32: the loops of diffusers would be off by 1e-7."""
    wan: Any = pytest.importorskip("diffusers.models.autoencoders.autoencoder_kl_wan")
    monkeypatch.setattr(wan.WanUpsample, "forward", nn.Upsample.forward)


def video(name: str, frames: int | None = None, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return zoo.clip(name, frames=frames, dtype=torch.float64, generator=generator)


def in_steps(prog: Any, x: Tensor, chunks: list[int]) -> Tensor:
    prog.reset()
    cut = pieces(x, chunks)
    with torch.no_grad():
        return stitch([prog(c, last=i == len(cut) - 1) for i, c in enumerate(cut)])


def slow(name: str) -> Any:
    late = name.startswith("wan22") or name in ("vae_encoder", "vae_decoder")
    return pytest.param(name, marks=pytest.mark.slow) if late else name


@pytest.mark.parametrize("name", [*map(slow, [*STREAMED, *STREAMED_OF_DIFFUSERS]), "svd_encoder"])
def test_it_streams_exactly(name: str) -> None:
    model = zoo.build(name, redraw_norms=True).double()
    prog = pgt_fx.transform(model, video(name, seed=2), future="wait")
    assert prog.report.exact
    clip = zoo.get(name).clip[0]
    for frames in (clip, 2 * clip - clip % 2):
        x = video(name, frames)
        with torch.no_grad():
            whole = model(x)
        assert relative_error(prog.full(x), whole) <= EXACT
        rng = random.Random(frames)
        for chunks in ([1] * frames, *(random_chunks(frames, 6, rng) for _ in range(3))):
            assert relative_error(in_steps(prog, x, chunks), whole) <= EXACT, chunks


@pytest.mark.parametrize("name", ["vae_causal_encoder", "wan_encoder"])
def test_a_causal_encoder_waits_for_no_frame_beyond_its_own_group(name: str) -> None:
    """Latent i stands for frames 4i - 3 … 4i: it is there as soon as these are."""
    prog = pgt_fx.transform(zoo.build(name), video(name).float(), future="wait")
    state, known = {}, 0
    for n, frame in enumerate(video(name).float().split(1, 2)):
        with torch.no_grad():
            out, state = prog.step(state, frame)
        known += 0 if out is None else out.shape[2]
        assert known == 1 + n // 4


def test_our_vae_answers_at_once_what_is_exact() -> None:
    """Nothing in the causal one looks ahead: padding in place of the future is never read."""
    model = zoo.build("vae_causal_encoder").double()
    x = video("vae_causal_encoder")
    prog = pgt_fx.transform(model, x, future="zero")
    assert all(prog.exact_frames([1, 4, 4, 8]))
    with torch.no_grad():
        assert relative_error(in_steps(prog, x, [1, 4, 4, 8]), model(x)) <= EXACT


def test_wan_in_steps_is_the_loop_of_diffusers() -> None:
    from pgt_fx.zoo.diffusers_vae import small, whole_decoder, whole_encoder

    vae: Any = small("wan").double()
    x, z = video("wan_encoder"), video("wan_decoder")
    with torch.no_grad():
        moments = vae.encode(x).latent_dist.parameters
        frames = vae.decode(z).sample
    encoder = pgt_fx.transform(whole_encoder(vae), x, future="wait")
    decoder = pgt_fx.transform(whole_decoder(vae), z, future="wait")
    assert relative_error(in_steps(encoder, x, [1, 4, 4, 4, 4]), moments) <= EXACT
    assert relative_error(in_steps(encoder, x, [3, 2, 12]), moments) <= EXACT
    assert relative_error(in_steps(decoder, z, [1, 1, 3]), frames) <= EXACT


def test_cogvideox_in_its_own_chunks_is_the_loop_of_diffusers() -> None:
    """Its group norms take the statistics of a chunk: steps of the same cuts have the same."""
    from pgt_fx.zoo.diffusers_vae import small, whole_decoder, whole_encoder

    vae: Any = small("cogvideox").double()
    x, z = video("cogvideox_encoder", 25), video("cogvideox_decoder", 7)
    with torch.no_grad():
        moments = vae.encode(x).latent_dist.parameters
        frames = vae.decode(z).sample
    encoder = pgt_fx.transform(whole_encoder(vae), x[:, :, :17])
    decoder = pgt_fx.transform(whole_decoder(vae), z[:, :, :5])
    assert relative_error(in_steps(encoder, x, [9, 8, 8]), moments) <= EXACT
    assert relative_error(in_steps(encoder, x, [17, 8]), moments) > 1e-3
    assert relative_error(in_steps(decoder, z, [3, 2, 2]), frames) <= EXACT
    assert relative_error(in_steps(decoder, z, [5, 2]), frames) > 1e-3


@pytest.mark.parametrize("name", NORMS_OVER_TIME)
def test_group_norms_over_all_frames_are_refused_where_exactness_is_promised(name: str) -> None:
    model, x = zoo.build(name), video(name).float()
    with pytest.raises(ExactnessError, match="group_norm"):
        pgt_fx.transform(model, x, future="wait")
    prog = pgt_fx.transform(model, x)
    with torch.no_grad():
        assert relative_error(prog.full(x), model(x)) <= 1e-5
    assert not prog.report.exact


class Groups(nn.Module):
    """Pairs of frames laid out as channels; one frame of zeros in front of an odd number."""

    def forward(self, x: Tensor) -> Tensor:
        n, c, t, h, w = x.shape
        if t % 2 == 1:
            x, t = nn.functional.pad(x, (0, 0, 0, 0, 1, 0)), t + 1
        pairs = x.view(n, c, t // 2, 2, h, w)
        return pairs.transpose(2, 3).reshape(n, 2 * c, t // 2, h, w)


def test_a_branch_on_parity_is_taken_as_the_clip_takes_it() -> None:
    odd = pgt_fx.transform(Groups(), torch.randn(1, 3, 9, 4, 4), future="wait")
    even = pgt_fx.transform(Groups(), torch.randn(1, 3, 8, 4, 4), future="wait")
    assert str(odd.video_lengths) == "2n + 1" and str(even.video_lengths) == "2n"
    assert "2n + 1 frames" in str(odd.report)
    x = torch.randn(1, 3, 13, 4, 4)
    assert torch.equal(in_steps(odd, x, [2, 4, 1, 6]), Groups()(x))
    assert torch.equal(in_steps(even, x[:, :, :12], [2, 3, 7]), Groups()(x[:, :, :12]))
    with pytest.raises(ClipError, match=r"takes videos of 2n frames, and this one ends at 13"):
        even.full(x)
    state: dict[str, Tensor] = {}
    _, state = odd.step(state, x[:, :, :12])
    with pytest.raises(ClipError, match=r"2n \+ 1"):
        odd.step(state, x[:, :, :2], last=True)
    assert pgt_fx.verify(odd).ok


class LongOrShort(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.cumsum(2) if x.shape[2] > 4 else x


def test_a_branch_for_short_videos_is_left_out_and_said_so() -> None:
    prog = pgt_fx.transform(LongOrShort(), torch.randn(1, 3, 8, 4, 4), future="wait")
    assert str(prog.video_lengths) == "at least 5"
    x = torch.randn(1, 3, 9, 4, 4)
    assert relative_error(in_steps(prog, x, [1, 1, 7]), x.cumsum(2)) <= 1e-5
    with pytest.raises(ClipError, match="at least 5"):
        prog.full(x[:, :, :4])


# ---- given as they are ------------------------------------------------------------------------


class Calls(nn.Module):
    """A part of an autoencoder as users write it: a module around ``encode`` or ``decode``."""

    def __init__(self, vae: Any, part: str) -> None:
        super().__init__()
        self.vae, self.part = vae, part

    def forward(self, x: Tensor) -> Any:
        if self.part == "decode":
            return self.vae.decode(x).sample
        return self.vae.encode(x).latent_dist.mode()


def tiny(kind: str) -> Any:
    import diffusers

    if kind == "cogvideox":
        return diffusers.AutoencoderKLCogVideoX(
            down_block_types=("CogVideoXDownBlock3D",) * 2,
            up_block_types=("CogVideoXUpBlock3D",) * 2,
            block_out_channels=(4, 8),
            latent_channels=4,
            layers_per_block=1,
            norm_num_groups=2,
            temporal_compression_ratio=2,
        ).eval()
    return diffusers.AutoencoderKLWan(
        base_dim=4, z_dim=4, dim_mult=[1, 1], num_res_blocks=1, temperal_downsample=[True]
    ).eval()


HINT = r"pgt_fx\.zoo\.diffusers_vae\.whole_(en|de)coder\(vae\)"


@pytest.mark.parametrize("kind", ["wan", "cogvideox"])
@pytest.mark.parametrize("part", ["", "encode", "decode"])
def test_an_autoencoder_as_it_is_is_told_its_whole_form(
    kind: str, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.export, "export", None)  # which unrolls the loop for minutes
    vae = tiny(kind)
    x = torch.randn(1, 4, 5, 4, 4) if part == "decode" else torch.randn(1, 3, 17, 16, 16)
    with pytest.raises(LoopError, match=HINT) as caught:
        pgt_fx.transform(Calls(vae, part) if part else vae, x)
    text = str(caught.value)
    assert f"({'feat' if kind == 'wan' else 'conv'}_cache)" in text
    inside = ("vae." if part else "") + ("decoder" if part == "decode" else "encoder")
    assert f" in {inside} (" in text and "Pass the module inside the loop" not in text
    assert text.count("whole_decoder(vae)") == 1


@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_a_part_of_wan_without_its_cache_is_itself_and_not_decode(part: str) -> None:
    vae, ahead = tiny("wan"), 4 if part == "decoder" else 3
    net, x = getattr(vae, part), torch.randn(1, ahead, 9, 8, 8)
    with pytest.warns(UserWarning, match=f"time_conv\nWan.*whole_{part}\\(vae\\)") as caught:
        prog = pgt_fx.transform(net, x[:, :, :5], future="wait")
    assert "its arguments feat_cache=, feat_idx=" in str(caught[0].message)
    assert len(prog.report.idle) == 1 and prog.report.idle[0].endswith("time_conv")
    with torch.no_grad():
        outs = [y for y in prog.run(x, schedule=[4, 1, 4]) if y is not None]
        assert relative_error(torch.cat(outs, 2), net(x)) <= 1e-5
        assert net(x).shape[2] == 9  # as many as came in


def test_of_the_whole_forms_no_layer_is_left_out() -> None:
    from pgt_fx.zoo.diffusers_vae import whole_decoder, whole_encoder

    vae = tiny("wan")
    form = whole_decoder(vae)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert pgt_fx.transform(form, torch.randn(1, 4, 5, 2, 2)).report.idle == []
    assert hints_for(form) == hints_for(whole_encoder(vae)) == []


@pytest.mark.parametrize(
    ("kind", "part", "shape"),
    [
        ("wan22", "decoder", (1, 4, 5, 8, 8)),  # its shortcuts don't fit without the cache
        ("svd", "decoder", (1, 4, 5, 8, 8)),
        ("svd", "", (1, 3, 9, 16, 16)),
    ],
)
def test_other_parts_are_refused_with_the_hint(
    kind: str, part: str, shape: tuple[int, ...]
) -> None:
    from pgt_fx.zoo.diffusers_vae import small

    vae = small(kind)
    with pytest.raises(CaptureError, match=HINT):
        pgt_fx.transform(getattr(vae, part) if part else vae, torch.randn(shape))
