"""What autocast does to an operator, written into the graph as casts of its operands.

Autocast is a setting of the process and leaves nothing in a graph: inside such a block a
convolution of float32 operands gives bfloat16. Which operands of which operator it casts, and to
which type, torch keeps in lists of its own. So the operator is run on tensors without data, with
autocast on, and what is dispatched below it is looked at.
"""

from __future__ import annotations

import contextlib
import operator
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, fx

from pgt_fx.capture.torch_patches import QUIET
from pgt_fx.core.torch_private import TO_COPY, OpOverload, TorchDispatchMode, pytree, schema_of

#: Type of device -> the type to which autocast casts there; not in it where it is off.
Autocast = Mapping[str, torch.dtype]
#: An operator of those below, and the types of what it is given and gives.
Seen = tuple[str, tuple[Any, ...], tuple[torch.dtype, ...]]


@contextmanager
def switched(autocast: Autocast) -> Iterator[None]:
    """Autocast as it is in a block. Casts are not kept from one operator to the next."""
    with ExitStack() as stack:
        for device, dtype in autocast.items():
            stack.enter_context(torch.autocast(device, dtype, cache_enabled=False))
        yield


def write_casts(node: fx.Node, autocast: Autocast) -> bool:
    """Write the casts that autocast makes of the operands of an operator into its graph.

    Before, where autocast is on: ``%y = aten.linear(%x, %weight)``

    After: ``%a = aten.to(%x, bfloat16)``, ``%b = aten.to(%weight, bfloat16)``,
    ``%y = aten.linear(%a, %b)``, with autocast off.

    Returns:
        False where no such casts come to the same; the graph is then as it was.
    """
    if not isinstance(node.target, OpOverload):
        return node.target is operator.getitem or not isinstance(node.meta.get("val"), Tensor)
    operands = _operands(node)
    wanted, casts, dtypes = _run(node, operands, {}, autocast)
    observed = {n: casts[id(v)] for n, v in operands.items() if id(v) in casts}
    inside = {
        n: dtype
        for n, v in operands.items()
        for dtype in [autocast.get(v.device.type)]
        if dtype is not None and v.dtype in (torch.float32, torch.float16, torch.bfloat16)
    }
    written = _written(node)
    for given in ({}, observed, inside):
        if written.isdisjoint(given) and _computes(node, operands, given) == wanted:
            _cast(node, operands, given)
            return True
    kept = node.kwargs
    if any(a.name == "dtype" for a in schema_of(node.target).arguments) and len(dtypes) == 1:
        node.kwargs = {**kept, "dtype": dtypes[0]}  # a softmax that is to give float32
        if _computes(node, operands, {}) == wanted:
            return True
        node.kwargs = kept
    return False


def _operands(node: fx.Node) -> dict[fx.Node, Tensor]:
    """The tensors among the operands, each an object of its own."""
    found = {n: n.meta.get("val") for n in node.all_input_nodes}
    return {n: v.detach() for n, v in found.items() if isinstance(v, Tensor)}


def _written(node: fx.Node) -> set[fx.Node]:
    """Operands that the operator writes into: a cast one would be another tensor."""
    found: set[fx.Node] = set()
    for number, argument in enumerate(schema_of(node.target).arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            given = node.kwargs.get(argument.name)
            given = node.args[number] if number < len(node.args) else given
            found |= {n for n in pytree.tree_leaves(given) if isinstance(n, fx.Node)}
    return found


def _computes(
    node: fx.Node, operands: Mapping[fx.Node, Tensor], casts: Mapping[fx.Node, torch.dtype]
) -> list[Seen] | None:
    """What is computed with these casts and without autocast; None where it does not run so."""
    with QUIET.on(), contextlib.suppress(RuntimeError, TypeError):
        return _run(node, operands, casts, {})[0]
    return None


def _run(
    node: fx.Node,
    operands: Mapping[fx.Node, Tensor],
    casts: Mapping[fx.Node, torch.dtype],
    autocast: Autocast,
) -> tuple[list[Seen], dict[int, torch.dtype], list[torch.dtype]]:
    """Run an operator on tensors without data, some of its operands cast before.

    Returns:
        what was computed below it; which tensors were cast, by their id; the types of its results.
    """
    values: dict[fx.Node, Any] = {
        n: operands[n].to(casts[n]) if n in casts else operands.get(n, n.meta.get("val"))
        for n in node.all_input_nodes
    }
    args, kwargs = fx.map_arg((node.args, node.kwargs), values.__getitem__)
    with torch.no_grad(), switched(autocast), _Below() as below:
        out = node.target(*args, **kwargs)  # type: ignore[operator]
    types = [x.dtype for x in pytree.tree_leaves(out) if isinstance(x, Tensor)]
    return below.seen, below.casts, types


class _Below(TorchDispatchMode):
    """Notes what is computed, with its types, and what is cast. A view computes nothing: a tensor
    may be cast on either side of it."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Seen] = []
        self.casts: dict[int, torch.dtype] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func is TO_COPY:
            if (dtype := (kwargs or {}).get("dtype")) is not None:
                self.casts[id(args[0])] = dtype
        elif _computes_anew(func) and (given := _types(out)):
            self.seen.append((str(func), _types((args, kwargs)), given))
        return out


def _computes_anew(func: Any) -> bool:
    """Whether an operator is more than a view of its operand."""
    aliases = [one.alias_info for one in schema_of(func).returns]
    return all(alias is None or alias.is_write for alias in aliases)


def _types(values: Any) -> tuple[Any, ...]:
    leaves = pytree.tree_leaves(values)
    found = (x.dtype if isinstance(x, Tensor) else x for x in leaves)
    return tuple(x for x in found if isinstance(x, (torch.dtype, bool)))


def _cast(
    node: fx.Node, operands: Mapping[fx.Node, Tensor], casts: Mapping[fx.Node, torch.dtype]
) -> None:
    for operand, dtype in casts.items():
        with node.graph.inserting_before(node):
            cast = node.graph.call_function(torch.ops.aten.to.dtype, (operand, dtype))
        cast.meta = {**node.meta, "val": operands[operand].to(dtype)}
        node.replace_input_with(operand, cast)
