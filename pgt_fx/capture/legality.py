"""Checks of what a captured graph may contain, before and after its passes: made between the stages
in tests, and wherever the environment has ``PGT_FX_CHECK_STAGES=1``.

A pass that leaves an operator that it should remove, or a capture that gives a new one, is found
where it happens and not three stages later.
"""

from __future__ import annotations

import torch
from torch import fx

from pgt_fx.capture.captured import Captured
from pgt_fx.capture.passes.alias_analysis import Aliases, written_by
from pgt_fx.capture.passes.functionalize import WRITTEN, functional_form
from pgt_fx.capture.passes.pipeline import CHECKS
from pgt_fx.capture.schema import schema_name
from pgt_fx.core.torch_private import HigherOrderOperator
from pgt_fx.core.trace import IllegalGraph

#: Kinds of nodes that a captured graph has.
OPS = frozenset(("placeholder", "call_function", "get_attr", "output"))


def check_captured(captured: Captured) -> None:
    """After ``torch.export``: functions of values that are known, in an order that can be run.

    Raises:
        IllegalGraph: naming the node.
    """
    captured.graph.lint()
    known = {*captured.inputs, *captured.tensors, *captured.constants}
    for node in captured.graph.nodes:
        if node.op not in OPS:
            raise _illegal("capture", node, f"its kind is {node.op!r}, of {sorted(OPS)}")
        # What is no tensor (a generator) stands in the graph as an input as well.
        tensor = isinstance(node.meta.get("val"), torch.Tensor)
        if node.op == "placeholder" and tensor and node.users and node.name not in known:
            raise _illegal("capture", node, "it is no input, no parameter and no constant")
        block = isinstance(node.target, HigherOrderOperator)
        if node.op == "call_function" and not block and "val" not in node.meta:
            raise _illegal("capture", node, "the sizes and the type of its value are not known")


def check_cleaned(captured: Captured) -> None:
    """After the passes: nothing is written in place but buffers of the model, nothing checks sizes
    of the capture, and of every number it is known whether it depends on the length.

    Raises:
        IllegalGraph: naming the node.
    """
    check_captured(captured)
    aliases, own = Aliases(captured.graph), {*captured.tensors, *captured.constants}
    for node in captured.graph.nodes:
        if schema_name(node) in CHECKS:
            raise _illegal("passes", node, "a check of the capture's sizes is left")
        value = node.meta.get("val")
        number = isinstance(value, (torch.SymInt, torch.SymFloat, torch.SymBool))
        if number and node.op == "call_function" and "pgt_time" not in node.meta:
            raise _illegal("passes", node, "nothing says whether it depends on the length")
        for target in written_by(node) if WRITTEN not in node.meta else []:
            if (root := aliases.root(target)).name in own:
                continue
            # ``bernoulli_`` has no other form: it may write into what nobody reads by another name.
            if functional_form(node) is not None or aliases.readers(node, target):
                raise _illegal("passes", node, f"it writes into {root.name} in place")


def _illegal(stage: str, node: fx.Node, why: str) -> IllegalGraph:
    return IllegalGraph(f"after {stage}: {node.format_node() or node.name}: {why}")
