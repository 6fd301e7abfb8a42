"""An analysis under the other ``future``: what operators are and what whole videos do is the same,
and only when their elements exist differs. So the clocks alone are made anew, and no rule is asked.
"""

from __future__ import annotations

from dataclasses import replace

from torch import fx

from pgt_fx.capture.observe.module_calls import place
from pgt_fx.compiler.analysis.blocked import REMEDY, after_refusal, follows_a_blocker
from pgt_fx.compiler.analysis.operands import timing
from pgt_fx.compiler.analysis.outputs import check_outputs, returned_alone
from pgt_fx.compiler.analysis.timed_graph import Analysis, Operation, Value
from pgt_fx.core.clocks import Clock, InputClock
from pgt_fx.core.errors import Blocker
from pgt_fx.core.node_arguments import as_number
from pgt_fx.rules import Refusal


def under(analysis: Analysis, future: str) -> tuple[Analysis, dict[str, Blocker]]:
    """The same analysis under this ``future``.

    Args:
        analysis: of a graph without blockers.

    Returns:
        it, and what is refused under this ``future`` alone, by node name: values of an attention
        that are later than its queries. The timelines behind one are guessed.
    """
    if analysis.future == future:
        return analysis, {}
    other = Analysis(analysis.captured, analysis.spec, future, lengths=analysis.lengths)
    blockers: dict[str, Blocker] = {}
    for node in analysis.captured.graph.nodes:
        if node.op == "output":
            blockers |= check_outputs(other, node)
            continue
        try:
            other.values[node.name] = _value(analysis, other, node)
        except Refusal as refusal:
            where = place(node)
            blockers[node.name] = Blocker(where, str(refusal), refusal.remedy or REMEDY)
            other.values[node.name] = after_refusal(other, node)
    return other, blockers


def _value(analysis: Analysis, other: Analysis, node: fx.Node) -> Value | list[Value]:
    """The timeline of a node; its operation, where it is one, is noted."""
    found = analysis.values[node.name]
    if returned_alone(node):  # a table until it is returned
        return other.values[node.all_input_nodes[0].name]
    if operation := analysis.operations.get(node.name):
        made = _operation(other, operation)
        other.operations[node.name] = made
        return made.value
    if isinstance(found, list) or found.clock is None:
        return found
    if node.op == "placeholder":
        (path,) = found.clock.paths
        return replace(found, clock=InputClock(other.future, path))
    source = node.all_input_nodes[0]  # one of several results
    whole = other.values[source.name]
    if not isinstance(whole, list):
        raise AssertionError(f"{node.name} has a clock, and nothing gives it one")
    return whole[as_number(node.args[1])]


def _operation(other: Analysis, operation: Operation) -> Operation:
    node, kind = operation.node, operation.outcome
    joins, common, clock = timing(other, node, kind)
    behind, given = follows_a_blocker(other, node), operation.value
    values = [_retimed(v, clock, behind) for v in (given if isinstance(given, list) else [given])]
    return replace(
        operation,
        value=values if isinstance(given, list) else values[0],
        joins=joins,
        joined=common if joins else None,
        clock=common or clock,
    )


def _retimed(value: Value, clock: Clock | None, guessed: bool) -> Value:
    return replace(value, clock=clock if value.timed else None, guessed=guessed)
