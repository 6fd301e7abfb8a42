"""What an epoch of each row costs: seconds, interleaved, and peak activation memory."""

from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
from data import OrderOfEvents
from rows import Row, Setting
from train import build, iteration

# At the end: that folder has a train.py and a report.py of its own.
sys.path.append(str(Path(__file__).parents[1]))
from peak_memory import PeakMemory


def costs(s: Setting, rows: list[Row], device: str, rounds: int) -> dict[str, dict[str, Any]]:
    """Per row: seconds per epoch (median of ``rounds`` interleaved iterations, A B C A B C …,
    times the iterations of an epoch) and the peak bytes of one iteration's tensors beyond
    weights, gradients and the videos."""
    data = OrderOfEvents(s.events, s.batch, 0)
    x, y = data.videos.to(device).float(), data.labels.to(device)
    progs = {row.name: build(s, row, 0, device) for row in rows}
    peaks, seconds = {}, {row.name: [] for row in rows}
    for row in rows:
        base = Row(row.name, row.kind, row.options, row.steps, "", row.gradient)
        iteration(s, base, progs[row.name], x, y, 0, 0)  # gradients exist from here on
        with PeakMemory() as memory:
            iteration(s, base, progs[row.name], x, y, 0, 0)
        peaks[row.name] = memory.peak
    for number in range(rounds):
        for row in rows:
            start = time.perf_counter()
            iteration(s, row, progs[row.name], x, y, number, 0)
            if device != "cpu":
                torch.cuda.synchronize()
            seconds[row.name].append(time.perf_counter() - start)
    per_epoch = -(-s.train // s.batch)
    return {
        row.name: {
            "seconds_per_epoch": statistics.median(seconds[row.name]) * per_epoch,
            "peak_bytes": peaks[row.name],
        }
        for row in rows
    }
