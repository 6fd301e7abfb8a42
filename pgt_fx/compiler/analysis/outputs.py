"""Checks of what a model returns: the outputs of the steps, concatenated, must be the video's."""

from __future__ import annotations

from torch import Tensor, fx

from pgt_fx.capture.observe.module_calls import place
from pgt_fx.compiler.analysis.length_tables import Table, table_graph
from pgt_fx.compiler.analysis.timed_graph import Analysis, Operation, Value
from pgt_fx.core.clocks import Clock
from pgt_fx.core.errors import Blocker, Place
from pgt_fx.core.layout import time_dims
from pgt_fx.core.node_arguments import as_list
from pgt_fx.core.torch_private import pytree
from pgt_fx.rules import Local, Refusal

#: Note on a node that gives a table which is returned; elsewhere a table is made where it is used.
MADE = "pgt_returned"


def check_outputs(analysis: Analysis, output: fx.Node) -> dict[str, Blocker]:
    """What can't be returned step by step, by name; notes the outputs in the analysis."""
    flat = as_list(output.args[0])
    analysis.outputs = flat
    found: dict[str, Blocker] = {}
    for item in dict.fromkeys(flat):
        if not isinstance(item, fx.Node):
            continue
        value = analysis.values[item.name]
        if not isinstance(value, Value):
            continue
        try:
            (_in_order if value.clock is not None else _made)(analysis, item, value)
        except Refusal as refusal:
            tensor = isinstance(item.meta.get("val"), Tensor)
            where = place(item) if tensor else Place("output")  # a size has no line
            found[f"{item.name} (output)"] = Blocker(where, str(refusal), refusal.remedy)
    return found


def _in_order(analysis: Analysis, node: fx.Node, value: Value) -> None:
    """The outputs of all steps, one after the other, must be able to be the model's."""
    if len(time_dims(value.layout or ())) > 1 and not value.guessed:
        raise Refusal(
            "the model returns a tensor of frames by frames, of which a step has a part",
            "leave it, or what is made of it, outside the model",
        )
    outer = any(f.time for dim in (value.layout or ()) for f in dim[1:])
    if outer and not value.guessed:
        raise Refusal(
            "the model returns a tensor whose time axis is merged after another one: the "
            "outputs of the steps, put one after the other, are in another order",
            "return it with time on an axis of its own, or outermost in the merged one",
        )


def _made(analysis: Analysis, node: fx.Node, value: Value) -> None:
    """Look at a value without a clock that the model returns; a table gets the one of what it is
    returned beside, so that each step returns its own part.

    Raises:
        Refusal: for what a step can't return.
    """
    if value.guessed:
        return
    if value.of_length or node.meta.get("pgt_time"):
        raise Refusal(
            f"the model returns{_key(analysis, node)} the number of frames of the video, or what "
            "it calculates with it, which a step doesn't know",
            "count the frames outside the model",
        )
    if value.table is None:
        return
    if value.table.kind == "pairs":
        raise Refusal(
            f"the model returns{_key(analysis, node)} a table of frames by frames, of which a step "
            "has a part",
            "make it outside the model",
        )
    if value.table.kind != "rows":
        raise Refusal(
            f"the model returns{_key(analysis, node)} a table whose entries depend on the length "
            "of the video, or are those of a table of fixed length: the outputs of the steps, put "
            "one after the other, are another one",
            "make it of the frames' positions alone, or outside the model",
        )
    table_graph(analysis.captured, node, value.table)
    clock = _clock(analysis, node, value.table)
    if not returned_alone(node):
        analysis.returned.append(node)
        return
    found = Value(value.layout, clock)
    analysis.values[node.name] = found
    analysis.operations[node.name] = Operation(
        node,
        Local(value.layout or ()),
        found,
        place(node),
        tables=(node.all_input_nodes[0],),
        clock=clock,
    )


def returned_alone(node: fx.Node) -> bool:
    """Whether a node is there only so that what it gives is returned."""
    return bool(node.meta.get(MADE))


def _clock(analysis: Analysis, node: fx.Node, table: Table) -> Clock:
    """The clock of something with as many elements: of an output, else of what comes first."""
    outputs = [n for n in analysis.outputs if isinstance(n, fx.Node)]
    for other in (*outputs, *analysis.captured.graph.nodes):
        value = analysis.values.get(other.name)
        if not isinstance(value, Value) or value.clock is None or other is node:
            continue
        shape = other.meta["val"].shape
        if any(str(shape[d]) == str(table.length) for d in time_dims(value.layout or (), 1)):
            return value.clock
    raise Refusal(
        f"the model returns{_key(analysis, node)} a table of another length than anything that it "
        "makes of the video",
        "make it outside the model",
    )


def _key(analysis: Analysis, node: fx.Node) -> str:
    """`` as ['frames']``: where in what the model returns a value stands."""
    flat = analysis.outputs
    if len(flat) < 2:
        return ""
    whole = pytree.tree_unflatten(list(range(len(flat))), analysis.captured.out_spec)
    keys = [key for key, number in pytree.tree_leaves_with_path(whole) if flat[number] is node]
    return f" as {pytree.keystr(keys[0])}" if keys else ""
