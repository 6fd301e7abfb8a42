"""Values of the graph that depend on the number of frames alone: masks, position tables, counters.

They can be computed for any number of frames without a video. That is how a mask is understood
however it is written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import sympy
import torch
from torch import Tensor, fx, nn

from pgt_fx.capture.captured import Captured
from pgt_fx.capture.passes.alias_analysis import written_by
from pgt_fx.core.devices import elsewhere
from pgt_fx.core.node_arguments import function_of
from pgt_fx.core.torch_private import pytree, version_of


class NotConstant(Exception):
    """The value depends on the video."""


class Constants:
    """Evaluates parts of a captured graph for videos of a given length.

    Args:
        captured: the graph.
        tensors: parameters and buffers of the model, by attribute path.
    """

    def __init__(self, captured: Captured, tensors: Mapping[str, Tensor]) -> None:
        self.captured, self.tensors = captured, tensors
        self.hints = self._hints()
        self._read: dict[str, tuple[int, int | None, Tensor | None]] = {}
        self.bands: dict[Any, Any] = {}
        self._facts: list[tuple[Callable[[], Any], Any]] = []

    @property
    def read(self) -> list[str]:
        """Parameters and buffers whose values decide what a step does."""
        return list(self._read)

    def fact(self, ask: Callable[[], Any]) -> Any:
        """What ``ask`` finds by values of parameters and buffers, which may change: the analysis
        rests on it, so that it is kept (:meth:`changed`)."""
        found = ask()
        self._facts.append((ask, found))
        return found

    def changed(self, tensors: Mapping[str, Tensor]) -> list[str]:
        """Parameters and buffers whose values have changed since, where a fact is another now.

        Args:
            tensors: parameters and buffers of the model as it is.
        """
        self.tensors = tensors
        names = [name for name, seen in self._read.items() if _other(tensors[name], seen)]
        if not names:
            return []
        try:
            if any(ask() != found for ask, found in self._facts):
                return names
        except Exception:  # the new values are refused: the next analysis says why
            return names
        self._read = {name: _version(tensors[name]) for name in self._read}
        return []

    def _hints(self) -> dict[sympy.Symbol, int]:
        out: dict[sympy.Symbol, int] = {}
        for node in self.captured.graph.nodes:
            value = node.meta.get("val")
            if node.op == "placeholder" and isinstance(value, Tensor):
                for s in value.shape:
                    if isinstance(s, torch.SymInt) and isinstance(s.node.expr, sympy.Symbol):
                        out[s.node.expr] = int(s.node.hint)
        return out

    def size(self, size: Any, frames: int) -> float:
        """A size for videos of ``frames`` frames (of the shortest path), else as in the capture."""
        if not isinstance(size, (torch.SymInt, torch.SymFloat, torch.SymBool)):
            return size
        timed = self.captured.time_symbols
        least = min(self.hints[s] for s in timed)
        at = {
            s: sympy.Integer(frames * hint // least if s in timed else hint)
            for s, hint in self.hints.items()
        }
        value = size.node.expr.xreplace(at)
        if not value.is_number:
            raise NotConstant(str(size))
        return float(value) if isinstance(size, torch.SymFloat) else int(value)

    def value(self, node: fx.Node, frames: int, known: dict[fx.Node, Any] | None = None) -> Any:
        """The value of a node for a video of ``frames`` frames, on the CPU.

        Args:
            known: nodes whose values are given; more are added.

        Raises:
            NotConstant: when it depends on the video itself.
        """
        env: dict[fx.Node, Any] = {} if known is None else known
        order = {n: i for i, n in enumerate(self.captured.graph.nodes)}
        for one in sorted(_behind(node, env), key=order.__getitem__):
            env[one] = self._one(one, frames, env)
        return env[node]

    def _one(self, node: fx.Node, frames: int, env: dict[fx.Node, Any]) -> Any:
        meta = node.meta.get("val")
        if isinstance(meta, (int, float, torch.SymInt, torch.SymFloat)):
            return self.size(meta, frames)
        if node.op == "placeholder":
            return self._given(node)
        if node.op != "call_function":
            raise NotConstant(node.name)
        given = fx.map_arg((node.args, node.kwargs), lambda n: env[n])
        args, kwargs = elsewhere(given, torch.device("cpu"))
        if written_by(node):  # not into what is known, which may be the model's own
            args, kwargs = pytree.tree_map_only(Tensor, Tensor.clone, (args, kwargs))
        try:
            with torch.no_grad():
                return function_of(node)(*args, **kwargs)
        except (RuntimeError, IndexError, ValueError, TypeError) as error:
            raise NotConstant(f"{node.name}: {error}") from error

    def _given(self, node: fx.Node) -> Tensor:
        if node.name in self.captured.constants:
            return self.captured.constants[node.name].cpu()
        path = self.captured.tensors.get(node.name)
        tensor = None if path is None else self.tensors.get(path)
        if tensor is None or tensor.is_meta:
            raise NotConstant(node.name)
        self._read.setdefault(str(path), _version(tensor))
        return tensor.detach().cpu()

    def free(self, node: fx.Node) -> bool:
        """Whether a node depends on sizes and parameters alone."""
        return not any(
            n.op == "placeholder" and n.name in self.captured.inputs for n in _behind(node, {})
        )


class TensorsOf(Mapping[str, Tensor]):
    """Parameters and buffers of a model as they are when they are asked for, by attribute path."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model

    def __getitem__(self, path: str) -> Tensor:
        module, _, name = path.rpartition(".")
        try:
            found = getattr(self._model.get_submodule(module), name)
        except AttributeError as error:
            raise KeyError(path) from error
        if not isinstance(found, Tensor):
            raise KeyError(path)
        return found

    def __iter__(self) -> Iterator[str]:
        yield from (name for name, _ in self._model.named_parameters())
        yield from (name for name, _ in self._model.named_buffers())

    def __len__(self) -> int:
        return sum(1 for _ in self)


#: Elements of a tensor whose values are kept: writes through ``.data`` or NumPy are not counted.
_KEPT = 1 << 16


def _version(tensor: Tensor) -> tuple[int, int | None, Tensor | None]:
    """A value that changes when a tensor is written to or replaced."""
    counted = version_of(tensor)
    return id(tensor), counted, tensor.detach().clone() if tensor.numel() <= _KEPT else None


def _other(tensor: Tensor, seen: tuple[int, int | None, Tensor | None]) -> bool:
    """Whether a tensor is another one, or has been written to."""
    number, counted, values = seen
    if id(tensor) != number or (version_of(tensor)) != counted:
        return True
    return values is not None and not torch.equal(tensor, values)


def _behind(node: fx.Node, known: Mapping[fx.Node, Any]) -> list[fx.Node]:
    """A node and all that it is computed from, sizes taken as given."""
    out: dict[fx.Node, None] = {}
    queue = [node]
    while queue:
        one = queue.pop()
        if one in out or one in known:
            continue
        out[one] = None
        if not isinstance(one.meta.get("val"), (int, float, torch.SymInt, torch.SymFloat)):
            queue += one.all_input_nodes
    return list(out)
