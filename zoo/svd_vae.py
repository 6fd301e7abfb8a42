"""AutoencoderKLTemporalDecoder of diffusers, with videos in place of batches of images.

Sources: "Stable Video Diffusion: Scaling Latent Video Diffusion Models to Large Datasets",
Blattmann et al., 2023, arXiv 2311.15127, and diffusers' ``autoencoder_kl_temporal_decoder.py``.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from .shared import rebuilt


class Upsample(nn.Module):
    """Twice the height and width, and a convolution.

    Args:
        source: the ``Upsample2D``, whose convolution this shares. It copies large batches before,
            to the same effect: a branch on the number of frames.
    """

    def __init__(self, source: Any) -> None:
        super().__init__()
        self.conv = source.conv

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C, 2H, 2W)."""
        return self.conv(F.interpolate(x, scale_factor=2.0))


class TemporalEncoder(nn.Module):
    """Moments of videos: ``AutoencoderKLTemporalDecoder.encode`` of every frame by itself."""

    def __init__(self, vae: Any) -> None:
        super().__init__()
        self.encoder, self.quant_conv = vae.encoder, vae.quant_conv

    def forward(self, video: Tensor) -> Tensor:
        """(N, 3, T, H, W) to (N, 2z, T, H', W')."""
        n, t = video.shape[0], video.shape[2]
        moments: Tensor = self.quant_conv(self.encoder(video.transpose(1, 2).flatten(0, 1)))
        return moments.unflatten(0, (n, t)).transpose(1, 2)


class TemporalDecoder(nn.Module):
    """Videos of latents: ``AutoencoderKLTemporalDecoder.decode`` of all frames at once.

    Its blocks in space work on single frames. Those in time are convolutions that look one frame
    to each side, after group norms with the statistics of all frames.
    """

    def __init__(self, vae: Any) -> None:
        from diffusers.models.upsampling import Upsample2D

        super().__init__()
        self.decoder = rebuilt(
            vae.decoder, lambda m: Upsample(m) if isinstance(m, Upsample2D) else None
        )

    def forward(self, latents: Tensor) -> Tensor:
        """(N, z, T, H', W') to (N, 3, T, H, W)."""
        n, t = latents.shape[0], latents.shape[2]
        video: Tensor = self.decoder(
            latents.transpose(1, 2).flatten(0, 1),
            image_only_indicator=latents.new_zeros(n, t),  # its shape is all that is read of it
            num_frames=t,
        )
        return video.unflatten(0, (n, t)).transpose(1, 2)
