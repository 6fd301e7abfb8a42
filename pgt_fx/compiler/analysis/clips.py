"""Analysis of a model that is captured at the length of its clip: a step is a clip.

Nothing inside a clip is cut, and so no value has a timeline. Each operator does in a step what it
does in the model; an attention over the frames of the clip may find keys and values of the clips
before.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from pgt_fx.capture.captured import Captured
from pgt_fx.capture.observe.module_calls import place
from pgt_fx.compiler.analysis.timed_graph import Analysis, Operation, Value
from pgt_fx.core.clip import ClipSpec
from pgt_fx.core.clocks import InputClock, LawClock
from pgt_fx.core.errors import Blocker, Refusal
from pgt_fx.core.laws import Window
from pgt_fx.core.layout import plain
from pgt_fx.core.node_arguments import as_list
from pgt_fx.core.torch_private import HigherOrderOperator, OpOverload
from pgt_fx.rules.kinds.clip_attention import SEES, ClipAttends
from pgt_fx.rules.registry import hint


def walk_clip(
    captured: Captured, spec: ClipSpec, future: str
) -> tuple[Analysis, dict[str, Blocker]]:
    """See :func:`pgt_fx.compiler.analysis.walk.walk_graph`."""
    analysis, blockers = Analysis(captured, spec, future), dict[str, Blocker]()
    analysis.lengths = captured.lengths
    for node in captured.graph.nodes:
        if node.op == "output":
            analysis.outputs = as_list(node.args[0])
            continue
        analysis.values[node.name] = _value(node)
        reason = _blocked(node)
        if reason is not None:
            blockers[node.name] = Blocker(place(node), reason.reason, reason.remedy)
    path = spec.ratio.index(1)
    frames = spec.lengths[path]
    clips = LawClock(Window(frames, frames), InputClock(future, path))
    for keys in captured.clip_keys:
        node = keys.attention.sum
        value = analysis.values[node.name]
        if isinstance(value, Value):
            kind = ClipAttends(value.layout or (), SEES, found=keys)
            analysis.operations[node.name] = Operation(node, kind, value, place(node), clock=clips)
    return analysis, blockers


def _value(node: fx.Node) -> Value | list[Value]:
    value = node.meta.get("val")
    if isinstance(value, (list, tuple)):
        return [_of(one) for one in value]
    return _of(value)


def _of(value: Any) -> Value:
    if not isinstance(value, Tensor):
        return Value(None)
    return Value(plain([hint(n) if isinstance(n, torch.SymInt) else n for n in value.shape]))


def _blocked(node: fx.Node) -> Refusal | None:
    """Why a step can't run an operator."""
    if node.op == "call_function" and isinstance(node.target, HigherOrderOperator):
        return Refusal(
            "runs a part of the model as a block of its own, which is not looked into",
            "spell it without torch's operator for such blocks",
        )
    if isinstance(node.target, OpOverload) and node.kwargs.get("generator") is not None:
        return Refusal(
            "draws random numbers with a generator of its own, which a graph can't hold",
            "draw them without generator=, or outside the model",
        )
    written = node.meta.get("pgt_written")
    return written if isinstance(written, Refusal) else None
