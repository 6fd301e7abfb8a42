"""The video autoencoders of diffusers as plain modules: one tensor in, one out, the whole video.

diffusers cuts a video into chunks and carries caches from one to the next by hand. The modules
here compute over the whole video what that computes, with the autoencoder's own parameters. The
autoencoder itself is left as it is; a module of it that is used here is the same object, so that
``train()`` or ``to()`` of the one reaches the other. Tiles in space, and slices of the batch, are
not made.

diffusers is imported when it is needed, not before.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import nn

from pgt_fx.core.errors import OptionError

from .cogvideox_vae import CogVideoXDecoder, CogVideoXEncoder
from .entry import MissingPackageError
from .norms import redraw_norms
from .svd_vae import TemporalDecoder, TemporalEncoder
from .wan_vae import WanDecoder, WanEncoder, redraw_gammas

Kind = Literal["wan", "wan22", "cogvideox", "svd"]


def whole_encoder(vae: nn.Module) -> nn.Module:
    """The encoder of an autoencoder of diffusers over the whole video.

    Args:
        vae: an ``AutoencoderKLWan``, ``AutoencoderKLCogVideoX`` or
            ``AutoencoderKLTemporalDecoder``; shared and not changed.

    Returns:
        A module that takes videos (N, 3, T, H, W) and gives the moments (N, 2z, T', H', W') of
        the latents, mean and logarithm of the variance: ``encode(video).latent_dist.parameters``.
        Its parameters have the names that they have in the autoencoder.

    Raises:
        MissingPackageError: diffusers is not installed.
        TypeError: any other module.
    """
    return _forms(vae)[0](vae)


def whole_decoder(vae: nn.Module) -> nn.Module:
    """The decoder of an autoencoder of diffusers over the whole video.

    Args:
        vae: as for :func:`whole_encoder`.

    Returns:
        A module that takes latents (N, z, T', H', W') and gives videos (N, 3, T, H, W):
        ``decode(latents).sample``. Its parameters have the names that they have in the
        autoencoder.

    Raises:
        MissingPackageError: diffusers is not installed.
        TypeError: any other module.
    """
    return _forms(vae)[1](vae)


def small(kind: Kind, seed: int | None = 0) -> nn.Module:
    """A small autoencoder of diffusers with random weights, in eval mode, float32, on the CPU.

    Args:
        kind: "wan" (Wan 2.1: 8 times smaller in space), "wan22" (its residual variant with
            patches: 16), "cogvideox" (8), all three 4 times in time; or "svd" (2, and time as
            it is: the temporal decoder of Stable Video Diffusion, arXiv 2311.15127). Latents
            have 4 channels.
        seed: of the weights; the global random state is left as it was. None draws from it.

    Raises:
        MissingPackageError: diffusers is not installed.
        OptionError: no such kind.
    """
    if seed is None:
        return _built(kind)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return _built(kind)


def _built(kind: Kind) -> nn.Module:
    classes = _diffusers()
    match kind:
        case "wan" | "wan22":
            residual = kind == "wan22"
            colours = 12 if residual else 3  # of a patch of 2x2 pixels, or of one
            vae = classes.AutoencoderKLWan(
                base_dim=8,
                decoder_base_dim=16 if residual else 8,
                z_dim=4,
                dim_mult=[1, 2, 4, 4],
                num_res_blocks=1,
                temperal_downsample=[False, True, True],
                is_residual=residual,
                patch_size=2 if residual else None,
                in_channels=colours,
                out_channels=colours,
                scale_factor_spatial=16 if residual else 8,
            )
            redraw_gammas(vae)
        case "cogvideox":
            vae = classes.AutoencoderKLCogVideoX(
                down_block_types=("CogVideoXDownBlock3D",) * 4,
                up_block_types=("CogVideoXUpBlock3D",) * 4,
                block_out_channels=(8, 16, 16, 32),
                latent_channels=4,
                layers_per_block=1,
                norm_num_groups=4,
            )
        case "svd":
            # Its group norms have 32 groups, whatever is asked for.
            vae = classes.AutoencoderKLTemporalDecoder(
                down_block_types=("DownEncoderBlock2D",) * 2,
                block_out_channels=(32, 64),
                layers_per_block=1,
                latent_channels=4,
            )
        case _:
            raise OptionError(f"no autoencoder {kind!r}; there are wan, wan22, cogvideox and svd")
    return redraw_norms(vae.eval())


def _forms(vae: nn.Module) -> tuple[type[nn.Module], type[nn.Module]]:
    classes = _diffusers()
    match vae:
        case classes.AutoencoderKLWan():
            return WanEncoder, WanDecoder
        case classes.AutoencoderKLCogVideoX():
            return CogVideoXEncoder, CogVideoXDecoder
        case classes.AutoencoderKLTemporalDecoder():
            return TemporalEncoder, TemporalDecoder
    raise TypeError(
        f"{type(vae).__name__}: there is a whole-video form of AutoencoderKLWan, "
        "AutoencoderKLCogVideoX and AutoencoderKLTemporalDecoder"
    )


def _diffusers() -> Any:
    try:
        import diffusers
    except ModuleNotFoundError as error:
        raise MissingPackageError(
            f"video autoencoders need diffusers, and the package {error.name!r} is not "
            "installed: pip install 'pgt_fx[vae]'"
        ) from error
    return diffusers
