"""What the benchmarks count and compare; no measured time is looked at."""

from __future__ import annotations

import argparse
import ctypes.util
import importlib.util
import itertools
import json
import platform
import resource
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

import pgt_fx
from pgt_fx import zoo
from pgt_fx.cli import app

FOLDER = Path(__file__).parents[2] / "benchmarks"
SHARED = (
    "harness",
    "file_names",
    "peak_memory",
    "recompute",
    "headline",
    "sections",
    "plots",
    "stream_net",
    "kernels",
)


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(sys, "path", [*sys.path, str(FOLDER)])
    yield
    for name in [n for n in sys.modules if n in SHARED or n.startswith("bench_")]:
        del sys.modules[name]


def script(name: str) -> ModuleType:
    """A benchmark as a module; under a name of its own, as longrange/ has a train and a report."""
    spec = importlib.util.spec_from_file_location(f"bench_{name}", FOLDER / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # a dataclass looks its own module up
    spec.loader.exec_module(module)
    return module


# -- the harness -----------------------------------------------------------------------------------


def test_sides_alternate_and_the_warm_up_is_not_counted() -> None:
    from harness import interleaved

    now, done = [0.0], []

    def side(name: str, seconds: Iterator[float]) -> Any:
        def work() -> None:
            done.append(name)
            now[0] += next(seconds)

        return work

    sides = {"a": side("a", iter([100.0, 1, 2, 3])), "b": side("b", iter([100.0, 2, 8, 4]))}
    seconds = interleaved(sides, 3, warm_up=1, clock=lambda: now[0])
    assert done == ["a", "b"] * 4
    assert seconds == {"a": [1, 2, 3], "b": [2, 8, 4]}


def test_short_rounds_are_repeated_until_enough_is_clocked() -> None:
    from harness import interleaved

    now = [0.0]

    def work() -> None:
        now[0] += 0.5

    seconds = interleaved({"a": work, "b": work}, 2, at_least=4.5, clock=lambda: now[0])
    assert seconds == {"a": [0.5] * 5, "b": [0.5] * 5}


def test_ratios_are_taken_within_pairs() -> None:
    from harness import ratio, spread

    # The second round ran on a machine ten times slower: of medians over all it would be 0.25.
    seconds = {"a": [1.0, 20.0, 2.0], "b": [2.0, 40.0, 8.0]}
    assert ratio(seconds, "a", "b") == {"median": 0.5, "low": 0.375, "high": 0.5, "pairs": 3}
    assert spread([3.0]) == {"median": 3, "low": 3, "high": 3}
    assert spread(range(1, 6)) == {"median": 3, "low": 2, "high": 4}
    with pytest.raises(ValueError, match="zip"):
        ratio({"a": [1.0], "b": []}, "a", "b")


def test_what_is_written_tells_the_machine_and_not_whose(tmp_path: Path) -> None:
    from harness import parser, save

    options = parser("Doc.", "step", repeat=2).parse_args(["--out", str(tmp_path / "x.json")])
    path = save("step", options, [{"model": "m"}], found=3)
    data = json.loads(path.read_text())
    assert data["benchmark"] == "step" and data["found"] == 3 and data["rows"] == [{"model": "m"}]
    assert data["machine"]["torch"] == torch.__version__
    assert torch.backends.cpu.get_cpu_capability() in data["machine"]["instructions"]
    assert data["machine"]["packages"]["pgt-fx"] == pgt_fx.__version__
    assert data["machine"]["threads"] == torch.get_num_threads()
    assert {"seed": 0, "repeat": 2, "threads": 2}.items() <= data["options"].items()
    told = json.dumps(data["machine"] | data["options"])
    assert str(tmp_path) not in told and platform.node() not in told


def test_peaks_are_of_the_work_alone() -> None:
    from harness import peak_bytes

    x = torch.zeros(1000)
    assert peak_bytes(lambda: (x + 1).sum()) == 4004
    assert peak_bytes(lambda: None) == 0


@pytest.mark.parametrize("allocator", ["jemalloc", "default"])
def test_a_process_that_keeps_its_memory_is_given_no_new_pages(
    allocator: str, tmp_path: Path
) -> None:
    if ctypes.util.find_library("jemalloc") is None:
        pytest.skip("no libjemalloc")
    path = tmp_path / "work.py"
    path.write_text(f"""
import resource, sys
sys.path.insert(0, {str(FOLDER)!r})
import torch
from harness import parser, prepare
prepare(parser("Doc.", "step").parse_args())
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(2 ** 24)  # 64 MB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(faults())
""")
    command = [sys.executable, str(path), "--allocator", allocator]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    pages = 2**26 // resource.getpagesize()
    assert (int(done.stdout) < pages / 100) == (allocator == "jemalloc")


def test_without_jemalloc_the_allocator_is_the_systems(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from harness import parser, prepare

    monkeypatch.delenv("LD_PRELOAD", raising=False)
    monkeypatch.setattr(ctypes.util, "find_library", lambda name: None)
    options = parser("Doc.", "step").parse_args(["--threads", str(torch.get_num_threads())])
    assert options.allocator == "jemalloc"
    with torch.random.fork_rng(), warnings.catch_warnings():
        prepare(options)
    assert options.allocator == "default" and "no libjemalloc" in capsys.readouterr().out


@pytest.mark.skipif(platform.system() != "Linux", reason="what a process holds is read from Linux")
def test_a_forgotten_peak_is_counted_from_then_on() -> None:
    from harness import forget_peak, process_bytes

    size = 2**28
    torch.ones(size // 4)  # given back: over the size that glibc keeps
    peak = process_bytes()
    forget_peak()
    assert process_bytes() < peak - size // 2
    kept = torch.ones(size // 4)
    assert process_bytes() > peak - size // 2 and kept.nbytes == size


def test_a_failed_process_is_told(tmp_path: Path) -> None:
    from harness import in_a_process

    path = tmp_path / "work.py"
    path.write_text("import sys\nprint('talk')\nprint(sys.argv[2])\n")
    assert in_a_process(str(path), {"way": "x"}) == {"way": "x"}
    path.write_text("raise MemoryError('no more')\n")
    assert in_a_process(str(path), {}) == {"error": "MemoryError: no more"}


# -- the paper's way -------------------------------------------------------------------------------


class BasicBlock(nn.Module):
    """A residual block with one temporal convolution, or two; recognised by its name."""

    def __init__(self, convs: int = 1) -> None:
        super().__init__()
        sizes = [(4, 4, (3, 1, 1), 1, (1, 0, 0))] * convs
        self.branch = nn.Sequential(*[nn.Conv3d(*size) for size in sizes], nn.BatchNorm3d(4))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.branch(x))


def small(convs: int = 1) -> nn.Module:
    torch.manual_seed(0)
    stem = nn.Conv3d(3, 4, (5, 3, 3), padding=(2, 1, 1))
    blocks = (BasicBlock(convs), BasicBlock(convs))
    return nn.Sequential(stem, nn.ReLU(), *blocks).double().eval()


@torch.no_grad()
def differences(model: nn.Module) -> list[float]:
    """By step, of the paper's way from the Markov operators."""
    from recompute import recomputed

    prog = pgt_fx.transform(model, torch.randn(1, 3, 8, 4, 4).double())
    paper, out = recomputed(model, 7), []
    for frames in (8, 7, 7):
        x = torch.randn(1, 3, frames, 4, 4).double()
        ours, theirs = prog(x), paper(x)
        assert ours.shape == theirs.shape
        out.append(float((ours - theirs).abs().max()))
    return out


def test_recomputation_equals_the_markov_operators_with_one_temporal_convolution_a_block() -> None:
    assert max(differences(small())) < 1e-12


def test_with_two_temporal_convolutions_a_block_one_carried_frame_stands_for_two() -> None:
    first, *later = differences(small(2))
    assert first < 1e-12, "nothing is carried into the first step"
    assert min(later) > 1e-3


def test_recomputation_leaves_the_model_as_it_is_and_can_start_anew() -> None:
    from recompute import Carried, recomputed

    model = small()
    paper, x = recomputed(model, 7), torch.randn(1, 3, 8, 4, 4).double()
    assert not any(isinstance(m, Carried) for m in model.modules())
    first = paper(x)
    assert not torch.equal(paper(x), first)
    paper.reset()
    assert torch.equal(paper(x), first)
    assert all(not m.past.requires_grad for m in paper.modules() if isinstance(m, Carried))


def test_a_temporal_stride_that_does_not_divide_the_step_is_refused() -> None:
    from recompute import NotApplicableError, recomputed

    strided = nn.Sequential(nn.Conv3d(3, 4, 3, stride=2, padding=1))
    recomputed(strided, 8)
    with pytest.raises(NotApplicableError, match="temporal stride of 2"):
        recomputed(strided, 7)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["slow_r50", "slowfast_r50"])
def test_recomputation_equals_the_markov_operators_on_real_backbones(name: str) -> None:
    from harness import any_length
    from recompute import recomputed

    from pgt_fx import zoo

    model = any_length(zoo.build(name, space=32, redraw_norms=True)).double()
    prog = pgt_fx.transform(model, zoo.clip(name, space=32, dtype=torch.float64))
    paper = recomputed(model, 7)
    with torch.no_grad():
        for frames in (8, 7, 7):
            x: Any = [torch.randn(1, 3, frames * r, 32, 32).double() for r in prog.clip_ratio]
            x = x if len(x) > 1 else x[0]
            ours, theirs = prog(list(x) if isinstance(x, list) else x), paper(x)
            assert torch.allclose(ours, theirs, rtol=1e-9, atol=1e-12)


# -- what single benchmarks count ------------------------------------------------------------------


def test_ways_of_streaming_give_the_same_features() -> None:
    import stream_net

    stream = script("stream")
    net = stream_net.build(1 / 16)
    work, missing = stream.streams(net, torch.randn(1, 3, 19, 32, 32))
    assert set(work) | set(missing) and {"full forward", "sliding window of 8"} <= set(work)
    broken = {"torchstream-lib, chunks of 8": lambda: iter([][0]), "full forward": None}
    assert list(stream.failing(broken)) == ["torchstream-lib, chunks of 8"]
    for name, found in stream.agreement(work).items():
        assert found["max_error"] < 1e-5, name
        assert found["features"] in (19, 19 - stream_net.LOOK_AHEAD), name


def test_checkpoints_change_no_gradient() -> None:
    train = script("train")
    model, x = small(), torch.randn(1, 3, 8, 4, 4).double()
    expected = _gradients(model, x)
    for around in ("stage", "block"):
        found = _gradients(train.checkpointed(model, around), x)
        assert all(map(torch.equal, found, expected))


def _gradients(model: nn.Module, x: Tensor) -> list[Tensor]:
    model.zero_grad()
    model(x).square().sum().backward()
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]


@pytest.mark.parametrize("batch", [1, 3])
def test_gradients_are_of_all_videos_of_a_batch(batch: int) -> None:
    train = script("train")
    setting = train.Setting("r3d_18", 32, 4, 2, "cpu", batch)
    assert setting.video.shape[0] == batch == len(setting.label)
    assert train.gradient_errors(setting)["exact_gradient_error"] < 1e-3


@pytest.mark.parametrize("name", ["train", "scale"])
def test_models_can_have_the_frames_that_are_the_default(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench, seen = script(name), []

    def measured(model: str, *given: Any) -> Any:
        seen.append((model, next(o.space for o in given if hasattr(o, "space"))))
        raise KeyboardInterrupt

    def built(model: str, space: int, *_: Any) -> Any:
        seen.append((model, space))
        raise KeyboardInterrupt

    monkeypatch.setattr(bench, *(("measure", measured) if name == "train" else ("stream", built)))
    monkeypatch.setattr(bench, "prepare", lambda options: None)
    monkeypatch.setattr(sys, "argv", [name])
    with pytest.raises(KeyboardInterrupt):
        bench.main()
    ((model, space),) = seen
    assert zoo.clip(model, space=space) is not None


def test_size_of_a_row_and_what_it_is_compared_with() -> None:
    step = script("step")
    model = nn.Sequential(nn.Conv3d(3, 4, 3, padding=1))
    prog = pgt_fx.transform(model, torch.randn(1, 3, 8, 4, 4))
    size = step.Size(4, 2, channels_last=True)
    last = torch.channels_last_3d
    assert step.clip(prog, 7, size, next(model.parameters())).is_contiguous(memory_format=last)
    work, _ = step.sides(model, prog, size, 7, False, None, calls=3, same_length=True)
    frames: list[int] = []
    model.register_forward_pre_hook(lambda _, args: frames.append(args[0].shape[2]))
    work[step.SAME]()
    work["plain"]()
    assert frames == [7, 7, 7, 8, 8, 8]
    work, _ = step.sides(model, prog, size, 8, False, None, same_length=True)
    assert step.SAME not in work, "they are the same"


def test_the_time_of_kernels_is_counted_once() -> None:
    from kernels import total

    on, off = torch.autograd.DeviceType.CUDA, torch.autograd.DeviceType.CPU
    # An operator of the host has the time of the kernels that it has started.
    events = [(off, 7e6, False), (on, 7e6, True), (on, 3e6, False), (on, 4e6, False)]
    keys = ("device_type", "self_device_time_total", "is_user_annotation")
    assert total(SimpleNamespace(**dict(zip(keys, e, strict=True))) for e in events) == 7


@pytest.mark.parametrize(
    ("given", "told"), [(["--kernels"], "add --device cuda"), (["--calls", "0"], "at least 1")]
)
def test_options_that_measure_nothing_are_refused(
    given: list[str],
    told: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["step", *given])
    with pytest.raises(SystemExit):
        script("step").main()
    assert told in capsys.readouterr().err


def test_runs_of_another_kind_are_kept_apart() -> None:
    step = script("step")
    given = {"compile": False, "mode": None, "channels_last": False}
    assert step.variant(argparse.Namespace(**given)) == ""
    given |= {"compile": True, "mode": "reduce-overhead", "channels_last": True}
    assert step.variant(argparse.Namespace(**given)) == "compiled_reduce-overhead_channels-last"


def test_crossing_points_are_said_in_words() -> None:
    train = script("train")
    rows = [
        {
            "model": "m",
            "steps": p,
            "seconds": {"exact": {"median": 2.0}, "whole": {"median": 1.0}},
            "peaks": {"exact": {"tensor_bytes": 30}, "whole": {"tensor_bytes": 10 * p}},
        }
        for p in (1, 2, 4, 8)
    ]
    assert train.crossings(rows) == [
        "m: exact takes less memory than whole from P = 4 on (measured up to 8)",
        "m: exact takes less time than whole at no P up to 8",
    ]


def test_state_is_counted_against_what_windows_must_hold() -> None:
    state = script("state")

    class Joined(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.wide = nn.Conv3d(3, 4, (5, 1, 1), padding=(2, 0, 0))
            self.narrow = nn.Conv3d(3, 4, (3, 1, 1), padding=(1, 0, 0))

        def forward(self, x: Tensor) -> Tensor:
            return self.wide(x) + self.narrow(x)

    prog = pgt_fx.transform(Joined(), torch.randn(1, 3, 8, 6, 6), future="wait")
    analysis, frame = prog.inspect.analysis, 6 * 6 * 4
    # Both windows read the video: the tail of the wider one could serve both.
    assert state.lower_bound(analysis) == 4 * 3 * frame
    # The narrow branch comes one element early, of 4 channels.
    assert state.naive_delays(analysis) == 4 * frame
    least = state.lower_bound(analysis)
    assert least <= prog.report.state_bytes


# -- the report ------------------------------------------------------------------------------------


def _runs() -> list[dict[str, Any]]:
    def median(value: float) -> dict[str, Any]:
        return {"median": value, "low": value, "high": value, "pairs": 1}

    step = [
        {
            "model": model,
            "space": 224,
            "full": True,
            "dtype": "float32",
            "pass": way,
            "mode": "eager",
            "seconds_per_new_frame": {"plain": median(1.0), "step": median(over)},
            "step_over_plain": median(over),
        }
        for (model, way), over in zip(
            itertools.product(("fast", "slow"), ("forward", "forward+backward")),
            (1.01, 1.2, 1.05, 1.01),
            strict=True,
        )
    ]
    machine = {
        "cpu": "some CPU",
        "cores": 2,
        "instructions": "AVX2",
        "device": "cpu",
        "torch": "2",
        "threads": 2,
    }
    shared = {"machine": machine, "options": {"threads": 2, "seed": 0}}
    return [{"benchmark": "step", **shared, "rows": step}]


def test_a_report_says_what_is_met_and_what_is_missed(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    results = tmp_path / "results"
    results.mkdir()
    for run in _runs():
        (results / f"{run['benchmark']}.json").write_text(json.dumps(run))
    (results / "other.json").write_text('{"benchmark": "of another kind"}')
    script("report").write(results, tmp_path / "RESULTS.md")
    text = (tmp_path / "RESULTS.md").read_text()
    by_name = {line.split("|")[1].strip(): line for line in text.splitlines() if "|" in line}
    forward = by_name["step, per new frame over plain clip: forward (CPU, float32, full space)"]
    assert "1.05 (slow, forward; 1.03 in the median of 2) | met |" in forward
    assert "1.2 (fast, forward+backward" in by_name["the same, forward + backward"]
    assert by_name["the same, forward + backward"].endswith("| missed |")
    assert "not measured" in by_name["the same on a GPU, compiled, several videos at once"]
    assert "CPU some CPU (2 cores, AVX2), torch 2, 2 threads; seed 0." in text
    assert "## step" in text and "![step](results/step.png)" in text
    assert (results / "step.png").stat().st_size > 1000


def test_steps_without_an_answer_are_not_compared_backward() -> None:
    from headline import FIGURES
    from sections import step

    (run,) = _runs()
    row = run["rows"][1]  # 1.2, of fast, forward + backward
    row |= {"answers": 7, "steps_timed_together": 8}
    line = FIGURES[1].line
    assert "1.01 (slow, forward+backward)" in line([run])[3]
    assert any("7 of 8 steps" in x for x in step(run))
    row |= {"answers": 8, "new_frames": 8}
    assert "1.2 (fast, forward+backward of 8 frames" in line([run])[3]
    assert not any("steps have an answer" in x for x in step(run))


def test_figures_of_a_gpu_and_of_one_video_there_are_kept_apart() -> None:
    from headline import FIGURES
    from sections import step, train

    line = {figure.what: figure.line for figure in FIGURES}
    batches = line["the same on a GPU, eager, several videos at once"]
    (one,) = [line[k] for k in line if "one video: the GPU waits" in k]
    runs = _runs() + _runs()
    runs[1]["machine"] = {**runs[1]["machine"], "device": "some GPU"}
    row = runs[1]["rows"][0]
    row["step_over_plain"] = {"median": 1.7}
    assert "1.05 (slow" in FIGURES[0].line(runs)[3], "of the CPU"
    assert "1.7 (fast" in one(runs)[3] and batches(runs)[3] == "not measured"
    row["batch"] = 16
    assert "1.7 (fast" in batches(runs)[3] and "1.2 (fast" in one(runs)[3]
    table = step(runs[1])
    assert "| batch |" in table[0] and "| 16 |" in table[2]
    row["mode"] = "compiled, reduce-overhead"
    compiled = line["the same on a GPU, compiled, several videos at once"]
    graphs = line["the same on a GPU, CUDA graphs, one video"]
    assert batches(runs)[3] == compiled(runs)[3] == graphs(runs)[3] == "not measured"
    row["batch"] = 1
    assert "1.7 (fast" in graphs(runs)[3] and compiled(runs)[3] == "not measured"
    row |= {"batch": 8, "mode": "compiled", "calls": 4, "kernels_over_plain": 1.25}
    assert "1.7 (fast" in compiled(runs)[3] and graphs(runs)[3] == "not measured"
    table = step(runs[1])
    assert "| calls |" in table[0] and table[0].endswith("| step over plain, kernels alone |")
    assert "| 4 |" in table[2] and table[2].endswith("| 1.25 |")

    seconds = {"exact": {"median": 3.0}, "whole": {"median": 2.0}}
    peaks = {"exact": {"tensor_bytes": 1}, "whole": {"tensor_bytes": 4}}
    shared = {"model": "m", "steps": 8, "frames": 57, "exact_gradient_error": 0.0}
    over = {"exact": {"median": 1.5}}
    rows = [{**shared, "batch": 4, "seconds": seconds, "peaks": peaks, "time_over_whole": over}]
    run = {"benchmark": "train", "machine": runs[1]["machine"], "options": {"space": 224}}
    run |= {"rows": rows, "crossings": []}
    assert (
        line["exact gradient, P = 8: time over whole-video backward"]([run])[-2] == "not measured"
    )
    several = line["and time, several videos at once"]
    assert several([run])[-2:] == ["1.5 (m, 224 px × 4)", "missed"]
    assert line["and time, one video"]([run])[-2] == "not measured"
    assert line["the same two on a GPU: memory"]([run])[-2:] == ["0.25 (m, 224 px × 4)", "met"]
    assert train(run)[2].startswith("| m × 4 |")


@pytest.mark.parametrize("steps", [[1, 8], [8, 8]])
def test_rows_of_one_number_of_steps_are_drawn_over_videos(steps: list[int]) -> None:
    pyplot = pytest.importorskip("matplotlib.pyplot")
    import plots

    rows = [
        {
            **{"model": "m", "steps": p, "batch": batch},
            "seconds": {"exact": {"median": 2.0 * batch}},
            "peaks": {"exact": {"tensor_bytes": 3e6 * batch}},
        }
        for p, batch in zip(steps, (1, 4), strict=True)
    ]
    memory, time = plots.train({"rows": rows}, pyplot).axes
    along = steps if steps[0] != steps[1] else [1, 4]
    (line,) = memory.get_lines()
    assert line.get_xdata().tolist() == along and line.get_ydata().tolist() == [3, 12]
    assert time.get_xlabel() == ("number of steps P" if along == steps else "videos at once, P = 8")
    pyplot.close("all")


def test_a_model_that_fails_meets_nothing() -> None:
    from headline import FIGURES

    runs = _runs()
    failed = {k: runs[0]["rows"][0][k] for k in ("model", "full", "dtype", "pass", "mode")}
    runs[0]["rows"].append({**failed, "model": "broken", "failed": "RuntimeError: no"})
    assert FIGURES[0].line(runs)[-1] == "missed" and "broken" in FIGURES[0].line(runs)[-2]


def test_what_is_in_the_repository_can_be_reported() -> None:
    report = script("report")
    runs = report.runs_of(FOLDER / "results")
    assert runs and all(report.SECTIONS[run["benchmark"]](run) for run in runs)


# -- the command -----------------------------------------------------------------------------------

NAMES = ("step", "stream", "train", "scale", "compile_time", "state", "report")


def test_benchmarks_are_listed_with_a_line_each() -> None:
    result = CliRunner().invoke(app, ["bench"], env={"COLUMNS": "200"})
    assert result.exit_code == 0
    lines = {line.split()[0]: line for line in result.stdout.splitlines() if line.strip()}
    assert set(NAMES) == set(lines)
    assert all(len(line.split()) > 4 for line in lines.values())
    assert "Does a progressive step cost" in lines["step"]
    assert not set(SHARED) & set(lines)


def test_an_unknown_benchmark_is_met_with_the_nearest() -> None:
    result = CliRunner().invoke(app, ["bench", "stat"], env={"COLUMNS": "200"})
    assert result.exit_code == 2 and "did you mean state" in result.output
    result = CliRunner().invoke(app, ["bench", "qqq"], env={"COLUMNS": "300"})
    assert result.exit_code == 2 and "there are compile_time" in result.output


def test_options_are_passed_on_and_the_exit_code_back(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[list[str]] = []

    class Done:
        returncode = 3

    def run(script: list[str]) -> Done:
        called.append(script)
        return Done()

    monkeypatch.setattr("subprocess.run", run)
    asked = ["bench", "step", "--space", "32", "--compile", "--help"]
    assert CliRunner().invoke(app, asked).exit_code == 3
    assert called[0][:3] == [sys.executable, "-m", "pgt_fx.cli.script"]
    assert Path(called[0][3]) == FOLDER / "step.py" and called[0][4:] == asked[2:]
    shown = CliRunner().invoke(app, ["bench", "--help"])
    assert shown.exit_code == 0 and "Usage" in shown.output


def test_a_file_of_another_kind_is_refused_before_the_work(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from harness import parser

    report = script("report")
    monkeypatch.setattr(report, "write", lambda *args: pytest.fail("the work has begun"))
    options = parser("Doc.", "step", repeat=2)
    for name, suffix, parse in (
        ("a.txt", ".json", lambda: options.parse_args(sys.argv[1:])),
        ("a.html", ".md", report.main),
        (str(tmp_path), "", report.main),
    ):
        monkeypatch.setattr("sys.argv", ["x", "--out", name])
        with pytest.raises(SystemExit) as end:
            parse()
        told = capsys.readouterr().err
        assert end.value.code == 2 and name in told
        assert f"ends in {suffix}" in told if suffix else "is a folder" in told


def test_a_wheel_has_no_benchmarks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(pgt_fx, "__file__", str(tmp_path / "pgt_fx" / "__init__.py"))
    result = CliRunner().invoke(app, ["bench"])
    assert result.exit_code == 2 and "clone it" in result.output
