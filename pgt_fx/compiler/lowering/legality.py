"""Checks of what the graph of a step may contain: made after lowering in tests, and wherever the
environment has ``PGT_FX_CHECK_STAGES=1``."""

from __future__ import annotations

from pgt_fx.capture.passes.pipeline import CHECKS
from pgt_fx.capture.schema import schema_name
from pgt_fx.core.counts import counted
from pgt_fx.core.trace import IllegalGraph
from pgt_fx.runtime.step_graph import Emitted


def check_emitted(emitted: Emitted, markov_name: str) -> None:
    """After lowering: every Markov operator that is called exists and is called once, every slot
    of the state has an operator whose elements it carries, and the outputs are as many as the
    model's.

    Raises:
        IllegalGraph: naming the node.
    """
    emitted.graph.lint()
    called: set[str] = set()
    for node in emitted.graph.nodes:
        if schema_name(node) in CHECKS:
            raise IllegalGraph(f"after lowering: {node.format_node()}: a check of sizes is left")
        first, _, name = str(node.target).partition(".")
        if node.op != "call_module" or first != markov_name:
            continue
        if name not in emitted.markov:
            raise IllegalGraph(f"after lowering: {node.name} calls {name!r}, which there is not")
        if name in called:
            raise IllegalGraph(f"after lowering: {name!r} is called twice, and has one state")
        called.add(name)
    items = emitted.schedulable.items
    lost = {slot for slot, item in items.items() if not item.made_anew}
    lost -= emitted.origin.keys()
    if lost:
        raise IllegalGraph(
            f"after lowering: no operator is known for the state entries {sorted(lost)}"
        )
    output = next(node for node in emitted.graph.nodes if node.op == "output")
    if len(output.args[0]) != len(emitted.outputs):
        raise IllegalGraph(
            f"after lowering: {counted(len(output.args[0]), 'output')}, and the model has "
            f"{len(emitted.outputs)}"
        )
