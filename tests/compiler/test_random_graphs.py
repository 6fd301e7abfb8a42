"""Random temporal graphs times random chunkings: exact, progressive, prompt.

Each property draws `settings.max_examples` graphs for features (N, C, T) and as many
for videos (N, C, T, H, W): 75 each in CI, so 300 for the two contracts, and 2,500 each
under ``--hypothesis-profile=long``. A graph is transformed once and fed in `CHUNKINGS`
ways: a capture costs far more than a run.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import assume, event, given
from hypothesis import strategies as st
from oracles import (
    cut_masked,
    ends,
    error_per_frame,
    pieces,
    relative_error,
    sensitive_to_time,
    stitch,
)
from torch import Tensor, nn

import pgt_fx
from pgt_fx.core.errors import PgtError
from pgt_fx.testing.fuzz import strategies
from pgt_fx.testing.fuzz.strategies import Spec

pytestmark = pytest.mark.full

#: Ways to cut the video, for each graph.
CHUNKINGS = 3
#: The contract, relative, in float64.
EXACT = 1e-9
#: Rounding stays below this, and what truly differs stays above, graphs being small.
NOISE = 1e-13

DIMS = pytest.mark.parametrize("dims", [1, 3], ids=["features", "videos"])


def draw_case(
    data: st.DataObject, dims: int, accept: Callable[[Spec], bool] | None = None
) -> tuple[Spec, nn.Module, Tensor, Tensor]:
    """A graph, its module, a video, and what the module gives for it; time must matter."""
    spec = data.draw(strategies.graphs(dims=(dims,), accept=accept), label="spec")
    frames = strategies.minimum_frames(spec) + data.draw(st.integers(0, 40), label="extra frames")
    seed = data.draw(st.integers(0, 3), label="seed")
    model, x = strategies.build(spec, seed), strategies.video(spec, frames, seed)
    # One frame has no order, and a dead ReLU or one window over everything hides it:
    # such an example would prove nothing.
    assume(frames > 1 and sensitive_to_time(model, x))
    with torch.no_grad():
        return spec, model, x, model(x)


def transform(spec: Spec, model: nn.Module, **options: Any) -> Any:
    example = strategies.video(spec, strategies.example_frames(spec), seed=9)
    return pgt_fx.transform(model, example, time_dim=2, **options)


def draw_chunks(data: st.DataObject, frames: int, first: int = 1) -> list[int]:
    """Chunk lengths, none shorter than 1, the first not shorter than `first`."""
    longest = data.draw(st.sampled_from([1, 2, 3, 5, 8, 16, frames]), label="longest chunk")
    head = data.draw(st.integers(first, max(first, min(longest, frames))), label="first chunk")
    if head == frames:
        return [frames]
    return [head, *data.draw(strategies.chunkings(frames - head, longest), label="chunks")]


def run(prog: Any, x: Tensor, chunks: list[int]) -> list[Tensor | None]:
    """The outputs of all steps of one video."""
    prog.reset()
    clips = pieces(x, chunks)
    with torch.no_grad():
        return [prog(clip, last=i == len(clips) - 1) for i, clip in enumerate(clips)]


@DIMS
@given(data=st.data())
def test_wait_equals_the_model_on_every_frame(dims: int, data: st.DataObject) -> None:
    spec, model, x, whole = draw_case(data, dims)
    prog = transform(spec, model, future="wait")
    with torch.no_grad():
        assert relative_error(prog.full(x), whole) <= EXACT, "one step over the whole video"
    for _ in range(CHUNKINGS):
        chunks = draw_chunks(data, x.shape[2])
        event(f"chunks of 1: {max(chunks) == 1}")
        outputs = run(prog, x, chunks)
        assert relative_error(stitch(outputs), whole) <= EXACT, chunks


@DIMS
@given(data=st.data())
def test_zero_equals_the_cut_mask_and_knows_which_frames_are_exact(
    dims: int, data: st.DataObject
) -> None:
    spec, model, x, whole = draw_case(data, dims)
    prog = transform(spec, model, future="zero")
    # Where a module refuses what its window could answer, the model itself does not
    # say what a step that short should give.
    first = strategies.minimum_frames(spec) if strategies.picky(spec) else 1
    for _ in range(CHUNKINGS):
        chunks = draw_chunks(data, x.shape[2], first)
        outputs = run(prog, x, chunks)
        answer = stitch(outputs)
        assert answer.shape == whole.shape, f"{chunks}: as many outputs as the model has"
        masked = cut_masked(model, x, ends(chunks))
        assert relative_error(answer, masked) <= EXACT, chunks

        # Every step answers at once: as much as the model gives for what was seen.
        given_by_now = 0
        for seen, output in zip(ends(chunks), outputs, strict=True):
            given_by_now += 0 if output is None else output.shape[2]
            if (due := strategies.length(spec, seen)) is not None:
                assert given_by_now == due, f"{chunks}: after {seen} frames"

        flags = prog.exact_frames(chunks)
        assert len(flags) == whole.shape[2] and all(type(flag) is bool for flag in flags)
        event(f"exact frames: {'all' if all(flags) else 'some' if any(flags) else 'none'}")
        tight = strategies.generic(spec)
        errors = error_per_frame(answer, whole, 2).tolist()
        for i, (flag, error) in enumerate(zip(flags, errors, strict=True)):
            if flag:
                assert error <= EXACT, f"{chunks}: frame {i} is said to be exact"
            elif tight:
                assert error > NOISE, f"{chunks}: frame {i} is exact, and said not to be"

    again = run(prog, x, chunks)
    for a, b in zip(outputs, again, strict=True):  # the next video starts as a new object does
        assert (a is None) == (b is None)
        assert a is None or b is None or torch.equal(a, b)


#: Operators whose last reading of the input each output shows, so that it can be measured.
MEASURABLE = {"conv", "avg", "lp", "slice", "shift", "norm", "scale", "gelu", "dropout",
              "add", "cat"}  # fmt: skip


def measurable(spec: Spec) -> bool:
    """Whether a graph has plain windows alone."""
    return strategies.ops(spec) <= MEASURABLE


@given(data=st.data())
def test_wait_is_no_later_than_the_look_ahead(data: st.DataObject) -> None:
    """What no later frame can change has been answered: buffering it all would be exact too."""
    # A tile in ceil mode is not known to be whole before the frame that completes it, and
    # mirrored frames are known before they are due: what can be measured is plain windows.
    spec = data.draw(
        strategies.graphs(dims=(1,), accept=measurable),
        label="spec",
    )
    least = strategies.minimum_frames(spec)
    now = data.draw(st.integers(least, least + 30), label="frames so far")
    total = now + 4 * strategies.example_frames(spec)
    model, x = strategies.build(spec), strategies.video(spec, total)
    assume(sensitive_to_time(model, x))
    other = x.clone()
    other[:, :, now:] = strategies.video(spec, total - now, seed=5)
    with torch.no_grad():
        gap = error_per_frame(model(other), model(x), 2) > NOISE
        prog = transform(spec, model, future="wait")
        output = prog(x[:, :, :now])
    assert gap.any(), "later frames must matter at all"
    # Outputs before the first that still can change; of a shift back the next one is known too,
    # but only a next frame makes it exist.
    settled = min(int(gap.int().argmax()), strategies.length(spec, now) or 0)
    answered = 0 if output is None else output.shape[2]
    assert answered == settled, f"{answered} answered, {settled} settled after {now} frames"


@given(data=st.data())
def test_a_refused_chunk_leaves_the_state_intact(data: st.DataObject) -> None:
    spec, model, x, whole = draw_case(data, 3)
    assume(x.shape[2] >= 2)
    half = data.draw(st.integers(1, x.shape[2] - 1), label="first chunk")
    prog = transform(spec, model, future="wait")
    with torch.no_grad():
        outputs = [prog(x[:, :, :half])]
        rest = x[:, :, half:]
        for wrong in (rest[:, :, :0], rest[..., :-1], rest[:1]):
            with pytest.raises(PgtError):
                prog(wrong)
        outputs.append(prog(rest, last=True))
    assert relative_error(stitch(outputs), whole) <= EXACT
