"""Attention in a graph that was captured at the length of its clip: softmax(QK)V, however it is
spelled. Nothing is known of time there, and nothing needs to be: an attention is found by what it
is, and what stands between its two products is noted so that a step can do the same with keys of
the step before.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, fx

from pgt_fx.capture.captured import Captured
from pgt_fx.capture.schema import named, schema_name
from pgt_fx.core.node_arguments import as_nodes

SDPA = "aten::scaled_dot_product_attention"
SOFTMAX = ("aten::softmax", "aten::_softmax")
#: Views of a map that leave its columns in place.
VIEWS = {
    f"aten::{name}"
    for name in ("view", "reshape", "flatten", "unflatten", "expand", "squeeze", "unsqueeze")
} | {"aten::_unsafe_view"}
#: What works on single entries, and is done with more columns as with these.
SINGLE = {
    f"aten::{name}"
    for name in ("to", "_to_copy", "float", "half", "type_as", "contiguous", "clone", "alias")
} | {"aten::dropout"}
#: Of these a map with more columns gets what they add to each entry.
WRITES = {"aten::slice_scatter", "aten::masked_fill", "aten::where", "aten::select_scatter"}
#: They read of their operand its sizes alone, and fill what they make with a number.
FILLS: dict[str, float | None] = {
    "aten::new_zeros": 0.0,
    "aten::new_ones": 1.0,
    "aten::new_full": None,
    "aten::zeros_like": 0.0,
    "aten::ones_like": 1.0,
    "aten::full_like": None,
}
OF_SIZES = {"aten::sym_size", *FILLS}
#: What hides entries and does nothing else.
MASKS = {"aten::masked_fill", "aten::where"}
#: What the addition of a table to a map is called.
SUMS = ("aten::add", "aten::sub")

#: Ways that change what is between a product and its softmax, and not what comes after it.
CHANGED = ("table", "written")
#: "same": the operator itself; "view": a view as of the map; "table": a table is added (its columns
#: are chosen); "written": what it adds is the difference of its result and its operand; "whole": it
#: takes all of the map.
How = Literal["same", "view", "table", "written", "whole"]


@dataclass(frozen=True)
class Turn:
    """One operator on the way from one product of an attention to the other.

    Attributes:
        node: the operator.
        map: which of its operands is the map.
    """

    node: fx.Node
    map: fx.Node
    how: How


@dataclass(frozen=True)
class Side:
    """One operand of a product: the keys or the values.

    Attributes:
        node: the operand.
        dim: its axis along which the keys stand.
    """

    node: fx.Node
    dim: int


@dataclass(frozen=True)
class ClipAttention:
    """One attention.

    Attributes:
        product: makes the map; with ``scaled_dot_product_attention`` it is the whole.
        query: operand with the rows.
        keys, values: operands with the columns.
        before: from the product to the softmax, in order.
        softmax: None with ``scaled_dot_product_attention``.
        after: from the softmax to the sum, in order.
        sum: gives the result.
    """

    product: fx.Node
    query: fx.Node
    keys: Side
    values: Side
    sum: fx.Node
    before: tuple[Turn, ...] = ()
    softmax: fx.Node | None = None
    after: tuple[Turn, ...] = ()

    @property
    def read(self) -> tuple[fx.Node, ...]:
        """The nodes whose values a step needs to do it with further keys."""
        nodes: list[Any] = [self.query, self.keys.node, self.values.node]
        if self.softmax is None:
            nodes.append(named(self.sum).get("attn_mask"))
        else:
            nodes += [self.softmax.args[0], self.product]
            for turn in (*self.before, *self.after):
                nodes += [turn.node, turn.map, *turn.node.all_input_nodes]
        return tuple(n for n in dict.fromkeys(nodes) if isinstance(n, fx.Node))


@dataclass
class Found:
    """The attentions of a graph.

    Attributes:
        attentions: those whose keys are made of the video.
        lost: softmaxes over a map of what is made of the video, of which no attention could be
            made, and why.
        video: the nodes that depend on the video.
    """

    attentions: list[ClipAttention] = field(default_factory=list)
    lost: dict[fx.Node, str] = field(default_factory=dict)
    video: frozenset[fx.Node] = frozenset()


def find_clip_attention(captured: Captured, times: Mapping[int, int | None]) -> Found:
    """Find the attentions.

    Args:
        times: leaf of the clip -> its axis of time, None where it has none.
    """
    video = made_of_video(captured, times)
    found = Found(video=video)
    for node in captured.graph.nodes:
        name = schema_name(node)
        if name == SDPA:
            given = named(node)
            if given["key"] in video:
                keys, values = Side(given["key"], -2), Side(given["value"], -2)
                found.attentions.append(ClipAttention(node, given["query"], keys, values, node))
        elif name in SOFTMAX and node in video:
            _softmax(node, found, video)
    return found


def made_of_video(captured: Captured, times: Mapping[int, int | None]) -> frozenset[fx.Node]:
    """The nodes that depend on an input with time."""
    out: set[fx.Node] = set()
    for node in captured.graph.nodes:
        if node.op == "placeholder":
            leaf = captured.inputs.get(node.name)
            if leaf is not None and times[leaf] is not None:
                out.add(node)
        elif (
            schema_name(node) not in OF_SIZES
            and node.op != "output"
            and not out.isdisjoint(node.all_input_nodes)
            and _is_tensor(node)
        ):
            out.add(node)
    return frozenset(out)


def filled(node: fx.Node, shape: list[int]) -> Tensor:
    """What an operator of :data:`FILLS` makes."""
    number = FILLS[schema_name(node)]
    given = named(node).get("fill_value", 0.0) if number is None else number
    value: Tensor = node.meta["val"]
    return torch.full(shape, given, dtype=value.dtype)


def _is_tensor(node: fx.Node) -> bool:
    value = node.meta.get("val")
    values = value if isinstance(value, (list, tuple)) else [value]
    return any(isinstance(v, Tensor) for v in values)


def _softmax(softmax: fx.Node, found: Found, video: Collection[fx.Node]) -> None:
    """The attentions, mostly one, that normalise their map here."""
    scores: Any = softmax.args[0]
    shape = scores.meta["val"].shape
    if softmax.args[1] not in (-1, len(shape) - 1):
        return
    before = _to_product(scores, video)
    if before is None:
        found.lost[softmax] = "what stands between its product and its softmax is not known"
        return
    product, turns = before
    sides = _of_product(product)
    if sides is None or sides[1].node not in video:
        return
    ends = _to_sums(softmax, video)
    if ends is None:
        found.lost[softmax] = "its weights are looked at, or changed, before they are summed by"
        return
    query, keys = sides
    for total, values, after in ends:
        found.attentions.append(
            ClipAttention(product, query, keys, values, total, tuple(turns), softmax, after)
        )


# -- from the softmax back to the product --------------------------------------------------------


def _to_product(node: fx.Node, video: Collection[fx.Node]) -> tuple[fx.Node, list[Turn]] | None:
    """The product that a map comes from, with what is done to the map in order."""
    if _of_product(node) is not None:
        return node, []
    for turn in _turns(node, video):
        if _columns(turn.map) == _columns(node) and (rest := _to_product(turn.map, video)):
            return rest[0], [*rest[1], turn]
    return None


def _turns(node: fx.Node, video: Collection[fx.Node]) -> list[Turn]:
    """What a node may do to a map, by which of its operands that is."""
    name, nodes = schema_name(node), [n for n in node.args if isinstance(n, fx.Node)]
    maps = [n for n in nodes if n in video and _is_tensor(n)]
    if name in VIEWS or name in SINGLE:
        how: How = "view" if name in VIEWS else "same"
        return [Turn(node, maps[0], how)] if maps and maps[0] is node.args[0] else []
    if name == "aten::slice" and maps and _rows(maps[0]) == _rows(node):
        return [Turn(node, maps[0], "whole")]
    if name in WRITES:
        return [Turn(node, n, "written") for n in maps if _rows(n) == _rows(node)]
    if name not in (*SUMS, "aten::mul", "aten::div"):
        return []
    if node.kwargs.get("alpha", 1) != 1 or (name in ("aten::sub", "aten::div") and len(nodes) > 1):
        maps = maps[:1] if maps and maps[0] is node.args[0] else []
    out = []
    for one in maps:
        others = [n for n in nodes if n is not one and _is_tensor(n)]
        if len(nodes) > 1 and not others:
            continue
        if all(_columns(n) == 1 for n in others):
            out.append(Turn(node, one, "same"))
        elif name in SUMS and all(_columns(n) == _columns(node) for n in others):
            out.append(Turn(node, one, "table"))
    return out


def _columns(node: fx.Node) -> Any:
    shape = _value(node).shape
    return str(shape[-1]) if len(shape) and str(shape[-1]) != "1" else 1


def _rows(node: fx.Node) -> list[str]:
    return [str(n) for n in _value(node).shape]


def _value(node: fx.Node) -> Tensor:
    value: Tensor = node.meta["val"]
    return value


# -- from the softmax on to the sum --------------------------------------------------------------

End = tuple[fx.Node, Side, tuple[Turn, ...]]


def _to_sums(weights: fx.Node, video: Collection[fx.Node]) -> list[End] | None:
    """The products that sum by a map, each with what is done to the map before; None where
    something else reads it."""
    out: list[End] = []
    for user in weights.users:
        values = _summed(weights, user)
        if values is not None:
            out.append((user, values, ()))
            continue
        turns = [t for t in _turns(user, video) if t.map is weights and t.how not in CHANGED]
        if not turns or _columns(user) != _columns(weights):
            return None
        rest = _to_sums(user, video)
        if rest is None:
            return None
        out += [(end, values, (turns[0], *after)) for end, values, after in rest]
    return out or None


# -- products ------------------------------------------------------------------------------------


def _of_product(node: fx.Node) -> tuple[fx.Node, Side] | None:
    """The query of a product and its keys; None where it is none that makes a map."""
    name = schema_name(node)
    if name in ("aten::matmul", "aten::bmm"):
        left, right = node.args[:2]
        if not isinstance(left, fx.Node) or not isinstance(right, fx.Node):
            return None
        if min(_value(left).dim(), _value(right).dim()) < 3:
            return None
        return left, Side(right, -1)
    if name != "aten::einsum":
        return None
    terms, result, nodes = _equation(node)
    if len(terms) != 2 or len(result) < 2:
        return None
    columns = [i for i, term in enumerate(terms) if result[-1] in term]
    if len(columns) != 1 or result[-2] not in terms[1 - columns[0]]:
        return None
    keys = terms[columns[0]]
    if result[-2] in keys:
        return None
    return nodes[1 - columns[0]], Side(nodes[columns[0]], keys.index(result[-1]) - len(keys))


def _summed(weights: fx.Node, node: fx.Node) -> Side | None:
    """The values that a product sums by a map; None where it does something else with it."""
    name = schema_name(node)
    if name in ("aten::matmul", "aten::bmm"):
        right = node.args[1]
        if node.args[0] is not weights or right is weights or not isinstance(right, fx.Node):
            return None
        return Side(right, -2)
    if name != "aten::einsum":
        return None
    terms, result, nodes = _equation(node)
    if len(terms) != 2 or nodes.count(weights) != 1:
        return None
    at = nodes.index(weights)
    column, other = terms[at][-1], terms[1 - at]
    if column in result or column not in other:
        return None
    return Side(nodes[1 - at], other.index(column) - len(other))


def _equation(node: fx.Node) -> tuple[list[str], str, list[fx.Node]]:
    text = str(node.args[0]).replace(" ", "")
    if "." in text or "->" not in text:
        return [], "", []
    terms, result = text.split("->")
    return terms.split(","), result, as_nodes(node.args[1])
