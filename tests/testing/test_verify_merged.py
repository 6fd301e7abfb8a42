"""pgt_fx.verify on models that merge time with other axes, or have parts for some frames alone.

What is claimed of elements and of videos is measured of these, whatever they are merged with.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from planting import Apart
from torch import Tensor, nn

import pgt_fx
from pgt_fx.core.law import Law
from pgt_fx.core.laws import Window
from pgt_fx.rules import RULES, Local
from pgt_fx.rules.kinds.spans import followed
from pgt_fx.runtime.markov.window import MarkovWindow

CLIP = (2, 3, 8, 4, 4)


class Net(nn.Module):
    """A convolution along time, and what a case makes of the result (N, 4, T, H, W)."""

    def __init__(self, call: Callable[[Net, Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.linear = nn.Conv3d(3, 4, 3, padding=1), nn.Linear(4, 4)
        self.call = call

    def forward(self, x: Tensor) -> Tensor:
        return self.call(self, self.conv(x))


def tokens(net: Net, y: Tensor) -> Tensor:
    return net.linear(y.flatten(2).transpose(1, 2))


def pooled_tokens(net: Net, y: Tensor) -> Tensor:
    return net.linear(y.flatten(2).mean(2))


def frames_before_videos(net: Net, y: Tensor) -> Tensor:
    return net.linear(y.mean((3, 4)).permute(2, 0, 1).flatten(0, 1))


def attends_within_frames(net: Net, y: Tensor) -> Tensor:
    n, c, t, h, w = y.shape
    rows = y.permute(0, 2, 3, 4, 1).reshape(n * t, h * w, c)
    rows = F.scaled_dot_product_attention(net.linear(rows), rows, rows)
    return rows.view(n, t, h * w, c)


def space_in_the_batch(net: Net, y: Tensor) -> Tensor:
    n, c, t, h, w = y.shape
    return net.linear(y.permute(0, 3, 4, 2, 1).reshape(n * h * w, t, c))


def several_in_a_row(net: Net, y: Tensor) -> Tensor:
    n, _, t, h, w = y.shape
    return y.view(n, 2, 2, t, h, w).permute(0, 1, 3, 2, 4, 5).reshape(n, 2, 2 * t, h, w)


MERGED = (
    tokens,
    pooled_tokens,
    frames_before_videos,
    attends_within_frames,
    space_in_the_batch,
    several_in_a_row,
)
#: What is measured of elements, or of videos.
CHECKS = {"time-sensitive", "exact-zero", "rows-isolated", "receptive-field", "one-way-backward"}


def made(model: nn.Module, clip: tuple[int, ...] = CLIP, **options: Any) -> pgt_fx.Progressive:
    torch.manual_seed(0)
    return pgt_fx.transform(
        model.eval(), torch.randn(clip), time_dim=2, pooling="running", **options
    )


@pytest.mark.parametrize("call", MERGED, ids=lambda call: call.__name__)
def test_no_promise_of_a_sound_model_is_violated(call: Callable[[Net, Tensor], Tensor]) -> None:
    found = pgt_fx.verify(made(Net(call)), chunkings=1, checks=CHECKS)
    assert found.ok, str(found)
    for name in CHECKS - ({"exact-zero"} if call is pooled_tokens else set()):
        assert found[name].ok, str(found)


@pytest.mark.parametrize("space", [(4, 4), (6, 2)])
def test_exact_frames_has_a_flag_for_each_element_of_the_example_s_size(
    space: tuple[int, int],
) -> None:
    prog = made(Net(tokens), (*CLIP[:3], *space))
    whole = prog.full(torch.randn(*CLIP[:2], 11, *space))
    flags = prog.exact_frames([4, 4, 3])
    each = space[0] * space[1]
    assert len(flags) == whole.shape[1] == 11 * each
    assert flags[::each] == [True] * 3 + [False] + [True] * 3 + [False] + [True] * 3


# ------------------------------------------------------------------------- parts for some frames


class LearnedFirst(nn.Module):
    """A value of its own in front of the frames."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.conv = nn.Parameter(torch.randn(1, 3, 1)), nn.Conv1d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(torch.cat([self.first.expand(len(x), -1, -1), x], 2), (2, 0)))


class TwoFirst(nn.Module):
    """The first two frames by another layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.rest = (nn.Conv1d(3, 4, 3, padding=1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.first(x)[:, :, :2], self.rest(x)[:, :, 2:]], 2)


class Delayed(nn.Module):
    """An answer to frames a clip ago."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(3, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (10, 0))[:, :, :-10])


class Mirrored(nn.Module):
    """The first answers read frames that are mirrored into the padding."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(3, 4, 7)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (4, 2), "reflect"))


@pytest.mark.parametrize("kind", [Apart, LearnedFirst, TwoFirst, Delayed, Mirrored])
def test_no_promise_is_violated_by_parts_for_some_frames(kind: type[nn.Module]) -> None:
    found = pgt_fx.verify(made(kind(), CLIP[:3]), chunkings=1, checks=CHECKS)
    for name in CHECKS:
        assert found[name].ok, str(found)


def test_a_step_that_gives_no_gradient_to_what_it_uses_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sound = MarkovWindow.forward

    def forward(self: MarkovWindow, step: Any, x: Any, *tensors: Any) -> Any:
        out = sound(self, step, x, *tensors)
        return out if out is None or step.state.get(self.slot) is None else out.detach()

    prog = made(Apart(), CLIP[:3])
    monkeypatch.setattr(MarkovWindow, "forward", forward)
    found = pgt_fx.verify(prog, chunkings=1, checks={"one-way-backward"})["one-way-backward"]
    assert found.ok is False, str(found)
    assert "rest.weight" in found.detail or "its own frames" in found.detail


# -------------------------------------------------------------------------------- reported figures


def test_the_report_s_look_ahead_is_that_of_every_output() -> None:
    """Of the first, which are few, as well."""
    report = made(Apart(), CLIP[:3]).report
    assert (report.receptive_field, report.look_ahead, report.latency) == ([7], [6], 6)
    report = made(Mirrored(), CLIP[:3]).report
    assert (report.receptive_field, report.look_ahead, report.latency) == ([7], [4], 4)


@pytest.mark.parametrize(("mode", "first"), [("constant", (-1, 2)), ("reflect", (-1, 4))])
def test_what_a_padding_mirrors_is_read(mode: str, first: tuple[int, int]) -> None:
    law: Law = Window(7, left=4, right=2, mode=mode)
    spans = [{0: [(i, i) for i in range(12)]}]
    assert followed(law, spans, 12, (12,))[0][0] == first


# ------------------------------------------------------------------------------ videos that mix


def rolled(net: Net, y: Tensor) -> Tensor:
    """The first frame of a video is the last one of another."""
    n, c, t = y.shape[:3]
    rows = y.mean((3, 4)).transpose(1, 2).reshape(n * t, c)
    return torch.roll(rows, 1, 0).view(n, t, c)


def smoothed(net: Net, y: Tensor) -> Tensor:
    """Windows lie across two videos."""
    n, c, t = y.shape[:3]
    rows = y.mean((3, 4)).transpose(0, 1).reshape(1, c, n * t)
    return F.avg_pool1d(rows, 3, 1, 1).view(c, n, t).transpose(0, 1)


def read_backwards(net: Net, y: Tensor) -> Tensor:
    """Those of the second read the first, and not the other way round."""
    n, c, t = y.shape[:3]
    rows = y.mean((3, 4)).transpose(0, 1).reshape(1, c, n * t)
    return F.conv1d(F.pad(rows, (2, 0)), rows.new_ones(c, 1, 3), groups=c).view(c, n, t).mT


def rolled_frames_first(net: Net, y: Tensor) -> Tensor:
    return torch.roll(frames_before_videos(net, y), 1, 0)


@pytest.mark.parametrize(
    ("call", "rules"),
    [
        (rolled, ["roll"]),
        (smoothed, ["avg_pool1d"]),
        (read_backwards, ["pad", "constant_pad_nd", "conv1d"]),
        (rolled_frames_first, ["roll"]),
    ],
    ids=["rolled", "smoothed", "read backwards", "frames first"],
)
def test_videos_that_mix_where_time_is_merged_with_the_batch_are_found(
    call: Any, rules: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused by their rules; here these take the merged axis for one without time."""
    for name in rules:
        monkeypatch.setitem(
            RULES, f"aten::{name}", lambda view: Local(view.layout(view.tensors[0]))
        )
    prog = made(Net(call), check=False, future="wait")
    found = pgt_fx.verify(prog, chunkings=1, checks={"rows-isolated"})["rows-isolated"]
    assert found.ok is False, str(found)
    assert "test_verify_merged.py" in found.where
