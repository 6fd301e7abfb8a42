"""Hypothesis strategies that draw temporal module graphs, and what they build.

A graph is plain data (a *spec*: dicts, lists, numbers, strings), so that a failing
example prints, shrinks and can be pasted into a test:

    {"dims": 1, "channels": 2,
     "nodes": [{"op": "conv", "in": [0], "out": 3, "k": 3, "stride": 2, ...}, ...]}

Value 0 is the input; value i + 1 is what node i gives; the last node's value is
the output. ``dims`` is 1 for features (N, C, T), 3 for videos (N, C, T, H, W) with
H = W = `SPACE`. Time is axis 2 everywhere.

``build(spec, seed)`` makes the module, ``length(spec, frames)`` and
``minimum_frames(spec)`` compute lengths by formula, without torch running. All of
those work without Hypothesis; only drawing (`graphs`, `chunkings`) needs it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

try:
    from hypothesis import strategies as st
except ImportError:  # an optional dependency: only drawing needs it
    st = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from hypothesis.strategies import DrawFn, SearchStrategy

Spec = dict[str, Any]
Node = dict[str, Any]

#: Height and width of the videos that a spec with ``dims`` 3 takes.
SPACE = 4
MAX_NODES = 12
MAX_CHANNELS = 6
#: A graph that needs more frames than this to give anything is not drawn.
MAX_MINIMUM = 40
#: Lengths are compared up to here; beyond, every op's length is periodic in T.
HORIZON = 200


# ---------------------------------------------------------------------- modules


def _triple(dims: int, time: int, space: int) -> Any:
    return time if dims == 1 else (time, space, space)


class PaddedConv(nn.Module):
    """``F.pad`` along time in any mode, then a convolution that pads no time.

    Mode "first" spells replicate padding on the left as a ``cat`` of the first
    frame, as causal video autoencoders do. (N, C, T, …) -> (N, C', T', …).
    """

    temporal = True

    def __init__(self, conv: nn.Module, node: Node, dims: int) -> None:
        super().__init__()
        self.conv = conv
        self.left, self.right = node["pad"]
        self.mode, self.value = node["mode"], node["value"]
        self.space = (0, 0) * (dims - 1)

    def forward(self, x: Tensor) -> Tensor:
        if self.mode == "first":
            x = torch.cat([x[:, :, :1]] * self.left + [x], dim=2)
        elif self.mode == "constant":
            x = F.pad(x, (*self.space, self.left, self.right), value=self.value)
        else:
            x = F.pad(x, (*self.space, self.left, self.right), mode=self.mode)
        return self.conv(x)


class Slice(nn.Module):
    """``x[:, :, start::step]``. (N, C, T, …) -> (N, C, ceil((T - start) / step), …)."""

    temporal = True

    def __init__(self, start: int, step: int) -> None:
        super().__init__()
        self.start, self.step = start, step

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, self.start :: self.step]


class Shift(nn.Module):
    """Temporal shift by ``cat`` of slices: some channels look back, some ahead.

    What has no neighbour is zero or, with ``fill`` "edge", the end frame again.
    (N, C, T, …) -> the same shape.
    """

    temporal = True

    def __init__(self, back: int, ahead: int, fill: str) -> None:
        super().__init__()
        self.back, self.ahead, self.fill = back, ahead, fill

    def forward(self, x: Tensor) -> Tensor:
        first, last = x[:, :, :1], x[:, :, -1:]
        if self.fill == "zeros":
            first, last = torch.zeros_like(first), torch.zeros_like(last)
        b, a = self.back, self.back + self.ahead
        pieces = []
        if self.back:
            pieces.append(torch.cat([first[:, :b], x[:, :b, :-1]], dim=2))
        if self.ahead:
            pieces.append(torch.cat([x[:, b:a, 1:], last[:, b:a]], dim=2))
        if a < x.shape[1]:
            pieces.append(x[:, a:])
        return torch.cat(pieces, dim=1)


class Resample(nn.Module):
    """Upsampling along time alone. (N, C, T, …) -> (N, C, scale * T, …)."""

    temporal = True

    def __init__(self, dims: int, scale: int, mode: str) -> None:
        super().__init__()
        self.scale: Any = float(scale) if dims == 1 else (float(scale), 1.0, 1.0)
        self.mode = mode if mode == "nearest" else {1: "linear", 3: "trilinear"}[dims]

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=self.scale, mode=self.mode)


class Scale(nn.Module):
    """One learned factor per channel. Shape in = shape out."""

    def __init__(self, dims: int, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels, *[1] * dims))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight


class Join(nn.Module):
    """add, mul or cat (channels) of values of equal length. Shapes as torch has them."""

    temporal_join = True

    def __init__(self, op: str) -> None:
        super().__init__()
        self.op = op

    def forward(self, *values: Tensor) -> Tensor:
        if self.op == "cat":
            return torch.cat(values, dim=1)
        result = values[0]
        for value in values[1:]:
            result = result + value if self.op == "add" else result * value
        return result


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
            _triple(dims, node["k"], space),
            stride=_triple(dims, node["stride"], 1),
            padding=pad if isinstance(pad, str) else _triple(dims, pad, space // 2),
            dilation=_triple(dims, node["dilation"], 1),
            groups=node["groups"],
            bias=node["bias"],
        )
        return PaddedConv(conv, node, dims) if "pad" in node else conv
    if op == "transposed":
        return (nn.ConvTranspose1d if dims == 1 else nn.ConvTranspose3d)(
            channels,
            node["out"],
            _triple(dims, node["k"], 1),
            stride=_triple(dims, node["stride"], 1),
            padding=_triple(dims, node["padding"], 0),
            output_padding=_triple(dims, node["extra"], 0),
        )
    if op in ("max", "avg", "lp"):
        options: dict[str, Any] = {
            "kernel_size": _triple(dims, node["k"], 1),
            "stride": _triple(dims, node["stride"], 1),
            "ceil_mode": node["ceil"],
        }
        if op == "lp":
            return (nn.LPPool1d if dims == 1 else nn.LPPool3d)(2.0, **options)
        options["padding"] = _triple(dims, node["padding"], 0)
        if op == "avg":
            options["count_include_pad"] = node["include"]
            return (nn.AvgPool1d if dims == 1 else nn.AvgPool3d)(**options)
        options["dilation"] = _triple(dims, node["dilation"], 1)
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
                fan = p[0].numel() if name == "weight" and p.dim() > 2 else 1
                positive = isinstance(module, (nn.BatchNorm1d, nn.BatchNorm3d)) and name == "weight"
                p.copy_(size if positive else size * sign / fan**0.5)
            if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm3d)):
                assert module.running_mean is not None and module.running_var is not None
                shape = module.running_mean.shape
                module.running_mean.copy_(torch.randn(shape, generator=generator, dtype=dtype) / 2)
                module.running_var.copy_(torch.rand(shape, generator=generator, dtype=dtype) + 0.5)
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
        raise ValueError(f"the graph takes no video of {horizon} frames")
    return least


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
    """Names of the operators in the graph, a join by what it does ("add", "cat", "mul")."""
    return {n["how"] if n["op"] == "join" else n["op"] for n in spec["nodes"]}


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

    ReLU and max pooling may drop what differs, and so may a product with the zeros
    that a shift brings in.
    """
    names = ops(spec)
    zeros = any(n.get("fill") == "zeros" for n in spec["nodes"])
    return not names & {"relu", "max"} and not ("mul" in names and zeros)


# ---------------------------------------------------------------------- drawing


def _hypothesis() -> Any:
    if st is None:
        raise ImportError(
            "drawing random graphs needs Hypothesis, which is not installed: "
            "pip install hypothesis (or the `dev` extra)"
        )
    return st


class _Drawing:
    """One graph while it is drawn: appends nodes that stay legal, drops the others."""

    def __init__(self, draw: DrawFn, dims: int, max_nodes: int) -> None:
        self.draw, self.dims = draw, dims
        self.spec: Spec = {"dims": dims, "channels": self.number(1, 4), "nodes": []}
        self.room = self.number(1, max_nodes)
        #: known[T - 1] are the lengths of all values for a video of T frames
        self.known: list[list[int | None]] = [[t] for t in range(1, HORIZON + 1)]

    # ------------------------------------------------ small words
    def number(self, low: int, high: int) -> int:
        return int(self.draw(st.integers(low, high)))

    def one_of(self, *choices: Any) -> Any:
        return self.draw(st.sampled_from(choices))

    def left(self) -> int:
        return self.room - len(self.spec["nodes"])

    def channels(self, value: int) -> int:
        return channel_counts(self.spec)[value]

    def append(self, node: Node) -> int | None:
        """The new value, or None and nothing appended where the graph would not do."""
        column = [_length_of(self.dims, node, known) for known in self.known]
        last = [n for n in column if n is not None]
        least = 1
        for frames in range(HORIZON, 0, -1):
            if column[frames - 1] is None:
                least = frames + 1
                break
        # A longer video than any test draws must stay affordable too.
        if least > MAX_MINIMUM or max(last) > 6 * HORIZON or last[-1] < HORIZON // 32:
            return None
        for known, n in zip(self.known, column, strict=True):
            known.append(n)
        self.spec["nodes"].append(node)
        return len(self.spec["nodes"])

    def forget(self, keep: int) -> None:
        """Takes back all nodes but the first `keep`."""
        del self.spec["nodes"][keep:]
        for known in self.known:
            del known[keep + 1 :]

    # ------------------------------------------------ one operator
    def operator(self, source: int, stride: int | None = None) -> int | None:
        """Any operator; with `stride`, one of length ceil(n / stride)."""
        c = self.channels(source)
        if stride is not None:
            kinds = ["conv", "conv", "conv", "pool"]
            if stride == 1:
                kinds += ["point", "shift"]
            elif stride < 4:
                kinds += ["slice"]
            node = getattr(self, "_" + self.one_of(*kinds))(c, stride)
        else:
            kinds = ["conv"] * 4 + ["pool"] * 2
            kinds += ["point", "slice", "shift", "transposed", "resample"]
            node = getattr(self, "_" + self.one_of(*kinds))(c, None)
        return self.append({"op": node.pop("op"), "in": [source], **node})

    def _conv(self, c: int, stride: int | None) -> Node:
        exact = stride is not None  # length must be ceil(n / stride): pads fill the window
        s = stride if stride is not None else self.one_of(1, 1, 1, 2, 3, 4)
        k = self.one_of(3, 1, 2, 3, 4, 5, 6, 7)
        d = self.one_of(1, 1, 2, 3)
        out = self.number(1, MAX_CHANNELS)
        groups = self.one_of(*[g for g in (1, 2, 3) if c % g == 0 and out % g == 0])
        fill = (k - 1) * d
        node: Node = {
            "op": "conv", "out": out, "k": k, "stride": s, "dilation": d, "groups": groups,
            "bias": self.draw(st.booleans()), "space": 1, "padding": 0,
        }  # fmt: skip
        how = ["pad"] if fill else ["number"]
        if fill % 2 == 0 or not exact:
            how += ["number"] * 3
        if s == 1:
            how += ["same"]
        if not exact:
            how += ["valid"]
        way = self.one_of(*how)
        if way in ("number", "same") and self.dims == 3:
            node["space"] = self.one_of(1, 3)
        if way == "number":
            node["padding"] = fill // 2 if exact else self.number(0, fill)
        elif way == "pad":
            node.update(self._pad(fill, exact))
        else:
            node["padding"] = way
        return node

    def _pad(self, fill: int, exact: bool) -> Node:
        """Left and right padding before a convolution: causal, anticausal or mixed."""
        total = fill if exact else self.number(1, fill)
        left = self.one_of(total, total, 0, self.number(0, total))
        mode = self.one_of("constant", "constant", "replicate", "reflect", "first")
        if mode == "first":
            left = total
        value = self.one_of(0.0, 0.0, 0.75) if mode == "constant" else 0.0
        return {"pad": [left, total - left], "mode": mode, "value": value}

    def _pool(self, c: int, stride: int | None) -> Node:
        kind = self.one_of("max", "avg", "max", "avg", "lp")
        k = self.one_of(2, 3, 4, 5)
        node: Node = {"op": kind, "k": k, "stride": self.number(1, 4)}
        node["ceil"] = self.draw(st.booleans())
        if stride is not None:
            node["stride"] = stride
            if kind == "lp" or k % 2 == 0:  # tiles, the last one cut short
                k = node["k"] = stride
                node["ceil"], node["padding"] = True, 0
            else:
                node["ceil"], node["padding"] = False, k // 2
        if kind == "lp":
            node.pop("padding", None)
            return node
        node.setdefault("padding", self.number(0, k // 2))
        if kind == "avg":
            node["include"] = self.draw(st.booleans())
        else:
            node["dilation"] = 1 if stride is not None else self.one_of(1, 1, 2)
        return node

    def _transposed(self, c: int, stride: int | None) -> Node:
        s = self.number(1, 3)
        k = self.number(1, 5)
        padding = self.number(0, (k - 1) // 2)
        extra = self.number(0, s - 1)
        return {
            "op": "transposed", "out": self.number(1, MAX_CHANNELS), "k": k, "stride": s,
            "padding": padding, "extra": extra,
        }  # fmt: skip

    def _resample(self, c: int, stride: int | None) -> Node:
        mode = self.one_of("nearest", "linear")
        return {"op": "resample", "scale": self.one_of(2, 3), "mode": mode}

    def _slice(self, c: int, stride: int | None) -> Node:
        if stride is not None:
            return {"op": "slice", "start": 0, "step": stride}
        return self.one_of(
            {"op": "slice", "start": self.number(1, 3), "step": 1},
            {"op": "slice", "start": 0, "step": self.number(2, 3)},
        )

    def _shift(self, c: int, stride: int | None) -> Node:
        back = self.number(0, c)
        ahead = self.number(0 if back else 1, max(c - back, 0 if back else 1))
        return {"op": "shift", "back": back, "ahead": ahead, "fill": self.one_of("zeros", "edge")}

    def _point(self, c: int, stride: int | None) -> Node:
        return {"op": self.one_of("relu", "gelu", "norm", "dropout", "scale")}

    # ------------------------------------------------ branches that rejoin
    def branch(self, source: int, stride: int, most: int) -> int:
        """Operators of total temporal stride `stride`, at most `most` of them."""
        value = source
        strides = self.one_of(*{1: [[1], [1, 1]], 2: [[2], [1, 2], [2, 1]],
                                3: [[3], [1, 3]], 4: [[4], [2, 2], [1, 4]]}[stride])  # fmt: skip
        for s in strides[:most] if len(strides) <= most else [stride]:
            after = self.operator(value, s)
            value = value if after is None else after
        return value

    def rejoin(self, source: int) -> int | None:
        """Two or three branches and their join, or None and nothing appended.

        Branches may differ in kernel, padding, and in how they come by their
        stride; the join stands only where their lengths agree for every T.
        """
        keep = len(self.spec["nodes"])
        up = self.left() >= 4 and self.draw(st.integers(0, 4)) == 0
        if up:
            ends = self._upsampled(source)
        else:
            stride = self.one_of(1, 1, 1, 2, 2, 3, 4)
            count = 3 if self.left() >= 7 and self.draw(st.booleans()) else 2
            most = 2 if self.left() >= 2 * count + 2 else 1
            ends = [self.branch(source, stride, most) for _ in range(count - 1)]
            # A residual keeps its input as it is.
            plain = stride == 1 and self.draw(st.booleans())
            ends.append(source if plain else self.branch(source, stride, most))
        joined = self.join(ends) if len(set(ends)) > 1 and self._agree(ends) else None
        if joined is None:
            self.forget(keep)
        return joined

    def _upsampled(self, source: int) -> list[int]:
        """Interpolation beside a transposed convolution of the same rate."""
        c, s = self.channels(source), self.one_of(2, 3)
        k, padding, extra = self.one_of(*{2: [(2, 0, 0), (4, 1, 0), (3, 1, 1)],
                                          3: [(3, 0, 0), (5, 1, 0), (2, 0, 1)]}[s])  # fmt: skip
        learned = self.append({
            "op": "transposed", "in": [source], "out": c, "k": k, "stride": s,
            "padding": padding, "extra": extra,
        })  # fmt: skip
        plain = self.append({"in": [source], **self._resample(c, None), "scale": s})
        return [v for v in (learned, plain) if v is not None]

    def _agree(self, ends: list[int]) -> bool:
        """The values have equal lengths wherever all of them have one, for every T."""
        for known in self.known:
            found = [known[v] for v in ends]
            if None not in found and len(set(found)) > 1:
                return False
        return True

    def join(self, ends: list[int]) -> int | None:
        counts = [self.channels(v) for v in ends]
        ways = ["add", "add", "add", "mul"]
        if sum(counts) <= MAX_CHANNELS:
            ways += ["cat"] * 3
        how = self.one_of(*ways)
        if how != "cat":  # bring all to the same number of channels
            for i, value in enumerate(ends):
                if counts[i] != counts[-1]:
                    moved = self.append({
                        "op": "conv", "in": [value], "out": counts[-1], "k": 1, "stride": 1,
                        "dilation": 1, "groups": 1, "bias": True, "space": 1, "padding": 0,
                    })  # fmt: skip
                    if moved is None:
                        return None
                    ends[i] = moved
        if len(self.spec["nodes"]) >= MAX_NODES:
            return None
        return self.append({"op": "join", "how": how, "in": list(ends)})

    def whole(self) -> Spec:
        value, misses = 0, 0
        while self.left() > 0 and misses < 4:
            rejoins = self.left() >= 3 and self.draw(st.integers(0, 2)) == 0
            after = self.rejoin(value) if rejoins else self.operator(value)
            misses += after is None
            value = value if after is None else after
        if not self.spec["nodes"]:
            self.append({"in": [0], **self._point(self.spec["channels"], None)})
        return self.spec


def graphs(
    dims: Sequence[int] = (1, 1, 3),
    max_nodes: int = MAX_NODES,
    accept: Callable[[Spec], bool] | None = None,
) -> SearchStrategy[Spec]:
    """Specs of random graphs; `dims` is drawn from, `accept` filters (as `generic`)."""
    s = _hypothesis()

    def whole(draw: DrawFn) -> Spec:
        return _Drawing(draw, draw(s.sampled_from(list(dims))), max_nodes).whole()

    drawn = s.composite(whole)()
    return drawn.filter(accept) if accept is not None else drawn


def chunkings(total: int, max_len: int | None = None) -> SearchStrategy[list[int]]:
    """Lists of chunk lengths >= 1 that sum to `total`, none longer than `max_len`."""
    s = _hypothesis()
    longest = total if max_len is None else max_len

    def cut(draw: DrawFn) -> list[int]:
        chunks: list[int] = []
        left = total
        while left:
            chunks.append(draw(s.integers(1, min(longest, left))))
            left -= chunks[-1]
        return chunks

    return s.composite(cut)()
