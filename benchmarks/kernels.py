"""What a GPU's own time is, without what the host adds in front of it and between its kernels."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile


def kernel_seconds(work: Callable[[], object]) -> float:
    """Seconds that kernels and copies of ``work`` take on the GPU, one by one, by the profiler."""
    activities = [ProfilerActivity.CPU, ProfilerActivity.CUDA]
    with profile(activities=activities) as seen:
        work()
        torch.cuda.synchronize()
    return total(seen.key_averages())


def total(events: Iterable[Any]) -> float:
    """Seconds of those that ran on the device. Operators of the host have their kernels' time, too,
    and so have spans with a name, as compiled code has: neither is counted twice."""
    ran = [e for e in events if e.device_type == DeviceType.CUDA and not e.is_user_annotation]
    return sum(e.self_device_time_total for e in ran) / 1e6
