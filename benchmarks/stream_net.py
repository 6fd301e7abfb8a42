"""The net of the stream benchmark: what continual-inference can express too.

A SlowOnly-like stack of bottlenecks: time is touched by the 3x1x1 convolution at the beginning of
each bottleneck of the last two stages and by nothing else. Three such bottlenecks read 3 frames
each way, so a window of 8 frames holds all that its fifth frame reads, and every way of computing
dense features gives the same numbers.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

LOOK_AHEAD = 3
STAGES = ((64, 2, 1), (128, 2, 1), (256, 2, 3), (512, 1, 3))  # inner channels, blocks, temporal k


class Bottleneck(nn.Module):
    """kx1x1, 1x3x3, 1x1x1 with BatchNorm, beside a shortcut."""

    def __init__(self, into: int, inner: int, kernel: int, stride: int) -> None:
        super().__init__()
        out, pad = 4 * inner, kernel // 2
        self.branch = nn.Sequential(
            nn.Conv3d(into, inner, (kernel, 1, 1), padding=(pad, 0, 0), bias=False),
            nn.BatchNorm3d(inner),
            nn.ReLU(),
            nn.Conv3d(inner, inner, (1, 3, 3), (1, stride, stride), (0, 1, 1), bias=False),
            nn.BatchNorm3d(inner),
            nn.ReLU(),
            nn.Conv3d(inner, out, 1, bias=False),
            nn.BatchNorm3d(out),
        )
        self.shortcut: nn.Module = nn.Identity()
        if into != out or stride > 1:
            projection = nn.Conv3d(into, out, 1, (1, stride, stride), bias=False)
            self.shortcut = nn.Sequential(projection, nn.BatchNorm3d(out))
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.branch(x) + self.shortcut(x))


def build(width: float = 1.0, seed: int = 0) -> nn.Sequential:
    """The net in eval mode, with norms that have seen data, so that activations stay near 1."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        into = int(64 * width)
        layers: list[nn.Module] = [
            nn.Conv3d(3, into, (1, 7, 7), (1, 2, 2), (0, 3, 3), bias=False),
            nn.BatchNorm3d(into),
            nn.ReLU(),
            nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1)),
        ]
        for number, (channels, blocks, kernel) in enumerate(STAGES):
            inner = int(channels * width)
            for block in range(blocks):
                stride = 2 if number and not block else 1
                layers.append(Bottleneck(into, inner, kernel, stride))
                into = 4 * inner
        net = nn.Sequential(*layers)
        with torch.no_grad():
            net.train()
            for _ in range(3):
                net(torch.randn(2, 3, 8, 64, 64))
    return net.eval()


def continual(net: nn.Sequential) -> Any:
    """The same net out of the modules of continual-inference, with the same weights.

    Raises:
        ImportError: when the package is not installed.
    """
    import continual as co

    def convert(module: nn.Module) -> Any:
        if isinstance(module, nn.Conv3d):
            return co.Conv3d.build_from(module, temporal_fill="zeros")
        if isinstance(module, nn.Sequential):
            return co.Sequential(*[convert(m) for m in module])
        if isinstance(module, Bottleneck):
            branch = convert(module.branch)
            if isinstance(module.shortcut, nn.Identity):
                shortcut: Any = co.Delay(0)
            else:
                shortcut = convert(module.shortcut)
            sides = co.BroadcastReduce(shortcut, branch, reduce="sum", auto_delay=True)
            return co.Sequential(sides, co.forward_stepping(nn.ReLU()))
        # Works on single frames; the library rewrites its methods in place.
        return co.forward_stepping(copy.deepcopy(module))

    return convert(net).eval()


def torchstream(net: nn.Sequential, space: int) -> Any:
    """A function that makes a new stream of torchstream-lib around the net.

    The library takes the net as one black box with a window. Its solver finds that window by
    running the net on inputs with holes; here it is given the window, which is in its favour.

    Raises:
        ImportError: when the package is not installed.
    """
    from torchstream import SeqSpec, SlidingWindowParams, SlidingWindowStream

    span = 2 * LOOK_AHEAD + 1
    with torch.inference_mode():
        out = net(torch.zeros(1, 3, 1, space, space, device=next(net.parameters()).device))
    window = SlidingWindowParams(span, 1, left_pad=LOOK_AHEAD, right_pad=LOOK_AHEAD)
    given = SeqSpec(1, 3, -1, space, space)
    found = SeqSpec(1, out.shape[1], -1, *out.shape[3:])
    return lambda: SlidingWindowStream(net, window, given, found)
