"""AutoencoderKLCogVideoX of diffusers without its caches: one forward over the whole video.

Sources: "CogVideoX: Text-to-Video Diffusion Models with An Expert Transformer", Yang et al., ICLR
2025, arXiv 2408.06072, and diffusers' ``autoencoder_kl_cogvideox.py``, which runs the encoder over
8 frames at a time, the first time over up to 15, the decoder over 2 latents, the first time over
up to 3. Its blocks, without a cache, are made for a whole video; but they ask in Python whether
the number of frames is odd, and keep the first frame apart if so. Here it always is, so that the
module is one and the same for every length.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .shared import rebuilt, under


class Downsample(nn.Module):
    """Space halved; with ``compress_time`` the first frame kept, averages of two of the others.

    Args:
        source: the ``CogVideoXDownsample3D``, whose convolution this shares.
    """

    def __init__(self, source: Any) -> None:
        super().__init__()
        self.compress_time: bool = source.compress_time
        self.conv = source.conv

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, T, H, W) to (N, C, T, H/2, W/2), or of 2n + 1 frames to n + 1."""
        if self.compress_time and x.shape[2] > 1:
            x = torch.cat([x[:, :, :1], F.avg_pool3d(x[:, :, 1:], (2, 1, 1))], dim=2)
        n, t = x.shape[0], x.shape[2]
        frames = self.conv(F.pad(x, (0, 1, 0, 1)).transpose(1, 2).flatten(0, 1))
        return frames.unflatten(0, (n, t)).transpose(1, 2)


class Upsample(nn.Module):
    """Space doubled; with ``compress_time`` the first frame kept, each of the others repeated.

    Args:
        source: the ``CogVideoXUpsample3D``, whose convolution this shares.
    """

    def __init__(self, source: Any) -> None:
        super().__init__()
        self.compress_time: bool = source.compress_time
        self.conv = source.conv

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, T, H, W) to (N, C, T, 2H, 2W), or of n + 1 frames to 2n + 1."""
        x = _larger(x, 2 if self.compress_time else 1, 2)
        n, t = x.shape[0], x.shape[2]
        frames = self.conv(x.transpose(1, 2).flatten(0, 1))
        return frames.unflatten(0, (n, t)).transpose(1, 2)


class SpatialNorm(nn.Module):
    """A group norm over all of time and space, scaled and shifted by the latents.

    Args:
        source: the ``CogVideoXSpatialNorm3D``, whose norm this shares.
        scale, shift: its two convolutions, of one element.
        time: how many times as many frames there are here as latents, the first one apart.
        space: the same for height and width.
    """

    def __init__(
        self, source: Any, scale: nn.Module, shift: nn.Module, time: int, space: int
    ) -> None:
        super().__init__()
        self.norm_layer, self.conv_y, self.conv_b = source.norm_layer, scale, shift
        self.time, self.space = time, space

    def forward(self, f: Tensor, zq: Tensor, conv_cache: None = None) -> tuple[Tensor, None]:
        """(N, C, time · n + 1, H, W) and latents of n + 1 to the first shape, and no cache."""
        zq = _larger(zq, self.time, self.space)
        return self.norm_layer(f) * self.conv_y(zq)[0] + self.conv_b(zq)[0], None


class CogVideoXEncoder(nn.Module):
    """Moments of videos: what ``AutoencoderKLCogVideoX.encode`` makes its distribution of.

    Its group norms have the statistics of all frames that they are given, so that no causal
    convolution makes it causal. This is what diffusers computes for videos of one chunk, up to 15
    frames. In longer ones it has the statistics of each chunk, and here they are those of the
    whole video; everything else is the same.
    """

    def __init__(self, vae: Any) -> None:
        super().__init__()
        self.encoder = _whole(vae.encoder)
        self.quant_conv = None if vae.quant_conv is None else _whole(vae.quant_conv)

    def forward(self, video: Tensor) -> Tensor:
        """(N, 3, 4n + 1, H, W) to (N, 2z, n + 1, H/8, W/8)."""
        moments: Tensor = self.encoder(video)[0]  # [1] is the cache
        return moments if self.quant_conv is None else self.quant_conv(moments)


class CogVideoXDecoder(nn.Module):
    """Videos of latents: the sample that ``AutoencoderKLCogVideoX.decode`` gives; not clamped.

    This is what diffusers computes for one chunk, 1 or 3 latents; for a longer odd number see
    :class:`CogVideoXEncoder`. Of an even number diffusers makes four frames of the first latent
    as well; its own encoder makes no even number of the 8n + 1 frames it asks for.
    """

    def __init__(self, vae: Any) -> None:
        super().__init__()
        self.post_quant_conv = None if vae.post_quant_conv is None else _whole(vae.post_quant_conv)
        self.decoder = _whole_decoder(vae.decoder)

    def forward(self, latents: Tensor) -> Tensor:
        """(N, z, n + 1, H', W') to (N, 3, 4n + 1, 8H', 8W')."""
        if self.post_quant_conv is not None:
            latents = self.post_quant_conv(latents)
        return self.decoder(latents)[0]


def _larger(x: Tensor, time: int, space: int) -> Tensor:
    """Nearest neighbours; of time the first frame is kept."""
    if time > 1 and x.shape[2] > 1:
        rest = F.interpolate(x[:, :, 1:], scale_factor=(float(time), 1.0, 1.0))
        x = torch.cat([x[:, :, :1], rest], dim=2)
    return F.interpolate(x, scale_factor=(1.0, float(space), float(space))) if space > 1 else x


def _whole(net: nn.Module, time: int = 1, space: int = 1) -> nn.Module:
    from diffusers.models.autoencoders import autoencoder_kl_cogvideox as source

    def replace(module: nn.Module) -> nn.Module | None:
        match module:
            case source.CogVideoXDownsample3D():
                return Downsample(module)
            case source.CogVideoXUpsample3D():
                return Upsample(module)
            case source.CogVideoXSpatialNorm3D():
                return SpatialNorm(
                    module,
                    rebuilt(module.conv_y, replace),
                    rebuilt(module.conv_b, replace),
                    time,
                    space,
                )
            case source.CogVideoXSafeConv3d():
                # It cuts inputs of more than 2 GiB into pieces, to the same effect: one more
                # branch on the number of frames.
                return under(nn.Conv3d, module)
            case _:
                return None

    return rebuilt(net, replace)


def _whole_decoder(net: Any) -> nn.Module:
    """The decoder; each of its norms is given how much larger its input is than the latents."""
    time = space = 1
    twin = under(type(net), net)
    twin._modules = dict(net._modules)
    twin.mid_block = _whole(net.mid_block)
    blocks = []
    for block in net.up_blocks:
        blocks.append(_whole(block, time, space))
        for upsampler in block.upsamplers or ():
            time, space = time * (2 if upsampler.compress_time else 1), space * 2
    twin.up_blocks = nn.ModuleList(blocks)
    for name in ("conv_in", "conv_out", "norm_out"):
        setattr(twin, name, _whole(getattr(net, name), time, space))
    return twin
