"""An image model's forward, run on all frames at once, with a time axis where it is wanted.

Frames stand in the batch, so that whatever an image model's forward says of four-dimensional
maps (flattening, permuting, attention, statistics of a squeeze-excitation) stays true of every
single frame.  Around the convolutions that look at time, and around pools over time, the axis
is put back.  The numbers of clips and frames are values of the graph, read off the clip: nothing
is remembered between two calls, and torch.export sees them as what they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from typing import Any

import torch.nn.functional as F
from torch import Tensor, fx, nn

from .image_layers import stage_of
from .temporal import InflationError
from .temporal_conv import TemporalConv

_POOLS, _DROPOUTS = "time_pools", "dropouts"
_PREFIX = "model."  # of the paths in _Method


def fold(x: Tensor) -> Tensor:
    """(N, C, T, H, W) to (N * T, C, H, W)."""
    return x.transpose(1, 2).flatten(0, 1)


def unfold(x: Tensor, clips: int, frames: int) -> Tensor:
    """(N * T, C, H, W) to (N, C, T, H, W)."""
    return x.unflatten(0, (clips, frames)).transpose(1, 2)


class _Method(nn.Module):
    """A method of a model, called with one argument: a tracer takes every argument there is."""

    def __init__(self, model: nn.Module, method: str) -> None:
        super().__init__()
        self.model, self.method = model, method

    def forward(self, x: Tensor) -> Any:
        return getattr(self.model, self.method)(x)


class _Tracer(fx.Tracer):
    """Looks into a module only where a convolution over time is in it.

    And into those between which more than one tensor passes: what they give would be one proxy,
    which no test for a list takes for one.
    """

    def __init__(self, lists: Set[str]) -> None:
        super().__init__(autowrap_functions=tuple(_opaque_functions()))
        self.lists = lists

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if isinstance(m, TemporalConv):
            return True
        if module_qualified_name.removeprefix(_PREFIX) in self.lists:
            return False
        return not any(isinstance(part, TemporalConv) for part in m.modules())


def _opaque_functions() -> list[Any]:
    from timm.layers import get_notrace_functions

    return list(get_notrace_functions())


def trace(model: nn.Module, method: str, lists: Set[str]) -> fx.Graph:
    """What ``model.method(image)`` does, as a graph over its modules.

    Functional dropout becomes a module of ``model.dropouts``, so that it follows the mode.

    Args:
        model: a timm model in eval mode; all of it is put in train mode and back.
        method: "forward_features" or "forward_head".
        lists: paths of the modules that take or give something else than one tensor.

    Raises:
        InflationError: the method branches on values, or does different things in train and
            eval mode.
    """
    graphs = [_trace_once(model.train(mode), method, lists) for mode in (True, False)]
    if _signature(graphs[0]) != _signature(graphs[1]):
        raise InflationError(
            f"{type(model).__name__}.{method} does different things in train and eval mode; "
            "make that a module of its own"
        )
    _dropout_modules(model, graphs[1])
    return graphs[1]


def _trace_once(model: nn.Module, method: str, lists: Set[str]) -> fx.Graph:
    try:
        graph = _Tracer(lists).trace(_Method(model, method))
    except Exception as error:  # whatever the model's code raises when it meets a proxy
        raise InflationError(
            f"{type(model).__name__}.{method} can't be traced ({error}); a module that holds a "
            "convolution over time must not branch on values: choose other convolutions, by where= "
            "or last= of zoo.Temporal" + _where(error)
        ) from error
    for node in graph.nodes:
        if node.op in ("call_module", "get_attr"):
            node.target = str(node.target).removeprefix(_PREFIX)
    return graph


def _where(error: BaseException) -> str:
    trail = error.__traceback__
    line = ""
    while trail is not None:
        name = trail.tb_frame.f_code.co_filename
        if "/torch/" not in name and not name.endswith("time_graph.py"):
            line = f" ({name}:{trail.tb_lineno})"
        trail = trail.tb_next
    return line


def _signature(graph: fx.Graph) -> list[tuple[Any, ...]]:
    """A graph for comparison; the mode of functional dropouts does not count."""
    found = []
    for node in graph.nodes:
        options = {k: v for k, v in node.kwargs.items() if k != "training"}
        found.append((node.op, node.target, str(node.args), str(options)))
    return found


def _dropout_modules(model: nn.Module, graph: fx.Graph) -> None:
    for node in graph.find_nodes(op="call_function", target=F.dropout):
        if not hasattr(model, _DROPOUTS):
            model.add_module(_DROPOUTS, nn.ModuleList())
        made: Any = getattr(model, _DROPOUTS)
        rate = node.kwargs.get("p", node.args[1] if len(node.args) > 1 else 0.5)
        made.append(nn.Dropout(rate).train(model.training))
        with graph.inserting_before(node):
            name = f"{_DROPOUTS}.{len(made) - 1}"
            node.replace_all_uses_with(graph.call_module(name, node.args[:1]))
        graph.erase_node(node)


# -------------------------------------------------------------------------- time


def with_time(
    model: nn.Module, graph: fx.Graph, image: Tensor, stride: Mapping[int, int]
) -> fx.GraphModule:
    """The graph of an image model, as a module from clips to maps over time.

    Args:
        model: the modules of the graph, its TemporalConv wanting (N, C, T, H, W), all others
            (N, C, H, W).  Pools are added to it.
        graph: of one input and one output, as :func:`trace` gives it.
        image: (1, C, H, W), to learn where a stage begins.
        stride: frames that become one at the entry of a stage.

    Returns:
        (N, C, T, H, W) to (N, C', T', H', W').

    Raises:
        InflationError: stages that do not exist, or overlap; maps of different rates that meet.
    """
    pools = _place_pools(model, graph, image, stride)
    made = fx.Graph()
    clip = made.placeholder("clip")
    clips = made.call_method("size", (clip, 0))
    length = made.call_method("size", (clip, 2))
    env: dict[fx.Node, fx.Node] = {}
    frames: dict[fx.Node, fx.Node] = {}

    def over_time(target: str, x: fx.Node, count: fx.Node) -> fx.Node:
        return made.call_module(target, (made.call_function(unfold, (x, clips, count)),))

    for node in graph.nodes:
        count = _one_rate(node, frames, model) or length
        if node.op == "placeholder":
            env[node] = made.call_function(fold, (clip,))
        elif node.op == "output":
            made.output(made.call_function(unfold, (env[node.args[0]], clips, count)))
            continue
        elif _looks_at_time(model, node):
            env[node] = made.call_function(
                fold, (over_time(node.target, env[node.args[0]], count),)
            )
        else:
            env[node] = made.node_copy(node, env.__getitem__)
        if node in pools:
            pooled = over_time(pools[node], env[node], count)
            count = made.call_method("size", (pooled, 2))
            env[node] = made.call_function(fold, (pooled,))
        if node.op == "placeholder" or any(x in frames for x in node.all_input_nodes):
            frames[node] = count  # what is made of parameters alone has none
    made.lint()
    return fx.GraphModule(model, made, type(model).__name__ + "OverTime")


def _looks_at_time(model: nn.Module, node: fx.Node) -> bool:
    return node.op == "call_module" and isinstance(
        model.get_submodule(str(node.target)), TemporalConv
    )


def _one_rate(node: fx.Node, frames: dict[fx.Node, fx.Node], model: nn.Module) -> fx.Node | None:
    found = {frames[x] for x in node.all_input_nodes if x in frames}
    if len(found) > 1:
        raise InflationError(
            f"{node.name} of {type(model).__name__} joins maps from before and after a temporal "
            "stride; stride at another stage"
        )
    return found.pop() if found else None


# ------------------------------------------------------------------------- stride


class _Heights(fx.Interpreter):
    """Runs a graph on an image, and keeps the height of every map."""

    def __init__(self, model: nn.Module, graph: fx.Graph) -> None:
        super().__init__(model, graph=graph)
        self.heights: dict[fx.Node, int] = {}

    def call_module(self, target: Any, args: Any, kwargs: Any) -> Any:
        if isinstance(self.fetch_attr(target), TemporalConv):  # a clip of one frame
            return super().call_module(target, (args[0].unsqueeze(2),), kwargs).squeeze(2)
        return super().call_module(target, args, kwargs)

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if isinstance(result, Tensor) and result.dim() == 4 and n.op != "get_attr":
            self.heights[n] = result.shape[-2]
        return result


def _place_pools(
    model: nn.Module, graph: fx.Graph, image: Tensor, stride: Mapping[int, int]
) -> dict[fx.Node, str]:
    """Behind which node each pool comes, and its path in the model."""
    wanted = {stage: factor for stage, factor in sorted(stride.items()) if factor > 1}
    if not wanted:
        return {}
    reader = _Heights(model, graph)
    reader.run(image)
    # Maps of one pixel are a gate's, not a stage's.
    stages = {node: stage_of(image, h) for node, h in reader.heights.items() if h > 1}
    narrow = list(_necks(graph))
    pools: dict[fx.Node, str] = {}
    made = nn.ModuleDict()
    for stage, factor in wanted.items():
        entry = _entry(type(model).__name__, stage, stages, narrow)
        made[str(stage)] = nn.MaxPool3d((factor, 1, 1))
        pools[entry] = f"{_POOLS}.{stage}"
    model.add_module(_POOLS, made)
    return pools


def _entry(name: str, stage: int, stages: dict[fx.Node, int], narrow: list[fx.Node]) -> fx.Node:
    order = list(stages)
    at = next((i for i, node in enumerate(order) if stages[node] == stage), None)
    if at is None:
        known = ", ".join(map(str, sorted(set(stages.values()))))
        raise InflationError(f"{name} has no stage {stage} to stride at: it has {known}")
    before = set(order[:at])
    entry = next((node for node in reversed(narrow) if node in before), None)
    if entry is None or stages[entry] != stages[order[at - 1]]:
        raise InflationError(
            f"stage {stage} of {name} begins beside an earlier one, so that time can't be strided "
            "between the two; stride at another stage"
        )
    return entry


def _necks(graph: fx.Graph) -> Iterator[fx.Node]:
    """The nodes through which everything passes that is made of the image."""
    place = {node: i for i, node in enumerate(graph.nodes)}
    made: set[fx.Node] = set()
    reach = -1  # the last node that uses anything seen so far
    for node, i in place.items():
        if node.op != "placeholder" and made.isdisjoint(node.all_input_nodes):
            continue
        made.add(node)
        if reach <= i:
            yield node
        reach = max([reach, *(place[user] for user in node.users)])
