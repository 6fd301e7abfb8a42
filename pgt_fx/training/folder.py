"""Videos in folders, one folder per class: ``root/CLASS/*.mp4``."""

from __future__ import annotations

import gc
import hashlib
from collections.abc import Iterator
from fractions import Fraction
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from pgt_fx import video as files
from pgt_fx.core.errors import OptionError, PgtError, VideoError
from pgt_fx.core.options import _choice

KINDS = frozenset({".mp4", ".avi", ".mkv", ".webm", ".mov"})

_PARTS = 1 << 20  # places of a crop: more than a frame has pixels along a side


class FolderError(PgtError, ValueError):
    """A folder of videos is missing, or is not laid out as expected."""


def classes_of(root: Path) -> list[str]:
    """Names of the classes: the folders in ``root``, sorted.

    Raises:
        FolderError: when there is none.
    """
    if not root.is_dir():
        raise FolderError(f"no folder of videos {root}; expected {root}/CLASS/*.mp4")
    found = sorted(p.name for p in root.iterdir() if p.is_dir())
    if not found:
        raise FolderError(f"{root} holds no folders; expected one per class, with videos")
    return found


class VideoFolder(Dataset[tuple[Tensor, int]]):
    """Each video as (3, T, size, size) float32, read by :func:`pgt_fx.video.read`, with the number
    of its class.

    Args:
        root: folder with one folder per class, whose names are sorted.
        frames: T.
        stride: τ, take every τ-th frame.
        size: height and width in pixels.
        train: a random start, a shorter side of 1 to 8/7 times ``size``, a random square in the
            frame, and a mirror image every second time, drawn from (seed, epoch, index): the same
            for any number of workers. Otherwise the centre, in time and space.
        fps: frames a second, which T and τ count, whatever a file's own rate; None: its own frames.
        short: "repeat" the last frame of a video that is too short; "refuse" it.

    Attributes:
        classes: names of the classes.

    Raises:
        FolderError: no such folder, no class in it, or no video in a class.
        OptionError: for an unknown ``short`` or an ``fps`` that makes no sense.
        VideoError: from an item whose file can't be read. A plain ``DataLoader`` buries it in the
            traceback of a worker; :class:`VideoLoader` doesn't.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        frames: int,
        stride: int,
        size: int,
        train: bool,
        seed: int = 0,
        fps: float | Fraction | None = None,
        short: files.Short = "repeat",
    ) -> None:
        _choice("short", short, ("repeat", "refuse"))
        if not isinstance(root, (str, PathLike)):
            raise OptionError(f"root: expected the folder of the videos, got {root!r}")
        self.root = Path(root)
        self.frames, self.stride, self.size = frames, stride, size
        self.train, self.seed, self.epoch = train, seed, 0
        self.fps, self.short = files.rate(fps), short
        self.classes = classes_of(self.root)
        self.items: list[tuple[Path, int]] = []
        for number, name in enumerate(self.classes):
            found = sorted(p for p in (self.root / name).iterdir() if p.suffix.lower() in KINDS)
            if not found:
                kinds = ", ".join(sorted(KINDS))
                raise FolderError(f"{self.root / name} holds no video ({kinds})")
            self.items += [(path, number) for path in found]

    def set_epoch(self, epoch: int) -> None:
        """Draw anew; called by :func:`pgt_fx.training.fit`."""
        self.epoch = epoch

    def fingerprint(self) -> dict[str, Any]:
        """What is given, wherever the folder lies: how videos are cut, and their names and sizes.

        Raises:
            FolderError: for a video that is gone, or can't be looked at.
        """
        listed = hashlib.sha256()
        for path, label in self.items:
            try:
                size = path.stat().st_size
            except OSError as error:
                raise FolderError(f"{path} can't be read: {error.strerror}") from error
            listed.update(f"{label} {path.relative_to(self.root).as_posix()} {size}\n".encode())
        return {
            "frames": self.frames,
            "stride": self.stride,
            "size": self.size,
            "fps": None if self.fps is None else str(self.fps),
            "short": self.short,
            "seed": self.seed if self.train else None,
            "train": self.train,
            "classes": self.classes,
            "videos": f"{len(self.items)} by name and size, sha256 {listed.hexdigest()[:12]}",
        }

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        path, label = self.items[index]
        number = (self.seed * 1_000_003 + self.epoch) * 1_000_003 + index
        generator = torch.Generator().manual_seed(number % 2**63)

        def draw(below: int) -> int:
            return int(torch.randint(max(1, below), (), generator=generator, device="cpu"))

        spare = files.count(path, fps=self.fps) - (self.frames - 1) * self.stride - 1
        start = max(0, draw(spare + 1) if self.train else spare // 2)
        side = self.size + (draw(self.size // 7 + 1) if self.train else 0)
        at = (draw(_PARTS + 1) / _PARTS, draw(_PARTS + 1) / _PARTS) if self.train else (0.5, 0.5)
        clip = files.read(
            path,
            stride=self.stride,
            size=side,
            crop=self.size,
            at=at,
            frames=self.frames,
            start=start,
            fps=self.fps,
            short=self.short,
        )  # (3, T, size, size)
        if self.train and draw(2):
            clip = clip.flip(3)
        return clip, label


class VideoLoader(DataLoader[Any]):
    """A ``DataLoader`` of a :class:`VideoFolder`: batches as the model takes them, and labels.

    A file that can't be read ends the loop with its own :class:`VideoError`, whether workers read
    or not.

    Args:
        data: the videos.
        batch: how many make a batch.
        ratio: frames of the model's paths to one another (``Progressive.clip_ratio``).
        options: of ``DataLoader``.
    """

    def __init__(
        self, data: VideoFolder, batch: int, *, ratio: tuple[int, ...] = (1,), **options: Any
    ) -> None:
        super().__init__(_ErrorsAsItems(data), batch, collate_fn=partial(_batch, ratio), **options)

    # A generator, to torch one of its private iterators.
    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        if self.num_workers:
            # A decoder that is collected waits for its threads. In a worker, which is forked from
            # this process, those of a decoder of this process don't run: it would wait for ever.
            gc.collect()
        for batch in super().__iter__():
            if isinstance(batch, VideoError):
                raise batch
            yield batch


class _ErrorsAsItems(Dataset[Any]):
    """A folder whose errors are items: torch makes one text of what a worker raises."""

    def __init__(self, data: VideoFolder) -> None:
        self.data = data

    def set_epoch(self, epoch: int) -> None:
        self.data.set_epoch(epoch)

    def fingerprint(self) -> dict[str, Any]:
        return self.data.fingerprint()

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Any:
        try:
            return self.data[index]
        except VideoError as error:
            return error


def _batch(ratio: tuple[int, ...], items: list[Any]) -> Any:
    return next((i for i in items if isinstance(i, VideoError)), None) or collate(ratio, items)


def collate(ratio: tuple[int, ...], items: list[tuple[Tensor, int]]) -> tuple[Any, Tensor]:
    """Videos of a :class:`VideoFolder` as one batch: the videos as the model takes them, labels."""
    videos = torch.stack([video for video, _ in items])
    return as_model_takes_it(videos, ratio), torch.tensor([label for _, label in items])


def as_model_takes_it(videos: Tensor, ratio: tuple[int, ...]) -> Any:
    """(N, 3, T, H, W) as one path, or as several: path i gets ``ratio[i]`` of every
    ``max(ratio)`` frames, as SlowFast's slow path does."""
    if len(ratio) == 1:
        return videos
    return [videos[:, :, :: max(ratio) // r] for r in ratio]
