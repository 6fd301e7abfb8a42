"""What the rows of an output belong to: the videos of a batch, or an input of each step (boxes)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import fx

from pgt_fx.core.schedule import OverTime, PerStep
from pgt_fx.runtime.progressive import Progressive


def rows_of_steps(prog: Progressive, leaves: Sequence[Any]) -> bool:
    """Whether each step answers for rows of its own: for the boxes that it is given. Row 0 of one
    step is then another thing than row 0 of the next.

    It is so where an input is given step by step, and the model's first output does not have the
    batch as its first size, at any size of the batch.
    """
    if not any(isinstance(x, PerStep | OverTime) for x in leaves):
        return False
    spec, captured = prog.inspect.clip, prog.inspect.captured
    inputs = [n for n in captured.graph.nodes if n.op == "placeholder"][-len(spec.tensors) :]
    video = inputs[spec.tensors.index(spec.paths[0])]
    output = prog.inspect.analysis.outputs[0]
    if not isinstance(output, fx.Node) or not output.meta["val"].dim():
        return False
    return str(output.meta["val"].shape[0]) != str(video.meta["val"].shape[0])
