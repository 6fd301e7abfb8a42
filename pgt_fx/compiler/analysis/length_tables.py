"""Tables: what a model makes from the number of frames, and what a step needs of them (DESIGN §9).

Positions (``arange``), masks, position tables. Elementwise in form, not in meaning: a step's first
element is not the video's.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from pgt_fx.capture.attention.positions import COLUMN, ELEMENTWISE, ROW, NotPairs, Pairs, Roles
from pgt_fx.capture.attention.step_entries import PairGraph, pair_graph
from pgt_fx.capture.captured import Captured
from pgt_fx.capture.schema import named, schema_name
from pgt_fx.core.devices import elsewhere, in_any_layout
from pgt_fx.core.layout import Factor, Layout, LayoutError, plain
from pgt_fx.core.node_arguments import as_node
from pgt_fx.rules import RULES, OpView, Refusal
from pgt_fx.rules.registry import hint

CONSTANT = (
    *("full", "zeros", "ones", "empty", "scalar_tensor"),
    *("new_full", "new_zeros", "new_ones", "new_empty"),
)
VIEWS = ("view", "reshape", "expand", "unsqueeze", "squeeze", "permute", "transpose", "slice")


@dataclass(frozen=True)
class Table:
    """What is known of a value that depends on the number of frames alone.

    Attributes:
        kind: "rows": element i is a function of i, for any i; "prefix": the first rows of a table
            of fixed length; "clip": made for a video of a known length; "pairs": frames by frames.
        length: the expression of its length along time.
    """

    kind: str
    length: Any


def read_table(
    captured: Captured,
    node: fx.Node,
    tables: list[Table],
    layouts: Callable[[fx.Node], Any],
    *,
    of_length: bool = False,
) -> tuple[Layout, Table]:
    """Layout and table of a value that has one entry per frame and no operand with a time axis.

    Args:
        tables: those among its operands.
        layouts: of its operands.
        of_length: whether one of them is calculated from the number of frames.

    Raises:
        Refusal: when it can't be computed for a step.
    """
    value = node.meta["val"]
    if not isinstance(value, Tensor):
        raise Refusal(
            "makes several tensors with one entry per frame of the video",
            "compute them outside the model and pass them as inputs with a time axis",
        )
    at = [d for d, s in enumerate(value.shape) if captured.has_time(s)]
    sizes: list[Any] = [value.shape[d] for d in at]
    lengths = {str(s.node.expr): s.node.expr for s in sizes}
    if len(lengths) != 1 or len(at) > 2:
        raise Refusal(
            f"makes a table of sizes {', '.join(map(str, value.shape))} from the number of frames",
            "make tables of one row per frame, or of frames by frames",
        )
    length = next(iter(lengths.values()))
    dims = [
        (Factor(hint(s), True, 1 + at.index(d)),) if d in at else plain([hint(s)])[0]
        for d, s in enumerate(value.shape)
    ]
    if any(t.length != length for t in tables):
        raise Refusal("makes a table from tables of different lengths")
    if len(at) == 2:
        kind = "pairs"
    elif of_length or _filled_with_length(node):
        kind = "clip"  # its entries are another video's
    else:
        kind = _kind(captured, node, tables, layouts, length)
    return tuple(dims), Table(kind, length)


def _kind(
    captured: Captured,
    node: fx.Node,
    tables: list[Table],
    layouts: Callable[[fx.Node], Any],
    length: Any,
) -> str:
    name = schema_name(node).removeprefix("aten::")
    if not tables:
        if name == "arange":
            return "rows" if counted_from(node) else "clip"
        if name == "slice":
            return "prefix" if node.args[2] in (0, None) and len(node.args) < 5 else "clip"
        grows = name in ("expand", "repeat", "broadcast_to") and not _rows_given(captured, node)
        return "rows" if name in CONSTANT or grows else "clip"
    kinds = {t.kind for t in tables}
    if not kinds <= {"rows", "prefix"}:
        return "clip"
    scalar = [n for n in node.all_input_nodes if not isinstance(n.meta.get("val"), Tensor)]
    if name not in VIEWS and any(n.meta.get("pgt_time") for n in scalar):
        return "clip"  # positions relative to the video's length
    rule = RULES.get(schema_name(node))
    try:
        kind = None if rule is None else rule(OpView(node, layouts, captured.sizes))
    except (Refusal, LayoutError):
        kind = None
    if kind is None or not kind.frame_by_frame or kind.args.get("start"):
        return "clip"
    return "prefix" if "prefix" in kinds else "rows"


def _filled_with_length(node: fx.Node) -> bool:
    """Whether the entries of a constant table are the number of frames, or made of it."""
    if schema_name(node).removeprefix("aten::") not in CONSTANT:
        return False
    value = named(node).get("fill_value")
    return isinstance(value, fx.Node) and bool(value.meta.get("pgt_time"))


def counted_from(node: fx.Node) -> tuple[int, int] | None:
    """First element and step of an ``arange`` whose elements are ``first + step * i``, whatever its
    end is; None where they are no constant whole numbers."""
    arguments = named(node)
    first, step = arguments.get("start", 0), arguments.get("step", 1)
    whole = all(isinstance(n, int) and not isinstance(n, bool) for n in (first, step))
    return (first, step) if whole and step else None


def _rows_given(captured: Captured, node: fx.Node) -> bool:
    """Whether what is expanded has rows of its own where the result has time."""
    source, result = as_node(node.args[0]).meta["val"], node.meta["val"]
    new = result.dim() - source.dim()
    return any(
        captured.has_time(s) and d >= new and source.shape[d - new] != 1
        for d, s in enumerate(result.shape)
    )


def table_graph(captured: Captured, node: fx.Node, table: Table) -> tuple[fx.Graph, list[fx.Node]]:
    """The operators that make a table, as a function of ``(start, count, device, *inputs)``.

    Returns:
        the graph, and the nodes of the captured graph that are its inputs.

    Raises:
        Refusal: when something else than the table's length enters it.
    """
    graph = fx.Graph()
    # Not "device": the printed code of a graph uses that name.
    start, count, device = (graph.placeholder(name) for name in ("start", "count", "on"))
    inputs: list[fx.Node] = []
    env: dict[fx.Node, fx.Node] = {}
    for one in _makers(captured, node):
        value = one.meta.get("val")
        # Sizes that lead to the table's length, as in (T - 1) // 2 + 1, are not known here.
        foreign = [n for n in one.all_input_nodes if n not in env]
        number = isinstance(value, (torch.SymInt, torch.SymFloat, torch.SymBool))
        if isinstance(value, torch.SymInt) and value.node.expr == table.length:
            env[one] = count
        elif not _depends(captured, one):
            env[one] = graph.placeholder(one.name)
            inputs.append(one)
        elif number and (foreign or schema_name(one) == "aten::sym_size"):
            continue
        elif table.kind == "rows" and schema_name(one) == "aten::arange":
            env[one] = _counter(graph, one, start, count, device)
        elif foreign or one.op != "call_function":
            raise Refusal(
                f"makes a table from a length ({_length_in(foreign)}) that is not the table's own",
                "derive it from the shape of the tensor that it is combined with",
            )
        else:
            args, kwargs = (
                elsewhere(fx.map_arg(given, env.__getitem__), device)
                for given in (one.args, one.kwargs)
            )
            env[one] = graph.call_function(in_any_layout(one.target), args, kwargs)
    graph.output(env[node])
    graph.lint()
    return graph, inputs


def _counter(
    graph: fx.Graph, one: fx.Node, start: fx.Node, count: fx.Node, device: fx.Node
) -> fx.Node:
    """An ``arange`` of ``count`` elements, of which the first is the video's element ``start``."""
    first, step = counted_from(one) or (0, 1)
    begin, more = start, count
    if step != 1:
        begin, more = (graph.call_function(operator.mul, (n, step)) for n in (start, count))
    if first:
        begin = graph.call_function(operator.add, (begin, first))
    end = graph.call_function(operator.add, (begin, more))
    options = {**one.kwargs, "device": device}
    wanted = options.get("dtype")
    if wanted in (torch.float16, torch.bfloat16):
        if first:
            raise Refusal(
                "counts in half precision from another number than 0, which torch rounds in a way "
                "of its own for every length",
                "count in whole numbers, torch.arange(…).to(dtype)",
            )
        # Of these torch rounds the first number before it counts on: 257 is 256 in bfloat16.
        options["dtype"] = torch.int64
    given: tuple[Any, ...] = (begin, end) if step == 1 else (begin, end, step)
    arange = torch.ops.aten.arange
    made = graph.call_function(arange.start if step == 1 else arange.start_step, given, options)
    if options.get("dtype") == wanted:
        return made
    return graph.call_function(torch.ops.aten.to.dtype, (made, wanted))


def _length_in(foreign: list[fx.Node]) -> str:
    return ", ".join(str(n.meta.get("val")) for n in foreign) or "unknown"


def _makers(captured: Captured, node: fx.Node) -> list[fx.Node]:
    """What a table is made of, in order; what doesn't depend on the length is left whole."""
    order = {n: i for i, n in enumerate(captured.graph.nodes)}
    found: set[fx.Node] = set()
    queue = [node]
    while queue:
        one = queue.pop()
        if one in found:
            continue
        found.add(one)
        if one.op == "call_function" and _depends(captured, one):
            value = one.meta.get("val")
            whole = isinstance(value, torch.SymInt) and schema_name(one) == "aten::sym_size"
            queue += [] if whole else one.all_input_nodes
    return sorted(found, key=order.__getitem__)


def _depends(captured: Captured, node: fx.Node) -> bool:
    """Whether a node is computed from the number of frames."""
    seen: set[fx.Node] = set()
    queue = [node]
    while queue:
        one = queue.pop()
        if one in seen:
            continue
        seen.add(one)
        if one.meta.get("pgt_time"):
            return True
        queue += one.all_input_nodes
    return False


@dataclass(frozen=True)
class PairTable:
    """A table with an axis of keys, as an operand: it is made at the positions of a step.

    Attributes:
        layout: its axes, those along time as queries and keys.
        made: the operators that make it.
        entries: per element of time, along queries and along keys.
    """

    layout: Layout
    made: PairGraph
    entries: tuple[int, int]

    @property
    def dims(self) -> tuple[int | None, int | None]:
        """Its dimensions along queries and keys."""
        roles = self.made.roles
        row, column = (roles.index(r) if r in roles else None for r in (ROW, COLUMN))
        return row, column


#: An operand with a time axis: its value in the capture, and its layout.
Operand = tuple[Any, Layout]


def pair_table(
    captured: Captured, node: fx.Node, layout: Layout, to: fx.Node, others: Sequence[Operand]
) -> PairTable | None:
    """A table as an operand of ``to``, where one of its axes is that of keys; else None.

    Args:
        others: the operands with a time axis.

    Raises:
        Refusal: where its entries can't be made at the positions of a step.
    """
    name, shape = schema_name(to).removeprefix("aten::"), node.meta["val"].shape
    if name == "scaled_dot_product_attention":
        query, key = (
            next((o for o in others if o[0] is named(to)[k].meta["val"]), None)
            for k in ("query", "key")
        )
        if query is None or key is None:
            return None
        sides = torch.Size((query[0].shape[-2], key[0].shape[-2]))
        keys = tuple(Factor(f.size, f.symbolic, 2 if f.time else 0) for f in key[1][-2])
        found = _beside(captured, shape, layout, [(sides, (query[1][-2], keys))])
    elif name in ELEMENTWISE:
        found = _beside(captured, shape, layout, [(v.shape, known) for v, known in others])
    else:
        found = layout
    roles = tuple(
        next((r for f in dim for t, r in ((1, ROW), (2, COLUMN)) if f.time == t), None)
        for dim in found
    )
    if COLUMN not in roles:
        return None
    if found is layout and not any(
        str(s) == str(size) and len(dim) == 1
        for value, known in others
        for s, dim in zip(value.shape, known, strict=True)
        for size, role in zip(shape, roles, strict=True)
        if role is not None and any(f.time for f in dim)
    ):
        raise Refusal("puts a table of frames by frames together with another number of elements")
    try:
        made = pair_graph(Pairs(captured), node, roles)
    except NotPairs as error:
        raise Refusal(str(error), error.remedy) from error
    row, column = (_entries(found, role, roles) for role in (ROW, COLUMN))
    return PairTable(found, made, (row, column))


def _beside(
    captured: Captured, shape: Sequence[Any], layout: Layout, others: Sequence[tuple[Any, Layout]]
) -> Layout:
    """The layout of a table with the axes along time of the values that it is put together with."""
    out = list(layout)
    for sizes, known in others:
        for d in range(1, min(len(shape), len(known)) + 1):
            same = captured.has_time(shape[-d]) and str(shape[-d]) == str(sizes[-d])
            if same and any(f.time for f in known[-d]):
                out[-d] = known[-d]
    return layout if tuple(out) == layout else tuple(out)


def _entries(layout: Layout, role: str, roles: Roles) -> int:
    """Entries of a table per element of time along one of its axes."""
    if role not in roles:
        return 1
    first, *rest = [f for f in layout[roles.index(role)] if f.size != 1 or f.time]
    if not first.time or any(f.symbolic for f in rest):
        raise Refusal(
            "a table of frames by frames whose frames are merged with another axis",
            "make it of the frames alone, or of their tokens in order",
        )
    return math.prod(f.size for f in rest)
