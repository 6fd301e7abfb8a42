"""The number of frames as a value: what a model calculates with it, and tables that it makes of it.

A step doesn't know how long the video is. What is made of the length is refused where it enters;
positions go on from step to step, those of a derived length (behind a stride) as well.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from oracles import pieces, relative_error, stitch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import pgt_fx
from pgt_fx.capture.captured import Captured
from pgt_fx.compiler.analysis.walk import walk_graph
from pgt_fx.core.clip import ClipSpec
from pgt_fx.core.errors import BlockedError, ClipError, ExactnessError, PgtError

EXACT = 1e-9
CLIP = 9
CHUNKINGS = (lambda n: [n], lambda n: [1] * n, lambda n: uneven(n), lambda n: [3] * (n // 3))


def uneven(n: int) -> list[int]:
    out: list[int] = []
    while sum(out) < n:
        out.append(min((5, 1, 7, 2)[len(out) % 4], n - sum(out)))
    return out


class Net(nn.Module):
    """A function of features (N, 3, T), with layers and parameters for it."""

    def __init__(self, call: Callable[[Net, Tensor], Any]) -> None:
        super().__init__()
        self.conv = nn.Conv1d(3, 3, 3, padding=1)
        self.down = nn.Conv1d(3, 3, 3, 2, 1)
        self.gain = nn.Parameter(torch.rand(3, 1) + 1)
        self.table = nn.Parameter(torch.randn(64, 3))
        self.call = call

    def forward(self, x: Tensor) -> Any:
        return self.call(self, x)


def made(call: Callable[[Net, Tensor], Any]) -> Net:
    torch.manual_seed(0)
    return Net(call).double().eval()


def converted(model: nn.Module, clip: int = CLIP, **options: Any) -> Any:
    example = torch.randn(2, 3, clip).double()
    options = {"future": "wait", "pooling": "running", **options}
    return pgt_fx.transform(model, example, time_dim=2, **options)


def compare(model: nn.Module, prog: Any, frames: int) -> None:
    """Every output, under every chunking."""
    x = torch.randn(2, 3, frames, generator=torch.manual_seed(3)).double()
    with torch.no_grad():
        whole = model(x)
        whole = whole if isinstance(whole, tuple) else (whole,)
        for chunking in CHUNKINGS:
            chunks = chunking(frames)
            clips = pieces(x, [*chunks, frames - sum(chunks)] if sum(chunks) < frames else chunks)
            prog.reset()
            outs = [prog(c, last=i == len(clips) - 1) for i, c in enumerate(clips)]
            outs = [o if isinstance(o, tuple) or o is None else (o,) for o in outs]
            for number, (wanted, dim) in enumerate(zip(whole, prog.time_dims, strict=True)):
                given = [o[number] for o in outs if o is not None and o[number] is not None]
                if not isinstance(wanted, Tensor):
                    assert given[-1] == wanted
                    continue
                answer = given[-1] if dim is None else stitch(given, dim)
                assert answer.shape == wanted.shape, (number, chunks)
                assert relative_error(answer, wanted) <= EXACT, (number, chunks)


@dataclass(frozen=True)
class Case:
    """A function of a :class:`Net` and (N, 3, T); ``words`` are in its refusal."""

    name: str
    call: Callable[[Net, Tensor], Any]
    words: str = ""

    def __str__(self) -> str:
        return self.name


# --------------------------------------------------------------------------- positions


def positions_behind_a_stride(net: Net, x: Tensor) -> Tensor:
    y = net.down(x)
    return y + 0.1 * torch.arange(y.shape[2], dtype=x.dtype)


def positions_in_front_and_behind(net: Net, x: Tensor) -> Tensor:
    y = net.down(net.conv(x) + torch.arange(x.shape[2]))
    return net.conv(y) * torch.sin(0.3 * torch.arange(y.shape[2]))


def a_row_for_each_position_behind_a_stride(net: Net, x: Tensor) -> Tensor:
    y = net.down(x)
    return y + F.embedding(torch.arange(y.shape[2]), net.table).T


def positions_behind_upsampling(net: Net, x: Tensor) -> Tensor:
    y = F.interpolate(net.conv(x), scale_factor=2)
    return y + torch.arange(y.shape[2])


def positions_behind_pooling(net: Net, x: Tensor) -> Tensor:
    y = F.max_pool1d(x, 3, 3)
    return y * torch.arange(y.shape[2])


def positions_of_differences(net: Net, x: Tensor) -> Tensor:
    return (x[:, :, 1:] - x[:, :, :-1]) * torch.arange(x.shape[2] - 1)


def causal_attention(net: Net, x: Tensor, scale: float) -> Tensor:
    t = net.conv(x).transpose(1, 2)
    seen = torch.ones(t.shape[1], t.shape[1], dtype=torch.bool).tril()
    scores = (t @ (t * 2).transpose(1, 2) / scale).masked_fill(~seen, -math.inf)
    return (scores.softmax(-1) @ (t + 1)).transpose(1, 2)


EXACTLY = [
    Case("positions behind a stride", positions_behind_a_stride),
    Case("positions in front of a stride and behind", positions_in_front_and_behind),
    Case("a row for each position behind a stride", a_row_for_each_position_behind_a_stride),
    Case("positions behind upsampling", positions_behind_upsampling),
    Case("positions behind pooling", positions_behind_pooling),
    Case("positions of differences", positions_of_differences),
    Case("positions from one", lambda net, x: net.conv(x) + torch.arange(1, x.shape[2] + 1)),
    Case("every other", lambda net, x: net.conv(x) + torch.arange(0, 2 * x.shape[2], 2)),
    Case("downwards", lambda net, x: net.conv(x) + torch.arange(5, 5 - 3 * x.shape[2], -3)),
    Case("a mean so far", lambda net, x: x.cumsum(2) / torch.arange(1, x.shape[2] + 1)),
    Case("first positions", lambda net, x: net.conv(x) * (torch.arange(x.shape[2]) < 5)),
    Case("decay", lambda net, x: net.conv(x) * 0.9 ** torch.arange(x.shape[2])),
    Case("ones", lambda net, x: x * torch.full((x.shape[0], x.shape[2]), 1.0)[:, None]),
    Case("a constant", lambda net, x: net.conv(x) * torch.full((x.shape[2],), 2.5)),
    Case("a view", lambda net, x: net.conv(x).reshape(x.shape[0], 3, x.shape[2], 1).squeeze(3)),
    Case("the mean", lambda net, x: net.conv(x).mean(2)),
    Case("to twice the size", lambda net, x: F.interpolate(net.conv(x), size=2 * x.shape[2])),
    Case("length over length", lambda net, x: x * (x.shape[2] // x.shape[2])),
    Case("causal attention", lambda net, x: causal_attention(net, x, 3)),
]


@pytest.mark.parametrize("case", EXACTLY, ids=str)
def test_it_is_exact(case: Case) -> None:
    model = made(case.call)
    prog = converted(model)
    for frames in (14, 23):
        compare(model, prog, frames)


@pytest.mark.parametrize("future", ["wait", "zero"])
def test_positions_go_on_from_step_to_step(future: str) -> None:
    def ramp(net: Net, x: Tensor) -> Tensor:
        y = x[:, :, ::2]
        return 0 * y + torch.arange(y.shape[2])

    prog = converted(made(ramp), future=future)
    outs = prog.run(torch.randn(1, 3, 13).double(), schedule=[3, 1, 4, 5])
    flat = torch.cat([out for out in outs if out is not None], 2)
    assert flat[0, 0].tolist() == list(range(7))


# ----------------------------------------------------------------- the number of frames


def mask_by_lengths(net: Net, x: Tensor) -> Tensor:
    lengths = torch.full((x.shape[0],), x.shape[2])
    mask = torch.arange(x.shape[2])[None, :] < lengths[:, None]
    return net.conv(x) * mask[:, None].to(x.dtype)


def sum_over_lengths(net: Net, x: Tensor) -> Tensor:
    lengths = torch.full((x.shape[0],), x.shape[2], dtype=x.dtype)
    return net.conv(x).sum(2) / lengths[:, None]


def positions_of_another_length(net: Net, x: Tensor) -> Tensor:
    y = net.down(x)
    return y + torch.arange(y.shape[2]) / x.shape[2]


def attention_of_a_scale(net: Net, x: Tensor) -> Tensor:
    t = net.conv(x).mT[:, None]
    y = F.scaled_dot_product_attention(t, t * 2, t + 1, is_causal=True, scale=1 / x.shape[2])
    return y[:, 0].mT


COUNTS = "the number of frames"
NUMBER = "has to be a plain number"
MADE_ANEW = "made anew from the number of frames"
REFUSED = [
    Case("a mask by lengths", mask_by_lengths, MADE_ANEW),
    Case("a sum over lengths", sum_over_lengths, COUNTS),
    Case("a sum over another length", lambda net, x: x.sum(2) / (x.shape[2] + 1), COUNTS),
    Case("a sum over a tensor", lambda net, x: x.sum(2) / torch.tensor(x.shape[2]), COUNTS),
    Case("a gain over the length", lambda net, x: x * (net.gain / x.shape[2]), COUNTS),
    Case("over a derived length", lambda net, x: net.down(x) * (net.gain / net.down(x).shape[2]),
         COUNTS),
    Case("number of entries", lambda net, x: x * (net.gain * x[0, 0].numel()), COUNTS),
    Case("a row for the length", lambda net, x: x + net.table[x.shape[2]][:, None], COUNTS),
    Case("an embedded length",
         lambda net, x: x + F.embedding(torch.tensor(x.shape[2]), net.table)[:, None],
         COUNTS),
    Case("full of the length", lambda net, x: x * x.new_full((3, 1), x.shape[2]), COUNTS),
    Case("a tensor of it", lambda net, x: x * torch.tensor([x.shape[2], 1, 2])[:, None], COUNTS),
    Case("weights over the length",
         lambda net, x: (net.conv(x) * torch.full((x.shape[2],), 1 / x.shape[2])).sum(2),
         MADE_ANEW),
    Case("rows of the length",
         lambda net, x: x * torch.full((x.shape[0], x.shape[2]), x.shape[2])[:, None],
         MADE_ANEW),
    Case("an expanded length",
         lambda net, x: x * torch.tensor(1 / x.shape[2]).expand(x.shape[2]),
         MADE_ANEW),
    Case("relative positions", lambda net, x: x * (torch.arange(x.shape[2]) / x.shape[2]),
         MADE_ANEW),
    Case("positions over another length", positions_of_another_length, "not the table's own"),
    Case("remainder of 3", lambda net, x: x * (1 + x.shape[2] % 3), "length of the video"),
    Case("remainder of 48", lambda net, x: x * (net.gain + x.shape[2] % 48), COUNTS),
    Case("at most 16", lambda net, x: x * torch.sym_min(x.shape[2], 16), "length of the video"),
    Case("at least 16", lambda net, x: x * (net.gain * torch.sym_max(x.shape[2], 16)), COUNTS),
    Case("whether it is long", lambda net, x: x * (x.shape[2] > 4), "length of the video"),
    Case("ratio of lengths", lambda net, x: x * (x.shape[2] // (x.shape[2] // 2)),
         "length of the video"),
    Case("attention over the length", lambda net, x: causal_attention(net, x, x.shape[2]),
         "length of the video"),
    # torch takes a number here, and the capture has that of its own length.
    Case("the scale of an attention", attention_of_a_scale, NUMBER),
    Case("a pool over an eighth", lambda net, x: F.avg_pool1d(x, x.shape[2] // 8), NUMBER),
    Case("windows of an eighth", lambda net, x: x.unfold(2, x.shape[2] // 8, 1).mean(3), NUMBER),
    Case("the epsilon of a norm",
         lambda net, x: F.layer_norm(x.mT, (3,), eps=1 / x.shape[2]).mT,
         NUMBER),
    Case("padded with it", lambda net, x: F.pad(x, (1, 0), value=1 / x.shape[2]), NUMBER),
    Case("as many times", lambda net, x: sum(x * i for i in range(x.shape[2] // 8)), NUMBER),
]  # fmt: skip


@pytest.mark.parametrize("case", REFUSED, ids=str)
def test_it_is_refused(case: Case) -> None:
    with pytest.raises(PgtError) as found:
        converted(made(case.call))
    assert case.words in str(found.value)
    assert "test_length_values.py:" in str(found.value)


def test_what_is_made_anew_in_each_step_is_reported_so() -> None:
    with pytest.raises(ExactnessError):
        converted(made(mask_by_lengths))
    prog = converted(made(mask_by_lengths), future="zero")
    assert not prog.report.exact and prog.exact_frames([5, 4]) == [False] * 9


def test_a_size_that_depends_on_the_data_is_told_with_its_line() -> None:
    """Where a capture lets it pass; what follows is gone through."""

    class Gate(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.tensor([0.5, -1.0, 2.0]))

        def forward(self, x: Tensor) -> Tensor:
            return x[:, :, :1] * self.w[self.w > 0][:, None]

    x = torch.randn(2, 1, CLIP)
    sizes = ({0: torch.export.Dim.AUTO, 2: torch.export.Dim.AUTO},)
    program = torch.export.export(Gate(), (x,), dynamic_shapes=sizes, strict=False)
    given = next(n for n in program.graph.nodes if n.name == "x").meta["val"]
    captured = Captured(
        graph=program.graph_module.graph,
        tensors={"p_w": "w"},
        constants={},
        inputs={"x": 0},
        out_spec=program.call_spec.out_spec,
        calls={},
        time_symbols=frozenset(given.shape[2].node.expr.free_symbols),
        global_pools=(),
        training=False,
    )
    structure = pytree.tree_flatten(((x,), {}))[1]
    spec = ClipSpec(structure, (tuple(x.shape),), (x.dtype,), (2,))
    _, blockers = walk_graph(captured, spec, "wait")
    first = next(iter(blockers.values()))
    assert first.place.op == "aten.index" and "depends on the data" in first.reason
    assert len(blockers) == 1


# ---------------------------------------------------- numbers that no allowed length changes


class FourAndOne(nn.Module):
    """Takes 4n + 1 frames, and calculates with what is over."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.over = nn.Conv1d(3, 3, 3, padding=1), Over()

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[2] % 4 != 1:
            raise ValueError("4n + 1 frames, please")
        return self.conv(self.over(x)) * (x.shape[2] % 4 + 1)


class Over(nn.Module):
    """A module that mixes no time, and would be called whole."""

    def forward(self, x: Tensor) -> Tensor:
        return x * (x.shape[2] % 4 + 2)


def test_a_remainder_that_every_video_has_is_a_number() -> None:
    model = FourAndOne().double().eval()
    prog = converted(model)
    assert str(prog.video_lengths) == "4n + 1"
    compare(model, prog, 13)
    compare(model, prog, 21)
    with pytest.raises(ClipError):
        prog.full(torch.randn(2, 3, 12).double())


@pytest.mark.parametrize("entries", [2, 4])
def test_frames_in_groups_are_accepted(entries: int) -> None:
    """The last size of the view is T // (T // 2) to torch, which differs where there is no view."""

    def grouped(net: Net, x: Tensor) -> Tensor:
        y = net.conv(x).view(x.shape[0], 3, x.shape[2] // entries, entries)
        n, c, t, k = y.shape
        return y.permute(0, 1, 3, 2).reshape(n, c * k, t)[:, :3] * k

    model = made(grouped)
    prog = converted(model, clip=8)
    assert str(prog.video_lengths) == f"{entries}n"
    compare(model, prog, 12)
    compare(model, prog, 20)


def test_a_skip_of_twice_the_frames_is_accepted_where_all_videos_are_even() -> None:
    def unet(net: Net, x: Tensor) -> Tensor:
        if x.shape[2] % 2:
            raise ValueError("an even number of frames, please")
        return x + F.interpolate(net.down(x), size=x.shape[2])

    model = made(unet)
    prog = converted(model, clip=8)
    assert str(prog.video_lengths) == "2n"
    compare(model, prog, 14)


# ------------------------------------------------------------------------------ returned


def both(net: Net, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    at = torch.arange(x.shape[2]) * 0.5
    return net.conv(x) + at, at, at


RETURNED = [
    Case("beside features", lambda net, x: (net.conv(x), torch.arange(x.shape[2]) / 25.0)),
    Case("in front of features", lambda net, x: (torch.arange(x.shape[2]) / 25.0, net.conv(x))),
    Case("behind a stride", lambda net, x: (net.down(x), torch.arange(net.down(x).shape[2]) * 2)),
    Case("used as well, and twice", both),
    Case("beside scores", lambda net, x: (net.conv(x).mean(2), torch.arange(x.shape[2]))),
    Case("a mask", lambda net, x: (net.conv(x), torch.ones(x.shape[0], x.shape[2]))),
    Case("sizes without time", lambda net, x: (net.conv(x), x.shape[0], x.shape[1])),
]


@pytest.mark.parametrize("case", RETURNED, ids=str)
def test_a_returned_table_is_exact(case: Case) -> None:
    model = made(case.call)
    prog = converted(model)
    compare(model, prog, 14)
    compare(model, prog, 11)
    other = prog.replace(future="zero", pooling="step")  # a second walk over the same graph
    assert relative_error(other.full(torch.ones(2, 3, 11).double())[0], model(
        torch.ones(2, 3, 11).double())[0]) <= EXACT  # fmt: skip
    assert str(prog.report) and str(other.report)
    assert len(prog.exact_frames([5, 4])) in (1, 5, 9)


def test_a_returned_table_comes_with_what_it_stands_beside() -> None:
    prog = converted(made(RETURNED[0].call))
    features, times = prog(torch.randn(2, 3, 4).double())
    assert features.shape[2] == len(times) == 3
    answers = converted(made(RETURNED[0].call), future="zero")
    features, times = answers(torch.randn(2, 3, 4).double())
    assert features.shape[2] == len(times) == 4
    assert (answers(torch.randn(2, 3, 4).double())[1] * 25).round().tolist() == [4, 5, 6, 7]


def test_a_model_that_returns_a_table_is_verified() -> None:
    found = pgt_fx.verify(converted(made(RETURNED[0].call)))
    assert found.ok, str(found)


NOT_RETURNED = [
    Case("the length", lambda net, x: {"y": net.conv(x), "frames": x.shape[2]}, "['frames']"),
    Case("a derived length", lambda net, x: (net.conv(x), x.shape[2] // 2 + 1), "[1]"),
    Case("a tensor of it", lambda net, x: (net.conv(x), torch.tensor(x.shape[2])), "[1]"),
    Case("lengths", lambda net, x: [net.conv(x), x.new_full((2,), x.shape[2])], "[1]"),
    Case("relative positions", lambda net, x: (net.conv(x), torch.arange(x.shape[2]) / x.shape[2]),
         "depend on the length"),
    Case("a learned table", lambda net, x: (net.conv(x), net.table[: x.shape[2]]), "fixed length"),
    Case("frames by frames", lambda net, x: (net.conv(x), torch.ones(x.shape[2], x.shape[2])),
         "frames by frames"),
    Case("one too many", lambda net, x: (net.conv(x), torch.arange(x.shape[2] + 1)), "another"),
]  # fmt: skip


@pytest.mark.parametrize("case", NOT_RETURNED, ids=str)
def test_what_a_step_can_not_return_is_refused(case: Case) -> None:
    with pytest.raises(BlockedError) as found:
        converted(made(case.call))
    assert case.words in str(found.value) and "the model returns" in str(found.value)
