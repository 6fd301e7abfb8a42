"""Models that can't be made progressive are refused, with the operator and the line."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
import torch
from blockers import BLOCKERS, Blocker, Net, T
from torch import Tensor, nn

import pgt_fx
from pgt_fx import zoo
from pgt_fx.capture import export
from pgt_fx.core.errors import BlockedError, CaptureError, Place

CLIP = torch.zeros(1, 3, T)


def refused_at(blocker: Blocker) -> tuple[Place, str]:
    """Where a model is refused, and the whole message."""
    torch.manual_seed(0)
    try:
        pgt_fx.transform(blocker.model().eval(), CLIP, time_dim=2)
    except BlockedError as error:
        assert len(error.blockers) == 1, str(error)
        assert error.blockers[0].reason and error.blockers[0].remedy
        return error.blockers[0].place, str(error)
    except CaptureError as error:
        assert error.place is not None, str(error)
        return error.place, str(error)
    raise AssertionError(f"{blocker.model.__name__} was accepted")


@pytest.mark.parametrize("blocker", BLOCKERS, ids=lambda b: b.model.__name__)
def test_the_operator_and_the_line_are_named(blocker: Blocker) -> None:
    place, message = refused_at(blocker)
    lines, first = inspect.getsourcelines(blocker.model)
    number = first + next(i for i, line in enumerate(lines) if "# blocked" in line)
    assert place.source == f"{Path(__file__).parents[1].name}/blockers.py:{number}", message
    assert "# blocked" in place.line
    # An index by a mask is `nonzero` to torch: the operator stands in the message.
    assert blocker.op in place.op or blocker.op in message, message
    assert place.source in message and place.op in message


def test_there_are_twenty() -> None:
    assert len(BLOCKERS) >= 20 and len({b.model for b in BLOCKERS}) == len(BLOCKERS)


def test_without_what_is_marked_the_model_is_accepted() -> None:
    """Else any other reason for a refusal would do."""

    class Plain(Net):
        def mix(self, x: Tensor) -> Tensor:
            return x

    assert pgt_fx.transform(Plain().eval(), CLIP, time_dim=2).report.latency == 1


def test_a_map_of_frames_by_frames_is_computed_within_the_step() -> None:
    class SelfSimilarity(Net):
        def mix(self, x: Tensor) -> Tensor:
            return torch.bmm(x, torch.bmm(x.transpose(1, 2), x))

    torch.manual_seed(0)
    prog = pgt_fx.transform(SelfSimilarity().eval(), CLIP, time_dim=2)
    assert [r.verdict for r in prog.report.rows] == ["exact", "step", "step"]
    assert not any(prog.exact_frames([8, 8]))
    found = pgt_fx.verify(prog)
    assert found.ok and found["full-equals-model"].ok, str(found)


def test_the_line_of_a_model_of_the_zoo_is_named_in_either_install() -> None:
    """Its file lies in the package's own folder, as a wheel has it and as a link leads to it."""
    image = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model = zoo.frame_wise(image, "bilstm", classes=2, width=4, features=3).eval()
    with pytest.raises(BlockedError) as caught:
        pgt_fx.transform(model, torch.zeros(1, 3, 8, 4, 4))
    place = caught.value.blockers[0].place
    assert place.source.startswith("zoo/temporal_heads.py:") and "self.rnn(" in place.line
    assert Path(inspect.getfile(type(model))).parent.parent.name == "pgt_fx"


class Windows(nn.Module):
    """Attends within windows of a fixed size, which the video is padded to; as shifted-window
    transformers do."""

    def __init__(self, by: int | None = None) -> None:
        super().__init__()
        self.conv, self.by = nn.Conv3d(3, 4, 3, padding=1), by

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        for size in (4, 8):
            t, h, w = x.shape[2:]
            lacking = (size - t % size) % size if self.by is None else self.by
            x = nn.functional.pad(x, (0, (size - w % size) % size, 0, (size - h % size) % size))
            x = nn.functional.pad(x, (0, 0, 0, 0, 0, lacking))  # blocked
            x = x[:, :, :t, :h, :w].relu()
        return x


def test_windows_that_the_video_is_padded_to_are_refused_before_a_long_capture(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Sizes would grow to long expressions: the runs without compute tell it already."""
    captures = []
    sound = export.export
    monkeypatch.setattr(export, "LONGEST_SIZE", 3)
    monkeypatch.setattr(export, "export", lambda *a, **k: captures.append(k) or sound(*a, **k))
    clip = torch.zeros(1, 3, 8, 12, 16)
    with pytest.raises(BlockedError, match=r"aten.pad \(2 times\).*# blocked") as caught:
        pgt_fx.transform(Windows().eval(), clip)
    assert len(caught.value.blockers) == 2 and len(captures) == 1
    assert "pads by an amount computed from" in str(caught.value)
    assert str(caught.value).endswith("what else stands in the way is not looked for.")
    found = pgt_fx.doctor.examine(Windows().eval(), clip)
    assert found.verdict == "refused" and "# blocked" in str(found)
    # Amounts that are constant along time, whatever they are in space, go on to a second capture.
    captures.clear()
    assert pgt_fx.transform(Windows(3).eval(), clip, future="wait").report.exact
    assert len(captures) == 2


def test_a_table_behind_a_first_frame_is_named_as_one() -> None:
    """No operand of a concatenation along time is made from the number of frames."""

    class Numbered(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            numbers = torch.arange(x.shape[2]).to(x).expand(x.shape[0], 3, -1)
            return torch.cat([x[:, :, :1], numbers], 2)

    with pytest.raises(BlockedError, match=r"aten\.cat[^$]*a table made from the number of frames"):
        pgt_fx.transform(Numbered(), CLIP, time_dim=2, future="wait")
