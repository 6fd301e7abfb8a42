"""The interfaces of the analysis and the compiler that a kind of operator uses.

Protocols alone. The compiler fills them in, so that the rules need nothing of the compiler.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, fx, nn

from pgt_fx.core.clocks import Clock, Count, Part
from pgt_fx.core.layout import Axis
from pgt_fx.core.options import Options
from pgt_fx.runtime.plan_items import Item


class Operands(Protocol):
    """The operands of one operator, while the analysis looks for the clock of its result."""

    @property
    def common(self) -> Clock:
        """Clock of the elements that all operands with time have."""

    @property
    def ratio(self) -> tuple[int, ...]:
        """Frames of each input path for one of the path with the fewest."""

    def part(self, operand: fx.Node, length: int | None) -> Part:
        """An operand that is put before or after others along time, with its clock.

        Args:
            length: how many elements it has; None where it goes on.

        Raises:
            Refusal: for one made of frames that are not there when its turn comes.
        """


class Videos(Protocol):
    """The whole videos for which the graph is the model; an operator may rule some out.

    Each method raises a Refusal where the lengths left can't be determined.
    """

    def whole_groups(self, entries: int) -> None:
        """The operator takes its elements in groups of so many: there are whole groups."""

    def not_empty(self) -> None:
        """The operator's operand has elements."""


@dataclass(frozen=True)
class Context:
    """What one operator carries under CMCO and PMCO.

    Attributes:
        replaced: elements of its operand in whose place it carries something else.
        history: whether it carries any, for a momentum average to go on from.
    """

    replaced: frozenset[int] = frozenset()
    history: bool = False


class Cut(Protocol):
    """One operator in one step of a video that is cut.

    An element is *touched* where it is not the model's own: a padding was read that stands for a
    frame of the next step, or what is touched itself.

    Attributes:
        node: the operator.
        options: of the model.
        streams: operands with time.
        first, last: whether this is the first step, or the last.
        context: what the operator carries under CMCO and PMCO; a kind may set it.
    """

    node: fx.Node
    options: Options
    streams: list[fx.Node]
    first: bool
    last: bool
    context: Context

    @property
    def alone(self) -> bool:
        """Whether one step takes the whole video."""

    @property
    def marks(self) -> list[bool]:
        """The elements of the result so far: which are touched."""

    def touched(self, operand: fx.Node) -> list[bool]:
        """The elements of an operand so far: which are touched."""

    def element(self, operand: fx.Node, number: int) -> bool:
        """Whether an element of an operand is touched; of one without time, that of the frame which
        it is made of."""

    def pools(self) -> bool:
        """Whether an operand depends on a touched value that was pooled over time."""

    def then(self, value: fx.Node) -> Count:
        """How many elements a value had before this step."""

    def now(self, value: fx.Node) -> Count:
        """How many it has after it."""

    def whole(self, value: fx.Node) -> int:
        """How many it has of the whole video."""


class Standing(Protocol):
    """Where one operator stands in the model, as far as its verdict depends on it."""

    @property
    def op(self) -> str:
        """The operator's name, e.g. ``"group_norm"``."""

    @property
    def options(self) -> Options:
        """Of the model."""

    @property
    def gated(self) -> bool:
        """Whether its result stands for all of time and is combined with single frames again."""

    @property
    def joins(self) -> bool:
        """Whether its operands come with different delays."""

    @property
    def apart(self) -> bool:
        """Whether it takes the first frame to put it in front of a stream, and for nothing else."""

    @property
    def memory(self) -> int | None:
        """Elements of the past that it carries; None: all."""


class Emission(Protocol):
    """The place of one operator in the graph of a step, which the kind writes.

    Operands that come too early for the operator wait, and tables are made, before the kind is
    asked: :meth:`given` is what the operator is to be given.

    Attributes:
        node: the captured call.
        options: of the model.
        streams: operands with time.
    """

    node: fx.Node
    options: Options
    streams: list[fx.Node]

    @property
    def clock(self) -> Clock:
        """Clock of the (first) result."""

    @property
    def common(self) -> Clock:
        """Clock of the elements that all operands with time have."""

    @property
    def time_dim(self) -> int:
        """Dimension of time in the (single) result."""

    @property
    def memory(self) -> int | None:
        """Elements of the past to carry (:meth:`Kind.memory`); None: all."""

    def timed(self, operand: fx.Node) -> bool:
        """Whether an operand has a time axis."""

    def clock_of(self, operand: fx.Node) -> Clock:
        """Clock of an operand, as the operator is given it."""

    def axis(self, operand: fx.Node) -> Axis:
        """The time axis of an operand.

        Raises:
            LayoutError: where it can't be distinguished from others.
        """

    def slot(self, part: str = "") -> str:
        """A name in the state that no other operator has: that of the module, and ``part``."""

    def given(self, operand: fx.Node) -> fx.Node:
        """The node of the new graph that gives an operand."""

    def fresh(self, target: Any, *args: Any, **kwargs: Any) -> fx.Node:
        """A call in the new graph that stands for none of the captured ones."""

    def constant(self, label: str, value: Tensor) -> fx.Node:
        """The node of the new graph that gives a tensor known beforehand."""

    def carry(
        self, module: nn.Module, slot: str, inputs: Sequence[fx.Node], item: Item, of: fx.Node
    ) -> fx.Node:
        """A call of a Markov operator, which is given the step and ``inputs`` (captured nodes).

        Args:
            module: has an attribute ``slot``.
            item: how its work in a step is planned (:mod:`pgt_fx.runtime.plan`).
            of: the captured node whose elements it carries.
        """

    def call(self, args: Sequence[Any], kwargs: dict[str, Any]) -> None:
        """The operator itself, with these arguments, gives the result."""

    def result(self, new: fx.Node) -> None:
        """A node of the new graph gives the result."""

    def note(self, text: str) -> None:
        """What to print beside the result, when it has been given."""
