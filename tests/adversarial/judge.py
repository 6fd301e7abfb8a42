"""What models are held to that try to be silently wrong: right, or refused in our words.

A case is a model, a clip, and videos on both sides of whatever the model makes a difference of.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from oracles import pieces, random_chunks, relative_error, stitch
from torch import Tensor, nn

import pgt_fx
from pgt_fx.core.errors import PgtError

EXACT = 1e-9
RIGHT, PARTLY, REFUSED = "right", "partly", "refused"


class Wrong(AssertionError):
    """A step answered, and not as the model does."""


@dataclass(frozen=True)
class Case:
    """A model and what is to become of it.

    Attributes:
        make: gives the model.
        expected: "right": every video is answered; "partly": the clip is, and others may be
            refused; "refused": by ``transform``.
        sizes: of the example, (N, C, T, H, W) or (N, C, T).
        frames: lengths of the videos that are tried.
        options: of ``transform``.
        says: what a refusal says.
        change: is done to the model after it was transformed and has run once.
        chunkings: random ones, beside those of equal chunks.
    """

    make: Callable[[], nn.Module]
    expected: str = RIGHT
    sizes: tuple[int, ...] = (1, 2, 8, 4, 4)
    frames: Sequence[int] = (1, 2, 3, 8, 9, 11, 24)
    others: Sequence[tuple[int, ...]] = ()
    options: dict[str, Any] = field(default_factory=dict)
    says: str = ""
    change: Callable[[nn.Module], Any] | None = None
    chunkings: int = 0


class Along(nn.Module):
    """A convolution along time, and what a case does with its answer."""

    def __init__(self, then: Callable[[Any, Tensor], Tensor], **parts: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv3d(2, 2, (3, 1, 1), padding=(1, 0, 0))
        self.then = then
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: Tensor) -> Tensor:
        return self.then(self, self.conv(x))


def judge(case: Case) -> str:
    """ "right", "partly" or "refused".

    Raises:
        Wrong: for an answer that is not the model's.
        Exception: one that is not of this package.
    """
    torch.manual_seed(1)
    model = case.make().double().eval()
    clip = torch.randn(case.sizes, dtype=torch.float64)
    try:
        prog = pgt_fx.transform(model, clip, future="wait", **case.options)
    except PgtError as error:
        assert case.says in str(error), str(error)
        return REFUSED
    length = case.sizes[2]
    assert _matters(model, clip), "the model does not look at the order of frames"
    refused = 0
    if case.change is not None:
        _compare(prog, model, clip, case)
        case.change(model)
    for sizes in (case.sizes, *case.others):
        for frames in dict.fromkeys((length, *case.frames)):
            video = torch.randn(*sizes[:2], frames, *sizes[3:], dtype=torch.float64)
            try:
                _compare(prog, model, video, case)
            except PgtError as error:
                assert case.says in str(error), str(error)
                at_clip = (sizes, frames) == (case.sizes, length) and case.change is None
                assert not at_clip, f"the clip itself is refused: {error}"
                refused += taken_by(model, video)
    return PARTLY if refused else RIGHT


def taken_by(model: nn.Module, video: Tensor) -> bool:
    """Whether the model itself takes a video."""
    try:
        copy.deepcopy(model)(video.clone())
    except Exception:
        return False
    return True


def _matters(model: nn.Module, clip: Tensor) -> bool:
    with torch.no_grad():
        fresh = copy.deepcopy(model)
        return not torch.allclose(fresh(clip), copy.deepcopy(model)(clip.flip(2)))


def _compare(prog: pgt_fx.Progressive, model: nn.Module, video: Tensor, case: Case) -> None:
    """Where the model takes the video the steps must answer as it does, however it is cut."""
    with torch.no_grad():
        if not taken_by(model, video):
            return
        whole = copy.deepcopy(model)(video.clone())
        frames = video.shape[2]
        draw = random.Random(frames)
        drawn = [random_chunks(frames, 2 + frames // 4, draw) for _ in range(case.chunkings)]
        for chunks in (*_chunkings(frames), *drawn):
            outs, state = [], prog.init_state()
            for number, piece in enumerate(pieces(video, chunks)):
                out, state = prog.step(state, piece, last=number == len(chunks) - 1)
                outs.append(out)
            (dim,) = prog.time_dims
            given = [out for out in outs if out is not None]
            found = stitch(outs, dim) if dim is not None else given[-1]
            if found.shape != whole.shape:
                raise Wrong(f"{frames} frames in {chunks}: {found.shape}, not {whole.shape}")
            if whole.numel() and not relative_error(found, whole) < EXACT:
                error = relative_error(found, whole)
                raise Wrong(f"{frames} frames in {chunks}: off by {error}")


def _chunkings(frames: int) -> list[list[int]]:
    """The whole, and two ways to cut it."""
    out = [[frames]]
    for length in (3, 64) if frames > 64 else (1, 3):
        if frames > length:
            rest = frames % length
            out.append([length] * (frames // length) + ([rest] if rest else []))
    return out
