"""Video autoencoders: those written here, and small ones of diffusers with random weights."""

from __future__ import annotations

from typing import cast

from torch import nn

from pgt_fx.core.errors import OptionError

from .entry import Entry

_OVER_TIME = "group norms over all frames"

ENTRIES = (
    Entry("vae_causal_encoder", "pgt_fx", (17,), 64, False, "4n+1 frames to n+1", family="VAE"),
    Entry(
        "vae_causal_decoder",
        "pgt_fx",
        (5,),
        16,
        False,
        "n+1 latents to 4n+1 frames",
        channels=4,
        family="VAE",
    ),
    Entry("vae_encoder", "pgt_fx", (16,), 64, False, "4n frames to n, not causal", family="VAE"),
    Entry(
        "vae_decoder",
        "pgt_fx",
        (4,),
        16,
        False,
        "n latents to 4n frames, not causal",
        channels=4,
        family="VAE",
    ),
    Entry("wan_encoder", "diffusers", (17,), 64, False, "AutoencoderKLWan, small", family="VAE"),
    Entry(
        "wan_decoder",
        "diffusers",
        (5,),
        8,
        False,
        "AutoencoderKLWan, small",
        channels=4,
        family="VAE",
    ),
    Entry(
        "wan22_encoder",
        "diffusers",
        (17,),
        64,
        False,
        "AutoencoderKLWan, residual, small",
        family="VAE",
        fixed_space=True,  # other multiples of 16 would do as well
    ),
    Entry(
        "wan22_decoder",
        "diffusers",
        (5,),
        8,
        False,
        "AutoencoderKLWan, residual, small",
        channels=4,
        family="VAE",
    ),
    Entry(
        "cogvideox_encoder",
        "diffusers",
        (17,),
        64,
        False,
        "AutoencoderKLCogVideoX, small",
        family="VAE",
        all_time=_OVER_TIME,
    ),
    Entry(
        "cogvideox_decoder",
        "diffusers",
        (5,),
        8,
        False,
        "AutoencoderKLCogVideoX, small",
        channels=4,
        family="VAE",
        all_time=_OVER_TIME,
    ),
    Entry(
        "svd_encoder",
        "diffusers",
        (8,),
        64,
        False,
        "AutoencoderKLTemporalDecoder, small, frame by frame",
        family="VAE",
    ),
    Entry(
        "svd_decoder",
        "diffusers",
        (8,),
        16,
        False,
        "AutoencoderKLTemporalDecoder, small",
        channels=4,
        family="VAE",
        all_time=_OVER_TIME,
    ),
)


def load(entry: Entry, space: int, pretrained: bool) -> nn.Module:
    """Build the model of that name; there are no weights for these."""
    if pretrained:
        raise OptionError(f"there are no weights for {entry.name}")
    kind, part = entry.name.rsplit("_", 1)
    if entry.source == "pgt_fx":
        from .video_vae import Decoder, Encoder

        make = Encoder if part == "encoder" else Decoder
        return make(causal=kind == "vae_causal", latent=4)
    from .diffusers_vae import Kind, small, whole_decoder, whole_encoder

    vae = small(cast(Kind, kind), seed=None)  # the caller has seeded
    return whole_encoder(vae) if part == "encoder" else whole_decoder(vae)
