"""Which lengths of video the captured graph is the model for: the branches that its Python took.

A model with a first frame apart takes 4n + 1 frames; another one branches on whether there are more
than 300. The graph is the model where every condition that its own code asked still holds: a set of
lengths that is worked out exactly (:mod:`pgt_fx.core.lengths.functions`).
"""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import sympy
import torch
from torch import Tensor, fx

from pgt_fx.capture.guards.symbolic_sizes import expression
from pgt_fx.capture.observe.failing_line import taken_as_number
from pgt_fx.capture.observe.model_lines import is_ours, short
from pgt_fx.capture.observe.module_calls import place
from pgt_fx.capture.observe.size_questions import Asked
from pgt_fx.capture.schema import named, schema_name
from pgt_fx.core.counts import counted
from pgt_fx.core.errors import CaptureError, ClipError, Place
from pgt_fx.core.lengths.from_sympy import LengthReader
from pgt_fx.core.lengths.sets import ANY_LENGTH, LengthSet, NotQuasiLinear
from pgt_fx.core.torch_private import schema_if_any


@dataclass(frozen=True)
class Condition:
    """A condition on the number of frames, and the line of the model that asked for it.

    Attributes:
        lengths: at which it holds.
        text: the condition, in symbols.
        number: torch took a number for a size there.
        mixed: it depends on the batch or the space as well.
    """

    lengths: LengthSet
    where: str = ""
    line: str = ""
    text: str = ""
    number: bool = False
    mixed: bool = False

    @property
    def place(self) -> str:
        return f"{self.where}: {self.line}" if self.where else ""


@dataclass(frozen=True)
class Lengths:
    """Numbers of frames that a whole video may have; of several input paths those of the path with
    the fewest.

    >>> str(prog.video_lengths)
    '4n + 1, at least 5'
    >>> prog.video_lengths.allows(9), prog.video_lengths.fit(10)
    (True, 13)

    Attributes:
        numbers: the set of them.
        conditions: what the set is made of, with the lines of the model.
    """

    numbers: LengthSet = ANY_LENGTH
    conditions: tuple[Condition, ...] = field(default=(), compare=False)

    def allows(self, frames: int) -> bool:
        """Whether a video may have so many frames."""
        return frames in self.numbers

    def fit(self, frames: int) -> int:
        """The next number of frames that is allowed.

        Raises:
            ClipError: when no video may have so many frames, or more.
        """
        found = self.numbers.next(frames)
        if found is None:
            raise ClipError(
                f"this model takes videos of {self} frames: none of {frames} or more"
                + self._because(frames, last=False)
            )
        return found

    def near(self, frames: int) -> int:
        """The next number of frames that is allowed, or the largest where all are fewer."""
        found = self.numbers.next(frames)
        return found if found is not None else self.numbers.previous(frames) or 1

    @property
    def least(self) -> int:
        """The fewest frames."""
        return self.numbers.least or 1

    @property
    def most(self) -> int | None:
        """The most frames; None: there is no limit."""
        return self.numbers.most

    def check(self, frames: int, last: bool) -> None:
        """Make sure that a video which has had so many frames may end so, or go on to an end.

        Raises:
            ClipError: naming the line of the model that takes no such video.
        """
        if last and not self.allows(frames):
            raise ClipError(
                f"this model takes videos of {self} frames, and this one ends at {frames}; cut it "
                f"or pad it to such a length{self._because(frames, last=True)}"
            )
        if not last and self.numbers.next(frames) is None:
            raise ClipError(
                f"this model takes videos of {self} frames, and this one has had {frames} already; "
                f"end it before (last=True){self._because(frames, last=False)}"
            )

    def _because(self, frames: int, last: bool) -> str:
        found = None
        for c in self.conditions:
            if frames not in c.lengths if last else c.lengths.next(frames) is None:
                found = found or c
        return f"\n    {found.place} ({found.text})" if found is not None and found.where else ""

    def within(self, condition: Condition) -> Lengths:
        """Those at which a condition holds as well."""
        numbers = self.numbers & condition.lengths
        if numbers == self.numbers:
            return self
        return replace(self, numbers=numbers, conditions=(*self.conditions, condition))

    def __str__(self) -> str:
        return str(self.numbers)


class OtherBranch(CaptureError):
    """The model's Python goes another way at the clip's length than it went in the capture.

    Attributes:
        like_clip: the lengths at which it answers what it was asked as at the clip's.
        mixed: the answer depends on the batch or the space as well.
    """

    like_clip: LengthSet
    mixed: bool


def allowed_lengths(
    program: Any,
    symbols: frozenset[sympy.Symbol],
    sample: Sequence[int],
    clip: int,
    asked: Sequence[Asked] = (),
    other: Mapping[Any, Any] = MappingProxyType({}),
    tried: Collection[tuple[str, str]] = (),
    measured: Collection[tuple[Any, Place]] = (),
) -> Lengths:
    """The lengths at which the model's Python goes the way that was captured.

    Conditions that torch itself asks while capturing (how a ceil-mode window falls, whether a slice
    ends after the video, whether a size is 1) don't bind the rules here, which compute every length
    anew.

    Args:
        sample: frames per path in the capture.
        clip: frames of the example, in the path with the fewest.
        asked: what the model's own code asked of sizes.
        other: the values of the symbols in it that are not time's.
        tried: lines on which the error of a call is caught, or it is asked how a tensor lies in
            memory, so that what torch asks there binds.
        measured: conditions under which values of which the model uses no more than a size have the
            size that the capture gave them, and where they are made.

    Raises:
        OtherBranch: where the clip is not among them for a branch of the model.
        CaptureError: naming the condition and the line, where it is not for another reason, or
            where the lengths at which a condition holds can't be determined.
    """
    sizes = _sizes(program)
    known = known_sizes(sizes[0]) if sizes else {}
    reader = LengthReader({s: known[s] // min(sample) for s in symbols if s in known})
    found = [*_of_python(reader, asked, other), *_of_torch(reader, program, known, asked, tried)]
    for expr, made in measured:
        with contextlib.suppress(NotQuasiLinear):
            as_captured = reader.holds(expr)
            text = "its size is that of the capture"
            found.append(Condition(as_captured, made.source, made.line, text))
    lengths = Lengths()
    for condition in found:
        lengths = lengths.within(condition)
    wrong = next((c for c in lengths.conditions if clip not in c.lengths), None)
    if wrong is None:
        return lengths
    held = f"{wrong.text} held in the capture, and does not at {counted(clip, 'frame')}"
    if wrong.number:
        raise CaptureError(
            f"{wrong.place}\n    what is calculated from the number of frames has to be a plain "
            f"number here ({held}), so that no one graph is the model. Make it a constant, or "
            "leave it outside the model"
        )
    error = OtherBranch(
        f"{wrong.place}\n    the model branches in Python on the number of frames T ({held}), so "
        "that no one graph is the model. Write the branch with tensor operators, or leave it "
        "outside the model"
    )
    error.like_clip, error.mixed = ANY_LENGTH, wrong.mixed
    for c in found:
        error.like_clip &= c.lengths if clip in c.lengths else ~c.lengths
    raise error


def _of_python(
    reader: LengthReader, asked: Sequence[Asked], other: Mapping[Any, Any]
) -> Iterator[Condition]:
    """What the model's own code asked, in a branch or an assertion."""
    for a in asked:
        expr = a.given(other)
        if not reader.of_length(expr):
            continue
        try:
            mixed = bool(a.expr.free_symbols - reader.ratios.keys())
            text = _written(expr, reader)
            yield Condition(reader.holds(expr), a.where, a.line, text, mixed=mixed)
        except NotQuasiLinear as error:
            raise CaptureError(
                f"{a.where}: {a.line}\n    the model branches in Python on the number of frames T, "
                "and at which it takes the branch that was captured can't be determined "
                f"({_written(expr, reader)}: {_written(error, reader)}). Branch on sums, whole "
                "multiples, quotients and remainders of it, or leave the branch outside the model"
            ) from error


def _of_torch(
    reader: LengthReader,
    program: Any,
    known: Mapping[Any, int],
    asked: Sequence[Asked],
    tried: Collection[tuple[str, str]],
) -> Iterator[Condition]:
    """Numbers that torch took for sizes, and what its operators asked on lines of the model."""
    sizes = _sizes(program)
    if not sizes:
        return
    env: Any = sizes[0].node.shape_env
    at = {s: sympy.Integer(v) for s, v in known.items()}
    others = {s: v for s, v in at.items() if s not in reader.ratios}
    for expr, taken in taken_as_number(env).items():
        value = value_of(expr, at)
        if not reader.of_length(expr) or value is None:
            continue
        condition = sympy.Eq(expr.xreplace(others), value)
        try:
            held = reader.holds(condition)
        except NotQuasiLinear:
            held = LengthSet.of([min(known[s] // r for s, r in reader.ratios.items())])
        text = f"Eq({_written(expr, reader)}, {value})"
        yield Condition(held, taken.source, taken.line, text, number=True)
    heard, ways = {a.where for a in asked}, {where for where, _ in tried}
    for guard in env.guards:
        frame: Any = getattr(guard.sloc, "framework_loc", None)
        file = getattr(frame, "filename", "")
        line = (getattr(frame, "line", "") or "").strip()
        where = f"{short(file)}:{frame.lineno}" if file else ""
        if not file or is_ours(file) or where in heard:
            continue  # of torch's own, or known
        if not isinstance(guard.expr, sympy.Basic) or not reader.of_length(guard.expr):
            continue
        try:
            held = reader.holds(guard.expr.xreplace(others))
        except NotQuasiLinear as error:
            if where not in ways:
                continue
            raise CaptureError(
                f"{where}: {line}\n    the model catches an error of this call, or asks how a "
                "tensor lies in memory, and at which lengths it takes the branch that was captured "
                f"can't be determined ({_written(error, reader)}). Branch on the sizes in an if, "
                "or leave that part outside the model"
            ) from error
        # A lower bound is torch's own: the rules compute a short video's lengths as well.
        binds = isinstance(guard.expr, (sympy.Eq, sympy.Ne)) or not (~held).is_finite
        if binds or where in ways:
            yield Condition(held, where, line, _written(guard.expr, reader))


def sizes_of_unused_slices(graph: fx.Graph) -> list[tuple[Any, Place]]:
    """Of each slice of which the graph uses nothing, but whose size the model may have read, the
    condition under which it is as large as in the capture: ``x[:, :, :5].shape[2]`` is 5 in a video
    of 5 frames or more. Slices that are used are counted by their rule."""
    out = []
    unused: set[fx.Node] = set()
    for node in reversed(graph.nodes):
        schema = schema_if_any(node.target)
        if node.op != "call_function" or not all(user in unused for user in node.users):
            continue
        if schema is not None and schema.is_mutable:
            continue  # what it writes may be read
        unused.add(node)
        if schema_name(node) != "aten::slice":
            continue
        given = named(node)
        dim, value = given["dim"], node.meta["val"]
        whole = expression(given["self"].meta["val"].shape[dim])
        first, last = (
            _inside(default if given[edge] in (None, sys.maxsize) else given[edge], whole)
            for edge, default in (("start", 0), ("end", whole))
        )
        count = sympy.Max(0, sympy.floor((last - first + given["step"] - 1) / given["step"]))
        size = expression(value.shape[dim])
        if count != size:
            out.append((sympy.Eq(count, size, evaluate=False), place(node)))
    return out


def _inside(edge: Any, whole: Any) -> Any:
    """Where a slice begins or ends, of so many elements as there are."""
    at = expression(edge.meta["val"] if isinstance(edge, fx.Node) else edge)
    return sympy.Min(sympy.Max(0, at + whole if at.is_negative else at), whole)


def _written(expr: Any, reader: LengthReader) -> str:
    """An expression with T for the number of frames."""
    text = str(expr)
    for symbol, ratio in reader.ratios.items():
        text = re.sub(rf"\b{symbol}\b", "T" if ratio == 1 else f"({ratio}*T)", text)
    return text


def known_sizes(size: torch.SymInt | torch.SymFloat) -> dict[Any, int]:
    """The symbols of a capture with their values there."""
    env: Any = size.node.shape_env
    table = getattr(env, "backed_var_to_val", None) or env.var_to_val  # renamed within torch 2
    return {symbol: int(value) for symbol, value in table.items()}


def value_of(expr: Any, at: dict[Any, Any]) -> Any:
    """An expression for values of its symbols; None where it has none."""
    try:
        value = expr.xreplace(at)
    except (ArithmeticError, AssertionError, TypeError, ValueError):  # a division by zero
        return None
    return None if value in (sympy.nan, sympy.zoo) else value


def _sizes(program: Any) -> list[Any]:
    values = [n.meta.get("val") for n in program.graph.nodes if n.op == "placeholder"]
    shapes: list[Any] = [s for v in values if isinstance(v, Tensor) for s in v.shape]
    return [s for s in shapes if isinstance(s, torch.SymInt)]
