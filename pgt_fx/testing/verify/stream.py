"""Measurements over many steps: what is carried, and what is forgotten."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import torch
from torch import Tensor

from pgt_fx.compiler.selfcheck.measure import same_bits, storage_of
from pgt_fx.core.counts import counted
from pgt_fx.testing.verify.result import Check
from pgt_fx.testing.verify.subject import Subject

#: Successive steps over which the state must not grow, and as many before them.
STEADY = 4
#: Frames after which it must have stopped growing, beyond the latency that the report claims.
LONGEST_WARM_UP = 400
#: What is found of a model whose state has no bound.
GROWS = "grows"


def state_bounded(check: Check, subject: Subject, chunkings: int) -> Check:
    """Steps until the state has stopped growing: its bytes, and who owns them."""
    faults: list[str] = []
    sizes: list[str] = []
    growing: list[str] = []
    length = subject.clip_frames or min(subject.length, 8)
    end = subject.allowed.most  # no video is longer
    if end is not None:
        length = max(1, min(length, end // (4 * STEADY)))
    for policy, prog in (("zero", subject.answering), ("wait", subject.waiting)):
        claimed = prog.report.latency or 0
        least = math.ceil((min(claimed, LONGEST_WARM_UP) + 2 * length) / length) + 2 * STEADY
        most = max(least, math.ceil((claimed + LONGEST_WARM_UP) / length))
        held: list[int] = []
        prog.reset()
        piece = subject.video(length, salt=12)
        if prog.report.grows:
            most = least
        if end is not None:
            most = min(most, end // length)
            least = min(least, most)
        while len(held) < most and (len(held) < least or _growth(held)):
            with torch.set_grad_enabled(len(held) < 2):
                args, kwargs = subject.args(piece)
                prog(*args, **kwargs)
            held.append(sum(storage_of(x)[1] for x in prog.state.values()))
            if len(held) == 2:
                faults += [f"{policy}: {fault}" for fault in unowned(prog.state)]
        faults += [f"{policy}: {fault}" for fault in unowned(prog.state)]
        if end is not None and (len(held) < 2 * STEADY or _growth(held)):
            why = f"a video of at most {counted(end, 'frame')} ends before its state is steady"
            return replace(check, ok=None, measured="too short", detail=why)
        if _growth(held) and prog.report.grows:
            growing.append(
                f"{policy}: {counted(_growth(held) // STEADY // length, 'byte')} per frame"
            )
        elif _growth(held):
            faults.append(
                f"{policy}: after {counted(len(held) * length, 'frame')} it still grows, by "
                f"{_growth(held)} "
                f"bytes within {counted(STEADY, 'step')}, and has {_size(held[-1])}"
            )
        low, high = min(held[-2 * STEADY :]), max(held[-2 * STEADY :])
        span = _size(high) if low == high else f"{_size(low)} to {_size(high)}"
        sizes.append(f"{policy} {span} at the end of {counted(len(held), 'step')}")
        prog.reset()
    detail = f"steps of {counted(length, 'frame')}: {', '.join(sizes)}"
    if faults:
        return replace(
            check,
            ok=False,
            measured=counted(len(faults), "fault"),
            detail=f"{faults[0]}; {detail}",
        )
    if growing:
        why = "a causal attention sees all of the past, and its state grows with it"
        return replace(check, ok=None, measured=GROWS, detail=f"{why}: {', '.join(growing)}")
    return replace(check, ok=True, measured="no growth", detail=detail)


def _growth(held: list[int]) -> int:
    """Bytes by which the last steps surpass those before them."""
    return max(0, max(held[-STEADY:]) - max(held[-2 * STEADY : -STEADY]))


def unowned(state: dict[str, Tensor]) -> list[str]:
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
                f"{name} is a view: {counted(x.numel() * x.element_size(), 'byte')} of it keep "
                f"{size} alive"
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
    chunks = subject.chunks(subject.frames, subject.length, rng)
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
    detail = (
        f"{counted(compared, 'step')} compared, after an unfinished video and after a whole one"
    )
    if faults:
        return replace(
            check, ok=False, measured=f"{len(faults)} differ", detail=f"{faults[0]}; {detail}"
        )
    return replace(check, ok=True, measured="0 bits differ", detail=detail)
