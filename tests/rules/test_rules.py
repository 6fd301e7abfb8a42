"""Every record of opinfos.py keeps what its verdict promises."""

from __future__ import annotations

import copy
import random
from collections import OrderedDict
from typing import Any

import pytest
import torch
from opinfos import OpInfo, by
from oracles import cut_masked, ends, error_per_frame, pieces, random_chunks, relative_error, stitch
from torch import Tensor, nn

import pgt_fx
from pgt_fx.core.errors import BlockedError, CaptureError, ExactnessError

EXACT = 1e-9
#: Rounding stays below this.
NOISE = 1e-13


def records(*verdicts: str) -> Any:
    infos = [info for verdict in verdicts for info in by(verdict)]
    return pytest.mark.parametrize("info", infos, ids=str)


def build(info: OpInfo) -> nn.Module:
    """The operator as the submodule ``op`` of a model, its norms and scales away from 0 and 1."""
    torch.manual_seed(3)
    model = nn.Sequential(OrderedDict(op=info.make())).double()
    with torch.no_grad():
        for value in [*model.parameters(), *model.buffers()]:
            if value.is_floating_point():
                value.copy_(torch.rand_like(value) + 0.2)
        for value in model.parameters():
            value.sub_(0.6)
    return model.train(info.training)


def video(info: OpInfo, seed: int = 7) -> Tensor:
    return torch.randn(info.shape, dtype=torch.float64, generator=torch.manual_seed(seed))


def transform(info: OpInfo, model: nn.Module, **options: Any) -> Any:
    return pgt_fx.transform(model, video(info, 1), time_dim=info.time, **options)


def chunkings(info: OpInfo) -> list[list[int]]:
    rng, rest = random.Random(5), info.shape[info.time] - info.first
    return [
        [info.first] + [1] * rest,
        [info.first + 1] + [2] * ((rest - 1) // 2) + [1] * ((rest - 1) % 2),
        [info.first + rest - 1, 1],
        [info.first, *random_chunks(rest, 4, rng)],
        [info.first, *random_chunks(rest, 7, rng)],
    ]


def run(prog: Any, x: Tensor, chunks: list[int], time: int) -> list[Any]:
    clips = pieces(x, chunks, time)
    prog.reset()
    with torch.no_grad():
        return [prog(clip, last=i == len(clips) - 1) for i, clip in enumerate(clips)]


@records("exact")
def test_an_exact_operator_equals_the_model_for_every_chunking(info: OpInfo) -> None:
    model, x = build(info), video(info)
    with torch.no_grad():
        whole = model(x.clone())
    prog = transform(info, model, future="wait")
    assert prog.report.exact
    assert relative_error(prog.full(x), whole) <= EXACT
    for chunks in chunkings(info):
        answer = stitch(run(prog, x, chunks, info.time), info.out)
        assert relative_error(answer, whole) <= EXACT, chunks
        assert all(prog.exact_frames(chunks)), chunks


@records("exact")
def test_an_exact_operator_is_prompt_and_knows_its_frames_under_zero(info: OpInfo) -> None:
    model, x = build(info), video(info)
    with torch.no_grad():
        whole = model(x.clone())
    prog = transform(info, model, future="zero")
    for chunks in chunkings(info):
        outputs = run(prog, x, chunks, info.time)
        answer = stitch(outputs, info.out)
        if info.mask:
            masked = cut_masked(model, x, ends(chunks))
            assert relative_error(answer, masked) <= EXACT, chunks
        flags = prog.exact_frames(chunks)
        assert len(flags) == whole.shape[info.out] == answer.shape[info.out], chunks
        errors = error_per_frame(answer, whole, info.out).tolist()
        for i, (flag, error) in enumerate(zip(flags, errors, strict=True)):
            if flag:
                assert error <= EXACT, f"{chunks}: frame {i} is said to be exact"
            elif info.tight:
                assert error > NOISE, f"{chunks}: frame {i} is exact, and said not to be"


@records("running")
def test_a_running_answer_ends_as_the_models_own(info: OpInfo) -> None:
    model, x = build(info), video(info)
    with torch.no_grad():
        whole = model(x)
    step = transform(info, model)
    assert relative_error(step.full(x), whole) <= EXACT
    for future in ("zero", "wait"):
        prog = step.replace(pooling="running", future=future)
        for chunks in chunkings(info):
            last = run(prog, x, chunks, info.time)[-1]
            if future == "wait" or len(step.report.rows) == 1:
                assert relative_error(last, whole) <= EXACT, chunks
            assert last.shape == whole.shape and last.dtype == whole.dtype


@records("running")
def test_the_step_policy_answers_for_the_steps_own_frames(info: OpInfo) -> None:
    model, x = build(info), video(info)
    prog = transform(info, model, pooling="step")
    chunks = [3, 2, info.shape[info.time] - 5]
    if len(prog.report.rows) > 1:
        pytest.skip("what is pooled depends on other steps as well")
    for clip, answer in zip(pieces(x, chunks), run(prog, x, chunks, info.time), strict=True):
        with torch.no_grad():
            assert relative_error(answer, model(clip)) <= EXACT
    assert prog.exact_frames([info.shape[info.time]]) == [True]


@records("step")
def test_what_no_state_reproduces_is_refused_or_accepted(info: OpInfo) -> None:
    model, x = build(info), video(info)
    with torch.no_grad():
        whole = model(x)
    with pytest.raises(ExactnessError) as caught:
        transform(info, model, future="wait")
    text = str(caught.value)
    assert "1. op" in text and "strict=False" in text and "(: )" not in text, text
    for future in ("wait", "zero"):
        prog = transform(info, model, future=future, strict=False)
        assert not prog.report.exact and prog.report.inexact[0].reason
        assert relative_error(prog.full(x), whole) <= EXACT
        for chunks in chunkings(info)[1:]:
            outputs = run(prog, x, chunks, info.time)
            assert stitch(outputs, info.out).shape == whole.shape
            assert not any(prog.exact_frames(chunks))
        assert all(prog.exact_frames([x.shape[info.time]]))


@records("training")
def test_what_training_does_is_done_within_each_step(info: OpInfo) -> None:
    model, x = build(info), video(info)
    plain = copy.deepcopy(model)
    prog = transform(info, model, future="wait")
    torch.manual_seed(11)
    whole = plain(x)
    torch.manual_seed(11)
    assert relative_error(prog.full(x), whole) <= EXACT
    outputs = run(prog, x, [4, x.shape[info.time] - 4], info.time)
    assert stitch(outputs, info.out).shape == whole.shape


@records("refused")
def test_a_refusal_says_what_where_why_and_what_to_do(info: OpInfo) -> None:
    model = build(info)
    with pytest.raises((BlockedError, CaptureError)) as caught:
        transform(info, model)
    text = str(caught.value)
    for word in info.words:
        assert word in text, text
    if isinstance(caught.value, BlockedError):
        (blocker,) = caught.value.blockers
        assert blocker.place.op and blocker.place.module.startswith("op"), text
        # The innermost line of the user's own: here the lambda that calls the operator.
        file = blocker.place.source.split(":")[0]
        assert file in ("tests/opinfos.py", "tests/opmodules.py") and blocker.place.line, text
        assert len(blocker.reason) > 10 and len(blocker.remedy) > 10, text


class Blocked(nn.Module):
    """Three operators that can't be made progressive, and one that can."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(3, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        forth = self.conv(x)
        back = self.conv(x.flip(2))
        order = forth.sort(2)[0]
        return order + back + x.cummax(2)[1]


def test_all_blockers_of_a_model_are_listed_at_once() -> None:
    with pytest.raises(BlockedError) as caught:
        pgt_fx.transform(nn.Sequential(Blocked()), torch.randn(2, 3, 17))
    blockers = caught.value.blockers
    assert [b.place.op for b in blockers] == ["aten.flip", "aten.sort", "aten.cummax"]
    assert "x.flip(2)" in blockers[0].place.line
    assert "test_rules.py" in blockers[1].place.source
    assert all(str(b) in str(caught.value) for b in blockers)


class Again(nn.Module):
    """Lines that stand in the way by several operators, and in several modules."""

    def __init__(self, deep: int = 0) -> None:
        super().__init__()
        self.inner = Again(deep - 1) if deep else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = self.inner(x)
        return x + x.flip(2) * x.sort(2)[0] + x.relu().flip(2)  # twice in the way


def test_a_line_that_stands_in_the_way_is_one_blocker() -> None:
    with pytest.raises(BlockedError) as caught:
        pgt_fx.transform(Again(deep=2), torch.randn(2, 3, 17), time_dim=2)
    said = str(caught.value)
    assert len(caught.value.blockers) == 9 and said.startswith("9 operators")
    assert said.count("test_rules.py") == 1 and said.count("remedy:") == 1
    assert "  1. aten.flip (6 times), aten.sort (3 times) in " in said
    assert said.count("reverses time") == said.count("sort along time") == 1


def test_every_step_operator_of_a_model_is_listed_at_once() -> None:
    model = nn.Sequential(nn.GroupNorm(1, 3), nn.Conv1d(3, 3, 3), nn.InstanceNorm1d(3))
    with pytest.raises(ExactnessError) as caught:
        pgt_fx.transform(model, torch.randn(2, 3, 17), future="wait")
    assert "0: group_norm" in str(caught.value) and "2: instance_norm" in str(caught.value)
