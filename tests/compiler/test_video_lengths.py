"""Which lengths a video may have: branches of the model's Python on its number of frames.

The graph is the model at exactly these lengths, however far off a branch begins; at all others the
video is refused, with the line.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import sympy
import torch
import torch.nn.functional as F
from oracles import pieces, relative_error, stitch
from torch import Tensor, nn

import pgt_fx
from pgt_fx.capture.guards.symbolic_sizes import Sizes
from pgt_fx.core.clocks import Clock, ConcatClock, InputClock, JoinClock, LawClock, Part
from pgt_fx.core.errors import BlockedError, CaptureError, ClipError
from pgt_fx.core.laws import Interpolate, Repeat, Transposed, Window
from pgt_fx.core.lengths.sets import LengthSet

EXACT = 1e-9
CLIP = 9


class Net(nn.Module):
    """A function of features (N, 3, T), with a layer for it."""

    def __init__(self, call: Callable[[Net, Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.call = nn.Conv1d(3, 3, 3, padding=1), call

    def forward(self, x: Tensor) -> Tensor:
        return self.call(self, x)


def made(call: Callable[[Net, Tensor], Tensor]) -> Net:
    torch.manual_seed(0)
    return Net(call).double().eval()


def converted(model: nn.Module, clip: int = CLIP) -> pgt_fx.Progressive:
    return pgt_fx.transform(model, torch.randn(1, 3, clip).double(), time_dim=2, future="wait")


def video(frames: int) -> Tensor:
    return torch.randn(1, 3, frames, generator=torch.manual_seed(frames)).double()


def in_steps(prog: pgt_fx.Progressive, x: Tensor, chunk: int) -> Tensor:
    chunks = [chunk] * (x.shape[2] // chunk) + [x.shape[2] % chunk] * (x.shape[2] % chunk > 0)
    outs = []
    prog.reset()
    for number, piece in enumerate(pieces(x, chunks)):
        outs.append(prog(piece, last=number == len(chunks) - 1))
    return stitch(outs, 2)


def holds(prog: pgt_fx.Progressive, model: nn.Module, frames: int) -> None:
    """The model's own answer, in one step and in several."""
    x = video(frames)
    with torch.no_grad():
        whole = model(x)
        assert relative_error(prog.full(x), whole) <= EXACT, frames
        assert relative_error(in_steps(prog, x, max(2, frames // 3)), whole) <= EXACT, frames


def twice_if(condition: Callable[[int], Any]) -> Callable[[Net, Tensor], Tensor]:
    def call(net: Net, x: Tensor) -> Tensor:
        y = net.conv(x)
        return 2 * y if condition(x.shape[2]) else y

    return call


def raises_unless(condition: Callable[[int], Any]) -> Callable[[Net, Tensor], Tensor]:
    def call(net: Net, x: Tensor) -> Tensor:
        if not condition(x.shape[2]):
            raise ValueError("another number of frames, please")
        return net.conv(x)

    return call


def long_ones_in_parts(net: Net, x: Tensor) -> Tensor:
    y = net.conv(x)
    if x.shape[2] > 256:
        y = torch.cat([part * (i + 1) for i, part in enumerate(y.split(256, 2))], 2)
    return y


def in_groups(size: int) -> Callable[[Net, Tensor], Tensor]:
    def call(net: Net, x: Tensor) -> Tensor:
        n, c, t = x.shape
        return net.conv(x).view(n, c, t // size, size).mean(3)

    return call


def groups_behind_a_stride(net: Net, x: Tensor) -> Tensor:
    y = net.conv(x)[:, :, ::2]
    n, c, t = y.shape
    return y.view(n, c, t // 3, 3).mean(3)


def to_an_even_length(net: Net, x: Tensor) -> Tensor:
    if x.shape[2] % 2:
        raise ValueError("an even number of frames, please")
    return net.conv(x)[:, :, : 2 * (x.shape[2] // 2)]


def at_most_64(net: Net, x: Tensor) -> Tensor:
    torch._check(x.shape[2] <= 64)
    return net.conv(x)


def asserts(by: Callable[[Tensor], None]) -> Callable[[Net, Tensor], Tensor]:
    """A function of torch is given the condition."""

    def call(net: Net, x: Tensor) -> Tensor:
        by(x)
        return net.conv(x)

    return call


def in_a_message(x: Tensor) -> None:
    torch._assert(x.shape[2] % 4 == 0, f"frames by four, and not {x.shape[2]} of {x.shape}")


def by_keyword(x: Tensor) -> None:
    torch._check(cond=x.shape[2] < 30, message=f"fewer than {x.shape[2]}")


def as_a_number(x: Tensor) -> None:
    torch._assert(x.shape[2] % 3, "not by three")


def by_several(x: Tensor) -> None:
    torch._check_value(x.shape[2] % 2 == 0, lambda: f"{x.shape[2]} is odd")
    torch._check_index(x.shape[2] < 30)


@dataclass(frozen=True)
class Case:
    """A model, the lengths that it is converted for in words, some of them, and some others."""

    name: str
    call: Callable[[Net, Tensor], Tensor]
    words: str
    taken: tuple[int, ...]
    refused: tuple[int, ...] = ()
    clip: int = CLIP

    def __str__(self) -> str:
        return self.name


CASES = [
    Case("many", twice_if(lambda t: t > 300), "at most 300", (1, 300), (301, 450)),
    Case("one", twice_if(lambda t: t == 70), "any number but 70", (69, 71), (70,)),
    Case("two", twice_if(lambda t: t in (500, 600)), "any number but 500 or 600",
         (499, 501, 601), (500, 600)),
    Case("a quotient", twice_if(lambda t: t // 200), "at most 199", (199,), (200, 401)),
    Case("a remainder", twice_if(lambda t: (t * 7) % 31 == 3), "any number but 31n + 27",
         (26, 28, 59), (27, 58)),
    Case("seconds", twice_if(lambda t: t / 30 > 10), "at most 300", (300,), (301,)),
    Case("a tenth", twice_if(lambda t: t * 0.1 > 3), "at most 30", (30,), (31,)),
    Case("two at once", twice_if(lambda t: t >= 40 and t < 90), "at most 39", (39,), (40, 89)),
    Case("parts", long_ones_in_parts, "at most 256", (255, 256), (257,)),
    Case("groups of 3", in_groups(3), "3n", (3, 12, 36), (10, 11)),
    Case("groups of 5", in_groups(5), "5n", (5, 35), (31, 33), clip=10),
    Case("groups behind a stride", groups_behind_a_stride, "6n or 6n + 5", (5, 17, 18),
         (16, 19), clip=12),
    Case("3n + 1", raises_unless(lambda t: t % 3 == 1), "3n + 1", (1, 10, 31), (11, 12), clip=7),
    Case("7n + 2", raises_unless(lambda t: t % 7 == 2), "7n + 2", (2, 9, 30), (10,), clip=9),
    Case("at least 5, and odd", raises_unless(lambda t: t > 4 and t % 2), "2n + 1, at least 5",
         (5, 13), (3, 8)),
    # The capture is longer than the clip, and there the model goes another way.
    Case("a clip below", twice_if(lambda t: t > 20), "at most 20", (9, 20), (21,)),
    Case("a clip above", twice_if(lambda t: t > 20), "at least 21", (21, 40), (20,), clip=32),
    Case("a clip of one remainder", twice_if(lambda t: t % 3), "3n", (6, 12), (10,), clip=9),
    Case("a check", at_most_64, "at most 64", (64,), (65,)),
    Case("a check from below", asserts(lambda x: torch._check(x.shape[2] >= 5)), "at least 5",
         (5, 8), (4,)),
    Case("torch._assert", asserts(lambda x: torch._assert(x.shape[2] <= 64, "few")), "at most 64",
         (64,), (65,)),
    Case("of a remainder, with sizes in the message", asserts(in_a_message), "4n", (4, 12),
         (6,), clip=8),
    Case("with keywords", asserts(by_keyword), "at most 29", (29,), (30,)),
    Case("of a number", asserts(as_a_number), "any number but 3n", (4, 8), (9,), clip=8),
    Case("of several kinds", asserts(by_several), "2n, at most 28", (4, 28), (9, 30), clip=8),
    Case("torch's own bound", lambda net, x: F.avg_pool1d(net.conv(x), 7, 1), "at least 7",
         (7, 8, 40), (1, 6)),
    Case("a slice to the end", lambda net, x: net.conv(x)[:, :, 1:100], "any number",
         (99, 100, 101, 140)),
    Case("without the last", lambda net, x: x[:, :, 1:] - x[:, :, : x.shape[2] - 1], "any number",
         (2, 14)),
    Case("the last", lambda net, x: net.conv(x)[:, :, x.shape[2] - 1 :].mean(2), "any number", ()),
    Case("to a length that is its own", to_an_even_length, "2n", (6, 8), (7,), clip=8),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_video_has_the_model_s_answer_or_is_refused(case: Case) -> None:
    model = made(case.call)
    prog = converted(model, case.clip)
    assert str(prog.video_lengths) == case.words
    for frames in case.taken:
        assert prog.video_lengths.allows(frames)
        holds(prog, model, frames)
    for frames in case.refused:
        assert not prog.video_lengths.allows(frames)
        with pytest.raises(ClipError, match=f"takes videos of .*ends at {frames}") as found:
            prog.full(video(frames))
        assert "test_video_lengths.py:" in str(found.value)


class Behind(nn.Module):
    """A layer behind a convolution and what else a case does."""

    def __init__(self, layer: nn.Module, before: Callable[[Tensor], Tensor] = lambda y: y) -> None:
        super().__init__()
        self.conv, self.layer, self.before = nn.Conv1d(3, 3, 3, padding=1), layer, before

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(self.before(self.conv(x)))


class Call(nn.Module):
    def __init__(self, call: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.call = call

    def forward(self, y: Tensor) -> Tensor:
        return self.call(y)


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(3, 3, batch_first=True)

    def forward(self, y: Tensor) -> Tensor:
        return self.gru(y.mT)[0]


def _behind(start: int, step: int = 1) -> Callable[[Tensor], Tensor]:
    return lambda y: y[:, :, start::step]


#: What torch needs of its operators along time, and the fewest frames at which the model runs.
NEEDS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "a kernel": (lambda: Behind(nn.Conv1d(3, 3, 5)), 5),
    "a kernel behind a stride": (
        lambda: Behind(nn.Conv1d(3, 3, 4, padding=1, dilation=2), _behind(0, 2)), 9),
    "a padded kernel of nothing": (lambda: Behind(nn.Conv1d(3, 3, 3, padding=1), _behind(2)), 3),
    "a kernel of one frame": (lambda: Behind(nn.Conv1d(3, 3, 1), _behind(3)), 4),
    "a pool that is rounded up": (lambda: Behind(nn.MaxPool1d(4, 2, ceil_mode=True)), 3),
    "a pool of any": (lambda: Behind(nn.AvgPool1d(3, 3, ceil_mode=True)), 1),
    "a reflection": (lambda: Behind(nn.ReflectionPad1d((3, 1))), 4),
    "a repeated end": (lambda: Behind(nn.ReplicationPad1d(1), _behind(1)), 2),
    "a crop": (lambda: Behind(nn.ConstantPad1d((-3, -1), 0.0)), 4),
    "a largest one": (lambda: Behind(Call(lambda y: y.amax(2)), _behind(2)), 3),
    "a first one": (lambda: Behind(Call(lambda y: y[:, :, 0]), _behind(2)), 3),
    "windows": (lambda: Behind(Call(lambda y: y.unfold(2, 4, 2).mean(3))), 4),
    "upsampling": (lambda: Behind(nn.Upsample(scale_factor=2), _behind(1)), 2),
    "a recurrence": (lambda: Behind(Recurrent(), _behind(1)), 2),
    "a transposed one": (lambda: Behind(nn.ConvTranspose1d(3, 3, 3, 2, 2), _behind(1)), 3),
    "a table": (lambda: Behind(Call(lambda y: y[:, :, 3:] + y.new_ones(y.shape[2] - 3))), 3),
    "a slice": (lambda: Behind(Call(torch.relu), _behind(2)), 1),
}  # fmt: skip


@pytest.mark.parametrize("name", NEEDS)
def test_a_program_is_for_the_lengths_at_which_the_model_runs(name: str) -> None:
    make, least = NEEDS[name]
    torch.manual_seed(0)
    model = make().double().eval()
    prog = pgt_fx.transform(model, video(CLIP), time_dim=2, future="wait", pooling="running")
    taken = [t for t in range(1, 24) if prog.video_lengths.allows(t)]
    runs = []
    for t in range(1, 24):
        try:
            model(video(t))
        except (RuntimeError, IndexError):
            with pytest.raises(ClipError, match=rf"ends at {t}[^0-9](.|\n)*py:\d+: ") as found:
                prog.full(video(t))
            assert "test_video_lengths.py:" in str(found.value)
        else:
            runs.append(t)
            prog.full(video(t))
    assert taken == runs == list(range(least, 24))


@pytest.mark.parametrize(
    "layer", [nn.InstanceNorm1d(3), nn.GroupNorm(3, 3)], ids=["rows", "groups"]
)
def test_statistics_of_one_frame_are_refused_in_our_words(layer: nn.Module) -> None:
    """Torch itself takes none of one number, and names no line."""
    prog = pgt_fx.transform(Behind(layer).double().eval(), video(CLIP), time_dim=2)
    assert str(prog.video_lengths) == "at least 2"
    with pytest.raises(ClipError, match=r"ends at 1(.|\n)*return self\.layer"):
        prog.full(video(1))
    with pytest.raises(ClipError, match=r"one element along time for\n.*return self\.layer"):
        prog.run(video(4), schedule=[3, 1])
    assert [y.shape[2] for y in prog.run(video(4), schedule=[2, 2])] == [2, 2]
    kept = Behind(nn.InstanceNorm1d(3, track_running_stats=True)).double().eval()
    exact = pgt_fx.transform(kept, video(CLIP), time_dim=2, future="wait")
    holds(exact, kept, 1)
    assert relative_error(in_steps(exact, video(4), 1), kept(video(4))) <= EXACT


REFUSED = [
    ("a number that changes late", lambda net, x: net.conv(x) * (1 + x.shape[2] // 7000)),
    ("entries that are more late", lambda net, x: x * torch.ones(1 + x.shape[2] // 7000).sum()),
    ("twice the size, and more late",
     lambda net, x: F.interpolate(net.conv(x), size=2 * x.shape[2] + x.shape[2] // 7000)),
    ("parts", lambda net, x: torch.cat([p * 2 for p in net.conv(x).split(256, 2)], 2)),
    ("a square", twice_if(lambda t: t * t > 90000)),
    ("a pool", lambda net, x: F.avg_pool1d(x, 1 + x.shape[2] // 300)),
]  # fmt: skip


@pytest.mark.parametrize(("name", "call"), REFUSED, ids=[name for name, _ in REFUSED])
def test_what_has_no_one_graph_is_refused_with_its_line(name: str, call: Any) -> None:
    """Or converted for the lengths at which it has."""
    model = made(call)
    try:
        prog = converted(model)
    except (BlockedError, CaptureError) as error:
        assert "test_video_lengths.py:" in str(error)
        return
    for frames in (255, 257, 299, 300, 302):
        if prog.video_lengths.allows(frames):
            holds(prog, model, frames)
    most = prog.video_lengths.most
    assert most is not None and most < 5000


def test_a_branch_on_frames_and_rows_that_the_capture_takes_otherwise() -> None:
    def few(net: Net, x: Tensor) -> Tensor:
        return 2 * net.conv(x) if x.numel() <= 90 else net.conv(x)

    model = made(few)
    prog = converted(model)  # of one row and 9 frames, captured longer
    assert str(prog.video_lengths) == "at most 30"
    holds(prog, model, 30)


# ---------------------------------------------------------------------------------- in a stream


def test_a_stream_that_grows_past_a_bound_is_refused_at_once() -> None:
    prog = converted(made(twice_if(lambda t: t > 300)))
    state = prog.init_state()
    for _ in range(3):
        _, state = prog.step(state, video(100))
    with pytest.raises(ClipError, match="at most 300 frames, and this one has had 301") as found:
        prog.step(state, video(1))
    assert "if condition(x.shape[2])" in str(found.value) and "(T <= 300)" in str(found.value)


def test_a_stream_may_pass_a_length_at_which_it_could_not_end() -> None:
    model = made(twice_if(lambda t: t == 70))
    prog = converted(model)
    with torch.no_grad():
        assert relative_error(in_steps(prog, video(80), 10), model(video(80))) <= EXACT
    state = prog.init_state()
    _, state = prog.step(state, video(69))
    with pytest.raises(ClipError, match="any number but 70 frames, and this one ends at 70"):
        prog.step(state, video(1), last=True)


def test_what_the_model_asserts_is_kept() -> None:
    def few(net: Net, x: Tensor) -> Tensor:
        assert 4 <= x.shape[2] <= 64, "at most 64"
        return net.conv(x)

    prog = converted(made(few))
    assert (prog.video_lengths.least, prog.video_lengths.most) == (4, 64)
    for frames in (3, 65):
        with pytest.raises(ClipError, match="assert 4 <="):
            prog.full(video(frames))


def test_a_bounded_model_is_verified_within_its_bound() -> None:
    prog = converted(made(twice_if(lambda t: t > 20)))
    assert pgt_fx.verify(prog).ok


def test_the_next_length_is_told() -> None:
    lengths = converted(made(raises_unless(lambda t: t % 3 == 1)), 7).video_lengths
    assert [lengths.fit(n) for n in (1, 2, 7, 8)] == [1, 4, 7, 10]
    assert lengths.least == 1 and lengths.most is None
    few = converted(made(twice_if(lambda t: t > 300))).video_lengths
    assert few.most == 300 and few.near(400) == 300
    with pytest.raises(ClipError, match="none of 301 or more"):
        few.fit(301)


class TwoPaths(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.slow, self.fast = nn.Conv3d(3, 4, 1), nn.Conv3d(3, 4, (5, 1, 1), (4, 1, 1), (2, 0, 0))

    def forward(self, clips: Sequence[Tensor]) -> Tensor:
        slow, fast = clips
        y = self.slow(slow) + self.fast(fast)
        return 2 * y if fast.shape[2] > 402 else y


def test_a_branch_on_the_path_with_more_frames() -> None:
    model = TwoPaths().double().eval()
    clip = [torch.randn(1, 3, n, 2, 2).double() for n in (4, 16)]
    prog = pgt_fx.transform(model, clip, future="wait")
    assert str(prog.video_lengths) == "at most 100"
    x = [torch.randn(1, 3, n, 2, 2).double() for n in (100, 400)]
    with torch.no_grad():
        assert relative_error(prog.full(x), model(x)) <= EXACT
    with pytest.raises(ClipError, match="at most 100 frames"):
        prog.full([torch.randn(1, 3, n, 2, 2).double() for n in (101, 404)])


# -------------------------------------------------------------------------------------- questions

T, B, H = sympy.symbols("s0 s1 s2", positive=True, integer=True)
FRAMES = Sizes({T: 21, B: 2, H: 8}, frozenset({T}))
EVEN = FRAMES.of(LengthSet.remainders(2, [0]))


def floor(a: Any, b: int) -> Any:
    from torch.utils._sympy.functions import FloorDiv

    return FloorDiv(a, b)


def test_sizes_are_compared_at_all_lengths() -> None:
    assert FRAMES.varies(1 + floor(T, 7000)) and not FRAMES.varies(B * H + T - T)
    assert FRAMES.varies(B * T * H) and FRAMES.varies(T * T)
    assert FRAMES.offset(floor(T - 1, 2) + 1, floor(T + 1, 2)) == 0
    assert FRAMES.offset(T - 3, T) == -3 and FRAMES.offset(T + floor(T, 7000), T) is None
    assert EVEN.same(2 * floor(T, 2), T) and not FRAMES.same(2 * floor(T, 2), T)
    assert EVEN.multiple(T, floor(T, 2), 2) and not FRAMES.multiple(T, floor(T, 2), 2)
    assert FRAMES.multiple(T, floor(T, 2), 2, groups=True)
    assert not FRAMES.multiple(2 * T + floor(T, 5000), T, 2)


def test_products_of_sizes_are_compared_at_all_sizes() -> None:
    assert FRAMES.product([B, T + 1, floor(H, 2)], B * floor(H, 2) + B * T * floor(H, 2))
    assert FRAMES.product([T, T], T**2)
    assert EVEN.product([B, 2, floor(T, 2)], B * T)
    assert not FRAMES.product([B, 2, floor(T, 2)], B * T)
    assert not FRAMES.product([B, T], B * T + B * floor(T, 10**4))
    assert not FRAMES.product([H, T], B * T)


def cut(sizes: Sizes, bound: Any, length: Any) -> tuple[int | None, int | None]:
    """How many elements ``x[:bound]`` takes, and how many it leaves out; None: it varies."""
    n = sizes.function(length)
    at = sizes.bound(bound, n)
    return sizes.from_start(at, n), sizes.from_start(n - at, n)


def test_a_bound_that_may_be_negative_is_not_taken_for_a_constant() -> None:
    assert cut(FRAMES, T - 1, T) == (None, 1) and cut(FRAMES, T + 4, T) == (None, 0)
    assert cut(FRAMES, T - 5, T) == (None, None)  # x[:-2] at three frames
    assert cut(FRAMES, T, floor(T, 2)) == (None, 0) and cut(FRAMES, floor(T, 2), T)[1] is None
    assert cut(FRAMES.of(LengthSet.interval(5, None)), T - 5, T) == (None, 5)
    assert cut(FRAMES, 3, T) == (3, None) and cut(FRAMES, -T, T) == (0, None)


def random_clock(rng: random.Random, depth: int) -> Clock:
    if depth == 0:
        return InputClock("wait", rng.randint(0, 1))
    below = random_clock(rng, depth - 1)
    kind = rng.randint(0, 6)
    if kind == 0:
        return JoinClock((below, random_clock(rng, depth - 1)))
    if kind == 1:
        first = [Part(below, 1, first=True), Part(None, rng.randint(1, 3))]
        return ConcatClock((*first[: rng.randint(1, 2)], Part(random_clock(rng, depth - 1))))
    if kind == 2:
        return LawClock(rng.choice([Repeat(2), Interpolate(3), Transposed(3, 2, 1, 1, 1)]), below)
    window = Window(
        rng.randint(1, 4),
        rng.randint(1, 4),
        rng.randint(1, 2),
        rng.randint(-2, 3),
        rng.randint(-2, 3),
        rng.random() < 0.3,
        rng.choice(["constant", "reflect"]),
        rng.choice([None, None, 5]),
    )
    return LawClock(window, below)


def test_the_elements_of_a_whole_video_as_a_function_of_its_length() -> None:
    rng = random.Random(0)
    for _ in range(150):
        clock = random_clock(rng, rng.randint(1, 4))
        found = clock.count_of_video((1, 4))
        for n in (*range(1, 40), *range(700, 730)):
            assert found(n) == clock.at((n, 4 * n), True).total, (clock, n)


class Folded(nn.Module):
    """Averages over pairs of frames and squares of pixels, folded into the channels: the number of
    these is a product of sizes, in which ``t // (t // 2)`` is two.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(3, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = nn.functional.pad(self.conv(x), (0, 0, 0, 0, 1, 0))
        n, c, t, h, w = y.shape
        y = y.reshape(n, c, t // 2, 2, h // 2, 2, w // 2, 2)
        return y.permute(0, 1, 3, 5, 7, 2, 4, 6).flatten(1, 4).unflatten(1, (8, 4)).mean(2)


def test_a_product_of_space_and_of_what_is_the_same_at_all_lengths() -> None:
    torch.manual_seed(0)
    model = Folded().double().eval()
    prog = pgt_fx.transform(model, torch.randn(1, 3, 9, 4, 4).double(), future="wait")
    x = torch.randn(2, 3, 17, 6, 4).double()
    outs = [out for out in prog.run(x, schedule=[5, 1, 8, 3]) if out is not None]
    with torch.no_grad():
        assert (torch.cat(outs, 2) - model(x)).abs().max() < 1e-12


class Alternates(nn.Module):
    """Multiplies by the sum of the first frame, or the first two: for an odd number of frames."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.conv, self.rows = nn.Conv3d(3, 4, 1), rows

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        n, c, t, h, w = y.shape
        if self.rows:  # the product of frames and lines is a multiple
            y = y + y.reshape(n, c, t * h // self.rows, self.rows, w).mean((2, 3, 4), True)
        return y * y[:, :, : t % 2 + 1].sum(2, keepdim=True)


@pytest.mark.parametrize("rows", [0, 32])
def test_a_size_varies_if_it_does_for_any_video_that_the_model_takes(rows: int) -> None:
    """What torch finds of a size of its own accord, at the capture's length or its space, is no
    condition on a video."""
    example = torch.randn(1, 3, 8, 8, 4)
    with pytest.raises(BlockedError, match="its end computed from the length"):
        pgt_fx.transform(Alternates(rows).eval(), example, check=False)


class Shifted(nn.Module):
    """A residual network as deep as some are, each branch shifted by a frame."""

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(20):
            x = x + F.pad(x[:, :, 1:], (0, 1)).relu()
        return x


def test_lengths_of_a_deep_model_take_time_in_its_depth_and_no_power_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[Any] = []
    plain = Window.count_of
    monkeypatch.setattr(Window, "count_of", lambda law, n: calls.append(law) or plain(law, n))
    prog = pgt_fx.transform(Shifted(), torch.randn(1, 2, 8), time_dim=2)
    assert str(prog.video_lengths) == "at least 2"
    assert len(calls) <= 100
