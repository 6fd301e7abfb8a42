"""The contract of a kind of operator: all that is known of how it treats time, in one class."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from torch import fx

from pgt_fx.core.clocks import Clock
from pgt_fx.core.errors import Refusal
from pgt_fx.core.law import Law
from pgt_fx.core.layout import Layout
from pgt_fx.core.options import Options
from pgt_fx.rules.kinds.protocols import Cut, Emission, Operands, Standing, Videos
from pgt_fx.rules.kinds.spans import Spans, followed
from pgt_fx.rules.kinds.verdicts import Drawn, Mixing, Verdict


class Kind(ABC):
    """What an operator does along time; a rule answers with one.

    A kind is a frozen dataclass with what a rule knows of one call. The analysis asks it for the
    clock of its result and for what it reads, the compiler lets it write its part of a step's
    graph, and report and doctor let it say what it is. To add a kind is to write one class: nothing
    else asks which kind an operator has.

    The methods without a body are those that no default can be right for; the others have that of
    an operator of which each element is computed from the elements at its own place.

    Attributes:
        layout: axes of the result; a list for operators with several results, of which the first
            has time.
        args: arguments of the call in a step in place of the captured ones, by schema name.
        aligns: operands that come early wait for those that come late. Without it the operator is
            given each as it comes.
        commits: elements that may yet change (padding after the last frame known) are taken for
            good.
        pools: a result without time stands for all elements so far, or of the step.
        rederived: no argument may be calculated from the number of frames of the video, which a
            step doesn't know, unless ``args`` has another in its place.
        needs_one: a video in which its operand has no element is none that the model takes.
        attends: it is a product of an attention, whose mask may hide what it could read.
        even: its operands have as many elements as each other in every video that the model takes.
        queries: schema name of the operand for each of whose elements every other operand with time
            must have one; "" for none.
        frame_by_frame: an element depends on the elements at its own place and on nothing else.
        takes_first: the result is the first element alone, which is there from the first step on.
        causal_keys: of an attention's keys it sees those so far, not the video's.
    """

    layout: Layout | list[Layout | None]
    args: dict[str, Any]

    aligns: ClassVar[bool] = True
    commits: ClassVar[bool] = False
    pools: ClassVar[bool] = False
    rederived: ClassVar[bool] = True
    even: ClassVar[bool] = False
    attends: ClassVar[bool] = False
    needs_one: ClassVar[bool] = False
    frame_by_frame: ClassVar[bool] = False
    causal_keys: ClassVar[bool] = False

    # -- the analysis --------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """The kind, as the report's graph names it."""
        return type(self).__name__.lower()

    @property
    def queries(self) -> str:
        return ""

    @property
    def takes_first(self) -> bool:
        return False

    @abstractmethod
    def clock(self, operands: Operands) -> Clock | None:
        """How many elements the result has after so many frames; None for one without time.

        Raises:
            Refusal: where it can't be determined.
        """

    def asks(self, videos: Videos) -> None:
        """Rule out the lengths of video at which the graph is not the model."""
        return

    def beside_tables(self, reason: str, *, restarts: bool) -> Kind:
        """The kind of the same call where some of its operands are tables that the model makes from
        the number of frames (positions, masks).

        Args:
            reason: why a table's rows are not those of the video; "" where they are.
            restarts: they are in the first step.

        Raises:
            Refusal: where no operand may be a table.
        """
        raise Refusal(
            "a table made from the number of frames stands where a weight or the video should",
            "combine it with the video by an elementwise operator",
        )

    # -- what it reads -------------------------------------------------------------------------

    @abstractmethod
    def reads(self) -> Law | None:
        """Which elements of its operands an element reads; None: those at its own place, all
        (:attr:`reads_all`) or all so far (:attr:`reads_past`)."""

    @property
    def reads_all(self) -> bool:
        """Whether an element reads all of time."""
        return False

    @property
    def reads_past(self) -> bool:
        """Whether an element reads all elements before its own."""
        return False

    def spans(
        self, operands: list[dict[int, Spans]], count: int, lengths: tuple[int, ...]
    ) -> dict[int, Spans]:
        """Which frames the elements of the result read (:func:`pgt_fx.rules.kinds.spans.followed`);
        of one that reads the past, those at their own place and after it."""
        return followed(self.reads(), operands, count, lengths)

    # -- what a cut touches --------------------------------------------------------------------

    @abstractmethod
    def touched(self, number: int, cut: Cut) -> bool:
        """Whether an element that is handed on in this step is touched by a cut."""

    def touched_whole(self, cut: Cut) -> bool:
        """Whether a result without time is touched, after this step."""
        return any(any(cut.touched(s)) for s in cut.streams)

    def touched_state(self, cut: Cut) -> bool:
        """Whether a second result is touched that stands for all elements so far."""
        return False

    def after(self, cut: Cut) -> None:
        """Note what the next step needs to know (``cut.context``)."""
        return

    # -- a step --------------------------------------------------------------------------------

    @abstractmethod
    def emit(self, step: Emission) -> None:
        """Write the operator into the graph of a step.

        By a call of the operator itself (``step.call``), or by a Markov operator that carries what
        the next step needs (``step.carry``) with the item by which its work is planned.
        """

    def folds(self, options: Options, *, clip_pools: bool) -> bool:
        """Whether it does the same in a step as in the model, so that a module of the model that
        holds no other operators can be called whole.

        Args:
            clip_pools: a pool over exactly the clip may stand for one over all of time.
        """
        return False

    def opened(self, options: Options) -> tuple[fx.Node, ...]:
        """Values inside of modules that its part of a step's graph reads, beside its operands: a
        module that holds one in its middle can't be called whole."""
        return ()

    @property
    def may_wait(self) -> bool:
        """Whether it gives the same if its operand waits as if its result does, in ``eval()`` at
        least."""
        return self.frame_by_frame

    def sliding(self) -> Law | None:
        """The law of the window that slides along its operand, whose last elements it carries; None
        for what is no window."""
        return None

    def carries(self, seen: int, outs: int) -> int:
        """How many of ``seen`` elements of its operand it carries when ``outs`` are out. What is
        carried of anything else (sums, keys) counts nothing here."""
        return 0

    def remembers(self, options: Options) -> bool:
        """Whether it carries keys or values of an attention."""
        return False

    def memory(self, options: Options, clip: int) -> int | None:
        """Elements of keys or values that it carries; None: all of the video's.

        Args:
            clip: elements that it has of one clip.
        """
        return 0

    # -- what report and doctor say ------------------------------------------------------------

    def words(self, op: str) -> str:
        """The operator in short words; ``op`` is its name."""
        return op

    @abstractmethod
    def verdict(self, standing: Standing) -> Verdict:
        """Its row in the report."""

    def mixing(self, *, gated: bool) -> Mixing | None:
        """Its row in the doctor's list of operators that need all of time; None for the others."""
        return None

    def to_stream(self, op: str, *, gated: bool) -> str:
        """What to do about an operator that needs all of time."""
        return ""

    def to_look_back(self, rank: int, pad: tuple[int, int] | None) -> str:
        """How an operator that reads the future could read the past instead; "" where it doesn't.

        Args:
            rank: dimensions of the result.
            pad: padding, left and right, of an ``F.pad`` in front of it, if any.
        """
        return ""

    def drawn(self, op: str, *, ahead: int, gated: bool, joins: bool) -> Drawn | None:
        """Its box in the doctor's picture; None for what does nothing along time.

        Args:
            ahead: frames that it looks into the future.
        """
        return None
