"""The registry of operator rules, and what a rule is given.

A rule is a function ``rule(op: OpView) -> Kind`` registered under ATen operator names, which says
what kind of operator a call is along time (:mod:`pgt_fx.rules.kinds`). It is called only for
operators with at least one operand that has a time axis; an operator on values without time runs
as it is. An operator without a rule is a blocker: the unknown is never taken to be pointwise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from pgt_fx.capture.guards.symbolic_sizes import Sizes
from pgt_fx.core.errors import Refusal
from pgt_fx.core.layout import Factor, Layout, size
from pgt_fx.core.lengths.sets import LengthSet
from pgt_fx.core.torch_private import schema_of
from pgt_fx.rules.kinds import (
    Attention,
    CausalAttention,
    Concatenated,
    Kind,
    Local,
    Reduced,
    Scanned,
    StepOnly,
    Windowed,
)


@dataclass(frozen=True)
class SizeAtHand:
    """Stands in an argument for a size of the (first) operand as it is in the step: the product of
    those along some of its dimensions."""

    dims: tuple[int, ...]


class MergedTime(Refusal):
    """Raised by a rule that needs time alone in a dimension, where a constant number of elements
    of each frame is merged into it: a pass writes them as elements of time, and asks it again.

    Attributes:
        operand: the tensor.
        dim: the dimension.
        entries: elements per element of time.
    """

    def __init__(self, operand: fx.Node, dim: int, entries: int, reason: str) -> None:
        super().__init__(reason, "unflatten time in front of it")
        self.operand, self.dim, self.entries = operand, dim, entries


#: What a rule answers: the kind of the operator.
Outcome = Kind
Rule = Callable[["OpView"], Outcome]
RULES: dict[str, Rule] = {}


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Register a rule under operator names (without overload): of ATen, or with a namespace as in
    ``"mylib::myop"``."""

    def register(function: Rule) -> Rule:
        for name in names:
            full = name if "::" in name else f"aten::{name}"
            if full in RULES:
                raise ValueError(f"two rules for {full}")
            RULES[full] = function
        return function

    return register


class OpView:
    """One call of an ATen operator as its rule sees it: arguments by name, layouts of operands.

    Attributes:
        node: the fx node.
        schema: the operator's schema.
        arg: arguments by schema name, defaults filled in; tensors are fx nodes.
        known: sizes as functions of the number of frames, of the videos that the model takes; None
            where they are not known.
        clip: frames of the example, in the path with the fewest; None where it is not known.
        conditions: lengths of video for which alone the rule's answer is, each with what the
            operator does there, in words (:meth:`only`).
    """

    def __init__(
        self,
        node: fx.Node,
        layouts: Callable[[fx.Node], Layout | None],
        known: Sizes | None = None,
        clip: int | None = None,
    ) -> None:
        self.node, self.known, self.clip = node, known, clip
        self.conditions: list[tuple[LengthSet, str]] = []
        self.schema = schema_of(node.target)
        self._layouts = layouts
        self.arg: dict[str, Any] = {}
        for position, argument in enumerate(self.schema.arguments):
            if position < len(node.args) and not argument.kwarg_only:
                self.arg[argument.name] = node.args[position]
            elif argument.name in node.kwargs:
                self.arg[argument.name] = node.kwargs[argument.name]
            else:
                self.arg[argument.name] = argument.default_value

    def layout(self, operand: Any) -> Layout:
        """Layout of an operand (an fx node); constants have layouts without time."""
        layout = self._layouts(operand)
        if layout is None:
            raise Refusal("an operand is not a tensor")
        return layout

    def timed(self, operand: Any) -> bool:
        """Whether an operand has a time axis."""
        if not isinstance(operand, fx.Node):
            return False
        layout = self._layouts(operand)
        return layout is not None and any(f.time for dim in layout for f in dim)

    @property
    def tensors(self) -> list[fx.Node]:
        """All tensor operands, lists flattened."""
        return [n for n in self.node.all_input_nodes if isinstance(n.meta.get("val"), torch.Tensor)]

    def only_source(self, *names: str) -> None:
        """Refuse when time is in any tensor operand other than those named."""
        allowed = [self.arg[name] for name in names]
        for operand in self.tensors:
            if self.timed(operand) and operand not in allowed:
                raise Refusal(f"the operand {operand.name} has a time axis, which it may not have")

    @property
    def out_sizes(self) -> list[int]:
        """Concrete sizes of the (single) result in the capture."""
        return [hint(s) for s in self.node.meta["val"].shape]

    @property
    def out_dims(self) -> Layout:
        """Dimensions of the (single) result, as if none of them were time."""
        return self.dims_of(self.node.meta["val"])

    @staticmethod
    def dims_of(value: torch.Tensor) -> Layout:
        """Dimensions of a tensor, as if none of them were time."""
        return tuple(
            (Factor(n, not isinstance(s, int)),) if (n := hint(s)) != 1 else () for s in value.shape
        )

    def ints(self, name: str, rank: int, default: int | None = None) -> list[int]:
        """An int-list argument broadcast to ``rank`` entries; ``default`` for an empty list.

        Raises:
            Refusal: when an entry is symbolic.
        """
        value = self.arg[name]
        value = list(value) if isinstance(value, (list, tuple)) else [value]
        if not value and default is not None:
            value = [default]
        if len(value) == 1:
            value = value * rank
        return [self.static(v, name) for v in value]

    def only(self, held: LengthSet, text: str, reason: str, remedy: str = "") -> None:
        """The rule's answer is for videos of these lengths alone; others are refused when they end.

        Args:
            text: what the operator does at these, in words.
            reason: why it has no answer, where the example is no such video or they are few.

        Raises:
            Refusal: there.
        """
        if self.known is None or self.clip is None:
            raise Refusal(reason, remedy)
        left = self.known.lengths & held
        if self.clip not in left or (left.is_finite and not self.known.lengths.is_finite):
            raise Refusal(reason, remedy)
        if left != self.known.lengths:
            self.known = self.known.of(left)
            self.conditions.append((held, text))

    def static(self, value: Any, name: str) -> int:
        """An int that doesn't depend on the input's sizes."""
        if isinstance(value, fx.Node):
            raise Refusal(f"its argument {name} is computed from the input's sizes")
        return int(value)


def hint(value: Any) -> int:
    """Concrete size in the capture of an int or SymInt.

    Never ``int(value)``: that would fix the symbol at this size for good.
    """
    if isinstance(value, int):
        return value
    node = value.node
    if node.hint is not None:
        return int(node.hint)
    raise Refusal("a size of this operator depends on the data")


def whole_ratio(op: OpView, long: Any, short: Any, *, groups: bool = False) -> int | None:
    """The whole number that one size is of another, at every length that a video may have; else
    None.

    Args:
        groups: the longer one is cut into that many parts: where it can't be, the model itself
            takes no such video.
    """
    whole, part = hint(long), hint(short)
    if not part or (whole % part and not groups):
        return None
    if isinstance(long, int) and isinstance(short, int):
        return None if whole % part else whole // part
    # The capture itself may be of a length that is no whole number of groups.
    for ratio in range(whole // part, whole // (part + 1), -1):
        if op.known is not None and op.known.multiple(long, short, ratio, groups=groups):
            return ratio
    return None


def same_size(op: OpView, factors: Sequence[Any], whole: Any) -> bool:
    """Whether sizes multiply to another one whatever the sizes of the clip are."""
    if all(isinstance(s, int) for s in (*factors, whole)):
        return math.prod(factors) == whole
    return op.known is not None and op.known.product(factors, whole)


def wrap(dim: int, rank: int) -> int:
    """A dimension number counted from the front."""
    return dim + rank if dim < 0 else dim


def alone(op: OpView, operand: fx.Node, dim: int, does: str) -> None:
    """Make sure that nothing is merged with time in a dimension.

    Raises:
        MergedTime: where time can be made to stand alone.
        Refusal: where it can't; the reason begins with ``does``.
    """
    factors = [f for f in op.layout(operand)[dim] if f.size != 1 or f.time]
    if len(factors) < 2:
        return
    reason = f"{does} in which time is merged with another"
    length = operand.meta["val"].shape[dim]
    entries = size(tuple(factors[1:]))
    if factors[0].time == 1 and not any(f.symbolic or f.time for f in factors[1:]):
        shares = {str(s) for s in getattr(length, "node", length).expr.free_symbols}
        if len(shares) == 1:
            raise MergedTime(operand, dim, entries, reason)
    raise Refusal(reason, "unflatten time in front of it")


def infinite(stop: Any) -> bool:
    """Whether a slice's end means "to the end"."""
    return stop is None or (isinstance(stop, int) and stop >= 2**31)


__all__ = [
    "RULES",
    "Attention",
    "CausalAttention",
    "Concatenated",
    "Kind",
    "Local",
    "MergedTime",
    "OpView",
    "Outcome",
    "Reduced",
    "Refusal",
    "Scanned",
    "SizeAtHand",
    "StepOnly",
    "Windowed",
    "alone",
    "hint",
    "infinite",
    "rule",
    "same_size",
    "whole_ratio",
    "wrap",
]
