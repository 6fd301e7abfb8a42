"""Truncated and exact gradients against one backward over the whole video."""

from __future__ import annotations

import copy
import os
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import pgt_fx
from pgt_fx import Schedule
from pgt_fx.core.errors import ClipError, OptionError
from pgt_fx.training import PerFrame, PerStep, backward

EXACT = 1e-9
CHUNKS = [8, 3, 1, 7, 6]
LABELS = torch.tensor([1, 4])


class Net(nn.Module):
    """Two stages with norms and a residual, dropout, a pooled head."""

    def __init__(self, dropout: float = 0.0, dense: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv3d(3, 8, (3, 3, 3), stride=(1, 2, 2), padding=1)
        self.norm = nn.BatchNorm3d(8)
        self.down = nn.Conv3d(8, 8, (3, 1, 1), stride=(2, 1, 1), padding=(1, 0, 0))
        self.branch = nn.Conv3d(8, 8, (5, 1, 1), padding=(2, 0, 0))
        self.drop, self.head, self.dense = nn.Dropout(dropout), nn.Linear(8, 5), dense

    def forward(self, x: Tensor) -> Tensor:
        x = self.down(self.norm(self.stem(x)).tanh())
        x = self.drop(x + self.branch(x).sigmoid())
        if self.dense:
            return self.head(x.mean((3, 4)).transpose(1, 2))
        return self.head(x.mean((2, 3, 4)))


def progressive(model: nn.Module, **options: Any) -> pgt_fx.Progressive:
    dtype = next(model.parameters()).dtype
    return pgt_fx.transform(model, torch.zeros(2, 3, 8, 8, 8, dtype=dtype), **options)


def video(frames: int = sum(CHUNKS), dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(frames)
    return torch.randn(2, 3, frames, 8, 8, generator=generator, dtype=dtype)


def gradients(model: nn.Module) -> dict[str, Tensor]:
    found = {k: p.grad.clone() for k, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


def distance(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    assert a.keys() == b.keys() and a
    return max(float((a[k] - b[k]).abs().max() / b[k].abs().max()) for k in b)


def together(prog: pgt_fx.Progressive, x: Tensor, target: Any, **how: Any) -> dict[str, Tensor]:
    """All steps in one graph: what exact gradients must be."""
    backward(prog, x, F.cross_entropy, target, keep=99, **how)
    return gradients(prog)


def test_exact_gradients_are_those_of_the_model_in_one_backward() -> None:
    model = Net().double().eval()
    F.cross_entropy(model(video()), LABELS).backward()
    expected = gradients(model)
    prog = progressive(model, future="wait", pooling="running")
    found = backward(
        prog, video(), F.cross_entropy, LABELS, schedule=CHUNKS, gradient="exact", on="last"
    )
    assert [loss is None for loss in found.losses] == [True] * 4 + [False]
    assert distance(gradients(prog), expected) <= EXACT
    backward(prog, video(), F.cross_entropy, LABELS, schedule=CHUNKS, on="last")
    assert distance(gradients(prog), expected) > 1e-2, "truncated ones must differ"


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"pooling": "running"},
        {"pooling": "markov", "operator": "cmco-avg"},
        {"pooling": "markov", "operator": pgt_fx.MarkovOperator("max", 0.25)},
        {"future": "wait", "pooling": "running"},
    ],
    ids=str,
)
@pytest.mark.parametrize("on", ["every", "last"])
def test_exact_gradients_are_those_of_all_steps_in_one_graph(options: Any, on: str) -> None:
    prog = progressive(Net().double().eval(), **options)
    how = {"schedule": CHUNKS, "on": on}
    expected = together(prog, video(), LABELS, **how)
    whole = backward(prog, video(), F.cross_entropy, LABELS, gradient="exact", **how)
    assert distance(gradients(prog), expected) <= EXACT
    truncated = backward(prog, video(), F.cross_entropy, LABELS, **how)
    assert distance(gradients(prog), expected) > 1e-3
    assert torch.equal(whole.loss, truncated.loss)


def test_dense_frames_with_a_label_each() -> None:
    model = Net(dense=True).double().eval()
    labels = torch.arange(26).reshape(2, 13) % 5

    def loss_fn(output: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(output.transpose(1, 2), target, reduction="sum")

    loss_fn(model(video()), labels).backward()
    expected = gradients(model)
    prog = progressive(model, future="wait")
    for gradient in ("exact", "truncated"):
        target = PerFrame(labels, dim=1)
        backward(prog, video(), loss_fn, target, schedule=CHUNKS, gradient=gradient)
        assert (distance(gradients(prog), expected) <= EXACT) == (gradient == "exact")
    for size, message in ((12, "12 labels along dimension 1"), (14, "answers 13 elements")):
        with pytest.raises(OptionError, match=message):
            target = PerFrame(torch.zeros(2, size, dtype=torch.long))
            backward(prog, video(), loss_fn, target, schedule=CHUNKS)


def test_truncated_gradients_are_the_sum_over_steps_that_know_their_past_as_constant() -> None:
    prog = progressive(Net().double().eval())
    state: dict[str, Tensor] = {}
    for number, clip in enumerate(video().split(CHUNKS, dim=2)):
        out, state = prog.step(state, clip, last=number == 4)
        if out is not None:  # the single frame of the third step completes no window of stride 2
            F.cross_entropy(out, LABELS).backward()
        state = {k: v.detach() for k, v in state.items()}
    expected = gradients(prog)
    backward(prog, video(), F.cross_entropy, LABELS, schedule=CHUNKS)
    one = gradients(prog)
    assert distance(one, expected) <= EXACT
    backward(prog, video(), F.cross_entropy, LABELS, schedule=CHUNKS, keep=2)
    two = gradients(prog)
    assert distance(two, one) > 1e-4
    assert distance(two, together(prog, video(), LABELS, schedule=CHUNKS)) > 1e-4


def test_dropout_is_replayed() -> None:
    prog = progressive(Net(dropout=0.5).double())
    prog.train()
    prog.inspect.model.norm.eval()  # batch statistics are another test's
    how = {"schedule": CHUNKS}
    torch.manual_seed(7)
    expected = together(prog, video(), LABELS, **how)
    after = torch.get_rng_state()
    torch.manual_seed(7)
    backward(prog, video(), F.cross_entropy, LABELS, gradient="exact", **how)
    assert distance(gradients(prog), expected) <= EXACT
    assert torch.equal(torch.get_rng_state(), after), "as many numbers drawn as in one run"
    torch.manual_seed(8)
    backward(prog, video(), F.cross_entropy, LABELS, gradient="exact", **how)
    assert distance(gradients(prog), expected) > 1e-3


def test_running_statistics_are_updated_once_per_step() -> None:
    prog = progressive(Net().double())
    prog.train()
    start = copy.deepcopy(prog.state_dict())
    seen = []
    for gradient in ("truncated", "exact"):
        prog.load_state_dict(start)
        backward(prog, video(), F.cross_entropy, LABELS, schedule=CHUNKS, gradient=gradient)
        seen.append({k: v.clone() for k, v in prog.named_buffers()})
        assert int(prog.norm.num_batches_tracked) == len(CHUNKS)
        assert not torch.equal(prog.norm.running_mean, start["norm.running_mean"])
    assert all(torch.allclose(seen[0][k], seen[1][k], rtol=1e-12) for k in seen[0])
    prog.load_state_dict(start)
    gradients(prog)
    expected = together(prog, video(), LABELS, schedule=CHUNKS)
    prog.load_state_dict(start)
    backward(prog, video(), F.cross_entropy, LABELS, schedule=CHUNKS, gradient="exact")
    assert distance(gradients(prog), expected) <= EXACT


def test_labels_per_step() -> None:
    prog = progressive(Net().double().eval())
    each = [(LABELS + p) % 5 for p in range(5)]
    for gradient in ("truncated", "exact"):
        found = backward(
            prog, video(), F.cross_entropy, PerStep(each), schedule=CHUNKS, gradient=gradient
        )
        gradients(prog)
        outs = prog.run(video(), schedule=CHUNKS)
        assert [loss is None for loss in found.losses] == [False, False, True, False, False]
        for loss, answer, out, label in zip(found.losses, found.outputs, outs, each, strict=True):
            if out is not None:
                assert torch.allclose(loss, F.cross_entropy(out, label), atol=1e-12)
                assert torch.allclose(answer, out) and not answer.requires_grad
    multi = PerStep([torch.rand(2, 5, dtype=torch.float64) for _ in CHUNKS])
    backward(prog, video(), F.binary_cross_entropy_with_logits, multi, schedule=CHUNKS)
    assert gradients(prog)


def test_accumulation_and_scale() -> None:
    prog = progressive(Net().double().eval())
    how: dict[str, Any] = {"schedule": CHUNKS, "gradient": "exact"}
    backward(prog, video(), F.cross_entropy, LABELS, **how)
    expected = gradients(prog)
    for row in (0, 1):
        x, y = video()[row : row + 1], LABELS[row : row + 1]
        backward(prog, x, F.cross_entropy, y, scale=0.5, sync=row == 1, **how)
    assert distance(gradients(prog), expected) <= EXACT


def test_autocast_with_a_scaler() -> None:
    prog = progressive(Net().eval())
    x = video(dtype=torch.float32)
    backward(prog, x, F.cross_entropy, LABELS, schedule=CHUNKS, gradient="exact")
    expected = gradients(prog)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    optimizer = torch.optim.SGD(prog.parameters(), lr=0.0)
    backward(
        prog,
        x,
        F.cross_entropy,
        LABELS,
        schedule=CHUNKS,
        gradient="exact",
        scaler=scaler,
        autocast=torch.autocast("cpu", torch.bfloat16),
    )
    scaled = {k: p.grad.clone() for k, p in prog.named_parameters()}
    scaler.unscale_(optimizer)
    found = gradients(prog)
    assert distance({k: v / 1024 for k, v in scaled.items()}, found) < 1e-5
    similarity = F.cosine_similarity(*(torch.cat([g[k].flatten() for k in found]) for g in
                                       (found, expected)), dim=0)  # fmt: skip
    assert similarity > 0.99
    assert distance(found, expected) > 1e-4, "bfloat16 must have been used"


def _rank(rank: int, port: int, folder: str) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    dist.init_process_group("gloo", rank=rank, world_size=2)
    torch.set_num_threads(1)
    prog = progressive(Net().double().eval(), pooling="running")
    parallel = DistributedDataParallel(prog)
    x, y = video()[rank : rank + 1], LABELS[rank : rank + 1]
    out = {}
    for gradient in ("truncated", "exact"):
        for _ in range(2):  # accumulated: the first is not reduced
            found = backward(
                parallel, x, F.cross_entropy, y, schedule=CHUNKS, gradient=gradient,
                on="last", scale=0.5, sync=_ == 1,
            )  # fmt: skip
            assert found.loss.isfinite()
        out[gradient] = gradients(prog)
    torch.save(out, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_data_parallel_gradients_are_the_mean_over_ranks(tmp_path: Any) -> None:
    prog = progressive(Net().double().eval(), pooling="running")
    port = 29500 + os.getpid() % 2000
    mp.spawn(_rank, args=(port, str(tmp_path)), nprocs=2)
    ranks = [torch.load(tmp_path / f"{r}.pt", weights_only=True) for r in (0, 1)]
    for gradient in ("truncated", "exact"):
        backward(
            prog, video(), F.cross_entropy, LABELS, schedule=CHUNKS, gradient=gradient, on="last"
        )
        expected = gradients(prog)
        for rank in ranks:
            assert distance(rank[gradient], expected) <= EXACT


def test_nothing_of_a_step_is_kept_alive() -> None:
    """Memory of truncated training doesn't grow with the number of steps."""
    import gc
    import sys
    from pathlib import Path

    sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
    from peak_memory import PeakMemory

    prog = progressive(Net().double().eval())
    peaks = {}
    gc.disable()  # what only a collection frees would count as alive
    try:
        for steps in (1, 2, 8):
            schedule = Schedule(8, steps)
            x = video(schedule.frames)
            for gradient in ("truncated", "exact"):
                how: Any = {"schedule": schedule, "gradient": gradient}
                backward(prog, x, F.cross_entropy, LABELS, **how)
                with PeakMemory() as memory:
                    backward(prog, x, F.cross_entropy, LABELS, **how)
                peaks[gradient, steps] = memory.peak
    finally:
        gc.enable()
    state = prog.step({}, video(8))[1]
    boundary = sum(v.nbytes for v in state.values())
    assert peaks["truncated", 8] <= 1.01 * peaks["truncated", 2], peaks
    # A later step has two states beside it that the only one has not: the one before, the next.
    assert peaks["truncated", 8] <= 1.05 * peaks["truncated", 1] + 2 * boundary, peaks
    assert peaks["exact", 8] <= 1.3 * (peaks["exact", 1] + 7 * boundary), peaks


@pytest.mark.parametrize(
    ("error", "message", "how"),
    [
        (OptionError, "gradient: expected one of truncated, exact, got 'exakt'",
         {"gradient": "exakt"}),
        (OptionError, "on: expected one of every, last", {"on": "first"}),
        (OptionError, "keep: expected a whole number of steps from 1 on, got 0", {"keep": 0}),
        (OptionError, "keep: is for gradient", {"keep": 2, "gradient": "exact"}),
        (OptionError, "expected one label per step, 5 for this video and schedule, got 3",
         {"target": PerStep([LABELS] * 3)}),
        (OptionError, "the model's output has no time axis", {"target": PerFrame(LABELS, 0)}),
        (ClipError, "needs a video of 36 frames, got 25", {"schedule": Schedule(8, 5)}),
        (ClipError, "don't make up the video's 25 frames", {"schedule": [8, 8]}),
    ],
)  # fmt: skip
def test_bad_input(error: type[Exception], message: str, how: dict[str, Any]) -> None:
    prog = progressive(Net().double().eval())
    target = how.pop("target", LABELS)
    with pytest.raises(error, match=message):
        backward(prog, video(), F.cross_entropy, target, **{"schedule": CHUNKS, **how})


def test_steps_shorter_than_the_models_smallest_clip() -> None:
    model = nn.Sequential(nn.Conv3d(3, 4, (6, 1, 1)), nn.AdaptiveAvgPool3d(1), nn.Flatten())
    prog = progressive(model.double())
    assert prog.smallest_clip == 6
    with pytest.raises(ClipError, match=r"T'=4 frames gives no output.*smallest clip is 6 frames"):
        backward(prog, video(), F.cross_entropy, LABELS, schedule=Schedule(4))


def test_a_plain_model_is_refused() -> None:
    with pytest.raises(OptionError, match=r"expected a progressive model .* got Net"):
        backward(Net(), video(), F.cross_entropy, LABELS)


def compared(model: nn.Module, x: Tensor, **options: Any) -> float:
    """Exact gradients against those of all steps in one graph, from the same buffers."""
    label, chunks = LABELS[: x.shape[0]], [4, 4, 5, 3]
    prog = pgt_fx.transform(model, x[:, :, :8].clone(), **options)
    before = copy.deepcopy(prog.state_dict())
    backward(prog, x.clone(), F.cross_entropy, label, schedule=chunks, gradient="exact")
    found, after = gradients(prog), copy.deepcopy(prog.state_dict())
    prog.load_state_dict(before)
    state, losses = prog.init_state(), []
    for number, piece in enumerate(x.clone().split(chunks, 2)):
        out, state = prog.step(state, piece, last=number == 3, detach=False)
        losses += [] if out is None else [F.cross_entropy(out, label)]
    torch.stack(losses).sum().backward()
    assert all(torch.equal(v, after[k]) for k, v in prog.state_dict().items())
    return distance(found, gradients(prog))


class Warming(nn.Module):
    """A buffer that each step reads and writes, as of a warm-up; a norm writes its own alone."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv3d(2, 5, 3, padding=1), nn.BatchNorm3d(5)
        self.head = nn.Conv3d(5, 5, 3, padding=1)
        self.register_buffer("time", torch.zeros(()))
        self.register_buffer("fixed", torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.time.add_(1.0)
        y = self.norm(self.conv(x)) * torch.tanh(self.time * 0.3) * self.fixed
        return self.head(y.tanh()).mean((2, 3, 4))


def test_a_step_is_replayed_with_its_own_buffers() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 2, 16, 6, 6, dtype=torch.float64)
    assert compared(Warming().double().train(), x) <= EXACT


class WritesItsClip(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.act, self.conv = nn.Hardswish(inplace=True), nn.Conv3d(1, 5, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.act(x)).mean((2, 3, 4))


def test_a_clip_that_the_model_writes_to_is_read_twice() -> None:
    """With a batch and a channel of one, chunks are views of the video that need no copy."""
    torch.manual_seed(0)
    x = torch.randn(1, 1, 16, 6, 6, dtype=torch.float64)
    assert compared(WritesItsClip().double().train(), x) <= EXACT


class Complex(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        ways = {"padding": 1, "dtype": torch.complex128}
        self.a, self.b = nn.Conv3d(2, 4, 3, **ways), nn.Conv3d(4, 5, 3, **ways)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x)).abs().mean((2, 3, 4))


def test_complex_states_have_gradients_and_averages() -> None:
    torch.manual_seed(0)
    model, x = Complex().train(), torch.randn(2, 2, 16, 6, 6, dtype=torch.complex128)
    assert compared(model, x) <= EXACT
    assert compared(model, x, operator="cmco-avg") <= EXACT
    mco, cmco = (pgt_fx.transform(model, x, operator=o) for o in ("mco", "cmco-avg"))
    pairs = zip(*(p.run(x, schedule=[4] * 4) for p in (mco, cmco)), strict=True)
    differ = [not torch.allclose(a, b) for a, b in pairs]
    assert differ == [False, True, True, True]
    with pytest.raises(OptionError, match="complex numbers have no greatest"):
        pgt_fx.transform(model, x, operator="cmco-max").run(x, schedule=[8, 8])
