"""The object: steps, state, errors, and that it is a module like any other."""

from __future__ import annotations

import copy
import json
import pickle
import subprocess
import sys
import warnings
from collections.abc import Callable
from typing import Any

import networkx as nx
import pytest
import torch
import torch.nn.functional as F
from oracles import pieces, relative_error, stitch
from torch import Tensor, nn

import pgt_fx
from pgt_fx.core.errors import ClipError, OptionError, StateError, StreamWarning
from pgt_fx.inference import predict
from pgt_fx.training import backward

EXACT = 1e-9


class Net(nn.Module):
    """A small 3-D CNN: strided, a residual of unequal delays, norms, an in-place activation."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv3d(3, 4, (3, 1, 1), padding=(1, 0, 0), bias=False)
        self.norm = nn.BatchNorm3d(4)
        self.branch = nn.Conv3d(4, 4, (5, 1, 1), stride=(2, 1, 1), padding=(2, 0, 0))
        self.short = nn.Conv3d(4, 4, 1, stride=(2, 1, 1))
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.norm(self.stem(x)))
        return self.act(self.branch(x) + self.short(x))


def net(seed: int = 0) -> Net:
    torch.manual_seed(seed)
    model = Net().double()
    with torch.no_grad():
        for value in (model.norm.weight, model.norm.bias, model.norm.running_mean):
            value.copy_(torch.rand_like(value) + 0.3)
    return model.eval()


def video(frames: int = 16, rows: int = 2, space: int = 3, seed: int = 1) -> Tensor:
    generator = torch.manual_seed(seed)
    return torch.randn(rows, 3, frames, space, space, dtype=torch.float64, generator=generator)


def progressive(model: nn.Module | None = None, **options: Any) -> pgt_fx.Progressive:
    return pgt_fx.transform(model or net(), video(12), **options)


def run(prog: Any, x: Tensor, chunks: list[int]) -> list[Any]:
    prog.reset()
    clips = pieces(x, chunks)
    return [prog(clip, last=i == len(clips) - 1) for i, clip in enumerate(clips)]


@pytest.fixture(scope="module")
def shared() -> pgt_fx.Progressive:
    """Converted once; tests that change it take another."""
    return progressive(future="wait")


@pytest.fixture
def wait(shared: pgt_fx.Progressive) -> pgt_fx.Progressive:
    shared.reset()
    return shared


# ------------------------------------------------------------------------- the contract


def test_every_chunking_equals_the_model(wait: Any) -> None:
    x, model = video(17), net()
    whole = model(x)
    for chunks in ([1] * 17, [17], [16, 1], [1, 16], [5, 1, 1, 7, 3]):
        assert relative_error(stitch(run(wait, x, chunks)), whole) <= EXACT, chunks
    assert relative_error(stitch(wait.run(x, schedule=[4, 9, 4])), whole) <= EXACT
    assert relative_error(stitch(wait.run(x)), whole) <= EXACT


def test_a_video_shorter_than_the_look_ahead_answers_at_the_last_step(wait: Any) -> None:
    x = video(3)
    outputs = run(wait, x, [1, 1, 1])
    assert outputs[:2] == [None, None]
    assert relative_error(outputs[2], net()(x)) <= EXACT


def test_one_way_forward_to_the_last_bit() -> None:
    x, other = video(15), video(15)
    other[:, :, 9:] = video(6, seed=4)
    for future in ("zero", "wait"):
        prog = progressive(future=future)
        for a, b in list(zip(run(prog, x, [4, 5, 6]), run(prog, other, [4, 5, 6]), strict=True))[
            :2
        ]:
            assert a is not None and torch.equal(a, b)


def test_one_way_backward_and_every_step_reaches_every_parameter() -> None:
    prog = progressive()
    clips = [clip.clone().requires_grad_() for clip in pieces(video(15), [5, 5, 5])]
    for number, clip in enumerate(clips):
        out = prog(clip, last=number == 2)
        parameters = dict(prog.named_parameters())
        grads = torch.autograd.grad(out.sum(), [*clips, *parameters.values()], allow_unused=True)
        assert [g is not None for g in grads[:3]] == [number == i for i in range(3)]
        for name, grad in zip(parameters, grads[3:], strict=True):
            assert grad is not None and grad.abs().max() > 0, (number, name)


def test_with_the_graph_kept_the_gradients_are_those_of_the_whole_video(wait: Any) -> None:
    x, model = video(14), net()
    parameters = list(wait.parameters())
    state, total = wait.init_state(), torch.zeros((), dtype=torch.float64)
    for number, clip in enumerate(pieces(x, [5, 4, 5])):
        out, state = wait.step(state, clip, last=number == 2, detach=False)
        total = total if out is None else total + out.pow(2).sum()
    ours = torch.autograd.grad(total, parameters)
    theirs = torch.autograd.grad(model(x).pow(2).sum(), list(model.parameters()))
    for a, b in zip(ours, theirs, strict=True):
        assert relative_error(a, b) <= EXACT


def test_a_step_is_pure(wait: Any) -> None:
    x = video(12)
    _, state = wait.step({}, x[:, :, :7])
    before = {k: v.clone() for k, v in state.items()}
    first, one = wait.step(state, x[:, :, 7:])
    second, two = wait.step(state, x[:, :, 7:])
    assert torch.equal(first, second) and one.keys() == two.keys()
    assert all(torch.equal(state[k], before[k]) for k in before)
    assert all(torch.equal(one[k], two[k]) for k in one)
    assert wait.state == {}


def test_the_chunk_may_be_overwritten_after_its_step(wait: Any) -> None:
    x, outputs = video(12), []
    for number, clip in enumerate(pieces(x, [4, 4, 4])):
        buffer = clip.clone()
        outputs.append(wait(buffer, last=number == 2))
        buffer.fill_(float("nan"))
    assert relative_error(stitch(outputs), net()(x)) <= EXACT


def test_the_state_owns_its_memory_and_has_no_graph(wait: Any) -> None:
    wait(video(40))
    assert len(wait.state) > 3
    for name, value in wait.state.items():
        assert isinstance(name, str) and isinstance(value, Tensor)
        assert value.grad_fn is None and not value.requires_grad
        assert value.untyped_storage().nbytes() == value.numel() * value.element_size(), name


@pytest.mark.parametrize("future", ["zero", "wait"])
def test_the_state_stays_as_large_over_many_steps(future: str) -> None:
    prog = progressive(future=future)
    sizes = []
    with torch.no_grad():
        for _ in range(200):
            prog(video(4, rows=1))
            sizes.append(sum(v.numel() * v.element_size() for v in prog.state.values()))
    assert len(set(sizes[4:])) == 1


def test_reset_is_a_new_object_bit_for_bit(wait: Any) -> None:
    x = video(12)
    fresh = run(wait, x, [5, 7])
    wait.reset()
    wait(video(6, seed=9))
    again = run(wait, x, [5, 7])
    assert all(torch.equal(a, b) for a, b in zip(fresh, again, strict=True) if a is not None)


def test_rows_of_a_batch_never_mix(wait: Any) -> None:
    x = video(12)
    clean = stitch(run(wait, x, [5, 7]))
    x[0, :, 3] = float("nan")
    dirty = stitch(run(wait, x, [5, 7]))
    assert dirty[0].isnan().any() and torch.equal(dirty[1], clean[1])


# ----------------------------------------------------- a stream that is another model's


def told(call: Callable[[], object]) -> list[str]:
    """What it warns of about streams."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    found = [w for w in caught if issubclass(w.category, StreamWarning)]
    assert all(w.filename == __file__ for w in found), "at the line of the call"
    return [str(w.message) for w in found]


def update(prog: pgt_fx.Progressive, kind: type[torch.optim.Optimizer], **how: Any) -> None:
    for p in prog.parameters():
        p.grad = torch.ones_like(p)
    kind(prog.parameters(), 1e-3, **how).step()  # type: ignore[call-arg]


CHANGES: dict[str, Callable[[pgt_fx.Progressive], object]] = {
    "sgd": lambda prog: update(prog, torch.optim.SGD),
    "adam, foreach": lambda prog: update(prog, torch.optim.Adam, foreach=True),
    "load_state_dict": lambda prog: prog.load_state_dict(net(5).state_dict()),
    "one parameter": lambda prog: nn.init.zeros_(prog.inspect.model.short.bias),
    "train": lambda prog: prog.train(),
    "train of the model": lambda prog: prog.inspect.model.train(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_stream_that_goes_on_with_a_changed_model_says_so_once(change: str) -> None:
    prog, x = progressive(), video(4)
    assert not told(lambda: (prog(x), prog(x)))
    CHANGES[change](prog)
    (message,) = told(lambda: prog(x))
    expected = "set to train()" if "train" in change else "parameters were written to"
    assert expected in message and "call reset() before another video" in message
    assert not told(lambda: (prog(x), prog(x, last=True)))
    prog.reset()  # another video, of the model as it is now
    assert not told(lambda: (prog(x), prog(x)))
    CHANGES["one parameter"](prog)
    assert len(told(lambda: prog(x))) == 1


def test_a_stream_of_the_same_model_says_nothing() -> None:
    prog, x = progressive().train(), video(4)
    head = nn.Linear(2, 2)

    def stream() -> None:
        prog(x)  # running statistics are written in each step
        prog(x)
        head.weight.data.zero_()
        update(head, torch.optim.SGD)  # type: ignore[arg-type]
        prog(x).sum().backward()
        prog.zero_grad()
        prog.requires_grad_(False)
        prog.requires_grad_(True)
        copy.deepcopy(prog)(x)
        pickle.loads(pickle.dumps(prog))(x)
        prog.float()
        prog(x.float())
        prog.double()
        prog(x, last=True)
        prog.reset()
        CHANGES["sgd"](prog)
        prog.eval()
        prog(x)

    assert not told(stream)


def test_runs_that_keep_their_own_state_say_nothing() -> None:
    prog, x = progressive(), video(12)
    prog.register_forward_hook(lambda m, args, out: None)  # so that steps are calls of the module

    def run() -> None:
        for schedule in ([4, 8], [6, 6]):
            backward(prog, x, lambda y, _: y.sum(), schedule=schedule)
            CHANGES["sgd"](prog)
            prog.run(x, schedule=schedule)
            predict(prog, x, schedule=schedule, activation=None)
            prog.full(x)
            prog.train(not prog.training)

    assert not told(lambda: (prog(x), run()))
    assert len(told(lambda: prog(x))) == 1, "the stream in the middle of which it was"


def test_a_state_that_is_given_is_its_givers_to_know() -> None:
    prog, x = progressive(), video(4)
    prog(x)
    kept = prog.state
    CHANGES["sgd"](prog)

    def again() -> None:
        prog.state = kept
        prog(x)

    assert not told(again)
    CHANGES["sgd"](prog)
    assert len(told(lambda: prog(x))) == 1


def test_parameters_made_under_inference_mode_are_left_alone() -> None:
    with torch.inference_mode():
        prog = progressive(nn.Conv3d(3, 3, 3, padding=1).double().requires_grad_(False))
        assert not told(lambda: (prog(video(4)), prog(video(4))))


# ------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    "wrong",
    [
        lambda x: x[:, :, :0],
        lambda x: x[..., :-1],
        lambda x: x[:1],
        lambda x: x[:, :2],
        lambda x: x[0],
        lambda x: [x],
        lambda x: "clip",
        lambda x: (x, x),
    ],
    ids=["empty", "space", "batch", "channels", "rank", "list", "text", "two"],
)
def test_a_refused_chunk_leaves_the_state_intact(wait: Any, wrong: Callable[..., Any]) -> None:
    x = video(12)
    outputs = [wait(x[:, :, :6])]
    bad = wrong(x)
    with pytest.raises(ClipError):
        wait(*bad) if isinstance(bad, tuple) else wait(bad)
    outputs.append(wait(x[:, :, 6:], last=True))
    assert relative_error(stitch(outputs), net()(x)) <= EXACT


def test_a_step_after_the_last_is_refused_until_reset(wait: Any) -> None:
    wait(video(4), last=True)
    with pytest.raises(StateError, match="reset"):
        wait(video(4))
    wait.reset()
    wait(video(4))


@pytest.mark.parametrize("change", ["dropped", "added", "shape", "emptied"])
def test_a_foreign_state_is_refused(wait: Any, change: str) -> None:
    _, state = wait.step({}, video(8))
    name = next(k for k in state if not k.startswith("clock."))
    if change == "dropped":
        del state[name]
    elif change == "added":
        state["somebody.else"] = torch.zeros(1)
    elif change == "shape":
        state[name] = state[name][..., :-1]
    else:
        state = {"nothing": torch.zeros(1)}
    with pytest.raises(StateError):
        wait.step(state, video(4))


def test_unknown_options_name_the_nearest() -> None:
    with pytest.raises(OptionError, match="did you mean 'wait'"):
        progressive(future="wiat")
    with pytest.raises(OptionError, match="expected one of"):
        progressive(pooling="everything")
    with pytest.raises(OptionError, match="did you mean 'future'"):
        progressive().replace(futur="wait")


# --------------------------------------------------------------- a module like any other


def test_parameters_and_their_names_are_the_models(wait: Any) -> None:
    model = net()
    assert list(wait.state_dict()) == list(model.state_dict())
    assert [n for n, _ in wait.named_parameters()] == [n for n, _ in model.named_parameters()]
    other = net(seed=5)
    prog = progressive(other, future="wait")
    prog.load_state_dict(model.state_dict())
    x = video(9)
    assert torch.equal(other(x), model(x))
    assert relative_error(stitch(run(prog, x, [4, 5])), model(x)) <= EXACT
    model.load_state_dict(prog.state_dict())


def test_a_deep_copy_is_independent(wait: Any) -> None:
    x, model = video(12), net()
    first = [wait(x[:, :, :6])]
    other = copy.deepcopy(wait)
    with torch.no_grad():
        for value in other.parameters():
            value.zero_()
    first.append(wait(x[:, :, 6:], last=True))
    assert relative_error(stitch(first), model(x)) <= EXACT
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(x[:, :, 6:], last=True), first[1])


def test_replace_shares_the_weights() -> None:
    prog = progressive(net())
    other = prog.replace(future="wait")
    with torch.no_grad():
        next(prog.parameters()).mul_(3)
    assert next(other.parameters()) is next(prog.parameters())
    assert (prog.options.future, other.options.future) == ("zero", "wait")
    x = video(9)
    assert torch.equal(prog.full(x), other.full(x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_other_precisions(dtype: torch.dtype) -> None:
    prog = progressive(net(), future="wait").to(dtype)
    x = video(12)
    answer = stitch(run(prog, x.to(dtype), [5, 1, 6]))
    assert answer.dtype == dtype
    assert {v.dtype for k, v in prog.state.items() if not k.startswith("clock.")} == {dtype}
    assert relative_error(answer, net()(x)) <= 20 * torch.finfo(dtype).eps


def test_a_cast_in_mid_stream_takes_the_state_along() -> None:
    prog, x = progressive(net(), future="wait"), video(12)
    outputs = [prog(x[:, :, :6])]
    prog.float()
    outputs.append(prog(x[:, :, 6:].float(), last=True))
    assert relative_error(torch.cat([y.double() for y in outputs], 2), net()(x)) <= 1e-5


def test_autocast() -> None:
    x = video(12).float()
    prog = pgt_fx.transform(net().float(), x, future="wait")
    with torch.autocast("cpu", torch.bfloat16):
        answer = stitch(run(prog, x, [5, 1, 6]))
        whole = net().float()(x)
    assert answer.dtype == whole.dtype and relative_error(answer, whole) <= 0.05


def test_distributed_data_parallel(tmp_path: Any) -> None:
    dist = torch.distributed
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        prog = progressive(net().train())
        wrapped = nn.parallel.DistributedDataParallel(prog)
        for clip in pieces(video(12), [6, 6]):
            wrapped(clip).pow(2).mean().backward()
        assert all(p.grad is not None and p.grad.abs().max() > 0 for p in prog.parameters())
    finally:
        dist.destroy_process_group()


def test_train_and_eval() -> None:
    model = nn.Sequential(net(), nn.Dropout(0.5)).train()
    prog = progressive(model)
    assert prog.training
    x, norm = video(12), model[0].norm
    assert norm.num_batches_tracked == 0
    before = norm.running_mean.clone()
    run(prog, x, [6, 6])
    assert norm.num_batches_tracked == 2 and not torch.equal(before, norm.running_mean)
    prog.eval()
    assert not norm.training and not model.training
    counted = norm.running_mean.clone()
    other = prog.replace(future="wait")
    assert relative_error(stitch(run(other, x, [5, 7])), model(x)) <= EXACT
    assert torch.equal(counted, norm.running_mean)
    prog.reset()
    assert (prog.train()(x) == 0).double().mean() > 0.3  # dropout is back
    assert norm.num_batches_tracked == 3


# ------------------------------------------------------------------------ what is known


def test_receptive_field_stride_and_look_ahead_by_hand(wait: Any) -> None:
    report = wait.report
    # 3 wide, then 5 wide at stride 2 over it: 7 frames, 3 ahead.
    assert (report.receptive_field, report.stride, report.look_ahead) == ([7], ["2"], [3])
    assert report.exact and report.latency == 3 and report.state_bytes > 0
    causal = pgt_fx.analyze(nn.Sequential(nn.ConstantPad1d((4, 0), 0.0), nn.Conv1d(3, 3, 5)),
                            torch.randn(1, 3, 16))  # fmt: skip
    assert (causal.receptive_field, causal.look_ahead, causal.latency) == ([5], [0], 0)
    pooled = pgt_fx.analyze(
        nn.Sequential(nn.Conv1d(3, 3, 3, 2, 1), nn.MaxPool1d(3, 2, 1)), torch.randn(1, 3, 32)
    )
    assert (pooled.receptive_field, pooled.stride, pooled.look_ahead) == ([7], ["4"], [3])


def test_the_report_is_plain_data_a_graph_and_a_table(wait: Any) -> None:
    report = wait.report
    data = json.loads(json.dumps(report.to_dict()))
    names = [row["name"] for row in data["rows"]]
    assert {"stem", "branch", "short"} <= set(names)
    assert all("test_progressive.py" in row["source"] for row in data["rows"])
    graph = report.graph()
    assert isinstance(graph, nx.DiGraph) and nx.is_directed_acyclic_graph(graph)
    assert "branch" in {data.get("module") for _, data in graph.nodes(data=True)}
    assert "branch" in str(report) and "receptive field" in str(report)


def test_the_code_reads_like_the_model(wait: Any) -> None:
    code = wait.code
    assert "self.markov.stem(" in code and "self.norm(" in code
    assert "test_progressive.py" in code and "self.branch(x) + self.short(x)" in code
    compile(code, "step", "exec")


def test_a_clip_is_found_without_an_example() -> None:
    model = nn.Sequential(nn.Conv3d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv3d(4, 2, 3, padding=1))
    prog = pgt_fx.transform(model, future="wait")
    x = video(8, space=9).float()
    assert relative_error(stitch(run(prog, x, [3, 5])), model(x)) <= 1e-5


def test_functional_and_module_calls_agree_about_an_inplace_relu() -> None:
    model = nn.Sequential(nn.Conv1d(3, 3, 3, padding=1), nn.ReLU(inplace=True)).double()
    prog = pgt_fx.transform(model, torch.randn(1, 3, 16).double(), future="wait")
    x = torch.randn(1, 3, 9).double()
    kept = x.clone()
    assert relative_error(stitch(run(prog, x, [4, 5])), F.relu(model[0](x))) <= EXACT
    assert torch.equal(x, kept)


def test_parts_of_the_library_need_no_import_of_their_own() -> None:
    code = (
        "import pgt_fx; pgt_fx.erf.measure, pgt_fx.training.backward, pgt_fx.inference.predict, "
        "pgt_fx.testing.assert_causal, pgt_fx.rules.rule, pgt_fx.zoo.build, pgt_fx.errors"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
    with pytest.raises(AttributeError, match="no attribute 'trainer'"):
        _ = pgt_fx.trainer


class Weighted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 3))

    def forward(self, x: Tensor) -> Tensor:
        return torch.matmul(self.weight, x)


def test_an_error_in_a_step_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    """A module of torch.fx prints its code, and the error has lost its traceback."""
    prog = pgt_fx.transform(Weighted().eval(), torch.randn(1, 3, 8), time_dim=2)
    with pytest.raises(RuntimeError, match="dtype") as found:
        prog.full(torch.randn(1, 3, 8).double())
    assert tuple(capfd.readouterr()) == ("", "")
    assert any("eval_with_key" in str(entry.path) for entry in found.traceback)
