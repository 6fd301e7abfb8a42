"""Padding along time by an amount that depends on the length, as windows of a fixed size need: no
step can do it. It is detected in runs without compute, as the capture itself would take minutes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from pgt_fx.capture.observe.model_lines import calling_place
from pgt_fx.core.errors import Blocker, Place

#: What is said of such a call, here and by its rule.
REASON = "pads by an amount computed from the input's sizes"
REMEDY = "pad by constant amounts"


@dataclass(frozen=True)
class PadCall:
    """One call of a pad.

    Attributes:
        sizes: of its operand.
        amounts: before and after each dimension, from the last one on.
        place: the line of the model.
        module: the innermost one that made it.
    """

    sizes: tuple[int, ...]
    amounts: tuple[int, ...]
    place: Place
    module: nn.Module | None

    def varies_from(self, other: PadCall) -> bool:
        """Whether it pads a dimension of which the other run has another size by another amount."""
        if len(self.sizes) != len(other.sizes) or len(self.amounts) != len(other.amounts):
            return False
        for number, (a, b) in enumerate(zip(self.amounts, other.amounts, strict=True)):
            d = -1 - number // 2
            if a != b and self.sizes[d] != other.sizes[d]:
                return True
        return False


def pad_call(
    func: Any, args: Any, kwargs: dict[str, Any], running: Sequence[nn.Module]
) -> PadCall | None:
    """What a call of torch pads, where it is a pad."""
    if getattr(func, "__name__", "") not in ("pad", "constant_pad_nd"):
        return None
    x, amounts = [*args, *kwargs.values()][:2]
    if not isinstance(x, Tensor):
        return None
    plain = tuple(int(n) for n in amounts)
    return PadCall(tuple(x.shape), plain, calling_place(func), running[-1] if running else None)


def varying_pads(
    model: nn.Module, one: Sequence[PadCall], other: Sequence[PadCall], rows: int
) -> dict[int, Blocker]:
    """By number the pads of videos that differ between two runs of the model, of the same batch and
    space and of another number of frames each.

    Args:
        rows: videos in a batch; a table that is made from the number of frames has none.
    """
    if len(one) != len(other):
        return {}
    paths = {module: path for path, module in model.named_modules()}
    found: dict[int, Blocker] = {}
    for number, (a, b) in enumerate(zip(one, other, strict=True)):
        if len(a.sizes) > 2 and a.sizes[0] == rows and a.varies_from(b):
            at = a.place
            path = paths.get(a.module, "") if a.module is not None else ""
            where = Place("aten.pad", path, at.source, at.line)
            found[number] = Blocker(where, REASON, REMEDY)
    return found
