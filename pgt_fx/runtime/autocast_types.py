"""The types that the values of a model have under autocast.

A capture has no autocast: in it a convolution returns the type of its input. Where values are
concatenated along time, or padded, a step may have the elements of one value alone; the model's
result has the widest type of all, in every step.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Any

import torch
from torch import Tensor, fx, nn

from pgt_fx.capture.captured import Captured
from pgt_fx.capture.observe.recurrent_op import run_layers
from pgt_fx.capture.passes.cat_to_pad import PARTS
from pgt_fx.core.clip import ClipSpec
from pgt_fx.core.errors import PgtError, StateError, of_this_machine
from pgt_fx.core.torch_private import FakeTensorMode, pytree

#: Device and type of autocast, and the types of the leaves of a clip.
Kind = tuple[Any, ...]


class MixedTypes:
    """The types of a graph's values, found once for each kind of autocast.

    Args:
        captured: the graph.
        spec: structure and sizes of a clip.
    """

    def __init__(self, captured: Captured, spec: ClipSpec) -> None:
        self.captured, self.spec = captured, spec
        self._known: dict[Kind, dict[str, torch.dtype]] = {}

    def of(self, model: nn.Module, leaves: Sequence[Any], video: Tensor) -> dict[str, torch.dtype]:
        """Types by name of the node, under autocast as it is on now; none where it is off.

        Args:
            leaves: of the clip.
            video: one of them, on whose device the model works.

        Raises:
            StateError: where they can't be determined.
        """
        device = video.device.type
        if not torch.amp.is_autocast_available(device) or not torch.is_autocast_enabled(device):
            return {}
        types = [x.dtype if isinstance(x, Tensor) else None for x in leaves]
        kind = (device, torch.get_autocast_dtype(device), *types)
        if kind not in self._known:
            self._known[kind] = self._found(model, leaves)
        return self._known[kind]

    @torch.compiler.disable
    def _found(self, model: nn.Module, leaves: Sequence[Any]) -> dict[str, torch.dtype]:
        fake = FakeTensorMode(allow_non_fake_inputs=True)
        given: dict[str, Any] = {}
        for name, leaf in self.captured.inputs.items():
            shape, like = self.spec.shapes[leaf], leaves[leaf]
            if shape is not None and isinstance(like, Tensor):
                with fake:
                    given[name] = torch.empty(shape, dtype=like.dtype, device=like.device)
        for name, path in self.captured.tensors.items():
            *parts, last = path.split(".")
            owner = model.get_submodule(".".join(parts))
            given[name] = fake.from_tensor(getattr(owner, last).detach())
        for name, constant in self.captured.constants.items():
            given[name] = fake.from_tensor(constant)
        try:
            with fake, torch.no_grad():
                return _Types(given).run(self.captured.graph)
        except Exception as error:
            if isinstance(error, PgtError) or of_this_machine(error):
                raise
            raise StateError(
                "autocast is on, and the types of the model's values under it can't be determined "
                f"({type(error).__name__}: {str(error)[:200]}); convert the model with .to(dtype) "
                "in place of autocast"
            ) from error


class _Types:
    """Runs a graph without compute, for the types of its values."""

    def __init__(self, given: dict[str, Any]) -> None:
        self.given = given

    def run(self, graph: fx.Graph) -> dict[str, torch.dtype]:
        env: dict[fx.Node, Any] = {}
        out: dict[str, torch.dtype] = {}
        for node in graph.nodes:
            if node.op == "placeholder":
                env[node] = self.given.get(node.name)
            elif node.op == "call_function":
                args, kwargs = fx.map_arg((node.args, node.kwargs), env.__getitem__)
                if node.target is torch.ops.pgt_fx.recurrent.default:
                    env[node] = run_layers(args[0], [s.to(args[0]) for s in args[1]], *args[2:])
                else:
                    env[node] = node.target(*args, **kwargs)
            parts = node.meta.get(PARTS)
            if parts is not None:
                known = [p if isinstance(p, torch.dtype) else out.get(p.name) for p in parts]
                own = env[node.args[0]].dtype
                widest = reduce(torch.promote_types, [t for t in known if t], own)
                env[node] = env[node].to(widest)
            first = next(iter(pytree.tree_leaves(env.get(node))), None)
            if isinstance(first, Tensor):
                out[node.name] = first.dtype
        return out
