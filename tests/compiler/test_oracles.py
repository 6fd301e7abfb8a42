"""The oracles against cases worked by hand, and the random graphs against torch."""

from __future__ import annotations

import json
import random

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from oracles import (
    cut_masked,
    ends,
    pieces,
    random_chunks,
    relative_error,
    sensitive_to_time,
    stitch,
)
from torch import nn

from pgt_fx.testing.fuzz import strategies

DTYPE = torch.float64


def ones(kernel: int, **options: object) -> nn.Conv1d:
    """A convolution that sums its window: the numbers can be worked by hand."""
    conv = nn.Conv1d(1, 1, kernel, bias=False, **options).to(DTYPE)  # type: ignore[arg-type]
    nn.init.ones_(conv.weight)
    return conv


def numbers(count: int) -> torch.Tensor:
    return torch.arange(1.0, count + 1, dtype=DTYPE).view(1, 1, -1)


def test_one_convolution_reads_zero_behind_each_cut() -> None:
    masked = cut_masked(ones(3, padding=1), numbers(6), [2, 5, 6])
    # frames 1 2 | 3 4 5 | 6: element 2 lacks frame 3, element 5 lacks frame 6.
    assert masked.flatten().tolist() == [3, 3, 9, 12, 9, 11]


def test_what_was_emitted_cut_stays_cut_for_the_next_layer() -> None:
    model = nn.Sequential(ones(3, padding=1), ones(3, padding=1))
    masked = cut_masked(model, numbers(4), [2, 4])
    # first layer: 1+2, 1+2 | 2+3+4, 3+4 = 3 3 | 9 7; the second reads those
    assert masked.flatten().tolist() == [6, 6, 19, 16]


def test_a_stride_emits_what_the_prefix_has_and_no_more() -> None:
    conv = ones(3, padding=1, stride=2)
    masked = cut_masked(conv, numbers(5), [1, 2, 5])
    # prefix 1 gives window (0 1 .), prefix 2 nothing new, then (2 3 4) and (4 5 0)
    assert masked.flatten().tolist() == [1, 9, 9]


def test_a_causal_model_is_untouched_by_cuts() -> None:
    class Causal(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = ones(3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.conv(F.pad(x, (2, 0)))

    # The padding stands outside the module that the oracle replaces, to the left:
    # prefix lengths are then the same in both passes.
    model, x = Causal(), numbers(7)
    assert relative_error(cut_masked(model, x, [1, 3, 4, 7]), model(x)) == 0


def test_a_window_that_does_not_fit_yet_emits_nothing() -> None:
    masked = cut_masked(nn.Sequential(ones(4), ones(2, padding=1)), numbers(6), [2, 4, 6])
    # no output until frame 4: 10; then 14, 18. The next: 0+10, 10+0 | 14+18, 18+0
    assert masked.flatten().tolist() == [10, 10, 32, 18]


def test_average_without_padding_counts_only_what_is_there() -> None:
    pool = nn.AvgPool1d(3, stride=1, padding=1, count_include_pad=False)
    masked = cut_masked(pool, numbers(4), [2, 4])
    assert masked.flatten().tolist() == [1.5, 1.5, 3, 3.5]


def test_a_pool_in_ceil_mode_cuts_its_last_window_short() -> None:
    masked = cut_masked(nn.MaxPool1d(2, stride=2, ceil_mode=True), numbers(5), [1, 4, 5])
    assert masked.flatten().tolist() == [1, 4, 5]


def test_two_paths_have_their_own_cuts() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.slow, self.fast = ones(3, padding=1), ones(2, stride=2)

        def forward(self, paths: list[torch.Tensor]) -> torch.Tensor:
            return self.slow(paths[0]) + self.fast(paths[1])

    slow, fast = numbers(3), 100 * numbers(6)
    masked = cut_masked(Two(), [slow, fast], [(1, 2), (3, 6)])
    assert masked.flatten().tolist() == [1 + 300, 6 + 700, 5 + 1100]
    cut = pieces([slow, fast], [1, 2])
    assert [[x.shape[2] for x in clip] for clip in cut] == [[1, 2], [2, 4]]


def test_a_module_called_twice_has_two_histories() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = ones(2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.conv(self.conv(x))

    x = numbers(5)
    assert relative_error(cut_masked(Twice(), x, [2, 3, 5]), Twice()(x)) == 0


def test_the_model_is_as_it_was() -> None:
    conv = ones(3, padding=1)
    model, x = nn.Sequential(conv, nn.ReLU()), numbers(6)
    before = model(x)
    cut_masked(model, x, [3, 6])
    assert "forward" not in vars(conv)
    assert torch.equal(model(x), before)
    with pytest.raises(AssertionError, match="video's end"):
        cut_masked(model, x, [3, 5])


def test_sensitivity_sees_what_ignores_the_order() -> None:
    x = torch.randn(1, 1, 7, dtype=DTYPE)
    assert sensitive_to_time(ones(3, padding=1), x)
    assert not sensitive_to_time(nn.AdaptiveAvgPool1d(1), x)


def test_an_error_is_never_hidden() -> None:
    x = numbers(3)
    assert relative_error(x, x) == 0
    assert relative_error(x, numbers(4)) == float("inf")
    assert relative_error(x * float("nan"), x) == float("inf")
    assert relative_error([x, x + 3], [x, x]) == 1
    with pytest.raises(AssertionError, match="empty"):
        relative_error(x[..., :0], x[..., :0])
    with pytest.raises(AssertionError, match="answered"):
        stitch([None, None])


def test_pieces_and_stitch_are_inverse() -> None:
    rng = random.Random(0)
    for total in (1, 2, 17, 40):
        chunks = random_chunks(total, 6, rng)
        assert sum(chunks) == total and min(chunks) >= 1 and max(chunks) <= 6
        assert ends(chunks)[-1] == total
        x = numbers(total)
        assert torch.equal(stitch([*pieces(x, chunks), None]), x)


# ------------------------------------------------------------- the random graphs


@given(spec=strategies.graphs(), extra=st.integers(0, 30), seed=st.integers(0, 9))
def test_random_graphs_are_legal_and_of_the_lengths_computed(
    spec: strategies.Spec, extra: int, seed: int
) -> None:
    assert json.loads(json.dumps(spec)) == spec, "a spec is plain data"
    assert 1 <= len(spec["nodes"]) <= strategies.MAX_NODES
    least = strategies.minimum_frames(spec)
    model = strategies.build(spec, seed)
    with torch.no_grad():
        for frames in (least, least + extra):
            y = model(strategies.video(spec, frames, seed))
            assert y.shape[2] == strategies.length(spec, frames)
            assert y.shape[:2] == (2, strategies.channel_counts(spec)[-1])
            assert y.isfinite().all() and max(y.shape[1:2]) <= strategies.MAX_CHANNELS
        if least > 1:  # `least` is the smallest: torch refuses one frame less, or gives none
            try:
                y = model(strategies.video(spec, least - 1, seed))
            except RuntimeError:
                pass
            else:
                assert strategies.length(spec, least - 1) is None
    again = strategies.build(spec, seed)
    for (name, a), (_, b) in zip(
        model.state_dict().items(), again.state_dict().items(), strict=True
    ):
        assert torch.equal(a, b), f"{name} is not drawn from the seed"


@given(spec=strategies.graphs(), data=st.data())
def test_the_cut_mask_of_a_random_graph_is_the_model_where_nothing_is_cut(
    spec: strategies.Spec, data: st.DataObject
) -> None:
    frames = strategies.minimum_frames(spec) + data.draw(st.integers(0, 20))
    model, x = strategies.build(spec), strategies.video(spec, frames)
    chunks = data.draw(strategies.chunkings(frames))
    with torch.no_grad():
        whole = model(x)
    # A recurrent layer adds up in another order when it is run frame by frame.
    assert relative_error(cut_masked(model, x, [frames]), whole) <= 1e-13
    masked = cut_masked(model, x, ends(chunks))
    assert masked.shape == whole.shape
    if len(chunks) > 1:
        # What follows the first cut cannot reach what was emitted at it.
        later = x.clone()
        later[:, :, chunks[0] :] += 1
        emitted = strategies.length(spec, chunks[0])
        if emitted:
            other = cut_masked(model, later, ends(chunks))
            assert torch.equal(other[:, :, :emitted], masked[:, :, :emitted])
