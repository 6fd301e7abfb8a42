"""Videos in folders, one folder per class: ``root/CLASS/*.mp4``."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from pgt_fx import video as files
from pgt_fx.errors import PgtError

KINDS = frozenset({".mp4", ".avi", ".mkv", ".webm", ".mov"})


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
    """Each video as (3, T, size, size) float32, normalised as :mod:`pgt_fx.video` does, with the
    number of its class. A video that is too short repeats its last frame.

    Args:
        root: folder with one folder per class, whose names are sorted.
        frames: T.
        stride: τ, take every τ-th frame.
        size: height and width in pixels.
        train: a random start, a random square of 7/8 to 1 of the short side, and a mirror image
            every second time, drawn from (seed, epoch, index): alike for any number of workers.
            Otherwise the centre, in time and space.

    Attributes:
        classes: names of the classes.

    Raises:
        FolderError: no such folder, no class in it, or no video in a class.
    """

    def __init__(
        self, root: str | Path, *, frames: int, stride: int, size: int, train: bool, seed: int = 0
    ) -> None:
        self.root = Path(root)
        self.frames, self.stride, self.size = frames, stride, size
        self.train, self.seed, self.epoch = train, seed, 0
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

        spare = files.count(path) - (self.frames - 1) * self.stride - 1
        start = max(0, draw(spare + 1) if self.train else spare // 2)
        side = self.size + (draw(self.size // 7 + 1) if self.train else 0)
        clip = files.read(
            path, stride=self.stride, size=side, frames=self.frames, start=start
        )  # (3, T, side, side)
        if self.train:
            top, left = draw(side - self.size + 1), draw(side - self.size + 1)
            clip = clip[:, :, top : top + self.size, left : left + self.size]
            clip = clip.flip(3) if draw(2) else clip
        missing = self.frames - clip.shape[1]
        if missing:
            clip = torch.cat([clip, clip[:, -1:].expand(-1, missing, -1, -1)], 1)
        return clip.contiguous(), label


def as_model_takes_it(videos: Tensor, ratio: tuple[int, ...]) -> Any:
    """(N, 3, T, H, W) as one path, or as several: path i gets ``ratio[i]`` of every
    ``max(ratio)`` frames, as SlowFast's slow path does."""
    if len(ratio) == 1:
        return videos
    return [videos[:, :, :: max(ratio) // r] for r in ratio]
