"""The registry of operator rules, what a rule is given and what it may answer.

A rule is a function ``rule(op: OpView) -> Outcome`` registered under ATen operator names. It is
called only for operators with at least one operand that has a time axis; an operator on values
without time runs as it is. An operator without a rule is a blocker: the unknown is never taken
to be pointwise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx

from pgt_fx.layout import Layout
from pgt_fx.timeline import Law


class Refusal(Exception):
    """Raised by a rule that knows the operator and can't make it progressive."""

    def __init__(self, reason: str, remedy: str = "") -> None:
        super().__init__(reason)
        self.reason, self.remedy = reason, remedy


@dataclass(frozen=True)
class Local:
    """Time-local: output element i depends on element i of every operand that has time.

    Attributes:
        layout: of the result; a list for operators with several results.
        args: arguments to call with instead of the captured ones (shape arithmetic re-derived
            from the operand at hand), by schema name.
        note: for the report.
    """

    layout: Layout | list[Layout | None]
    args: dict[str, Any] = field(default_factory=dict)
    note: str = ""
    kind: str = "local"


@dataclass(frozen=True)
class Windowed:
    """A window along time: the operator runs on carried tail + new elements.

    Attributes:
        law: which input elements an output reads.
        layout: of the result.
        source: schema name of the operand that carries time.
        args: arguments of the call in a step: padding along time taken out.
        call: function to call instead of the operator itself.
        fill: value of the padding elements.
        mode: padding mode of ``law`` as ``F.pad`` calls it.
        mean: "include" / "exclude" for average pools (``count_include_pad``).
        what: short words for the report, e.g. ``"conv k=3 s=1 p=1"``.
    """

    law: Law
    layout: Layout
    source: str
    args: dict[str, Any] = field(default_factory=dict)
    call: Callable[..., Any] | None = None
    fill: float = 0.0
    mode: str = "constant"
    mean: str = ""
    what: str = ""


@dataclass(frozen=True)
class Reduced:
    """All elements become one: mean, max … over time. ``pooling`` says over which elements.

    Attributes:
        how: "mean" | "sum" | "max" | "min" | "var" | "std" | "last" | "first" | "any" | "all".
        dims: dimensions reduced (time's among them).
        keepdim: whether they stay with size 1.
        options: for var / std: ``{"correction": 1}``.
    """

    how: str
    layout: Layout
    source: str
    dims: tuple[int, ...]
    keepdim: bool
    options: dict[str, Any] = field(default_factory=dict)
    what: str = ""


@dataclass(frozen=True)
class StepOnly:
    """Mixes all of time in a way that no bounded state reproduces: computed within the step.

    ``exact_alone``: with one step over the whole video the result is the model's own (always so).
    ``training``: the mixing is that of batch statistics and is absent in ``eval()``.
    """

    layout: Layout | list[Layout | None]
    reason: str
    args: dict[str, Any] = field(default_factory=dict)
    training: bool = False


Outcome = Local | Windowed | Reduced | StepOnly
Rule = Callable[["OpView"], Outcome]
RULES: dict[str, Rule] = {}


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Register a rule under ATen operator names (without overload)."""

    def register(function: Rule) -> Rule:
        for name in names:
            if f"aten::{name}" in RULES:
                raise ValueError(f"two rules for aten::{name}")
            RULES[f"aten::{name}"] = function
        return function

    return register


class OpView:
    """One call of an ATen operator as its rule sees it: arguments by name, layouts of operands.

    Attributes:
        node: the fx node.
        schema: the operator's schema.
        arg: arguments by schema name, defaults filled in; tensors are fx nodes.
    """

    def __init__(self, node: fx.Node, layouts: Callable[[fx.Node], Layout | None]) -> None:
        self.node = node
        self.schema = node.target._schema  # type: ignore[union-attr]
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


def wrap(dim: int, rank: int) -> int:
    """A dimension number counted from the front."""
    return dim + rank if dim < 0 else dim


def infinite(stop: Any) -> bool:
    """Whether a slice's end means "to the end"."""
    return stop is None or (isinstance(stop, int) and stop >= 2**31)


__all__ = [
    "RULES",
    "Local",
    "OpView",
    "Outcome",
    "Reduced",
    "Refusal",
    "StepOnly",
    "Windowed",
    "hint",
    "infinite",
    "rule",
    "wrap",
]
