"""How many keys and values an attention carries: as many as exactness takes, or the caller sets."""

from __future__ import annotations

from torch import fx

from pgt_fx.compiler.analysis.timed_graph import Analysis, Operation
from pgt_fx.core.options import Options


def remembers(operation: Operation, options: Options) -> bool:
    """Whether an operation carries keys or values from step to step."""
    return operation.outcome.remembers(options)


def memory_size(analysis: Analysis, operation: Operation, options: Options) -> int | None:
    """Elements that an attention carries; None: all of the video's.

    With a causal mask as many as the mask lets through; else as many as there are in
    ``options.attention`` clips, none without it.
    """
    if operation.clock is None:
        return 0
    clip = operation.clock.at(tuple(analysis.spec.lengths), True).total
    return operation.outcome.memory(options, clip)


def table_memory(analysis: Analysis, node: fx.Node, options: Options) -> int | None:
    """Elements remembered by the attention that a node with a table of pairs belongs to."""
    found = node.meta.get("pgt_attention")
    operation = None if found is None else analysis.operations.get(found.product.name)
    return 0 if operation is None else memory_size(analysis, operation, options)


def grows(analysis: Analysis, options: Options) -> bool:
    """Whether the state grows with the video: a causal attention that sees all of the past."""
    return any(
        remembers(o, options) and memory_size(analysis, o, options) is None
        for o in analysis.operations.values()
    )
