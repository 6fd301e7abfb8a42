"""Calls of the model's modules during a capture, and which of them a node of the graph is from."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, fx, nn

from pgt_fx.capture.observe.model_lines import innermost, quoted, short
from pgt_fx.capture.torch_patches import MODULE_CALLS
from pgt_fx.core.errors import Place
from pgt_fx.core.torch_private import schema_if_any


@dataclass(frozen=True)
class ModuleCall:
    """One call of a submodule, as a hook saw it: whether it maps one tensor to one tensor."""

    path: str
    one_to_one: bool


@dataclass(frozen=True)
class Whole:
    """Paths of the modules that a step calls as they are, those inside them included.

    Attributes:
        called: the modules that are called.
        opened: modules of which an operator is run outside of such a call.
    """

    called: frozenset[str] = frozenset()
    opened: frozenset[str] = frozenset()

    def __contains__(self, path: str) -> bool:
        if path in self.opened:
            return False
        parts = path.split(".")
        return any(".".join(parts[:n]) in self.called for n in range(1, len(parts) + 1))


@contextlib.contextmanager
def recorded(model: nn.Module, running: list[str] | None = None) -> Iterator[dict[str, ModuleCall]]:
    """Hooks every module call; keys are those of the module stack in node metadata.

    Args:
        running: a list that is kept at the keys of the calls that run, innermost last.
    """
    paths = {id(module): name for name, module in model.named_modules()}
    count: dict[str, int] = {}
    calls: dict[str, ModuleCall] = {}

    def before(module: nn.Module, args: Any) -> None:
        path = paths.get(id(module))
        if path is not None:
            stack.append(_key(path, count.get(path, 0)))
            count[path] = count.get(path, 0) + 1

    def after(module: nn.Module, args: Any, kwargs: Any, out: Any) -> None:
        path = paths.get(id(module))
        if path is not None and stack:
            plain = len(args) == 1 and not kwargs and isinstance(args[0], Tensor)
            calls[stack.pop()] = ModuleCall(path, plain and isinstance(out, Tensor))

    stack: list[str] = [] if running is None else running
    with MODULE_CALLS.on(before, after):
        yield calls


def _key(path: str, number: int) -> str:
    return f"{path}@{number}" if number else path


def call_stack(node: fx.Node) -> list[str]:
    """Keys of the module calls around a node, outermost first, the model itself left out."""
    out = []
    for key, (path, _) in node.meta.get("nn_module_stack", {}).items():
        if not path:
            continue
        number = key.rsplit("@", 1)[1] if "@" in key else ""
        out.append(f"{path}@{number}" if number else path)
    return out


def module_path(node: fx.Node) -> str:
    """Path of the innermost module whose forward made the node."""
    stack = list(node.meta.get("nn_module_stack", {}).values())
    return stack[-1][0] if stack else ""


def place(node: fx.Node) -> Place:
    """Operator, module and source line of a node; torch's own frames are passed over."""
    schema = schema_if_any(node.target)
    name = str((schema and schema.name) or node.target)
    found = _frames(node)
    own = innermost([(file, function) for file, function, *_ in found])
    where = Place(name.replace("::", "."), module_path(node))
    if own is None:
        inside = _inside(node)
        return where if inside is None else replace(where, source=inside.source, line=inside.line)
    file, _, number, line = found[own]
    return replace(where, source=f"{short(file)}:{number}", line=quoted(file, int(number)) or line)


def _frames(node: fx.Node) -> list[tuple[str, str, str, str]]:
    """The lines that were running when a node was made, innermost first: file, function, number
    and text."""
    found = []
    parts = [part for part in (node.meta.get("stack_trace") or "").split("File ") if part.strip()]
    for part in reversed(parts):
        head, _, line = part.partition("\n")
        file, _, rest = head.strip().strip('"').partition('", line ')
        number, _, function = rest.partition(", in ")
        found.append((file, function, number, line.strip()))
    return found


def lines_around(node: fx.Node) -> set[str]:
    """The lines that were running when a node was made, as ``"file.py:12"``."""
    return {f"{short(file)}:{number}" for file, _, number, _ in _frames(node)}


def _inside(node: fx.Node) -> Place | None:
    """The first line of the model in the graphs of a block (of a scan, of a condition), or the one
    in front of it."""
    owner = node.graph.owning_module
    for operand in node.all_input_nodes if node.op == "call_function" else ():
        body = getattr(owner, str(operand.target), None) if operand.op == "get_attr" else None
        for one in body.graph.nodes if isinstance(body, fx.GraphModule) else ():
            found = place(one) if one.op == "call_function" else None
            if found is not None and found.source:
                return found
    return None
