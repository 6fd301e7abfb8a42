"""A small video autoencoder: 3D convolutions that make 4n + 1 frames into n + 1 latents and back.

Plain modules over the whole video, without the caches that such nets are usually run with. What
it is made of is taken from the nets in use:

- one-sided replicate padding in front of every convolution along time, and a first frame that is
  kept apart where time is halved or doubled, so that an image is a video of one frame: MAGVIT-v2,
  "Language Model Beats Diffusion: Tokenizer is Key to Visual Generation", Yu et al., ICLR 2024,
  arXiv 2310.05737;
- averages of two frames on the way down and nearest neighbours on the way up: CogVideoX, Yang et
  al., ICLR 2025, arXiv 2408.06072;
- a convolution of stride 2 on the way down, and one that makes two frames of the halves of its
  channels on the way up: "Wan: Open and Advanced Large-Scale Video Generative Models", 2025,
  arXiv 2503.20314.

Group norms have the statistics of one frame: with those of all frames no causal net is causal.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_GROUPS = 8


class VideoConv(nn.Conv3d):
    """A convolution that pads space with zeros, and time with copies of the frames at its ends.

    Args:
        inside: channels of the input.
        out: channels of the output.
        kernel: elements of time, of height and width; odd.
        causal: pad time in front only, so that no output reads a frame after its own (with a
            stride: after the last of its own).
        stride: along time.
    """

    def __init__(
        self, inside: int, out: int, kernel: tuple[int, int], causal: bool, stride: int = 1
    ) -> None:
        time, space = kernel
        edge = space // 2
        super().__init__(inside, out, (time, space, space), (stride, 1, 1), padding=(0, edge, edge))
        self.edges = (time - stride, 0) if causal else (time // 2, time // 2)

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, T, H, W) to (N, C', T / stride, H, W)."""
        return super().forward(F.pad(input, (0, 0, 0, 0, *self.edges), mode="replicate"))


class FrameNorm(nn.GroupNorm):
    """A group norm with the statistics of every frame by itself."""

    def __init__(self, channels: int) -> None:
        super().__init__(_GROUPS, channels, eps=1e-6)

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, T, H, W) to the same."""
        n, t = input.shape[0], input.shape[2]
        frames = super().forward(input.transpose(1, 2).flatten(0, 1))
        return frames.unflatten(0, (n, t)).transpose(1, 2)


class Block(nn.Module):
    """Two convolutions beside a shortcut, norm and SiLU in front of each."""

    def __init__(self, inside: int, out: int, causal: bool) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            FrameNorm(inside),
            nn.SiLU(),
            VideoConv(inside, out, (3, 3), causal),
            FrameNorm(out),
            nn.SiLU(),
            VideoConv(out, out, (3, 3), causal),
        )
        self.shortcut = nn.Identity() if inside == out else nn.Conv3d(inside, out, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, T, H, W) to (N, C', T, H, W)."""
        return self.shortcut(x) + self.branch(x)


class SplitTime(nn.Module):
    """Channels to time: the halves of the channels become two frames."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, 2C, T, H, W) to (N, C, 2T, H, W)."""
        n, c, t, h, w = x.shape
        return torch.stack(x.chunk(2, dim=1), dim=3).reshape(n, c // 2, 2 * t, h, w)


class FirstApart(nn.Module):
    """Change the number of frames; in a causal net the first frame stays as it is.

    Attributes:
        change: makes half or twice as many frames of those it is given.
    """

    def __init__(self, change: nn.Module, causal: bool) -> None:
        super().__init__()
        self.change = change
        self.causal = causal

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, T, H, W) to T/2 or 2T frames; causal ones: 2n + 1 to n + 1, or back."""
        if not self.causal:
            return self.change(x)
        if x.shape[2] == 1:  # an image; convolutions and pools refuse the no frames after it
            return x
        return torch.cat([x[:, :, :1], self.change(x[:, :, 1:])], dim=2)


class Encoder(nn.Sequential):
    """Videos to latents: (N, 3, T, H, W) to (N, latent, T', H/4, W/4).

    Args:
        causal: T = 4n + 1 frames give T' = n + 1 latents, and none reads a later frame than the
            last of its four; else T = 4n give n, which read frames of both sides.
        latent: channels of the latents.
        width: channels of the first stage; a multiple of 8.
    """

    def __init__(self, causal: bool = True, latent: int = 4, width: int = 16) -> None:
        half = (1, 3, 3), (1, 2, 2), (0, 1, 1)
        super().__init__(
            VideoConv(3, width, (3, 3), causal),
            Block(width, width, causal),
            FirstApart(nn.AvgPool3d((2, 1, 1)), causal),
            nn.Conv3d(width, width, *half),
            Block(width, 2 * width, causal),
            FirstApart(VideoConv(2 * width, 2 * width, (3, 1), causal, stride=2), causal),
            nn.Conv3d(2 * width, 2 * width, *half),
            Block(2 * width, 2 * width, causal),
            FrameNorm(2 * width),
            nn.SiLU(),
            VideoConv(2 * width, latent, (3, 3), causal),
        )


class Decoder(nn.Sequential):
    """Latents to videos: (N, latent, T', H, W) to (N, 3, T, 4H, 4W); see :class:`Encoder`.

    Causal ones make one frame of the first latent and four of every later one.
    """

    def __init__(self, causal: bool = True, latent: int = 4, width: int = 16) -> None:
        split = VideoConv(2 * width, 4 * width, (3, 1), causal)
        super().__init__(
            VideoConv(latent, 2 * width, (3, 3), causal),
            Block(2 * width, 2 * width, causal),
            FirstApart(nn.Sequential(split, SplitTime()), causal),
            nn.Upsample(scale_factor=(1.0, 2.0, 2.0)),
            Block(2 * width, width, causal),
            FirstApart(nn.Upsample(scale_factor=(2.0, 1.0, 1.0)), causal),
            nn.Upsample(scale_factor=(1.0, 2.0, 2.0)),
            Block(width, width, causal),
            FrameNorm(width),
            nn.SiLU(),
            VideoConv(width, 3, (3, 3), causal),
        )
