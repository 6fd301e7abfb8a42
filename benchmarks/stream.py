"""What do dense features of every frame of a long video cost, one way and another?

The net is stream_net.py: small enough for continual-inference to express, with the same weights in
every way. Compared are ``future="wait"`` in chunks of 8 and frame by frame, a window of 8 sliding
frame by frame, continual-inference (``forward_steps`` in chunks, ``forward_step``),
torchstream-lib in chunks, and the forward over the whole video at once. A package that is not
there leaves its row out, with the reason.

    pgt-fx bench stream
    pgt-fx bench stream --space 32 --frames 24 --width 0.25 --repeat 2
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from typing import Any

import stream_net
import torch
from harness import (
    digits,
    in_a_process,
    interleaved,
    one_line,
    parser,
    peak_bytes,
    prepare,
    process_bytes,
    ratio,
    save,
    show,
    spread,
)
from torch import Tensor, nn

import pgt_fx

CHUNK = WINDOW = 8
WAYS = {
    "wait, chunks of 8": CHUNK,
    "wait, frame by frame": 1,
    "continual-inference forward_steps, chunks of 8": CHUNK,
    "continual-inference forward_step": 1,
    "torchstream-lib, chunks of 8": CHUNK,
    "sliding window of 8": 1,
    "full forward": 0,
}
#: Everything is compared with this one; what hands a frame out as soon as it can, with the other.
OURS, OURS_AT_ONCE = "wait, chunks of 8", "wait, frame by frame"
Stream = Callable[[], Iterator[Tensor]]


def streams(net: nn.Sequential, video: Tensor) -> tuple[dict[str, Stream], dict[str, str]]:
    """Ways of getting the features of a video, as generators of pieces along time; and why
    others are missing."""
    missing: dict[str, str] = {}
    prog = pgt_fx.transform(net, video[:, :, :CHUNK], future="wait")
    out: dict[str, Stream] = {
        "wait, chunks of 8": lambda: _wait(prog, video, CHUNK),
        "wait, frame by frame": lambda: _wait(prog, video, 1),
        "sliding window of 8": lambda: _sliding(net, video),
        "full forward": lambda: iter([net(video)]),
    }
    try:
        co = stream_net.continual(net).to(video.device)  # its modules are made on the CPU
    except ImportError as error:
        missing["continual-inference"] = f"{error}; pip install continual-inference"
    else:
        out["continual-inference forward_steps, chunks of 8"] = lambda: _forward_steps(co, video)
        out["continual-inference forward_step"] = lambda: _forward_step(co, video)
    try:
        make = stream_net.torchstream(net, video.shape[-1])
    except ImportError as error:
        missing["torchstream-lib"] = f"{error}; pip install torchstream-lib colorama"
    else:
        out["torchstream-lib, chunks of 8"] = lambda: _torchstream(make, video)
    return {name: out[name] for name in WAYS if name in out}, missing


def _wait(prog: pgt_fx.Progressive, video: Tensor, chunk: int) -> Iterator[Tensor]:
    prog.reset()
    pieces = video.split(chunk, 2)
    for number, piece in enumerate(pieces):
        out = prog(piece, last=number == len(pieces) - 1)
        if out is not None:
            yield out


def _sliding(net: nn.Module, video: Tensor) -> Iterator[Tensor]:
    """One window per frame; of each the element that has all it reads inside, as early as can be.

    The first and the last window give the features at the ends too, which see the same padding.
    """
    at, end = WINDOW - 1 - stream_net.LOOK_AHEAD, video.shape[2] - WINDOW
    for start in range(end + 1):
        out = net(video[:, :, start : start + WINDOW])
        yield out[:, :, 0 if start == 0 else at : WINDOW if start == end else at + 1]


def _forward_steps(co: Any, video: Tensor) -> Iterator[Tensor]:
    co.clean_state()
    for piece in video.split(CHUNK, 2):
        out = co.forward_steps(piece)
        if out is not None:
            yield out


def _forward_step(co: Any, video: Tensor) -> Iterator[Tensor]:
    co.clean_state()
    for frame in video.unbind(2):
        out = co.forward_step(frame)
        if isinstance(out, Tensor):
            yield out.unsqueeze(2)


def _torchstream(make: Callable[[], Any], video: Tensor) -> Iterator[Tensor]:
    stream, pieces = make(), video.split(CHUNK, 2)
    for number, piece in enumerate(pieces):
        last = number == len(pieces) - 1
        out = stream(piece, is_last_input=last, allow_zero_size_outputs=True)
        if out.size:
            yield out.data[0]


def consume(stream: Stream) -> None:
    """Run a stream to its end; what it gives is dropped, as whoever uses it at once does."""
    with torch.inference_mode():
        for piece in stream():
            del piece


def failing(work: dict[str, Stream]) -> dict[str, str]:
    """Ways of other packages that don't run here (on this device), and why: they must not cost the
    other rows."""
    found: dict[str, str] = {}
    for name, stream in work.items():
        if name.startswith(("continual", "torchstream")):
            try:
                consume(stream)
            except Exception as error:
                found[name] = one_line(error)
    return found


def agreement(work: dict[str, Stream]) -> dict[str, dict[str, Any]]:
    """How far each way's features are from those of the full forward, frame by frame."""
    with torch.inference_mode():
        full = torch.cat(list(work["full forward"]()), 2)
        found = {}
        for name, stream in work.items():
            given = torch.cat(list(stream()), 2)
            count = given.shape[2]
            error = (given - full[:, :, :count]).abs().max() / full.abs().max()
            found[name] = {"features": count, "max_error": digits(float(error))}
            if count < full.shape[2]:
                # No call ends its stream: the last look-ahead is not handed out.
                found[name]["note"] = f"the last {full.shape[2] - count} frames are not given"
    return found


def video_of(options: argparse.Namespace) -> Tensor:
    generator = torch.Generator().manual_seed(options.seed)
    shape = (1, 3, options.frames, options.space, options.space)
    return torch.randn(shape, generator=generator).to(options.device)


def one(name: str, options: argparse.Namespace) -> dict[str, int]:
    """Peaks of one way, in a process of its own."""
    net = stream_net.build(options.width, options.seed).to(options.device)
    work, _ = streams(net, video_of(options))
    tensors = peak_bytes(lambda: consume(work[name]), options.device)
    before = process_bytes()
    consume(work[name])
    return {"tensor_bytes": tensors, "process_bytes": max(before, process_bytes())}


def main() -> None:
    cli = parser(__doc__, "stream", repeat=5)
    cli.add_argument("--space", type=int, default=112)
    cli.add_argument("--frames", type=int, default=256)
    cli.add_argument("--width", type=float, default=1.0, help="factor on the net's channels")
    options = cli.parse_args()
    prepare(options)
    if options.one is not None:
        given = json.loads(options.one)
        print(json.dumps(one(given.pop("way"), argparse.Namespace(**given))))
        return
    net, video = stream_net.build(options.width, options.seed), video_of(options)
    work, missing = streams(net.to(options.device), video)
    failed = failing(work)
    work, missing = {k: v for k, v in work.items() if k not in failed}, missing | failed
    sides = {name: lambda s=stream: consume(s) for name, stream in work.items()}
    seconds = interleaved(sides, options.repeat, device=options.device)
    agrees = agreement(work)
    rows = []
    for name in work:
        if options.device == "cpu":
            given = {k: v for k, v in vars(options).items() if k not in ("one", "out")}
            peaks = in_a_process(__file__, {"way": name, **given})
        else:
            peaks = {"tensor_bytes": peak_bytes(sides[name], options.device)}
        per_frame = [s / options.frames for s in seconds[name]]
        # The full forward has seen all frames before it gives the first.
        waits = options.frames - 1 if name == "full forward" else stream_net.LOOK_AHEAD
        chunk = WAYS[name] or options.frames
        row = {
            "way": name,
            "seconds_per_frame": spread(per_frame),
            "frames_per_second": digits(1 / spread(per_frame)["median"]),
            # A frame that opens a chunk waits for the rest of it, and for its look-ahead.
            "latency_frames": waits if name == "full forward" else waits + chunk - 1,
            "latency_seconds_of_compute": digits(spread(per_frame)["median"] * chunk),
            "ours_over_this": ratio(seconds, OURS, name),
            # At the same latency; the full forward's is that of no stream.
            "ours_alike_over_this": ratio(seconds, OURS_AT_ONCE if chunk == 1 else OURS, name),
            **peaks,
            **agrees[name],
        }
        rows.append(row)
    save("stream", options, rows, net=stream_net.__doc__, missing=missing)
    show_rows(rows)
    for name, reason in missing.items():
        print(f"left out: {name}: {reason}")


def show_rows(rows: list[dict[str, Any]]) -> None:
    columns = (
        "way",
        "ms/frame",
        "frames/s",
        "ours/this",
        "at its latency",
        "peak MB",
        "latency, frames",
        "max error",
    )
    lines = [
        (
            row["way"],
            1e3 * row["seconds_per_frame"]["median"],
            row["frames_per_second"],
            row["ours_over_this"]["median"],
            row["ours_alike_over_this"]["median"],
            row["tensor_bytes"] / 1e6 if "tensor_bytes" in row else row.get("error"),
            row["latency_frames"],
            row["max_error"],
        )
        for row in rows
    ]
    show("dense features of a stream", columns, lines)


if __name__ == "__main__":
    main()
