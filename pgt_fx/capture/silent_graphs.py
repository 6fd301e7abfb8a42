"""Modules of graphs that print nothing."""

from __future__ import annotations

from torch import fx, nn


def silent(module: fx.GraphModule) -> fx.GraphModule:
    """The module of a graph, called as any other module is.

    fx's own call prints a traceback and the generated code to stderr when an operator of the graph
    raises, and hands the error on without its traceback. Here most such errors are expected, or
    said in other words.
    """
    # Its class is one of this module alone.
    type(module).__call__ = nn.Module.__call__  # type: ignore[method-assign]
    return module
