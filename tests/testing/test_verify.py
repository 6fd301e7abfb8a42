"""pgt_fx.verify holds on a sound model, and each planted fault is caught by the check for it."""

from __future__ import annotations

import copy
import functools
import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import pgt_fx
from pgt_fx.core.errors import ClipError, OptionError, VerificationError
from pgt_fx.runtime.markov import window
from pgt_fx.runtime.markov.window import MarkovWindow
from pgt_fx.runtime.progressive import Progressive
from pgt_fx.testing import assert_progressive
from pgt_fx.testing.verify.result import Check, Verification

IDS = [
    "time-sensitive",
    "full-equals-model",
    "exact-wait",
    "exact-zero",
    "exact-tight",
    "one-way-forward",
    "one-way-backward",
    "rows-isolated",
    "state-bounded",
    "reset",
    "deterministic",
    "state-round-trip",
    "mode-switching",
    "receptive-field",
    "context",
    "gradients-equal-model",
    "exact-gradients",
    "replayed",
]


class Dense(nn.Module):
    """A temporal stem that reads the clip itself, a norm, a residual branch."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv3d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm3d(4)
        self.branch = nn.Conv3d(4, 4, (3, 1, 1), padding=(1, 0, 0))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        return x + self.branch(x)


class Pooled(nn.Module):
    """The same with a head over all of time."""

    def __init__(self) -> None:
        super().__init__()
        self.body = Dense()
        self.head = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).mean((2, 3, 4)))


class Blind(nn.Module):
    """The order of the frames is all one to it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(3, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).mean((2, 3, 4))


CLIP = (1, 3, 4, 6, 6)


@functools.lru_cache(maxsize=4)
def converted(kind: type[nn.Module]) -> Progressive:
    torch.manual_seed(0)
    return pgt_fx.transform(kind().eval(), torch.randn(CLIP))


def verified(kind: type[nn.Module], **options: Any) -> Verification:
    return pgt_fx.verify(copy.deepcopy(converted(kind)), **{"chunkings": 2, **options})


# ------------------------------------------------------------------------ what holds


@pytest.mark.parametrize("kind", [Dense, Pooled])
def test_a_sound_model_holds(kind: type[nn.Module]) -> None:
    found = verified(kind)
    assert [c.id for c in found.checks] == IDS
    assert found.ok, str(found)
    # MCO hands on no context, and no answer pooled over a step is the whole video's.
    silent = ["context"] if kind is Dense else ["exact-zero", "context"]
    assert [c.id for c in found.silent] == silent, str(found)
    field = found["receptive-field"].detail
    assert ("widest seen of " in field) == (kind is Pooled), field
    found.raise_if_failed()


def test_the_exact_frames_are_seen_not_merely_claimed() -> None:
    found = verified(Dense)
    assert found["exact-zero"].ok and isinstance(found["exact-zero"].measured, float)
    assert found["exact-tight"].ok and "they differ, by at least" in found["exact-tight"].detail


def test_the_user_s_model_is_left_alone() -> None:
    prog = copy.deepcopy(converted(Dense))
    prog.train()
    prog(torch.randn(1, 3, 5, 6, 6))
    weights = {k: v.clone() for k, v in prog.state_dict().items()}
    state = {k: v.clone() for k, v in prog.state.items()}
    assert pgt_fx.verify(prog, chunkings=1).ok
    assert prog.training
    assert all(torch.equal(v, weights[k]) for k, v in prog.state_dict().items())
    assert state and all(torch.equal(v, state[k]) for k, v in prog.state.items())
    assert all(p.dtype == torch.float32 and p.grad is None for p in prog.parameters())


def test_gradients_are_measured_under_no_grad_too() -> None:
    with torch.no_grad():
        assert verified(Dense, chunkings=1)["one-way-backward"].ok is True


def test_a_model_and_its_example_are_transformed() -> None:
    torch.manual_seed(0)
    found = assert_progressive(Dense().eval(), torch.randn(CLIP), chunkings=1)
    assert found.model == "Dense"


def test_another_precision_video_and_length() -> None:
    video = torch.rand(1, 3, 9, 6, 6)
    found = verified(Dense, dtype=torch.float32, video=video, frames=8)
    assert found.ok, str(found)
    assert "8 frames of the video given" in found.setting and "float32" in found.setting


def test_without_redrawing_a_branch_at_zero_hides_behind_nothing() -> None:
    assert "1 norm layers redrawn" in verified(Dense).setting
    assert "weights as they are" in verified(Dense, redraw_norms=False).setting


def test_a_model_without_time_proves_nothing() -> None:
    found = verified(Blind)
    assert not found.ok and not found.decided and not found.violations
    assert found["exact-wait"].ok is None
    with pytest.raises(VerificationError, match="nothing could be checked"):
        found.raise_if_failed()


def test_text_and_data() -> None:
    found = verified(Dense, chunkings=1)
    text = str(found)
    assert all(i in text for i in IDS) and "17 promises hold" in text and "\x1b" not in text
    data = json.loads(json.dumps(found.to_dict()))
    assert data["ok"] is True and [c["id"] for c in data["checks"]] == IDS


def test_progress_is_told() -> None:
    told: list[tuple[str, int, int]] = []
    verified(Dense, chunkings=1, progress=lambda *args: told.append(args))
    assert [name for name, *_ in told][1:-1] == IDS
    assert told[-1][1] == told[-1][2]


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"chunkings": 0}, OptionError),
        ({"example": torch.zeros(CLIP)}, OptionError),
        ({"frames": 1}, ClipError),
        ({"video": torch.zeros(CLIP), "frames": 9}, ClipError),
        ({"video": [torch.zeros(CLIP)]}, ClipError),
    ],
)
def test_wrong_arguments(options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        verified(Dense, **options)


# ------------------------------------------------------------------- planted faults

Plant = Callable[[pytest.MonkeyPatch], None]


def patched_window(monkeypatch: pytest.MonkeyPatch, change: Callable[..., Any]) -> None:
    """Each windowed operator's result goes through ``change(self, step, x, result)``."""
    sound = MarkovWindow.forward

    def forward(self: MarkovWindow, step: Any, x: Any, *tensors: Any) -> Any:
        out = sound(self, step, x, *tensors)
        return out if out is None else change(self, step, x, out)

    monkeypatch.setattr(MarkovWindow, "forward", forward)


def peeking(monkeypatch: pytest.MonkeyPatch) -> None:
    """The video behind the chunk is read through the view."""
    sound = Progressive.step

    def step(self: Progressive, state: Any, *clip: Any, **named: Any) -> Any:
        out, following = sound(self, state, *clip, **named)
        whole = torch.empty(0, dtype=clip[0].dtype).set_(clip[0].detach().untyped_storage())
        return None if out is None else out + 1e-3 * whole.mean(), following

    monkeypatch.setattr(Progressive, "step", step)


def remembering(monkeypatch: pytest.MonkeyPatch) -> None:
    """Something is kept beside the state."""
    seen: dict[str, Tensor] = {}

    def change(self: Any, step: Any, x: Any, out: Tensor) -> Tensor:
        before = seen.get(self.slot)
        seen[self.slot] = out.detach().mean()
        return out if before is None else out + 1e-3 * before.to(out)

    patched_window(monkeypatch, change)


def mixing_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mean over the batch is added (nothing, with one video)."""
    patched_window(monkeypatch, lambda self, step, x, out: out + (out - out.mean(0, keepdim=True)))


def keeping_views(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tail is carried as a view into the activation."""
    monkeypatch.setattr(window, "owned", lambda tail, *others: tail)


def growing(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is carried gets longer with every step."""
    sound = MarkovWindow.forward

    def forward(self: MarkovWindow, step: Any, x: Any, *tensors: Any) -> Any:
        extra = step.state.get(self.slot + ".history")
        out = sound(self, step, x, *tensors)
        if out is not None:
            kept = out.detach().mean((0, 2, 3, 4))
            step.carried[self.slot + ".history"] = (
                kept if extra is None else torch.cat([extra, kept])
            )
        return out

    monkeypatch.setattr(MarkovWindow, "forward", forward)


def attached(monkeypatch: pytest.MonkeyPatch) -> None:
    """The state keeps the autograd graph from step to step."""
    sound = Progressive.step

    def step(self: Progressive, state: Any, *clip: Any, detach: bool = True, **named: Any) -> Any:
        return sound(self, state, *clip, detach=False, **named)

    monkeypatch.setattr(Progressive, "step", step)


def frozen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Later steps give no gradient to what they use."""
    patched_window(
        monkeypatch,
        lambda self, step, x, out: out.detach() if step.state.get(self.slot) is not None else out,
    )


def not_forgetting(monkeypatch: pytest.MonkeyPatch) -> None:
    """reset() leaves what an unfinished video left, under another clock."""

    def reset(self: Progressive) -> None:
        left = {k: v for k, v in self.state.items() if not k.startswith("clock.")}
        self.__dict__["_state"] = left | self.init_state() if left else {}

    monkeypatch.setattr(Progressive, "reset", reset)


def boasting(monkeypatch: pytest.MonkeyPatch) -> None:
    """All frames are said to be exact."""
    sound = Progressive.exact_frames
    monkeypatch.setattr(
        Progressive, "exact_frames", lambda self, chunks: [True] * len(sound(self, chunks))
    )


def forgetful(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tail is zeroed between steps: every step stands for itself."""
    sound = window.carried_tail

    def tail(*args: Any, **kwargs: Any) -> Any:
        out = sound(*args, **kwargs)
        return None if out is None else torch.zeros_like(out)

    monkeypatch.setattr(window, "carried_tail", tail)


def skewed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every operator is a little off, in one step and in many."""
    patched_window(monkeypatch, lambda self, step, x, out: out * (1 + 1e-6))


def overwriting(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was carried is written into by the next step."""
    sound = MarkovWindow.forward

    def forward(self: MarkovWindow, step: Any, x: Any, *tensors: Any) -> Any:
        out = sound(self, step, x, *tensors)
        old = step.state.get(self.slot)
        if old is not None and not torch.is_grad_enabled():
            old.mul_(2)
        return out

    monkeypatch.setattr(MarkovWindow, "forward", forward)


FAULTS: list[tuple[Plant, str]] = [
    (peeking, "one-way-forward"),
    (remembering, "reset"),
    (mixing_rows, "rows-isolated"),
    (keeping_views, "state-bounded"),
    (growing, "state-bounded"),
    (attached, "one-way-backward"),
    (attached, "state-bounded"),
    (frozen, "one-way-backward"),
    (not_forgetting, "reset"),
    (boasting, "exact-zero"),
    (forgetful, "exact-wait"),
    (skewed, "full-equals-model"),
    (overwriting, "one-way-forward"),
]


@pytest.mark.parametrize(("plant", "caught_by"), FAULTS, ids=lambda v: getattr(v, "__name__", v))
def test_a_planted_fault_is_caught(
    plant: Plant, caught_by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    prog = copy.deepcopy(converted(Dense))
    plant(monkeypatch)
    found = pgt_fx.verify(prog, chunkings=2)
    assert found[caught_by].ok is False, str(found)
    assert not found.ok and found.decided
    with pytest.raises(VerificationError, match=caught_by):
        found.raise_if_failed()


def test_assert_progressive_raises_what_pytest_understands(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    prog = copy.deepcopy(converted(Dense))
    skewed(monkeypatch)
    with pytest.raises(AssertionError, match="full-equals-model"):
        assert_progressive(prog, chunkings=1)


def test_a_check_prints_as_one_line() -> None:
    check = Check("reset", "nothing is left", False, 0.5, 1e-9, "step 2")
    assert str(check) == "VIOLATED    reset: nothing is left; 5.0e-01 (bound 1.0e-09); step 2"
