"""Gradients that a model makes by hand and that are lost where its lines are written out."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

from torch import fx
from torch.utils.checkpoint import CheckpointFunction

from pgt_fx.capture.by_hand import ByHand
from pgt_fx.capture.calls import call_stack
from pgt_fx.capture.export import Captured
from pgt_fx.capture.fold import Region
from pgt_fx.errors import BlockedError, Blocker

REMEDY = (
    "put it into a module of its own that mixes no time, one tensor in and one out: that is then "
    "called as it is"
)

#: Of a checkpoint, whose backward runs the forward again.
REENTRANT = "pass use_reentrant=False to torch.utils.checkpoint.checkpoint"


def check_by_hand(captured: Captured, regions: Mapping[fx.Node, Region]) -> None:
    """A model in train mode must not lose a gradient; in eval mode, where few want one, it is told.

    Args:
        regions: node -> module call that is emitted whole: what is in it stays as it is.

    Raises:
        BlockedError: listing the lines.
    """
    if not captured.by_hand:
        return
    whole = {
        key
        for node, region in regions.items()
        for key in call_stack(node)
        if captured.calls[key].path == region.path
    }
    open_ = [call for call in captured.by_hand if not whole.intersection(call.calls)]
    lost = [_blocker(call) for call in open_ if not call.harmless]
    if lost and captured.training:
        raise BlockedError(lost)
    for blocker in lost:
        warnings.warn(
            f"gradients of this model would be wrong, and in train mode it is refused: {blocker}",
            stacklevel=2,
        )


def _blocker(call: ByHand) -> Blocker:
    if call.function is None:
        reason = "a hook on a tensor changes or reads its gradient, and a step would not call it"
    else:
        reason = (
            f"{call.function.__name__} has a backward of its own, which is not (or can't be shown "
            "to be) the gradient of its forward, and a step would not call it"
        )
    reentrant = call.function is CheckpointFunction
    return Blocker(call.place, reason, REENTRANT if reentrant else REMEDY)
