"""The operators of a model and how values flow between them, as a networkx graph."""

from __future__ import annotations

from typing import Any

import networkx as nx

from pgt_fx.compiler.analysis.receptive_field import Reach
from pgt_fx.compiler.analysis.timed_graph import Analysis


def network(analysis: Analysis, reach: dict[str, dict[int, Reach]]) -> nx.DiGraph:
    """Nodes carry op, module, source, verdict, stride and reach."""
    graph = nx.DiGraph()
    for node in analysis.captured.graph.nodes:
        if node.name not in analysis.values or node.name in analysis.captured.tensors:
            continue
        operation = analysis.operations.get(node.name)
        attributes: dict[str, Any] = {"op": str(node.target), "verdict": "input"}
        if operation is not None:
            attributes |= {
                "op": operation.place.op,
                "module": operation.place.module,
                "source": operation.place.source,
                "verdict": operation.outcome.name,
            }
        elif node.op != "placeholder":
            attributes["verdict"] = "no time"
        found = max(reach.get(node.name, {}).values(), key=lambda r: r.field or 0, default=None)
        if found is not None:
            attributes |= {
                "stride": str(found.stride),
                "past": found.past,
                "future": found.future,
            }
        graph.add_node(node.name, **attributes)
        for operand in node.all_input_nodes:
            if operand.name in graph:
                graph.add_edge(operand.name, node.name)
    return graph
