"""How much the demo uses: threads, and as many frames as time and memory allow."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from pgt_fx.cli.demo.story import Pass

#: What the whole video in one forward may take, in bytes.
MEMORY = 10e9
#: Seconds of the whole demo, and of one with ``--full``.
SECONDS, FULL_SECONDS = 60.0, 600.0
#: Of these, seconds for what comes after the passes over the video: report and figure.
AFTERWARDS = 8.0
#: Height and width of the frames and how many there are at most, unless asked for otherwise.
SPACE, FRAMES = 64, 96

#: Times as long as its processor time that a run takes on a busy machine.
BUSY = 1.5

_CGROUP = Path("/sys/fs/cgroup")


class PeakMemory:
    """Greatest resident memory of this process while the block runs.

    Sampled every few milliseconds by a thread; a peak shorter than that is missed.

    Args:
        beyond: bytes to count from; None: what is held at the start. What an allocator kept of an
            earlier block is found again by a later one: blocks that are to be compared count from
            one number, taken before the first.

    Attributes:
        bytes: the peak beyond that; None without psutil.
    """

    def __init__(self, beyond: float | None = None) -> None:
        self.bytes: float | None = None
        self.beyond = beyond
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> PeakMemory:
        start = resident()
        if start is None:
            return self
        base = start if self.beyond is None else self.beyond
        self.bytes = max(0.0, start - base)

        def sample() -> None:
            while not self._stop.wait(0.005):
                self.bytes = max(self.bytes or 0.0, (resident() or 0.0) - base)

        self._thread = threading.Thread(target=sample, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._thread is not None:
            self._stop.set()
            self._thread.join()


def resident() -> float | None:
    """Bytes of resident memory of this process; None without psutil."""
    try:
        import psutil
    except ModuleNotFoundError:
        return None
    return float(psutil.Process().memory_info().rss)


def space_of(entry: Any, size: int | None, full: bool) -> int:
    """Height and width of the frames: as asked for, else small, or the model's own."""
    if size is not None:
        return size
    return entry.space if full or entry.fixed_space else min(SPACE, entry.space)


def fastest(run: Callable[[], Pass], threads: int) -> Pass:
    """The quicker of two runs, on one thread and on ``threads``; as many are used from then on.

    Where others work on the machine as well, threads that wait for each other are slower than one
    by far: on a busy one more are not tried.

    Args:
        run: one forward, timed by what it returns.
    """
    torch.set_num_threads(1)
    run()  # the first call of all prepares things
    before = time.process_time()
    one = run()
    busy = one.seconds[0] > BUSY * (time.process_time() - before)
    if threads == 1 or busy:
        return one
    torch.set_num_threads(threads)
    run()
    all_of_them = run()
    if all_of_them.seconds[0] < one.seconds[0]:
        return all_of_them
    torch.set_num_threads(1)
    return one


def affordable(
    probe: Pass, frames: int, clip: int, alpha: int, seconds: float, free: float
) -> tuple[int, str]:
    """How much of a video three passes over it can afford, judged from the forward over one clip.

    Args:
        probe: that forward.
        frames: of the video.
        clip: frames of the clip.
        alpha: the result is a multiple of it.
        seconds: there are, for the three passes.
        free: bytes of memory there are.

    Returns:
        frames, two clips at least, and why not all ("" where they are).
    """
    each = 3 * probe.seconds[0] / clip
    took = each * frames
    takes = f"{took / 60:.0f} minutes" if took >= 120 else f"{took:.0f} s"
    limits = {
        f"three passes over all of it would take {takes}, and {max(seconds, 0):.0f} s are left": (
            seconds / each
        )
    }
    if probe.memory:
        per_frame = probe.memory / clip
        limits[
            f"one forward over all of it would take about {per_frame * frames / 1e9:.1f} GB of "
            f"{free / 1e9:.1f} GB that are free"
        ] = min(MEMORY, 0.6 * free) / per_frame
    why, most = min(limits.items(), key=lambda pair: pair[1])
    if most >= frames:
        return frames, ""
    used = max(2 * clip, int(most) // 8 * 8)
    used = min(frames, used - used % alpha)
    return used, f"{why}; --frames all takes all of it nevertheless"


def free_memory() -> float:
    """Bytes that this process may still take: of the machine, or of its container if less."""
    free = _of_the_machine()
    try:
        limit = (_CGROUP / "memory.max").read_text().strip()
        used = float((_CGROUP / "memory.current").read_text())
    except (OSError, ValueError):
        return free
    return free if limit == "max" else min(free, max(0.0, float(limit) - used))


def _of_the_machine() -> float:
    try:
        import psutil
    except ModuleNotFoundError:
        return MEMORY
    return float(psutil.virtual_memory().available)
