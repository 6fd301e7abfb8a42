"""Videos whose label is the order of two short events (the paper's "grind beans … pour milk").

There are K kinds of events, each a moving disc of its own texture and hue that is there for a few
frames. A video shows two of them, one after the other; its class is the ordered pair, so that
there are K·(K - 1) classes. No clip of T' frames holds frames of both: what a clip shows tells
which kinds there are and never which came first, however many clips are averaged. Checkered discs
drift through all frames, and all frames are noisy.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import Dataset


@dataclass(frozen=True)
class Events:
    """What the videos are like.

    Attributes:
        kinds: K, of events.
        frames, size: T, and height = width in pixels.
        clip: T'; from the last frame of the first event to the first of the second there are at
            least so many frames between them that no clip of T' holds a frame of both.
        event: frames of an event.
        slack: the gap is drawn from clip … clip + slack.
        distractors: discs of another texture in all frames.
        noise: standard deviation; textures have amplitude 1.
    """

    kinds: int = 3
    frames: int = 36
    size: int = 16
    clip: int = 8
    event: int = 3
    slack: int = 2
    distractors: int = 2
    noise: float = 0.5

    @property
    def classes(self) -> int:
        return self.kinds * (self.kinds - 1)

    def pair(self, label: int) -> tuple[int, int]:
        """Kinds of the first and of the second event of a class."""
        first, second = divmod(label, self.kinds - 1)
        return first, second + (second >= first)

    def reversed(self, label: int) -> int:
        """The class of the same two kinds in the other order."""
        first, second = self.pair(label)
        return second * (self.kinds - 1) + first - (first > second)

    def gaps(self) -> tuple[int, int]:
        """Least and greatest distance from the first event's start to the second's."""
        least = self.event + self.clip - 1
        return least, least + self.slack


class OrderOfEvents(Dataset[tuple[Tensor, int]]):
    """``count`` videos as (3, T, size, size) float32 with their classes, equally many of each.

    Args:
        events: what they are like.
        count: how many.
        seed: the same videos for the same seed.
    """

    def __init__(self, events: Events, count: int, seed: int) -> None:
        self.events = events
        self.generator = torch.Generator().manual_seed(seed)
        self.labels = torch.arange(count) % events.classes
        self.labels = self.labels[torch.randperm(count, generator=self.generator)]
        self.starts = self._starts(count)
        parts = [
            self._videos(self.labels[i : i + 256], self.starts[i : i + 256])
            for i in range(0, count, 256)
        ]
        self.videos = torch.cat(parts)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.videos[index].float(), int(self.labels[index])

    def _starts(self, count: int) -> Tensor:
        """(count, 2): first frames of the first and of the second event."""
        e = self.events
        least, greatest = e.gaps()
        gap = torch.randint(least, greatest + 1, (count,), generator=self.generator)
        room = (e.frames - e.event - gap).float()
        first = (torch.rand(count, generator=self.generator) * (room + 1)).long()
        return torch.stack([first, first + gap], 1)

    def _videos(self, labels: Tensor, starts: Tensor) -> Tensor:
        e, n = self.events, len(labels)
        out = torch.randn(n, 3, e.frames, e.size, e.size, generator=self.generator) * e.noise
        time = torch.arange(e.frames).expand(n, -1)
        for _ in range(e.distractors):
            self._draw(out, None, torch.ones(n, e.frames, dtype=torch.bool))
        pairs = torch.tensor([e.pair(c) for c in range(e.classes)])[labels]
        for kind in range(e.kinds):
            on = torch.zeros(n, e.frames, dtype=torch.bool)
            for place in (0, 1):
                begun = (time >= starts[:, place, None]) & (pairs[:, place, None] == kind)
                on |= begun & (time < starts[:, place, None] + e.event)
            self._draw(out, kind, on)
        return out.half()  # halves the memory of the set; the noise is far coarser

    def _draw(self, out: Tensor, kind: int | None, on: Tensor) -> None:
        """Add a moving textured disc where ``on`` (n, T); kind None: a distractor."""
        e, n, g = self.events, len(out), self.generator
        time = torch.arange(e.frames, dtype=torch.float32)
        start = torch.rand(n, 2, 1, generator=g) * e.size
        speed = torch.randn(n, 2, 1, generator=g) * 0.5
        y, x = ((start + speed * time) % e.size).unbind(1)  # (n, T) each; the frame is a torus
        radius = (0.2 + 0.08 * torch.rand(n, 1, generator=g)) * e.size
        grid = torch.arange(e.size, dtype=torch.float32)
        dy = (grid[:, None] - y[..., None, None] + e.size / 2) % e.size - e.size / 2
        dx = (grid[None, :] - x[..., None, None] + e.size / 2) % e.size - e.size / 2
        inside = dy.square() + dx.square() <= radius[..., None, None].square()
        phase = (torch.rand(n, 1, 1, 1, generator=g) * 4).floor()
        stripes = ((grid + phase) % 4 < 2).float() * 2 - 1
        stripes = stripes.expand(n, 1, e.size, e.size)
        if kind is None:
            pattern = stripes * stripes.transpose(-1, -2)
        else:
            pattern = stripes if kind % 2 else stripes.transpose(-1, -2)
        colour = 0.6 + 0.8 * torch.rand(n, 3, 1, 1, 1, generator=g)
        if kind is not None:  # one channel is strong: the hue of the kind
            hue = torch.full((3,), 0.0)
            hue[kind % 3] = 2.0
            colour = colour * hue[:, None, None, None]
        shape = (inside & on[..., None, None]) * pattern
        out += colour * shape[:, None]
