"""What a spelling is held to: its model is answered exactly however the video is cut, or it is
refused for what it computes, and not for how it is written.
"""

from __future__ import annotations

import copy
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from oracles import pieces, random_chunks, relative_error
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import pgt_fx
from pgt_fx.core.errors import PgtError

EXACT = 1e-9
CHANNELS = 4
Call = Callable[[Any, Any], Any]


class Net(nn.Module):
    """Layers along time that spellings share, and what one of them does with its clip.

    Args:
        call: is given the module and the clip.
        parts: modules of its own, by name.
    """

    def __init__(self, call: Call, **parts: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(0)
        c = CHANNELS
        self.conv = nn.Conv3d(c, c, (3, 1, 1), padding=(1, 0, 0))
        self.bare = nn.Conv3d(c, c, (3, 1, 1))
        self.down = nn.Conv3d(c, c, (3, 1, 1), stride=(2, 1, 1), padding=(1, 0, 0))
        self.up = nn.ConvTranspose3d(c, c, (2, 1, 1), stride=(2, 1, 1))
        self.one = nn.Conv3d(c, c, 1)
        self.call = call
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: Any) -> Any:
        return self.call(self, x)


@dataclass(frozen=True)
class Spelling:
    """A construct, and what is to become of it.

    Attributes:
        call: what the model does with its clip, given a :class:`Net`.
        refused: a pattern that the reason of its refusal by ``transform`` has; "": it is exact.
        sizes: of the clip, (N, C, T, H, W) unless ``dim`` says where time is; several: of a list of
            clips, whose frames are in a whole ratio.
        dim: of time.
        frames: lengths of the videos that are tried, of the first path.
        only: the lengths that are answered, of those that the model takes; the others are refused.
        parts: modules of its own, made anew for each model.
        options: of ``transform``.
    """

    call: Call
    refused: str = ""
    sizes: tuple[Any, ...] = (2, CHANNELS, 8, 4, 4)
    dim: int = 2
    frames: Sequence[int] = (1, 2, 3, 5, 8, 9, 12, 17)
    only: Callable[[int], bool] = lambda frames: True
    parts: Callable[[], dict[str, nn.Module]] = dict
    options: dict[str, Any] = field(default_factory=dict)

    def clip(self, frames: int | None = None, rows: int | None = None) -> Any:
        """Random input of so many frames."""
        several = isinstance(self.sizes[0], tuple)
        each = self.sizes if several else (self.sizes,)
        first = each[0][self.dim]
        out = []
        for sizes in each:
            now = list(sizes)
            if frames is not None:
                now[self.dim] = sizes[self.dim] // first * frames
            if rows is not None:
                now[0] = rows
            out.append(torch.randn(now, dtype=torch.float64))
        return out if several else out[0]


#: Spellings of each table that are plainly run; the others are marked full.
FIRST = 5


def cases(tables: dict[str, dict[str, Spelling]], slow: Sequence[str] = ()) -> list[Any]:
    """The parameters of a test: a spelling with its table's name and its own.

    Args:
        slow: of which the capture takes torch seconds.
    """
    out = []
    for table, spellings in tables.items():
        for number, (name, spelling) in enumerate(spellings.items()):
            marks = [pytest.mark.slow] if name in slow else [pytest.mark.full] * (number >= FIRST)
            out.append(pytest.param(spelling, id=f"{table}: {name}", marks=marks))
    return out


def hold(spelling: Spelling) -> None:
    """Make sure that a spelling's model is answered as the model does, or rightly refused.

    Raises:
        AssertionError: where it is not.
    """
    model = Net(spelling.call, **spelling.parts()).double().eval()
    torch.manual_seed(1)
    clip = spelling.clip()
    options = {"future": "wait", "pooling": "running", **spelling.options}
    try:
        prog = pgt_fx.transform(model, copy.deepcopy(clip), **options)
    except PgtError as error:
        assert spelling.refused, f"is refused: {error}"
        assert re.search(spelling.refused, str(error)), f"is refused for another reason: {error}"
        return
    assert not spelling.refused, "is not refused"
    assert _order_matters(model, clip, spelling.dim), "the model does not look at the order"
    sizes = spelling.sizes[0] if isinstance(spelling.sizes[0], tuple) else spelling.sizes
    answered = 0
    for number, frames in enumerate(dict.fromkeys((sizes[spelling.dim], *spelling.frames))):
        video = spelling.clip(frames, sizes[0] + 1 if number % 2 else sizes[0])
        whole = taken(model, video)
        if whole is None:
            continue
        for chunks in _chunkings(frames):
            if spelling.only(frames):
                assert _error(prog, video, chunks, spelling.dim, whole) < EXACT, (frames, chunks)
                answered += 1
                continue
            try:
                _error(prog, video, chunks, spelling.dim, whole)
            except PgtError:
                continue
            raise AssertionError(f"{frames} frames in {chunks} are answered")
    assert answered


def taken(model: nn.Module, video: Any) -> Any:
    """The model's answer; None for a video of which it makes nothing."""
    with torch.no_grad():
        try:
            whole = copy.deepcopy(model)(copy.deepcopy(video))
        except (RuntimeError, ValueError, IndexError, ZeroDivisionError, AssertionError):
            return None
    return whole if all(leaf.numel() for leaf in pytree.tree_leaves(whole)) else None


def _order_matters(model: nn.Module, clip: Any, dim: int) -> bool:
    turned = pytree.tree_map(lambda x: x.flip(dim), clip)
    straight, reversed_ = taken(model, clip), taken(model, turned)
    return relative_error(reversed_, straight) > 1e-6


def _error(
    prog: pgt_fx.Progressive, video: Any, chunks: Sequence[int], dim: int, whole: Any
) -> float:
    """Of the answers of all steps, beside the model's."""
    with torch.no_grad():
        state, outs = prog.init_state(), []
        for number, piece in enumerate(pieces(video, chunks, dim)):
            out, state = prog.step(state, piece, last=number == len(chunks) - 1)
            if out is not None:
                outs.append(pytree.tree_leaves(out))
    assert outs, "no step has answered"
    wanted = pytree.tree_leaves(whole)
    found = []
    for column, at in zip(zip(*outs, strict=True), prog.time_dims, strict=True):
        given = [out for out in column if isinstance(out, Tensor)]
        found.append(given[-1] if at is None else torch.cat(given, at))
    return relative_error(found, wanted)


def _chunkings(frames: int) -> list[list[int]]:
    rng = random.Random(frames)
    drawn = [random_chunks(frames, most, rng) for most in (3, 7)] if frames > 2 else []
    return [[frames], [1] * frames, *drawn]
