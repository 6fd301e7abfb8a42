"""Models of which a step is a clip: captured at its length, with attention that finds the keys and
values of the clips before.

The oracle for what is carried is written here: the same weights, with the keys of the step before
put in front by hand.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from oracles import relative_error
from torch import Tensor, nn
from torch.nn import functional as F

import pgt_fx
from pgt_fx import AttentionMemory, OverTime, PerStep, Progressive, Schedule
from pgt_fx.compiler.selfcheck.check import self_check
from pgt_fx.core.errors import ClipError, ExactnessError, OptionError, PgtError, SelfCheckError
from pgt_fx.rules.kinds import clip_attention
from pgt_fx.runtime.markov import clip_memory
from pgt_fx.training import backward

FRAMES, SIDE, WIDE, EXACT = 4, 8, 12, 1e-9
TOKENS = FRAMES * 4
Past = list[tuple[Tensor, Tensor]]


class Attend(nn.Module):
    """softmax(QK)V of two heads, spelled as products."""

    def __init__(self, wide: int = WIDE) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(wide, 3 * wide), nn.Linear(wide, wide)

    def parts(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = self.qkv(x).unflatten(-1, (3, 2, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        return q, k, v

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.parts(x)
        weights = (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(-1)
        return self.out((weights @ v).transpose(1, 2).flatten(2))

    def after(self, x: Tensor, past: tuple[Tensor, Tensor] | None, *, beside: bool = True) -> Any:
        """What it gives with keys and values of the clip before, and its own."""
        q, k, v = self.parts(x)
        keys, values = k, v
        if past is not None:
            keys = torch.cat([past[0], k], 2) if beside else past[0]
            values = torch.cat([past[1], v], 2) if beside else past[1]
        weights = (q @ keys.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(-1)
        return self.out((weights @ values).transpose(1, 2).flatten(2)), (k, v)


class Joint(nn.Module):
    """Joint attention over frames and places, a class token, a table of positions that is asked
    for the clip's length."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv3d(3, WIDE, (1, 4, 4), (1, 4, 4))
        self.token = nn.Parameter(torch.randn(1, 1, WIDE))
        self.table = nn.Parameter(torch.randn(1, 1 + TOKENS, WIDE))
        self.blocks = nn.ModuleList(Attend() for _ in range(2))
        self.head = nn.Linear(WIDE, 5)

    def embed(self, x: Tensor) -> Tensor:
        y = self.patch(x)
        if y.shape[2] * 4 != self.table.shape[1] - 1:  # asked
            raise ValueError("another clip")
        y = y.flatten(2).transpose(1, 2)
        return torch.cat([self.token.expand(len(y), -1, -1), y], 1) + self.table

    def forward(self, x: Tensor) -> Tensor:
        y = self.embed(x)
        for block in self.blocks:
            y = y + block(y)
        return self.head(y[:, 0])

    def after(self, x: Tensor, past: Past | None, *, beside: bool = True) -> tuple[Tensor, Past]:
        y, kept = self.embed(x), []
        for number, block in enumerate(self.blocks):
            found, own = block.after(y, None if past is None else past[number], beside=beside)
            kept.append(own)
            y = y + found
        return self.head(y[:, 0]), kept


def ready(model: nn.Module, seed: int = 0) -> Any:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=generator) * (0.5 if p.dim() > 1 else 0.2))
    return model.double().eval()


def clips(count: int, rows: int = 2, frames: int = FRAMES, seed: int = 1) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shape = (rows, 3, frames, SIDE, SIDE)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(count)]


def fed(prog: Progressive, pieces: list[Tensor]) -> list[Tensor]:
    prog.reset()
    with torch.no_grad():
        return [prog(x) for x in pieces]


@pytest.fixture(scope="module")
def joint() -> tuple[Joint, Progressive]:
    model = ready(Joint())
    return model, pgt_fx.transform(model, clips(1)[0])


def test_a_step_is_a_clip_and_its_answer_the_models(joint: tuple[Joint, Progressive]) -> None:
    model, prog = joint
    for x, got in zip(clips(3), fed(prog, clips(3)), strict=True):
        with torch.no_grad():
            wanted = model(x)
        assert relative_error(got, wanted) < EXACT
        assert relative_error(model(x.flip(2)), wanted) > 1e-3  # time does something
    checked = str(self_check(prog))
    assert checked == "equals the model on videos of 4 frames, whole and in steps, float64"


def test_the_report_says_that_a_step_is_a_clip_and_why(joint: tuple[Joint, Progressive]) -> None:
    report = joint[1].report
    assert report.steps.startswith("a step is a clip of 4 frames, because ")
    assert "test_whole_clips.py" in report.steps and report.steps in str(report).replace("\n", " ")
    assert report.longest_step == FRAMES and not report.exact
    guards = [g for g in joint[1].guards if "a clip" in g.words]
    assert len(guards) == 1 and "test_whole_clips.py" in guards[0].because[0]


@pytest.mark.parametrize("beside", [True, False])
def test_keys_and_values_of_the_step_before_are_seen(
    joint: tuple[Joint, Progressive], beside: bool
) -> None:
    """Beside the step's own, or in place of them; beside the oracle, which carries them by hand."""
    model, prog = joint
    memory = prog.replace(attention=AttentionMemory(beside=beside))
    past: Past | None = None
    for number, (x, got) in enumerate(zip(clips(3), fed(memory, clips(3)), strict=True)):
        with torch.no_grad():
            wanted, past = model.after(x, past, beside=beside)
        assert relative_error(got, wanted) < EXACT
        assert (relative_error(got, model(x)) > 1e-3) == (number > 0)
    assert all(r.state_bytes for r in memory.report.rows)
    how = "beside" if beside else "in place of"
    assert f"finds the keys of 1 clip before {how} its own" in str(memory.report).replace("\n", " ")


def test_the_first_step_reaches_the_third(joint: tuple[Joint, Progressive]) -> None:
    memory = joint[1].replace(attention="memory")
    one, other = clips(3), [clips(1, seed=9)[0], *clips(3)[1:]]
    apart = [
        relative_error(a, b) for a, b in zip(fed(memory, one), fed(memory, other), strict=True)
    ]
    assert min(apart) > 1e-6
    own = [
        relative_error(a, b) for a, b in zip(fed(joint[1], one), fed(joint[1], other), strict=True)
    ]
    assert own[1:] == [0.0, 0.0]  # without it nothing is carried
    two = joint[1].replace(attention=AttentionMemory(2))
    assert relative_error(fed(two, one)[1], fed(memory, one)[1]) == 0.0
    assert relative_error(fed(two, one)[2], fed(memory, one)[2]) > 1e-6


def test_rows_do_not_mix_and_reset_forgets(joint: tuple[Joint, Progressive]) -> None:
    memory, pieces = joint[1].replace(attention="memory"), clips(3)
    whole = fed(memory, pieces)
    alone = fed(memory, [x[:1] for x in pieces])
    assert relative_error(alone[2], whole[2][:1]) < EXACT
    changed = [torch.cat([x[:1], x[1:].flip(3)]) for x in pieces]
    assert torch.equal(fed(memory, changed)[2][0], whole[2][0])
    assert all(map(torch.equal, fed(memory, pieces), whole))
    assert memory.state["clock.frames"].item() == 3 * FRAMES


def test_clips_of_another_length_are_refused(joint: tuple[Joint, Progressive]) -> None:
    prog, x = joint[1], clips(1)[0]
    prog.reset()
    for frames in (1, FRAMES - 1, FRAMES + 1, 2 * FRAMES):
        words = rf"a clip of 4 frames, and {frames} frames? were fed"
        with pytest.raises(ClipError, match=words):
            prog(torch.cat([x, x], 2)[:, :, :frames])
    with pytest.raises(ClipError, match="a clip of 4 frames"):
        prog.exact_frames([FRAMES, 3])
    assert prog.exact_frames([FRAMES]) == [True] and prog.exact_frames([FRAMES] * 2) == [False]
    assert prog.smallest_clip == FRAMES and str(prog.video_lengths) == "4n"
    with pytest.raises(ExactnessError, match="attends over the frames of the clip"):
        prog.replace(future="wait")


def test_flushing_gives_nothing(joint: tuple[Joint, Progressive]) -> None:
    memory = joint[1].replace(attention="memory")
    fed(memory, clips(1))
    assert memory.flush() is None


def test_a_schedule_with_overlap_feeds_clips_that_share_frames(
    joint: tuple[Joint, Progressive],
) -> None:
    model, prog = joint
    video = torch.cat(clips(3), 2)[:, :, :10]  # 0…3, 3…6, 6…9
    with torch.no_grad():
        steps = prog.run(video, schedule=Schedule(FRAMES, overlap=1))
        for number, got in enumerate(steps):
            assert relative_error(got, model(video[:, :, 3 * number :][:, :, :FRAMES])) < EXACT
        assert len(steps) == 3 and len(prog.run(video[:, :, :8])) == 2
    seen: list[tuple[int, int]] = []
    pieces = OverTime(lambda start, stop: seen.append((start, stop)) or torch.zeros(2).long())
    backward(prog, video, F.cross_entropy, pieces, schedule=Schedule(FRAMES, overlap=1))
    assert list(dict.fromkeys(seen)) == [(0, 4), (4, 7), (7, 10)]
    with pytest.raises(ClipError, match="leave 2 over: cut it to 8"):
        prog.run(video)
    with pytest.raises(ClipError, match="steps of 3"):
        prog.run(video, schedule=Schedule(3, overlap=0))
    with pytest.raises(ClipError, match="have one of 2"):
        prog.run(video, schedule=[4, 4, 2])


@pytest.mark.parametrize("gradient", ["truncated", "exact"])
def test_gradients_are_those_of_the_oracle(joint: tuple[Joint, Progressive], gradient: Any) -> None:
    """Truncated: what is carried is detached; exact: it is not."""
    model, prog = joint
    memory, pieces, target = prog.replace(attention="memory"), clips(3), torch.tensor([1, 3])
    model.zero_grad()
    backward(memory, torch.cat(pieces, 2), F.cross_entropy, target, gradient=gradient)
    got = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    wanted: dict[str, dict[str, Tensor]] = {}
    for how in ("truncated", "exact"):
        model.zero_grad()
        past: Past | None = None
        loss = torch.zeros((), dtype=torch.float64)
        for x in pieces:
            out, kept = model.after(x, past)
            past = [tuple(y.detach() if how == "truncated" else y for y in one) for one in kept]  # type: ignore[misc]
            loss = loss + F.cross_entropy(out, target)
        loss.backward()
        wanted[how] = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    assert got.keys() == wanted[gradient].keys()
    apart = {h: max(relative_error(got[n], w[n]) for n in got) for h, w in wanted.items()}
    assert apart.pop(gradient) < EXACT and min(apart.values()) > 1e-3


def test_dropout_and_train_mode(joint: tuple[Joint, Progressive]) -> None:
    class Dropped(Joint):
        def forward(self, x: Tensor) -> Tensor:
            y = self.embed(x)
            q, k, v = self.blocks[0].parts(y)  # type: ignore[operator]
            weights = F.dropout((q @ k.mT).softmax(-1), 0.5, self.training)
            return self.head((weights @ v).transpose(1, 2).flatten(2)[:, 0])

    prog = pgt_fx.transform(ready(Dropped()), clips(1)[0], attention="memory")
    prog.train()
    torch.manual_seed(0)
    one = fed(prog, clips(2))
    torch.manual_seed(0)
    assert torch.equal(fed(prog, clips(2))[1], one[1])
    assert not torch.equal(fed(prog, clips(2))[1], one[1])


# -- space and time apart ------------------------------------------------------------------------


class Divided(Joint):
    """Attention over time and over space, one after the other, and a head over both."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.embed(x)[:, 1:].unflatten(1, (FRAMES, 4))
        in_time = self.blocks[0](y.transpose(1, 2).flatten(0, 1)).unflatten(0, (-1, 4))
        y = y + in_time.transpose(1, 2)
        y = y + self.blocks[1](y.flatten(0, 1)).unflatten(0, (-1, FRAMES))
        return self.head(y.mean((1, 2)))


class Factorised(Joint):
    """Each frame by itself first, through a class token; then over the frames."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.embed(x)[:, 1:].unflatten(1, (FRAMES, 4)).flatten(0, 1)
        y = torch.cat([self.token.expand(len(y), -1, -1), y], 1)
        frames = (y + self.blocks[0](y))[:, 0].unflatten(0, (-1, FRAMES))
        return self.head((frames + self.blocks[1](frames)).mean(1))


@pytest.mark.parametrize("kind", [Divided, Factorised])
def test_attention_over_space_alone_carries_nothing(kind: Callable[[], nn.Module]) -> None:
    model = ready(kind())
    prog = pgt_fx.transform(model, clips(1)[0], attention="memory")
    carried = {n.rsplit(".", 1)[0] for n in fed(prog, clips(1)) and prog.state if "clock" not in n}
    time_block = "blocks.0" if kind is Divided else "blocks.1"
    assert carried and all(name.startswith(time_block) for name in carried)
    pieces = clips(3)
    got, again = fed(prog, pieces), fed(prog, [clips(1, seed=9)[0], *pieces[1:]])
    with torch.no_grad():
        assert relative_error(got[0], model(pieces[0])) < EXACT
    assert relative_error(got[2], model(pieces[2])) > 1e-4
    # One layer carries: what it sees of the step before has itself seen no step before that.
    assert relative_error(got[1], again[1]) > 1e-4 and relative_error(got[2], again[2]) == 0.0


# -- positions -----------------------------------------------------------------------------------


class Biased(Joint):
    """A table of relative positions in time is added to the map."""

    def __init__(self, *, by_query: bool = False) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.randn(2 * FRAMES - 1, 2))
        self.by_query = by_query
        frame = torch.arange(TOKENS) // 4
        self.register_buffer("index", frame[:, None] - frame[None, :] + FRAMES - 1)

    def biased(self, x: Tensor, past: Any = None, bias: Tensor | None = None) -> Any:
        q, k, v = self.blocks[0].parts(self.embed(x)[:, 1:])  # type: ignore[operator]
        keys, values = (k, v) if past is None else (torch.cat(p, 2) for p in zip(past, (k, v)))  # noqa: B905
        scores = q @ keys.mT
        bias = self.bias[self.index].permute(2, 0, 1) if bias is None else bias
        scores = scores + bias * (q.mean(-1, keepdim=True) if self.by_query else 1.0)
        return self.head((scores.softmax(-1) @ values).transpose(1, 2).flatten(2).mean(1)), (k, v)

    def forward(self, x: Tensor) -> Tensor:
        return self.biased(x)[0]

    def over(self, distances: Tensor) -> Tensor:
        """The bias of keys that are so many frames back; beyond the table its farthest."""
        at = distances.clamp(max=FRAMES - 1) + FRAMES - 1
        return self.bias[at].permute(2, 0, 1)


@pytest.mark.parametrize("positions", ["farthest", "none"])
@pytest.mark.parametrize("by_query", [False, True])
def test_a_table_of_positions_is_continued(positions: Any, by_query: bool) -> None:
    """By distance where it depends on that alone, else by the query's own farthest entry."""
    model = ready(Biased(by_query=by_query))
    memory = AttentionMemory(positions=positions)
    prog = pgt_fx.transform(model, clips(1)[0], attention=memory)
    frame = torch.arange(TOKENS) // 4
    back = frame[:, None] - frame[None, :] + FRAMES
    if by_query:  # the entries of the keys of the first frame
        back = (frame[:, None] * torch.ones(1, TOKENS)).long()
    before = model.over(back) if positions == "farthest" else torch.zeros(2, TOKENS, TOKENS)
    own = model.bias[model.index].permute(2, 0, 1)
    past = None
    for x, got in zip(clips(3), fed(prog, clips(3)), strict=True):
        with torch.no_grad():
            wanted, past = model.biased(
                x, past, own if past is None else torch.cat([before, own], -1)
            )
        assert relative_error(got, wanted) < EXACT
    words = " ".join(str(prog.report).split())
    told = {
        ("farthest", False): "the table of positions is read by distance",
        ("farthest", True): "the table of positions is continued by its farthest entry",
    }
    assert told.get((positions, by_query), "nothing is added of the table") in words


class Rotary(Joint):
    """Keys and queries turned by the frame that they are of."""

    def turned(self, x: Tensor, offset: int) -> Tensor:
        at = (torch.arange(TOKENS, dtype=x.dtype) // 4 + offset).floor()
        phase = at[:, None] * (0.7 ** torch.arange(3, dtype=x.dtype))
        left, right = x.chunk(2, -1)
        return torch.cat(
            [left * phase.cos() - right * phase.sin(), right * phase.cos() + left * phase.sin()], -1
        )

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.blocks[0].parts(self.embed(x)[:, 1:])  # type: ignore[operator]
        y = F.scaled_dot_product_attention(self.turned(q, 0), self.turned(k, 0), v)
        return self.head(y.transpose(1, 2).flatten(2).mean(1))

    def after_by_hand(self, x: Tensor, past: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Any]:
        q, k, v = self.blocks[0].parts(self.embed(x)[:, 1:])  # type: ignore[operator]
        ages = range(len(past), 0, -1)
        keys = [self.turned(p[0], -age * FRAMES) for p, age in zip(past, ages, strict=True)]
        keys, values = [*keys, self.turned(k, 0)], [*(p[1] for p in past), v]
        y = F.scaled_dot_product_attention(
            self.turned(q, 0), torch.cat(keys, 2), torch.cat(values, 2)
        )
        return self.head(y.transpose(1, 2).flatten(2).mean(1)), (k, v)


def test_rotary_positions_are_continued() -> None:
    model = ready(Rotary())
    prog = pgt_fx.transform(model, clips(1)[0], attention=AttentionMemory(2))
    assert "rotary positions are continued" in " ".join(str(prog.report).split())
    past: list[Any] = []
    for x, got in zip(clips(4), fed(prog, clips(4)), strict=True):
        with torch.no_grad():
            wanted, own = model.after_by_hand(x, past)
        past = [*past, own][-2:]
        assert relative_error(got, wanted) < EXACT


class Masked(Joint):
    """A mask made of constants: no token sees those of another place."""

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.blocks[0].parts(self.embed(x)[:, 1:])  # type: ignore[operator]
        place = torch.arange(TOKENS) % 4
        mask = torch.where(place[:, None] == place[None, :], 0.0, -100.0).to(x.dtype)
        y = ((q @ k.mT + mask).softmax(-1) @ v).transpose(1, 2).flatten(2)
        return self.head(y.unflatten(1, (FRAMES, 4))[:, :, 0].mean(1))


def test_a_mask_hides_carried_keys_as_it_hides_the_steps_own() -> None:
    model = ready(Masked())
    prog = pgt_fx.transform(model, clips(1)[0], attention=AttentionMemory(positions="none"))
    pieces = clips(2)
    elsewhere = pieces[0].clone()
    elsewhere[..., 4:] = 0.0  # other places than the one that the head reads
    got, again = fed(prog, pieces)[1], fed(prog, [elsewhere, pieces[1]])[1]
    assert relative_error(got, again) < EXACT
    here = pieces[0].clone()
    here[..., :4, :4] = 0.0
    assert relative_error(got, fed(prog, [here, pieces[1]])[1]) > 1e-4


# -- which models, and which not -----------------------------------------------------------------


class AnyLength(Joint):
    """It takes any number of frames, and queries without time attend to all of them."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.patch(x).flatten(2).transpose(1, 2)
        _, k, v = self.blocks[0].parts(y)  # type: ignore[operator]
        query = self.token.view(1, 1, 2, -1).transpose(1, 2).expand(len(y), -1, -1, -1)
        return self.head(F.scaled_dot_product_attention(query, k, v).flatten(1))


def test_a_clip_of_another_length_that_the_model_takes() -> None:
    model = ready(AnyLength())
    prog = pgt_fx.transform(model, clips(1)[0], attention="memory")
    assert "queries without time attend over all frames" in prog.report.steps
    longer = clips(2, frames=6)
    with torch.no_grad():
        assert relative_error(fed(prog, longer)[0], model(longer[0])) < EXACT
    with pytest.raises(ClipError, match="of another size within one video"):
        prog(clips(1)[0])
    assert relative_error(fed(prog, clips(2))[1], model(clips(2)[1])) > 1e-4


def test_without_attention_the_model_is_refused_as_it_was() -> None:
    class Table(Joint):
        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.embed(x).cumsum(1).softmax(-1).flip(1).mean(1))

    with pytest.raises(PgtError, match=r"at no other length tried \(\(11,\), \(16,\)\)"):
        pgt_fx.transform(ready(Table()), clips(1)[0])


def test_a_map_that_is_looked_at_is_not_carried() -> None:
    class Shown(Joint):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            y = self.embed(x)
            q, k, v = self.blocks[0].parts(y)  # type: ignore[operator]
            weights = (q @ k.mT).softmax(-1)
            y = y + (weights @ v).transpose(1, 2).flatten(2)
            return self.head((y + self.blocks[1](y))[:, 0]), weights

    prog = pgt_fx.transform(ready(Shown()), clips(1)[0], attention="memory")
    assert {r.name.partition(".matmul")[0] for r in prog.report.rows} == {"blocks.1"}


def test_the_self_check_sees_a_fault_in_what_is_carried(monkeypatch: pytest.MonkeyPatch) -> None:
    sound = clip_memory.normalised

    def faulty(remembered: Tensor, *rest: Any) -> Any:
        return sound(2 * remembered, *rest)

    monkeypatch.setattr(clip_memory, "normalised", faulty)
    assert clip_attention.clip_memory is clip_memory
    prog = pgt_fx.transform(ready(Joint()), clips(1)[0], attention="memory")
    with pytest.raises(SelfCheckError, match="in clip 2"):
        self_check(prog)


def test_the_options_are_checked() -> None:
    with pytest.raises(OptionError, match="positions: expected one of farthest, none"):
        AttentionMemory(positions="nearest")  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="beside: expected True or False"):
        AttentionMemory(beside=1)  # type: ignore[arg-type]


def test_labels_for_each_clip(joint: tuple[Joint, Progressive]) -> None:
    video, labels = torch.cat(clips(2), 2), [torch.tensor([0, 1]), torch.tensor([2, 3])]
    found = backward(joint[1], video, F.cross_entropy, PerStep(labels))
    assert len([x for x in found.losses if x is not None]) == 2
    joint[0].zero_grad()
