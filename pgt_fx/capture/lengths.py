"""Which lengths of video the captured graph is the model for: the branches that its Python took.

A model with a first frame apart takes 4n + 1 frames; another one branches on whether there is more
than one. The graph is the model where every condition that its own code asked still holds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import sympy
import torch
from torch import Tensor

from pgt_fx.capture.asked import Asked
from pgt_fx.capture.lines import is_ours, short, taken_as_number
from pgt_fx.errors import CaptureError

#: Periods that are tried, in frames.
STEPS = (1, 2, 4, 8, 16)
#: A capture at the clip's length and a multiple of this has its remainder for all of them.
PERIOD = STEPS[-1]


@dataclass(frozen=True)
class Lengths:
    """Numbers of frames of a whole video: ``least`` and more, ``rest`` modulo ``step``.

    For several input paths the frames of the path with the fewest.
    """

    least: int = 1
    step: int = 1
    rest: int = 0

    def allows(self, frames: int) -> bool:
        return frames >= self.least and frames % self.step == self.rest

    def fit(self, frames: int) -> int:
        """The next number of frames that is allowed."""
        frames = max(frames, self.least)
        return frames + (self.rest - frames) % self.step

    def some(self) -> list[int]:
        """Such numbers, by which what always holds is told from what holds for some: the least in a
        row, of all remainders, and a few large ones."""
        first, row = self.fit(1), range(64)
        return [first + self.step * k for k in (*(40, 41), *row, *range(300, 316), 4999)]

    def __str__(self) -> str:
        words = []
        if self.step > 1:
            words.append(f"{self.step}n" + (f" + {self.rest}" if self.rest else ""))
        if self.least > max(1, self.rest or self.step):
            words.append(f"at least {self.least}")
        return ", ".join(words) or "any number"


@dataclass(frozen=True)
class _Condition:
    """A condition on sizes that the model's own code asked, and where; or that torch made of it
    (``number``), as it takes a number for a size there."""

    expr: Any
    where: str
    line: str
    number: bool = False

    def holds(self, at: dict[Any, Any]) -> bool:
        return value_of(self.expr, at) != sympy.false


def allowed_lengths(
    program: Any,
    symbols: frozenset[sympy.Symbol],
    sample: Sequence[int],
    clip: int,
    asked: Sequence[Asked] = (),
    other: Mapping[Any, Any] = MappingProxyType({}),
) -> Lengths:
    """The lengths at which the model's Python goes the way that was captured.

    Conditions that torch itself asks while capturing (how a ceil-mode window falls, whether a
    size is 1) don't bind the rules here, which compute every length anew.

    Args:
        sample: frames per path in the capture.
        clip: frames of the example, in the path with the fewest.
        asked: what the model's own code asked of sizes.
        other: the values of the symbols in it that are not time's.

    Raises:
        CaptureError: naming the condition and the line, where no such lengths hold the clip's.
    """
    heard = {a.where for a in asked}
    bound = [c for c in _conditions(program, symbols) if c.where not in heard]
    for a in asked:
        expr = a.given(other)
        if getattr(expr, "free_symbols", frozenset()) & symbols:
            bound.append(_Condition(expr, a.where, a.line))
    if not bound:
        return Lengths()
    table, base = known_sizes(_sizes(program)[0]), min(sample)
    tried = (*range(1, 2 * base + PERIOD), 3 * base, *range(7 * base, 7 * base + PERIOD))
    broken: dict[int, _Condition] = {}
    for n in tried:
        at = {
            s: sympy.Integer(v) * (sympy.Rational(n, base) if s in symbols else 1)
            for s, v in table.items()
        }
        wrong = next((c for c in bound if not c.holds(at)), None)
        if wrong is not None:
            broken[n] = wrong
    for step in STEPS:
        against = [n for n in tried if n % step == clip % step and n in broken]
        if max(against, default=0) < clip:
            lengths = Lengths(1, step, clip % step)
            return Lengths(lengths.fit(max(against, default=0) + 1), step, clip % step)
    n, wrong = next(iter(broken.items()))
    if wrong.number:
        raise CaptureError(
            f"{wrong.where}: {wrong.line}\n    what is calculated from the number of frames has to "
            f"be a plain number here ({wrong.expr} held in the capture, and does not at {n} "
            "frames), so that no one graph is the model. Make it a constant, or leave it outside "
            "the model"
        )
    raise CaptureError(
        f"{wrong.where}: {wrong.line}\n    the model branches in Python on the number of frames "
        f"({wrong.expr} held in the capture, and does not at {n} frames), so that no one "
        "graph is the model. Write the branch with tensor operators, or leave it "
        "outside the model"
    )


def _conditions(program: Any, symbols: frozenset[sympy.Symbol]) -> Iterator[_Condition]:
    sizes = _sizes(program)
    for guard in sizes[0].node.shape_env.guards if sizes else ():
        frame: Any = getattr(guard.sloc, "framework_loc", None)
        if not isinstance(guard.expr, sympy.Basic) or not (guard.expr.free_symbols & symbols):
            continue
        file = getattr(frame, "filename", "")
        line = (getattr(frame, "line", "") or "").strip()
        if file and not is_ours(file):
            yield _Condition(guard.expr, f"{short(file)}:{frame.lineno}", line)
        elif is_ours(file) and isinstance(guard.expr, sympy.Eq):
            known = taken_as_number(sizes[0].node.shape_env)
            place = next((known[e] for e in guard.expr.args if e in known), None)
            if place is not None:
                yield _Condition(guard.expr, place.source, place.line, number=True)


def known_sizes(size: torch.SymInt | torch.SymFloat) -> dict[Any, int]:
    """The symbols of a capture with their values there."""
    env: Any = size.node.shape_env
    table = getattr(env, "backed_var_to_val", None) or env.var_to_val  # renamed within torch 2
    return {symbol: int(value) for symbol, value in table.items()}


def at_lengths(
    known: dict[Any, int], symbols: frozenset[sympy.Symbol], lengths: Lengths | None
) -> list[dict[Any, Any]]:
    """The symbols of a capture with their values for whole videos of some allowed lengths.

    Args:
        known: their values in the capture.
        symbols: those of the time axes.
        lengths: None: some that have the capture's remainders.
    """
    base = min(known[s] for s in symbols)
    out = []
    for n in (base, base + 3 * PERIOD, base + 6 * PERIOD) if lengths is None else lengths.some():
        if all(known[s] * n % base == 0 for s in symbols):
            at = {s: v * n // base if s in symbols else v for s, v in known.items()}
            out.append({s: sympy.Integer(v) for s, v in at.items()})
    return out


def value_at(size: Any, at: dict[Any, Any]) -> Any:
    """A size of a capture for other values of its symbols; None where it has none."""
    return sympy.sympify(size) if isinstance(size, (int, float)) else value_of(size.node.expr, at)


def value_of(expr: Any, at: dict[Any, Any]) -> Any:
    """See :func:`value_at`."""
    try:
        value = expr.xreplace(at)
    except (ArithmeticError, AssertionError, TypeError, ValueError):  # a division by zero
        return None
    return None if value in (sympy.nan, sympy.zoo) else value


def _sizes(program: Any) -> list[Any]:
    values = [n.meta.get("val") for n in program.graph.nodes if n.op == "placeholder"]
    shapes: list[Any] = [s for v in values if isinstance(v, Tensor) for s in v.shape]
    return [s for s in shapes if isinstance(s, torch.SymInt)]
