"""``pgt-fx train``: from folders of encoded videos to a checkpoint, and what it refuses."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from textwrap import dedent

import films
import pytest
import torch
from typer.testing import CliRunner

from pgt_fx import Schedule, video
from pgt_fx.cli import app
from pgt_fx.cli.train_job import _sample
from pgt_fx.training.config import ConfigError, read_config
from pgt_fx.training.folder import FolderError, VideoFolder, VideoLoader, as_model_takes_it

FACTORY = '''
import torch
from torch import nn


def build():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv3d(3, 4, (3, 3, 3), padding=1), nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten(),
        nn.Linear(4, 2),
    )
    return net, torch.zeros(1, 3, 4, 16, 16)


class TwoPaths(nn.Module):
    def __init__(self):
        super().__init__()
        self.slow, self.fast, self.head = nn.Conv3d(3, 4, 1), nn.Conv3d(3, 4, 1), nn.Linear(8, 2)

    def forward(self, paths):
        both = [f(x).relu().mean((2, 3, 4)) for f, x in zip((self.slow, self.fast), paths)]
        return self.head(torch.cat(both, 1))


def two_paths():
    return TwoPaths(), [torch.zeros(1, 3, 2, 16, 16), torch.zeros(1, 3, 8, 16, 16)]


def strict():
    """Takes videos of one size, and steps of 2 frames at least."""
    net = nn.Sequential(
        nn.Conv3d(3, 4, (2, 16, 16)), nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten(),
        nn.Linear(4, 2),
    )
    return net, torch.zeros(1, 3, 4, 16, 16)
'''


def encode(path: Path, frames: int, shade: int) -> None:
    """A video of ``frames`` frames of 24 x 20 that get brighter."""
    path.parent.mkdir(parents=True, exist_ok=True)
    films.encode(path, [films.grey(min(255, shade + 6 * i), 20, 24) for i in range(frames)])


@pytest.fixture()
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for part in ("train", "held_out"):
        for name, shade in (("dark", 0), ("light", 120)):
            for i in range(2):
                encode(tmp_path / part / name / f"{i}.mp4", 22, shade + 4 * i)
    (tmp_path / "own_model.py").write_text(FACTORY)
    config(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def config(folder: Path, extra: str = "", **replaced: str) -> Path:
    text = dedent(
        """
        [model]
        operator = "cmco-max"
        pooling = "markov"
        [schedule]
        kind = "DPR-B"
        length = 4
        steps = 3
        [data]
        train = "train"
        validation = "held_out"
        stride = 2
        size = 16
        batch = 2
        workers = 0
        [optim]
        lr = 0.1
        epochs = 2
        [run]
        seed = 3
        """
    )
    for old, new in replaced.items():
        text = text.replace(*new.split(" -> ")) if old else text
    path = folder / "config.toml"
    path.write_text(text + extra)
    return path


def run(*arguments: str) -> tuple[int, str]:
    found = CliRunner().invoke(app, ["train", *arguments])
    if found.exception is not None and not isinstance(found.exception, SystemExit):
        raise found.exception
    return found.exit_code, found.output


def test_from_videos_to_a_checkpoint(project: Path) -> None:
    code, said = run("config.toml", "--model", "own_model:build", "--dry-run")
    assert code == 0 and not (project / "checkpoint.pt").exists()
    assert "5 steps of 3" in said and "3 steps of 4" in said and "10 frames" in said
    assert "4 videos, 2 classes" in said
    code, said = run("config.toml", "--model", "own_model:build")
    assert code == 0, said
    assert "epoch 2: loss" in said and "val_top1" in said
    assert torch.load(project / "checkpoint.pt", weights_only=True)["history"][1]["updates"] == 4
    code, said = run("config.toml", "--model", "own_model:build", "--resume")
    assert code == 0 and "epoch 2: loss" in said  # nothing was left to do


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("lr = 0.1", "learning_rate = 0.1", "[optim] learning_rate: unknown key"),
        ("lr = 0.1", "zz = 0.1", "[optim] zz: unknown key. There are: lr, momentum"),
        ("batch = 2", "short = 'no'", "[data] short: expected one of repeat, refuse, got 'no'"),
        ("batch = 2", "short = 1", "[data] short: expected str, got int 1"),
        ("steps = 3", "stepps = 3", "did you mean 'steps'?"),
        ("length = 4", "length = 'long'", "[schedule] length: expected int, got str 'long'"),
        ("DPR-B", "DPR-C", "[schedule] kind: expected one of fixed, DPR-A, DPR-B, got 'DPR-C'"),
        ("cmco-max", "cmco-min", "operator: expected one of mco, cmco-avg, cmco-max, pmco"),
        ('"train"', '"videos"', "no folder of videos"),
        ("[run]", "[rum]", "[rum]: unknown key; did you mean 'run'?"),
        ("epochs = 2", "epochs = ", "can't be read as TOML"),
    ],
)
def test_a_config_that_is_wrong_says_where(project: Path, old: str, new: str, message: str) -> None:
    config(project, change=f"{old} -> {new}")
    code, said = run("config.toml", "--model", "own_model:build")
    assert code == 2
    assert message in " ".join(said.split()), said


#: A line of the config in place of another, and the one line that says what is wrong with it.
NUMBERS = [
    ("lr = 0.1", "lr = 0", "[optim] lr: expected a number above 0, got 0.0"),
    ("lr = 0.1", "lr = -0.1", "[optim] lr: expected a number above 0, got -0.1"),
    ("lr = 0.1", "lr = nan", "[optim] lr: expected a number above 0, got nan"),
    ("lr = 0.1", "lr = inf", "[optim] lr: expected a number above 0, got inf"),
    ("lr = 0.1", "lr = true", "[optim] lr: expected float, got bool True"),
    ("lr = 0.1", "lr = '0.1'", "[optim] lr: expected float, got str '0.1'"),
    ("lr = 0.1", "lr = 1\nmomentum = 1.5", "momentum: expected a number from 0 up to below 1, got"),
    (
        "lr = 0.1",
        "lr = 1\nweight_decay = -1",
        "weight_decay: expected a number from 0 on, got -1.0",
    ),
    ("lr = 0.1", "lr = 1\nwarm_up = 2", "warm_up: expected fewer epochs than epochs = 2, got 2"),
    ("lr = 0.1", "lr = 1\nwarm_up = -1", "warm_up: expected a number of epochs from 0 on, got -1"),
    ("lr = 0.1", "lr = 1\naccumulate = 0", "accumulate: expected at least 1, got 0"),
    ("lr = 0.1", "lr = 1\nkeep = 0", "[optim] keep: expected at least 1, got 0"),
    ("lr = 0.1", "lr = 1\nkeep = 2\ngradient = 'exact'", '[optim] keep: is for gradient = "trunc'),
    ("epochs = 2", "epochs = 0", "[optim] epochs: expected at least 1, got 0"),
    ("epochs = 2", "epochs = 2.0", "[optim] epochs: expected int, got float 2.0"),
    ("batch = 2", "batch = 0", "[data] batch: expected at least 1, got 0"),
    ("batch = 2", "batch = true", "[data] batch: expected int, got bool True"),
    ("workers = 0", "workers = -1", "[data] workers: expected at least 0, got -1"),
    ("stride = 2", "stride = 0", "[data] stride: expected at least 1, got 0"),
    ("size = 16", "size = -16", "[data] size: expected at least 1, got -16"),
    ("steps = 3", "steps = 0", "[schedule] steps: expected at least 1, got 0"),
    ("length = 4", "length = 0", "[schedule] length: expected at least 1, got 0"),
    ("steps = 3", "steps = 3\noverlap = 4", "overlap: expected less than length = 4, got 4"),
    ("steps = 3", "steps = 3\noverlap = 2", "[schedule] lengths: expected whole numbers above"),
    ("steps = 3", "steps = 3\norder = 'x'", "order: expected one of random, cycle, got 'x'"),
    ("seed = 3", "seed = -3", "[run] seed: expected a whole number from 0 up to below 2^63, got"),
    ("seed = 3", "threads = -1", "[run] threads: expected a whole number from 0"),
    ("seed = 3", "device = 'warp'", "[run] device: 'warp' can't be used here"),
    ("seed = 3", "checkpoint = 'no/c.pt'", "there is no folder"),
    ("seed = 3", "checkpoint = 'config.toml'", "is the config itself"),
    ("seed = 3", "checkpoint = 'train'", "is a folder; expected a file"),
    (
        'kind = "DPR-B"\nlength = 4',
        'kind = "fixed"\nlength = 1\noverlap = 0',
        "a first step of T'=1 frame gives no output",
    ),
    ("size = 16", "size = 8", "Kernel size can't be greater than actual input size"),
]


@pytest.mark.parametrize(("old", "new", "message"), NUMBERS)
def test_every_number_is_checked_before_anything_is_trained(
    project: Path, old: str, new: str, message: str
) -> None:
    config(project, change=f"{old} -> {new}")
    before = sorted(project.rglob("*"))
    for more in ([], ["--dry-run"]):
        code, said = run("config.toml", "--model", "own_model:strict", *more)
        text = " ".join(said.split())
        assert code == 2 and message in text and "has" not in text.split(message)[0], said
    assert [p for p in sorted(project.rglob("*")) if "__pycache__" not in str(p)] == before


def test_all_that_is_wrong_is_told_at_once(project: Path) -> None:
    config(project, change="lr = 0.1 -> lr = -1\nmomentum = 2", two="batch = 2 -> bacth = 2")
    code, said = run("config.toml", "--model", "own_model:build", "--dry-run")
    assert code == 2 and "config.toml has 3 faults:" in said
    for part in ("bacth: unknown key; did you mean 'batch'?", "[optim] lr:", "[optim] momentum:"):
        assert part in said


def spoil(project: Path, what: str) -> None:
    if what == "torchmetrics":
        return
    if what == "truncated":
        path = project / "train" / "light" / "1.mp4"
        path.write_bytes(path.read_bytes()[:300])
    elif what == "no video":
        (project / "held_out" / "dark" / "0.mp4").write_text("no video")
        (project / "held_out" / "light" / "1.mp4").write_bytes(b"")
    elif what == "a class less":
        shutil.rmtree(project / "held_out" / "dark")
    elif what == "other classes":
        (project / "held_out" / "dark").rename(project / "held_out" / "dusky")
    elif what == "one class":
        shutil.rmtree(project / "train" / "dark")


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("torchmetrics", "metrics are torchmetrics', which is not installed: pip install"),
        ("truncated", "1 of 8 videos can't be read"),
        ("no video", "2 of 8 videos can't be read"),
        ("a class less", "lacks ['dark']"),
        ("other classes", "lacks ['dark'] and adds ['dusky']"),
        ("one class", "[data] train: expected at least 2 classes (folders of videos) in"),
    ],
)
def test_a_dry_run_sees_what_a_training_would_lack(
    project: Path, what: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(project, what)
    if what == "torchmetrics":
        monkeypatch.setitem(sys.modules, "torchmetrics", None)
    for more in (["--dry-run"], []):
        code, said = run("config.toml", "--model", "own_model:build", *more)
        assert code == 2 and message in " ".join(said.split()), said
    assert not (project / "checkpoint.pt").exists()


def test_a_resumed_run_is_the_same_or_says_what_differs(project: Path) -> None:
    def go(*more: str) -> tuple[int, str]:
        return run("config.toml", "--model", "own_model:build", *more)

    assert go()[0] == 0
    for change, message in (
        ("lr = 0.1 -> lr = 0.2", "[optim] lr was 0.1, and is now 0.2"),
        ("epochs = 2 -> epochs = 4", "[optim] epochs was 2, and is now 4"),
        ("stride = 2 -> stride = 1", "[data] stride was 2, and is now 1"),
        ("size = 16 -> size = 18", "[data] size was 16, and is now 18"),
        ("seed = 3 -> seed = 4", "[run] seed was 3, and is now 4"),
        ("batch = 2 -> batch = 4", "[data] batch was 2, and is now 4"),
    ):
        config(project, change=change)
        for more in ([], ["--dry-run"]):
            code, said = go("--resume", *more)
            assert code == 2 and message in " ".join(said.split()), said
            assert "--init" in said
    config(project, change="workers = 0 -> workers = 1", two='validation = "held_out" -> ')
    (project / "train").rename(project / "moved")
    config(project, change='train = "train" -> train = "moved"')
    code, said = go("--resume")
    assert code == 0, said
    encode(project / "moved" / "light" / "9.mp4", 22, 50)
    code, said = go("--resume", "--dry-run")
    assert code == 2 and "[data] train was 4 by name and size" in " ".join(said.split())
    config(project, change='train = "train" -> train = "moved"', two="lr = 0.1 -> lr = 0.01")
    saved = (project / "checkpoint.pt").read_bytes()
    code, said = go("--init", "checkpoint.pt")
    assert code == 2 and "checkpoint.pt is there already, and would be" in " ".join(said.split())
    assert (project / "checkpoint.pt").read_bytes() == saved
    (project / "checkpoint.pt").rename(project / "first.pt")
    code, said = go("--init", "first.pt")
    assert code == 0 and "epoch 2: loss" in said
    code, said = go("--init", "first.pt", "--resume")
    assert code == 2 and "give one of them" in said


def test_a_training_that_is_complete_is_told_so(project: Path) -> None:
    def go(*more: str) -> str:
        code, said = run("config.toml", "--model", "own_model:build", *more)
        assert code == 0, said
        return " ".join(said.split())

    assert go("--dry-run").endswith("the same command without --dry-run trains 2 epochs")
    assert "is complete" not in go()
    for more in ([], ["--dry-run"]):
        said = go("--resume", *more)
        assert "this training is complete" in said and "raise [optim] epochs" in said
        assert "has all of [optim] epochs = 2" in said and "trains" not in said
    # One that was stopped after its first epoch has the second before it.
    path = project / "checkpoint.pt"
    data = torch.load(path, weights_only=True)
    data["history"] = data["history"][:1]
    torch.save(data, path)
    assert go("--resume", "--dry-run").endswith("trains 1 of 2 epochs")


def test_nothing_in_a_config_is_executed(project: Path) -> None:
    sys.modules.pop("own_model", None)
    config(project, change='operator = "cmco-max" -> name = "own_model:build"')
    code, said = run("config.toml")
    # A module is named on the command line alone.
    assert code == 2 and "is not in the zoo" in " ".join(said.split())
    assert "own_model" not in sys.modules


def test_a_backbone_of_the_zoo_gets_a_head_for_the_classes(project: Path) -> None:
    pytest.importorskip("torchvision")
    config(project, change='operator = "cmco-max" -> name = "r3d_18"')
    code, said = run("config.toml")
    assert code == 0, said
    saved = torch.load(project / "checkpoint.pt", weights_only=True)["model"]
    assert saved["fc.weight"].shape == (2, 512)


def test_other_refusals(project: Path) -> None:
    code, said = run("missing.toml")
    assert code == 2 and "no config file missing.toml" in said
    with pytest.raises(ConfigError, match="expected a section"):
        (project / "c.toml").write_text("model = 3")
        read_config(project / "c.toml")
    other = FACTORY.replace("nn.Linear(4, 2)", "nn.Linear(4, 7)")
    (project / "another_model.py").write_text(other)
    code, said = run("config.toml", "--model", "another_model:build")
    assert code == 2 and "2 classes, but 4 of the model has 7 outputs" in " ".join(said.split())
    (project / "held_out" / "empty").mkdir()
    code, said = run("config.toml", "--model", "own_model:build")
    assert code == 2 and "holds no video" in said


def test_the_videos_of_a_folder(project: Path) -> None:
    how = {"frames": 4, "stride": 2, "size": 16}
    data = VideoFolder(project / "train", train=True, seed=5, **how)
    assert data.classes == ["dark", "light"] and len(data) == 4
    clip, label = data[2]
    assert clip.shape == (3, 4, 16, 16) and label == 1
    again = VideoFolder(project / "train", train=True, seed=5, **how)
    assert torch.equal(again[2][0], clip)
    starts = set()
    for epoch in range(12):
        data.set_epoch(epoch)
        starts.add(round(float(data[2][0].mean()), 3))
    assert len(starts) > 3, "each epoch draws anew"
    centre = VideoFolder(project / "train", train=False, **how)[0][0]
    assert torch.equal(centre, VideoFolder(project / "train", train=False, seed=9, **how)[0][0])
    steps = centre.mean((0, 2, 3)).diff()
    assert (steps > 0).all() and steps.max() / steps.min() < 2, "every second frame, in order"
    path = project / "train" / "dark" / "0.mp4"
    every = video.read(path, size=16)
    assert video.count(path) == every.shape[1] == 22
    some = video.read(path, size=16, start=3, stride=4, frames=3)
    assert torch.equal(some, every[:, [3, 7, 11]])
    with pytest.raises(video.VideoError, match="22 frames: none is left after the first 22"):
        video.read(path, size=16, start=22)
    long = VideoFolder(project / "train", train=False, **(how | {"frames": 30}))[0][0]
    assert long.shape[1] == 30 and torch.equal(long[:, -1], long[:, 11])  # 22 frames at stride 2
    with pytest.raises(FolderError, match="holds no folders"):
        VideoFolder(project / "train" / "dark", train=True, **how)


def test_a_model_of_two_paths_is_looked_at_too(project: Path) -> None:
    config(project, change="stride = 2 -> stride = 4", two="epochs = 2 -> epochs = 1")
    for more in (["--dry-run"], []):
        code, said = run("config.toml", "--model", "own_model:two_paths", *more)
        assert code == 0, said
    assert "epoch 1: loss" in said
    code, said = run("config.toml", "--model", "own_model:two_paths", "--dry-run")
    assert code == 2 and "would be overwritten" in said
    (project / "checkpoint.pt").unlink()
    config(project)
    code, said = run("config.toml", "--model", "own_model:two_paths", "--dry-run")
    assert code == 2 and "[data] stride: expected a multiple of 4" in said


def test_a_stride_is_that_of_the_slow_path(project: Path) -> None:
    how = {"frames": 1, "size": 16}
    data = VideoFolder(project / "train", train=True, stride=8, **how)
    _sample(data, None, Schedule(4, 3), (1, 4))
    assert (data.frames, data.stride) == (40, 2)
    data = VideoFolder(project / "train", train=True, stride=6, **how)
    with pytest.raises(ConfigError, match=r"\[data\] stride: expected a multiple of 4"):
        _sample(data, None, Schedule(4, 3), (1, 4))


def test_training_and_testing_read_by_one_rule(project: Path) -> None:
    """Of turned films, of two rates and too short, the centre is what ``video.read`` gives."""
    plain = project / "train" / "dark" / "0.mp4"
    films.encode(plain, [films.grey(20 + 4 * i, 20, 48) for i in range(40)], rate=20)
    films.with_matrix(plain, project / "train" / "dark" / "1.mp4", (0, 1, -1, 0))
    how = {"frames": 8, "stride": 2, "size": 16}
    data = VideoFolder(project / "train", train=False, fps=10, **how)
    path = data.items[0][0]
    assert video.count(path, fps=10) == 20
    every = video.read(path, size=16, fps=10)
    assert every.shape[2:] == (16, 38)
    assert torch.equal(data[0][0], every[:, 2:18:2, :, 11:27])  # (20 - 15) // 2 from the start
    turned = video.read(data.items[1][0], size=16, fps=10)
    assert turned.shape[2:] == (38, 16)
    assert torch.equal(data[1][0], turned[:, 2:18:2, 11:27])
    for train in (True, False):
        long = VideoFolder(project / "train", train=train, **(how | {"frames": 30}))[2][0]
        assert long.shape[1] == 30 and torch.equal(long[:, -1], long[:, 11])
        data = VideoFolder(project / "train", train=train, short="refuse", **(how | {"frames": 30}))
        with pytest.raises(video.VideoError, match=r"too short: expected 59 frames .*, got 22"):
            data[2]


def test_a_square_is_drawn_from_the_whole_frame(project: Path) -> None:
    path = project / "train" / "dark" / "0.mp4"
    image = films.grey(0, 16, 96)
    image[:, 48:] = 255
    films.encode(path, [image] * 4)
    data = VideoFolder(project / "train", train=True, frames=2, stride=1, size=16)
    seen = []
    for epoch in range(20):
        data.set_epoch(epoch)
        clip = data[0][0]
        assert clip.shape == (3, 2, 16, 16)
        seen.append(float(films.levels(clip)[0]))
    assert min(seen) < 5 and max(seen) > 250, "left and right of the frame, not its centre alone"


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_file_is_told_by_its_own_error(project: Path, workers: int) -> None:
    path = project / "train" / "light" / "1.mp4"
    path.write_bytes(path.read_bytes()[:-40])
    data = VideoFolder(project / "train", train=False, frames=4, stride=1, size=16)
    with pytest.raises(video.VideoError) as caught:
        list(VideoLoader(data, 2, num_workers=workers))
    assert caught.value.path == path
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_loader_gives_what_the_model_takes(project: Path) -> None:
    data = VideoFolder(project / "train", train=True, frames=8, stride=1, size=16)
    for (slow, fast), labels in VideoLoader(data, 2, ratio=(1, 4)):
        assert slow.shape == (2, 3, 2, 16, 16) and fast.shape == (2, 3, 8, 16, 16)
        assert torch.equal(slow, fast[:, :, ::4]) and labels.shape == (2,)
    loader = VideoLoader(data, 2)
    loader.dataset.set_epoch(3)  # as fit does
    assert data.epoch == 3


@pytest.mark.parametrize("workers", ["0", "1"])
def test_a_training_ends_with_the_name_of_a_broken_file(project: Path, workers: str) -> None:
    path = project / "train" / "light" / "1.mp4"
    path.write_bytes(b"no video" * 100)
    config(project, change=f"workers = 0 -> workers = {workers}")
    code, said = run("config.toml", "--model", "own_model:build")
    assert code == 2
    assert "1 of 8 videos can't be read" in said and "Traceback" not in said
    assert str(path) in said.replace("\n", "")


def test_time_and_short_videos_in_a_config(project: Path) -> None:
    config(project, change='stride = 2 -> stride = 2\nfps = 5\nshort = "refuse"')
    code, said = run("config.toml", "--model", "own_model:build")
    # 22 frames at 10 a second are 11; ten at stride 2 need 19
    assert code == 2 and "too short: expected 19 frames at 5 a second" in " ".join(said.split())
    config(project, change="stride = 2 -> stride = 1\nfps = 5.0")
    assert run("config.toml", "--model", "own_model:build")[0] == 0
    for line, message in (
        ("fps = -1.0", "[data] fps: expected a number above 0"),
        ('short = "pad"', "[data] short: expected one of repeat, refuse, got 'pad'"),
    ):
        config(project, change=f"stride = 2 -> stride = 2\n{line}")
        code, said = run("config.toml", "--model", "own_model:build")
        assert code == 2 and message in " ".join(said.split())


def test_two_paths_are_sampled_from_one_video() -> None:
    videos = torch.arange(16.0).reshape(1, 1, 16, 1, 1)
    slow, fast = as_model_takes_it(videos, (1, 4))
    assert slow.flatten().tolist() == [0, 4, 8, 12] and torch.equal(fast, videos)
    assert as_model_takes_it(videos, (1,)) is videos


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("stride = 2 -> stride = 2\nfps = 0.0", "[data] fps: expected a number above 0"),
        ('train = "train" -> train = "none"', "[data] train: no folder of videos"),
        ('"held_out" -> "train/dark"', "[data] validation: "),
        ("[model] -> [model]\npretrained = true", "[model] pretrained: is for models of the zoo"),
    ],
)
def test_the_key_that_is_wrong_is_named(project: Path, change: str, message: str) -> None:
    config(project, change=change)
    code, said = run("config.toml", "--model", "own_model:build", "--dry-run")
    assert code == 2 and message in " ".join(said.split()), said


def test_a_broken_video_is_told_with_the_key(project: Path) -> None:
    (project / "held_out" / "dark" / "0.mp4").write_bytes(b"nothing" * 99)
    code, said = run("config.toml", "--model", "own_model:build", "--dry-run")
    told = " ".join(said.split())
    assert code == 2 and "[data] validation: " in told, said
    assert told.count("dark/0.mp4") == 1 and "Errno" not in told  # once, and in words


def test_a_config_without_a_backbone(project: Path) -> None:
    code, said = run("config.toml", "--dry-run")
    told = " ".join(said.split())
    assert code == 2 and "[model] name: expected a name of the zoo, which pgt-fx zoo lists" in told
    config(project, change='[model] -> [model]\nname = "slow_r05"')
    told = " ".join(run("config.toml", "--dry-run")[1].split())
    assert "[model] name: no backbone 'slow_r05' in the zoo; did you mean slow_r50" in told
    assert len(told) < 400  # and not all 62


def test_a_model_that_takes_more_than_the_video(project: Path) -> None:
    (project / "own_model.py").write_text(
        """
import torch
from torch import nn


class Boxes(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv3d(3, 4, 1), nn.Linear(4, 2)

    def forward(self, x, boxes):
        return self.head(self.conv(x).mean((2, 3, 4))) + boxes.mean()


def build():
    return Boxes(), (torch.zeros(1, 3, 4, 16, 16), torch.zeros(2, 5))
"""
    )
    sys.modules.pop("own_model", None)
    code, said = run("config.toml", "--model", "own_model:build", "--dry-run")
    told = " ".join(said.split())
    assert code == 2 and "--model: own_model:build takes 1 tensor beside the video (boxes" in told
