"""Signals in time: frames, spectra, resampling, and windows over time and frequency.

A table of constructs: each is exact however the signal is cut, or refused with a reason that is
about what it computes.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from judge import PARTLY, REFUSED, RIGHT, Case, judge
from torch import Tensor, nn

Construct = Callable[["Net", Tensor], Tensor]
AUDIO, SPECTRA = (1, 8, 48), (1, 2, 8, 6)
FRAMES = {AUDIO: (17, 25, 38, 48, 97), SPECTRA: (2, 3, 7, 12, 15)}
EXACT: dict[str, tuple[Construct, tuple[int, ...]]] = {}
NOT: dict[str, tuple[Construct, str]] = {}


class Net(nn.Module):
    """A convolution along time, and a construct behind it: of (N, 8, T), or (N, 2, T, F)."""

    def __init__(self, call: Construct, channels: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        audio = channels == 8
        self.conv = (
            nn.Conv1d(8, 8, 3, padding=1) if audio else nn.Conv2d(2, 2, (3, 1), padding=(1, 0))
        )
        self.down, self.up = nn.Conv1d(8, 8, 4, 2, 1), nn.ConvTranspose1d(8, 8, 4, 2, 1)
        self.lin = nn.Linear(16, 5)
        buffers = {
            "win": torch.hann_window(16),
            "win12": torch.hann_window(12),
            "mel": torch.rand(4, 9),
            "basis": torch.randn(18, 1, 16),
            "h": torch.randn(1, 1, 9),
            "kernel": torch.randn(2, 1, 15),
            "dct": torch.randn(16, 6),
            "delta": torch.randn(8, 1, 5),
            "w": torch.randn(2, 18),
        }
        for name, value in buffers.items():
            self.register_buffer(name, value)
        self.call = call

    def forward(self, x: Tensor) -> Tensor:
        return self.call(self, self.conv(x))


def exact(sizes: tuple[int, ...]) -> Callable[[Construct], Construct]:
    def register(construct: Construct) -> Construct:
        EXACT[construct.__name__] = construct, sizes
        return construct

    return register


def refused(reason: str) -> Callable[[Construct], Construct]:
    def register(construct: Construct) -> Construct:
        NOT[construct.__name__] = construct, reason
        return construct

    return register


@exact(AUDIO)
def unfold_mean(m: Net, x: Tensor) -> Tensor:
    return x.unfold(2, 16, 4).mean(-1)


@exact(AUDIO)
def unfold_linear(m: Net, x: Tensor) -> Tensor:
    return m.lin(x.unfold(-1, 16, 8)).permute(0, 1, 3, 2).flatten(1, 2)


@exact(AUDIO)
def unfold_reflect(m: Net, x: Tensor) -> Tensor:
    return F.pad(x, (8, 8), mode="reflect").unfold(-1, 16, 4).mean(-1)


@exact(AUDIO)
def stft_abs(m: Net, x: Tensor) -> Tensor:
    return (
        torch.stft(x.flatten(0, 1), 16, 4, window=m.win, center=False, return_complex=True)
        .abs()
        .unflatten(0, (-1, 8))
        .flatten(1, 2)
    )


@exact(AUDIO)
def stft_real(m: Net, x: Tensor) -> Tensor:
    z = torch.view_as_real(
        torch.stft(x[:, 0], 16, 4, window=m.win, center=False, return_complex=True)
    )
    return z.permute(0, 3, 1, 2).flatten(1, 2)


@exact(AUDIO)
def stft_real_imag(m: Net, x: Tensor) -> Tensor:
    z = torch.stft(x[:, 0], 16, 4, window=m.win, center=False, return_complex=True)
    return torch.cat([z.real, z.imag], 1)


@exact(AUDIO)
def stft_power(m: Net, x: Tensor) -> Tensor:
    z = torch.stft(x.reshape(-1, x.shape[-1]), 16, 8, 12, m.win12, center=True, return_complex=True)
    z = z.reshape(x.shape[:-1] + z.shape[-2:])
    return z.abs().pow(2).flatten(1, 2)


@exact(AUDIO)
def stft_center(m: Net, x: Tensor) -> Tensor:
    return torch.stft(x[:, 0], 16, 4, window=m.win, return_complex=True).abs()


@exact(AUDIO)
def stft_center_constant(m: Net, x: Tensor) -> Tensor:
    return torch.stft(x[:, 0], 16, 4, window=m.win, pad_mode="constant", return_complex=True).abs()


@exact(AUDIO)
def stft_center_replicate(m: Net, x: Tensor) -> Tensor:
    return torch.stft(x[:, 0], 16, 4, window=m.win, pad_mode="replicate", return_complex=True).abs()


@exact(AUDIO)
def stft_two_sided(m: Net, x: Tensor) -> Tensor:
    return torch.stft(
        x[:, 0], 16, 4, window=m.win, onesided=False, normalized=True, return_complex=True
    ).abs()


@exact(AUDIO)
def stft_nowindow(m: Net, x: Tensor) -> Tensor:
    return torch.stft(x[:, 0], 16, return_complex=True).abs()


@exact(AUDIO)
def stft_mel_log(m: Net, x: Tensor) -> Tensor:
    z = torch.stft(x[:, 0], 16, 4, window=m.win, center=True, return_complex=True).abs() ** 2
    return torch.log(m.mel @ z + 1e-3)


@exact(AUDIO)
def stft_window_inside(m: Net, x: Tensor) -> Tensor:
    return torch.stft(
        x[:, 0], 16, 4, window=torch.hann_window(16, dtype=x.dtype), return_complex=True
    ).abs()


@exact(AUDIO)
def rfft_frames(m: Net, x: Tensor) -> Tensor:
    return torch.fft.rfft(x.unfold(-1, 16, 8) * m.win).abs().permute(0, 1, 3, 2).flatten(1, 2)


@exact(AUDIO)
def rfft_irfft_ola(m: Net, x: Tensor) -> Tensor:
    z = torch.fft.rfft(x.unfold(-1, 16, 8) * m.win)
    y = torch.fft.irfft(z * 0.5, n=16)
    a, b = y[..., :8], y[..., 8:]
    n, c, count, _ = a.shape
    out = F.pad(a.reshape(n, c, count * 8), (0, 8)) + F.pad(b.reshape(n, c, count * 8), (8, 0))
    return out


@exact(AUDIO)
def im2col_time(m: Net, x: Tensor) -> Tensor:
    y = F.unfold(x[:, :, None], (1, 4), stride=(1, 2))
    return y


@exact(AUDIO)
def im2col_padded(m: Net, x: Tensor) -> Tensor:
    return F.unfold(x[:, :, None], (1, 3), padding=(0, 1))


@exact(AUDIO)
def im2col_T1(m: Net, x: Tensor) -> Tensor:
    return F.unfold(x[..., None], (3, 1), padding=(1, 0))


@exact(AUDIO)
def ola_transposed(m: Net, x: Tensor) -> Tensor:
    y = (x[:, :1].unfold(-1, 16, 4) * m.win)[:, 0].transpose(1, 2)
    return F.conv_transpose1d(y, torch.eye(16, dtype=x.dtype)[:, None], stride=4)


@exact(AUDIO)
def conv_stft(m: Net, x: Tensor) -> Tensor:
    return F.conv1d(F.pad(x[:, :1], (8, 8), mode="reflect"), m.basis, stride=4)


@exact(AUDIO)
def conv_istft(m: Net, x: Tensor) -> Tensor:
    z = F.conv1d(F.pad(x[:, :1], (8, 8)), m.basis, stride=4)
    y = F.conv_transpose1d(z, m.basis, stride=4)
    return y[..., 8:-8]


@exact(AUDIO)
def conv_istft_cut(m: Net, x: Tensor) -> Tensor:
    z = F.conv1d(F.pad(x[:, :1], (8, 8)), m.basis, stride=4)
    y = F.conv_transpose1d(z, m.basis, stride=4)
    return y[..., 8:][..., : x.shape[-1] // 4 * 4]


@exact(AUDIO)
def up2_nearest(m: Net, x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2)


@exact(AUDIO)
def up3_linear(m: Net, x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=3, mode="linear")


@refused("by the length of the whole video")
def up2_align(m: Net, x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="linear", align_corners=True)


@exact(AUDIO)
def up2_size(m: Net, x: Tensor) -> Tensor:
    return F.interpolate(x, size=x.shape[-1] * 2)


@exact(AUDIO)
def down2_nearest(m: Net, x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=0.5)


@exact(AUDIO)
def down2_linear(m: Net, x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=0.5, mode="linear")


@exact(AUDIO)
def down4_linear(m: Net, x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=0.25, mode="linear")


@exact(AUDIO)
def down2_size(m: Net, x: Tensor) -> Tensor:
    return F.interpolate(x, size=x.shape[-1] // 2)


@refused("resizes time by 1.5")
def ratio_3_2_nearest(m: Net, x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=1.5)


@refused("is rounded")
def ratio_2_3_linear(m: Net, x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2 / 3, mode="linear")


@exact(AUDIO)
def unet_convt(m: Net, x: Tensor) -> Tensor:
    y = m.down(x)
    z = F.relu(m.up(y))
    return torch.cat([z[..., : x.shape[-1]], x], 1)


@exact(AUDIO)
def polyphase_up(m: Net, x: Tensor) -> Tensor:
    return F.conv_transpose1d(x[:, :1], m.h, stride=3)[..., 4:-4]


@exact(AUDIO)
def polyphase_ratio(m: Net, x: Tensor) -> Tensor:
    y = F.conv_transpose1d(x[:, :1], m.h, stride=3)
    return y[..., 4::2]


@exact(AUDIO)
def zero_stuff(m: Net, x: Tensor) -> Tensor:
    n, c, t = x.shape
    y = torch.stack([x, torch.zeros_like(x), torch.zeros_like(x)], -1).reshape(n, c, 3 * t)
    return F.conv1d(y[:, :1], m.h.flip(-1), padding=4)[..., ::2]


@exact(AUDIO)
def sinc_whole(m: Net, x: Tensor) -> Tensor:
    n, c, length = x.shape
    w = x.reshape(-1, length)
    y = F.conv1d(F.pad(w, (6, 6))[:, None], m.kernel)
    return y.transpose(1, 2).reshape(n, c, -1)


@exact(AUDIO)
def preemphasis_cat(m: Net, x: Tensor) -> Tensor:
    return torch.cat([x[..., :1], x[..., 1:] - 0.97 * x[..., :-1]], -1)


@exact(AUDIO)
def preemphasis_inplace(m: Net, x: Tensor) -> Tensor:
    y = x.clone()
    y[..., 1:] -= 0.97 * x[..., :-1]
    return y


@exact(AUDIO)
def pixel_shuffle1d(m: Net, x: Tensor) -> Tensor:
    n, _c, t = x.shape
    return x.view(n, 4, 2, t).permute(0, 1, 3, 2).reshape(n, 4, 2 * t)


@exact(AUDIO)
def space_to_depth(m: Net, x: Tensor) -> Tensor:
    n, c, t = x.shape
    return x.view(n, c, t // 4, 4).permute(0, 1, 3, 2).reshape(n, 4 * c, t // 4)


@exact(AUDIO)
def dct_frames(m: Net, x: Tensor) -> Tensor:
    y = x.unfold(-1, 16, 8) @ m.dct
    return y.permute(0, 1, 3, 2).flatten(1, 2)


@exact(AUDIO)
def delta(m: Net, x: Tensor) -> Tensor:
    return F.conv1d(F.pad(x, (2, 2), mode="replicate"), m.delta, groups=8)


@exact(AUDIO)
def decimate(m: Net, x: Tensor) -> Tensor:
    return x[..., ::4]


@exact(SPECTRA)
def im2col_tf(m: Net, x: Tensor) -> Tensor:
    n, _c, t, f = x.shape
    y = F.unfold(x, 3, padding=1)
    return (m.w @ y).view(n, 2, t, f)


@exact(SPECTRA)
def im2col_tf_stride(m: Net, x: Tensor) -> Tensor:
    n, c, _t, f = x.shape
    y = F.unfold(x, (3, 2), stride=(2, 2), padding=(1, 0))
    return y.view(n, c * 6, -1, f // 2)


@exact(SPECTRA)
def im2col_tf_mean(m: Net, x: Tensor) -> Tensor:
    n, c, t, f = x.shape
    return F.unfold(x, (3, 3), padding=1).view(n, c, 9, t, f).amax(2)


@exact(SPECTRA)
def unfold_twice(m: Net, x: Tensor) -> Tensor:
    return F.pad(x, (1, 1, 1, 1)).unfold(2, 3, 1).unfold(3, 3, 1).amax((-1, -2))


@exact(SPECTRA)
def local_attention(m: Net, x: Tensor) -> Tensor:
    n, c, t, f = x.shape
    k = F.unfold(x, 3, padding=1).view(n, c, 9, t, f)
    a = (x[:, :, None] * k).sum(1, keepdim=True).softmax(2)
    return (a * k).sum(2)


@exact(SPECTRA)
def im2col_frames(m: Net, x: Tensor) -> Tensor:
    n, c, t, f = x.shape
    y = F.unfold(x.transpose(1, 2).reshape(n * t, c, 1, f), (1, 3), padding=(0, 1))
    return y.view(n, t, c * 3, f).transpose(1, 2)


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.filterwarnings("ignore:A window was not provided")
def test_it_is_the_models_answer_however_it_is_cut(name: str) -> None:
    construct, sizes = EXACT[name]
    case = Case(
        lambda: Net(construct, sizes[1]),
        sizes=sizes,
        frames=FRAMES[sizes],
        options={"time_dim": 2},
        chunkings=1,
    )
    assert judge(case) in (RIGHT, PARTLY)


@pytest.mark.parametrize("name", NOT)
def test_what_needs_more_than_a_state_is_refused(name: str) -> None:
    construct, reason = NOT[name]
    case = Case(lambda: Net(construct, 8), sizes=AUDIO, options={"time_dim": 2}, says=reason)
    assert judge(case) == REFUSED
