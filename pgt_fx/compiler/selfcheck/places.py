"""Where two runs first differ: the operator and the line in the user's model to look at.

Both are run again with the value of every operator recorded. Graphs are in the order of execution,
so the first value that differs comes from an operator whose operands were still right.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pgt_fx.capture.observe.module_calls import place
from pgt_fx.compiler.selfcheck.measure import error
from pgt_fx.compiler.selfcheck.recording import recorded_full, recorded_plain, recorded_run
from pgt_fx.compiler.selfcheck.trials import Trials
from pgt_fx.compiler.selfcheck.videos import Video
from pgt_fx.core.counts import counted


def unlike_model(trials: Trials, prog: Any, video: Video, bound: float) -> str:
    """The first operator of a video in one step that gives something else than in the model; "" for
    none."""
    names = prog.inspect.program.emitted.made
    got, plain = recorded_full(trials, prog, video), recorded_plain(trials, prog, video)
    for name, captured in names.items():
        if name not in got or captured not in plain:
            continue
        gap = error(got[name], plain[captured])
        if gap > bound:
            return f"{place_of(prog, name)}: the first value that is not the model's, by {gap:.0e}"
    return ""


def unlike_whole(
    trials: Trials, prog: Any, video: Video, chunks: Sequence[int], bound: float
) -> str:
    """The first operator that gives something else in steps than in one; "" for none."""
    whole = recorded_full(trials, prog, video)
    steps = recorded_run(trials, prog, video, chunks)
    for node in prog.inspect.program.emitted.graph.nodes:
        wanted = whole.get(node.name)
        if wanted is None or node.op == "placeholder":
            continue
        parts = [s[node.name] for s in steps if node.name in s]
        why = _unlike(parts, wanted, bound)
        if why:
            where = place_of(prog, node.name)
            return f"{where}: the first value that is not the whole's, {why}, steps {chunks}"
    return ""


def _unlike(parts: list[Tensor], wanted: Tensor, bound: float) -> str:
    """How what the steps gave, put one after the other, differs from one step's value."""
    if not parts:
        return "none is given" if wanted.numel() else ""
    if all(p.shape == wanted.shape for p in parts):  # without time: the last one counts
        gap = error(parts[-1], wanted)
        return f"by {gap:.0e}" if gap > bound else ""
    for d in range(wanted.dim()):
        others = [[n for k, n in enumerate(p.shape) if k != d] for p in (*parts, wanted)]
        if all(o == others[-1] for o in others):
            count = sum(p.shape[d] for p in parts)
            if count != wanted.shape[d]:
                return f"{counted(count, 'element')} instead of {wanted.shape[d]}"
            gap = error(torch.cat(parts, d), wanted)
            return f"by {gap:.0e}" if gap > bound else ""
    return ""


def named(prog: Any, name: str) -> Any:
    """The captured node of a name."""
    return next(n for n in prog.inspect.captured.graph.nodes if n.name == name)


def place_of(prog: Any, name: str) -> str:
    """Operator, module and source line of a node of the step's graph."""
    program = prog.inspect.program
    emitted = program.emitted
    node = next(n for n in emitted.graph.nodes if n.name == name)
    prefix = f"{program.markov_name}."
    if node.op == "placeholder":
        return "the clip itself, before any operator"
    if node.op == "call_module" and not node.target.startswith(prefix):
        return f"module {node.target}"
    if node.op == "call_module":
        return slot_place(prog, emitted.markov[node.target.removeprefix(prefix)].slot)
    return str(place(named(prog, emitted.made[name]))) if name in emitted.made else name


def slot_place(prog: Any, slot: str) -> str:
    """Operator, module and source line of what a state entry belongs to."""
    program = prog.inspect.program
    known = program._slot_of(slot)
    if known is None:
        return f"state entry {slot!r}"
    owner = program.emitted.owner.get(known)
    if owner is None:
        return f"state entry {slot!r}: held at the output"
    return f"{place(named(prog, owner))}, state entry {slot!r}"
