"""Values that stand for frames written in place: shifts, masks, parts side by side."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from pgt_fx.capture.captured import Captured
from pgt_fx.capture.guards.length_guard import Condition
from pgt_fx.capture.guards.symbolic_sizes import expression
from pgt_fx.capture.observe.module_calls import place
from pgt_fx.capture.passes.cat_to_pad import Chain, uncropped
from pgt_fx.capture.passes.frame_regions import Region, WriteReader, is_whole, shape_of
from pgt_fx.capture.passes.functionalize import WRITTEN
from pgt_fx.capture.schema import schema_name
from pgt_fx.core.counts import counted
from pgt_fx.core.lengths.questions import at_most
from pgt_fx.core.lengths.sets import NotQuasiLinear
from pgt_fx.core.node_arguments import as_node

aten = torch.ops.aten
END = 2**63 - 1


def marks(x: Tensor, dim: int) -> Tensor:
    """True, once for each element of ``x`` along ``dim``."""
    sizes = [n if d == dim % x.dim() else 1 for d, n in enumerate(x.shape)]
    return torch.ones(sizes, dtype=torch.bool, device=x.device)


_LIBRARY = torch.library.Library("pgt_fx", "FRAGMENT")
_LIBRARY.define("marks(Tensor x, int dim) -> Tensor")
_LIBRARY.impl("marks", marks, "CompositeExplicitAutograd")
_LIBRARY.impl("marks", marks, "Meta")


class FrameWriter(WriteReader):
    """Makes nodes in front of one that writes.

    Attributes:
        before: that one; at first the graph's output.
    """

    def __init__(self, captured: Captured) -> None:
        super().__init__(captured)
        self.before: fx.Node = next(reversed(captured.graph.nodes))

    def at_least(self, node: fx.Node, dim: int, number: int, multiple: int = 1) -> bool:
        """Limit the videos to those of which a value has so many elements along time; whether there
        are such, the clip's among them."""
        try:
            count = self.captured.sizes.function(shape_of(node)[dim])
            enough = ~at_most(count, number - 1)
        except NotQuasiLinear:
            return False
        where = place(self.before)
        text = f"writes to {counted(number, 'frame')} at an end"
        lengths = self.captured.lengths.within(Condition(enough, where.source, where.line, text))
        if lengths.numbers.is_empty:
            return False
        self.captured.lengths = lengths
        return True

    def uncropped(self, body: Chain) -> fx.Node:
        with self.graph.inserting_before(self.before):
            return uncropped(self.graph, body, self.before)

    def inside(self, whole: fx.Node, dim: int, before: int, after: int) -> fx.Node:
        """Whether an element is neither among the first ``before`` nor among the last ones."""
        if not after:
            return self.positions(whole, dim, Region(before, None))
        early = self.followed(whole, dim, after)
        if not before:
            return early
        late = self.positions(whole, dim, Region(before, None))
        return self.call(aten.logical_and.default, late, early)

    def followed(self, whole: fx.Node, dim: int, by: int) -> fx.Node:
        """Whether an element has ``by`` others after it."""
        return self.pad(self.call(torch.ops.pgt_fx.marks.default, whole, dim), dim, -by, by, 0.0)

    def positions(self, whole: fx.Node, dim: int, region: Region) -> fx.Node:
        """Whether an element is in a region that is counted from the start."""
        length, device = self.length(whole, dim), whole.meta["val"].device
        place = self.call(aten.arange.default, length, kwargs={"device": device})
        here = self.call(aten.ge.Scalar, place, region.first)
        if region.end is not None:
            before = self.call(aten.lt.Scalar, place, region.end)
            here = self.call(aten.logical_and.default, here, before)
        if region.step > 1:
            turn = self.call(aten.remainder.Scalar, place, region.step)
            turn = self.call(aten.eq.Scalar, turn, region.first % region.step)
            here = self.call(aten.logical_and.default, here, turn)
        for _ in range(len(shape_of(whole)) - dim - 1):
            here = self.call(aten.unsqueeze.default, here, -1)
        return here

    def length(self, node: fx.Node, dim: int) -> fx.Node:
        """A size: of an input if one has it, as a step makes no table whose size is read."""
        size = expression(shape_of(node)[dim])
        for given in self.graph.nodes:
            if given.name in self.captured.inputs and given.op == "placeholder":
                at = [d for d, n in enumerate(shape_of(given)) if expression(n) == size]
                if at:
                    node, dim = given, at[0]
                    break
        return self.call(aten.sym_size.int, node, dim)

    def slice(self, whole: fx.Node, dim: int, region: Region) -> fx.Node:
        end = END if region.end is None else region.end
        return self.call(aten.slice.Tensor, whole, dim, region.first, end, region.step)

    def pad(self, x: fx.Node, dim: int, left: int, right: int, value: float) -> fx.Node:
        if not left and not right:
            return x
        amounts = [0, 0] * (len(shape_of(x)) - 1 - dim) + [left, right]
        sizes = [n + left + right if d == dim else n for d, n in enumerate(shape_of(x))]
        padded = x.meta["val"].new_empty(sizes)  # torch can't crop a symbolic size by a padding
        return self.call(aten.pad.default, x, amounts, "constant", value, gives=padded)

    def call(
        self,
        target: Any,
        *args: Any,
        kwargs: dict[str, Any] | None = None,
        gives: Tensor | None = None,
    ) -> fx.Node:
        with self.graph.inserting_before(self.before):
            new = self.graph.call_function(target, args, kwargs or {})
        value: Any = gives
        if value is None:
            values, named = fx.map_arg((args, kwargs or {}), lambda n: n.meta["val"])
            with torch.no_grad(), self.before.meta["val"].fake_mode:
                value = target(*values, **named)
        kept = {
            k: v for k, v in self.before.meta.items() if k in ("stack_trace", "nn_module_stack")
        }
        new.meta = {**kept, "val": value, WRITTEN: None}
        return new

    def some(self, whole: fx.Node, dim: int, first: int, end: int, step: int) -> fx.Node:
        """A slice along another axis than time, of what it was last written to."""
        source, length = whole, shape_of(whole)[dim]
        if isinstance(length, int) and step == 1:
            at = slice(first, end).indices(length)[:2]
            while True:
                if is_whole(source):
                    source = as_node(source.args[0])
                    continue
                if schema_name(source) != "aten::slice_scatter":
                    break
                under, _, along, region = self.read(source)
                if region is None or along != dim or region.step != 1:
                    break
                a, b, _ = slice(region.first, region.end).indices(length)
                if at[0] < b and a < at[1]:
                    break
                source = under
        return self.call(aten.slice.Tensor, source, dim, first, end, step)

    def beside(
        self, whole: fx.Node, part: fx.Node, dim: int, first: int, end: int, step: int
    ) -> fx.Node:
        """``whole`` with a part written along another axis; the parts side by side where they are
        all there is."""
        new = self.call(aten.slice_scatter.default, whole, part, dim, first, end, step)
        length, at = shape_of(whole)[dim], new
        pieces: dict[int, tuple[int, fx.Node]] = {}
        while isinstance(length, int):
            if is_whole(at):
                at = as_node(at.args[0])
                continue
            if schema_name(at) != "aten::slice_scatter":
                break
            under, piece, along, region = self.read(at)
            if region is None or along != dim or region.step != 1:
                break
            a, b, _ = slice(region.first, region.end).indices(length)
            if any(a < other and start < b for start, (other, _) in pieces.items()):
                break
            pieces[a], at = (b, self.plain(piece)), under
        begins = sorted(pieces)
        ends = [pieces[a][0] for a in begins]
        if begins and [*begins, length] == [0, *ends]:
            return self.call(aten.cat.default, [pieces[a][1] for a in begins], dim)
        return new
