"""AutoencoderKLWan of diffusers without its caches: one forward over the whole video.

Sources: "Wan: Open and Advanced Large-Scale Video Generative Models", 2025, arXiv 2503.20314, and
diffusers' ``autoencoder_kl_wan.py``, which runs the encoder over the first frame and then over
four at a time, the decoder over one latent at a time, and hands every convolution the frames
before. Without these caches diffusers' own blocks leave out all that they do along time when
they resample, so that these are written here; everything else is run as it is, once.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .shared import rebuilt, under


class Resample(nn.Module):
    """Space, and for the modes in 3D time, halved or doubled; the first frame is kept.

    Shares the modules of a ``WanResample``, and their names.

    Args:
        source: the ``WanResample``.
        resample: what it does to single frames.
    """

    def __init__(self, source: Any, resample: nn.Module) -> None:
        super().__init__()
        self.mode: str = source.mode
        self.resample = resample
        if self.mode.endswith("3d"):
            self.time_conv = source.time_conv

    def forward(self, x: Tensor, feat_cache: None = None, feat_idx: Any = None) -> Tensor:
        """(N, C, T, H, W); T is n + 1 for "upsample3d" and 2n + 1 for "downsample3d".

        The caches are those of the blocks around it, which pass them on; there are none.
        """
        several = x.shape[2] > 1  # an image has no frames for the convolutions along time
        if self.mode == "upsample3d" and several:
            # The cache of the first chunk says "Rep", not its frame: before the second latent
            # the convolution sees zeros.
            pairs = self.time_conv(x[:, :, 1:]).chunk(2, dim=1)
            rest = torch.stack(pairs, dim=3).flatten(2, 3)
            x = torch.cat([x[:, :, :1], rest], dim=2)
        n, t = x.shape[0], x.shape[2]
        frames: Tensor = self.resample(x.transpose(1, 2).flatten(0, 1))
        x = frames.unflatten(0, (n, t)).transpose(1, 2)
        if self.mode == "downsample3d" and several:
            # Every chunk but the first begins with the last frame of the one before: over the
            # whole video, a convolution of stride 2 from the first frame on.
            x = torch.cat([x[:, :, :1], self.time_conv(x)], dim=2)
        return x


class AverageDown(nn.Module):
    """The shortcut of Wan 2.2's encoder: averages over groups of channels, time and space.

    Args:
        source: the ``AvgDown3D``, which has no parameters.
    """

    def __init__(self, source: Any) -> None:
        super().__init__()
        self.time, self.space = source.factor_t, source.factor_s
        self.groups, self.size = source.out_channels, source.group_size

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, time · n + 1, H, W) to (N, C', n + 1, H / space, W / space)."""
        # diffusers pads what is missing to a multiple; for the lengths that there are it is this,
        # and that it is a constant makes it a window like any other.
        x = F.pad(x, (0, 0, 0, 0, self.time - 1, 0))
        n, c, t, h, w = x.shape
        x = x.reshape(
            n,
            c,
            t // self.time,
            self.time,
            h // self.space,
            self.space,
            w // self.space,
            self.space,
        )
        x = x.permute(0, 1, 3, 5, 7, 2, 4, 6).flatten(1, 4)
        return x.unflatten(1, (self.groups, self.size)).mean(2)


class WanEncoder(nn.Module):
    """Moments of videos: what ``AutoencoderKLWan.encode`` makes its distribution of.

    diffusers leaves out the frames after the last whole four. The net of Wan 2.1 does the same
    here; the residual one of Wan 2.2 refuses them (``reshape`` raises a RuntimeError).

    Shares the modules of the autoencoder, and their names; see
    :func:`pgt_fx.zoo.diffusers_vae.whole_encoder`.
    """

    def __init__(self, vae: Any) -> None:
        from diffusers.models.autoencoders.autoencoder_kl_wan import patchify

        super().__init__()
        self.patches = _patches(patchify, vae)
        self.encoder = _whole(vae.encoder)
        self.quant_conv = vae.quant_conv

    def forward(self, video: Tensor) -> Tensor:
        """(N, 3, 4n + 1, H, W) to (N, 2z, n + 1, H', W')."""
        if self.patches is not None:
            video = self.patches(video)
        return self.quant_conv(self.encoder(video))


class WanDecoder(nn.Module):
    """Videos of latents: the sample that ``AutoencoderKLWan.decode`` gives, clamped to [-1, 1].

    Shares the modules of the autoencoder, and their names; see
    :func:`pgt_fx.zoo.diffusers_vae.whole_decoder`.
    """

    def __init__(self, vae: Any) -> None:
        from diffusers.models.autoencoders.autoencoder_kl_wan import unpatchify

        super().__init__()
        self.patches = _patches(unpatchify, vae)
        self.post_quant_conv = vae.post_quant_conv
        self.decoder = _whole(vae.decoder)

    def forward(self, latents: Tensor) -> Tensor:
        """(N, z, n + 1, H', W') to (N, 3, 4n + 1, H, W)."""
        # first_chunk drops the frames that the shortcut makes too many of the first latent; the
        # whole video begins with it.
        video: Tensor = self.decoder(self.post_quant_conv(latents), first_chunk=True)
        if self.patches is not None:
            video = self.patches(video)
        return video.clamp(-1.0, 1.0)


@torch.no_grad()
def redraw_gammas(vae: nn.Module) -> None:
    """Redraw the weights of the norms, which are all 1 at first, from [0.5, 1.5], in place."""
    from diffusers.models.autoencoders.autoencoder_kl_wan import WanRMS_norm

    for module in vae.modules():
        if isinstance(module, WanRMS_norm):
            module.gamma.uniform_(0.5, 1.5)


def _patches(change: Callable[..., Tensor], vae: Any) -> Callable[[Tensor], Tensor] | None:
    size = vae.config.patch_size
    return None if size is None else partial(change, patch_size=size)


def _whole(net: nn.Module) -> nn.Module:
    from diffusers.models.autoencoders.autoencoder_kl_wan import (
        AvgDown3D,
        WanResample,
        WanUpsample,
    )

    def replace(module: nn.Module) -> nn.Module | None:
        match module:
            case WanResample():
                return Resample(module, rebuilt(module.resample, replace))
            case AvgDown3D():
                return AverageDown(module)
            case WanUpsample():
                # It rounds to float32 on its way. Copies of elements need no arithmetic, and in
                # float64 the rounding would be seen.
                return under(nn.Upsample, module)
            case _:
                return None

    return rebuilt(net, replace)
