"""Names of ATen operators and of their arguments."""

from __future__ import annotations

from typing import Any

from torch import fx

from pgt_fx.core.torch_private import schema_if_any, schema_of


def schema_name(node: fx.Node) -> str:
    """ATen name of a node's operator ("aten::relu"), or "" when it is none."""
    schema = schema_if_any(node.target)
    return schema.name if schema is not None else ""


def named(node: fx.Node) -> dict[str, Any]:
    """Arguments of a call by their names in the schema, defaults filled in."""
    out: dict[str, Any] = {}
    for position, argument in enumerate(schema_of(node.target).arguments):
        if position < len(node.args) and not argument.kwarg_only:
            out[argument.name] = node.args[position]
        else:
            out[argument.name] = node.kwargs.get(argument.name, argument.default_value)
    return out
