"""pgt-fx demo: the main job on a small video, through the command line."""

from __future__ import annotations

import io
import mmap
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import films
import numpy as np
import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

from pgt_fx import zoo
from pgt_fx.cli import app
from pgt_fx.cli.demo import figure as demo_figure
from pgt_fx.cli.demo import run as demo
from pgt_fx.cli.demo import size as demo_size
from pgt_fx.cli.demo.story import Findings, Pass, _waiting
from pgt_fx.cli.demo.talk import Stage, Talk
from pgt_fx.core.errors import OptionError

pytest.importorskip("pytorchvideo")

FRAMES = 36


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noise that drifts: no two frames alike."""
    path = tmp_path_factory.mktemp("demo") / "film.mp4"
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 255, (6, 80, 3), dtype=np.uint8).repeat(16, 0)
    return films.encode(path, [np.roll(picture, 7 * i, 1) for i in range(FRAMES)])


@pytest.fixture(autouse=True)
def somewhere_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A folder for the figure; and the demo chooses its threads for the rest of the process."""
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def called(film: Path, *args: str) -> Any:
    return CliRunner().invoke(
        app, ["demo", "--video", str(film), *args], env={"COLUMNS": "200", "TERM": "dumb"}
    )


def said(film: Path, *args: str) -> str:
    result = called(film, *args)
    assert result.exit_code == 0, result.output
    return " ".join(result.stdout.split())


def test_the_main_job(film: Path) -> None:
    text = said(film, "--size", "32", "--frames", "all")
    assert f"film.mp4, cut to 32×32 pixels, all {FRAMES} frames" in text
    assert "5 steps of 8, 7, 7, … new frames" in text
    assert "receptive field 19 frames" in text
    assert f"0 of {FRAMES} feature frames, by arithmetic alone" in text
    assert "an output looks 9 frames ahead, a step has 8" in text
    # The last word is of the exact stream.
    zero, wait = text.index("future='zero': every step"), text.index("future='wait': the exact")
    assert zero < wait < text.index(f"Exact: {FRAMES} of {FRAMES} feature frames. In 5 steps, ")
    assert text.endswith(
        "the features and logits equal those of the forward over the whole video, up to float32 "
        "rounding. The figure: pgt_fx_demo.png"
    )
    assert Path("pgt_fx_demo.png").read_bytes().startswith(b"\x89PNG")


def test_longer_steps_have_exact_frames(film: Path) -> None:
    text = said(film, "--size", "32", "--model", "c2d_r50", "--frames", "11", "--length", "4")
    assert "the first 11 of 36 frames" in text and "4 steps of 4, 3, 3, … new frames" in text
    assert "of 5 feature frames, by arithmetic alone" in text and "on those" in text


#: Scores of single frames, and videos: the demo is about one answer to a clip.
DENSE = ("frame-wise", "VAE")


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [n for n in zoo.names() if zoo.get(n).family not in DENSE or n == "resnet18_mean"],
)
def test_every_backbone(film: Path, name: str) -> None:
    found = demo.run(name, video=film, size=32, frames="all", length=4)
    assert found.ok, found
    assert found.used == FRAMES


def test_squeeze_excitation_is_told(film: Path) -> None:
    text = said(film, "--size", "32", "--model", "x3d_xs", "--frames", "8", "--length", "4")
    assert "not the model's own" in text and "strict=False" in text
    assert "Exact: 8 of 8 feature frames" in text
    assert "the features equal those of the forward over the whole video" in text


def test_a_model_with_no_exact_stream_is_told_so() -> None:
    found = findings(promised=False, features_error=0.6, errors_waiting=[0.0, 0.6])
    found.report = SimpleNamespace(exact=False, inexact=[SimpleNamespace(what="softmax")])
    console = Console(file=io.StringIO(), width=200)
    for part in _waiting(found):
        console.print(part)
    text = console.file.getvalue()
    assert found.ok and "Exact: 1 of 2 feature frames. No exact stream is promised" in text
    assert "NOT" not in text and "no exact stream" in demo_figure._verdict(found)
    found.promised = True
    assert not found.ok and "are NOT" in demo_figure._verdict(found)


def test_an_answer_along_time_is_that_of_all_steps(film: Path) -> None:
    text = said(film, "--size", "32", "--model", "vae_causal_encoder", "--frames", "20")
    assert "of all steps from the forward over the whole video" in text
    assert "the features and logits equal those of the forward" in text


def test_a_model_of_other_than_colours_is_refused(film: Path) -> None:
    result = called(film, "--model", "vae_causal_decoder")
    output = " ".join(result.output.split())
    assert result.exit_code == 2 and "vae_causal_decoder takes 4 channels" in output
    assert "decoding" not in output


def test_fewer_frames_than_a_clip_has(film: Path) -> None:
    result = CliRunner().invoke(app, ["demo", "--video", str(film), "--frames", "3"])
    output = " ".join(result.output.split())
    assert result.exit_code == 2 and "takes clips of 8" in output and "got 3" in output
    assert "decoding" not in output
    for frames in ("some", True, 7):
        with pytest.raises(OptionError, match=r"frames: .* from 8 on, or 'all', got"):
            demo.run("slow_r50", video=film, frames=frames)


def test_the_last_frame_of_a_short_video_is_repeated(tmp_path: Path) -> None:
    path = films.encode(tmp_path / "short.mp4", films.drifting(5))
    text = said(path, "--size", "32", "--length", "4")
    assert "short.mp4, cut to 32×32 pixels, its last frame repeated 3 times, all 8 frames" in text


def test_two_paths_share_the_frames() -> None:
    video = torch.arange(16.0).reshape(1, 16, 1, 1).expand(3, -1, -1, -1)
    slow, fast = demo.as_paths(video, (2, 8))
    assert slow[0, 0, :, 0, 0].tolist() == [0, 4, 8, 12]
    assert fast[0, 0, :, 0, 0].tolist() == list(range(16))
    slow, fast = demo.shortened([slow, fast], 8, (2, 8))
    assert slow.shape[2] == 2 and fast.shape[2] == 8


def test_the_model_is_tapped_not_changed() -> None:
    model = zoo.build("slow_r50", space=32)
    tap = demo.last_module(zoo.features("slow_r50", model))
    tapped = demo.with_features(model, tap)
    clip = zoo.clip("slow_r50", space=32)
    with torch.no_grad():
        features, logits = tapped(clip)
        assert torch.equal(logits, model(clip))
        assert torch.equal(features, zoo.features("slow_r50", model)(clip))
    assert tapped.state_dict().keys() == model.state_dict().keys()
    assert not any(m._forward_hooks for m in model.modules())


def test_a_video_that_is_too_long_is_cut() -> None:
    cheap, free = Pass([], [0.08], 8e6), 16e9
    assert demo_size.affordable(cheap, 250, 8, 1, 60, free) == (250, "")
    used, why = demo_size.affordable(Pass([], [0.8], 8e6), 250, 8, 1, 40, free)
    assert used == 128 and "would take 75 s, and 40 s are left" in why
    used, why = demo_size.affordable(Pass([], [8.0], 8e6), 250, 8, 1, 60, free)
    assert 16 <= used < 250 and "12 minutes" in why
    used, why = demo_size.affordable(Pass([], [0.08], 8e9), 250, 8, 4, 60, free)
    assert 16 <= used < 250 and used % 4 == 0 and "GB" in why
    used, why = demo_size.affordable(cheap, 250, 8, 1, 60, 0.2e9)
    assert used == 120 and "0.2 GB of 0.2 GB that are free" in why
    assert demo_size.affordable(cheap, 250, 8, 1, -5, free)[0] == 16


def test_the_memory_of_a_container_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo_size, "_CGROUP", tmp_path)
    machine = demo_size.free_memory()
    (tmp_path / "memory.max").write_text("100000000\n")
    (tmp_path / "memory.current").write_text("40000000\n")
    assert demo_size.free_memory() == 6e7
    (tmp_path / "memory.max").write_text("max\n")
    assert demo_size.free_memory() == pytest.approx(machine, rel=0.5)


def test_the_size_is_small_unless_asked_for() -> None:
    entry = zoo.get("slow_r50")
    assert demo_size.space_of(entry, None, False) == 64
    assert demo_size.space_of(entry, None, True) == entry.space == 224
    assert demo_size.space_of(entry, 96, True) == 96


@pytest.mark.parametrize(("alone", "together", "chosen"), [(2.0, 1.0, 4), (1.0, 2.0, 1)])
def test_the_quicker_number_of_threads_is_used(
    alone: float, together: float, chosen: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr(demo_size.time, "process_time", lambda: clock[0])
    tried: list[int] = []

    def run() -> Pass:
        tried.append(torch.get_num_threads())
        took = alone if tried[-1] == 1 else together
        clock[0] += took
        return Pass([], [took], None)

    assert demo_size.fastest(run, 4).seconds == [min(alone, together)]
    assert torch.get_num_threads() == chosen and set(tried) == {1, 4}
    # A machine on which others work: a run takes twice its own time.
    monkeypatch.setattr(demo_size.time, "process_time", lambda: clock[0] / 2)
    tried.clear()
    demo_size.fastest(run, 4)
    assert torch.get_num_threads() == 1 and set(tried) == {1}


def test_memory_is_seen() -> None:
    pytest.importorskip("psutil")
    with demo.PeakMemory() as peak:
        held = mmap.mmap(-1, 120_000_000)  # new pages, whatever the allocator has kept
        held.write(bytes(120_000_000))
        time.sleep(0.05)
    assert peak.bytes is not None and peak.bytes > 6e7
    before = demo_size.resident()
    assert before is not None
    with demo.PeakMemory(before - 5e7) as peak:
        pass
    assert peak.bytes is not None and peak.bytes > 4e7  # what was held at the start counts


# ---- what is said on the way, and the figure ---------------------------------------------------


def test_it_says_what_it_does_before_torch_is_imported(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise SystemExit('torch is imported')")
    done = subprocess.run(
        [sys.executable, "-c", "from pgt_fx.cli import main; main()", "demo"],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    said = " ".join(done.stderr.split())
    assert said.startswith("pgt-fx demo: a sample video through slow_r50, an unchanged backbone")
    assert (
        "up to a minute" in said and "0 s importing torch pgt-fx: error: torch is imported" in said
    )


def test_elsewhere_than_on_a_terminal_it_writes_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("pgt_fx.cli.demo.talk.time.monotonic", lambda: now[0])
    file = io.StringIO()
    talk = Talk(Console(file=file))
    with talk.stage("decoding") as stage:
        for done in range(1, 5):
            now[0] += 2
            stage(done, 10)
    with talk.stage("drawing"):
        pass
    lines = [" ".join(line.split()) for line in file.getvalue().splitlines()]
    assert lines == ["0 s decoding", "6 s decoding: 3 of 10", "8 s drawing"]


def test_on_a_terminal_bars_move() -> None:
    file = io.StringIO()
    talk = Talk(Console(file=file, force_terminal=True, width=100, color_system=None))
    with talk.stage("decoding") as stage:
        stage(3)
        stage(3, 10)
        stage(9)
    with talk.stage("building"):
        pass
    text = file.getvalue()
    assert "9 of 10" in text and "building" in text and "/?" not in text


def test_every_pass_tells_how_far_it_is(film: Path) -> None:
    told: dict[str, list[tuple[int, int | None]]] = {}

    class Recorded(Talk):
        @contextmanager
        def stage(self, what: str, of: int | None = None) -> Iterator[Stage]:
            yield lambda done, of=None: told.setdefault(what, []).append((done, of))

    demo.run(video=film, size=32, frames="all", talk=Recorded())
    assert [done for done, _ in told["decoding the video"]][-1] == FRAMES
    for way in ("answering at once", "the exact stream"):
        assert told[f"step by step, {way}"] == [(0, 5)] + [(n, None) for n in range(1, 6)]
    layers = told["the whole video in one forward"]
    assert layers[-1] == (len(layers), len(layers)) and len(layers) > 50


@pytest.mark.parametrize("option", ["--figure", "--output"])
def test_the_figure_goes_where_it_is_asked_for(film: Path, tmp_path: Path, option: str) -> None:
    pytest.importorskip("matplotlib")
    args = ("--size", "32", "--frames", "24", option, str(tmp_path / "shown.svg"))
    assert "shown.svg" in said(film, *args)
    svg = (tmp_path / "shown.svg").read_text()
    for words in (
        "slow_r50, 24 frames in 4 steps: the features of the exact stream are the whole",
        "the exact stream, late by its look-ahead",
        "below this line: equal up to float32 rounding",
        "the whole video in one forward",
        "frame 23",
    ):
        assert words in svg, words
    assert not Path("pgt_fx_demo.png").exists()


def test_the_curves_are_the_differences() -> None:
    pytest.importorskip("matplotlib")
    found = findings(errors_waiting=[1e-6, 0.0], errors_at_once=[1e-3, 0.5])
    axes = demo_figure.draw(found).subfigs[1].axes[0]
    curves = {line.get_label().split(":")[0]: list(line.get_ydata()) for line in axes.lines[:2]}
    assert curves == {"future='zero'": [1e-3, 0.5], "future='wait'": [1e-6, demo_figure.LEAST]}
    found.features_error = 0.5
    assert "are NOT the whole video's" in demo_figure.draw(found).get_suptitle()


def findings(**changes: Any) -> Findings:
    one = Pass([], [0.2, 0.1], 1e6)
    report = SimpleNamespace(exact=True)
    values = {"features_error": 1e-6, "logits_error": 1e-7, **changes}
    return Findings(
        "net", "film", 2, 2, "", "", [1], [1, 1], report, 0, one, one, one, "", **values
    )


def test_what_can_not_be_written_is_told_first(film: Path, tmp_path: Path) -> None:
    for name, why in (("shown.doc", "expected a file name"), ("none/x.png", "there is no folder")):
        result = called(film, "--figure", str(tmp_path / name))
        assert result.exit_code == 2 and why in " ".join(result.output.split())
        assert "decoding" not in result.output


@pytest.mark.parametrize("asked", [(), ("--figure", "x.png")])
def test_findings_are_printed_though_the_figure_could_not_be_written(
    film: Path, monkeypatch: pytest.MonkeyPatch, asked: tuple[str, ...]
) -> None:
    pytest.importorskip("matplotlib")

    def full(*args: Any) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(demo_figure, "save", full)
    # What a pass over a video gives is not asked for here.
    monkeypatch.setattr(demo, "run", lambda *args, **options: Shown())
    result = called(film, *asked)
    assert "the findings" in result.stdout
    assert result.exit_code == (2 if asked else 0)
    assert "No space left on device" in (result.stderr if asked else result.stdout)


class Shown:
    """Findings whose text is short."""

    ok = True

    def __rich__(self) -> str:
        return "the findings"


@pytest.mark.parametrize("count", ["0", "-1", "²", "some"])
def test_a_number_of_frames_that_makes_no_sense(film: Path, count: str) -> None:
    result = called(film, "--frames", count)
    assert result.exit_code == 2
    assert f"--frames {count}: expected a number from 1 on, or 'all'" in result.output


def test_without_matplotlib_there_is_a_demo_and_no_figure(
    film: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    text = said(film, "--size", "32", "--frames", "16")
    assert "Exact: 16 of 16" in text and "pip install 'pgt_fx[plot]'" in text
    assert "The figure:" not in text
    assert called(film, "--figure", "x.png").exit_code == 2
