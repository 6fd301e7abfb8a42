"""One step of a video: the frames checked, what is due planned and run, the clock moved on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from pgt_fx.core.errors import OtherClipError, StateError
from pgt_fx.core.torch_private import pytree
from pgt_fx.runtime.chunks import check_ratio, moment
from pgt_fx.runtime.programs import Programs

State = dict[str, Tensor]


def clock(frames: Sequence[int], sizes: Sequence[int], ended: bool) -> State:
    """How far the video has come. Read by the host in each step, so it stays there, whatever
    ``torch.set_default_device`` says."""
    return {
        "clock.frames": torch.tensor(frames, dtype=torch.long, device="cpu"),
        "clock.sizes": torch.tensor(sizes, dtype=torch.long, device="cpu"),
        "clock.ended": torch.tensor(ended, device="cpu"),
    }


def begun(state: Mapping[str, Tensor]) -> bool:
    """Whether a state is of a video of which frames were shown."""
    frames = state.get("clock.frames") if isinstance(state, Mapping) else None
    return isinstance(frames, Tensor) and bool(frames.any())


def _differentiable(state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The state, as autograd can read it: of ``torch.inference_mode`` it takes copies alone."""
    if torch.compiler.is_compiling() or not torch.is_grad_enabled():
        return state
    return {k: v.clone() if v.is_inference() else v for k, v in state.items()}


def run_step(
    programs: Programs, state: Mapping[str, Tensor], leaves: Sequence[Any], last: bool, detach: bool
) -> tuple[Any | None, State]:
    """One step; see :meth:`Progressive.step`."""
    if not begun(state):
        programs.renew()
    now = programs.current()
    program, captured, spec = now.program, now.captured, programs.spec
    try:
        before, after, sizes = moment(spec, captured.fixed, state, leaves, last)
        programs.check_types(leaves)
        if captured.branches is not None:
            captured.branches.check(sizes)
        programs.own()
    except OtherClipError as error:
        return run_step(programs.like(leaves, error), state, leaves, last, detach)
    if bool(state.get("clock.ended", False)):
        raise StateError("the video has ended (last=True); call reset() before the next one")
    if last:
        check_ratio(spec.ratio, after)
    now.lengths.check(min(after), last)
    work = program.plan(before, after, last)
    tensors, state = programs.tensors(leaves), _differentiable(state)
    if now.watch is not None and (now.watch.awaited or now.watch.changed):
        flat, carried = now.watch.run(lambda: program.run(state, tensors, work, eager=True))
        if now.watch.changed:
            programs.capture_anew()
            return run_step(programs, state, leaves, last, detach)
    else:
        try:
            flat, carried = program.run(state, tensors, work)
        except (ValueError, IndexError, RuntimeError) as error:
            programs.explain(error, before, after, last)
            raise
    following = {
        **clock(after, sizes, last),
        **({k: v.detach() for k, v in carried.items()} if detach else carried),
    }
    if all(item is None for item in flat):
        return None, following
    return pytree.tree_unflatten(flat, captured.out_spec), following
