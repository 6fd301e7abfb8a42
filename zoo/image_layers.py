"""The convolutions of an image model: where they stand, and which of them are to look at time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .temporal import InflationError, Temporal

# How timm names the projections that run beside a block's branch, often before it.
_SHORTCUTS = ("downsample", "shortcut", "skip", "c1x1_w")


@dataclass(frozen=True)
class Layer:
    """A convolution of the image model.

    Attributes:
        name: its path in the model.
        wide: whether it sees more than one pixel.
        block: path of the block that it is in; empty: in none.
        stage: log2 of the factor by which its block's smallest map is smaller than the image.
    """

    name: str
    wide: bool
    block: str
    stage: int


@dataclass(frozen=True)
class Reading:
    """What an image model does with an image.

    Attributes:
        layers: its convolutions over maps, in the order they run.
        maps: the features it gives.
        lists: paths of the modules that take or give something else than one tensor.
    """

    layers: list[Layer]
    maps: Tensor
    lists: frozenset[str]


def stage_of(image: Tensor, height: int) -> int:
    """The stage of a map so many pixels high."""
    return round(math.log2(image.shape[-2] / height))


def read(model: Any, image: Tensor) -> Reading:
    """Run ``forward_features`` of a timm model in eval mode on an image (N, C, H, W)."""
    heights: dict[str, int] = {}
    lists: set[str] = set()

    def watch(name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], out: Any) -> None:
            if not all(isinstance(x, Tensor) for x in (*args, out)):
                lists.add(name)
            elif isinstance(module, nn.Conv2d) and args[0].shape[-2:].numel() > 1:
                heights.setdefault(name, out.shape[-2])

        return hook

    modules = dict(model.named_modules())
    handles = [m.register_forward_hook(watch(name)) for name, m in modules.items()]
    try:
        with torch.no_grad():
            maps = model.forward_features(image)
    finally:
        for handle in handles:
            handle.remove()
    return Reading(_layers(modules, heights, image), maps, frozenset(lists))


def _layers(modules: dict[str, nn.Module], heights: dict[str, int], image: Tensor) -> list[Layer]:
    """Of the convolutions, in the order they run, and the heights of what they give."""
    blocks = _blocks(modules, set(heights))
    inside = {name: _block_of(name, blocks) if blocks else name for name in heights}
    lowest: dict[str, int] = {}
    for name, height in heights.items():
        lowest[inside[name]] = min(height, lowest.get(inside[name], height))
    layers = []
    for name, height in heights.items():
        low = lowest[inside[name]] if inside[name] else height
        wide = modules[name].kernel_size != (1, 1)
        layers.append(Layer(name, wide, inside[name], stage_of(image, low)))
    return layers


def _blocks(modules: dict[str, nn.Module], convs: set[str]) -> set[str]:
    weighing = [n for n, m in modules.items() if n in convs or isinstance(m, nn.Linear)]
    large = {
        name
        for name, module in modules.items()
        if name
        and not type(module).__module__.startswith(("torch.nn.", "timm.layers."))
        and sum(w.startswith(f"{name}.") for w in weighing) >= 2
        and any(c.startswith(f"{name}.") for c in convs)
    }
    return {name for name in large if not any(other.startswith(f"{name}.") for other in large)}


def _block_of(name: str, blocks: set[str]) -> str:
    return next((block for block in blocks if name.startswith(f"{block}.")), "")


def choose(layers: Sequence[Layer], temporal: Temporal) -> dict[str, int]:
    """Names of the convolutions that are to look at time, and how many frames each sees.

    Raises:
        InflationError: there are none.
    """
    chosen: dict[str, int] = {}
    stages = sorted({layer.stage for layer in layers if layer.block})
    if temporal.last is not None:
        stages = stages[-temporal.last :]
    for stage in stages if temporal.kernel > 1 else []:
        blocks = list(dict.fromkeys(x.block for x in layers if x.block and x.stage == stage))
        for block in blocks[:: temporal.every]:
            rest = [x for x in layers if x.block == block and not _on_shortcut(x)]
            if temporal.where == "first":
                rest = rest[:1]
            else:
                rest = [x for x in rest if x.wide]
            chosen |= {x.name: temporal.kernel for x in rest}
    if temporal.stem > 1 and layers:
        chosen[layers[0].name] = temporal.stem
    if not chosen:
        raise InflationError(
            f"none of its {len(layers)} convolutions is one that {temporal} lets look at time; "
            "see zoo.Temporal for which are, and choose other ones"
        )
    return chosen


def _on_shortcut(layer: Layer) -> bool:
    path = layer.name.removeprefix(layer.block)
    return any(word in path for word in _SHORTCUTS)
