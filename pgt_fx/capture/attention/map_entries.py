"""The entry of an attention map at any row and column, and what can be proven of it.

It is followed from the product to the softmax, the score itself taken to be any ordinary number
(:mod:`pgt_fx.core.entries.cases`). Where the entry may be anything but hidden, the inequalities
that hold there bound row - column, at all lengths. Nothing is decided by trying lengths.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, fx, nn

from pgt_fx.capture.attention.attention_map import Band, Map
from pgt_fx.capture.attention.entry_operators import held, operate
from pgt_fx.capture.attention.positions import COLUMN, ROW, NotPairs, Pairs, Roles
from pgt_fx.capture.passes.length_constants import Constants, NotConstant
from pgt_fx.capture.schema import named, schema_name
from pgt_fx.core.entries.cases import (
    ANY,
    FALSE,
    FINITE,
    LEAST,
    ORDINARY,
    Case,
    Cases,
    Entries,
    Form,
    Infinite,
    Value,
    hides,
    number,
    ordinary,
)
from pgt_fx.core.entries.inequalities import Space
from pgt_fx.core.torch_private import pytree

#: Most elements of a tensor of which each is followed as a value of its own.
SMALL = 64


class Reader:
    """Follows the entry at any row and column."""

    def __init__(self, constants: Constants, pairs: Pairs, map_: Map) -> None:
        self.constants, self.pairs, self.map = constants, pairs, map_
        self.space = Space()
        self.entries = Entries(self.space)
        self.position = {ROW: self.space.whole(0), COLUMN: self.space.whole(0)}
        self.known: dict[Any, Cases] = {}
        self.several = 0

    def band(self, rows: int, columns: int) -> Band:
        cases = self.scores()
        row = self.space.floor(self.position[ROW], rows)
        column = self.space.floor(self.position[COLUMN], columns)
        seen = [c.given for c in cases if not self.hidden(c.value)]
        if self.space.least_of(row - column, seen) != 0:
            return Band()
        if any(self.hidden(c.value) and c.value not in (Infinite(-1), FALSE) for c in cases):
            # By the least number alone nothing is hidden in a row of nothing else.
            position = self.position
            places = [position[ROW] - position[COLUMN]] if rows == columns else []
            if not any(self._seen(cases, place) for place in (*places, position[COLUMN])):
                return Band()
        back = self.space.least_of(column - row, seen)
        return Band(True, None if back is None else int(-back))

    def hidden(self, value: Value) -> bool:
        return value == FALSE if self.map.weights else hides(value)

    def _seen(self, cases: Cases, place: Any) -> bool:
        """Whether the entry where ``place`` is 0 is for certain an ordinary score in each row."""
        return not any(
            not ordinary(c.value) and self.space.feasible([*c.given, place, -place]) for c in cases
        )

    def scores(self) -> Cases:
        """The entry of what is normalised."""
        if self.map.scores is not None:
            return self.of_map(self.map.scores)
        arguments = named(self.map.product)
        mask, score = arguments.get("attn_mask"), [Case((), FINITE)]
        if isinstance(mask, fx.Node):
            rank = mask.meta["val"].dim()
            found = self.operand(mask, (None,) * (rank - 2) + (ROW, COLUMN))
            if mask.meta["val"].dtype is torch.bool:
                return self.entries.chosen(found, score, [Case((), Infinite(-1))])
            return self.entries.plus(score, found)
        if not arguments.get("is_causal"):
            return score
        at = [[Case((), Form(self.position[role]))] for role in (COLUMN, ROW)]
        seen = self.entries.compared("le", *at)
        return self.entries.chosen(seen, score, [Case((), Infinite(-1))])

    # -- the map -------------------------------------------------------------------------------

    def of_map(self, node: fx.Node) -> Cases:
        if node is self.map.product:
            return [Case((), FINITE)]
        if node not in self.known:
            value, name = node.meta["val"], schema_name(node).removeprefix("aten::")
            roles = (None,) * (value.dim() - 2) + (ROW, COLUMN)
            arguments = named(node)

            def get(argument: Any) -> Cases:
                if argument in self.map.between or argument is self.map.product:
                    return self.of_map(argument)
                return self.operand(argument, roles)

            if name == "dropout" and not arguments["train"]:
                name, arguments = "clone", {"self": arguments["input"]}
            self.known[node] = operate(self.entries, name, arguments, get, value.dtype)
        return self.known[node]

    def operand(self, argument: Any, roles: Roles) -> Cases:
        """An operand of the map that is no map itself."""
        if not isinstance(argument, fx.Node):
            return [Case((), ANY if argument is None else number(argument))]
        value: Any = argument.meta.get("val")
        name = schema_name(argument).removeprefix("aten::")
        if name in ("zeros_like", "ones_like", "full_like"):
            return operate(
                self.entries, name, named(argument), lambda a: self.operand(a, ()), value.dtype
            )
        if not isinstance(value, Tensor):
            # Sizes are at least one.
            plain = schema_name(argument) == "aten::sym_size"
            return [Case((), Form(self.space.real(1)) if plain else FINITE)]
        if not self.constants.free(argument):
            score = [Case((), FINITE)]
            low = [Case((), Infinite(-1)), Case((), number(-10 * float(LEAST)))]
            return [*score, *low] if _may_hide(argument) else score
        shape = value.shape
        inner = tuple(
            None if isinstance(s, int) and s == 1 else role
            for s, role in zip(shape, self._roles(roles, len(shape)), strict=True)
        )
        return self.table(argument, inner)

    @staticmethod
    def _roles(roles: Roles, rank: int) -> Roles:
        return (
            ((None,) * rank + roles)[len(roles) :]
            if rank > len(roles)
            else roles[len(roles) - rank :]
        )

    # -- what is made of sizes -----------------------------------------------------------------

    def table(self, node: fx.Node, roles: Roles) -> Cases:
        """The entry of a table of which two axes may be queries and keys."""
        if (node, roles) in self.known:
            return self.known[node, roles]
        before = self.several
        try:
            found = self._entry(node, roles)
        except NotPairs:
            found = [Case((), ANY)]
        found = held(self.entries, found, node.meta["val"].dtype)
        if before == self.several:  # else another axis may stand in the place of the same one
            self.known[node, roles] = found
        return found

    def _entry(self, node: fx.Node, roles: Roles) -> Cases:
        entry, value = self.pairs.entry(node, roles), node.meta["val"]
        operands = entry.operands
        if entry.kind == "whole":
            return self.whole(node)
        if entry.kind == "counter":
            start, step = entry.facts
            return [Case((), Form(self.position[roles[0] or ""] * step + start))]
        if entry.kind == "filled":
            return [Case((), number(entry.facts[0]))]
        if entry.kind in ("identity", "triangle"):
            first, second = (self.position[role or ""] for role in roles[-2:])
            right = [Case((), Form(second - first))]
            if entry.kind == "identity":
                return self.entries.compared("eq", right, [Case((), FALSE)])
            diagonal, upper = entry.facts
            limit = [Case((), number(diagonal))]
            inside = self.entries.compared("ge" if upper else "le", right, limit)
            return self.entries.chosen(inside, self.table(*operands[0]), [Case((), FALSE)])
        if entry.kind == "view":
            return self.table(*operands[0])
        if entry.kind in ("all", "spread"):
            return self.table(*operands[0])
        if entry.kind in ("written", "diagonal"):
            if entry.kind == "written":
                dim, start, end = entry.facts
                at = [Case((), Form(self.position[roles[dim] or ""]))]
                inside = self.entries.both(
                    self.entries.compared("ge", at, [Case((), number(start))]),
                    self.entries.compared("lt", at, [Case((), number(end))]),
                )
            else:
                back = self.position[ROW] - self.position[COLUMN]
                inside = self.entries.compared("eq", [Case((), Form(back))], [Case((), FALSE)])
            whole, part = (self.table(*operand) for operand in operands)
            return self.entries.chosen(inside, part, whole)
        if entry.kind == "joined":
            if schema_name(node).endswith("_scatter"):
                operands = self._covered(node, operands)
            return self.entries.pruned([c for n, r in operands for c in self.table(n, r)])
        if entry.kind in ("cut", "lookup"):
            return self._some(operands[0][0])
        if entry.kind == "each":
            known = dict(operands)

            def get(argument: Any) -> Cases:
                if isinstance(argument, fx.Node) and argument in known:
                    return self.table(argument, known[argument])
                return self.operand(argument, ())

            name = schema_name(node).removeprefix("aten::")
            return operate(self.entries, name, named(node), get, value.dtype)
        fine = all(ordinary(c.value) for n, r in operands for c in self.table(n, r))
        return [Case((), FINITE if fine else ANY)]

    @staticmethod
    def _covered(node: fx.Node, operands: Any) -> Any:
        """Without what is written over as a whole."""
        arguments = named(node)
        size = arguments["self"].meta["val"].shape[arguments["dim"]]
        return operands[1:] if isinstance(size, int) and size == 1 else operands

    def whole(self, node: fx.Node) -> Cases:
        """An entry of a tensor without positions."""
        if node.meta["val"].numel() > SMALL:
            return self._some(node)
        try:
            found = self.constants.value(node, 2)
        except NotConstant:
            return [Case((), ANY)]
        if found.numel() == 1:
            return [Case((), number(found.item()))]
        if found.is_complex() or not found.numel() or not bool(found.double().isfinite().all()):
            return self._some(node)
        self.several += 1
        least, most = (Fraction(f(found).item()) for f in (torch.min, torch.max))
        plain = not found.is_floating_point() or bool((found == found.round()).all())
        new = self.space.whole if plain else self.space.real
        return [Case((), Form(new(least, most)))]

    def _some(self, node: fx.Node) -> Cases:
        """Any entry of a tensor without positions: an ordinary number, if all of them are."""
        if isinstance(self._tensor(node), nn.Parameter):  # what is learned is finite
            return [Case((), FINITE)]
        try:
            found = self.constants.value(node, 2)
        except NotConstant:
            return [Case((), ANY)]
        fine = found.dtype is torch.bool or bool((found.double().abs() < float(ORDINARY)).all())
        return [Case((), FINITE if fine else ANY)]

    def _tensor(self, node: fx.Node) -> Any:
        path = self.constants.captured.tensors.get(node.name)
        return None if path is None else self.constants.tensors.get(path)


def _may_hide(node: fx.Node) -> bool:
    """Whether infinite or very low numbers may come in on the way to a value of the video."""
    seen, queue = set(), [node]
    while queue:
        one = queue.pop()
        if one in seen:
            continue
        seen.add(one)
        leaves = pytree.tree_leaves((one.args, one.kwargs))
        if schema_name(one).startswith("aten::log") or any(
            isinstance(x, float) and not abs(x) < 1e9 for x in leaves
        ):
            return True
        queue += one.all_input_nodes
    return False
