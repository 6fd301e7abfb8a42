"""Frame-wise image models with a temporal model on top, and what the compiler makes of them.

The temporal models stand on a tiny image model here; the zoo's entries have the usual ones.
``--slow`` surveys all of those.
"""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from oracles import pieces, random_chunks, relative_error, stitch
from torch import Tensor, nn

import pgt_fx
from pgt_fx import zoo
from pgt_fx.core.errors import BlockedError, ClipError, ExactnessError
from pgt_fx.testing.zoo_survey import survey

pytestmark = pytest.mark.full

timm = pytest.importorskip("timm")

EXACT = 1e-9
CLIP, FRAMES, SPACE, CLASSES = 8, 21, 32, 5

#: Temporal model -> frames behind and ahead of its own that a score depends on; None: all.
STREAMED: dict[str, tuple[int | None, int]] = {
    "tcn": (28, 0),
    "ms-tcn": (14, 14),
    "gru": (None, 0),
    "lstm": (None, 0),
    "transformer-causal": (None, 0),
}
ALL_OF_TIME = ["bilstm", "transformer", "transformer-learned"]
ENTRIES = zoo.names("frame-wise")


def made(head: str, image: str = "test_resnet", **options: Any) -> nn.Module:
    """In float64 and eval mode, its norms redrawn."""
    torch.manual_seed(0)
    options = {"classes": CLASSES, "width": 16, "frames": CLIP} | options
    model = zoo.frame_wise(image, head, **options)
    zoo.redraw_norms(model, torch.Generator().manual_seed(1), video(CLIP, batch=4).float())
    return model.double().eval()


def video(frames: int = FRAMES, seed: int = 2, batch: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, 3, frames, SPACE, SPACE)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def scores(model: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        return model(x)


def in_steps(prog: pgt_fx.Progressive, x: Tensor, chunks: list[int]) -> list[Tensor]:
    prog.reset()
    cut = pieces(x, chunks)
    with torch.no_grad():
        steps = [prog(c, last=i == len(cut) - 1) for i, c in enumerate(cut)]
    return [y for y in steps if y is not None]


# --------------------------------------------------------------- what the models compute


@pytest.mark.parametrize("head", [*STREAMED, *ALL_OF_TIME])
def test_the_order_of_frames_matters(head: str) -> None:
    """The scores move with their frames, and are not the same ones in another order."""
    model, x = made(head), video(CLIP)
    order = torch.randperm(CLIP, generator=torch.Generator().manual_seed(3))
    answer, moved = scores(model, x), scores(model, x[:, :, order])
    assert answer.shape == (2, CLIP, CLASSES)
    assert relative_error(moved, answer[:, order]) > 1e-3


def test_to_a_mean_it_does_not_matter() -> None:
    model, x = made("mean"), video(CLIP)
    assert scores(model, x).shape == (2, CLASSES)
    assert relative_error(scores(model, x.flip(2)), scores(model, x)) <= EXACT
    changed = x.clone()
    changed[:, :, 3] += 1
    assert relative_error(scores(model, changed), scores(model, x)) > 1e-3


@pytest.mark.parametrize("head", [*STREAMED, *ALL_OF_TIME])
def test_which_frames_a_score_depends_on(head: str) -> None:
    """One frame is changed; the scores that change are those the definition names."""
    options = {"layers": 2} if "tcn" in head else {}  # short enough for both ends to be seen
    model, x = made(head, frames=33, **options), video(33, batch=1)
    changed = x.clone()
    changed[:, :, 16] += 1
    moved = (scores(model, changed) - scores(model, x)).abs().amax((0, 2)) > 1e-12
    behind, ahead = {"tcn": (12, 0), "ms-tcn": (6, 6)}.get(head, (16, 0))
    if head in ALL_OF_TIME:
        ahead = 16
    assert moved.nonzero().flatten().tolist() == list(range(16 - ahead, 17 + behind))


def test_the_parts_are_the_ones_of_the_papers() -> None:
    """MS-TCN: a stage refines what the one before says, as probabilities. TCN: weight norm."""
    refined: Any = made("ms-tcn", stages=3)
    assert len(refined.features.temporal.stages) == 3
    seen: list[Tensor] = []
    for stage in list(refined.features.temporal.stages)[1:]:
        stage.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    scores(refined, video(CLIP))
    assert [tuple(x.shape) for x in seen] == [(2, CLASSES, CLIP)] * 2
    assert all(relative_error(x.sum(1), torch.ones(2, CLIP)) <= EXACT for x in seen)
    causal = {name for name, _ in made("tcn").named_parameters() if "parametrizations" in name}
    assert len(causal) == 3 * 2 * 2


# ------------------------------------------------------------- what becomes of them


@pytest.mark.parametrize("head", STREAMED)
def test_scores_stream_exactly(head: str) -> None:
    model, x = made(head), video()
    prog = pgt_fx.transform(model, x[:, :, :CLIP], future="wait")
    behind, ahead = STREAMED[head]
    assert prog.report.exact
    assert prog.report.receptive_field == [None if behind is None else behind + ahead + 1]
    assert prog.report.look_ahead == [ahead] and prog.report.latency == ahead
    assert prog.report.grows == (head == "transformer-causal")
    whole = scores(model, x)
    assert relative_error(prog.full(x), whole) <= EXACT
    rng = random.Random(4)
    for longest in (1, 3, CLIP, FRAMES):
        chunks = random_chunks(FRAMES, longest, rng)
        assert relative_error(torch.cat(in_steps(prog, x, chunks), 1), whole) <= EXACT, chunks


def test_the_last_step_s_mean_is_the_model_s() -> None:
    model, x = made("mean"), video()
    prog = pgt_fx.transform(model, x[:, :, :CLIP], future="wait", pooling="running")
    assert prog.report.exact
    whole = scores(model, x)
    for chunks in ([FRAMES], [8, 8, 5], [1] * FRAMES):
        answers = in_steps(prog, x, chunks)
        assert relative_error(answers[-1], whole) <= EXACT, chunks
        assert len(answers) == len(chunks)
        assert len(chunks) == 1 or relative_error(answers[0], whole) > 1e-3


@pytest.mark.parametrize("head", ["transformer", "transformer-learned"])
def test_attention_without_a_mask_is_refused_with_its_line(head: str) -> None:
    model, x = made(head), video(CLIP)
    with pytest.raises(ExactnessError) as refusal:
        pgt_fx.transform(model, x, future="wait")
    said = str(refusal.value)
    for layer in (0, 1):
        assert f"temporal.encoder.layers.{layer}.self_attn" in said
    assert "attends over all of time" in said and "temporal_heads.py:" in said
    assert "self.encoder(x, mask=mask" in said
    assert ("one row per frame of a clip" in said) == (head == "transformer-learned")


@pytest.mark.parametrize("head", ["transformer", "transformer-learned"])
@pytest.mark.parametrize("attention", ["step", "memory"])
def test_attention_without_a_mask_sees_the_step_and_what_it_remembers(
    head: str, attention: str
) -> None:
    model, x = made(head), video(2 * CLIP)
    prog = pgt_fx.transform(model, x[:, :, :CLIP], attention=attention)
    clip = x[:, :, :CLIP]
    assert not prog.report.exact
    assert relative_error(prog.full(clip), scores(model, clip)) <= EXACT

    first = clip.clone().requires_grad_()
    second = x[:, :, CLIP:].clone().requires_grad_()
    answer, state = prog.step(prog.init_state(), first)
    assert answer.requires_grad and not any(v.requires_grad for v in state.values())
    answer, _ = prog.step(state, second)
    answer.square().sum().backward()
    assert first.grad is None and second.grad is not None and second.grad.any()

    prog.reset()
    with torch.no_grad():
        prog(clip + 1)
        other = prog(x[:, :, CLIP:])
    moved = relative_error(other, answer.detach())
    assert moved > 1e-3 if attention == "memory" else moved == 0


def test_a_table_of_positions_has_a_longest_step() -> None:
    model, x = made("transformer-learned"), video(CLIP + 1)
    prog = pgt_fx.transform(model, x[:, :, :CLIP])
    assert prog.report.longest_step == CLIP
    with pytest.raises(ClipError, match="8 rows"):
        prog(x)
    with pytest.raises(RuntimeError):
        scores(model, x)


def test_an_lstm_of_both_directions_is_refused_by_name() -> None:
    for future in ("zero", "wait"):
        with pytest.raises(BlockedError, match=r"temporal\.rnn .*temporal_heads\.py") as refusal:
            pgt_fx.transform(made("bilstm"), video(CLIP), future=future)
        assert "backward direction reads the video from its end" in str(refusal.value)


def heads(fast: set[str]) -> Any:
    every = ["mean", *STREAMED, "transformer", "transformer-learned"]
    marked = [pytest.param(h, marks=[] if h in fast else pytest.mark.slow) for h in every]
    return pytest.mark.parametrize("head", marked)


@heads({"tcn", "transformer"})
def test_every_promise_holds(head: str) -> None:
    """Also those of training, with dropout."""
    prog = pgt_fx.transform(made(head), video(CLIP), strict=False)
    found = pgt_fx.verify(prog, chunkings=2, redraw_norms=False)
    # To a mean the order of frames does not matter: equality proves nothing, and none is claimed.
    assert found.ok == (head != "mean"), str(found)
    assert not any(check.ok is False for check in found.checks), str(found)
    assert found["one-way-forward"].ok and found["one-way-backward"].ok
    assert bool(found["exact-wait"].ok) == (head in STREAMED)


@pytest.mark.parametrize("head", ["gru", "transformer-causal"])
def test_exact_gradients_are_those_of_the_whole_video(head: str) -> None:
    from pgt_fx.training import PerFrame, backward

    model, x = made(head), video()
    labels = torch.randn(2, FRAMES, CLASSES, dtype=torch.float64)
    prog = pgt_fx.transform(model, x[:, :, :CLIP], future="wait")

    def loss(y: Tensor, target: Tensor) -> Tensor:
        return (y - target).square().sum()

    loss(model(x), labels).backward()
    wanted = {k: p.grad.clone() for k, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    schedule = [8, 7, 6]
    backward(prog, x, loss, PerFrame(labels, dim=1), schedule=schedule, gradient="exact")
    scale = max(float(w.abs().max()) for w in wanted.values())
    for name, p in model.named_parameters():
        assert p.grad is not None, name
        # A key's bias has no gradient but rounding.
        assert (p.grad - wanted[name]).abs().max() <= EXACT * scale, name


def test_a_recurrent_layer_is_moved_to_another_dtype_after_its_conversion() -> None:
    model, x = made("gru").float(), video(CLIP)
    prog = pgt_fx.transform(model, x.float(), future="wait").double()
    assert relative_error(torch.cat(in_steps(prog, x, [3, 5]), 1), scores(model, x)) <= EXACT


def test_a_class_token_in_front_of_each_frame_s_patches() -> None:
    model, x = made("tcn", "test_vit", img_size=SPACE), video()
    prog = pgt_fx.transform(model, x[:, :, :CLIP], future="wait")
    answer = torch.cat(in_steps(prog, x, [8, 8, 5]), 1)
    assert prog.report.exact and relative_error(answer, scores(model, x)) <= EXACT


# --------------------------------------------------------------------- how they are made


def test_an_image_model_of_one_s_own() -> None:
    class Brightness(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.mean((2, 3))

    model = zoo.frame_wise(Brightness(), "lstm", classes=7, width=8, features=3).eval()
    assert scores(model, video(4).float()).shape == (2, 4, 7)
    with pytest.raises(ValueError, match=r"Brightness gives is unknown: features="):
        zoo.frame_wise(Brightness(), "lstm")
    with pytest.raises(TypeError, match="img_size: options of an image model"):
        zoo.frame_wise(Brightness(), "lstm", features=3, img_size=32)
    with pytest.raises(ValueError, match=r"head='grou': expected one of mean, tcn, ms-tcn, gru"):
        zoo.frame_wise("test_resnet", "grou")


def test_a_timm_model_that_has_its_classifier_gives_its_classes() -> None:
    image = timm.create_model("test_resnet", num_classes=11)
    model: Any = zoo.frame_wise(image, "gru", width=8)
    assert model.features.temporal.rnn.input_size == 11
    # Behind its pool this one has a layer wider than its features.
    other: Any = zoo.frame_wise("mobilenetv3_small_050", "gru", width=8)
    assert other.features.temporal.rnn.input_size == 1024


@pytest.mark.parametrize("head", ["mean", "tcn", "transformer", "transformer-causal"])
def test_features_end_before_what_looks_at_all_of_time(head: str) -> None:
    model, x = made(head), video()
    body = zoo.dense_features(model)
    assert {id(p) for p in body.parameters()} <= {id(p) for p in model.parameters()}
    assert not body.training
    wide = 16 if head in STREAMED else timm.create_model("test_resnet").num_features
    assert scores(body, x).shape == (2, wide, FRAMES)
    assert ("temporal" in dict(body[0].named_children())) == (head in STREAMED)
    prog = pgt_fx.transform(body, x[:, :, :CLIP], future="wait")
    assert relative_error(stitch(in_steps(prog, x, [4, 9, 8])), scores(body, x)) <= EXACT


# ------------------------------------------------------------------------- the entries


@pytest.mark.parametrize("name", ENTRIES)
def test_an_entry_runs_and_its_frames_weigh_something(name: str) -> None:
    entry = zoo.get(name)
    model: Any = zoo.build(name, space=SPACE, redraw_norms=True).double()
    generator = torch.Generator().manual_seed(6)
    clip = zoo.clip(name, space=SPACE, dtype=torch.float64, generator=generator)
    answer = scores(model, clip)
    per_frame = not name.endswith("mean")
    assert answer.shape == ((1, entry.clip[0], 400) if per_frame else (1, 400))
    assert answer.isfinite().all()
    changed = clip.clone()
    changed[:, :, 5] = changed[:, :, 5].flip(-1)
    moved = (scores(model, changed) - answer).abs()
    assert moved.max() > 1e-2 * answer.abs().max()
    if per_frame:  # the next frame's score feels it, through time alone
        assert moved[:, 6].max() > 1e-4 * answer.abs().max()
    features = scores(zoo.features(name, model), clip)
    assert features.ndim == 3 and features.shape[2] == entry.clip[0]
    assert 0.02 < features.std() < 10


def test_the_last_norm_of_a_residual_branch_is_not_left_at_zero() -> None:
    """timm starts it there; the branches would weigh nothing."""

    def weakest(model: Any) -> float:
        blocks = [m for m in model.modules() if type(m).__name__ == "BasicBlock"]
        assert blocks
        return min(b.bn2.weight.detach().abs().min().item() for b in blocks)

    assert weakest(zoo.build("resnet18_mean", space=SPACE)) == 0
    assert weakest(zoo.build("resnet18_mean", space=SPACE, redraw_norms=True)) >= 0.2


def test_pretrained_weights_are_those_of_the_image_model(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, Any]] = []
    create = timm.create_model

    def recorded(name: str, pretrained: bool, **options: Any) -> nn.Module:
        asked.append((name, pretrained))
        return create(name, **options)

    monkeypatch.setattr(timm, "create_model", recorded)
    zoo.build("resnet18_mean", space=SPACE, pretrained=True)
    zoo.build("resnet18_mean", space=SPACE)
    assert asked == [("resnet18", True), ("resnet18", False)]


#: What becomes of each entry, and of what is not exact, what its reason says.
BECOMES = {
    "resnet18_mean": ("exact", ""),
    "mobilenetv3_small_ms_tcn": ("exact", ""),
    "regnetx_002_tcn": ("exact", ""),
    "efficientnet_b0_gru": ("exact", ""),
    "convnext_atto_lstm": ("exact", ""),
    "vit_tiny_transformer_causal": ("exact", ""),
    "resnet18_bilstm": ("refused", "backward direction"),
    "resnet18_transformer": ("step-only", "attends over all of time"),
    "deit_tiny_transformer_learned": ("step-only", "one row per frame"),
}
FAST = {"mobilenetv3_small_ms_tcn", "resnet18_bilstm", "resnet18_transformer"}


def test_every_entry_is_surveyed() -> None:
    assert sorted(BECOMES) == ENTRIES


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(
            name,
            marks=[
                *([] if name in FAST else [pytest.mark.slow]),
            ],
        )
        for name in BECOMES
    ],
)
def test_what_becomes_of_an_entry(name: str) -> None:
    kind, reason = BECOMES[name]
    row = survey(name, space=SPACE)
    assert (row.kind, row.ok) == (kind, True), (row.reasons, row.promises)
    assert any(reason in r for r in row.reasons) if reason else not row.reasons
    if kind == "refused":
        return
    assert row.promises["full-equals-model"] or name == "resnet18_mean"
    assert row.promises["one-way-forward"] and row.promises["state-bounded"] is not False
    # A mean's promises are not checked: to it the order of frames does not matter.
    exact = bool(row.promises["exact-wait"])
    assert exact == (kind == "exact") or name == "resnet18_mean"
