"""Video files that can't be read: each is refused by one error that names it, or is no fault."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from films import boxes, drifting, encode, grey

from pgt_fx import video
from pgt_fx.core.errors import PgtError
from pgt_fx.inference.video.container import promised_size

av = pytest.importorskip("av")

COUNT = 40
X264 = "libx264"


def refused(path: Path, message: str) -> video.VideoError:
    """Every call refuses the file, and names it."""
    for call in (video.read, video.count, video.check):
        with pytest.raises(video.VideoError, match=message) as caught:
            call(path)
        assert str(path) in str(caught.value)
        assert caught.value.path == path and isinstance(caught.value, PgtError)
        assert "\n" not in str(caught.value)
    again = pickle.loads(pickle.dumps(caught.value))
    assert str(again) == str(caught.value) and again.path == path
    return caught.value


def test_missing_file(tmp_path: Path) -> None:
    refused(tmp_path / "nothing.mp4", r"no such video file.*nothing\.mp4")
    refused(tmp_path, "is a folder: expected a video file")
    refused(tmp_path / f"{300 * 'x'}.mp4", "can't be read: File name too long")
    refused(tmp_path / "null\0.mp4", "no such video file")


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = encode(tmp_path / "film.mp4", drifting(3))
    real = Path.open

    def forbidden(self: Path, *args: Any, **how: Any) -> Any:
        if self == path:
            raise PermissionError(13, "Permission denied", str(path))
        return real(self, *args, **how)

    monkeypatch.setattr(Path, "open", forbidden)
    refused(path, r"film\.mp4 can't be read: Permission denied")


def test_empty_file(tmp_path: Path) -> None:
    path = tmp_path / "empty.mp4"
    path.touch()
    refused(path, r"empty\.mp4 is empty")


@pytest.mark.parametrize("ending", ["mp4", "mkv", "avi"])
def test_not_a_video(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"text.{ending}"
    path.write_text("this is no video\n" * 50)
    refused(path, "text.* (can't be decoded|no frame could be decoded)")
    path.write_bytes(np.random.default_rng(0).bytes(5000))
    refused(path, "text.* (can't be decoded|no frame could be decoded|has no video stream)")


def sound(path: Path, codec: str = "pcm_s16le", cover: bool = False) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=8000)
        if cover:
            still = container.add_stream("mjpeg", rate=1)
            still.width, still.height, still.pix_fmt = 64, 48, "yuvj420p"
            still.disposition = av.stream.Disposition.attached_pic
            image = av.VideoFrame.from_ndarray(grey(90, 48, 64), format="rgb24")
            container.mux([*still.encode(image), *still.encode(None)])
        samples = np.zeros((1, 8000), dtype=np.int16)
        frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
        frame.sample_rate = 8000
        container.mux([*stream.encode(frame), *stream.encode(None)])
    return path


def test_no_video_stream(tmp_path: Path) -> None:
    refused(sound(tmp_path / "sound.wav"), r"no video stream: its streams are audio")
    refused(sound(tmp_path / "sound.mkv"), "no video stream")
    # The picture of an album is none.
    refused(sound(tmp_path / "song.mp4", "aac", cover=True), "no video stream")


def cut(path: Path, share: float) -> Path:
    data = path.read_bytes()
    out = path.with_name(f"cut{path.suffix}")
    out.write_bytes(data[: int(len(data) * share)])
    return out


FRONT = {"movflags": "faststart"}


@pytest.mark.parametrize("share", [0.3, 0.8, 0.995])
@pytest.mark.parametrize(
    ("name", "codec", "muxer"),
    [
        ("film.mkv", X264, {}),
        ("film.webm", "libvpx-vp9", {}),
        ("film.mp4", X264, {}),
        ("film.mp4", X264, FRONT),
        ("film.mp4", X264, {"movflags": "frag_keyframe+empty_moov"}),
        ("film.mov", "mpeg4", FRONT),
        ("film.avi", "mpeg4", {}),
    ],
)
def test_a_file_that_is_cut_short(
    tmp_path: Path, name: str, codec: str, muxer: dict[str, str], share: float
) -> None:
    whole = encode(tmp_path / name, drifting(COUNT), codec, options={"g": "8"}, muxer=muxer)
    assert promised_size(whole) is None
    video.check(whole)
    size, there = whole.stat().st_size, cut(whole, share).stat().st_size
    error = refused(cut(whole, share), r"cut\.\w+ (is cut short|can't be decoded)")
    if "faststart" in muxer.values() or name[-3:] in ("mkv", "ebm", "avi"):
        assert f"expected {size} bytes, as its headers say, got {there}" in str(error)


def test_sizes_that_are_not_known_or_too_small_are_no_fault(tmp_path: Path) -> None:
    live = encode(
        tmp_path / "live.mkv", drifting(COUNT), X264, muxer={"live": "1"}, options={"g": "8"}
    )
    assert video.count(live) == COUNT
    film = encode(tmp_path / "film.mp4", drifting(4))
    film.write_bytes(film.read_bytes() + b"something else behind the last box")
    assert video.count(film) == 4
    avi = encode(tmp_path / "film.avi", drifting(4))
    avi.write_bytes(avi.read_bytes() + b"\0" * 9)
    assert video.count(avi) == 4


def test_a_film_whose_last_box_reaches_to_the_end(tmp_path: Path) -> None:
    path = encode(tmp_path / "film.mp4", drifting(4), muxer=FRONT)
    data = bytearray(path.read_bytes())
    at = boxes(bytes(data), b"mdat") - 8
    data[at : at + 4] = bytes(4)
    path.write_bytes(data)
    assert video.count(path) == 4


@pytest.mark.parametrize(
    ("damage", "number"),
    [
        (lambda n: bytes([255]) * n, 20),
        (lambda n: bytes(n), 20),
        (lambda n: np.random.default_rng(1).bytes(n), 20),
    ],
)
def test_a_frame_that_is_damaged(
    tmp_path: Path, damage: Callable[[int], bytes], number: int
) -> None:
    path = encode(tmp_path / "film.mp4", drifting(COUNT), X264, options={"g": "8", "bf": "0"})
    with av.open(str(path)) as container:
        packets = [(p.pos, p.size) for p in container.demux(video=0) if p.size]
    data = bytearray(path.read_bytes())
    at, size = packets[number]
    data[at : at + size] = damage(size)
    path.write_bytes(data)
    message = rf"film\.mp4: frame {number}, 2\.000 s from the start, (can't be decoded|is damaged)"
    for start in (0, 9, number):
        with pytest.raises(video.VideoError, match=message) as caught:
            video.read(path, start=start)
        assert caught.value.path == path
    # What doesn't need it is there.
    assert video.read(path, size=48, start=32, frames=8).shape[1] == 8
    video.check(path)
