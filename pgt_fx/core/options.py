"""Options of a progressive model: frozen, checked when made."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from typing import Any, Literal, TypedDict, Unpack

from pgt_fx.core.errors import OptionError

Operator = Literal["mco", "cmco-avg", "cmco-max", "pmco"]
Aggregate = Literal["none", "avg", "max"]
Future = Literal["zero", "wait"]
Pooling = Literal["step", "running", "markov"]
ClipPools = Literal["auto", "window", "global"]
Attention = Literal["step", "memory"]
Positions = Literal["farthest", "none"]


def _choice(name: str, value: Any, allowed: tuple[str, ...]) -> None:
    if not isinstance(value, str) or value not in allowed:
        near = get_close_matches(str(value), allowed, 1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise OptionError(f"{name}: expected one of {', '.join(allowed)}, got {value!r}{hint}")


@dataclass(frozen=True)
class MarkovOperator:
    """What a temporal operator finds in the past of a step (PGT paper, section 3.2; DESIGN §7).

    Attributes:
        aggregate: "none" carries the last elements of the previous step (MCO); "avg" and "max"
            an aggregate of the whole previous step (CMCO).
        momentum: weight of the history in the momentum average over all previous steps (PMCO);
            0 means the previous step alone.

    Raises:
        OptionError: for an unknown aggregate or a momentum outside [0, 1).
    """

    aggregate: Aggregate = "none"
    momentum: float = 0.0

    def __post_init__(self) -> None:
        _choice("aggregate", self.aggregate, ("none", "avg", "max"))
        if not 0.0 <= self.momentum < 1.0:
            raise OptionError(f"momentum: expected a number in [0, 1), got {self.momentum!r}")

    @property
    def exact(self) -> bool:
        """Whether the past is the last elements themselves (MCO)."""
        return self.aggregate == "none" and not self.momentum


#: The paper's operators by name; its momentum is 0.25 in the authors' code (0.1 on AVA). Others,
#: such as Charades' max with momentum, are written ``MarkovOperator("max", 0.25)``.
OPERATORS: dict[Operator, MarkovOperator] = {
    "mco": MarkovOperator(),
    "cmco-avg": MarkovOperator("avg"),
    "cmco-max": MarkovOperator("max"),
    "pmco": MarkovOperator("none", 0.25),
}


@dataclass(frozen=True)
class AttentionMemory:
    """How much of the past an attention over time finds beside the frames of its step (DESIGN §6).

    Keys and values of earlier frames are carried; they are detached, as the past always is. The
    authors' non-local blocks read those of the previous step: one clip.

    Attributes:
        clips: how many, in lengths of the example clip; whole clips where a step is a clip.
        beside: whether they are seen beside the keys of the step; False: in place of them, from the
            second step on (the authors' block reads those of the previous step alone). Attention
            with a causal mask always sees both.
        positions: a model whose step is a clip may add a table of positions to its attention, which
            reaches as far back as a clip. "farthest": entries that are as far away as the carried
            keys are used where the table depends on distances alone, and else the farthest that it
            has; "none": nothing is added for carried keys. Rotary positions are continued in either
            case.

    Raises:
        OptionError: for a number of clips that is not above 0, or another word or value.
    """

    clips: float = 1.0
    beside: bool = True
    positions: Positions = "farthest"

    def __post_init__(self) -> None:
        if not isinstance(self.beside, bool):
            raise OptionError(f"beside: expected True or False, got {self.beside!r}")
        _choice("positions", self.positions, ("farthest", "none"))
        if isinstance(self.clips, bool) or not self.clips > 0:
            raise OptionError(f"clips: expected a number above 0, got {self.clips!r}")

    def elements(self, clip: int) -> int:
        """Elements carried by an operator that has ``clip`` of them in a clip."""
        return max(1, math.ceil(self.clips * clip))

    @property
    def whole_clips(self) -> int:
        """Clips carried where a step is a clip."""
        return max(1, math.ceil(self.clips))


class Changes(TypedDict, total=False):
    """Arguments of :meth:`pgt_fx.Progressive.replace`."""

    operator: Operator | MarkovOperator
    future: Future
    pooling: Pooling
    strict: bool
    attention: Attention | AttentionMemory


@dataclass(frozen=True)
class Options:
    """The policies of one progressive model; see :func:`pgt_fx.transform`."""

    operator: Operator | MarkovOperator = "mco"
    future: Future = "zero"
    pooling: Pooling = "step"
    strict: bool = True
    attention: Attention | AttentionMemory = "step"
    markov: MarkovOperator = field(init=False, repr=False)
    memory: AttentionMemory | None = field(init=False, repr=False)

    def __post_init__(self) -> None:
        _choice("future", self.future, ("zero", "wait"))
        _choice("pooling", self.pooling, ("step", "running", "markov"))
        if not isinstance(self.strict, bool):
            raise OptionError(f"strict: expected True or False, got {self.strict!r}")
        if isinstance(self.operator, MarkovOperator):
            markov = self.operator
        else:
            _choice("operator", self.operator, tuple(OPERATORS))
            markov = OPERATORS[self.operator]
        object.__setattr__(self, "markov", markov)
        memory: AttentionMemory | None = None
        if isinstance(self.attention, AttentionMemory):
            memory = self.attention
        else:
            _choice("attention", self.attention, ("step", "memory"))
            memory = AttentionMemory() if self.attention == "memory" else None
        object.__setattr__(self, "memory", memory)

    def replace(self, **changes: Unpack[Changes]) -> Options:
        """These options with some changed.

        Raises:
            OptionError: for an unknown option, naming the nearest one.
        """
        known = [f.name for f in fields(self) if f.init]
        for name in changes:
            if name not in known:
                near = get_close_matches(name, known, 1)
                hint = f" (did you mean {near[0]!r}?)" if near else ""
                raise OptionError(f"unknown option {name!r}{hint}; options: {', '.join(known)}")
        kept: dict[str, Any] = {name: getattr(self, name) for name in known}
        return Options(**{**kept, **changes})


def check_clip_pools(value: ClipPools) -> ClipPools:
    """Validate the ``clip_pools`` option of :func:`pgt_fx.transform`."""
    _choice("clip_pools", value, ("auto", "window", "global"))
    return value
