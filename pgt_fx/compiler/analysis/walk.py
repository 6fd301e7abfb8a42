"""Analysis: one forward walk over the graph gives each value its timeline and each operator a
verdict. No tensor is computed.
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor, fx

from pgt_fx.capture.captured import Captured
from pgt_fx.capture.guards.length_guard import Condition
from pgt_fx.capture.observe.module_calls import place
from pgt_fx.capture.schema import schema_name
from pgt_fx.compiler.analysis.blocked import (
    REMEDY,
    after_refusal,
    follows_a_blocker,
    guessed_size,
)
from pgt_fx.compiler.analysis.clips import walk_clip
from pgt_fx.compiler.analysis.length_tables import PairTable, Table, pair_table, read_table
from pgt_fx.compiler.analysis.lookups import within_rows
from pgt_fx.compiler.analysis.operands import (
    VideosOf,
    beside_tables,
    sizes_without_time,
    timing,
)
from pgt_fx.compiler.analysis.outputs import check_outputs
from pgt_fx.compiler.analysis.runnable_lengths import (
    fails_at_unknown_lengths,
    where_it_is_made,
    where_it_runs,
    where_its_size_is,
)
from pgt_fx.compiler.analysis.timed_graph import Analysis, Merged, Operation, Value
from pgt_fx.compiler.analysis.video_lengths import (
    joined_whole,
    within_table,
)
from pgt_fx.core.clip import ClipSpec
from pgt_fx.core.clocks import Clock, InputClock, LawClock
from pgt_fx.core.errors import Blocker
from pgt_fx.core.laws import Repeat
from pgt_fx.core.layout import (
    Factor,
    Layout,
    LayoutError,
    open_sizes,
    plain,
    relabel,
    time_dims,
)
from pgt_fx.core.node_arguments import as_number
from pgt_fx.core.torch_private import HigherOrderOperator, OpOverload
from pgt_fx.rules import (
    RULES,
    Kind,
    OpView,
    Refusal,
)
from pgt_fx.rules.registry import MergedTime, hint


def walk_graph(
    captured: Captured, spec: ClipSpec, future: str
) -> tuple[Analysis, dict[str, Blocker]]:
    """Walk the graph to its end, blockers or not. Neither the graph nor its metas are written to:
    where a node is missing, the analysis says so (``merged``, ``returned``), and a pass writes it
    (:mod:`pgt_fx.compiler.analysis.prepare`).

    Returns:
        the analysis, whose timelines after a blocker are guessed, and the blockers by node name.
    """
    blockers = _of_the_model(captured)
    if captured.clip is not None:
        analysis, found = walk_clip(captured, spec, future)
        return analysis, blockers | found
    walk = _Walk(Analysis(captured, spec, future))
    walk.blockers |= blockers
    for node in captured.graph.nodes:
        walk.visit(node)
    return walk.analysis, walk.blockers


def _of_the_model(captured: Captured) -> dict[str, Blocker]:
    """What the model does outside of its graph, of which a step can do nothing."""
    out: dict[str, Blocker] = {}
    for memory in captured.memories:
        out[memory.name] = Blocker(memory.place, LEFT_BEHIND, PASS_IT)
    for where in captured.seeded:
        out[str(where)] = Blocker(where, SEEDED, "draw outside the model, or unseeded")
    return out


LEFT_BEHIND = (
    "forward leaves a value in an attribute, or in a variable, for its next call to read, and the "
    "calls of a stream are the steps of one video"
)
PASS_IT = (
    "compute it anew in each call, or from the video with operators along time, or pass it as an "
    "input"
)
SEEDED = "seeds torch's random numbers in forward, where each step would draw the same once more"
#: Operator of torch's that runs a part of the model as a block -> what to do about it.
_OF_BLOCKS = {
    "wrap_with_autocast": "switch autocast around the model, not in forward",
    "flex_attention": "use scaled_dot_product_attention, with a mask of the frames",
    "cond": "choose with torch.where, which computes both sides",
    "scan": "write it as a layer that the steps know: cumsum, nn.GRU, nn.LSTM",
    "while_loop": "write the turns out, or leave the loop outside the model",
}
CAUGHT = (
    "the model catches an error of this call and takes another branch: at which numbers of "
    "frames it does can't be determined"
)
OF_LENGTH = "calculates with the number of frames of the video, which a step doesn't know"


class _Walk:
    def __init__(self, analysis: Analysis) -> None:
        self.analysis = analysis
        self.blockers: dict[str, Blocker] = {}
        self.paths = {leaf: k for k, leaf in enumerate(analysis.spec.paths)}
        self.analysis.lengths = analysis.captured.lengths

    def visit(self, node: fx.Node) -> None:
        if node.op == "placeholder":
            self.analysis.values[node.name] = self._input(node)
        elif node.op == "output":
            self.blockers |= check_outputs(self.analysis, node)
        elif node.op == "get_attr":  # the graph of a block, which is refused where it is run
            self.analysis.values[node.name] = Value(None)
        elif node.op == "call_function":
            try:
                self._call(node)
            except (Refusal, LayoutError) as refusal:
                remedy = getattr(refusal, "remedy", "") or REMEDY
                if isinstance(refusal, Refusal) or not follows_a_blocker(self.analysis, node):
                    self.blockers[node.name] = Blocker(place(node), str(refusal), remedy)
                self.analysis.values[node.name] = after_refusal(self.analysis, node)

    def _input(self, node: fx.Node) -> Value:
        value = node.meta.get("val")
        if not isinstance(value, Tensor):
            return Value(None)
        layout = plain([hint(s) for s in value.shape])
        leaf = self.analysis.captured.inputs.get(node.name)
        at = None if leaf is None else self.analysis.spec.times[leaf]
        if leaf is None or at is None:
            return Value(layout)
        dims = list(layout)
        for d, s in enumerate(value.shape):
            dims[d] = (Factor(hint(s), not isinstance(s, int), int(d == at), d == 0 != at),)
        return Value(tuple(dims), InputClock(self.analysis.future, self.paths[leaf]))

    def _call(self, node: fx.Node) -> None:
        operands = list(node.all_input_nodes)
        values = [self.analysis.values[n.name] for n in operands]
        flat = [v for value in values for v in (value if isinstance(value, list) else [value])]
        pooled = frozenset().union(*(v.pooled for v in flat)) if flat else frozenset()
        if not isinstance(node.target, OpOverload) or not _has_tensor(node):
            if isinstance(node.target, HigherOrderOperator):
                raise Refusal(
                    "runs a part of the model as a block of its own, which is not looked into",
                    _OF_BLOCKS.get(
                        node.target.name(), "spell it without torch's operator for such blocks"
                    ),
                )
            self._builtin(node, pooled)
            return
        if node.kwargs.get("generator") is not None:
            raise Refusal(
                "draws random numbers with a generator of its own, which a graph can't hold",
                "draw them without generator=, or outside the model",
            )
        written = node.meta.get("pgt_written")
        if isinstance(written, Refusal):  # one that writes in place, and that no step can run
            raise Refusal(written.reason, written.remedy)
        timed = any(v.timed for v in flat)
        if fails_at_unknown_lengths(self.analysis.captured.tried, node, timed=timed):
            raise Refusal(
                CAUGHT, "ask for the sizes in an if, or leave that part outside the model"
            )
        if not timed:
            self._timeless(node, pooled)
            return
        rule = RULES.get(schema_name(node))
        if rule is None:
            raise Refusal(
                "there is no rule for this operator, and it is given a tensor with a time axis",
                "register one with pgt_fx.rules.rule, or move the operator out of the model",
            )
        # A table of a clip's rows is read anew in each step, and said so.
        if any(v.of_length for v in flat) and schema_name(node) != "pgt_fx::clip_table":
            raise Refusal(OF_LENGTH, "leave the number of frames out of it")
        known = self.analysis.captured.sizes.of(self.analysis.lengths.numbers)
        pairs = self._pairs(node)
        layouts = {n: found.layout for n, found in pairs.items()}
        clip = min(self.analysis.spec.lengths)
        view = OpView(node, lambda n: layouts.get(n) or self._layout(n), known, clip)
        try:
            kind = rule(view)
        except MergedTime as merged:
            self._after_separation(node, merged)
            return
        tables = tuple(n for n in dict.fromkeys(view.tensors) if self._table(n))
        kind = beside_tables(self.analysis, kind, tables, pairs)
        if kind.rederived:
            sizes_without_time(self.analysis, node, kind)
        joins, common, clock = timing(self.analysis, node, kind)
        if common is None:  # its parts without time are put before the frames, not beside them
            pooled = frozenset().union(*(v.pooled for v in flat if v.timed))
        operation = Operation(
            node, kind, Value(None), place(node), tables=tables, pairs=pairs, clock=common or clock
        )
        if joins:
            operation.joins, operation.joined = joins, common
        for held, text in view.conditions:
            condition = Condition(held, operation.place.source, operation.place.line, text)
            self.analysis.lengths = self.analysis.lengths.within(condition)
        self.analysis.lengths = joined_whole(self.analysis, operation)
        kind.asks(VideosOf(self.analysis, operation))
        self.analysis.lengths = where_it_runs(self.analysis, operation, view)
        for table in pairs.values():
            self.analysis.lengths = within_table(self.analysis, operation, table)
        operation.value = _result(node, kind, clock, pooled)
        if any(v.guessed for v in flat):
            for v in operation.value if isinstance(operation.value, list) else [operation.value]:
                v.guessed = True
        self.analysis.lengths = where_its_size_is(self.analysis, operation)
        self.analysis.values[node.name] = operation.value
        self.analysis.operations[node.name] = operation
        self._check(node, operation.value)

    def _after_separation(self, node: fx.Node, merged: MergedTime) -> None:
        """Note that time has to be separated before an operator, and go on as if it were: those
        behind it may ask for the same, and are all to be found in one walk."""
        operand, values = merged.operand, self.analysis.values
        found = self.analysis.value(operand)
        request = Merged(node, operand, merged.dim, merged.entries)
        if found.layout is None or found.clock is None or request in self.analysis.merged:
            raise merged
        self.analysis.merged.append(request)
        length = hint(operand.meta["val"].shape[merged.dim])
        separated = list(found.layout)
        separated[merged.dim] = relabel((found.layout[merged.dim][:1],), None, length)[0]
        clock = LawClock(Repeat(merged.entries), found.clock)
        values[operand.name] = replace(found, layout=tuple(separated), clock=clock)
        try:
            self._call(node)
        finally:
            values[operand.name] = found

    def _table(self, node: fx.Node) -> Table | None:
        found = self.analysis.values[node.name]
        return None if isinstance(found, list) else found.table

    def _pairs(self, node: fx.Node) -> dict[fx.Node, PairTable]:
        """The tables with an axis of keys among an operator's operands."""
        tensors = [n for n in node.all_input_nodes if isinstance(n.meta.get("val"), Tensor)]
        others = [
            (n.meta["val"], layout)
            for n in tensors
            if not self._table(n) and (layout := self._layout(n)) and time_dims(layout)
        ]
        out: dict[fx.Node, PairTable] = {}
        for n in tensors:
            layout = self._layout(n)
            if self._table(n) is not None and layout is not None:
                found = pair_table(self.analysis.captured, n, layout, node, others)
                out |= {} if found is None else {n: found}
        return out

    def _layout(self, node: fx.Node) -> Layout | None:
        value = self.analysis.values[node.name]
        return None if isinstance(value, list) else value.layout

    def _builtin(self, node: fx.Node, pooled: frozenset[str]) -> None:
        """``getitem`` on several results; arithmetic on sizes."""
        source = node.args[0] if node.args else None
        found = self.analysis.values[source.name] if isinstance(source, fx.Node) else None
        if isinstance(found, list):
            self.analysis.values[node.name] = found[as_number(node.args[1])]
            return
        of_length = any(
            v.of_length
            for n in node.all_input_nodes
            if not isinstance(v := self.analysis.values[n.name], list)
        )
        self.analysis.values[node.name] = Value(None, None, pooled, of_length=of_length)

    def _timeless(self, node: fx.Node, pooled: frozenset[str]) -> None:
        """No operand has time: any operator runs as it is, unless it makes a table of T rows."""
        result = node.meta.get("val")
        known = [self.analysis.values[n.name] for n in node.all_input_nodes]
        flat = [v for one in known for v in (one if isinstance(one, list) else [one])]
        made = any(v.of_length for v in flat)
        of_length = made or any(n.meta.get("pgt_time") for n in node.all_input_nodes)
        if pooled and of_length:
            raise Refusal(OF_LENGTH, "use a mean over time in place of a sum and a division")
        tensors = list(result) if isinstance(result, (list, tuple)) else [result]
        follows = follows_a_blocker(self.analysis, node)  # reported where it was made
        timed = any(
            self.analysis.captured.has_time(s)
            for t in tensors
            if isinstance(t, Tensor)
            for s in t.shape
        )
        tables = [t for n in node.all_input_nodes if (t := self._table(n)) is not None]
        if timed and not follows:
            self.analysis.lengths = where_it_is_made(self.analysis, node)
            if pooled:
                raise Refusal(
                    "makes a tensor with one entry per frame from a value pooled over time"
                )
            layout, table = read_table(
                self.analysis.captured, node, tables, self._layout, of_length=made
            )
            if table.kind in (
                "rows",
                "pairs",
            ):  # others are looked up from the first row in each step
                self.analysis.lengths = within_rows(self.analysis, node)
            self.analysis.values[node.name] = Value(layout, table=table)
            return
        if tables and not follows:
            raise Refusal(
                "takes all entries of a table with one per frame together: what comes out depends "
                "on the length of the video",
                "keep one entry per frame",
            )
        size = guessed_size if follows else hint
        values = [
            Value(plain(map(size, t.shape)), None, pooled, guessed=follows, of_length=of_length)
            if isinstance(t, Tensor)
            else Value(None, None, pooled)
            for t in tensors
        ]
        several = isinstance(result, (list, tuple))
        self.analysis.values[node.name] = values if several else values[0]

    def _check(self, node: fx.Node, value: Value | list[Value]) -> None:
        """The layout and the captured sizes must agree on where time is."""
        values = value if isinstance(value, list) else [value]
        results = node.meta["val"]
        results = list(results) if isinstance(results, (list, tuple)) else [results]
        for one, result in zip(values, results, strict=False):
            if one.layout is None or not isinstance(result, Tensor):
                continue
            if len(one.layout) != result.dim():
                raise LayoutError(
                    f"internal: the rule gave {len(one.layout)} axes, there are {result.dim()}"
                )
            timed, captured = set(time_dims(one.layout)), self.analysis.captured
            known = captured.sizes.of(self.analysis.lengths.numbers)
            for d, s in enumerate(result.shape):
                if d not in timed and captured.has_time(s) and known.varies(s):
                    raise LayoutError(
                        f"dimension {d} of the result depends on the length of the video and the "
                        "operator's rule does not say how"
                    )
            one.layout = open_sizes(one.layout, result.shape)


def _result(
    node: fx.Node, kind: Kind, clock: Clock | None, pooled: frozenset[str]
) -> Value | list[Value]:
    layouts = kind.layout if isinstance(kind.layout, list) else [kind.layout]
    values = []
    for layout in layouts:
        timed = layout is not None and bool(time_dims(layout, 1))
        whole = kind.pools and layout is not None and not timed
        values.append(
            Value(layout, clock if timed else None, pooled | {node.name} if whole else pooled)
        )
    return values if isinstance(kind.layout, list) else values[0]


def _has_tensor(node: fx.Node) -> bool:
    value = node.meta.get("val")
    values = value if isinstance(value, (list, tuple)) else [value]
    return any(isinstance(v, Tensor) for v in values)
