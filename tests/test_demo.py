"""pgt-fx demo: the main job on a small video, through the command line."""

from __future__ import annotations

from pathlib import Path

import films
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from pgt_fx import demo, zoo
from pgt_fx.cli import app
from pgt_fx.demo_story import Pass

pytest.importorskip("pytorchvideo")

FRAMES = 36


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noise that drifts: no two frames alike."""
    path = tmp_path_factory.mktemp("demo") / "film.mp4"
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 255, (6, 80, 3), dtype=np.uint8).repeat(16, 0)
    return films.encode(path, [np.roll(picture, 7 * i, 1) for i in range(FRAMES)])


def said(film: Path, *args: str) -> str:
    result = CliRunner().invoke(
        app, ["demo", "--video", str(film), *args], env={"COLUMNS": "200", "TERM": "dumb"}
    )
    assert result.exit_code == 0, result.output
    return " ".join(result.stdout.split())


def test_the_main_job(film: Path) -> None:
    text = said(film, "--size", "32")
    assert f"film.mp4, cut to 32×32 pixels, all {FRAMES} frames" in text
    assert "5 steps of 8, 7, 7, … new frames" in text
    assert "receptive field 19 frames" in text
    assert "equal up to float32 rounding" in text
    assert f"0 of {FRAMES} feature frames, by arithmetic alone" in text
    assert "an output looks 9 frames ahead, a step has 8" in text


def test_longer_steps_have_exact_frames(film: Path) -> None:
    text = said(film, "--size", "32", "--model", "c2d_r50", "--frames", "11", "--length", "4")
    assert "all 11 frames" in text and "4 steps of 4, 3, 3, … new frames" in text
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
    assert "equal up to float32 rounding" in text


def test_a_video_shorter_than_a_clip(film: Path) -> None:
    result = CliRunner().invoke(app, ["demo", "--video", str(film), "--frames", "3"])
    assert result.exit_code == 2 and "takes clips of 8" in " ".join(result.output.split())


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
    cheap = Pass([], [0.08], 8e6)
    assert demo.affordable(cheap, 250, 8, 1) == (250, "")
    used, why = demo.affordable(Pass([], [8.0], 8e6), 250, 8, 1)
    assert 16 <= used < 250 and "minutes" in why
    used, why = demo.affordable(Pass([], [0.08], 8e9), 250, 8, 4)
    assert 16 <= used < 250 and used % 4 == 0 and "GB" in why


def test_memory_is_seen() -> None:
    pytest.importorskip("psutil")
    with demo.PeakMemory() as peak:
        held = torch.ones(30_000_000)
        held += 1
    assert peak.bytes is not None and peak.bytes > 6e7
