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
    assert place.source == f"{Path(__file__).parent.name}/blockers.py:{number}", message
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


def test_a_table_behind_a_first_frame_is_named_as_one() -> None:
    """No operand of a concatenation along time is made from the number of frames."""

    class Numbered(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            numbers = torch.arange(x.shape[2]).to(x).expand(x.shape[0], 3, -1)
            return torch.cat([x[:, :, :1], numbers], 2)

    with pytest.raises(BlockedError, match=r"aten\.cat[^$]*a table made from the number of frames"):
        pgt_fx.transform(Numbered(), CLIP, time_dim=2, future="wait")
