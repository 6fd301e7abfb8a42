"""Arguments and targets of graph nodes, read with their types checked.

To torch an argument may be a node, a number, a list or a name. Where the operator's schema says
which, it is read by one of these; another type there is an internal error and raises one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

from torch import fx
from torch.fx.node import Argument


def as_node(argument: Argument) -> fx.Node:
    """An operand.

    Raises:
        TypeError: when it is none; so do the others here.
    """
    return argument if isinstance(argument, fx.Node) else _other("a node", argument)


def as_list(argument: Argument) -> list[Argument]:
    """A list or a tuple of arguments, as a list of its own."""
    return list(argument) if isinstance(argument, (list, tuple)) else _other("a list", argument)


def as_nodes(argument: Argument) -> list[fx.Node]:
    """A list of operands: the parts of a concatenation."""
    return [as_node(one) for one in as_list(argument)]


def as_number(argument: Argument) -> int:
    """A whole number that is written in the graph: a dimension, an index."""
    return argument if isinstance(argument, int) else _other("a whole number", argument)


def as_numbers(argument: Argument) -> list[int]:
    """A list of such numbers: the dimensions of a permutation."""
    return [as_number(one) for one in as_list(argument)]


def function_of(node: fx.Node) -> Callable[..., Any]:
    """The function that a ``call_function`` node calls."""
    return node.target if callable(node.target) else _other("a function", node.target)


def _other(expected: str, seen: Any) -> NoReturn:
    raise TypeError(f"a node of the graph has {seen!r} where {expected} was expected")
