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

from pgt_fx.testing.fuzz.graphs import (
    HORIZON,
    MAX_CHANNELS,
    MAX_MINIMUM,
    MAX_NODES,
    SPACE,
    Graph,
    Node,
    Spec,
    _length_of,
    build,
    channel_counts,
    example_frames,
    generic,
    length,
    lengths,
    minimum_frames,
    ops,
    picky,
    video,
    way,
)

try:
    from hypothesis import strategies as st
except ImportError:  # an optional dependency: only drawing needs it
    st = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from hypothesis.strategies import DrawFn, SearchStrategy

__all__ = [
    "HORIZON",
    "MAX_CHANNELS",
    "MAX_MINIMUM",
    "MAX_NODES",
    "SPACE",
    "Graph",
    "Node",
    "Spec",
    "build",
    "channel_counts",
    "chunkings",
    "example_frames",
    "generic",
    "graphs",
    "length",
    "lengths",
    "minimum_frames",
    "ops",
    "picky",
    "video",
    "way",
]


def _hypothesis() -> Any:
    if st is None:
        raise ImportError(
            "drawing random graphs needs Hypothesis, which is not installed: "
            "pip install hypothesis (or the `dev` extra)"
        )
    return st


class _Drawing:
    """One graph while it is drawn: appends nodes that stay legal, drops the others."""

    def __init__(self, draw: DrawFn, dims: int, max_nodes: int, more: Sequence[str]) -> None:
        self.draw, self.dims, self.more = draw, dims, more
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
                kinds += ["point", "shift", "scan", *self.more]
            elif stride < 4:
                kinds += ["slice"]
            node = getattr(self, "_" + self.one_of(*kinds))(c, stride)
        else:
            kinds = ["conv"] * 4 + ["pool"] * 2
            kinds += ["point", "slice", "shift", "scan", "transposed", "resample", *self.more]
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

    def _scan(self, c: int, stride: int | None) -> Node:
        return {"op": "scan", "how": self.one_of("sum", "gru", "lstm")}

    def _branch(self, c: int, stride: int | None) -> Node:
        m = self.number(2, 5)
        ask = self.one_of(
            ["<", self.number(2, 60)],
            ["==", self.number(2, 60)],
            ["%", m, self.number(0, m - 1)],
            ["//", self.number(3, 40), self.number(0, 1)],
        )
        return {"op": "branch", "ask": ask}

    def _positions(self, c: int, stride: int | None) -> Node:
        return {"op": "positions", "how": self.one_of("rows", "cos", "decay")}

    def _attention(self, c: int, stride: int | None) -> Node:
        how = self.one_of("tril", "window", "buffer", "alibi", "flag")
        return {"op": "attention", "how": how}

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
    more: Sequence[str] = (),
) -> SearchStrategy[Spec]:
    """Specs of random graphs.

    Args:
        dims: drawn from: 1 for features, 3 for videos.
        max_nodes: at most so many operators.
        accept: which graphs will do (as `generic`).
        more: operators that are drawn besides, of "branch" (Python asks for the length),
            "positions" and "attention" (causal).
    """
    s = _hypothesis()

    def whole(draw: DrawFn) -> Spec:
        return _Drawing(draw, draw(s.sampled_from(list(dims))), max_nodes, more).whole()

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
