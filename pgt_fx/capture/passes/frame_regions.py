"""Which frames of a video are written in place, and with what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from pgt_fx.capture.captured import Captured
from pgt_fx.capture.guards.symbolic_sizes import expression
from pgt_fx.capture.passes.cat_to_pad import constant_value
from pgt_fx.capture.schema import schema_name
from pgt_fx.core.node_arguments import as_node, as_number

SCATTERS = ("aten::slice_scatter", "aten::select_scatter")
UNFILLED = ("aten::empty_like", "aten::new_empty", "aten::empty")
SAME_VALUES = {f"aten::{n}" for n in ("slice", "select", "unsqueeze", "clone", "expand", "view")}
SAME_VALUES |= {"aten::lift_fresh_copy", "aten::lift_fresh"}


@dataclass(frozen=True)
class Region:
    """Elements along time that are written: ``first:end:step``, bounds as a slice has them but
    that an ``end`` that is the operand's own is None."""

    first: int
    end: int | None
    step: int = 1

    @staticmethod
    def of_one(index: int) -> Region:
        return Region(index, None if index == -1 else index + 1)

    @property
    def to_the_end(self) -> bool:
        """From a place counted from the start to one counted from the end."""
        return self.first >= 0 and (self.end is None or self.end < 0)


class WriteReader:
    """Reads writes of a graph."""

    def __init__(self, captured: Captured) -> None:
        self.captured, self.graph = captured, captured.graph

    def read(self, node: fx.Node) -> tuple[fx.Node, fx.Node, int, Region | None]:
        arguments: Any = node.args
        whole, part, *rest = arguments
        given: dict[str, Any] = dict(
            zip(("dim", "first", "end", "step"), rest, strict=False)
        ) | dict(node.kwargs)
        dim = int(given.get("dim", 0)) % len(shape_of(whole))
        if schema_name(node) == "aten::select_scatter":
            index = given.get("first", given.get("index"))
            if not isinstance(index, int):
                return whole, part, dim, None
            return whole, part, dim, Region.of_one(index)
        first, end, step = given.get("first") or 0, given.get("end"), given.get("step", 1)
        length = shape_of(whole)[dim]
        if isinstance(first, fx.Node):
            taken = self.captured.sizes.last_from(first.meta["val"], length)
            first = first if taken is None else -taken
        if isinstance(end, fx.Node):
            cut = self.captured.sizes.cut_from_end(end.meta["val"], length)
            end = end if cut is None else (-cut or None)
        end = None if isinstance(end, int) and end >= 2**31 else end
        if not isinstance(first, int) or not isinstance(step, int):
            return whole, part, dim, None
        if end is not None and not isinstance(end, int):
            return whole, part, dim, None
        return whole, part, dim, Region(first, end, step)

    def is_part(
        self, base: fx.Node, whole: fx.Node, dim: int, region: Region, picked: bool
    ) -> bool:
        """Whether ``base`` is what stood in the region."""
        source = base.args[0] if base.args else None
        if region == Region(0, None) and same(base, whole):
            return True
        if not isinstance(source, fx.Node) or not same(source, whole):
            return False
        if schema_name(base) == "aten::select":
            along, index = as_number(base.args[1]), as_number(base.args[2])
            return picked and along == dim and Region.of_one(index) == region
        if picked or schema_name(base) != "aten::slice":
            return False
        arguments: list[Any] = [*base.args[1:], *(0, None, None, 1)[len(base.args) - 1 :]]
        at, first, end, step = arguments
        if not isinstance(at, int) or at % len(shape_of(whole)) != dim:
            return False
        length = shape_of(whole)[dim]
        if isinstance(end, fx.Node):
            cut = self.captured.sizes.cut_from_end(end.meta["val"], length)
            end = end if cut is None else (-cut or None)
        end = None if isinstance(end, int) and end >= 2**31 else end
        return (first or 0, end, step) == (region.first, region.end, region.step)

    def plain(self, part: fx.Node) -> fx.Node:
        """What is copied, where the copy is of its own type and sizes."""
        while schema_name(part) == "aten::copy" and isinstance(part.args[1], fx.Node):
            into, source = as_node(part.args[0]), part.args[1]
            if into.meta["val"].dtype != source.meta["val"].dtype:
                break
            if [*map(expression, shape_of(into))] != [*map(expression, shape_of(source))]:
                break
            part = source
        return part

    def constant(self, node: fx.Node) -> float | None:
        """The number that a tensor holds everywhere, else None; of one that nothing was written to
        any number is right."""
        while schema_name(node) in SAME_VALUES:
            node = as_node(node.args[0])
        name = schema_name(node)
        if name in UNFILLED:
            return 0.0
        if name in ("aten::fill", "aten::copy"):
            value: Any = node.args[1]
            number = self.constant(value) if isinstance(value, fx.Node) else value
            held = (
                torch.full((), number, dtype=node.meta["val"].dtype) if number is not None else None
            )
            return None if held is None else float(held)
        lifted = self.captured.constants.get(node.name)
        if lifted is not None:
            return float(lifted) if lifted.numel() == 1 and not lifted.is_complex() else None
        return constant_value(node)

    def timed(self, node: fx.Node) -> bool:
        return any(self.captured.has_time(n) for n in shape_of(node))

    def offset(self, a: fx.Node, b: fx.Node, dim: int) -> int | None:
        found = self.captured.sizes.offset(shape_of(a)[dim], shape_of(b)[dim])
        return None if found is None else int(found)


def shape_of(node: fx.Node) -> Sequence[Any]:
    value = node.meta.get("val")
    return value.shape if isinstance(value, Tensor) else ()


def is_whole(node: fx.Node) -> bool:
    """Whether a slice takes all that there is."""
    if schema_name(node) != "aten::slice":
        return False
    given: list[Any] = [*node.args[1:], *(0, None, None, 1)[len(node.args) - 1 :]]
    _, first, end, step = given
    return not first and (end is None or (isinstance(end, int) and end >= 2**31)) and step == 1


def same(a: fx.Node, b: fx.Node) -> bool:
    """Whether two nodes are one value, but for slices that take all of it."""
    while is_whole(a):
        a = as_node(a.args[0])
    while is_whole(b):
        b = as_node(b.args[0])
    return a is b
