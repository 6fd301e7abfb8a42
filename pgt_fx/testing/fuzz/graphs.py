"""Temporal module graphs from plain data, and what is known of them without running them.

A graph is plain data (a *spec*: dicts, lists, numbers, strings), so that a failing one prints as
something that can be pasted into a test. Value 0 is the input; value i + 1 is what node i gives;
the last node's value is the output. Features are (N, C, T), videos (N, C, T, H, W) with
H = W = `SPACE`; time is axis 2 everywhere. :mod:`pgt_fx.testing.fuzz.strategies` draws such graphs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pgt_fx.core.counts import counted
from pgt_fx.testing.fuzz.modules import (
    ROWS,
    Attention,
    Branch,
    Join,
    Node,
    PaddedConv,
    Positions,
    Resample,
    Scale,
    Scan,
    Shift,
    Slice,
    asked,
    triple,
)

Spec = dict[str, Any]

#: Height and width of the videos that a spec with ``dims`` 3 takes.
SPACE = 4
MAX_NODES = 12
MAX_CHANNELS = 6
#: A graph that needs more frames than this to give anything is not drawn.
MAX_MINIMUM = 40
#: Lengths are compared up to here; beyond, every op's length is periodic in T.
HORIZON = 200


class Graph(nn.Module):
    """The module of a spec. (N, C, T) or (N, C, T, H, W) -> the same rank."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        channels = channel_counts(spec)
        self.inputs = [list(n["in"]) for n in spec["nodes"]]
        self.nodes = nn.ModuleList(
            _module(n, spec["dims"], channels[n["in"][0]]) for n in spec["nodes"]
        )

    def forward(self, x: Tensor) -> Tensor:
        values = [x]
        for module, sources in zip(self.nodes, self.inputs, strict=True):
            values.append(module(*(values[i] for i in sources)))
        return values[-1]


def _module(node: Node, dims: int, channels: int) -> nn.Module:
    """The module of one node that is given `channels` channels."""
    op = node["op"]
    if op == "conv":
        space, pad = node["space"], node["padding"]
        conv = (nn.Conv1d if dims == 1 else nn.Conv3d)(
            channels,
            node["out"],
            triple(dims, node["k"], space),
            stride=triple(dims, node["stride"], 1),
            padding=pad if isinstance(pad, str) else triple(dims, pad, space // 2),
            dilation=triple(dims, node["dilation"], 1),
            groups=node["groups"],
            bias=node["bias"],
        )
        return PaddedConv(conv, node, dims) if "pad" in node else conv
    if op == "transposed":
        return (nn.ConvTranspose1d if dims == 1 else nn.ConvTranspose3d)(
            channels,
            node["out"],
            triple(dims, node["k"], 1),
            stride=triple(dims, node["stride"], 1),
            padding=triple(dims, node["padding"], 0),
            output_padding=triple(dims, node["extra"], 0),
        )
    if op in ("max", "avg", "lp"):
        options: dict[str, Any] = {
            "kernel_size": triple(dims, node["k"], 1),
            "stride": triple(dims, node["stride"], 1),
            "ceil_mode": node["ceil"],
        }
        if op == "lp":
            return (nn.LPPool1d if dims == 1 else nn.LPPool3d)(2.0, **options)
        options["padding"] = triple(dims, node["padding"], 0)
        if op == "avg":
            options["count_include_pad"] = node["include"]
            return (nn.AvgPool1d if dims == 1 else nn.AvgPool3d)(**options)
        options["dilation"] = triple(dims, node["dilation"], 1)
        return (nn.MaxPool1d if dims == 1 else nn.MaxPool3d)(**options)
    make: dict[str, Callable[[], nn.Module]] = {
        "resample": lambda: Resample(dims, node["scale"], node["mode"]),
        "slice": lambda: Slice(node["start"], node["step"]),
        "shift": lambda: Shift(node["back"], node["ahead"], node["fill"]),
        "relu": nn.ReLU,
        "gelu": nn.GELU,
        "norm": lambda: (nn.BatchNorm1d if dims == 1 else nn.BatchNorm3d)(channels),
        "dropout": lambda: nn.Dropout(0.5),
        "scale": lambda: Scale(dims, channels),
        "join": lambda: Join(node["how"]),
        "scan": lambda: Scan(node["how"], channels),
        "branch": lambda: Branch(node["ask"]),
        "positions": lambda: Positions(node["how"], channels, dims),
        "attention": lambda: Attention(node["how"], channels),
    }
    return make[op]()


def build(spec: Spec, seed: int = 0, dtype: torch.dtype = torch.float64) -> Graph:
    """The module of `spec` in eval mode, every parameter and statistic drawn from `seed`.

    Weights keep the scale of what passes through, and none is near zero: whatever
    a window reads shows in what it gives.
    """
    model = Graph(spec).to(dtype).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            for name, p in module.named_parameters(recurse=False):
                size = torch.rand(p.shape, generator=generator, dtype=dtype) + 0.5
                sign = torch.randint(0, 2, p.shape, generator=generator).to(dtype) * 2 - 1
                fan = p[0].numel() if name == "weight" and p.dim() > 1 else 1
                positive = isinstance(module, (nn.BatchNorm1d, nn.BatchNorm3d)) and name == "weight"
                p.copy_(size if positive else size * sign / fan**0.5)
            if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm3d)):
                mean, var = module.get_buffer("running_mean"), module.get_buffer("running_var")
                mean.copy_(torch.randn(mean.shape, generator=generator, dtype=dtype) / 2)
                var.copy_(torch.rand(var.shape, generator=generator, dtype=dtype) + 0.5)
    return model


def video(spec: Spec, frames: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Noise that the spec's module takes: (2, C, frames) or (2, C, frames, 4, 4)."""
    space = (SPACE, SPACE) if spec["dims"] == 3 else ()
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, spec["channels"], frames, *space, generator=generator, dtype=dtype)


# ---------------------------------------------------------------------- lengths


def _windows(length: int, reach: int, stride: int) -> int | None:
    return (length - reach) // stride + 1 if length >= reach else None


def _pool_length(node: Node, n: int) -> int | None:
    pad, stride = node.get("padding", 0), node["stride"]
    span = n + 2 * pad - node.get("dilation", 1) * (node["k"] - 1) - 1
    if not node["ceil"]:
        return span // stride + 1 if span >= 0 else None
    count = -(-span // stride) + 1
    # torch drops a last window that would start in the padding on the right.
    if (count - 1) * stride >= n + pad:
        count -= 1
    return count


def _node_length(dims: int, node: Node, lengths: Sequence[int]) -> int | None:
    """Elements that `node` gives for operands of `lengths`; None where it refuses."""
    n, op = lengths[0], node["op"]
    if op == "join":
        return n if len(set(lengths)) == 1 else None
    if op == "conv":
        reach = (node["k"] - 1) * node["dilation"] + 1
        if "pad" in node:
            left, right = node["pad"]
            if node["mode"] == "reflect" and max(left, right) >= n:
                return None
            return _windows(n + left + right, reach, node["stride"])
        if node["padding"] == "same":
            return n
        pad = 0 if node["padding"] == "valid" else node["padding"]
        return _windows(n + 2 * pad, reach, node["stride"])
    if op == "transposed":
        return (n - 1) * node["stride"] - 2 * node["padding"] + node["k"] + node["extra"]
    if op in ("max", "avg", "lp"):
        if dims == 3 and op != "max" and n < node["k"]:
            return None  # torch's 3-D average wants a whole kernel before any padding
        return _pool_length(node, n)
    if op == "resample":
        return n * node["scale"]
    if op == "slice":
        return -(-(n - node["start"]) // node["step"])
    if op in ("positions", "attention") and n > ROWS // 2:
        return None  # a table may end there
    return n


def _length_of(dims: int, node: Node, known: Sequence[int | None]) -> int | None:
    """Elements that `node` gives for values of the lengths `known`; None where refused."""
    given = [n for i in node["in"] if (n := known[i]) is not None]
    if len(given) < len(node["in"]):
        return None
    n = _node_length(dims, node, given)
    return n if n is not None and n > 0 else None


def lengths(spec: Spec, frames: int) -> list[int | None]:
    """Elements along time of every value for a video of `frames`; None where refused."""
    known: list[int | None] = [frames if frames > 0 else None]
    for node in spec["nodes"]:
        known.append(_length_of(spec["dims"], node, known))
    return known


def length(spec: Spec, frames: int) -> int | None:
    """Elements along time of the output; None where the module refuses `frames`."""
    known = lengths(spec, frames)
    return None if None in known else known[-1]


def minimum_frames(spec: Spec, horizon: int = HORIZON) -> int:
    """The smallest T that the module takes such that it takes all larger T too."""
    least = horizon + 1
    for frames in range(horizon, 0, -1):
        if length(spec, frames) is None:
            break
        least = frames
    if least > horizon:
        raise ValueError(f"the graph takes no video of {counted(horizon, 'frame')}")
    return least


def example_frames(spec: Spec) -> int:
    """A length at which no value has fewer than four elements: a capture fixes sizes of 1."""
    frames = minimum_frames(spec) + 16
    while min(n or 0 for n in lengths(spec, frames)) < 4:
        frames += 1
    return frames


def way(spec: Spec, frames: int) -> list[bool]:
    """The answers that the graph's branches get for a video of `frames`, one after the other."""
    known = lengths(spec, frames)
    return [
        bool(asked(node["ask"], known[node["in"][0]] or 0))
        for node in spec["nodes"]
        if node["op"] == "branch"
    ]


def channel_counts(spec: Spec) -> list[int]:
    """Channels of every value."""
    channels = [spec["channels"]]
    for node in spec["nodes"]:
        given = [channels[i] for i in node["in"]]
        if node["op"] == "join" and node["how"] == "cat":
            channels.append(sum(given))
        else:
            channels.append(node.get("out", given[0]))
    return channels


def ops(spec: Spec) -> set[str]:
    """Names of the operators in the graph, joins and scans by what they do ("add", "gru")."""
    return {n["how"] if n["op"] in ("join", "scan") else n["op"] for n in spec["nodes"]}


def picky(spec: Spec) -> bool:
    """Some module refuses inputs that its window arithmetic could answer.

    Reflection wants more elements than it mirrors, and torch's 3-D average a whole
    kernel. What a step gives when it is that short is not defined by the model.
    """
    return any(
        n.get("mode") == "reflect" or (spec["dims"] == 3 and n["op"] in ("avg", "lp"))
        for n in spec["nodes"]
    )


def generic(spec: Spec) -> bool:
    """With generic weights, a value that can differ does differ, all through the graph.

    ReLU and max pooling may drop what differs, so may a product with the zeros that a shift
    brings in; a recurrent layer forgets, and so does attention.
    """
    names = ops(spec)
    zeros = any(n.get("fill") == "zeros" for n in spec["nodes"])
    return not names & {"relu", "max", "gru", "lstm", "attention"} and not (
        "mul" in names and zeros
    )
