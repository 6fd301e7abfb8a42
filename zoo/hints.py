"""What to convert in place of modules that ``pgt_fx.transform`` refuses, or that are only a part of
what was meant.

A table: nothing is imported for it. :mod:`pgt_fx.hints` reads it when a message is made.
"""

from __future__ import annotations

_ENCODER = "pgt_fx.zoo.diffusers_vae.whole_encoder(vae)"
_DECODER = "pgt_fx.zoo.diffusers_vae.whole_decoder(vae)"
_LOOPS = (
    "encode and decode go through the video in a loop, with a cache of their own. The same over "
    f"the whole video, without a cache, is {_ENCODER} for encode and {_DECODER} for decode: pass "
    "these. vae.encoder and vae.decoder by themselves compute something else"
)

#: Class, as ``pgt_fx.hints.register`` takes it; the hint; the forms that are made of it.
HINTS: list[tuple[str, str, tuple[str, ...]]] = [
    ("diffusers.AutoencoderKLWan", _LOOPS, ()),
    ("diffusers.AutoencoderKLCogVideoX", _LOOPS, ()),
    (
        "diffusers.AutoencoderKLTemporalDecoder",
        "encode and decode take the frames of a video as a batch of images. The same for videos "
        f"(N, C, T, H, W) is {_ENCODER} and {_DECODER}: pass these",
        (),
    ),
    (
        "diffusers.WanEncoder3d",
        "it is not encode by itself: without feat_cache it leaves out all that it does along time "
        f"where it halves the frames, so that T frames give T latents. encode is {_ENCODER}",
        ("pgt_fx.WanEncoder",),
    ),
    (
        "diffusers.WanDecoder3d",
        "it is not decode by itself: without feat_cache it leaves out all that it does along time "
        f"where it doubles the frames, so that T latents give T frames. decode is {_DECODER}",
        ("pgt_fx.WanDecoder",),
    ),
    (
        "diffusers.CogVideoXEncoder3D",
        "it returns a cache for the next chunk beside the moments, for any number of frames. "
        f"encode over the whole video is {_ENCODER}",
        ("pgt_fx.CogVideoXEncoder",),
    ),
    (
        "diffusers.CogVideoXDecoder3D",
        "it returns a cache for the next chunk beside the frames, for any number of latents. "
        f"decode over the whole video is {_DECODER}",
        ("pgt_fx.CogVideoXDecoder",),
    ),
    (
        "diffusers.TemporalDecoder",
        f"it takes the frames of a video as a batch of images. For videos decode is {_DECODER}",
        ("pgt_fx.TemporalDecoder",),
    ),
]
