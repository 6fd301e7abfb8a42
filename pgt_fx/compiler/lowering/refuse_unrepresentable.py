"""Refuse what a graph of operators can't represent: custom gradients, and random numbers that a
model draws in Python."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

from torch import fx
from torch.utils.checkpoint import CheckpointFunction

from pgt_fx.capture.captured import Captured
from pgt_fx.capture.observe.custom_gradients import ByHand
from pgt_fx.capture.observe.module_calls import call_stack
from pgt_fx.capture.observe.python_random import Drawn
from pgt_fx.compiler.lowering.fold_modules import Region
from pgt_fx.core.errors import BlockedError, Blocker, Place

REMEDY = (
    "put it into a module of its own that mixes no time, one tensor in and one out: that is then "
    "called as it is"
)

#: Of a checkpoint, whose backward runs the forward again.
REENTRANT = "pass use_reentrant=False to torch.utils.checkpoint.checkpoint"


def check_by_hand(captured: Captured, regions: Mapping[fx.Node, Region]) -> list[Blocker]:
    """A model in train mode must not lose a gradient; in eval mode, where few want one, it warns,
    and a gradient that is asked for is refused
    (:func:`pgt_fx.runtime.refused_gradients.without_gradients`).

    Args:
        regions: node -> module call that is emitted whole: what is in it stays as it is.

    Returns:
        what stands in the way of gradients in eval mode.

    Raises:
        BlockedError: listing the lines.
    """
    if not captured.by_hand:
        return []
    whole = _whole(captured, regions)
    open_ = [call for call in captured.by_hand if not whole.intersection(call.calls)]
    lost = [_blocker(call) for call in open_ if not call.harmless]
    if lost and captured.training:
        raise BlockedError(lost)
    for blocker in lost:
        warnings.warn(
            "gradients of this model would be wrong: they are refused, and so is it in train mode: "
            f"{blocker}",
            stacklevel=2,
        )
    return lost


def check_drawn(captured: Captured, regions: Mapping[fx.Node, Region]) -> None:
    """A model in train mode must not keep for good what it is to draw anew each time; in eval mode
    some draw a number all the same, and make nothing of it.

    Raises:
        BlockedError: listing the modules.
    """
    if not captured.drawn or not captured.training:
        return
    whole = _whole(captured, regions)
    found = [one for one in captured.drawn if not whole.intersection(one.calls)]
    if found:
        raise BlockedError([_frozen(one) for one in found])


def _frozen(one: Drawn) -> Blocker:
    module = one.calls[-1].partition("@")[0]
    return Blocker(
        Place(f"{one.generator}.…", module),
        "draws a random number in train mode (to leave out a layer, or for an augmentation), and "
        "every step would have the number of the capture",
        "draw it with torch (x * torch.bernoulli(…)), or in a module of its own that mixes no "
        "time, one tensor in and one out",
    )


def _whole(captured: Captured, regions: Mapping[fx.Node, Region]) -> set[str]:
    """Keys of the module calls that are emitted whole."""
    return {
        key
        for node, region in regions.items()
        for key in call_stack(node)
        if captured.calls[key].path == region.path
    }


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
