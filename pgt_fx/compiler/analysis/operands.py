"""The operands of an operator: which of them must wait for one another, and which are made from
the length of the video."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, fx

from pgt_fx.capture.attention.find_attention import NOTE
from pgt_fx.capture.schema import named
from pgt_fx.compiler.analysis.length_tables import PairTable, table_graph
from pgt_fx.compiler.analysis.timed_graph import Analysis, Operation
from pgt_fx.compiler.analysis.video_lengths import not_empty, part_of, whole_groups
from pgt_fx.core.clock_equality import covers, same, samples
from pgt_fx.core.clocks import Clock, JoinClock, Part
from pgt_fx.core.layout import time_dims
from pgt_fx.core.torch_private import schema_of
from pgt_fx.rules import Kind, Refusal
from pgt_fx.rules.pointwise import CLIP_TABLE, LENGTH_TABLE
from pgt_fx.rules.registry import SizeAtHand


@dataclass(frozen=True)
class ClocksOf:
    """The operands of one operator, as its kind is shown them
    (:class:`pgt_fx.rules.kinds.protocols.Operands`)."""

    analysis: Analysis
    aligned: Clock | None

    @property
    def common(self) -> Clock:
        if self.aligned is None:
            raise AssertionError("operands that are not aligned have no clock in common")
        return self.aligned

    @property
    def ratio(self) -> tuple[int, ...]:
        return self.analysis.spec.ratio

    def part(self, operand: fx.Node, length: int | None) -> Part:
        return part_of(self.analysis, operand, length)


@dataclass(frozen=True)
class VideosOf:
    """The whole videos for which the graph is the model; an operator rules some out
    (:class:`pgt_fx.rules.kinds.protocols.Videos`)."""

    analysis: Analysis
    operation: Operation

    def whole_groups(self, entries: int) -> None:
        self.analysis.lengths = whole_groups(self.analysis, self.operation, entries)

    def not_empty(self) -> None:
        self.analysis.lengths = not_empty(self.analysis, self.operation)


def beside_tables(
    analysis: Analysis,
    kind: Kind,
    tables: tuple[fx.Node, ...],
    pairs: Mapping[fx.Node, PairTable],
) -> Kind:
    """What an operator with tables among its operands does from step to step.

    Raises:
        Refusal: where a step can't make one of them, or the operator takes none.
    """
    if not tables:
        return kind
    known = {n: table for n in tables if (table := analysis.value(n).table) and n not in pairs}
    for n, table in known.items():
        table_graph(analysis.captured, n, table)
    made = {table.kind for table in known.values()}
    reason = LENGTH_TABLE if "clip" in made else CLIP_TABLE if "prefix" in made else ""
    return kind.beside_tables(reason, restarts="clip" not in made)


def sizes_without_time(analysis: Analysis, node: fx.Node, kind: Kind) -> None:
    """Arguments computed from the length of the video must have been re-derived.

    Raises:
        Refusal: for one that was not.
    """
    schema = schema_of(node.target)
    for position, argument in enumerate(schema.arguments):
        if argument.name in kind.args:
            given = kind.args[argument.name]
        elif position < len(node.args) and not argument.kwarg_only:
            given = node.args[position]
        else:
            given = node.kwargs.get(argument.name)
        items = given if isinstance(given, (list, tuple)) else [given]
        for item in items:
            if isinstance(item, fx.Node) and item.meta.get("pgt_time"):
                at = _keys_at_hand(analysis, node, kind, item)
                if at is not None and given is item:
                    kind.args[argument.name] = SizeAtHand((at,))
                    continue
                raise Refusal(
                    f"its argument {argument.name} is computed from the length of the video",
                    "derive it from the shape of the tensor at hand, or use a reduction",
                )


def _keys_at_hand(analysis: Analysis, node: fx.Node, kind: Kind, item: fx.Node) -> int | None:
    """The dimension of an attention map whose number of keys a size is (a mean over them)."""
    size, value = item.meta["val"], node.meta["val"]
    if not isinstance(kind.layout, tuple) or not isinstance(value, Tensor):
        return None
    found = node.meta.get(NOTE)
    product = found and analysis.operations.get(found.product.name)
    if product and product.outcome.causal_keys:
        return None  # of a causal one the keys at hand are those so far, not the video's
    for d in time_dims(kind.layout, 2):
        if isinstance(size, torch.SymInt) and str(value.shape[d]) == str(size):
            return d
    return None


class Timing(NamedTuple):
    """When the elements of an operator's result exist.

    Attributes:
        joins: operands that need an aligner.
        common: clock of the operands in common; None where each is taken as it comes.
        result: clock of the result; None where it has no time axis.
    """

    joins: tuple[fx.Node, ...]
    common: Clock | None
    result: Clock | None


def timing(analysis: Analysis, node: fx.Node, kind: Kind) -> Timing:
    """The clocks of an operator of this kind, from those of its operands in the analysis.

    Raises:
        Refusal: where its operands can't wait for one another.
    """
    joins: tuple[fx.Node, ...] = ()
    common = None
    if kind.aligns:
        joins, common = join(analysis, node, kind)
    return Timing(joins, common, kind.clock(ClocksOf(analysis, common)))


def join(analysis: Analysis, node: fx.Node, kind: Kind) -> tuple[tuple[fx.Node, ...], Clock]:
    """Operands that need an aligner, and the clock of their common prefix.

    Raises:
        Refusal: for an attention whose operands have other frames than one another.
    """
    tensors = [n for n in node.all_input_nodes if isinstance(n.meta.get("val"), Tensor)]
    operands = [n for n in tensors if analysis.value(n).timed]
    clocks = [analysis.value(n).clock for n in operands]
    found = [c for c in clocks if c is not None]
    ratio = analysis.spec.ratio
    distinct: list[Clock] = []
    for clock in found:
        if not any(same(clock, other, ratio) for other in distinct):
            distinct.append(clock)
    if len(distinct) > 1 and any(time_dims(analysis.value(n).layout or (), 2) for n in operands):
        raise Refusal(
            "the values of an attention are later than its queries and keys",
            "compute all three from one tensor without convolutions along time between them",
        )
    rows = named(node).get(kind.queries)
    if len(distinct) > 1 and isinstance(rows, fx.Node):
        query = analysis.value(rows).clock
        if query is not None and not all(covers(c, query, ratio) for c in distinct):
            raise Refusal(
                "its queries are more than its keys or values: the last ones see all of time",
                "let each query have a key of its own frame",
            )
    commit = kind.commits and _provisional(found[0], ratio)
    if len(distinct) == 1 and not commit:
        return (), found[0]
    return tuple(operands), JoinClock(tuple(distinct), commit=commit)


def _provisional(clock: Clock, ratio: tuple[int, ...]) -> bool:
    """Whether elements are handed on that may yet change."""
    if clock.firm:
        return False
    (one,), times = samples(ratio, clock)
    counts = [one.at(frames, False) for frames in times]
    return not counts or any(c.sure != c.total for c in counts)
