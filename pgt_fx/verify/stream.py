"""Measurements over many steps: what is carried, and what is forgotten."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import torch
from torch import Tensor

from pgt_fx.verify.measure import random_chunks, same_bits, storage_of
from pgt_fx.verify.result import Check
from pgt_fx.verify.subject import Subject

#: Steps measured once the state should be full.
STEADY = 8
#: Frames of warm-up at most: a latency beyond it is not waited for.
LONGEST_WARM_UP = 400


def state_bounded(check: Check, subject: Subject, chunkings: int) -> Check:
    """Many steps: bytes of the state, and who owns them."""
    faults: list[str] = []
    sizes: list[str] = []
    told = ""
    for policy, prog in (("zero", subject.answering), ("wait", subject.waiting)):
        length = min(subject.length, 8)
        warm_up = 2 * length
        latency = prog.report.latency
        if policy == "wait":
            warm_up += min(latency if latency is not None else 0, LONGEST_WARM_UP)
            if latency is not None and latency > LONGEST_WARM_UP:
                told = f"; a latency of {latency} frames was not waited for"
                continue
        first = math.ceil(warm_up / length)
        bytes_held = []
        prog.reset()
        piece = subject.video(length, salt=12)
        for step in range(first + STEADY):
            with torch.set_grad_enabled(step < 2):
                args, kwargs = subject.args(piece)
                prog(*args, **kwargs)
            state = prog.state
            if step in (1, first + STEADY - 1):
                faults += [f"{policy}: {fault}" for fault in _unowned(state)]
            bytes_held.append(sum(storage_of(x)[1] for x in state.values()))
        early, late = bytes_held[first : first + STEADY // 2], bytes_held[first + STEADY // 2 :]
        if max(late) > max(early):
            faults.append(f"{policy}: it grows from {max(early)} to {max(late)} bytes")
        low, high = min(early + late), max(early + late)
        span = _size(high) if low == high else f"{_size(low)} to {_size(high)}"
        sizes.append(f"{policy} {span} from step {first + 1} to {first + STEADY}")
        prog.reset()
    detail = f"steps of {min(subject.length, 8)} frames: {', '.join(sizes)}{told}"
    if faults:
        return replace(
            check, ok=False, measured=f"{len(faults)} faults", detail=f"{faults[0]}; {detail}"
        )
    return replace(check, ok=True, measured="no growth", detail=detail)


def _unowned(state: dict[str, Tensor]) -> list[str]:
    """What is wrong with the tensors of a state."""
    faults: list[str] = []
    owners: dict[int, str] = {}
    for name, x in state.items():
        if not isinstance(x, Tensor):
            faults.append(f"{name} is a {type(x).__name__}, no tensor")
            continue
        if x.requires_grad or x.grad_fn is not None:
            faults.append(f"{name} holds an autograd graph")
        address, size = storage_of(x)
        if size != x.numel() * x.element_size():
            faults.append(
                f"{name} is a view: {x.numel() * x.element_size()} bytes of it keep {size} alive"
            )
        elif size and address in owners:
            faults.append(f"{name} shares its memory with {owners[address]}")
        owners[address] = name
    return faults


def _size(count: int) -> str:
    return f"{count / 1e6:.2f} MB" if count >= 1e6 else f"{count / 1e3:.1f} kB"


def reset(check: Check, subject: Subject, chunkings: int) -> Check:
    """A video, reset, another one; and the other one through an object that has seen nothing."""
    rng = subject.rng(31)
    chunks = random_chunks(subject.frames, subject.length, rng)
    second = subject.video(subject.frames, salt=10)
    compared = 0
    faults: list[str] = []
    for policy, prog in (("zero", subject.answering), ("wait", subject.waiting)):
        fresh = copy.deepcopy(prog)
        fresh.__dict__["_state"] = {}
        wanted = subject.run(fresh, second, chunks)
        for what in ("an unfinished video", "a whole one"):
            if what == "an unfinished video":
                prog.reset()
                with torch.no_grad():
                    subject.feed(prog, subject.cut(subject.main, chunks)[0], False)
            got = subject.run(prog, second, chunks)
            compared += len(got)
            for step, (a, b) in enumerate(zip(got, wanted, strict=True), 1):
                if not same_bits(a, b):
                    faults.append(f"{policy}: step {step} of {chunks} after {what}")
                    break
    detail = f"{compared} steps compared, after an unfinished video and after a whole one"
    if faults:
        return replace(
            check, ok=False, measured=f"{len(faults)} differ", detail=f"{faults[0]}; {detail}"
        )
    return replace(check, ok=True, measured="0 bits differ", detail=detail)
