"""Arguments of a captured call: read by name, changed, and made a template for a step."""

from __future__ import annotations

from typing import Any

from torch import fx

from pgt_fx.core.torch_private import schema_of
from pgt_fx.runtime.markov.template import Hole, Template


def listed(*values: Any) -> list[Any]:
    """The arguments themselves: a template's call that only fills them in."""
    return list(values)


def template(call: Any, args: Any, kwargs: Any, source: fx.Node) -> tuple[Template, list[fx.Node]]:
    """The operator with holes for its operands, and the operands besides ``source``."""
    others: list[fx.Node] = []

    def hole(n: fx.Node) -> Any:
        if n is source:
            return Hole(0)
        if n not in others:
            others.append(n)
        return Hole(others.index(n) + 1)

    filled = fx.map_arg(tuple(args), hole)
    named = fx.map_arg(kwargs, hole)
    return Template(call, tuple(filled), tuple(named.items())), others


_NEEDED: Any = object()


def argument(node: fx.Node, name: str, default: Any = _NEEDED) -> Any:
    """An argument of a call, by its name in the schema; ``default`` where it isn't given."""
    for position, argument in enumerate(schema_of(node.target).arguments):
        if argument.name == name:
            if position < len(node.args) and not argument.kwarg_only:
                return node.args[position]
            return node.kwargs.get(name, None if default is _NEEDED else default)
    if default is _NEEDED:
        raise KeyError(name)
    return default


def arguments(node: fx.Node, changes: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """Arguments of a call with some changed, positional as far as the schema allows."""
    args: list[Any] = list(node.args)
    kwargs = dict(node.kwargs)
    for position, argument in enumerate(schema_of(node.target).arguments):
        if argument.name not in changes:
            continue
        value = changes[argument.name]
        if argument.kwarg_only or argument.name in kwargs:
            kwargs[argument.name] = value
            continue
        while len(args) <= position:
            args.append(schema_of(node.target).arguments[len(args)].default_value)
        args[position] = value
    return args, kwargs


def with_memories(node: fx.Node, args: list[Any], memories: dict[fx.Node, fx.Node]) -> list[Any]:
    """Arguments of one product of an attention with its keys or values remembered.

    Place by place: an operand may be the queries as well, which are those of the step alone.
    """
    out = list(args)
    name = schema_of(node.target).name
    if name == "aten::einsum":
        terms, result = str(args[0]).replace(" ", "").split("->")
        twice = args[1].count(args[1][0]) > 1  # then the keys are those that make the columns
        out[1] = [
            n if twice and result[-1] not in term else memories.get(n, n)
            for term, n in zip(terms.split(","), args[1], strict=True)
        ]
        return out
    for place in (1, 2) if name == "aten::scaled_dot_product_attention" else (1,):
        out[place] = memories.get(out[place], out[place])
    return out
