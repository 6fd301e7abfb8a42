"""Whether a model is captured at the length of its clip, and why, in words with its line.

A model that takes clips of one length alone is, where it attends to frames: something then goes
from step to step. So is one of whose frames an operator stands in the way of shorter steps, as the
windows do that a shifted-window transformer pads to; of a sequence of features, which has no
frames, that operator is named, as it can be written otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn
from torch.overrides import TorchFunctionMode

from pgt_fx.capture.captured import Captured
from pgt_fx.capture.observe.model_lines import raised_at
from pgt_fx.capture.observe.module_calls import place
from pgt_fx.capture.probe.meta_run import probe
from pgt_fx.capture.schema import schema_name
from pgt_fx.core.clip import ClipSpec
from pgt_fx.core.errors import BlockedError, CaptureError, Place

#: Calls that a model with attention makes.
SOFTENS = ("softmax", "scaled_dot_product_attention", "multi_head_attention_forward")
#: Characters of a reason that are kept.
LONGEST = 200


class _Heard(TorchFunctionMode):
    """Whether a softmax was called."""

    found = False

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if getattr(func, "__name__", "") in SOFTENS:
            self.found = True
        return func(*args, **(kwargs or {}))


def softens(model: nn.Module, spec: ClipSpec, leaves: Sequence[Any]) -> bool:
    """Whether the model calls a softmax on its clip, without which it attends to nothing; a run
    without compute, which spares the others a capture."""
    with _Heard() as heard:
        probe(model, spec.spec, list(leaves))
    return heard.found


def shows_frames(spec: ClipSpec) -> bool:
    """Whether the clip is a video, with height and width, and no sequence of features."""
    return any(len(spec.shapes[i] or ()) == 5 for i in spec.paths)


def because(error: CaptureError | BlockedError) -> str:
    """What stands in the way of other lengths, as one sentence."""
    if isinstance(error, BlockedError):
        first = error.blockers[0]
        return f"{first.place} {first.reason}"
    where, _, rest = str(error).partition("\n")
    raised = "" if error.__cause__ is None else raised_at(error.__cause__)
    if error.place is None and raised:  # by the model itself
        where, rest = raised, where
    said = " ".join(rest.split("\n")[0].split())
    for end in (": RuntimeError", ". ", ": ValueError"):
        said = said.partition(end)[0]
    words = f"{where}: {said}" if said else where
    return words if len(words) <= LONGEST else f"{words[:LONGEST]}…"


def of_one_length(captured: Captured) -> str | None:
    """The line at which a table has one row per frame of the clip, so that the model itself takes
    clips of one length; None where it takes others."""
    for node in captured.graph.nodes:
        if schema_name(node) == "pgt_fx::clip_table":
            where = place(node)
            there = Place("the model", where.module, where.source, where.line)
            return f"{there} reads a table with one row per frame of the clip"
    return None
