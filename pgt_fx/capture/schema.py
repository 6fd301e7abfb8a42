"""Names of ATen operators."""

from __future__ import annotations

from torch import fx


def schema_name(node: fx.Node) -> str:
    """ATen name of a node's operator ("aten::relu"), or "" when it is none."""
    schema = getattr(node.target, "_schema", None)
    return schema.name if schema is not None else ""
