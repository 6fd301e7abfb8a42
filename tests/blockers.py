"""Models with one operator each that can't be made progressive; the line says ``# blocked``.

Written the way people write them: what is wrong with each is only that it mixes time in a way that
has no bounded window and no state, or that depends on the data or on the number of frames.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

T = 8


@torch.library.custom_op("pgt_fx_tests::flicker", mutates_args=())
def flicker(x: Tensor) -> Tensor:
    """An operator from somebody's extension: nothing is known of it."""
    return x - x.roll(1, 2)


@flicker.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


@dataclass(frozen=True)
class Blocker:
    """A model and the operator at which it must be refused."""

    model: type[nn.Module]
    op: str


BLOCKERS: list[Blocker] = []


def blocker(op: str) -> Callable[[type[nn.Module]], type[nn.Module]]:
    def register(model: type[nn.Module]) -> type[nn.Module]:
        BLOCKERS.append(Blocker(model, op))
        return model

    return register


class Net(nn.Module):
    """Features (N, 4, T) from a clip (N, 3, T); subclasses mix time in ``mix``."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv1d(3, 4, 3, padding=1)
        self.head = nn.Conv1d(4, 5, 1)
        self.make()

    def make(self) -> None:
        """Layers of a subclass."""

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.mix(self.stem(x)))

    def mix(self, x: Tensor) -> Tensor:
        raise NotImplementedError


@blocker("flip")
class BothDirections(Net):
    def mix(self, x: Tensor) -> Tensor:
        return x + x.flip(2)  # blocked


@blocker("sort")
class RankPooling(Net):
    def mix(self, x: Tensor) -> Tensor:
        return x.sort(2).values  # blocked


@blocker("topk")
class BestFrames(Net):
    def mix(self, x: Tensor) -> Tensor:
        return x - x.topk(3, 2).values.mean(2, keepdim=True)  # blocked


@blocker("argmax")
class KeyFrame(Net):
    def mix(self, x: Tensor) -> Tensor:
        best = x.argmax(2, keepdim=True)  # blocked
        return x * best


@blocker("gather")
class Resorted(Net):
    def mix(self, x: Tensor) -> Tensor:
        order = (x * 100).long() % 4
        return x.gather(2, order)  # blocked


@blocker("index_select")
class Jumps(Net):
    def mix(self, x: Tensor) -> Tensor:
        first = x[:1, :1].mean((0, 1)).long() % 4
        return x.index_select(2, first)  # blocked


@blocker("roll")
class NextFrame(Net):
    def mix(self, x: Tensor) -> Tensor:
        return x - torch.roll(x, -1, 2)  # blocked


@blocker("flicker")
class Extension(Net):
    def mix(self, x: Tensor) -> Tensor:
        return flicker(x)  # blocked


@blocker("fft")
class Spectrum(Net):
    def mix(self, x: Tensor) -> Tensor:
        return torch.fft.fft(x, dim=2).abs()  # blocked


@blocker("masked_fill")
class HalfMask(Net):
    """The first half of the video sees all of it: how far that goes depends on its length."""

    def mix(self, x: Tensor) -> Tensor:
        y = x.transpose(1, 2)
        at = torch.arange(y.shape[1])
        hidden = (at[:, None] < at[None, :]) & (at[:, None] > y.shape[1] // 2)
        weights = (y @ x).masked_fill(hidden, float("-inf")).softmax(-1)  # blocked
        return (weights @ y).transpose(1, 2)


@blocker("cummax")
class Peak(Net):
    def mix(self, x: Tensor) -> Tensor:
        highest = x.cummax(2).indices  # blocked
        return x * highest


@blocker("median")
class Background(Net):
    def mix(self, x: Tensor) -> Tensor:
        return x - x.median(2, keepdim=True).values  # blocked


@blocker("linear")
class MixerMLP(Net):
    def make(self) -> None:
        self.tokens = nn.Linear(T, T)

    def mix(self, x: Tensor) -> Tensor:
        return x + self.tokens(x)  # blocked


@blocker("linear")
class FlatHead(Net):
    def make(self) -> None:
        self.flat = nn.Linear(4 * T, 4)

    def mix(self, x: Tensor) -> Tensor:
        return self.flat(x.flatten(1)).unsqueeze(2)  # blocked


@blocker("recurrent")
class BothWays(Net):
    def make(self) -> None:
        self.rnn = nn.GRU(4, 2, batch_first=True, bidirectional=True)

    def mix(self, x: Tensor) -> Tensor:
        return self.rnn(x.transpose(1, 2))[0].transpose(1, 2)  # blocked


@blocker("unbind")
class Unrolled(Net):
    def mix(self, x: Tensor) -> Tensor:
        frames = x.unbind(2)  # blocked
        return torch.stack([a - b for a, b in pairwise(frames)], 2)


@blocker("scatter")
class Placed(Net):
    def mix(self, x: Tensor) -> Tensor:
        where = (x * 10).long() % 4
        return torch.zeros_like(x).scatter(2, where, x)  # blocked


@blocker("linalg_vector_norm")
class UnitEnergy(Net):
    def mix(self, x: Tensor) -> Tensor:
        return F.normalize(x, dim=2)  # blocked


@blocker("interpolate")
class EightFrames(Net):
    def mix(self, x: Tensor) -> Tensor:
        return F.interpolate(x, size=T)  # blocked


@blocker("nonzero")
class Active(Net):
    def mix(self, x: Tensor) -> Tensor:
        moving = x.abs().mean((0, 1)) > 0.1
        return x[:, :, moving]  # blocked


@blocker("kthvalue")
class Quantile(Net):
    def mix(self, x: Tensor) -> Tensor:
        return x - x.kthvalue(2, 2, keepdim=True).values  # blocked


@blocker("select")
class FifthFrame(Net):
    def mix(self, x: Tensor) -> Tensor:
        return x - x[:, :, 5].unsqueeze(2)  # blocked


@blocker("div")
class PerLength(Net):
    def mix(self, x: Tensor) -> Tensor:
        return x / x.shape[2]  # blocked


@blocker("grid_sample")
class Warp(Net):
    def mix(self, x: Tensor) -> Tensor:
        where = torch.stack([x[:, 0].tanh(), x[:, 1].tanh()], -1).unsqueeze(1)
        return F.grid_sample(x.unsqueeze(2), where, align_corners=False)[:, :, 0]  # blocked
